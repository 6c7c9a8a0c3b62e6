//! The command `apply`.

use std::path::PathBuf;

use super::ask::Consent;
use super::connection::Connection;
use super::exit::Exit;
use super::files::read_text;
use super::output::{Color, Form, Output};
use super::plan::show;
use super::session::Session;
use crate::broker::Broker;
use crate::error::Error;
use crate::error::printable::printable;
use crate::provision::{ProvisionPlan, Risk};

/// Makes the changes on the server that `plan` shows.
#[derive(Debug, clap::Args)]
pub struct Apply {
    /// Applies the plan in a file, which `plan --out` has written, and refuses if the server has changed since
    #[arg(long, value_name = "FILE")]
    plan: Option<PathBuf>,
    /// Deletes the consumers of this program that no handler needs any more
    #[arg(long)]
    prune: bool,
    #[command(flatten)]
    form: Form,
    #[command(flatten)]
    consent: Consent,
    #[command(flatten)]
    connection: Connection,
}

impl Apply {
    pub(super) async fn run(self, session: Session) -> Result<Exit, Error> {
        let Self { plan, prune, form, consent, connection } = self;
        let saved = match &plan {
            Some(path) => {
                let json = read_text(path).await?;
                let plan = ProvisionPlan::from_json(&json);
                Some(plan.map_err(|error| error.about(&format!("`{}`", path.display())))?)
            }
            None => None,
        };
        let (broker, output) = session.connect(connection).await?;
        let plan = match saved {
            Some(plan) => Ok(plan),
            None => broker.plan().await,
        };
        let plan = plan.map(|plan| if prune { plan.prune() } else { plan });
        let applied = match plan {
            Ok(plan) => apply(&broker, &output, form, plan, consent).await,
            Err(error) => Err(error),
        };
        broker.disconnect().await.ok();
        applied
    }
}

/// Shows a plan and applies it.
async fn apply(
    broker: &Broker,
    output: &Output,
    form: Form,
    plan: ProvisionPlan,
    consent: Consent,
) -> Result<Exit, Error> {
    if form.json {
        // The standard output is for programs.
        plan.to_string().lines().for_each(|line| output.note(&printable(line)));
    } else {
        show(output, &plan)?;
    }
    plan.require_unblocked()?;
    if plan.risk() > Some(Risk::Safe) {
        consent.ask("apply these changes?").await?;
    }
    let is_changed = !plan.is_empty();
    if is_changed {
        broker.apply(&plan).await?;
    }
    if form.json {
        output.json(&plan)?;
    } else if is_changed {
        output.line(&output.colored(Color::Green, "applied"))?;
    }
    Ok(Exit::Done)
}

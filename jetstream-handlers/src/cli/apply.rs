//! The command `apply`.

use std::path::PathBuf;

use super::ask::Consent;
use super::connection::Connection;
use super::exit::Exit;
use super::files::read_text;
use super::output::{Color, Output};
use super::plan::show;
use super::session::Session;
use crate::broker::Broker;
use crate::error::Error;
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
    /// Shows the changes, and makes none
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    consent: Consent,
    #[command(flatten)]
    connection: Connection,
}

impl Apply {
    pub(super) async fn run(self, session: Session) -> Result<Exit, Error> {
        let Self { plan, prune, dry_run, consent, connection } = self;
        let saved = match &plan {
            Some(path) => {
                let json = read_text(path).await?;
                let plan = ProvisionPlan::from_json(&json);
                Some(plan.map_err(|error| error.about(&format!("`{}`", path.display())))?)
            }
            None => None,
        };
        let (broker, output) = session.connect(connection).await?;
        let applied = apply(&broker, &output, saved, prune, (!dry_run).then_some(consent)).await;
        broker.disconnect().await.ok();
        applied
    }
}

/// Shows a plan and applies it; without consent to ask for, only shows it.
async fn apply(
    broker: &Broker,
    output: &Output,
    saved: Option<ProvisionPlan>,
    prune: bool,
    consent: Option<Consent>,
) -> Result<Exit, Error> {
    let mut plan = match saved {
        Some(plan) => plan,
        None => broker.plan().await?,
    };
    if prune {
        plan = plan.prune();
    }
    show(output, &plan)?;
    let Some(consent) = consent.filter(|_| !plan.is_empty()) else { return Ok(Exit::Done) };
    if plan.risk() > Some(Risk::Safe) {
        consent.ask("apply these changes?").await?;
    }
    broker.apply(&plan).await?;
    output.line(&output.colored(Color::Green, "applied"))?;
    Ok(Exit::Done)
}

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
        let saved = match &self.plan {
            Some(path) => {
                let json = read_text(path).await?;
                let plan = ProvisionPlan::from_json(&json);
                Some(plan.map_err(|error| error.about(&format!("`{}`", path.display())))?)
            }
            None => None,
        };
        let (broker, output) = session.connect(self.connection.clone()).await?;
        let applied = self.apply(&broker, &output, saved).await;
        broker.disconnect().await.ok();
        applied
    }

    /// Shows a plan and applies it: the saved one, or that of now.
    async fn apply(&self, broker: &Broker, output: &Output, saved: Option<ProvisionPlan>) -> Result<Exit, Error> {
        let is_saved = saved.is_some();
        let plan = match saved {
            Some(plan) => plan,
            None => broker.plan().await?,
        };
        let plan = if self.prune { plan.prune() } else { plan };
        if self.form.json {
            // The standard output is for programs.
            plan.to_string().lines().for_each(|line| output.note(&printable(line)));
        } else {
            show(output, &plan)?;
        }
        plan.require_unblocked()?;
        if plan.risk() > Some(Risk::Safe) {
            self.consent.ask("apply these changes?").await?;
        }
        let is_changed = !plan.is_empty();
        // A saved plan without changes may be one of another server, or out of date.
        if is_changed || is_saved {
            broker.apply(&plan).await?;
        }
        if self.form.json {
            output.json(&plan)?;
        } else if is_changed {
            output.line(&output.colored(Color::Green, "applied"))?;
        }
        Ok(Exit::Done)
    }
}

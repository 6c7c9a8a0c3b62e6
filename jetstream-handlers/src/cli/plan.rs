//! The command `plan`.

use std::path::PathBuf;

use super::connection::Connection;
use super::exit::Exit;
use super::files::{read_text, write};
use super::output::{Color, Form, Output};
use super::session::Session;
use crate::error::Error;
use crate::error::printable::printable;
use crate::provision::ProvisionPlan;

/// Shows what has to change on the server, and changes nothing.
#[derive(Debug, clap::Args)]
pub struct Plan {
    /// Writes the plan as JSON to a file, for `apply --plan`
    #[arg(long, short, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Compares with a snapshot that `export --format json` has written, without a server
    #[arg(long, value_name = "FILE", conflicts_with_all = ["server", "context", "out"])]
    against: Option<PathBuf>,
    /// Ends with the exit code 2 if something has to change
    #[arg(long)]
    detailed_exitcode: bool,
    #[command(flatten)]
    form: Form,
    #[command(flatten)]
    connection: Connection,
}

impl Plan {
    pub(super) async fn run(self, session: Session) -> Result<Exit, Error> {
        let (plan, output) = match &self.against {
            Some(path) => {
                let snapshot = read_text(path).await?;
                let (broker, output) = session.offline();
                let plan = broker.plan_against(&snapshot).await;
                (plan.map_err(|error| error.about(&format!("`{}`", path.display())))?, output)
            }
            None => {
                let (broker, output) = session.connect(self.connection).await?;
                let plan = broker.plan().await;
                broker.disconnect().await.ok();
                (plan?, output)
            }
        };
        if let Some(path) = &self.out {
            write(Some(path), &plan.to_json(), &output)?;
        }
        if self.form.json {
            output.json(&plan)?;
        } else {
            show(&output, &plan)?;
        }
        plan.require_unblocked()?;
        Ok(if self.detailed_exitcode && !plan.is_empty() { Exit::Found } else { Exit::Done })
    }
}

/// Prints a plan for people.
pub(super) fn show(output: &Output, plan: &ProvisionPlan) -> Result<(), Error> {
    plan.to_string().lines().try_for_each(|line| {
        let line = printable(line);
        output.line(&match line.chars().next() {
            Some('+') => output.colored(Color::Green, &line),
            Some('~' | '±' | '?') => output.colored(Color::Yellow, &line),
            Some('-' | '!') => output.colored(Color::Red, &line),
            _ => line.into_owned(),
        })
    })
}

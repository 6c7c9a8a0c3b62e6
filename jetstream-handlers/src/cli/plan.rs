//! The command `plan`.

use std::path::{Path, PathBuf};

use super::connection::Connection;
use super::exit::Exit;
use super::output::{Form, Output};
use super::session::Session;
use crate::error::printable::printable;
use crate::error::{Error, ErrorKind};
use crate::provision::ProvisionPlan;

/// Shows what has to change on the server, and changes nothing.
#[derive(Debug, clap::Args)]
pub struct Plan {
    /// Writes the plan as JSON to a file, for `apply --plan`
    #[arg(long, value_name = "FILE")]
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
                let snapshot = read(path, "snapshot")?;
                let (broker, output) = session.offline();
                (broker.plan_against(&snapshot).await?, output)
            }
            None => {
                let (broker, output) = session.connect(self.connection).await?;
                let plan = broker.plan().await;
                broker.disconnect().await.ok();
                (plan?, output)
            }
        };
        if let Some(path) = &self.out {
            std::fs::write(path, plan.to_json()).map_err(|error| {
                let text = format!("the plan cannot be written to `{}`", path.display());
                Error::new(ErrorKind::Config, text).with_source(error)
            })?;
        }
        if self.form.json {
            output.json(&plan)?;
        } else {
            show(&output, &plan)?;
        }
        Ok(if self.detailed_exitcode && !plan.is_empty() { Exit::Found } else { Exit::Done })
    }
}

/// Prints a plan for people.
pub(super) fn show(output: &Output, plan: &ProvisionPlan) -> Result<(), Error> {
    plan.to_string().lines().try_for_each(|line| output.line(&printable(line)))
}

/// Reads a file that an argument names.
pub(super) fn read(path: &Path, what: &str) -> Result<String, Error> {
    std::fs::read_to_string(path).map_err(|error| {
        let text = format!("the {what} `{}` cannot be read", path.display());
        Error::new(ErrorKind::Config, text).with_source(error)
    })
}

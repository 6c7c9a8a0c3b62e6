//! The command `check`.

use serde::Serialize;

use super::connection::Connection;
use super::exit::Exit;
use super::output::{Color, Form};
use super::session::Session;
use crate::error::problem::Problem;
use crate::error::{Error, ErrorKind};

/// Finds every problem that a start would have, and starts nothing.
#[derive(Debug, clap::Args)]
pub struct Check {
    /// Checks the handlers and their settings without a server
    #[arg(long, conflicts_with_all = ["server", "context"])]
    offline: bool,
    #[command(flatten)]
    form: Form,
    #[command(flatten)]
    connection: Connection,
}

/// The document for programs.
#[derive(Serialize)]
struct Document {
    handlers: usize,
    problems: Vec<Found>,
}

#[derive(Serialize)]
struct Found {
    handler: Option<String>,
    problem: String,
}

impl From<&Problem> for Found {
    fn from(problem: &Problem) -> Self {
        Self { handler: problem.handler().map(str::to_owned), problem: problem.to_string() }
    }
}

impl Check {
    pub(super) async fn run(self, session: Session) -> Result<Exit, Error> {
        let (broker, output) = match self.offline {
            true => session.offline(),
            false => session.connect(self.connection).await?,
        };
        let handlers = broker.selected_names().len();
        let result = broker.check().await;
        broker.disconnect().await.ok();
        let problems: Vec<Found> = match &result {
            Ok(()) => Vec::new(),
            Err(error) if error.problems().is_empty() || error.kind() == ErrorKind::Closed => {
                return result.map(|()| Exit::Done);
            }
            Err(error) => error.problems().iter().map(Found::from).collect(),
        };
        let exit = if problems.is_empty() { Exit::Done } else { Exit::Found };
        if self.form.json {
            output.document(Document { handlers, problems })?;
            return Ok(exit);
        }
        for Found { problem, .. } in &problems {
            output.line(&format!("{} {problem}", output.colored(Color::Red, "problem:")))?;
        }
        let plural = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
        let summary = match problems.len() {
            0 => output.colored(Color::Green, "no problems"),
            count => plural(count, "problem"),
        };
        let offline = if self.offline { ", without a server" } else { "" };
        output.line(&format!("{summary}: {} checked{offline}", plural(handlers, "handler")))?;
        Ok(exit)
    }
}

//! The command `asyncapi diff`.

use std::path::PathBuf;

use serde::Serialize;

use super::super::connection::Connection;
use super::super::exit::Exit;
use super::super::files::read_text;
use super::super::output::{Color, Form};
use super::super::session::Session;
use super::document;
use crate::asyncapi::{Change, Severity, diff, read};
use crate::error::{Error, ErrorKind};

/// Judges what has changed since a document was written.
#[derive(Debug, clap::Args)]
pub(super) struct Diff {
    /// The earlier document, as JSON
    file: PathBuf,
    /// The least severity at which the command exits with 2: breaking is what breaks BACKWARD compatibility of received
    /// messages or FORWARD compatibility of sent ones
    #[arg(long, value_name = "SEVERITY", default_value = "breaking")]
    fail_on: FailOn,
    #[command(flatten)]
    form: Form,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum FailOn {
    Breaking,
    Dangerous,
}

/// The document for programs.
#[derive(Serialize)]
struct Document<'a> {
    changes: &'a [Change],
}

impl Diff {
    pub(super) async fn run(self, session: Session) -> Result<Exit, Error> {
        let text = read_text(&self.file).await?;
        let earlier = read(&text)
            .map_err(|error| Error::new(ErrorKind::Config, format!("`{}`: {error}", self.file.display())))?;
        let (document, output) = document(session, Connection::default()).await?;
        let changes = diff(&earlier, document.as_value());
        let limit = match self.fail_on {
            FailOn::Breaking => Severity::Breaking,
            FailOn::Dangerous => Severity::Dangerous,
        };
        let exit = if changes.iter().any(|it| it.severity >= limit) { Exit::Found } else { Exit::Done };
        if self.form.json {
            output.document(Document { changes: &changes })?;
            return Ok(exit);
        }
        for change in &changes {
            let color = match change.severity {
                Severity::Breaking => Color::Red,
                Severity::Dangerous => Color::Yellow,
                Severity::Info => Color::Green,
            };
            output.line(&output.colored(color, &change.to_string()))?;
        }
        if changes.is_empty() {
            output.line("no changes")?;
        }
        Ok(exit)
    }
}

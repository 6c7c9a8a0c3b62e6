//! The command `asyncapi`.

mod diff;

use std::path::PathBuf;

use super::connection::Connection;
use super::exit::Exit;
use super::files::write;
use super::output::Output;
use super::session::Session;
use crate::asyncapi::{AsyncApi, ServiceInfo};
use crate::error::{Error, ErrorKind};
use diff::Diff;

/// Prints a document of the service in the format AsyncAPI 3.1.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Asyncapi {
    #[command(subcommand)]
    command: Option<Command>,
    /// Prints YAML in place of JSON
    #[arg(long)]
    yaml: bool,
    /// Writes the document to a file instead of the standard output
    #[arg(short, long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Fails if the type of a payload has no JSON Schema
    #[arg(long)]
    require_schemas: bool,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Judges what has changed since a document was written
    Diff(Diff),
}

impl Asyncapi {
    pub(super) async fn run(self, session: Session) -> Result<Exit, Error> {
        if let Some(Command::Diff(diff)) = self.command {
            return diff.run(session).await;
        }
        let (document, output) = document(session, self.connection).await?;
        let without = document.without_schema();
        for payload in without {
            output.note(&format!("without a schema: {payload}; implement `JsonSchema` for the type"));
        }
        if self.require_schemas && !without.is_empty() {
            let text = format!("{} payloads have no schema: {}", without.len(), without.join(", "));
            return Err(Error::new(ErrorKind::Config, text));
        }
        let text = if self.yaml { document.to_yaml() } else { document.to_json() };
        write(self.out.as_deref(), &text, &output)?;
        Ok(Exit::Done)
    }
}

/// Returns the document of the service; none of its servers is asked.
async fn document(session: Session, connection: Connection) -> Result<(AsyncApi, Output), Error> {
    let (session, addresses) = session.addresses(connection)?;
    let version = session.version().unwrap_or("unknown").to_owned();
    let mut info = ServiceInfo::new(super::program(), version);
    for (index, address) in addresses.into_iter().enumerate() {
        info = info.server(format!("server-{}", index + 1), address);
    }
    let (broker, output) = session.offline();
    let document = broker.asyncapi(info).await?;
    Ok((document, output))
}

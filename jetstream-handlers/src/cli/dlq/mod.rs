//! The commands of dead letters, `dlq ..`.

mod change;
mod counts;
mod filters;
mod list;
mod transfer;

use clap::Subcommand;

use super::exit::Exit;
use super::session::Session;
use crate::error::Error;

/// Lists, replays and deletes dead letters.
#[derive(Debug, clap::Args)]
pub struct Dlq {
    #[command(subcommand)]
    command: Box<DlqCommand>,
}

#[derive(Debug, Subcommand)]
enum DlqCommand {
    /// Lists dead letters, the oldest first
    List(list::List),
    /// Counts the dead letters of each cause: handler, reason and error without its values
    Groups(list::Groups),
    /// Shows one dead letter with its headers and its payload
    Show(list::Show),
    /// Publishes the messages of dead letters again, then deletes these
    Replay(change::Replay),
    /// Deletes dead letters
    Purge(change::Purge),
    /// Writes dead letters as lines of JSON
    Export(transfer::Export),
    /// Stores the dead letters of a file that `export` has written
    Import(transfer::Import),
}

impl Dlq {
    pub(super) async fn run(self, session: Session) -> Result<Exit, Error> {
        match *self.command {
            DlqCommand::List(command) => command.run(session).await,
            DlqCommand::Groups(command) => command.run(session).await,
            DlqCommand::Show(command) => command.run(session).await,
            DlqCommand::Replay(command) => command.run(session).await,
            DlqCommand::Purge(command) => command.run(session).await,
            DlqCommand::Export(command) => command.run(session).await,
            DlqCommand::Import(command) => command.run(session).await,
        }
    }
}

//! The command `run`.

use super::connection::Connection;
use super::exit::Exit;
use super::session::Session;
use crate::error::Error;

/// Starts the handlers, and runs them until SIGINT or SIGTERM.
#[derive(Debug, Default, clap::Args)]
pub struct Run {
    /// Starts only the handlers of this group; may be repeated
    #[arg(long, value_name = "GROUP")]
    group: Vec<String>,
    #[command(flatten)]
    connection: Connection,
}

impl Run {
    pub(super) async fn run(self, session: Session) -> Result<Exit, Error> {
        let (broker, _) = session.connect(self.connection).await?;
        match &*self.group {
            [] => broker.run_all().await?,
            groups => broker.run_groups(groups.iter().map(String::as_str)).await?,
        }
        Ok(Exit::Done)
    }
}

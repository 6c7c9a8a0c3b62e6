//! The command `doctor`.

use super::connection::Connection;
use super::exit::Exit;
use super::output::{Color, Form};
use super::session::Session;
use crate::doctor::FindingStatus;
use crate::error::Error;

/// Examines the connection, the rights of the user, the server and the consumers, and changes nothing.
#[derive(Debug, clap::Args)]
pub struct Doctor {
    #[command(flatten)]
    form: Form,
    #[command(flatten)]
    connection: Connection,
}

impl Doctor {
    pub(super) async fn run(self, session: Session) -> Result<Exit, Error> {
        let (broker, output) = session.connect(self.connection).await?;
        let diagnosis = broker.doctor().await;
        broker.disconnect().await.ok();
        let diagnosis = diagnosis?;
        let exit = if diagnosis.status() == FindingStatus::Failed { Exit::Found } else { Exit::Done };
        if self.form.json {
            output.json(&diagnosis)?;
            return Ok(exit);
        }
        for finding in diagnosis.findings() {
            let color = match finding.status {
                FindingStatus::Ok => Color::Green,
                FindingStatus::Warning => Color::Yellow,
                FindingStatus::Failed => Color::Red,
            };
            output.line(&output.colored(color, &finding.to_string()))?;
        }
        Ok(exit)
    }
}

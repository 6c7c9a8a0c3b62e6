//! The command `doctor`.

use super::connection::Connection;
use super::exit::Exit;
use super::output::{Color, Form};
use super::session::Session;
use crate::doctor::{Finding, FindingStatus};
use crate::error::Error;
use crate::error::printable::printable;

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
        for Finding { check, status, text, fix } in diagnosis.findings() {
            let color = match status {
                FindingStatus::Ok => Color::Green,
                FindingStatus::Warning => Color::Yellow,
                FindingStatus::Failed => Color::Red,
            };
            let status = output.colored(color, &format!("{status:<7}"));
            output.line(&format!("{status} {check}: {}", printable(text)))?;
            if let Some(fix) = fix {
                output.line(&format!("        {}", printable(fix)))?;
            }
        }
        Ok(exit)
    }
}

//! The command `status`.

use std::time::Duration;

use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::connection::Connection;
use super::exit::Exit;
use super::output::{Color, Form, Output, number};
use super::session::Session;
use crate::broker::Broker;
use crate::error::Error;
use crate::observe::handler_status::HandlerStatus;

/// Shows the messages that wait for the handlers.
#[derive(Debug, clap::Args)]
pub struct Status {
    /// Shows the state again every two seconds, until the command is interrupted
    #[arg(long)]
    watch: bool,
    #[command(flatten)]
    form: Form,
    #[command(flatten)]
    connection: Connection,
}

/// The document for programs.
#[derive(Serialize)]
struct Document {
    version: u32,
    handlers: Vec<HandlerStatus>,
}

impl Status {
    /// The interval at which the state is shown again.
    const PERIOD: Duration = Duration::from_secs(2);

    pub(super) async fn run(self, session: Session) -> Result<Exit, Error> {
        let (broker, output) = session.connect(self.connection).await?;
        if !self.watch {
            let exit = show(&broker, &output, self.form).await;
            broker.disconnect().await.ok();
            return exit;
        }
        let interrupted = tokio::signal::ctrl_c();
        let watch = async {
            loop {
                if Output::is_terminal() && !self.form.json {
                    // Clears the screen, and begins at its first line.
                    output.text("\u{1b}[2J\u{1b}[H")?;
                }
                show(&broker, &output, self.form).await?;
                tokio::time::sleep(Self::PERIOD).await;
            }
        };
        tokio::select! {
            result = watch => result,
            _ = interrupted => Ok(Exit::Done),
        }
    }
}

/// Prints the state of all handlers.
async fn show(broker: &Broker, output: &Output, form: Form) -> Result<Exit, Error> {
    let handlers = broker.status().await?;
    let is_known = handlers.iter().all(|handler| handler.problem.is_none());
    let exit = if is_known { Exit::Done } else { Exit::Found };
    if form.json {
        output.json(&Document { version: 1, handlers })?;
        return Ok(exit);
    }
    let rows = handlers.iter().map(|handler| {
        let counts = handler.counts.as_ref();
        let ack_pending = number(counts.map(|counts| counts.ack_pending));
        let limit = handler.max_ack_pending.map_or(String::new(), |limit| format!("/{limit}"));
        [
            handler.handler.clone(),
            handler.stream.clone().unwrap_or_else(|| "-".to_owned()),
            handler.queue.clone(),
            number(counts.map(|counts| counts.pending)),
            if counts.is_some() { format!("{ack_pending}{limit}") } else { ack_pending },
            number(counts.map(|counts| counts.redelivered)),
            number(counts.map(|counts| counts.waiting)),
            number(handler.dead_letters),
        ]
    });
    let header = ["handler", "stream", "queue", "pending", "ack pending", "redelivered", "waiting", "dead letters"];
    output.table(&header, rows)?;
    for handler in &handlers {
        if let Some(until) = handler.paused_until {
            let until = OffsetDateTime::from(until).format(&Rfc3339).unwrap_or_default();
            let paused = output.colored(Color::Yellow, "paused");
            output.line(&format!("{}: {paused} until {until}", handler.handler))?;
        }
        if let Some(problem) = &handler.problem {
            output.line(&format!("{}: {}", handler.handler, output.colored(Color::Red, problem)))?;
        }
    }
    Ok(exit)
}

//! The command `status`.

use std::time::Duration;

use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::connection::Connection;
use super::exit::Exit;
use super::output::{Color, Form, Output, number};
use super::session::Session;
use crate::error::Error;
use crate::observe::handler_status::HandlerStatus;

/// Shows the messages that wait for the handlers.
#[derive(Debug, clap::Args)]
pub struct Status {
    /// Shows the state again every two seconds, until the command is interrupted; with `--json`, one document per line
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
    handlers: Vec<HandlerStatus>,
}

impl Status {
    /// The interval at which the state is shown again.
    const PERIOD: Duration = Duration::from_secs(2);

    pub(super) async fn run(self, session: Session) -> Result<Exit, Error> {
        let (broker, output) = session.connect(self.connection).await?;
        if !self.watch {
            let handlers = broker.status().await;
            broker.disconnect().await.ok();
            let handlers = handlers?;
            if self.form.json {
                let exit = exit(&handlers);
                output.document(Document { handlers })?;
                return Ok(exit);
            }
            return show(&output, &handlers);
        }
        let interrupted = tokio::signal::ctrl_c();
        let watch = async {
            loop {
                let handlers = broker.status().await?;
                if self.form.json {
                    output.document_line(Document { handlers })?;
                } else {
                    if Output::is_terminal() {
                        // Clears the screen, and begins at its first line.
                        output.text("\u{1b}[2J\u{1b}[H")?;
                    }
                    show(&output, &handlers)?;
                }
                tokio::time::sleep(Self::PERIOD).await;
            }
        };
        tokio::select! {
            result = watch => result,
            _ = interrupted => Ok(Exit::Done),
        }
    }
}

/// Returns the end of the command: a problem of a handler is a finding.
fn exit(handlers: &[HandlerStatus]) -> Exit {
    let is_known = handlers.iter().all(|handler| handler.problem.is_none());
    if is_known { Exit::Done } else { Exit::Found }
}

/// Prints the state of all handlers for people.
fn show(output: &Output, handlers: &[HandlerStatus]) -> Result<Exit, Error> {
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
    for handler in handlers {
        if let Some(until) = handler.paused_until {
            let until = OffsetDateTime::from(until).format(&Rfc3339).unwrap_or_default();
            let paused = output.colored(Color::Yellow, "paused");
            output.line(&format!("{}: {paused} until {until}", handler.handler))?;
        }
        if let Some(problem) = &handler.problem {
            output.line(&format!("{}: {}", handler.handler, output.colored(Color::Red, problem)))?;
        }
    }
    Ok(exit(handlers))
}

//! The commands `pause`, `resume` and `reset`.

use std::time::{Duration, SystemTime};

use super::ask::Consent;
use super::connection::Connection;
use super::exit::Exit;
use super::output::{Form, Output};
use super::session::Session;
use super::times::{duration, past, shown, time};
use crate::broker::{HandlerConsumer, Position, ResetEffect};
use crate::error::{Error, ErrorKind};

/// Pauses a handler on the server, for all its instances.
#[derive(Debug, clap::Args)]
pub struct Pause {
    /// The handler: the name of its function, the end of its path, or its queue
    handler: String,
    /// The duration of the pause, as in `10m`; the same as `--for`
    #[arg(value_name = "DURATION", value_parser = duration, conflicts_with_all = ["duration", "until"])]
    positional: Option<Duration>,
    /// The duration of the pause, as in `10m`
    #[arg(long = "for", value_name = "DURATION", value_parser = duration, conflicts_with = "until")]
    duration: Option<Duration>,
    /// The end of the pause, as in `2026-11-03T22:04:05Z`
    #[arg(long, value_name = "TIME", value_parser = time)]
    until: Option<SystemTime>,
    #[command(flatten)]
    form: Form,
    #[command(flatten)]
    connection: Connection,
}

/// Ends the pause of a handler.
#[derive(Debug, clap::Args)]
pub struct Resume {
    /// The handler: the name of its function, the end of its path, or its queue
    handler: String,
    #[command(flatten)]
    form: Form,
    #[command(flatten)]
    connection: Connection,
}

/// Moves a handler to a place in its stream, from which on it receives all messages.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("position").required(true))]
pub struct Reset {
    /// The handler: the name of its function, the end of its path, or its queue
    handler: String,
    /// Moves it to the message with this sequence
    #[arg(long, value_name = "SEQUENCE", group = "position")]
    seq: Option<u64>,
    /// Moves it to the first message stored at this time, as in `2026-11-03T22:04:05Z`, or this duration ago, as in `2h`
    #[arg(long, value_name = "TIME", value_parser = past, group = "position")]
    time: Option<SystemTime>,
    /// Moves it to the beginning of the stream
    #[arg(long, group = "position")]
    start: bool,
    /// Moves it behind the messages that have all been acknowledged
    #[arg(long, group = "position")]
    floor: bool,
    #[command(flatten)]
    consent: Consent,
    #[command(flatten)]
    form: Form,
    #[command(flatten)]
    connection: Connection,
}

impl Pause {
    pub(super) async fn run(self, session: Session) -> Result<Exit, Error> {
        let duration = self.duration.or(self.positional);
        if duration.is_none() && self.until.is_none() {
            let text = "a pause ends by itself; state when, as in `--for 10m` or `--until 2026-11-03T22:04:05Z`";
            return Err(Error::new(ErrorKind::Config, text));
        }
        let (broker, output) = session.connect_to_existing(self.connection).await?;
        let paused = match (duration, self.until) {
            (_, Some(until)) => broker.pause_until(&self.handler, until).await?,
            (duration, None) => broker.pause(&self.handler, duration.unwrap_or_default()).await?,
        };
        finish(&output, self.form, &paused)
    }
}

impl Resume {
    pub(super) async fn run(self, session: Session) -> Result<Exit, Error> {
        let (broker, output) = session.connect_to_existing(self.connection).await?;
        let resumed = broker.resume(&self.handler).await?;
        finish(&output, self.form, &resumed)
    }
}

impl Reset {
    pub(super) async fn run(self, session: Session) -> Result<Exit, Error> {
        let (position, place) = match (self.seq, self.time) {
            (Some(sequence), _) => (Position::Sequence(sequence), format!("to message {sequence}")),
            (None, Some(time)) => (Position::Time(time), format!("to {}", shown(time))),
            (None, None) if self.start => (Position::Start, "to the beginning of its stream".to_owned()),
            (None, None) => (Position::AckFloor, "behind its acknowledged messages".to_owned()),
        };
        let (broker, output) = session.connect_to_existing(self.connection).await?;
        if !self.consent.is_given() {
            let effect = broker.reset_effect(&self.handler, position).await?;
            output.note(&format!(
                "`{}` continues at message {}, and {}",
                self.handler,
                effect.place,
                described(effect)
            ));
            self.consent.ask(&format!("move `{}` {place}?", self.handler)).await?;
        }
        let reset = broker.reset(&self.handler, position).await?;
        finish(&output, self.form, &reset)
    }
}

/// Returns the words for what a handler receives after a reset.
fn described(effect: ResetEffect) -> String {
    let messages = |count: u64| format!("up to {count} message{}", if count == 1 { "" } else { "s" });
    match (effect.again, effect.skipped) {
        (0, 0) => "receives nothing again, and skips nothing".to_owned(),
        (again, 0) => format!("receives again {}", messages(again)),
        (0, skipped) => format!("skips {}", messages(skipped)),
        (again, skipped) => format!("receives again {}, and skips {}", messages(again), messages(skipped)),
    }
}

fn finish(output: &Output, form: Form, consumer: &HandlerConsumer) -> Result<Exit, Error> {
    if form.json {
        output.document(consumer)?;
    } else {
        output.line(&consumer.to_string())?;
    }
    Ok(Exit::Done)
}

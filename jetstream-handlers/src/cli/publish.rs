//! The command `publish`.

use std::path::Path;

use serde::Serialize;

use super::connection::Connection;
use super::exit::Exit;
use super::files::read_payload;
use super::output::{Form, Output};
use super::session::Session;
use crate::codec::Raw;
use crate::error::{Error, ErrorKind};
use crate::message::Message;

/// Publishes a message, if the handlers of its subject can decode it.
#[derive(Debug, clap::Args)]
pub struct Publish {
    /// The subject
    subject: String,
    /// The payload, or `-` to read it from the standard input, without the line break at the end of a text; empty by
    /// default
    payload: Option<String>,
    /// A header, as in `Tenant:eu`; may be repeated
    #[arg(long, value_name = "NAME:VALUE")]
    header: Vec<String>,
    /// The message id, by which the stream recognizes a message that is published twice
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// Publishes a payload that a handler of the subject cannot decode
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    form: Form,
    #[command(flatten)]
    connection: Connection,
}

/// The document for programs.
#[derive(Serialize)]
struct Document<'a> {
    stream: &'a str,
    sequence: u64,
    duplicate: bool,
}

impl Publish {
    pub(super) async fn run(self, session: Session) -> Result<Exit, Error> {
        let payload = match self.payload.as_deref() {
            Some("-") => read_payload(Path::new("-")).await?,
            payload => payload.unwrap_or_default().as_bytes().to_vec(),
        };
        let headers = self.header.iter().map(|header| parse_header(header)).collect::<Result<Vec<_>, _>>()?;
        let (broker, output) = session.connect_to_existing(self.connection).await?;
        let mut sample = Message::new(self.subject.clone(), payload.clone());
        for (name, value) in &headers {
            sample = sample.with_header(name, value);
        }
        let receivers = broker.receivers(sample, None)?;
        if !self.force && !receivers.undecodable.is_empty() {
            let text = format!(
                "the message was not published, because it would become a dead letter; `--force` publishes it:\n  - {}",
                receivers.undecodable.join("\n  - ")
            );
            return Err(Error::new(ErrorKind::Config, text));
        }
        let mut message = broker.publish_message(&self.subject, &Raw(payload));
        for (name, value) in &headers {
            message = message.header(name, value);
        }
        if let Some(id) = &self.id {
            message = message.message_id(id);
        }
        let ack = message.await?;
        broker.disconnect().await.ok();
        if self.form.json {
            let (sequence, duplicate) = (ack.sequence, ack.duplicate);
            output.document(Document { stream: &ack.stream, sequence, duplicate })?;
            return Ok(Exit::Done);
        }
        let duplicate = if ack.duplicate { ", which was stored before" } else { "" };
        output.line(&format!("stored as message {} of stream {}{duplicate}", ack.sequence, ack.stream))?;
        note_receivers(&output, &self.subject, &receivers.handlers);
        Ok(Exit::Done)
    }
}

fn note_receivers(output: &Output, subject: &str, receivers: &[String]) {
    match receivers {
        [] => output.note(&format!("no handler of this program has the subject `{subject}`")),
        handlers => output.note(&format!("handlers of this program with the subject: {}", handlers.join(", "))),
    }
}

fn parse_header(header: &str) -> Result<(String, String), Error> {
    match header.split_once(':') {
        Some((name, value)) if !name.trim().is_empty() => Ok((name.trim().to_owned(), value.trim().to_owned())),
        _ => {
            let text = format!("`--header` is `{header}`; expected a name and a value, as in `Tenant:eu`");
            Err(Error::new(ErrorKind::Config, text))
        }
    }
}

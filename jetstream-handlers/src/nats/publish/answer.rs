//! The answer of a stream to a published message.

use async_nats::jetstream;
use async_nats::jetstream::publish::PublishAck;
use serde::Deserialize;

use crate::error::{Error, ErrorKind};
use crate::message::refusal::{is_transient, refused};
use crate::message::{Outgoing, PublishFailure};

/// An ack or a refusal.
///
/// It is one flat struct, because deserializing an untagged enum costs as much as the rest of handling an answer.
#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    error: Option<jetstream::Error>,
    #[serde(default)]
    stream: String,
    #[serde(default)]
    seq: u64,
    #[serde(default)]
    domain: String,
    #[serde(default)]
    duplicate: bool,
    #[serde(default)]
    val: Option<String>,
    #[serde(default)]
    batch: Option<String>,
    #[serde(default)]
    count: Option<u64>,
}

/// Parses the answer to `message`.
pub(super) fn read_answer(message: &Outgoing, payload: &[u8]) -> Result<PublishAck, PublishFailure> {
    match read_ack(payload) {
        Ok(Ok(ack)) => Ok(ack),
        Ok(Err(error)) if is_transient(&error) => {
            let text = "the stream cannot store messages at the moment";
            Err(PublishFailure::Transient(Error::new(ErrorKind::Publish, text).with_source(error)))
        }
        Ok(Err(error)) => Err(PublishFailure::Permanent(refused(message, error))),
        Err(error) => {
            let text = format!(
                "the answer to the publish on `{}` is not that of a stream; another subscriber answered",
                message.subject
            );
            Err(PublishFailure::Permanent(Error::new(ErrorKind::Publish, text).with_source(error)))
        }
    }
}

/// Parses an ack or a refusal.
pub(super) fn read_ack(payload: &[u8]) -> Result<Result<PublishAck, jetstream::Error>, serde_json::Error> {
    let Answer { error, stream, seq, domain, duplicate, val, batch, count } = serde_json::from_slice(payload)?;
    match error {
        Some(error) => Ok(Err(error)),
        None if stream.is_empty() => Err(serde::de::Error::missing_field("stream")),
        None => Ok(Ok(PublishAck {
            stream,
            sequence: seq,
            domain,
            duplicate,
            value: val,
            batch_id: batch,
            batch_size: count,
        })),
    }
}

//! Storing dead letters.

use std::collections::BTreeMap;

use async_nats::HeaderMap;
use async_nats::header;

use super::draft::{Draft, IMPORTED_FROM};
use super::parts::{Content, ID_SUFFIX};
use crate::error::{Error, ErrorKind};
use crate::message::{Message, Outgoing, PublishAck, Stored};
use crate::outcome::Failure;
use crate::publish::{MissingStream, publish_copy, publish_guessable};
use crate::transport::Transport;

/// The size of the headers of a part in bytes, unless names are long.
const PART_OVERHEAD: usize = 512;

/// The smallest size into which a content is divided, in bytes; a stream that accepts less accepts no dead letter.
const MIN_PART: usize = 256;

/// The maximum number of ids that are tried for an imported dead letter, before one that cannot be guessed.
const MAX_DERIVED: usize = 30;

/// Stores the dead letter of a message on `subject`, and returns after its stream has acknowledged it.
///
/// If it is too large for one message, the original headers are stored in messages of their own, then the payload too.
pub(crate) async fn store(
    transport: &Transport,
    subject: &str,
    handler: &str,
    message: &Message,
    failure: &Failure,
) -> Result<PublishAck, Error> {
    store_draft(transport, &Draft::new(subject, handler, message, failure)).await
}

/// Stores a dead letter, as [`store`] does.
pub(super) async fn store_draft(transport: &Transport, draft: &Draft<'_>) -> Result<PublishAck, Error> {
    let (subject, handler) = (draft.subject(), draft.handler());
    let mut stored = Vec::new();
    let mut result = store_message(transport, draft.whole()).await;
    for content in [Content::Headers, Content::Payload] {
        let size = draft.content(content).len();
        if size == 0 || !is_too_large(&result) {
            continue;
        }
        let sequences = store_content(transport, draft, content).await?;
        tracing::warn!(
            handler,
            "a dead letter is too large for one message, so its {content} of {size} bytes are stored before it, in messages {sequences:?} on `{subject}`"
        );
        stored.push((content, sequences));
        result = store_message(transport, draft.without(&stored)).await;
    }
    result
}

fn is_too_large(result: &Result<PublishAck, Error>) -> bool {
    matches!(result, Err(error) if error.kind() == ErrorKind::PayloadTooLarge)
}

/// Stores a content in as many messages as it requires; returns their sequences.
async fn store_content(transport: &Transport, draft: &Draft<'_>, content: Content) -> Result<Vec<u64>, Error> {
    let bytes = draft.content(content);
    let mut size = transport.max_payload().saturating_sub(PART_OVERHEAD).max(MIN_PART);
    let (mut sequences, mut offset) = (Vec::new(), 0);
    while offset < bytes.len() {
        let end = bytes.len().min(offset + size);
        let part = draft.part(content, offset, bytes.slice(offset..end));
        match store_message(transport, part).await {
            Ok(stored) => {
                sequences.push(stored.sequence);
                offset = end;
            }
            // The stream may accept less than the server.
            Err(error) if error.kind() == ErrorKind::PayloadTooLarge && size > MIN_PART => {
                size = (size.min(bytes.len()) / 2).max(MIN_PART);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(sequences)
}

/// Stores one message of a dead letter.
///
/// Its message id can be guessed, so a duplicate may be a message with which somebody else wants to keep it from being
/// stored. Such a message is compared, and if it is another one, the message is stored under another id.
async fn store_message(transport: &Transport, mut message: Outgoing) -> Result<PublishAck, Error> {
    let ack = publish_guessable(transport, message.clone(), MissingStream::Created).await?;
    if !ack.duplicate || has_copy(transport, &ack, &message).await {
        return Ok(ack);
    }
    let id = message.header(header::NATS_MESSAGE_ID).unwrap_or_default().to_owned();
    // A dead letter that was imported and is gone is stored again, but by one import only.
    let derived = if message.headers.get(IMPORTED_FROM).is_some() { MAX_DERIVED } else { 0 };
    for number in 2..2 + derived {
        message.headers.insert(header::NATS_MESSAGE_ID, format!("{id}:{number}"));
        let ack = publish_guessable(transport, message.clone(), MissingStream::Created).await?;
        if !ack.duplicate || has_copy(transport, &ack, &message).await {
            return Ok(ack);
        }
    }
    message.headers.insert(header::NATS_MESSAGE_ID, format!("{id}{ID_SUFFIX}{}", nuid::next()));
    publish_copy(transport, message, MissingStream::Created).await
}

/// Returns `true` if the message with the same id is a copy.
///
/// One that is gone may have been another message, and a second copy is better than none.
async fn has_copy(transport: &Transport, ack: &PublishAck, message: &Outgoing) -> bool {
    let stored = transport.stored(&ack.stream, ack.sequence).await;
    stored.is_ok_and(|stored| stored.is_some_and(|stored| is_copy(&stored, message)))
}

/// Returns `true` if a stored message is the same as one to be stored, apart from what differs between attempts.
fn is_copy(stored: &Stored, message: &Outgoing) -> bool {
    const DIFFERENT: [&str; 5] =
        ["Nats-Msg-Id", "Dead-Letter-Reason", "Dead-Letter-Error", "Dead-Letter-Delivered", "Dead-Letter-Time"];
    // An imported dead letter is not an attempt, but the same whenever it is imported.
    let is_imported = message.headers.get(IMPORTED_FROM).is_some();
    is_same(stored, message, if is_imported { &DIFFERENT[..1] } else { &DIFFERENT })
}

/// Returns `true` if a stored message has the payload of one to be stored, and its headers apart from those named.
pub(super) fn is_same(stored: &Stored, message: &Outgoing, different: &[&str]) -> bool {
    let lines = |headers: &HeaderMap| {
        let lines = headers.iter().map(|(name, values)| {
            let values: Vec<_> = values.iter().map(|value| value.as_str().trim().to_owned()).collect();
            (name.to_string(), values)
        });
        lines.filter(|(name, _)| !different.contains(&&**name)).collect::<BTreeMap<_, _>>()
    };
    stored.payload == message.payload && lines(&stored.headers) == lines(&message.headers)
}

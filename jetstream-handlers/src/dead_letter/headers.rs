//! The message that is stored as a dead letter, with the headers that describe the failure.

use std::time::UNIX_EPOCH;

use async_nats::HeaderMap;
use async_nats::header;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::message::replayed::{MESSAGE_ID, REPLAY_OF};
use crate::message::{Message, Outgoing, reserved};
use crate::outcome::Failure;

/// The prefix of every header that a dead letter adds.
pub(super) const PREFIX: &str = "Dead-Letter-";

/// The prefix under which a dead letter keeps headers of the original message that the server would process again.
pub(super) const ORIGINAL_PREFIX: &str = "Dead-Letter-Original-";

/// The header of a dead letter whose payload was left out because of its size.
pub(super) const PAYLOAD_OMITTED: &str = "Dead-Letter-Payload-Omitted";

/// The maximum length of the error text in a header, in bytes.
const MAX_ERROR: usize = 1024;

/// Returns the dead letter of a message: its payload and headers, and headers that describe the failure.
pub(super) fn copy(subject: &str, handler: &str, message: &Message, failure: &Failure) -> Outgoing {
    let info = &message.info;
    let mut headers = HeaderMap::new();
    for (name, values) in message.headers.iter().flat_map(|headers| headers.iter()) {
        let name: &str = name.as_ref();
        // The client library accepts an empty name, and would send a header line that cannot be parsed.
        if reserved::is_of_delivery(name) || name.is_empty() {
            continue;
        }
        // Headers of an earlier dead letter are not kept, except for the one that identifies it.
        if name.starts_with(PREFIX) && name != REPLAY_OF {
            continue;
        }
        let name = if reserved::is_for_server(name) { format!("{ORIGINAL_PREFIX}{name}") } else { name.to_owned() };
        for value in values {
            headers.append(name.as_str(), value.clone());
        }
    }
    // Of a replayed message this is the key of the first one.
    headers.insert(MESSAGE_ID, &*message.idempotency_key());
    let stored_at = info.stored_at().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    // The time of storing is part of the id, because a recreated stream assigns the same sequences again.
    let id = format!("dlq:{}:{}:{}:{stored_at}", info.stream(), info.consumer(), info.stream_sequence());
    headers.insert(header::NATS_MESSAGE_ID, id);
    let mut add = |name: &str, value: String| headers.insert(format!("{PREFIX}{name}").as_str(), value.as_str());
    add("Reason", failure.reason.as_str().to_owned());
    add("Error", one_line(&failure.error));
    add("Stream", info.stream().to_owned());
    add("Sequence", info.stream_sequence().to_string());
    add("Subject", message.subject().to_owned());
    add("Consumer", info.consumer().to_owned());
    add("Delivered", info.delivered().to_string());
    add("Handler", handler.to_owned());
    add("Time", OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default());
    Outgoing { subject: subject.to_owned().into(), payload: message.payload.clone(), headers }
}

/// Removes the payload of a dead letter that would exceed the server's limit because of its added headers.
pub(super) fn without_payload(mut letter: Outgoing) -> Outgoing {
    letter.payload = bytes::Bytes::new();
    letter.headers.insert(PAYLOAD_OMITTED, "true");
    letter
}

/// Returns a text that fits in a header: on one line, and truncated.
fn one_line(text: &str) -> String {
    let mut line: String = text.chars().map(|char| if char.is_control() { ' ' } else { char }).collect();
    let end = (0..=MAX_ERROR.min(line.len())).rev().find(|end| line.is_char_boundary(*end)).unwrap_or(0);
    line.truncate(end);
    line
}

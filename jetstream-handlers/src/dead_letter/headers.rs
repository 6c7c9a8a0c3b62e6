//! The copy of a message that could not be handled.

use std::time::UNIX_EPOCH;

use async_nats::HeaderMap;
use async_nats::header;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::message::Message;
use crate::message::Outgoing;
use crate::outcome::Failure;

/// The prefix of every header that a dead letter adds.
pub(crate) const PREFIX: &str = "Dead-Letter-";

/// Headers of the original that mean something to the server, kept under this prefix so that they act only once.
pub(crate) const ORIGINAL: &str = "Dead-Letter-Original-";

/// Which letter a replayed message was.
pub(crate) const REPLAY_OF: &str = "Dead-Letter-Replay-Of";

/// That a letter came without the original's payload, which is still in its stream.
pub(crate) const OMITTED: &str = "Dead-Letter-Payload-Omitted";

/// The longest error text in a header, in bytes.
const MAX_ERROR: usize = 1024;

/// The dead letter of a message: its bytes and headers, and where, when and why it failed.
pub(crate) fn copy(subject: &str, handler: &str, message: &Message, failure: &Failure) -> Outgoing {
    let info = &message.info;
    let mut headers = HeaderMap::new();
    for (name, values) in message.headers.iter().flat_map(|headers| headers.iter()) {
        let name: &str = name.as_ref();
        let name = match name.get(..5).is_some_and(|start| start.eq_ignore_ascii_case("nats-")) {
            true => format!("{ORIGINAL}{name}"),
            false => name.to_owned(),
        };
        // The letter of an earlier life, replayed and failed again, says only what happened last.
        if name.starts_with(PREFIX) && !name.starts_with(ORIGINAL) && name != REPLAY_OF {
            continue;
        }
        for value in values {
            headers.append(name.as_str(), value.clone());
        }
    }
    let stored_at = info.stored_at().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    // The time of storing is part of the id, because a stream that was deleted and made again counts from 1 again.
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

/// A letter without the bytes of the original, which the server would not take with the letter's own headers.
pub(crate) fn without_payload(mut letter: Outgoing) -> Outgoing {
    letter.payload = bytes::Bytes::new();
    letter.headers.insert(OMITTED, "true");
    letter
}

/// A text that fits in a header: one line, and not endless.
fn one_line(text: &str) -> String {
    let mut line: String = text.chars().map(|char| if char.is_control() { ' ' } else { char }).collect();
    let end = (0..=MAX_ERROR.min(line.len())).rev().find(|end| line.is_char_boundary(*end)).unwrap_or(0);
    line.truncate(end);
    line
}

//! Errors of messages that a stream refused, or that were not sent to one.

use async_nats::header;
use async_nats::jetstream::{self, ErrorCode};

use super::Outgoing;
use crate::error::{Error, ErrorKind};

/// Returns the error of a publish after the broker was disconnected.
pub(crate) fn closed(subject: &str) -> Error {
    Error::new(
        ErrorKind::Closed,
        format!("cannot publish to `{subject}`: the broker is disconnected; connect a new one"),
    )
}

/// Returns the error of a batch without messages.
pub(crate) fn empty_batch() -> Error {
    Error::new(ErrorKind::Config, "the batch has no message; publish at least one")
}

/// Returns the error of a message that the stream refused.
pub(crate) fn refused(message: &Outgoing, error: jetstream::Error) -> Error {
    let (kind, why) = reason(Some(message), &error);
    refusal(kind, format!("the message on `{}` was not stored: {why}", message.subject), Some(message), error)
}

/// Returns the error of an atomic batch that the stream refused; `number` is that of the refused message, if known.
pub(crate) fn batch_refused(messages: &[Outgoing], number: Option<usize>, error: jetstream::Error) -> Error {
    let subject = messages.first().map_or("", |message| &message.subject);
    let (kind, why) = match error.error_code() {
        ErrorCode::ATOMIC_PUBLISH_DISABLED => (
            ErrorKind::StreamMismatch,
            "its stream accepts no atomic batches; turn `allow_atomic` on in its configuration on the server (`allow_atomic_publish` in `stream::Config`); if the messages belong to several streams, publish a batch for each; or use `publish_all`, which stores message by message".to_owned(),
        ),
        ErrorCode::ATOMIC_PUBLISH_CONTAINS_DUPLICATE_MESSAGE => (
            ErrorKind::Duplicate,
            "the stream has a message with one of the ids already, so the batch or a part of it was stored before".to_owned(),
        ),
        ErrorCode::ATOMIC_PUBLISH_TOO_LARGE_BATCH => {
            (ErrorKind::Config, "it has more messages than the server accepts (`max_batch_size`)".to_owned())
        }
        ErrorCode::ATOMIC_PUBLISH_TOO_MANY_INFLIGHT => {
            (ErrorKind::Publish, "the server has too many atomic batches in flight".to_owned())
        }
        ErrorCode::ATOMIC_PUBLISH_INCOMPLETE_BATCH => (
            ErrorKind::Publish,
            "the stream did not receive all of it; every message of a batch must belong to the same stream".to_owned(),
        ),
        ErrorCode::ATOMIC_PUBLISH_UNSUPPORTED_HEADER => {
            (ErrorKind::Config, "it has a header that an atomic batch cannot have".to_owned())
        }
        _ => reason(number.and_then(|number| messages.get(number - 1)), &error),
    };
    let at = number.map_or(String::new(), |number| format!(" at message {number}"));
    let count = messages.len();
    let text =
        format!("the atomic batch of {count} messages on `{subject}` was refused{at}, and nothing is stored: {why}");
    refusal(kind, text, number.and_then(|number| messages.get(number - 1)), error)
}

/// Returns the error of a fast-ingest batch whose message of this number the stream refused.
pub(crate) fn ingest_refused(number: u64, error: jetstream::Error) -> Error {
    let (kind, why) = match error.error_code() {
        ErrorCode::BATCH_PUBLISH_DISABLED => (
            ErrorKind::StreamMismatch,
            "its stream accepts no fast-ingest batches; turn `allow_batched` on in its configuration on the server (`allow_batch_publish` in `stream::Config`), or use `publish_all`".to_owned(),
        ),
        ErrorCode::BATCH_PUBLISH_UNKNOWN_BATCH_ID => (
            ErrorKind::Publish,
            "its stream does not know the batch: the server was restarted, or no message arrived for ten seconds, or it is another stream than that of the first message".to_owned(),
        ),
        ErrorCode::BATCH_PUBLISH_TOO_MANY_INFLIGHT => {
            (ErrorKind::Publish, "the server has too many fast-ingest batches in flight".to_owned())
        }
        _ => reason(None, &error),
    };
    refusal(kind, format!("message {number} of the batch was refused: {why}"), None, error)
}

/// Returns an error with the refusal as its source, and with the last sequences if they are its cause.
fn refusal(kind: ErrorKind, text: String, message: Option<&Outgoing>, refusal: jetstream::Error) -> Error {
    let error = Error::new(kind, text);
    let error = if kind == ErrorKind::WrongLastSequence {
        error.with_sequences(message.and_then(expected_sequence), found_sequence(&refusal))
    } else {
        error
    };
    error.with_source(refusal)
}

/// Returns `true` if the stream may store the message at another attempt.
pub(crate) fn is_transient(error: &jetstream::Error) -> bool {
    matches!(
        error.error_code(),
        // A message with the same id is being stored at this moment.
        ErrorCode::STREAM_DUPLICATE_MESSAGE_CONFLICT
            | ErrorCode::STREAM_EXPECTED_LAST_SEQ_PER_SUBJECT_NOT_READY
            | ErrorCode::STREAM_TOO_MANY_REQUESTS
            // Members of the cluster are missing.
            | ErrorCode::CLUSTER_NOT_AVAILABLE
    )
}

/// Returns the error of a message for a stream that acknowledges none.
pub(crate) fn no_ack(stream: &str, subject: &str) -> Error {
    let text = format!(
        "stream `{stream}` has `no_ack: true`, so that it acknowledges no message: the one on `{subject}` may be stored or not; turn `no_ack` off on the server, or publish with `Broker::client`, which waits for no ack"
    );
    Error::new(ErrorKind::StreamMismatch, text)
}

/// Returns the kind and the text for a refusal; `message` is `None` if a batch does not show which one was refused.
fn reason(message: Option<&Outgoing>, error: &jetstream::Error) -> (ErrorKind, String) {
    let (kind, why) = match error.error_code() {
        ErrorCode::STREAM_WRONG_LAST_SEQUENCE
        | ErrorCode::STREAM_WRONG_LAST_SEQUENCE_CONSTANT
        | ErrorCode::STREAM_WRONG_LAST_MESSAGE_ID => {
            return (ErrorKind::WrongLastSequence, wrong_last_sequence(message, error));
        }
        ErrorCode::STREAM_NOT_MATCH => {
            let expected = message.and_then(|message| message.header(header::NATS_EXPECTED_STREAM)).unwrap_or("one");
            let why = format!("it belongs to a stream other than the expected `{expected}`");
            return (ErrorKind::StreamMismatch, why);
        }
        ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM => {
            (ErrorKind::PayloadTooLarge, "it is larger than the stream accepts (`max_msg_size`)")
        }
        ErrorCode::STREAM_HEADER_EXCEEDS_MAXIMUM => {
            (ErrorKind::PayloadTooLarge, "its headers are larger than a stream accepts (64 KiB)")
        }
        ErrorCode::STREAM_STORE_FAILED => {
            return (ErrorKind::Publish, store_failed(error));
        }
        ErrorCode::MESSAGE_TTL_DISABLED => (
            ErrorKind::Publish,
            "the stream accepts no time to live; turn `allow_msg_ttl` on in its configuration on the server (`allow_message_ttl` in `stream::Config`)",
        ),
        _ => return (ErrorKind::Publish, format!("the stream refused it: {error}")),
    };
    (kind, why.to_owned())
}

/// Returns the text for a message that the stream did not store, mostly because of its limits (`store.go`, `Err…`).
fn store_failed(error: &jetstream::Error) -> String {
    let text = error.to_string();
    let advice = if text.contains("per subject") {
        "the subject has as many messages as `max_msgs_per_subject` allows, and `discard_new_per_subject` refuses more; raise the limit, or turn `discard_new_per_subject` off"
    } else if text.contains("maximum messages") {
        "the stream is full; raise `max_msgs`, or let it discard old messages"
    } else if text.contains("maximum bytes") {
        "the stream is full; raise `max_bytes`, or let it discard old messages"
    } else {
        "the stream could not store it; check its limits and the log of the server"
    };
    format!("{advice}: {text}")
}

/// Returns the text for a last sequence other than the expected one.
fn wrong_last_sequence(message: Option<&Outgoing>, error: &jetstream::Error) -> String {
    match (found_sequence(error), message.and_then(expected_sequence)) {
        (Some(found), Some(expected)) => format!("the last sequence is {found}, not the expected {expected}"),
        (Some(found), None) => format!("the last sequence is {found}, not the expected one"),
        (None, _) => format!("the last sequence is not the expected one: {error}"),
    }
}

/// Returns the last sequence that a message expects, of the stream or of its subject; `None` if it expects both,
/// because a refusal does not name the one that differs.
fn expected_sequence(message: &Outgoing) -> Option<u64> {
    let expected = |name| message.header(name)?.parse().ok();
    let of_stream = expected(header::NATS_EXPECTED_LAST_SEQUENCE);
    let of_subject = expected(header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE);
    of_stream.xor(of_subject)
}

/// Returns the last sequence that the stream found, which only the text of its refusal contains.
fn found_sequence(error: &jetstream::Error) -> Option<u64> {
    let text = error.to_string();
    let (_, found) = text.split_once("wrong last sequence: ")?;
    let end = found.find(|character: char| !character.is_ascii_digit()).unwrap_or(found.len());
    found[..end].parse().ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn error(description: &str) -> jetstream::Error {
        let error = json!({ "code": 400, "err_code": 10071, "description": description });
        serde_json::from_value(error).expect("these are the fields of the server's errors")
    }

    #[test]
    fn found_sequence_is_read_from_the_refusal() {
        assert_eq!(found_sequence(&error("wrong last sequence: 42")), Some(42));
        assert_eq!(found_sequence(&error("wrong last sequence")), None);
        assert_eq!(found_sequence(&error("wrong last msg ID: 7")), None);
    }
}

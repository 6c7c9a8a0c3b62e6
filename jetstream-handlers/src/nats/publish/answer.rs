//! The answer of a stream to a published message.

use async_nats::jetstream;
use async_nats::jetstream::publish::PublishAck;
use serde::Deserialize;

use crate::error::{Error, ErrorKind};
use crate::message::ack_subject::number;
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
    if let Some(ack) = read_plain_ack(payload) {
        return Ok(Ok(ack));
    }
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

/// Parses the ack of a message without anything to report, as the server writes it: `{"stream":"ORDERS", "seq":7}`.
///
/// Nearly every answer is such an ack, for which a deserializer takes ten times as long. Any other text is `None`.
fn read_plain_ack(payload: &[u8]) -> Option<PublishAck> {
    let rest = payload.strip_prefix(br#"{"stream":""#)?;
    // Escapes in a name are for the deserializer, and control characters are invalid.
    let end = rest.iter().position(|byte| matches!(byte, b'"' | b'\\' | ..b' '))?;
    let (stream, rest) = rest.split_at(end);
    let rest = rest.strip_prefix(b"\",")?;
    let digits = rest.strip_prefix(b" ").unwrap_or(rest).strip_prefix(br#""seq":"#)?.strip_suffix(b"}")?;
    // JSON has neither a leading zero nor a sign.
    if stream.is_empty() || !matches!(digits, [b'1'..=b'9', ..]) {
        return None;
    }
    let sequence = number(digits)?;
    let stream = std::str::from_utf8(stream).ok()?.to_owned();
    Some(PublishAck {
        stream,
        sequence,
        domain: String::new(),
        duplicate: false,
        value: None,
        batch_id: None,
        batch_size: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the stream and the sequence of an ack that needs no deserializer.
    fn plain(payload: &str) -> Option<(String, u64)> {
        read_plain_ack(payload.as_bytes()).map(|ack| (ack.stream, ack.sequence))
    }

    #[test]
    fn plain_ack_is_read_without_a_deserializer() {
        assert_eq!(plain(r#"{"stream":"ORDERS", "seq":7}"#), Some(("ORDERS".to_owned(), 7)));
        assert_eq!(plain(r#"{"stream":"ORDERS","seq":18446744073709551615}"#), Some(("ORDERS".to_owned(), u64::MAX)));
    }

    #[test]
    fn every_other_answer_is_read_by_the_deserializer() {
        for answer in [
            r#"{"stream":"ORDERS", "domain":"hub", "seq":7}"#,
            r#"{"stream":"ORDERS", "seq":7,"duplicate": true}"#,
            r#"{"stream":"ORDERS", "seq":7,"val":"3"}"#,
            r#"{"stream":"OR\u0044ERS","seq":7}"#,
            r#"{"stream":"ORDERS", "seq":18446744073709551616}"#,
            r#"{"stream":"ORDERS", "seq":07}"#,
            r#"{"stream":"ORDERS", "seq":+7}"#,
            r#"{"stream":"ORDERS", "seq":}"#,
            r#"{"stream":"ORDERS", "seq":7a}"#,
            "{\"stream\":\"ORD\nERS\", \"seq\":7}",
            r#"{"stream":"", "seq":7}"#,
            r#"{"error":{"code":503,"err_code":10077,"description":"maximum messages exceeded"},"stream":"ORDERS","seq":0}"#,
            r#"{"stream":"ORDERS", "seq":7} "#,
            "",
            "+OK",
        ] {
            assert_eq!(plain(answer), None, "{answer}");
        }
        let read = |answer: &str| read_ack(answer.as_bytes()).ok().and_then(Result::ok);
        let ack = read(r#"{"stream":"ORDERS", "domain":"hub", "seq":7,"duplicate": true}"#).expect("it is an ack");
        assert_eq!((&*ack.stream, &*ack.domain, ack.sequence, ack.duplicate), ("ORDERS", "hub", 7, true));
        assert_eq!(read(r#"{"stream":"OR\u0044ERS","seq":7}"#).map(|ack| ack.stream), Some("ORDERS".to_owned()));
        for broken in [r#"{"stream":"ORDERS", "seq":07}"#, r#"{"stream":"", "seq":7}"#, "+OK"] {
            assert!(read_ack(broken.as_bytes()).is_err(), "{broken}");
        }
    }
}

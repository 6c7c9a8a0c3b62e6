//! A dead letter as one line of JSON, to be kept in a file and read again.

use std::collections::BTreeMap;
use std::time::SystemTime;

use async_nats::HeaderMap;
use async_nats::header;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as BASE64;
use bytes::Bytes;
use serde::ser::Error as _;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::DeadLetter;
use super::draft::{HEADER_BLOCK, ORIGINAL_PREFIX, PREFIX, UNREADABLE, kept_headers};
use crate::error::{BoxError, Error, ErrorKind};
use crate::message::replayed::MESSAGE_ID;
use crate::message::{Stored, header_block};
use crate::outcome::Reason;

/// The version of the form.
const VERSION: u32 = 1;

/// The form of a dead letter.
#[derive(Serialize, Deserialize)]
struct Form {
    version: u32,
    sequence: u64,
    stored_at: String,
    reason: Reason,
    error: String,
    handler: String,
    stream: String,
    stream_sequence: u64,
    subject: String,
    consumer: String,
    delivered: u64,
    /// The time of the failure.
    #[serde(default)]
    time: String,
    idempotency_key: String,
    /// The message id of the dead letter.
    id: String,
    /// The subject on which the dead letter is stored.
    dead_letter_subject: String,
    complete: bool,
    /// The headers of the original message.
    #[serde(default)]
    headers: BTreeMap<String, Vec<String>>,
    /// `kept` or `lost` for a message with headers that cannot be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    unreadable: Option<String>,
    /// The header block of a message that cannot be read, in base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    header_block: Option<String>,
    /// A payload that is JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    payload: Option<Box<RawValue>>,
    /// A payload that is other text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    payload_text: Option<String>,
    /// Any other payload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    payload_base64: Option<String>,
}

impl Form {
    fn of(letter: &DeadLetter) -> Result<Self, time::error::Format> {
        let mut form = Self {
            version: VERSION,
            sequence: letter.sequence,
            stored_at: OffsetDateTime::from(letter.stored_at).format(&Rfc3339)?,
            reason: letter.reason,
            error: letter.error.clone(),
            handler: letter.handler.clone(),
            stream: letter.stream.clone(),
            stream_sequence: letter.stream_sequence,
            subject: letter.subject.clone(),
            consumer: letter.consumer.clone(),
            delivered: letter.delivered,
            time: letter.time.clone(),
            idempotency_key: letter.idempotency_key().to_owned(),
            id: letter.id.clone(),
            dead_letter_subject: letter.stored_subject.clone(),
            complete: letter.is_complete(),
            headers: BTreeMap::new(),
            unreadable: letter.unreadable.clone(),
            header_block: letter.header_block().map(|block| BASE64.encode(block)),
            payload: None,
            payload_text: None,
            payload_base64: None,
        };
        for (name, values) in letter.original_headers().iter() {
            let values = values.iter().map(|value| value.as_str().to_owned()).collect();
            form.headers.insert(name.to_string(), values);
        }
        form.set_payload(&letter.payload);
        Ok(form)
    }

    /// Writes the payload so that the same bytes are read again.
    fn set_payload(&mut self, payload: &[u8]) {
        let Ok(text) = std::str::from_utf8(payload) else {
            self.payload_base64 = Some(BASE64.encode(payload));
            return;
        };
        // JSON is written as it is, without what surrounds it, so it must be on one line and begin and end with a value.
        let is_bare = !text.contains(['\n', '\r']) && text.trim().len() == text.len();
        match serde_json::from_str::<Box<RawValue>>(text) {
            // `null` would be read as no payload.
            Ok(json) if is_bare && text != "null" => self.payload = Some(json),
            _ => self.payload_text = Some(text.to_owned()),
        }
    }

    fn take_payload(&mut self) -> Result<Bytes, BoxError> {
        Ok(match (self.payload.take(), self.payload_text.take(), self.payload_base64.take()) {
            (Some(json), None, None) => Box::<str>::from(json).into_string().into(),
            (None, Some(text), None) => text.into(),
            (None, None, Some(base64)) => BASE64.decode(base64)?.into(),
            _ => return Err("it has not one of `payload`, `payload_text` and `payload_base64`".into()),
        })
    }

    /// Returns the message as the stream of dead letters would have it.
    fn into_stored(mut self) -> Result<Stored, BoxError> {
        if self.version != VERSION {
            return Err(format!("its `version` is {}; this version of the crate reads {VERSION}", self.version).into());
        }
        let payload = self.take_payload()?;
        let mut headers = HeaderMap::new();
        for (name, values) in &self.headers {
            for value in values {
                append(&mut headers, name, value)?;
            }
        }
        let mut stored = HeaderMap::new();
        kept_headers(&headers).for_each(|(name, value)| stored.append(name.as_str(), value));
        let unreadable = if self.complete { self.unreadable.as_deref() } else { Some("lost") };
        let numbers = [self.stream_sequence, self.delivered].map(|number| number.to_string());
        for (name, value) in [
            ("Reason", self.reason.as_str()),
            ("Error", &self.error),
            ("Stream", &self.stream),
            ("Sequence", &numbers[0]),
            ("Subject", &self.subject),
            ("Consumer", &self.consumer),
            ("Delivered", &numbers[1]),
            ("Handler", &self.handler),
            ("Time", &self.time),
        ] {
            append(&mut stored, &format!("{PREFIX}{name}"), value)?;
        }
        append(&mut stored, header::NATS_MESSAGE_ID.as_ref(), &self.id)?;
        append(&mut stored, MESSAGE_ID, &self.idempotency_key)?;
        let optional = [(UNREADABLE, unreadable), (HEADER_BLOCK, self.header_block.as_deref())];
        for (name, value) in optional.into_iter().filter_map(|(name, value)| Some((name, value?))) {
            append(&mut stored, name, value)?;
        }
        let time = OffsetDateTime::parse(&self.stored_at, &Rfc3339)?.into();
        let subject = self.dead_letter_subject.into();
        Ok(Stored { sequence: self.sequence, subject, payload, headers: stored, time })
    }
}

fn append(headers: &mut HeaderMap, name: &str, value: &str) -> Result<(), BoxError> {
    let Some((name, value)) = header_block::header(name, value) else {
        return Err(format!("`{}: {}` is no header", name.escape_debug(), value.escape_debug()).into());
    };
    headers.append(name, value);
    Ok(())
}

/// Returns what is wrong with a line, in words of the file.
fn problem(text: &str, error: &serde_json::Error) -> String {
    let error_text = error.to_string();
    // A dead letter is on one line, whose number is known.
    let shown = error_text.rsplit_once(" at line ").map_or(&*error_text, |(shown, _)| shown);
    if !error.is_data() {
        return format!("it is not JSON: {shown} in column {}", error.column());
    }
    if !text.trim_start().starts_with('{') {
        return "it is not a JSON object".to_owned();
    }
    match shown.strip_prefix("missing field ") {
        Some(field) => format!("its field {field} is missing"),
        None => format!("{shown}, in column {}", error.column()),
    }
}

impl DeadLetter {
    /// Reads a dead letter that was serialized, as a line of [`DeadLetters::export`](crate::DeadLetters::export) is.
    ///
    /// # Errors
    ///
    /// Returns [`Config`](ErrorKind::Config) if the text is not a dead letter.
    pub fn from_json(text: &str) -> Result<Self, Error> {
        let refused = |error: BoxError| Error::new(ErrorKind::Config, format!("it is not a dead letter: {error}"));
        let form: Form = serde_json::from_str(text).map_err(|error| refused(problem(text, &error).into()))?;
        let stored = form.into_stored().map_err(refused)?;
        Self::parse(stored).ok_or_else(|| refused("a value is missing".into()))
    }

    /// Returns the headers of the original message under their own names.
    pub(crate) fn original_headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, values) in self.headers.iter() {
            let name: &str = name.as_ref();
            let name = name.strip_prefix(ORIGINAL_PREFIX).unwrap_or(name);
            values.iter().for_each(|value| headers.append(name, value.clone()));
        }
        headers
    }
}

/// Writes an object on one line, whose fields the [contract](mod@crate::contract) lists.
impl Serialize for DeadLetter {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Form::of(self).map_err(S::Error::custom)?.serialize(serializer)
    }
}

pub(super) fn rfc3339<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    let time = OffsetDateTime::from(*time).format(&Rfc3339).map_err(S::Error::custom)?;
    serializer.serialize_str(&time)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(payload: &[u8], headers: &[(&str, &str)]) -> DeadLetter {
        let mut map = HeaderMap::new();
        let own = [
            ("Dead-Letter-Reason", "error"),
            ("Dead-Letter-Error", "fails"),
            ("Dead-Letter-Stream", "ORDERS"),
            ("Dead-Letter-Sequence", "7"),
            ("Dead-Letter-Subject", "orders.created"),
            ("Dead-Letter-Consumer", "billing"),
            ("Dead-Letter-Delivered", "3"),
            ("Dead-Letter-Handler", "app::bill"),
            ("Dead-Letter-Time", "2026-11-03T22:04:05Z"),
            ("Dead-Letter-Message-Id", "seven"),
            ("Nats-Msg-Id", "dlq:ORDERS:billing:7:1"),
        ];
        own.iter().chain(headers).for_each(|(name, value)| map.append(*name, *value));
        let stored = Stored {
            sequence: 12,
            subject: "dlq.ORDERS.billing".into(),
            payload: Bytes::copy_from_slice(payload),
            headers: map,
            time: SystemTime::UNIX_EPOCH + std::time::Duration::from_nanos(1_700_000_000_123_456_789),
        };
        DeadLetter::parse(stored).expect("it is a dead letter")
    }

    #[test]
    fn every_payload_is_read_as_it_was_written() {
        for (payload, field) in [
            (&br#"{"id": 7,  "big": 123456789012345678901234567890}"#[..], "payload"),
            (b"1", "payload"),
            (b"null", "payload_text"),
            (b"", "payload_text"),
            (b" 7", "payload_text"),
            (b"{\n  \"id\": 7\n}", "payload_text"),
            (b"caf\xc3\xa9 \0\r\n", "payload_text"),
            (b"\xff\x00\x80", "payload_base64"),
        ] {
            let letter = letter(payload, &[]);
            let line = serde_json::to_string(&letter).expect("it can be written");
            assert!(!line.contains('\n') && line.contains(&format!("\"{field}\":")), "{line}");
            let read = DeadLetter::from_json(&line).expect("it can be read");
            assert_eq!(read.payload, letter.payload, "{line}");
            assert_eq!(format!("{read:?}"), format!("{letter:?}"), "{line}");
        }
    }

    #[test]
    fn headers_are_read_as_they_were_written() {
        let headers = [
            ("Tenant", "eu"),
            ("Tenant", "us"),
            ("Dead-Letter-Original-Nats-Msg-Id", "seven"),
            ("Dead-Letter-Unreadable", "kept"),
            ("Dead-Letter-Header-Block", "TkFUUy8xLjANCg=="),
        ];
        let letter = letter(b"7", &headers);
        let read = DeadLetter::from_json(&serde_json::to_string(&letter).expect("it can be written"));
        let read = read.expect("it can be read");
        assert_eq!((read.header("Tenant"), read.header("Nats-Msg-Id")), (Some("eu"), Some("seven")));
        assert_eq!(read.header_block(), Some(&b"NATS/1.0\r\n"[..]));
        assert!(read.is_complete());
        // The order of the headers in a map is not always the same.
        let line = |letter: &DeadLetter| serde_json::to_string(letter).expect("it can be written");
        assert_eq!(line(&read), line(&letter));
    }

    #[test]
    fn incomplete_letter_stays_incomplete() {
        let letter = letter(b"", &[("Dead-Letter-Payload-At", "3,4"), ("Dead-Letter-Parts-Key", "k")]);
        let line = serde_json::to_string(&letter).expect("it can be written");
        assert!(line.contains("\"complete\":false"), "{line}");
        assert!(!DeadLetter::from_json(&line).expect("it can be read").is_complete());
    }

    #[test]
    fn text_that_is_no_dead_letter_is_refused() {
        let line = serde_json::to_string(&letter(b"7", &[("Tenant", "eu")])).expect("it can be written");
        for (text, part) in [
            ("", "it is not JSON: EOF"),
            ("{ oops", "it is not JSON: key must be a string in column 3"),
            ("{}", "it is not a dead letter: its field `version` is missing"),
            ("[1]", "it is not a dead letter: it is not a JSON object"),
            ("7", "it is not a JSON object"),
            (
                &*line.replace("\"sequence\":1", "\"sequence\":\"x\""),
                "invalid type: string \"x\", expected u64, in column",
            ),
            (&*line.replace("\"version\":1", "\"version\":2"), "`version` is 2"),
            (&line.replace("\"Tenant\"", "\"Ten ant\""), "is no header"),
            (&line.replace("\"eu\"", "\"e\\nu\""), "is no header"),
            (&line.replace("\"payload\":7", "\"payload_base64\":\"?\""), "Invalid"),
            (&line.replace("\"payload\":7", "\"payload_text\":\"a\",\"payload_base64\":\"\""), "not one of `payload`"),
            (&line.replace("\"payload\":7", "\"other\":1"), "not one of `payload`"),
        ] {
            let error = DeadLetter::from_json(text).expect_err(text);
            assert_eq!(error.kind(), ErrorKind::Config);
            assert!(error.to_string().contains(part), "{error}");
        }
    }
}

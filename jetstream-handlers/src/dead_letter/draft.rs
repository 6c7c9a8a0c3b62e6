//! A dead letter that is to be stored: the original message, and headers that describe the failure.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::OnceLock;
use std::time::UNIX_EPOCH;

use async_nats::HeaderMap;
use async_nats::header::{self, HeaderValue};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as BASE64;
use bytes::Bytes;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::DeadLetter;
use super::parts::{Content, ID_SUFFIX, PARTS_KEY, Part};
use crate::error::printable::{printable, truncate};
use crate::message::replayed::{MESSAGE_ID, REPLAY_OF};
use crate::message::{Message, Outgoing, header_block, reserved};
use crate::outcome::Failure;

/// The prefix of every header that a dead letter adds.
pub(super) const PREFIX: &str = "Dead-Letter-";

/// The prefix under which a dead letter keeps headers of the original message that the server would process again.
pub(super) const ORIGINAL_PREFIX: &str = "Dead-Letter-Original-";

/// The header with the header block of a message that could not be read, in base64.
pub(super) const HEADER_BLOCK: &str = "Dead-Letter-Header-Block";

/// The header of a message that could not be read: `kept`, or `lost` if it could not be read from its stream either.
pub(super) const UNREADABLE: &str = "Dead-Letter-Unreadable";

/// The header of an imported dead letter with its former stream and sequence, as `<stream>:<sequence>`.
pub(super) const IMPORTED_FROM: &str = "Dead-Letter-Imported-From";

/// The maximum length of the error text in a header, in bytes.
const MAX_ERROR: usize = 1024;

/// A dead letter that is to be stored, in one message or in several.
#[derive(Debug)]
pub(super) struct Draft<'a> {
    subject: &'a str,
    handler: &'a str,
    /// The message id, which is that of every copy of the same delivery.
    id: String,
    /// The addition to the ids of an imported dead letter; empty for any other.
    suffix: String,
    /// The key of the parts, once there are some.
    key: OnceLock<String>,
    /// The headers that describe the failure.
    failure: HeaderMap,
    /// The headers of the original message.
    original: HeaderMap,
    /// The header block of a message that could not be read.
    header_block: Option<&'a Bytes>,
    payload: &'a Bytes,
}

impl<'a> Draft<'a> {
    /// Returns the dead letter of a message for `subject`.
    pub(super) fn new(subject: &'a str, handler: &'a str, message: &'a Message, failure: &Failure) -> Self {
        let info = &message.info;
        let stored_at = info.stored_at().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
        // The time of storing is part of the id, because a recreated stream assigns the same sequences again.
        let id = format!("dlq:{}:{}:{}:{stored_at}", info.stream(), info.consumer(), info.stream_sequence());
        let mut headers = HeaderMap::new();
        headers.insert(header::NATS_MESSAGE_ID, id.as_str());
        // Of a replayed message this is the key of the first one.
        headers.insert(MESSAGE_ID, &*message.idempotency_key());
        let mut add = |name: &str, value: String| headers.insert(format!("{PREFIX}{name}").as_str(), value.as_str());
        add("Reason", failure.reason.as_str().to_owned());
        add("Error", one_line(&failure.error));
        add("Stream", message.origin_stream().to_owned());
        add("Sequence", message.origin_sequence().to_string());
        add("Subject", message.subject().to_owned());
        add("Consumer", info.consumer().to_owned());
        add("Delivered", info.delivered().to_string());
        add("Handler", handler.to_owned());
        add("Time", OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default());
        if let Some(unreadable) = &message.unreadable {
            headers.insert(UNREADABLE, if unreadable.is_complete { "kept" } else { "lost" });
        }
        let header_block = message.unreadable.as_ref().map(|unreadable| &unreadable.header_block);
        let original = message.headers.as_deref().cloned().unwrap_or_default();
        Self {
            subject,
            handler,
            id,
            suffix: String::new(),
            key: OnceLock::new(),
            failure: headers,
            original,
            header_block,
            payload: &message.payload,
        }
    }

    /// Returns a dead letter that was exported from this stream.
    pub(super) fn imported(letter: &'a DeadLetter, stream: &str) -> Self {
        // Another id was only needed in the former stream, and the parts name the id without it.
        let id = letter.id.split(ID_SUFFIX).next().unwrap_or_default().to_owned();
        // A message that was delivered again has several dead letters, each of which is imported.
        let stored_at = letter.stored_at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
        let suffix = format!("{ID_SUFFIX}{}:{stored_at}", letter.sequence);
        let mut headers = HeaderMap::new();
        headers.insert(header::NATS_MESSAGE_ID, format!("{id}{suffix}"));
        headers.insert(MESSAGE_ID, letter.idempotency_key());
        let mut add = |name: &str, value: &str| headers.insert(format!("{PREFIX}{name}").as_str(), value);
        add("Reason", letter.reason.as_str());
        add("Error", &letter.error);
        add("Stream", &letter.stream);
        add("Sequence", &letter.stream_sequence.to_string());
        add("Subject", &letter.subject);
        add("Consumer", &letter.consumer);
        add("Delivered", &letter.delivered.to_string());
        add("Handler", &letter.handler);
        add("Time", &letter.time);
        headers.insert(IMPORTED_FROM, format!("{stream}:{}", letter.sequence));
        let unreadable = if letter.is_complete() { letter.unreadable.as_deref() } else { Some("lost") };
        if let Some(unreadable) = unreadable {
            headers.insert(UNREADABLE, unreadable);
        }
        Self {
            subject: &letter.stored_subject,
            handler: &letter.handler,
            id,
            suffix,
            key: OnceLock::new(),
            failure: headers,
            original: letter.original_headers(),
            header_block: letter.header_block.as_ref().filter(|_| letter.unreadable.is_some()),
            payload: &letter.payload,
        }
    }

    /// Returns the subject of the dead letter.
    pub(super) fn subject(&self) -> &'a str {
        self.subject
    }

    /// Returns the name of the handler.
    pub(super) fn handler(&self) -> &'a str {
        self.handler
    }

    /// Returns the dead letter in one message.
    pub(super) fn whole(&self) -> Outgoing {
        let mut headers = self.failure.clone();
        for (name, value) in kept_headers(&self.original) {
            headers.append(name.as_str(), value);
        }
        if let Some(block) = self.header_block.filter(|block| !block.is_empty()) {
            headers.insert(HEADER_BLOCK, BASE64.encode(block));
        }
        Outgoing { subject: self.subject.into(), pattern: None, payload: self.payload.clone(), headers }
    }

    /// Returns the dead letter without the contents that are stored in messages of their own, at these sequences.
    pub(super) fn without(&self, stored: &[(Content, Vec<u64>)]) -> Outgoing {
        let is_apart = |content: Content| stored.iter().any(|(other, _)| *other == content);
        let mut letter = self.whole();
        if is_apart(Content::Headers) {
            letter.headers = self.failure.clone();
        }
        if is_apart(Content::Payload) {
            letter.payload = Bytes::new();
        }
        letter.headers.insert(PARTS_KEY, self.key());
        for (content, sequences) in stored {
            let sequences: Vec<_> = sequences.iter().map(u64::to_string).collect();
            letter.headers.insert(content.sequences_header(), sequences.join(","));
        }
        letter
    }

    /// Returns the bytes of a content.
    pub(super) fn content(&self, content: Content) -> Bytes {
        match content {
            Content::Headers if self.header_block.is_some() => self.header_block.cloned().unwrap_or_default(),
            Content::Headers if self.original.is_empty() => Bytes::new(),
            Content::Headers => header_block::write(&self.original).into(),
            Content::Payload => self.payload.clone(),
        }
    }

    /// Returns the key of the parts, which is the same whenever the same message is stored.
    fn key(&self) -> &str {
        self.key.get_or_init(|| {
            let half = |salt: u8| {
                let mut hasher = DefaultHasher::new();
                (salt, self.content(Content::Headers), self.payload, &self.id).hash(&mut hasher);
                hasher.finish()
            };
            format!("{:016x}{:016x}", half(0), half(1))
        })
    }

    /// Returns the message for a part of a content that begins at this offset.
    pub(super) fn part(&self, content: Content, offset: usize, bytes: Bytes) -> Outgoing {
        let Self { subject, handler, id, .. } = self;
        let mut part = Part { id, handler, key: self.key(), content }.to_message(subject, offset, bytes);
        if let Some(from) = self.failure.get(IMPORTED_FROM) {
            let id = format!("{}{}", part.header(header::NATS_MESSAGE_ID).unwrap_or_default(), self.suffix);
            part.headers.insert(header::NATS_MESSAGE_ID, id);
            part.headers.insert(IMPORTED_FROM, from.clone());
        }
        part
    }
}

/// Returns the headers of an original message as its dead letter keeps them.
///
/// Those that the server would process again have a prefix.
/// Those of an earlier dead letter are left out, except for the one that identifies it.
pub(super) fn kept_headers(original: &HeaderMap) -> impl Iterator<Item = (String, HeaderValue)> {
    original.iter().flat_map(|(name, values)| {
        let name: &str = name.as_ref();
        let is_of_letter = name.starts_with(PREFIX) && name != REPLAY_OF;
        // The client library accepts an empty name, and would send a header line that cannot be parsed.
        let is_kept = !is_of_letter && !reserved::is_of_delivery(name) && !name.is_empty();
        let name = if reserved::is_for_server(name) { format!("{ORIGINAL_PREFIX}{name}") } else { name.to_owned() };
        values.iter().filter(move |_| is_kept).map(move |value| (name.clone(), value.clone()))
    })
}

/// Returns a text that fits in a header: on one line, and truncated.
fn one_line(text: &str) -> String {
    let mut line = printable(text).into_owned();
    truncate(&mut line, MAX_ERROR);
    line
}

//! A dead letter as its stream stores it.

use std::fmt;
use std::time::SystemTime;

use async_nats::HeaderMap;
use async_nats::header;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as BASE64;
use bytes::Bytes;

use super::draft::{HEADER_BLOCK, ORIGINAL_PREFIX, PREFIX, UNREADABLE, kept_headers};
use super::parts::{Content, PARTS_KEY, Part};
use crate::declaration::is_named;
use crate::error::printable::printable;
use crate::message::replayed::REPLAY_OF;
use crate::message::{Stored, header_block, reserved};
use crate::outcome::Reason;

/// The header of a compressed payload.
const CONTENT_ENCODING: &str = "Content-Encoding";

/// A copy of a message that could not be handled, read from the stream of dead letters.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct DeadLetter {
    /// The sequence in the stream of dead letters, which identifies the dead letter.
    pub sequence: u64,
    /// The time at which the dead letter was stored.
    pub stored_at: SystemTime,
    /// The class of the failure.
    pub reason: Reason,
    /// The error of the last attempt with its causes, truncated to 1 KiB, with control characters escaped.
    pub error: String,
    /// The full name of the handler.
    pub handler: String,
    /// The stream of the original message.
    pub stream: String,
    /// The sequence of the original message in its stream.
    pub stream_sequence: u64,
    /// The subject of the original message.
    pub subject: String,
    /// The durable consumer that delivered the original message.
    pub consumer: String,
    /// The number of deliveries of the original message.
    pub delivered: u64,
    /// The payload of the original message; empty if the dead letter is not [complete](Self::is_complete).
    pub payload: Bytes,
    /// The headers of the original message.
    pub(super) headers: HeaderMap,
    idempotency_key: String,
    /// The subject on which the dead letter is stored.
    pub(super) stored_subject: String,
    /// The time of the failure, as the header has it.
    pub(super) time: String,
    /// `kept` or `lost` for a message with headers that cannot be read.
    pub(super) unreadable: Option<String>,
    /// The message id of the dead letter, which its parts name.
    pub(super) id: String,
    /// The key that its parts have as well.
    parts_key: String,
    /// The sequences of the parts of each content that was too large.
    parts: Vec<(Content, Vec<u64>)>,
    is_complete: bool,
    /// The header block of a message that could not be read.
    pub(super) header_block: Option<Bytes>,
}

impl DeadLetter {
    /// Returns the first value of a header of the original message.
    pub fn header(&self, name: &str) -> Option<&str> {
        let kept = self.headers.get(format!("{ORIGINAL_PREFIX}{name}").as_str());
        kept.or_else(|| self.headers.get(name)).map(|value| value.as_str())
    }

    /// Returns the original header block of a message that could not be read, such as one with a header that is not
    /// UTF-8; `None` for any other message, and for one that could not be read from its stream either.
    ///
    /// A replay publishes only those headers that can be read.
    pub fn header_block(&self) -> Option<&[u8]> {
        self.header_block.as_deref()
    }

    /// Returns the [`idempotency_key`](crate::Message::idempotency_key) of the original message, which a replay keeps.
    pub fn idempotency_key(&self) -> &str {
        &self.idempotency_key
    }

    /// Returns `true` if the payload and the headers are those of the original message.
    ///
    /// A dead letter that is too large for one message is stored in several; it is incomplete if one of those is gone.
    pub fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// Parses a stored message; returns `None` if it is not a dead letter.
    pub(crate) fn parse(stored: Stored) -> Option<Self> {
        let value = |name: &str| Some(stored.headers.get(name)?.as_str().to_owned());
        let text = |name: &str| value(&format!("{PREFIX}{name}"));
        let mut parts = Vec::new();
        for content in [Content::Headers, Content::Payload] {
            if let Some(sequences) = value(content.sequences_header()) {
                parts.push((content, sequences.split(',').map(str::parse).collect::<Result<_, _>>().ok()?));
            }
        }
        let (stream, stream_sequence) = (text("Stream")?, text("Sequence")?.parse().ok()?);
        // Another program may have stored it without the key.
        let original_id = || value(&format!("{ORIGINAL_PREFIX}{}", header::NATS_MESSAGE_ID));
        let key = text("Message-Id").or_else(original_id).filter(|key| !key.is_empty());
        Some(Self {
            reason: Reason::parse(&text("Reason")?),
            error: text("Error").unwrap_or_default(),
            handler: text("Handler")?,
            subject: text("Subject")?,
            consumer: text("Consumer")?,
            delivered: text("Delivered")?.parse().ok()?,
            idempotency_key: key.unwrap_or_else(|| format!("{stream}:{stream_sequence}")),
            stream,
            stream_sequence,
            stored_subject: stored.subject.to_string(),
            time: text("Time").unwrap_or_default(),
            unreadable: text(&UNREADABLE[PREFIX.len()..]),
            id: stored.headers.get(header::NATS_MESSAGE_ID).map(|id| id.as_str().to_owned()).unwrap_or_default(),
            parts_key: value(PARTS_KEY).unwrap_or_default(),
            headers: original_headers(&stored.headers),
            is_complete: parts.is_empty() && text(&UNREADABLE[PREFIX.len()..]).is_none_or(|bytes| bytes != "lost"),
            header_block: text(&HEADER_BLOCK[PREFIX.len()..]).and_then(|block| Some(BASE64.decode(block).ok()?.into())),
            parts,
            sequence: stored.sequence,
            stored_at: stored.time,
            payload: stored.payload,
        })
    }

    /// Returns the sequences of the parts of each content.
    pub(super) fn parts(&self) -> &[(Content, Vec<u64>)] {
        &self.parts
    }

    /// Returns what identifies the parts of a content.
    pub(super) fn part(&self, content: Content) -> Part<'_> {
        Part { id: &self.id, handler: &self.handler, key: &self.parts_key, content }
    }

    /// Adds the contents that are stored in messages of their own, all of them.
    pub(super) fn complete(&mut self, contents: Vec<(Content, Bytes)>) {
        self.is_complete |= !contents.is_empty();
        for (content, bytes) in contents {
            match content {
                Content::Payload => self.payload = bytes,
                Content::Headers => {
                    if self.reason == Reason::Undecodable {
                        self.header_block = Some(bytes.clone());
                    }
                    for (name, value) in kept_headers(&header_block::parse(&bytes)) {
                        self.headers.append(name.as_str(), value);
                    }
                }
            }
        }
    }

    /// Replaces the payload, which is not compressed.
    pub(super) fn set_payload(&mut self, payload: Bytes) {
        self.payload = payload;
        self.headers = self
            .headers
            .iter()
            .filter(|(name, _)| !name.to_string().eq_ignore_ascii_case(CONTENT_ENCODING))
            .flat_map(|(name, values)| values.iter().map(move |value| (name.clone(), value.clone())))
            .collect();
    }

    /// Returns `true` if `handler` is the full path of the dead letter's handler, the end of that path, or its queue.
    pub(super) fn is_of(&self, handler: &str) -> bool {
        is_named(&self.handler, &self.consumer, handler)
    }
}

/// Returns the headers of a dead letter that are those of the original message.
fn original_headers(headers: &HeaderMap) -> HeaderMap {
    let mut original = HeaderMap::new();
    for (name, values) in headers.iter() {
        let name: &str = name.as_ref();
        let is_own = name.starts_with(PREFIX) && !name.starts_with(ORIGINAL_PREFIX) && name != REPLAY_OF;
        if !is_own && !reserved::is_for_server(name) {
            values.iter().for_each(|value| original.append(name, value.clone()));
        }
    }
    original
}

impl fmt::Display for DeadLetter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Everyone who may publish to its subject chooses what it contains.
        let [handler, subject, stream, error] =
            [&self.handler, &self.subject, &self.stream, &self.error].map(|text| printable(text));
        let Self { sequence, stream_sequence, delivered, reason, .. } = self;
        let times = if *delivered == 1 { "time" } else { "times" };
        write!(
            f,
            "#{sequence} {handler}: {subject} ({stream} {stream_sequence}), delivered {delivered} {times}, {reason}: {error}"
        )
    }
}

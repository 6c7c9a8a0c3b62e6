//! A dead letter as its stream stores it.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use async_nats::HeaderMap;
use async_nats::header;
use bytes::Bytes;

use super::headers::{ORIGINAL_PREFIX, PAYLOAD_OMITTED, PREFIX};
use super::replay::Receivers;
use crate::message::replayed::{MESSAGE_ID, REPLAY_FOR, REPLAY_OF, replay_id};
use crate::message::{Outgoing, Stored, reserved};
use crate::outcome::Reason;

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
    /// The error of the last attempt with its causes, truncated to 1 KiB.
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
    /// The payload of the original message; empty if it was too large to be stored with the added headers.
    pub payload: Bytes,
    headers: HeaderMap,
    idempotency_key: String,
}

impl DeadLetter {
    /// Returns the first value of a header of the original message.
    pub fn header(&self, name: &str) -> Option<&str> {
        let kept = self.headers.get(format!("{ORIGINAL_PREFIX}{name}").as_str());
        kept.or_else(|| self.headers.get(name)).map(|value| value.as_str())
    }

    /// Returns the [`idempotency_key`](crate::Message::idempotency_key) of the original message, which a replay keeps.
    pub fn idempotency_key(&self) -> &str {
        &self.idempotency_key
    }

    /// Parses a stored message; returns `None` if it is not a dead letter.
    pub(super) fn parse(stored: Stored) -> Option<Self> {
        let text = |name: &str| Some(stored.headers.get(format!("{PREFIX}{name}").as_str())?.as_str().to_owned());
        Some(Self {
            reason: Reason::parse(&text("Reason")?),
            error: text("Error").unwrap_or_default(),
            handler: text("Handler")?,
            stream: text("Stream")?,
            stream_sequence: text("Sequence")?.parse().ok()?,
            subject: text("Subject")?,
            consumer: text("Consumer")?,
            delivered: text("Delivered")?.parse().ok()?,
            idempotency_key: text("Message-Id").unwrap_or_default(),
            sequence: stored.sequence,
            stored_at: stored.time,
            payload: stored.payload,
            headers: stored.headers,
        })
    }

    /// Returns `true` if `handler` is the full path of the dead letter's handler, or the end of that path.
    pub(super) fn is_of(&self, handler: &str) -> bool {
        let path = self.handler.strip_suffix(handler);
        path.is_some_and(|path| path.is_empty() || path.ends_with("::"))
    }

    pub(super) fn is_payload_omitted(&self) -> bool {
        self.headers.get(PAYLOAD_OMITTED).is_some()
    }

    /// Returns the original message, to be published again to `target`; `stream` is the stream of the dead letter.
    pub(super) fn to_original(&self, stream: &str, target: &str, receivers: Receivers) -> Outgoing {
        let mut headers = HeaderMap::new();
        for (name, values) in self.headers.iter() {
            let name: &str = name.as_ref();
            if !name.starts_with(PREFIX) && !reserved::is_for_server(name) {
                values.iter().for_each(|value| headers.append(name, value.clone()));
            }
        }
        let origin = format!("{stream}:{}", self.sequence);
        let stored_at = self.stored_at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
        let queue = match receivers {
            Receivers::FailedQueue => Some(&*self.consumer),
            Receivers::EveryQueue => None,
        };
        headers.insert(header::NATS_MESSAGE_ID, replay_id(&origin, stored_at, queue));
        headers.insert(header::NATS_EXPECTED_STREAM, target);
        headers.insert(REPLAY_OF, origin);
        headers.insert(MESSAGE_ID, self.idempotency_key.as_str());
        if let Some(queue) = queue {
            headers.insert(REPLAY_FOR, format!("{}.{queue}", self.stream));
        }
        Outgoing { subject: self.subject.clone().into(), payload: self.payload.clone(), headers }
    }
}

impl fmt::Display for DeadLetter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sequence, handler, subject, stream, stream_sequence, delivered, reason, error, .. } = self;
        write!(
            f,
            "#{sequence} {handler}: {subject} ({stream} {stream_sequence}), delivered {delivered} times, {reason}: {error}"
        )
    }
}

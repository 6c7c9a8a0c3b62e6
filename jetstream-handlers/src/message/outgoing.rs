//! A message to be published.

use async_nats::HeaderMap;
use async_nats::header::{self, HeaderName, HeaderValue};
use bytes::Bytes;

#[cfg(feature = "otel")]
use super::header_block;
use crate::error::{Error, ErrorKind};

/// The size in bytes of a header block without its lines.
const HEADER_OVERHEAD: usize = "NATS/1.0\r\n\r\n".len();

/// The size in bytes of a header line without its name and value.
pub(crate) const LINE_OVERHEAD: usize = ": \r\n".len();

/// The maximum size in bytes of the headers that are added when a message is sent: its id and those of an atomic batch.
#[cfg(feature = "otel")]
const ADDED_LATER: usize = 192;

/// A message to be published to a stream.
#[derive(Debug, Clone)]
pub(crate) struct Outgoing {
    pub(crate) subject: async_nats::Subject,
    /// The subject with placeholders that the event declares, of which there are few.
    #[cfg_attr(not(feature = "otel"), allow(dead_code, reason = "only the feature reads it"))]
    pub(crate) pattern: Option<&'static str>,
    pub(crate) payload: Bytes,
    pub(crate) headers: HeaderMap,
}

/// Returns the id of an attempt to publish an atomic batch; the ids of all attempts have the same length.
pub(crate) fn atomic_batch_id(prefix: &str, attempt: u32) -> String {
    format!("{prefix}.{attempt:06}")
}

impl Outgoing {
    /// Adds a new message id, unless the message has one.
    ///
    /// All attempts of a publish share the id, so that the stream stores the message once.
    pub(crate) fn with_id(mut self) -> Self {
        if self.headers.get(header::NATS_MESSAGE_ID).is_none() {
            self.headers.insert(header::NATS_MESSAGE_ID, nuid::next().as_str());
        }
        self
    }

    /// Returns the headers with this message id, unless the message has one.
    ///
    /// The message itself stays without: most have no other header, and a copy of none costs nothing.
    pub(crate) fn headers_with_id(&self, id: String) -> HeaderMap {
        let mut headers = self.headers.clone();
        if headers.get(header::NATS_MESSAGE_ID).is_none() {
            headers.insert(header::NATS_MESSAGE_ID, id);
        }
        headers
    }

    /// Returns the message with the headers of an atomic batch of `count` messages, in which it has this number (ADR-50).
    pub(crate) fn in_atomic_batch(&self, batch_id: &str, number: usize, count: usize) -> Self {
        let mut headers = self.headers.clone();
        headers.insert(header::NATS_BATCH_ID, batch_id);
        headers.insert(header::NATS_BATCH_SEQUENCE, number.to_string());
        if number == count {
            headers.insert(header::NATS_BATCH_COMMIT, "1");
        }
        Self { headers, subject: self.subject.clone(), payload: self.payload.clone(), ..*self }
    }

    /// Returns the value of a header.
    pub(crate) fn header(&self, name: HeaderName) -> Option<&str> {
        self.headers.get(name).map(HeaderValue::as_str)
    }

    /// Returns the size of the header block in bytes.
    pub(crate) fn header_size(&self) -> usize {
        let length = |name: &HeaderName| AsRef::<str>::as_ref(name).len();
        let lines = self.headers.iter().flat_map(|(name, values)| values.iter().map(move |value| (name, value)));
        let lines: usize = lines.map(|(name, value)| length(name) + value.as_str().len() + LINE_OVERHEAD).sum();
        lines + HEADER_OVERHEAD
    }

    /// Returns the number of bytes by which its headers may grow, so that a server with this `max_payload` accepts the
    /// message and a stream stores it.
    #[cfg(feature = "otel")]
    pub(crate) fn header_space(&self, max_payload: usize) -> usize {
        let of_block = header_block::MAX_SIZE.saturating_sub(self.header_size());
        max_payload.saturating_sub(self.size()).min(of_block).saturating_sub(ADDED_LATER)
    }

    /// Returns the size of the payload and the headers in bytes, which the limits of a server and a stream include.
    pub(crate) fn size(&self) -> usize {
        self.payload.len() + self.header_size()
    }

    /// Returns the size with this message id, unless the message has one.
    pub(crate) fn size_with_id(&self, id: &str) -> usize {
        if self.headers.get(header::NATS_MESSAGE_ID).is_some() {
            return self.size();
        }
        self.size() + AsRef::<str>::as_ref(&header::NATS_MESSAGE_ID).len() + id.len() + LINE_OVERHEAD
    }

    /// Checks that the message with its headers has at most `limit` bytes.
    pub(crate) fn check_size(&self, limit: usize) -> Result<(), Error> {
        self.check_size_of(self.size(), limit)
    }

    /// Checks that the message, which has this size when it is sent, has at most `limit` bytes.
    pub(crate) fn check_size_of(&self, size: usize, limit: usize) -> Result<(), Error> {
        if size <= limit {
            return Ok(());
        }
        let subject = &self.subject;
        Err(Error::new(
            ErrorKind::PayloadTooLarge,
            format!(
                "the message for `{subject}` has {size} bytes with its headers, and the server accepts {limit} (`max_payload`); publish a reference to the data, or raise the limit"
            ),
        ))
    }
}

//! Messages: delivered, stored, and to be published.

pub(crate) mod ack_subject;
mod attempt;
mod decompressed;
pub(crate) mod header_block;
mod info;
pub(crate) mod origin;
mod outgoing;
pub(crate) mod refusal;
pub(crate) mod replayed;
pub(crate) mod reserved;
mod stored;
mod unreadable;

pub(crate) use async_nats::jetstream::publish::PublishAck;
pub(crate) use attempt::{Attempt, BeginFailure, FirstSend, Pipelined, PublishFailure};
pub(crate) use decompressed::Decompressed;
#[cfg(feature = "otel")]
pub(crate) use outgoing::LINE_OVERHEAD;
pub(crate) use outgoing::{Outgoing, atomic_batch_id};
pub(crate) use stored::{Stored, nanos};
pub(crate) use unreadable::{Unreadable, unreadable};

use std::borrow::Cow;
use std::str::FromStr as _;
use std::sync::Arc;

use async_nats::header::{self, HeaderMap, HeaderName, HeaderValue};
use bytes::Bytes;

pub(crate) use ack_subject::{AckPrefix, DeliveryId};
pub use info::Info;
use origin::Origin;

use crate::partition::queue_of_partition;

/// A message as its stream delivered it: the raw payload, its subject, headers and [`Info`].
///
/// As a parameter of a handler it is the undecoded message.
/// Cloning is cheap, because clones share their data.
///
/// # Examples
///
/// ```
/// use jetstream_handlers::prelude::*;
///
/// #[subscriber(subject = "scans.>", queue = "archive")]
/// async fn archive(message: Message) -> HandlerResult {
///     println!("{} bytes on {}", message.payload().len(), message.subject());
///     Ok(())
/// }
/// ```
#[derive(Debug, Clone)]
pub struct Message {
    pub(crate) subject: async_nats::Subject,
    pub(crate) payload: Bytes,
    pub(crate) headers: Option<Arc<HeaderMap>>,
    pub(crate) info: Info,
    /// The stream from which the message was copied, for a handler that reads a derived stream.
    pub(crate) origin: Option<Arc<Origin>>,
    /// The parts of the message that the client library cannot read; the handler is not called for such a message.
    pub(crate) unreadable: Option<Arc<Unreadable>>,
    #[cfg_attr(not(feature = "compression"), allow(dead_code, reason = "only the feature reads it"))]
    pub(crate) decompressed: Decompressed,
}

impl Message {
    /// Creates a message for unit tests, to call a handler or [`FromMessage`](crate::FromMessage) with.
    ///
    /// It has no headers, the numbers of its [`Info`] are zero, and the names are empty;
    /// [`with_header`](Self::with_header) and [`with_info`](Self::with_info) add them.
    ///
    /// # Examples
    ///
    /// ```
    /// use jetstream_handlers::prelude::*;
    ///
    /// let message = Message::new("orders.created", r#"{"id": 7}"#)
    ///     .with_header("Tenant", "acme")
    ///     .with_info(Info::for_test("ORDERS", "billing").with_delivered(2));
    /// assert_eq!(message.header("Tenant"), Some("acme"));
    /// assert_eq!(message.info().delivered(), 2);
    /// ```
    pub fn new(subject: impl Into<String>, payload: impl Into<Bytes>) -> Self {
        Self {
            subject: async_nats::Subject::from(subject.into()),
            payload: payload.into(),
            headers: None,
            info: Info::default(),
            origin: None,
            unreadable: None,
            decompressed: Decompressed::default(),
        }
    }

    /// Returns a message that was read from its stream instead of being delivered.
    pub(crate) fn of_stored(stream: &str, stored: Stored) -> Self {
        let info = Info::from_stored(stream, "", 0, &stored);
        let Stored { subject, payload, headers, .. } = stored;
        let headers = (!headers.is_empty()).then(|| Arc::new(headers));
        Self { subject, payload, headers, info, origin: None, unreadable: None, decompressed: Decompressed::default() }
    }

    /// Returns the message with another header, for a unit test; a repeated name has several values.
    ///
    /// # Panics
    ///
    /// Panics if the name or the value is not valid in a message.
    #[must_use]
    #[track_caller]
    pub fn with_header(mut self, name: &str, value: &str) -> Self {
        let parsed = (HeaderName::from_str(name), HeaderValue::from_str(value), name.is_empty());
        let (Ok(header), Ok(content), false) = parsed else {
            panic!("`{name}: {value}` is not a valid header");
        };
        Arc::make_mut(self.headers.get_or_insert_default()).append(header, content);
        self
    }

    /// Returns the message with this [`Info`], for a unit test.
    #[must_use]
    pub fn with_info(mut self, info: Info) -> Self {
        self.info = info;
        self
    }

    /// Returns the subject on which the message was published.
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// Returns the payload.
    pub fn payload(&self) -> &Bytes {
        &self.payload
    }

    /// Returns the first value of a header; `None` if the message does not have the header.
    ///
    /// Names are case-sensitive.
    /// The header `Nats-Pin-Id`, with which the server names the active instance of an `ordered` handler, is not part
    /// of the message and is not returned.
    pub fn header(&self, name: &str) -> Option<&str> {
        if reserved::is_of_delivery(name) {
            return None;
        }
        self.headers.as_ref()?.get(name).map(|value| value.as_str())
    }

    /// Returns `true` if the message has no value and only marks a deletion: a delete marker that the server stores
    /// (ADR-43, `Nats-Marker-Reason`), or the deletion of a key in a key-value bucket (ADR-8, `KV-Operation`).
    pub(crate) fn is_marker(&self) -> bool {
        self.payload.is_empty()
            && (self.header(reserved::MARKER_REASON).is_some()
                || matches!(self.header("KV-Operation"), Some("DEL" | "PURGE")))
    }

    /// Returns the id by which the server names the pinned worker, if it pins one.
    pub(crate) fn pin_id(&self) -> Option<&str> {
        reserved::pin_id(self.headers.as_ref()?)
    }

    /// Returns a key that is the same at every delivery of the message, and at every replay of its dead letter.
    ///
    /// It is the id that the publisher set (`Nats-Msg-Id`), or `<stream>:<sequence>` if there is none.
    /// A replayed message has another id and another sequence; its header `Dead-Letter-Message-Id` keeps the key.
    /// Every publish of this crate has an id.
    ///
    /// # Examples
    ///
    /// ```
    /// use jetstream_handlers::prelude::*;
    ///
    /// #[subscriber(subject = "orders.paid", queue = "ledger")]
    /// async fn book(cents: u64, message: Message) -> HandlerResult {
    ///     // INSERT INTO ledger (key, cents) VALUES (..) ON CONFLICT (key) DO NOTHING
    ///     println!("{}: {cents}", message.idempotency_key());
    ///     Ok(())
    /// }
    /// ```
    pub fn idempotency_key(&self) -> Cow<'_, str> {
        let headers = self.headers.as_ref();
        let of_replay = headers.and_then(|headers| replayed::original_key(headers));
        let own = || Some(headers?.get(header::NATS_MESSAGE_ID)?.as_str()).filter(|id| !id.is_empty());
        match of_replay.or_else(own) {
            Some(key) => Cow::Borrowed(key),
            None => Cow::Owned(format!("{}:{}", self.origin_stream(), self.origin_sequence())),
        }
    }

    /// Returns `true` if the message is the replay of a dead letter that is meant for another consumer.
    pub(crate) fn is_replay_for_another(&self) -> bool {
        let Some(headers) = &self.headers else { return false };
        match &self.origin {
            None => {
                replayed::is_for_another(headers, self.info.stream(), |only| only == self.info.stream_and_consumer())
            }
            // Its partition may be another one, if their number was changed since.
            Some(origin) => replayed::is_for_another(headers, &origin.stream, |only| {
                let (stream, consumer) = only.split_once('.').unwrap_or_default();
                let queue = queue_of_partition(self.info.consumer());
                stream == origin.stream && queue.is_some() && queue_of_partition(consumer) == queue
            }),
        }
    }

    /// Replaces the subject in a derived stream by that of the original message, and records where that is stored.
    pub(crate) fn restore_origin(&mut self) {
        // The headers of an unreadable message may be known only by their block.
        let of_block = self.unreadable.as_ref().map(|it| header_block::parse(&it.header_block));
        let found = self.headers.as_deref().and_then(origin::parse);
        if let Some((origin, subject)) = found.or_else(|| origin::parse(&of_block?)) {
            (self.origin, self.subject) = (Some(Arc::new(origin)), subject);
        } else if let Some((number, subject)) = self.subject.split_once('.')
            && number.parse::<u32>().is_ok()
        {
            // Before nats-server 2.12, the header has no subject, but the stream of a group has it behind the number.
            self.subject = subject.to_owned().into();
        }
    }

    /// Returns the name of the stream that stores the original message: the one from which the server has copied it for a
    /// handler with [`partitions`](macro@crate::subscriber#partitions), otherwise that of [`info`](Self::info).
    ///
    /// # Examples
    ///
    /// ```
    /// use jetstream_handlers::prelude::*;
    ///
    /// let message = Message::new("orders.created", "7").with_info(Info::for_test("ORDERS", "billing"));
    /// assert_eq!((message.origin_stream(), message.origin_sequence()), ("ORDERS", 1));
    /// ```
    pub fn origin_stream(&self) -> &str {
        self.origin.as_ref().map_or_else(|| self.info.stream(), |origin| &origin.stream)
    }

    /// Returns the sequence of the original message in its [stream](Self::origin_stream).
    pub fn origin_sequence(&self) -> u64 {
        self.origin.as_ref().map_or_else(|| self.info.stream_sequence(), |origin| origin.stream_sequence)
    }

    /// Returns where the message is stored, and its delivery count.
    pub fn info(&self) -> &Info {
        &self.info
    }
}

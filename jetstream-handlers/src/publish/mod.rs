//! Typed publishing, acknowledged by the stream.

pub(crate) mod all;
pub(crate) mod batch;

use std::fmt;
use std::future::IntoFuture;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::header;
use async_nats::jetstream::publish::PublishAck;
use bytes::Bytes;
use serde::Serialize;

use crate::error::{Error, ErrorKind};
use crate::message::Outgoing;
use crate::rules;
use crate::transport::Transport;

/// Publishes typed values and waits until the stream has stored them.
///
/// A handler takes it as a parameter; an application gets it from [`Broker::publisher`](crate::Broker::publisher).
/// Cloning is cheap.
///
/// # Examples
///
/// ```
/// use jetstream_handlers::prelude::*;
///
/// #[subscriber(subject = "orders.created", queue = "confirmer")]
/// async fn confirm(order: u64, publisher: Publisher) -> HandlerResult {
///     publisher.publish("orders.confirmed", &order).await?;
///     Ok(())
/// }
/// ```
#[derive(Clone)]
pub struct Publisher {
    pub(crate) transport: Arc<Transport>,
}

impl fmt::Debug for Publisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Publisher")
    }
}

impl Publisher {
    pub(crate) fn new(transport: Arc<Transport>) -> Self {
        Self { transport }
    }

    /// Publishes a value as JSON, and returns after the stream stored it.
    ///
    /// The stream is found or created as for a handler.
    /// While no server answers, the publish is repeated under one message id until the publish timeout of the builder,
    /// so that an election or a restart stores it once.
    ///
    /// # Errors
    ///
    /// The value does not encode, the subject has a wildcard or no stream, the payload is too large,
    /// the stream refused it, or the time is over: then it may or may not have been stored.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future may leave the message stored or not.
    pub async fn publish<T: Serialize + ?Sized>(&self, subject: &str, value: &T) -> Result<PublishAck, Error> {
        self.publish_message(subject, value).await
    }

    /// Publishes bytes as they are.
    pub(crate) async fn publish_bytes(&self, subject: &str, payload: Bytes) -> Result<PublishAck, Error> {
        let mut message = self.publish_message(subject, &());
        message.payload = Ok(payload);
        message.await
    }

    /// Begins a publish with headers or conditions; it is sent when awaited.
    ///
    /// # Examples
    ///
    /// ```
    /// # async fn send(publisher: jetstream_handlers::Publisher) -> Result<(), jetstream_handlers::Error> {
    /// let ack = publisher
    ///     .publish_message("orders.created", &123)
    ///     .header("Tenant", "eu")
    ///     .message_id("order-123")
    ///     .await?;
    /// assert!(!ack.duplicate);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// Awaiting gives the errors of [`publish`](Self::publish), and
    /// [`WrongLastSequence`](crate::ErrorKind::WrongLastSequence) when a condition does not hold.
    /// After a lost answer the stream is read, to tell this message from another's (`$JS.API.STREAM.NAMES`, `STREAM.INFO`
    /// and `STREAM.MSG.GET`); where that cannot be told, it is a [`Timeout`](crate::ErrorKind::Timeout).
    pub fn publish_message<T: Serialize + ?Sized>(&self, subject: &str, value: &T) -> PublishMessage<'_> {
        let payload = serde_json::to_vec(value).map(Bytes::from).map_err(|error| {
            let name = std::any::type_name::<T>();
            Error::new(ErrorKind::Encode, format!("`{name}` does not encode as JSON for subject `{subject}`"))
                .with_source(error)
        });
        PublishMessage {
            publisher: self,
            subject: subject.to_owned(),
            payload,
            headers: HeaderMap::new(),
            problem: None,
        }
    }
}

/// A publish under way: add headers and conditions, then await it.
#[must_use = "nothing is published until it is awaited"]
pub struct PublishMessage<'a> {
    publisher: &'a Publisher,
    subject: String,
    payload: Result<Bytes, Error>,
    headers: HeaderMap,
    problem: Option<String>,
}

impl fmt::Debug for PublishMessage<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PublishMessage").field("subject", &self.subject).field("headers", &self.headers).finish()
    }
}

impl PublishMessage<'_> {
    /// Adds a header; a name given twice keeps both values.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        use std::str::FromStr as _;
        match (header::HeaderName::from_str(name), header::HeaderValue::from_str(value)) {
            // The library takes an empty name, and sends a line that nobody can read.
            (Ok(header), Ok(value)) if !name.is_empty() => self.headers.append(header, value),
            _ => {
                let problem = format!(
                    "header `{name}: {value:?}` is not one: a name has no space or colon, a value no line break"
                );
                self.problem.get_or_insert(problem);
            }
        }
        self
    }

    /// Sets the id by which the stream drops duplicates within its `duplicate_window`.
    ///
    /// Without it each publish gets an id of its own, so that only its own repetitions are duplicates.
    pub fn message_id(self, id: &str) -> Self {
        self.single(header::NATS_MESSAGE_ID, id)
    }

    /// Stores the message only if the last one on its subject has this sequence; 0 means that there is none.
    pub fn expect_last_subject_sequence(self, sequence: u64) -> Self {
        self.single(header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, &sequence.to_string())
    }

    /// Stores the message only if the last one of the stream has this sequence.
    pub fn expect_last_sequence(self, sequence: u64) -> Self {
        self.single(header::NATS_EXPECTED_LAST_SEQUENCE, &sequence.to_string())
    }

    /// Stores the message only in the stream of this name.
    pub fn expect_stream(self, stream: &str) -> Self {
        self.single(header::NATS_EXPECTED_STREAM, stream)
    }

    /// Removes the message from the stream after this time, rounded up to whole seconds.
    ///
    /// It needs a server from 2.11 and a stream with `allow_message_ttl` (ADR-43).
    pub fn ttl(self, ttl: Duration) -> Self {
        let seconds = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
        self.single(header::NATS_MESSAGE_TTL, &seconds.max(1).to_string())
    }

    fn single(mut self, name: header::HeaderName, value: &str) -> Self {
        use std::str::FromStr as _;
        match header::HeaderValue::from_str(value) {
            Ok(value) => self.headers.insert(name, value),
            Err(_) => {
                self.problem.get_or_insert(format!("`{value:?}` cannot be a `{name}`: it has a line break"));
            }
        }
        self
    }

    /// What is sent, without an id unless the caller gave one, or why it cannot be.
    pub(crate) fn outgoing(self) -> Result<Outgoing, Error> {
        let subject = &self.subject;
        if let Some(problem) = self.problem.or_else(|| rules::publish_subject_problem(subject)) {
            return Err(Error::new(ErrorKind::Config, format!("cannot publish to `{subject}`: {problem}")));
        }
        Ok(Outgoing { subject: self.subject.into(), payload: self.payload?, headers: self.headers })
    }

    async fn send(self) -> Result<PublishAck, Error> {
        let transport = &self.publisher.transport;
        transport.publish(identified(self.outgoing()?)).await
    }
}

impl<'a> IntoFuture for PublishMessage<'a> {
    type Output = Result<PublishAck, Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send + 'a>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.send())
    }
}

/// Gives a message an id, unless it has one: one for all repetitions of its publish, so that it is stored once.
pub(crate) fn identified(mut message: Outgoing) -> Outgoing {
    if message.headers.get(header::NATS_MESSAGE_ID).is_none() {
        message.headers.insert(header::NATS_MESSAGE_ID, nuid::next().as_str());
    }
    message
}

/// What a header block needs besides the names and values of its headers.
const HEADER_OVERHEAD: usize = "NATS/1.0\r\n\r\n".len();

/// Refuses what the server would refuse, before it is sent.
pub(crate) fn check_size(message: &Outgoing, limit: usize) -> Result<(), Error> {
    let length = |name: &header::HeaderName| AsRef::<str>::as_ref(name).len();
    let lines = message.headers.iter().flat_map(|(name, values)| values.iter().map(move |value| (name, value)));
    let headers: usize = lines.map(|(name, value)| length(name) + value.as_str().len() + 4).sum();
    let size = message.payload.len() + headers + HEADER_OVERHEAD;
    if size <= limit {
        return Ok(());
    }
    let subject = &message.subject;
    Err(Error::new(
        ErrorKind::PayloadTooLarge,
        format!(
            "the message for `{subject}` has {size} bytes with its headers, and the server takes {limit} (`max_payload`); publish a reference to the data, or raise the limit"
        ),
    ))
}

/// The error of a publish on a connection that was closed.
pub(crate) fn closed(subject: &str) -> Error {
    Error::new(
        ErrorKind::Closed,
        format!("cannot publish to `{subject}`: the broker is disconnected; connect a new one"),
    )
}

/// A stream's refusal as an error of ours.
pub(crate) fn refused(message: &Outgoing, error: async_nats::jetstream::Error) -> Error {
    let subject = &message.subject;
    let (kind, why) = why_refused(Some(message), &error);
    Error::new(kind, format!("the message on `{subject}` was not stored: {why}")).with_source(error)
}

/// What a stream's refusal means; of a batch it is not always known which message it was said of.
pub(crate) fn why_refused(message: Option<&Outgoing>, error: &async_nats::jetstream::Error) -> (ErrorKind, String) {
    let expected = message.and_then(|message| message.headers.get(header::NATS_EXPECTED_STREAM));
    let elsewhere =
        format!("it belongs to a stream other than the expected `{}`", expected.map_or("one", |name| name.as_str()));
    let code = error.error_code().0;
    let (kind, why) = match code {
        10071 | 10164 | 10070 => (ErrorKind::WrongLastSequence, "the last sequence is not the expected one"),
        10060 => (ErrorKind::StreamMismatch, elsewhere.as_str()),
        10054 => (ErrorKind::PayloadTooLarge, "it is larger than the stream takes (`max_msg_size`)"),
        10077 => (ErrorKind::Publish, "the stream is full; raise its limits, or let it discard old messages"),
        10166 => (
            ErrorKind::Publish,
            "the stream takes no time to live; turn `allow_msg_ttl` on in its configuration on the server (`allow_message_ttl` in `stream::Config`)",
        ),
        _ => (ErrorKind::Publish, "the stream refused it"),
    };
    match kind {
        // The server's words have the number that it found.
        ErrorKind::WrongLastSequence => (kind, format!("{why}: {error}")),
        _ => (kind, why.to_owned()),
    }
}

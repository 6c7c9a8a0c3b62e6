//! A message to be published, with headers and conditions.

use std::fmt;
use std::future::IntoFuture;
use std::pin::Pin;
use std::str::FromStr as _;
use std::sync::Arc;
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::header::{self, HeaderName, HeaderValue};
use async_nats::jetstream::publish::PublishAck;
use bytes::Bytes;

use super::Publisher;
use super::store::publish;
#[cfg(feature = "compression")]
use crate::codec::compression::{CONTENT_ENCODING, Encoding};
use crate::codec::{CONTENT_TYPE, Encoded};
use crate::error::printable::printable;
use crate::error::{Error, ErrorKind};
use crate::event::{self, Event};
use crate::message::{Outgoing, header_block, reserved};
use crate::spelling;

/// The longest time to live: a hundred years.
const MAX_TTL: Duration = Duration::from_secs(36_500 * 24 * 60 * 60);

/// A message to which headers and conditions can be added; it is sent when awaited.
///
/// [`Publisher::publish_message`], [`Publisher::publish_bytes`] and [`Broker::publish_message`](crate::Broker::publish_message) return it.
/// It belongs to the broker that returned it: [`publish_all`](Publisher::publish_all),
/// [`publish_atomic`](Publisher::publish_atomic) and [`ingest`](Publisher::ingest) of another broker refuse it.
///
/// An invalid header or condition is reported when the message is sent.
///
/// # Examples
///
/// ```
/// # async fn send(broker: jetstream_handlers::Broker) -> Result<(), jetstream_handlers::Error> {
/// use std::time::Duration;
///
/// let first = broker.publish_message("orders.7", "created").expect_last_subject_sequence(0).await?;
/// broker
///     .publish_message("orders.7", "paid")
///     .header("Tenant", "eu")
///     .message_id("order-7-paid")
///     .expect_last_subject_sequence(first.sequence)
///     .await?;
/// broker.publish_message("offers.today", "soup").expect_stream("OFFERS").ttl(Duration::from_secs(3600)).await?;
/// # Ok(()) }
/// ```
///
/// # Errors
///
/// Awaiting it returns the errors of [`Publisher::publish_message`].
///
/// # Cancel safety
///
/// Nothing is sent before it is awaited.
/// If its future is dropped, the message may be stored or not.
#[must_use = "nothing is published until it is awaited"]
pub struct PublishMessage {
    publisher: Publisher,
    subject: String,
    /// The subject with placeholders that the event declares.
    pattern: Option<&'static str>,
    payload: Result<Bytes, Error>,
    /// The content type of the payload, unless the headers have one.
    content_type: Option<&'static str>,
    headers: HeaderMap,
    /// The first header or condition that cannot be sent.
    problem: Option<String>,
}

impl PublishMessage {
    pub(super) fn new(publisher: Publisher, subject: &str, encoded: Result<Encoded, Error>) -> Self {
        let (payload, content_type) = match encoded {
            Ok(Encoded { payload, content_type }) => (Ok(payload), content_type),
            Err(error) => (Err(error), None),
        };
        let subject = publisher.transport.settings().subject(subject).into_owned();
        Self { publisher, subject, pattern: None, payload, content_type, headers: HeaderMap::new(), problem: None }
    }

    /// Adds `amount` to the counter of the subject, in a stream with `allow_msg_counter` (ADR-49); the payload must be
    /// empty, as with [`Publisher::publish_bytes`](crate::Publisher::publish_bytes).
    ///
    /// The new value is the `value` of the ack.
    pub fn increment(mut self, amount: i64) -> Self {
        self.headers.insert(INCREMENT, format!("{amount:+}"));
        self
    }

    /// Adds a header; a second header of the same name keeps both values.
    ///
    /// A name must not be empty or contain a space or a colon, and a value must not contain a line break.
    /// Names that begin with `Nats-` belong to the server, which acts on many of them, and are refused: copied from
    /// another message, they could replace, expire or delete messages of the stream.
    /// The other methods set those that a publisher needs.
    ///
    /// A `Content-Type` replaces that of the payload's format; it must be one that its readers recognize.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        if reserved::is_for_server(name) {
            self.problem.get_or_insert_with(|| reserved_header(name));
            return self;
        }
        match header_block::header(name, value) {
            Some((name, value)) => self.headers.append(name, value),
            None => {
                let problem = format!(
                    "header `{}: {value:?}` is invalid: a name has no space or colon, a value no line break",
                    printable(name)
                );
                self.problem.get_or_insert(problem);
            }
        }
        self
    }

    /// Sets the id by which the stream drops duplicates within its `duplicate_window`.
    ///
    /// Defaults to a generated id for each publish, so that only its own retries are dropped as duplicates.
    pub fn message_id(self, id: &str) -> Self {
        self.single(header::NATS_MESSAGE_ID, id)
    }

    /// Stores the message only if the last message on its subject has this sequence; 0 means that the subject has no
    /// message.
    pub fn expect_last_subject_sequence(self, sequence: u64) -> Self {
        self.single(header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, &sequence.to_string())
    }

    /// Stores the message only if the last message of the stream has this sequence; 0 means that the stream has no
    /// message.
    pub fn expect_last_sequence(self, sequence: u64) -> Self {
        self.single(header::NATS_EXPECTED_LAST_SEQUENCE, &sequence.to_string())
    }

    /// Stores the message only in the stream of this name.
    pub fn expect_stream(self, stream: &str) -> Self {
        let stream = self.publisher.transport.settings().known_stream(stream).into_owned();
        self.single(header::NATS_EXPECTED_STREAM, &stream)
    }

    /// Sets the time after which the stream removes the message, rounded up to whole seconds; at most 36,500 days.
    ///
    /// Zero and longer times are refused: the server computes the end of a time to live in nanoseconds since 1970 in 64
    /// bits, and removes a message at once whose time does not fit (`stream.go`, `parseMessageTTL`).
    /// It requires a server from 2.11 and a stream with `allow_message_ttl` (ADR-43).
    pub fn ttl(mut self, ttl: Duration) -> Self {
        if ttl.is_zero() || ttl > MAX_TTL {
            let problem = format!(
                "the time to live is {ttl:?}; expected more than zero and at most 36500 days, or leave it out so that the limits of the stream apply"
            );
            self.problem.get_or_insert(problem);
            return self;
        }
        let seconds = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
        self.single(header::NATS_MESSAGE_TTL, &seconds.to_string())
    }

    /// Compresses the payload with gzip, and sets the header `Content-Encoding: gzip`; behind the feature
    /// `compression`.
    ///
    /// Handlers of programs with the feature decompress it. An empty payload stays empty.
    ///
    /// # Examples
    ///
    /// ```
    /// # async fn send(broker: jetstream_handlers::Broker) -> Result<(), jetstream_handlers::Error> {
    /// broker.publish_message("reports.written", &"a long text".repeat(1000)).gzip().await?;
    /// # Ok(()) }
    /// ```
    #[cfg(feature = "compression")]
    pub fn gzip(self) -> Self {
        self.compressed(Encoding::Gzip)
    }

    /// Compresses the payload with zstd at its lowest level, and sets the header `Content-Encoding: zstd`; behind the
    /// feature `compression`.
    ///
    /// Handlers of programs with the feature decompress it. An empty payload stays empty.
    ///
    /// # Examples
    ///
    /// ```
    /// # async fn send(broker: jetstream_handlers::Broker) -> Result<(), jetstream_handlers::Error> {
    /// broker.publish_message("reports.written", &"a long text".repeat(1000)).zstd().await?;
    /// # Ok(()) }
    /// ```
    #[cfg(feature = "compression")]
    pub fn zstd(self) -> Self {
        self.compressed(Encoding::Zstd)
    }

    #[cfg(feature = "compression")]
    fn compressed(mut self, encoding: Encoding) -> Self {
        let Ok(payload) = &mut self.payload else { return self };
        if payload.is_empty() {
            return self;
        }
        if let Some(already) = self.headers.get(CONTENT_ENCODING) {
            let problem = format!("the payload has the `{CONTENT_ENCODING}` `{already}` already; compress it once");
            self.problem.get_or_insert(problem);
            return self;
        }
        match encoding.compress(payload) {
            Ok(compressed) => *payload = compressed.into(),
            Err(error) => {
                self.problem.get_or_insert(format!("the payload cannot be compressed: {error}"));
            }
        }
        self.single(CONTENT_ENCODING, encoding.name())
    }

    /// Sets the subject that the event declares.
    pub(super) fn declared_by<E: Event + ?Sized>(mut self) -> Self {
        let declared = self.publisher.transport.settings().declared(&self.subject);
        self.pattern = event::pattern_of::<E>(declared);
        self
    }

    /// Sets a header that has one value.
    fn single(mut self, name: HeaderName, value: &str) -> Self {
        match HeaderValue::from_str(value) {
            Ok(value) => self.headers.insert(name, value),
            Err(_) => {
                self.problem.get_or_insert(format!("`{value:?}` cannot be a `{name}`: it has a line break"));
            }
        }
        self
    }

    /// Returns the message in the form that `publisher` sends, with an id only if the caller set one.
    ///
    /// Fails if the message belongs to another broker.
    pub(super) fn outgoing_of(self, publisher: &Publisher) -> Result<Outgoing, Error> {
        let (own, message) = self.into_parts();
        let message = message?;
        if Arc::ptr_eq(&own.transport, &publisher.transport) {
            return Ok(message);
        }
        let text = format!(
            "cannot publish to `{}`: the message belongs to another broker; make it with `publish_message` of the broker that publishes it",
            message.subject
        );
        Err(Error::new(ErrorKind::Config, text))
    }

    fn into_parts(mut self) -> (Publisher, Result<Outgoing, Error>) {
        if let Some(content_type) = self.content_type.take()
            && self.headers.get(CONTENT_TYPE).is_none()
        {
            self = self.single(CONTENT_TYPE, content_type);
        }
        let Self { publisher, subject, pattern, payload, headers, problem, .. } = self;
        let is_encoded = payload.is_ok();
        let message = match problem.or_else(|| spelling::publish_subject_problem(&subject)).filter(|_| is_encoded) {
            Some(problem) => {
                let text = format!("cannot publish to `{}`: {}", printable(&subject), printable(&problem));
                Err(Error::new(ErrorKind::Config, text))
            }
            None => payload.map(|payload| Outgoing { subject: subject.into(), pattern, payload, headers }),
        };
        (publisher, message)
    }
}

/// The header of a message that changes a counter.
const INCREMENT: &str = "Nats-Incr";

/// Returns the problem of a header that belongs to the server, with the method that sets it.
fn reserved_header(name: &str) -> String {
    let is = |header: HeaderName| name.eq_ignore_ascii_case(header.as_ref());
    let instead = if is(header::NATS_MESSAGE_ID) {
        "use `message_id`"
    } else if is(header::NATS_EXPECTED_STREAM) {
        "use `expect_stream`"
    } else if is(header::NATS_EXPECTED_LAST_SEQUENCE) {
        "use `expect_last_sequence`"
    } else if is(header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE) {
        "use `expect_last_subject_sequence`"
    } else if is(header::NATS_MESSAGE_TTL) {
        "use `ttl`"
    } else if name.eq_ignore_ascii_case(INCREMENT) {
        "use `increment`"
    } else {
        "leave it out, or choose another name"
    };
    format!("header `{}` belongs to the server; {instead}", printable(name))
}

impl fmt::Debug for PublishMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PublishMessage").field("subject", &self.subject).field("headers", &self.headers).finish()
    }
}

impl IntoFuture for PublishMessage {
    type Output = Result<PublishAck, Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        let (publisher, message) = self.into_parts();
        match message.map(Outgoing::with_id) {
            Ok(message) => Box::pin(async move { publish(&publisher.transport, message).await }),
            Err(error) => Box::pin(std::future::ready(Err(error))),
        }
    }
}

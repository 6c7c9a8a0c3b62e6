//! The publisher of typed values.

use std::fmt;
use std::sync::Arc;

use async_nats::jetstream::publish::PublishAck;
use bytes::Bytes;

use super::PublishMessage;
use crate::codec::{DefaultCodec, EncodeError, Encoded, Payload};
use crate::error::{Error, ErrorKind};
use crate::event::{self, Event, Identity};
use crate::transport::Transport;

/// A publisher of typed values, which waits until the stream has stored them.
///
/// A handler takes it as a parameter; [`Broker::publisher`](crate::Broker::publisher) returns it to an application.
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
    pub(super) transport: Arc<Transport>,
}

impl Publisher {
    pub(crate) fn new(transport: Arc<Transport>) -> Self {
        Self { transport }
    }

    /// Returns a subject without the prefix of the environment.
    pub(crate) fn declared<'a>(&self, subject: &'a str) -> &'a str {
        self.transport.settings().declared(subject)
    }

    /// Returns the format of values that name none.
    pub(crate) fn codec(&self) -> &DefaultCodec {
        &self.transport.settings().codec
    }

    /// Publishes a value, and returns after the stream has stored it.
    ///
    /// The value is encoded in the format of the broker, which is JSON unless
    /// [`Builder::codec`](crate::Builder::codec) sets another, or in that of its own type, such as `MessagePack<T>`.
    /// If no stream covers the subject, one is created as for a handler.
    /// While no server answers, the message is sent again under the same message id until the [publish
    /// timeout](crate::Builder::publish_timeout), so that it is stored once even if a server restarts or a leader is
    /// elected meanwhile.
    /// While no server is connected, nothing is queued, and nothing is sent after the timeout.
    /// The error states whether the message may be stored; a message that was never sent is not.
    ///
    /// [`PublishAck::duplicate`](async_nats::jetstream::publish::PublishAck::duplicate) is `true` if an earlier publish
    /// of the application has stored a message of the same id.
    /// It is `false` for a message that this publish had to send again, whose first answer was lost: whether an earlier
    /// publish had stored it as well cannot be known then.
    ///
    /// With [`Builder::domain`](crate::Builder::domain), only the ack of a stream of that domain counts, although a
    /// stream of a leaf node may store the message too.
    ///
    /// # Examples
    ///
    /// ```
    /// # async fn send(publisher: jetstream_handlers::Publisher) -> Result<(), jetstream_handlers::Error> {
    /// let ack = publisher.publish("orders.created", &123).await?;
    /// println!("message {} of stream {}", ack.sequence, ack.stream);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// | kind | reason |
    /// |---|---|
    /// | [`Encode`](ErrorKind::Encode) | the value cannot be encoded, for example because it contains a NaN, which JSON does not have |
    /// | [`Config`](ErrorKind::Config) | the subject is invalid or has a wildcard |
    /// | [`PayloadTooLarge`](ErrorKind::PayloadTooLarge) | the message exceeds `max_payload` of the server or `max_msg_size` of the stream |
    /// | [`StreamNotFound`](ErrorKind::StreamNotFound) | no stream covers the subject, and none can be created |
    /// | [`StreamMismatch`](ErrorKind::StreamMismatch), [`StreamOverlap`](ErrorKind::StreamOverlap) | the stream that the application declares for the subject conflicts with those on the server, or the stream acknowledges no message (`no_ack`) |
    /// | [`Publish`](ErrorKind::Publish) | the stream refused the message, or a subscriber that is not a stream answered |
    /// | [`Authorization`](ErrorKind::Authorization) | the user may not publish to the subject, or not subscribe to the inbox of the answer |
    /// | [`Closed`](ErrorKind::Closed) | the broker is disconnected |
    /// | [`Timeout`](ErrorKind::Timeout) | the publish timeout has passed; the text states whether the message may be stored |
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the message may be stored or not.
    pub async fn publish<T: Payload + ?Sized>(&self, subject: &str, value: &T) -> Result<PublishAck, Error> {
        self.publish_message(subject, value).await
    }

    /// Returns a message with an event, its subject and its message id; it is sent when awaited.
    ///
    /// The id that the stream compares is that of the event with its subject, so that events of different types can have
    /// the same id.
    /// A [`version`](Event::VERSION) is sent in the header `Event-Version`.
    ///
    /// # Examples
    ///
    /// ```
    /// use jetstream_handlers::prelude::*;
    /// use serde::Serialize;
    ///
    /// #[derive(Event, Serialize)]
    /// #[event(subject = "orders.{region}.paid", id = "id")]
    /// struct OrderPaid {
    ///     id: u64,
    ///     region: String,
    /// }
    ///
    /// #[subscriber(subject = "payments.received", queue = "payments")]
    /// async fn paid(id: u64, publisher: Publisher) -> HandlerResult {
    ///     let paid = OrderPaid { id, region: "eu".to_owned() };
    ///     publisher.send(&paid).header("Tenant", "acme").await?;
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// Awaiting the message returns the errors of [`publish_message`](Self::publish_message), and
    /// [`Encode`](ErrorKind::Encode) if a field of the event cannot be a token of its subject.
    pub fn send<E: Event + ?Sized>(&self, event: &E) -> PublishMessage {
        let subject = match event.subject() {
            Ok(subject) => subject,
            Err(error) => return PublishMessage::new(self.clone(), E::PATTERN, Err(error)),
        };
        let Identity { id, headers } = Identity::of(event, &subject);
        let mut message = self.encoded::<E>(&subject, event::encode(event, self.codec())).declared_by::<E>();
        if let Some(id) = id {
            message = message.message_id(&id);
        }
        headers.iter().fold(message, |message, (name, value)| message.header(name, value))
    }

    /// Returns a message whose payload is these bytes as they are, or nothing; it is sent when awaited.
    ///
    /// It is for payloads that are encoded already, and for messages that consist of their headers: a counter
    /// ([`increment`](PublishMessage::increment), ADR-49), or the tombstone of a key (`KV-Operation`, ADR-8).
    /// [`publish`](Self::publish) encodes bytes as a JSON array, and `()` as `null`; with [`Raw`](crate::Raw), it
    /// publishes bytes as they are, too.
    ///
    /// # Examples
    ///
    /// ```
    /// # async fn send(publisher: jetstream_handlers::Publisher) -> Result<(), jetstream_handlers::Error> {
    /// publisher.publish_bytes("images.scanned", vec![0x89, b'P', b'N', b'G']).await?;
    /// let ack = publisher.publish_bytes("visits.home", "").increment(1).await?;
    /// println!("the counter is {:?}", ack.value);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// Awaiting the message returns the errors of [`publish_message`](Self::publish_message), except for
    /// [`Encode`](ErrorKind::Encode).
    pub fn publish_bytes(&self, subject: &str, payload: impl Into<Bytes>) -> PublishMessage {
        PublishMessage::new(self.clone(), subject, Ok(Encoded { payload: payload.into(), content_type: None }))
    }

    /// Returns a message to which headers and conditions can be added; it is sent when awaited.
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
    /// Awaiting the message returns the errors of [`publish`](Self::publish).
    /// If a condition does not hold, the kind is [`WrongLastSequence`](ErrorKind::WrongLastSequence), or
    /// [`StreamMismatch`](ErrorKind::StreamMismatch) for [`expect_stream`](PublishMessage::expect_stream).
    /// The kind is [`Config`](ErrorKind::Config) for a header or an id that cannot be sent, and for a
    /// [`ttl`](PublishMessage::ttl) on a server before 2.11.
    ///
    /// If the answer to a message with a condition was lost, the stream is read to distinguish this message from
    /// another one
    /// (`$JS.API.STREAM.NAMES`, `STREAM.INFO` and `STREAM.MSG.GET`).
    /// If that is not possible, the kind is [`Timeout`](ErrorKind::Timeout).
    ///
    /// # Cancel safety
    ///
    /// Dropping the message before it is awaited sends nothing.
    /// If the future is dropped, the message may be stored or not.
    pub fn publish_message<T: Payload + ?Sized>(&self, subject: &str, value: &T) -> PublishMessage {
        self.encoded::<T>(subject, value.encode_payload(self.codec()))
    }

    /// Returns a message with a value of this type.
    fn encoded<T: ?Sized>(&self, subject: &str, encoded: Result<Encoded, EncodeError>) -> PublishMessage {
        let encoded = encoded.map_err(|EncodeError { format, source }| {
            let name = std::any::type_name::<T>();
            let text = format!("`{name}` does not encode as {format} for subject `{subject}`: {source}");
            Error::new(ErrorKind::Encode, text).with_source(source)
        });
        PublishMessage::new(self.clone(), subject, encoded)
    }
}

impl fmt::Debug for Publisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Publisher")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::publish::PublishAll;

    fn assert_send<T: Send>() {}
    fn assert_sync<T: Sync>() {}

    #[test]
    fn publisher_and_messages_cross_threads() {
        assert_send::<Publisher>();
        assert_sync::<Publisher>();
        assert_send::<PublishMessage>();
        assert_sync::<PublishMessage>();
        assert_send::<PublishAll<'_>>();
    }
}

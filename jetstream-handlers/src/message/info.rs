//! The origin and the delivery count of a message.

use std::time::SystemTime;

use async_nats::Subject;

use super::Stored;
use super::ack_subject::{AckPrefix, AckSubject, DeliveryId};
use super::stored::nanos;

/// The origin and the delivery count of a message, parsed from its ack subject (ADR-15).
///
/// # Examples
///
/// ```
/// use jetstream_handlers::prelude::*;
///
/// #[subscriber(subject = "orders.created", queue = "billing")]
/// async fn bill(order: u64, info: Info) -> HandlerResult {
///     println!("order {order}, delivery {} of message {}", info.delivered(), info.stream_sequence());
///     Ok(())
/// }
///
/// # async fn test() {
/// // In a unit test:
/// let info = Info::for_test("ORDERS", "billing").with_delivered(2);
/// assert!(bill(7, info).await.is_ok());
/// # }
/// ```
#[derive(Debug, Clone, Default)]
pub struct Info(AckSubject);

/// Values for unit tests.
impl Info {
    /// Returns the info of the first message of a stream in its first delivery, stored now, to call a handler or
    /// [`FromMessage`](crate::FromMessage) in a unit test.
    pub fn for_test(stream: &str, consumer: &str) -> Self {
        let id = DeliveryId {
            delivered: 1,
            stream_sequence: 1,
            consumer_sequence: 1,
            stored_at: nanos(SystemTime::now()),
            ..DeliveryId::default()
        };
        AckPrefix::new(stream, consumer).delivery(id).into()
    }

    /// Returns the info with another [`stream_sequence`](Self::stream_sequence), for a unit test.
    #[must_use]
    pub fn with_stream_sequence(self, stream_sequence: u64) -> Self {
        let id = DeliveryId { stream_sequence, ..self.id() };
        self.rebuilt(id, self.pending())
    }

    /// Returns the info with another [`consumer_sequence`](Self::consumer_sequence), for a unit test.
    #[must_use]
    pub fn with_consumer_sequence(self, consumer_sequence: u64) -> Self {
        let id = DeliveryId { consumer_sequence, ..self.id() };
        self.rebuilt(id, self.pending())
    }

    /// Returns the info with another number of deliveries, for a unit test.
    #[must_use]
    pub fn with_delivered(self, delivered: u64) -> Self {
        let id = DeliveryId { delivered, ..self.id() };
        self.rebuilt(id, self.pending())
    }

    /// Returns the info with another time of storing, for a unit test; a time before 1970 becomes 1970.
    #[must_use]
    pub fn with_stored_at(self, stored_at: SystemTime) -> Self {
        let id = DeliveryId { stored_at: nanos(stored_at), ..self.id() };
        self.rebuilt(id, self.pending())
    }

    /// Returns the info with another number of [`pending`](Self::pending) messages, for a unit test.
    #[must_use]
    pub fn with_pending(self, pending: u64) -> Self {
        self.rebuilt(self.id(), pending)
    }

    fn rebuilt(&self, id: DeliveryId, pending: u64) -> Self {
        self.ack_prefix().delivery_with_pending(id, pending).into()
    }
}

impl Info {
    /// Parses an ack subject; returns `None` for any other subject.
    pub(crate) fn parse(ack_subject: Subject) -> Option<Self> {
        AckSubject::parse(ack_subject).map(Self)
    }

    /// Parses the ack subject of another delivery of the same consumer; returns the subject if it belongs to another
    /// consumer.
    pub(crate) fn parse_same_consumer(&self, ack_subject: Subject) -> Result<Self, Subject> {
        self.0.parse_same_consumer(ack_subject).map(Self)
    }

    /// Returns the info of a message that was read from its stream instead of being delivered.
    pub(crate) fn from_stored(stream: &str, consumer: &str, delivered: u64, stored: &Stored) -> Self {
        let id = DeliveryId {
            delivered,
            stream_sequence: stored.sequence,
            stored_at: nanos(stored.time),
            ..DeliveryId::default()
        };
        AckPrefix::new(stream, consumer).delivery(id).into()
    }

    /// Returns the subject to which the delivery is acknowledged.
    pub(crate) fn ack_subject(&self) -> &Subject {
        self.0.subject()
    }

    pub(crate) fn into_ack_subject(self) -> Subject {
        self.0.into_subject()
    }

    /// Returns `true` unless the server counts this delivery as the first one of its message; deliveries that were lost
    /// count.
    pub(crate) fn is_redelivered(&self) -> bool {
        self.0.is_redelivered()
    }

    /// Returns `true` if deliveries of the message were lost, which [`delivered`](Self::delivered) does not count.
    pub(crate) fn has_lost_deliveries(&self) -> bool {
        self.0.has_lost_deliveries()
    }

    /// Subtracts deliveries that were no attempts from the delivery count.
    pub(crate) fn discount(&mut self, lost: u64) {
        self.0.discount(lost);
    }

    /// Increments the delivery count, for an `ordered` handler, or one with a `key`, that is called again without a
    /// delivery.
    pub(crate) fn count_attempt(&mut self) {
        self.0.count_attempt();
    }

    /// Replaces the consumer sequence in the ack subject; [`consumer_sequence`](Self::consumer_sequence) does not
    /// change.
    pub(crate) fn set_ack_sequence(&mut self, consumer_sequence: u64) {
        self.0.set_ack_sequence(consumer_sequence);
    }

    /// Sets the incarnation of the consumer that made the delivery.
    pub(crate) fn set_incarnation(&mut self, incarnation: u32) {
        self.0.set_incarnation(incarnation);
    }

    /// Sets the time at which the delivery arrived, on the clock of the handler's incarnations.
    pub(crate) fn set_arrived(&mut self, arrived: u32) {
        self.0.set_arrived(arrived);
    }

    pub(crate) fn id(&self) -> DeliveryId {
        self.0.id()
    }

    pub(crate) fn ack_prefix(&self) -> AckPrefix {
        self.0.prefix()
    }

    /// Returns `<stream>.<consumer>`.
    pub(crate) fn stream_and_consumer(&self) -> &str {
        self.0.stream_and_consumer()
    }

    /// Returns a wildcard that covers the acks of all deliveries of the consumer.
    pub(crate) fn ack_wildcard(&self) -> String {
        self.0.wildcard()
    }

    /// Returns the name of the stream that stores the message.
    pub fn stream(&self) -> &str {
        self.0.stream()
    }

    /// Returns the name of the durable consumer that delivered the message: the handler's `queue`.
    pub fn consumer(&self) -> &str {
        self.0.consumer()
    }

    /// Returns the message's sequence in its stream.
    ///
    /// A replayed dead letter has a new one; [`Message::idempotency_key`](crate::Message::idempotency_key) stays the
    /// same.
    pub fn stream_sequence(&self) -> u64 {
        self.id().stream_sequence
    }

    /// Returns the sequence of this delivery in its consumer.
    pub fn consumer_sequence(&self) -> u64 {
        self.id().consumer_sequence
    }

    /// Returns the number of deliveries of the message, including this one: 1 at the first delivery.
    ///
    /// Every delivery of the server counts, including one that a stopping process handed back, except for those that
    /// this process knows to be lost with a connection.
    /// An `ordered` handler is called again without another delivery; these attempts count as well.
    pub fn delivered(&self) -> u64 {
        self.id().delivered
    }

    /// Returns the time at which the stream stored the message.
    pub fn stored_at(&self) -> SystemTime {
        self.0.stored_at()
    }

    /// Returns the number of messages that the consumer had not yet delivered after this one.
    pub fn pending(&self) -> u64 {
        self.0.pending()
    }
}

impl From<AckSubject> for Info {
    fn from(ack_subject: AckSubject) -> Self {
        Self(ack_subject)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    #[test]
    fn info_of_a_unit_test_has_the_given_values() {
        let first = Info::for_test("ORDERS", "billing");
        assert_eq!((first.stream(), first.consumer()), ("ORDERS", "billing"));
        assert_eq!(
            (first.stream_sequence(), first.consumer_sequence(), first.delivered(), first.pending()),
            (1, 1, 1, 0)
        );
        assert!(first.stored_at().elapsed().is_ok_and(|age| age < Duration::from_secs(60)));

        let stored_at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let info = first.with_stream_sequence(7).with_consumer_sequence(9).with_delivered(3).with_pending(40);
        let info = info.with_stored_at(stored_at);
        assert_eq!((info.stream(), info.consumer()), ("ORDERS", "billing"));
        assert_eq!((info.stream_sequence(), info.consumer_sequence(), info.delivered(), info.pending()), (7, 9, 3, 40));
        assert_eq!(info.stored_at(), stored_at);
    }
}

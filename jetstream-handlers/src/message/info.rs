//! The origin and the delivery count of a message.

use std::time::SystemTime;

use async_nats::Subject;

use super::Stored;
use super::ack_subject::{AckPrefix, AckSubject, DeliveryId};

/// The origin and the delivery count of a message, parsed from its ack subject (ADR-15).
#[derive(Debug, Clone, Default)]
pub struct Info(AckSubject);

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
        let id = DeliveryId { delivered, stream_sequence: stored.sequence, consumer_sequence: 0 };
        AckPrefix::new(stream, consumer).stored_delivery(id, stored.time, 0).into()
    }

    /// Returns the subject to which the delivery is acknowledged.
    pub(crate) fn ack_subject(&self) -> &Subject {
        self.0.subject()
    }

    pub(crate) fn into_ack_subject(self) -> Subject {
        self.0.into_subject()
    }

    /// Increments the delivery count, for an `ordered` handler that is called again without a delivery.
    pub(crate) fn count_attempt(&mut self) {
        self.0.count_attempt();
    }

    /// Replaces the consumer sequence in the ack subject; [`consumer_sequence`](Self::consumer_sequence) does not
    /// change.
    pub(crate) fn set_ack_sequence(&mut self, consumer_sequence: u64) {
        self.0.set_ack_sequence(consumer_sequence);
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
    /// Every delivery of the server counts, including one that a stopping process handed back.
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

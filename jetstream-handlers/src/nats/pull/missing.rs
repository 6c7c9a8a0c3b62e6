//! The missing messages of an ordered handler, or of one with a key: delivered, and not arrived.

use std::collections::BTreeSet;
use std::ops::Range;

use async_nats::Subject;

use crate::message::{AckPrefix, DeliveryId};

/// The maximum range of sequences in which missing messages are nakked without reading which of them the consumer has.
const MAX_RANGE: u64 = 10_000;

/// Messages that were delivered, are not acknowledged, and have not arrived.
#[derive(Debug)]
pub(super) struct Missing {
    /// The range of their sequences, in which the consumer may have none of the others.
    pub(super) range: Range<u64>,
    /// The sequences in the range that have arrived.
    pub(super) arrived: BTreeSet<u64>,
    /// The prefix of the ack subjects of the consumer.
    pub(super) prefix: AckPrefix,
    /// The consumer sequence of the last delivery.
    pub(super) consumer_sequence: u64,
}

impl Missing {
    pub(super) fn range(&self) -> Range<u64> {
        self.range.clone()
    }

    /// Returns `true` if the range is too long to nak each sequence in it, most of which can be those of other consumers.
    pub(super) fn is_long(&self) -> bool {
        self.range.end - self.range.start > MAX_RANGE
    }

    /// Returns `true` if this message is missing, if the consumer has it.
    pub(super) fn contains(&self, sequence: u64) -> bool {
        self.range.contains(&sequence) && !self.arrived.contains(&sequence)
    }

    /// Returns the sequences of the range that have not arrived.
    pub(super) fn sequences(&self) -> impl Iterator<Item = u64> {
        self.range().filter(|sequence| !self.arrived.contains(sequence))
    }

    /// Returns the ack subject at which the server accepts a nak for this message.
    ///
    /// From an ack subject the server reads the stream sequence, and checks that the consumer sequence is above its ack
    /// floor and not above its last delivery (`consumer.go`, `processNak`). A damaged consumer has no such number, and
    /// redelivers the missing messages after `ack_wait`.
    pub(super) fn ack_subject(&self, stream_sequence: u64) -> Subject {
        let consumer_sequence = self.consumer_sequence;
        let id = DeliveryId { delivered: 1, stream_sequence, consumer_sequence, ..DeliveryId::default() };
        self.prefix.delivery(id).into_subject()
    }
}

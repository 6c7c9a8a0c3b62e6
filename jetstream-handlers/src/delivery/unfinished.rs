//! The messages of a handler with a `key` that were delivered to this process and may not have ended on the server.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::{Mutex, MutexGuard};

use crate::message::DeliveryId;
use crate::sync::lock;

/// The maximum number of messages that have ended and are remembered.
const MAX_ENDED: usize = 100_000;

/// The messages that this process has of a consumer, shared by its pull and its worker.
///
/// Nothing is started while a message may be missing, because it may be an earlier one of the same key.
#[derive(Debug, Default)]
pub(crate) struct Unfinished(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// `true` while a message may be missing.
    is_closed: bool,
    /// The messages that have not ended, with the times at which they were stored.
    held: BTreeMap<u64, u64>,
    /// The messages that have ended above the ack floor: their acks may be lost, so that they are delivered again.
    ended: BTreeMap<u64, u64>,
}

impl Unfinished {
    /// Returns `true` if every message that was delivered and has not ended is in this process.
    pub(crate) fn is_complete(&self) -> bool {
        !self.state().is_closed
    }

    /// Records whether a message may be missing.
    pub(crate) fn set_complete(&self, is_complete: bool) {
        self.state().is_closed = !is_complete;
    }

    /// Records a delivery; returns `true` if its message had not arrived before.
    pub(crate) fn delivered(&self, DeliveryId { stream_sequence, stored_at, .. }: DeliveryId) -> bool {
        let mut state = self.state();
        state.ended.get(&stream_sequence) != Some(&stored_at)
            && state.held.insert(stream_sequence, stored_at) != Some(stored_at)
    }

    /// Records that a message has ended, if it belongs to the present consumer.
    pub(crate) fn ended(&self, DeliveryId { stream_sequence, stored_at, .. }: DeliveryId) {
        let mut state = self.state();
        if state.held.get(&stream_sequence) == Some(&stored_at) {
            state.held.remove(&stream_sequence);
            state.ended.insert(stream_sequence, stored_at);
            if state.ended.len() > MAX_ENDED {
                state.ended.pop_first();
            }
        }
    }

    /// Returns `true` if a message has ended in this process.
    pub(crate) fn has_ended(&self, DeliveryId { stream_sequence, stored_at, .. }: DeliveryId) -> bool {
        self.state().ended.get(&stream_sequence) == Some(&stored_at)
    }

    /// Forgets the messages that have ended up to the ack floor.
    pub(crate) fn prune(&self, floor: u64) {
        let mut state = self.state();
        state.ended = state.ended.split_off(&(floor + 1));
    }

    /// Forgets all messages, because they belong to another instance or the consumer was replaced.
    pub(crate) fn clear(&self) {
        let mut state = self.state();
        (state.held, state.ended) = Default::default();
    }

    /// Returns the number of messages that have not ended.
    pub(crate) fn len(&self) -> usize {
        self.state().held.len()
    }

    /// Returns the number of messages in this range that have not ended.
    pub(crate) fn count(&self, range: Range<u64>) -> usize {
        self.state().held.range(range).count()
    }

    /// Returns the messages in this range that have not ended.
    pub(crate) fn held(&self, range: Range<u64>) -> BTreeSet<u64> {
        self.state().held.range(range).map(|(sequence, _)| *sequence).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(stream_sequence: u64, stored_at: u64) -> DeliveryId {
        DeliveryId { stream_sequence, stored_at, ..DeliveryId::default() }
    }

    #[test]
    fn message_of_a_former_stream_does_not_end_another_one() {
        let unfinished = Unfinished::default();
        unfinished.delivered(id(5, 100));
        unfinished.clear();
        unfinished.delivered(id(5, 200));
        unfinished.ended(id(5, 100));
        assert_eq!(unfinished.count(1..10), 1);
        assert!(!unfinished.has_ended(id(5, 200)));
        unfinished.ended(id(5, 200));
        assert_eq!(unfinished.count(1..10), 0);
        assert!(unfinished.has_ended(id(5, 200)));
        assert!(!unfinished.has_ended(id(5, 100)));
    }

    #[test]
    fn ended_message_is_known_until_the_floor_has_passed_it() {
        let unfinished = Unfinished::default();
        for sequence in 1..=3 {
            unfinished.delivered(id(sequence, 0));
            unfinished.ended(id(sequence, 0));
        }
        unfinished.delivered(id(3, 0));
        assert_eq!(unfinished.len(), 0, "a repeated delivery of a message that has ended is not held");
        unfinished.prune(2);
        assert!(!unfinished.has_ended(id(2, 0)) && unfinished.has_ended(id(3, 0)));
    }
}

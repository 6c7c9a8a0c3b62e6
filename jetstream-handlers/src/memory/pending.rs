//! The messages of a consumer whose acks are pending.

use std::collections::{BTreeMap, BTreeSet};

use tokio::time::Instant;

/// A message whose ack is pending.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pending {
    /// The time at which the message is redelivered.
    pub(super) due: Instant,
    /// `true` if a worker has the message; `false` while it waits for the delay of its nak.
    pub(super) in_flight: bool,
}

/// The messages whose acks are pending, by stream sequence and by the time of their redelivery: a test may have
/// thousands, and every reader asks for the next one at each change.
#[derive(Debug, Clone, Default)]
pub(super) struct PendingMessages {
    by_sequence: BTreeMap<u64, Pending>,
    by_due: BTreeSet<(Instant, u64)>,
}

impl PendingMessages {
    pub(super) fn insert(&mut self, sequence: u64, pending: Pending) {
        self.remove(sequence);
        self.by_sequence.insert(sequence, pending);
        self.by_due.insert((pending.due, sequence));
    }

    pub(super) fn remove(&mut self, sequence: u64) {
        if let Some(removed) = self.by_sequence.remove(&sequence) {
            self.by_due.remove(&(removed.due, sequence));
        }
    }

    /// Changes the state of a message, if its ack is pending.
    pub(super) fn change(&mut self, sequence: u64, change: impl FnOnce(&mut Pending)) {
        if let Some(mut pending) = self.by_sequence.get(&sequence).copied() {
            change(&mut pending);
            self.insert(sequence, pending);
        }
    }

    pub(super) fn contains(&self, sequence: u64) -> bool {
        self.by_sequence.contains_key(&sequence)
    }

    pub(super) fn len(&self) -> usize {
        self.by_sequence.len()
    }

    /// Returns the messages by stream sequence.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, Pending)> {
        self.by_sequence.iter().map(|(sequence, pending)| (*sequence, *pending))
    }

    /// Returns the sequences before another one.
    pub(super) fn before(&self, sequence: u64) -> Vec<u64> {
        self.by_sequence.range(..sequence).map(|(sequence, _)| *sequence).collect()
    }

    /// Returns the sequences whose redelivery is due, by that time.
    pub(super) fn due(&self, now: Instant) -> Vec<u64> {
        self.by_due.range(..=(now, u64::MAX)).map(|(_, sequence)| *sequence).collect()
    }

    /// Returns the time of the next redelivery.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.by_due.first().map(|(due, _)| *due)
    }
}

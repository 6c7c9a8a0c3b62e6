//! The messages that a worker handles, by their slots and by their sequences.

use std::time::Duration;

use tokio::time::Instant;

use crate::message::DeliveryId;

/// The end of a chain.
const END: u32 = u32::MAX;

/// A message that is being handled.
#[derive(Debug, Clone, Copy)]
pub(super) struct Current {
    pub(super) delivery: DeliveryId,
    pub(super) begun: Instant,
    /// The time of the last signal to the server about it.
    pub(super) since: Instant,
    /// `true` if there was no signal for `ack_wait`, after which the server has redelivered it.
    pub(super) lost: bool,
}

impl Current {
    pub(super) fn is_lost(&self, ack_wait: Duration) -> bool {
        self.lost || self.since.elapsed() >= ack_wait
    }
}

/// The state of one slot.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) current: Option<Current>,
    /// The time at which a call timed out that the thread of the slot still runs.
    pub(super) late: Option<Instant>,
    /// The next slot of the chain.
    next: u32,
}

impl Entry {
    pub(super) fn is_idle(&self) -> bool {
        self.current.is_none() && self.late.is_none()
    }
}

/// The state of the slots, in which a message is found by its sequence without looking at all of them.
#[derive(Debug, Default)]
pub(super) struct InFlight {
    entries: Vec<Entry>,
    /// The first slot of each chain, of which there is a power of two: a chain has the messages whose sequences agree in
    /// their low bits.
    chains: Vec<u32>,
    /// The number of messages.
    count: usize,
}

impl InFlight {
    pub(super) fn count(&self) -> usize {
        self.count
    }

    pub(super) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    pub(super) fn get(&self, index: usize) -> Option<&Entry> {
        self.entries.get(index)
    }

    /// Makes room for slots up to this number.
    pub(super) fn grow(&mut self, slots: usize) {
        if slots > self.entries.len() {
            self.entries.resize_with(slots, || Entry { current: None, late: None, next: END });
        }
        if slots > self.chains.len() {
            self.link_all();
        }
    }

    /// Removes the idle slots from this number on.
    pub(super) fn truncate(&mut self, slots: usize) {
        self.entries.truncate(slots);
        // Seldom, because the messages are chained again.
        if self.entries.len() <= self.entries.capacity() / 4 {
            self.entries.shrink_to_fit();
            self.link_all();
        }
    }

    /// Puts a message into a slot.
    pub(super) fn take(&mut self, index: usize, message: Current) {
        self.grow(index + 1);
        let chain = self.chain(message.delivery.stream_sequence);
        let entry = &mut self.entries[index];
        debug_assert!(entry.current.is_none(), "a slot handles one message");
        entry.current = Some(message);
        entry.next = std::mem::replace(&mut self.chains[chain], index as u32);
        self.count += 1;
    }

    /// Removes the message from a slot.
    pub(super) fn release(&mut self, index: usize) -> Option<DeliveryId> {
        let entry = self.entries.get_mut(index)?;
        let (delivery, next) = (entry.current.take()?.delivery, entry.next);
        let chain = self.chain(delivery.stream_sequence);
        let index = index as u32;
        if self.chains[chain] == index {
            self.chains[chain] = next;
        } else {
            let mut before = self.chains[chain] as usize;
            while self.entries[before].next != index {
                before = self.entries[before].next as usize;
            }
            self.entries[before].next = next;
        }
        self.count -= 1;
        Some(delivery)
    }

    pub(super) fn set_late(&mut self, index: usize, late: Option<Instant>) {
        if let Some(entry) = self.entries.get_mut(index) {
            entry.late = late;
        }
    }

    /// Returns the messages with this stream sequence.
    pub(super) fn with_sequence(&self, sequence: u64) -> impl Iterator<Item = &Current> {
        let first = if self.chains.is_empty() { END } else { self.chains[self.chain(sequence)] };
        let entry = |index: u32| self.entries.get(index as usize);
        let chained = std::iter::successors(entry(first), move |it| entry(it.next));
        let messages = chained.filter_map(|entry| entry.current.as_ref());
        messages.filter(move |it| it.delivery.stream_sequence == sequence)
    }

    pub(super) fn messages(&self) -> impl Iterator<Item = &Current> {
        self.entries.iter().filter_map(|entry| entry.current.as_ref())
    }

    pub(super) fn messages_mut(&mut self) -> impl Iterator<Item = &mut Current> {
        self.entries.iter_mut().filter_map(|entry| entry.current.as_mut())
    }

    /// Returns the first message from a slot on for which `due` returns `true`, and its slot.
    pub(super) fn next_due(&mut self, from: usize, due: impl Fn(&Current) -> bool) -> Option<(usize, &mut Current)> {
        let entries = self.entries.iter_mut().enumerate().skip(from);
        let mut messages = entries.filter_map(|(index, entry)| Some((index, entry.current.as_mut()?)));
        messages.find(|(_, current)| due(current))
    }

    fn chain(&self, sequence: u64) -> usize {
        sequence as usize & (self.chains.len() - 1)
    }

    /// Chains all messages again, in as many chains as there are slots.
    fn link_all(&mut self) {
        let chains = if self.entries.is_empty() { 0 } else { self.entries.len().next_power_of_two() };
        self.chains = vec![END; chains];
        for index in 0..self.entries.len() {
            if let Some(current) = self.entries[index].current {
                let chain = self.chain(current.delivery.stream_sequence);
                self.entries[index].next = std::mem::replace(&mut self.chains[chain], index as u32);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(stream_sequence: u64, consumer_sequence: u64) -> Current {
        let delivery = DeliveryId { stream_sequence, consumer_sequence, ..DeliveryId::default() };
        Current { delivery, begun: Instant::now(), since: Instant::now(), lost: false }
    }

    fn with_sequence(in_flight: &InFlight, sequence: u64) -> Vec<u64> {
        let mut found: Vec<_> = in_flight.with_sequence(sequence).map(|it| it.delivery.consumer_sequence).collect();
        found.sort_unstable();
        found
    }

    #[test]
    fn finds_messages_by_their_sequences_while_slots_come_and_go() {
        let mut in_flight = InFlight::default();
        assert_eq!(with_sequence(&in_flight, 7), Vec::<u64>::new());
        // The same sequence twice, and others of its chain.
        for (index, (sequence, delivery)) in [(7, 1), (15, 2), (7, 3), (23, 4), (8, 5)].into_iter().enumerate() {
            in_flight.take(index, message(sequence, delivery));
        }
        assert_eq!(with_sequence(&in_flight, 7), [1, 3]);
        in_flight.grow(1000);
        assert_eq!(with_sequence(&in_flight, 7), [1, 3]);
        assert_eq!(with_sequence(&in_flight, 8), [5]);
        assert_eq!(in_flight.release(0).unwrap().consumer_sequence, 1);
        assert_eq!(with_sequence(&in_flight, 7), [3]);
        in_flight.truncate(5);
        assert_eq!(with_sequence(&in_flight, 7), [3]);
        assert_eq!(with_sequence(&in_flight, 15), [2]);
        assert_eq!(in_flight.count(), 4);
        assert!((1..5).all(|index| in_flight.release(index).is_some()));
        assert_eq!(in_flight.messages().count(), 0);
        assert!(in_flight.release(1).is_none());
        in_flight.truncate(0);
        assert_eq!(with_sequence(&in_flight, 7), Vec::<u64>::new());
        in_flight.take(0, message(9, 6));
        assert_eq!(with_sequence(&in_flight, 9), [6]);
    }

    #[test]
    fn looks_at_few_messages_to_find_one() {
        let mut in_flight = InFlight::default();
        for index in 0..4096 {
            in_flight.take(index, message(index as u64, 1));
        }
        let longest = in_flight.chains.iter().map(|first| {
            std::iter::successors(in_flight.get(*first as usize), |it| in_flight.get(it.next as usize)).count()
        });
        assert_eq!(longest.max(), Some(1));
    }
}

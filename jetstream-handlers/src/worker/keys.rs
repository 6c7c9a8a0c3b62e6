//! The messages of a handler with a `key` that wait for earlier ones of their keys.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::time::Duration;

use tokio::time::Instant;

use super::waiting::Waiting;
use crate::message::DeliveryId;
use crate::outcome::Failure;

/// The maximum number of messages of one key that wait in memory; of any others only the numbers are kept.
const MAX_OF_KEY: usize = 32;

/// The maximum number of messages of all keys that wait in memory.
const MAX_WAITING: usize = 1000;

/// The maximum number of bytes in payloads that wait in memory.
const MAX_BYTES: usize = 8 * 1024 * 1024;

/// The number of the next messages of a key that are requested together.
const LOOKAHEAD: usize = 16;

/// The time after which a message that was requested again, and has not arrived, is requested once more.
const REPEAT: Duration = Duration::from_secs(3);

/// A message by its sequence, and the time at which the stream stored it.
type MessageId = (u64, u64);

/// The messages of a worker by their keys, of which one at a time may begin.
///
/// A key whose messages wait for long does not fill the memory: beyond a limit only the numbers of a delivery are kept,
/// and the message is requested again when its turn comes.
#[derive(Debug, Default)]
pub(super) struct Keys {
    lanes: HashMap<u64, Lane>,
    /// The messages that may begin, have begun, or wait for their next attempt.
    active: HashMap<MessageId, Active>,
    /// The messages that wait for their next attempt, by its time.
    parked: BTreeMap<(Instant, MessageId), Waiting>,
    /// The number of bytes in their payloads.
    parked_bytes: usize,
    /// The number of messages in the lanes that are in memory or were requested again, and the bytes in their payloads.
    waiting: (usize, usize),
    /// The deliveries whose messages are to be requested again.
    pub(super) recalled: Vec<DeliveryId>,
    /// The deliveries whose messages were requested and have not arrived: they may have been removed from the stream.
    pub(super) overdue: Vec<DeliveryId>,
    /// The time at which to look for them.
    look_at: Option<Instant>,
    /// The number of deliveries that were dropped, because they belong to another instance or were delivered again;
    /// those that this process has requested again are not among them.
    pub(super) lost: usize,
}

/// The messages of one key.
#[derive(Debug, Default)]
struct Lane {
    /// `true` while one of its messages may begin or has begun.
    is_active: bool,
    /// The others, by stream sequence.
    entries: BTreeMap<u64, Entry>,
    /// The number of those that are in memory.
    in_memory: usize,
    /// The number of failed attempts of the first one, while it waits on the server.
    failures: u64,
}

#[derive(Debug)]
enum Entry {
    Message(Waiting),
    /// A message of which only the numbers are kept.
    Numbers {
        delivery: DeliveryId,
        /// The number of bytes in its payload.
        bytes: usize,
        /// The time of the last signal to the server about it.
        since: Instant,
        requested_at: Option<Instant>,
    },
    /// A message that has failed, which the server delivers again at this time.
    Delayed {
        delivery: DeliveryId,
        due: Instant,
    },
}

/// The place in which a message waits for its next attempt.
#[derive(Debug)]
pub(super) enum Parked {
    /// In this process, unless the message belongs to another instance by now; then the next one of its key may begin.
    Here(Option<Box<Waiting>>),
    /// On the server, because too much waits in this process.
    OnServer,
}

/// A message that may begin or has begun.
#[derive(Debug, Default)]
struct Active {
    key: Option<u64>,
    failures: u64,
    rejected: Option<Failure>,
    /// `true` if the message belongs to another instance, or a replaced consumer, and its call still runs.
    is_former: bool,
}

impl Entry {
    fn delivery(&self) -> DeliveryId {
        match self {
            Self::Message(waiting) => waiting.message.info.id(),
            Self::Numbers { delivery, .. } | Self::Delayed { delivery, .. } => *delivery,
        }
    }

    /// Returns `true` if the delivery has no answer: it was neither requested again nor has its attempt failed.
    fn is_unsettled(&self) -> bool {
        matches!(self, Self::Message(_) | Self::Numbers { requested_at: None, .. })
    }
}

impl Lane {
    /// Returns `true` if the lane has no message.
    fn is_empty(&self) -> bool {
        !self.is_active && self.entries.is_empty()
    }

    /// Subtracts an entry that was removed from the numbers of those that wait.
    fn forget(&mut self, removed: &Entry, (messages, waiting_bytes): &mut (usize, usize)) {
        let bytes = match removed {
            Entry::Message(waiting) => {
                self.in_memory -= 1;
                waiting.message.payload.len()
            }
            Entry::Numbers { bytes, requested_at: Some(_), .. } => *bytes,
            Entry::Numbers { requested_at: None, .. } | Entry::Delayed { .. } => return,
        };
        *messages -= 1;
        *waiting_bytes -= bytes;
    }
}

impl Keys {
    /// Adds a message, and returns it if it may begin.
    ///
    /// A message without a key waits for no other; `rejected` is the reason why it has none.
    pub(super) fn add_without_key(&mut self, waiting: Waiting, rejected: Option<Failure>) -> Option<Waiting> {
        let id = id(waiting.message.info.id());
        if self.has_begun(id) {
            self.lost += 1;
            return None;
        }
        self.active.insert(id, Active { rejected, ..Active::default() });
        Some(waiting)
    }

    /// Adds a message of this key, and returns one that may begin; none may begin unless `is_complete`.
    pub(super) fn add(&mut self, key: u64, mut waiting: Waiting, is_complete: bool) -> Option<Waiting> {
        let delivery = waiting.message.info.id();
        // A message that has begun is delivered again after its ack_wait; its call goes on.
        if self.has_begun(id(delivery)) {
            self.lost += 1;
            return None;
        }
        let bytes = waiting.message.payload.len();
        let lane = self.lanes.entry(key).or_default();
        let former = lane.entries.remove(&delivery.stream_sequence);
        if let Some(former) = &former {
            lane.forget(former, &mut self.waiting);
            self.lost += usize::from(former.is_unsettled());
            // It was requested again, or had no signal for its `ack_wait`, and has not begun.
            waiting.message.info.discount(delivery.delivered.saturating_sub(former.delivery().delivered));
        }
        let delivery = waiting.message.info.id();
        let (messages, waiting_bytes) = self.waiting;
        let fits = lane.in_memory < MAX_OF_KEY && messages < MAX_WAITING && waiting_bytes + bytes <= MAX_BYTES;
        let is_awaited = former.is_some_and(|former| !matches!(former, Entry::Numbers { requested_at: None, .. }));
        let entry = if is_awaited || fits || !lane.is_active && lane.entries.is_empty() {
            lane.in_memory += 1;
            self.waiting = (messages + 1, waiting_bytes + bytes);
            Entry::Message(waiting)
        } else {
            Entry::Numbers { delivery, bytes, since: waiting.since, requested_at: None }
        };
        lane.entries.insert(delivery.stream_sequence, entry);
        if is_complete { self.advance(key) } else { None }
    }

    /// Ends a message, and returns the next one of its key if it may begin.
    pub(super) fn finish(&mut self, delivery: DeliveryId, is_complete: bool) -> Option<Waiting> {
        let key = self.active.remove(&id(delivery))?.key?;
        self.lanes.get_mut(&key)?.is_active = false;
        self.advance_or_remove(key, is_complete)
    }

    fn advance_or_remove(&mut self, key: u64, is_complete: bool) -> Option<Waiting> {
        if self.lanes.get(&key).is_some_and(Lane::is_empty) {
            self.lanes.remove(&key);
        }
        if is_complete { self.advance(key) } else { None }
    }

    /// Returns the messages that may begin, now that none is missing.
    pub(super) fn release(&mut self) -> Vec<Waiting> {
        let keys: Vec<u64> = self.lanes.keys().copied().collect();
        keys.into_iter().filter_map(|key| self.advance(key)).collect()
    }

    /// Returns the next message of a key if it may begin; requests it again if only its numbers are known.
    fn advance(&mut self, key: u64) -> Option<Waiting> {
        let lane = self.lanes.get_mut(&key).filter(|lane| !lane.is_active)?;
        let now = Instant::now();
        for (position, entry) in lane.entries.values_mut().take(LOOKAHEAD).enumerate() {
            if let Entry::Numbers { delivery, bytes, requested_at: requested_at @ None, .. } = entry {
                let (messages, waiting_bytes) = self.waiting;
                // The first one is next, whatever else waits.
                if position > 0 && (messages >= MAX_WAITING || waiting_bytes + *bytes > MAX_BYTES) {
                    break;
                }
                *requested_at = Some(now);
                self.waiting = (messages + 1, waiting_bytes + *bytes);
                self.recalled.push(*delivery);
                self.look_at.get_or_insert(now + REPEAT);
            }
        }
        let first = lane.entries.first_entry().filter(|first| matches!(first.get(), Entry::Message(_)))?;
        let entry = first.remove();
        lane.forget(&entry, &mut self.waiting);
        let Entry::Message(waiting) = entry else { return None };
        lane.is_active = true;
        let failures = std::mem::take(&mut lane.failures);
        let active = Active { key: Some(key), failures, ..Active::default() };
        self.active.insert(id(waiting.message.info.id()), active);
        Some(waiting)
    }

    /// Counts a failed attempt of a message, and returns their number.
    pub(super) fn failed(&mut self, delivery: DeliveryId) -> u64 {
        let Some(active) = self.active.get_mut(&id(delivery)) else { return 1 };
        active.failures += 1;
        active.failures
    }

    /// Returns the number of failed attempts of a message in this process.
    pub(super) fn failures(&self, delivery: DeliveryId) -> u64 {
        self.active.get(&id(delivery)).map_or(0, |active| active.failures)
    }

    /// Returns the reason why a message has no key.
    pub(super) fn rejected(&self, delivery: DeliveryId) -> Option<Failure> {
        self.active.get(&id(delivery))?.rejected.clone()
    }

    /// Keeps a message until its next attempt; drops it if it belongs to another instance by now, or is delivered by
    /// another consumer.
    pub(super) fn park(&mut self, waiting: Waiting, due: Instant, is_complete: bool) -> Parked {
        let delivery = waiting.message.info.id();
        let bytes = waiting.message.payload.len();
        if !self.has_begun(id(delivery)) {
            return Parked::Here(self.finish(delivery, is_complete).map(Box::new));
        }
        if self.parked.len() < MAX_WAITING && self.parked_bytes + bytes <= MAX_BYTES {
            self.parked_bytes += bytes;
            self.parked.insert((due, id(delivery)), waiting);
            return Parked::Here(None);
        }
        if let Some(Active { key: Some(key), failures, .. }) = self.active.remove(&id(delivery)) {
            let lane = self.lanes.entry(key).or_default();
            (lane.is_active, lane.failures) = (false, failures);
            lane.entries.insert(delivery.stream_sequence, Entry::Delayed { delivery, due });
            self.look_at = self.look_at.into_iter().chain([due + REPEAT]).min();
        }
        Parked::OnServer
    }

    /// Returns `true` if a message may begin or has begun.
    fn has_begun(&self, id: MessageId) -> bool {
        self.active.get(&id).is_some_and(|active| !active.is_former)
    }

    /// Forgets all messages, because they belong to another instance or the consumer was replaced.
    ///
    /// The later messages of a key wait for those in `running`, whose calls go on.
    pub(super) fn reset(&mut self, running: &[DeliveryId]) {
        let former = std::mem::take(self);
        let entries = former.lanes.values().flat_map(|lane| lane.entries.values());
        let forgotten = entries.filter(|entry| entry.is_unsettled()).count();
        self.lost = former.lost + forgotten + former.parked.len();
        for id in running.iter().copied().map(id) {
            let Some(Active { key: Some(key), .. }) = former.active.get(&id) else { continue };
            self.active.insert(id, Active { key: Some(*key), is_former: true, ..Active::default() });
            self.lanes.entry(*key).or_default().is_active = true;
        }
    }

    /// Forgets the messages in this range of which only the numbers are known, because they were removed from the
    /// stream, and returns them.
    pub(super) fn forget_removed(&mut self, range: Range<u64>) -> Vec<DeliveryId> {
        let mut removed = Vec::new();
        for lane in self.lanes.values_mut() {
            let gone = |entry: &Entry| !matches!(entry, Entry::Message(_));
            let sequences: Vec<u64> =
                lane.entries.range(range.clone()).filter(|(_, entry)| gone(entry)).map(|(key, _)| *key).collect();
            for sequence in sequences {
                let Some(entry) = lane.entries.remove(&sequence) else { continue };
                lane.forget(&entry, &mut self.waiting);
                if matches!(entry, Entry::Delayed { .. }) {
                    lane.failures = 0;
                }
                removed.push(entry.delivery());
            }
        }
        self.lanes.retain(|_, lane| !lane.is_empty());
        removed
    }

    /// Returns one after the highest sequence of which only the numbers are known.
    pub(super) fn numbers_end(&self) -> u64 {
        let numbers = |lane: &Lane| {
            let last = lane.entries.iter().rev().find(|(_, entry)| !matches!(entry, Entry::Message(_)));
            last.map_or(0, |(sequence, _)| sequence + 1)
        };
        self.lanes.values().map(numbers).max().unwrap_or_default()
    }

    /// Returns the time at which [`take_due`](Self::take_due) has something to do.
    pub(super) fn due(&self) -> Option<Instant> {
        self.parked.first_key_value().map(|((due, _), _)| *due).into_iter().chain(self.look_at).min()
    }

    /// Takes the messages whose next attempt is due, and looks for those that were requested and have not arrived.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<Waiting> {
        if self.look_at.is_some_and(|look_at| look_at <= now) {
            self.look_for_overdue(now);
        }
        let mut taken = Vec::new();
        while let Some(first) = self.parked.first_entry().filter(|first| first.key().0 <= now) {
            let waiting = first.remove();
            self.parked_bytes -= waiting.message.payload.len();
            taken.push(waiting);
        }
        taken
    }

    /// Notes the messages that were to arrive [`REPEAT`] ago.
    fn look_for_overdue(&mut self, now: Instant) {
        let expected =
            self.lanes.values_mut().flat_map(|lane| lane.entries.values_mut()).filter_map(|entry| match entry {
                Entry::Numbers { delivery, requested_at: Some(requested_at), .. } => Some((*delivery, requested_at)),
                Entry::Delayed { delivery, due } => Some((*delivery, due)),
                Entry::Message(_) | Entry::Numbers { requested_at: None, .. } => None,
            });
        self.look_at = None;
        for (delivery, expected_at) in expected {
            if *expected_at + REPEAT <= now {
                *expected_at = now;
                self.overdue.push(delivery);
            }
            self.look_at = self.look_at.into_iter().chain([*expected_at + REPEAT]).min();
        }
    }

    /// Returns the number of messages that wait for others with the same key, and are in memory or were requested again.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.0
    }

    /// Returns the number of messages that wait for others with the same key or for their next attempt.
    pub(super) fn buffered(&self) -> usize {
        self.waiting.0 + self.parked.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lanes.is_empty() && self.parked.is_empty()
    }

    /// Returns the messages that had no signal for `min_age`, to which the caller sends one now.
    pub(super) fn refresh(&mut self, now: Instant, min_age: Duration) -> Vec<DeliveryId> {
        let mut due = Vec::new();
        let mut refresh = |since: &mut Instant, delivery| {
            if now.saturating_duration_since(*since) >= min_age {
                *since = now;
                due.push(delivery);
            }
        };
        for entry in self.lanes.values_mut().flat_map(|lane| lane.entries.values_mut()) {
            match entry {
                Entry::Message(waiting) => refresh(&mut waiting.since, waiting.message.info.id()),
                Entry::Numbers { delivery, since, requested_at: None, .. } => refresh(since, *delivery),
                // The server is to deliver it again.
                Entry::Numbers { requested_at: Some(_), .. } | Entry::Delayed { .. } => {}
            }
        }
        self.parked.values_mut().for_each(|waiting| refresh(&mut waiting.since, waiting.message.info.id()));
        due
    }

    /// Returns all deliveries that have not begun, in the order of the stream.
    pub(super) fn into_deliveries(self) -> Vec<DeliveryId> {
        let entries = self.lanes.into_values().flat_map(|lane| lane.entries.into_values());
        let waiting = entries.map(|entry| entry.delivery());
        let parked = self.parked.into_values().map(|waiting| waiting.message.info.id());
        let mut deliveries: Vec<_> = waiting.chain(parked).collect();
        deliveries.sort_by_key(|delivery| delivery.stream_sequence);
        deliveries
    }
}

fn id(delivery: DeliveryId) -> MessageId {
    (delivery.stream_sequence, delivery.stored_at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{AckPrefix, Message};

    fn waiting(sequence: u64, delivered: u64) -> Waiting {
        let id = DeliveryId { delivered, stream_sequence: sequence, ..DeliveryId::default() };
        let info = AckPrefix::new("S", "D").delivery(id).into();
        Waiting::new(Message { info, ..Message::new("s", "payload") }, Instant::now())
    }

    fn sequence(waiting: &Waiting) -> u64 {
        waiting.message.info.stream_sequence()
    }

    /// Adds a message, and returns the sequence of the one that may begin.
    fn add(keys: &mut Keys, key: u64, number: u64) -> Option<u64> {
        keys.add(key, waiting(number, 1), true).as_ref().map(sequence)
    }

    fn finish(keys: &mut Keys, number: u64) -> Option<u64> {
        let delivery = waiting(number, 1).message.info.id();
        keys.finish(delivery, true).as_ref().map(sequence)
    }

    #[tokio::test(start_paused = true)]
    async fn one_message_of_each_key_may_begin() {
        let mut keys = Keys::default();
        assert_eq!(add(&mut keys, 7, 1), Some(1));
        assert_eq!(add(&mut keys, 8, 2), Some(2));
        assert_eq!(add(&mut keys, 7, 3), None);
        assert_eq!(add(&mut keys, 7, 4), None);
        assert_eq!(finish(&mut keys, 1), Some(3));
        assert_eq!(finish(&mut keys, 2), None);
        assert_eq!(finish(&mut keys, 3), Some(4));
        assert_eq!(finish(&mut keys, 4), None);
        assert!(keys.is_empty() && keys.active.is_empty() && keys.waiting == (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_begins_while_a_message_may_be_missing() {
        let mut keys = Keys::default();
        assert!(keys.add(7, waiting(5, 1), false).is_none());
        assert!(keys.add(7, waiting(3, 2), false).is_none());
        assert!(keys.add(8, waiting(4, 2), false).is_none());
        let mut released: Vec<_> = keys.release().iter().map(sequence).collect();
        released.sort_unstable();
        assert_eq!(released, [3, 4]);
        assert_eq!(finish(&mut keys, 3), Some(5));
    }

    #[tokio::test(start_paused = true)]
    async fn repeated_delivery_of_a_message_that_has_begun_is_dropped() {
        let mut keys = Keys::default();
        assert_eq!(add(&mut keys, 7, 1), Some(1));
        assert_eq!(add(&mut keys, 7, 1), None);
        assert_eq!(add(&mut keys, 7, 2), None);
        assert_eq!(add(&mut keys, 7, 2), None);
        assert_eq!(finish(&mut keys, 1), Some(2));
        assert_eq!(finish(&mut keys, 2), None);
        assert!(keys.is_empty());
        assert_eq!(keys.lost, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn forgotten_deliveries_are_lost_unless_they_were_requested_again() {
        let mut keys = Keys::default();
        for number in 1..=40 {
            add(&mut keys, 7, number);
        }
        keys.park(waiting(1, 1), Instant::now(), true);
        keys.reset(&[]);
        assert_eq!(keys.lost, 40, "one waits for its next attempt, 32 in memory, and 7 as numbers");
        for number in 1..=40 {
            add(&mut keys, 7, number);
        }
        for number in 1..=18 {
            finish(&mut keys, number);
        }
        assert_eq!(keys.recalled.len(), 1);
        add(&mut keys, 7, 34);
        assert_eq!(keys.lost, 40, "message 34 was requested again");
        add(&mut keys, 7, 40);
        assert_eq!(keys.lost, 41, "message 40 was not");
    }

    #[tokio::test(start_paused = true)]
    async fn only_the_numbers_of_many_messages_of_a_key_are_kept() {
        let mut keys = Keys::default();
        for number in 1..=100 {
            add(&mut keys, 7, number);
        }
        assert_eq!(keys.waiting.0, MAX_OF_KEY);
        assert!(keys.recalled.is_empty());
        let mut number = 1;
        while number < 100 {
            let next = finish(&mut keys, number);
            // The server delivers again what is requested, before the message is next.
            for delivery in std::mem::take(&mut keys.recalled) {
                let again = keys.add(7, waiting(delivery.stream_sequence, 2), true);
                assert!(again.is_none(), "another one of the key has begun");
            }
            assert_eq!(next, Some(number + 1));
            number += 1;
            assert!(keys.waiting.0 <= MAX_OF_KEY + LOOKAHEAD);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn requested_message_is_not_an_attempt_and_is_requested_again_if_it_is_lost() {
        let mut keys = Keys::default();
        for number in 1..=MAX_OF_KEY as u64 + 2 {
            add(&mut keys, 7, number);
        }
        let last = MAX_OF_KEY as u64 + 2;
        for number in 1..last - 1 {
            finish(&mut keys, number);
        }
        assert_eq!(keys.recalled.iter().map(|delivery| delivery.stream_sequence).collect::<Vec<_>>(), [last]);
        keys.recalled.clear();
        assert_eq!(finish(&mut keys, last - 1), None, "it has not arrived");
        tokio::time::advance(REPEAT).await;
        assert!(keys.refresh(Instant::now(), Duration::ZERO).is_empty(), "it is requested, so it needs no signal");
        assert_eq!(keys.due(), Some(Instant::now()));
        keys.take_due(Instant::now());
        assert_eq!((keys.overdue.len(), keys.due()), (1, Some(Instant::now() + REPEAT)));
        let arrived = keys.add(7, waiting(last, 3), true).expect("it is next");
        assert_eq!(arrived.message.info.delivered(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn parked_message_keeps_its_key_until_it_has_ended() {
        let mut keys = Keys::default();
        assert_eq!(add(&mut keys, 7, 1), Some(1));
        assert_eq!(add(&mut keys, 7, 2), None);
        let due = Instant::now() + Duration::from_secs(1);
        let delivery = waiting(1, 1).message.info.id();
        assert_eq!((keys.failed(delivery), keys.failed(delivery)), (1, 2));
        assert!(matches!(keys.park(waiting(1, 1), due, true), Parked::Here(None)));
        assert_eq!(keys.due(), Some(due));
        assert!(keys.take_due(Instant::now()).is_empty());
        assert_eq!(keys.take_due(due).iter().map(sequence).collect::<Vec<_>>(), [1]);
        assert_eq!(finish(&mut keys, 1), Some(2));
        // Another instance has it by now.
        assert!(matches!(keys.park(waiting(1, 1), due, true), Parked::Here(None)));
        assert_eq!(keys.due(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn deliveries_that_have_not_begun_are_in_the_order_of_the_stream() {
        let mut keys = Keys::default();
        for (key, number) in [(1, 1), (1, 4), (2, 2), (2, 3), (1, 6), (2, 5)] {
            add(&mut keys, key, number);
        }
        assert!(matches!(keys.park(waiting(2, 1), Instant::now(), true), Parked::Here(None)));
        let left: Vec<_> = keys.into_deliveries().iter().map(|delivery| delivery.stream_sequence).collect();
        assert_eq!(left, [2, 3, 4, 5, 6]);
    }

    #[tokio::test(start_paused = true)]
    async fn removed_message_of_which_only_the_numbers_are_known_is_forgotten() {
        let mut keys = Keys::default();
        for number in 1..=100 {
            add(&mut keys, 7, number);
        }
        assert_eq!(keys.numbers_end(), 101);
        let removed = keys.forget_removed(40..90);
        assert_eq!(removed.iter().map(|delivery| delivery.stream_sequence).collect::<Vec<_>>(), Vec::from_iter(40..90));
        for number in (1..40).chain(90..=100) {
            let next = if number == 39 { 90 } else { number + 1 };
            let next = Some(next).filter(|next| *next <= 100);
            let mut begun = finish(&mut keys, number);
            for delivery in std::mem::take(&mut keys.recalled) {
                begun = begun.or(keys.add(7, waiting(delivery.stream_sequence, 2), true).as_ref().map(sequence));
            }
            assert_eq!(begun, next);
        }
        assert!(keys.is_empty() && keys.waiting == (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn requested_messages_are_limited_by_their_bytes() {
        let mut keys = Keys::default();
        let large = |number: u64, delivered| {
            let mut waiting = waiting(number, delivered);
            waiting.message.payload = vec![0; MAX_BYTES / 4].into();
            waiting
        };
        assert_eq!(add(&mut keys, 7, 1), Some(1));
        for number in 2..=100 {
            keys.add(7, large(number, 1), true);
        }
        assert_eq!(keys.waiting, (4, MAX_BYTES));
        for number in 1..100 {
            let next = finish(&mut keys, number);
            assert!(keys.waiting.0 <= 4, "{:?}", keys.waiting);
            for delivery in std::mem::take(&mut keys.recalled) {
                keys.add(7, large(delivery.stream_sequence, 2), true);
            }
            assert_eq!(next, Some(number + 1));
        }
        assert_eq!(finish(&mut keys, 100), None);
        assert!(keys.is_empty() && keys.waiting == (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn message_whose_call_runs_keeps_its_key_after_a_reset() {
        let delivery = |number| waiting(number, 1).message.info.id();
        let mut keys = Keys::default();
        assert_eq!((add(&mut keys, 7, 1), add(&mut keys, 8, 2), add(&mut keys, 7, 3)), (Some(1), Some(2), None));
        keys.reset(&[delivery(1)]);
        // The replaced consumer delivers all of them again.
        assert_eq!((add(&mut keys, 7, 1), add(&mut keys, 8, 2), add(&mut keys, 7, 3)), (None, Some(2), None));
        assert_eq!(finish(&mut keys, 1), Some(1), "whether it has ended is known by its identity");
        assert_eq!(finish(&mut keys, 1), Some(3));
        assert_eq!(finish(&mut keys, 3), None);
        assert_eq!(finish(&mut keys, 2), None);
        assert!(keys.is_empty() && keys.active.is_empty());
        // If its call fails, the delivery of the replaced consumer is not tried again.
        assert_eq!(add(&mut keys, 7, 4), Some(4));
        keys.reset(&[delivery(4)]);
        assert_eq!(add(&mut keys, 7, 4), None);
        let Parked::Here(next) = keys.park(waiting(4, 1), Instant::now(), true) else { panic!("it is not kept") };
        assert_eq!((next.as_deref().map(sequence), keys.due()), (Some(4), None));
    }

    #[tokio::test(start_paused = true)]
    async fn repeated_delivery_of_a_message_that_waits_is_not_an_attempt() {
        let mut keys = Keys::default();
        assert_eq!((add(&mut keys, 7, 1), add(&mut keys, 7, 2)), (Some(1), None));
        assert!(keys.add(7, waiting(2, 5), true).is_none());
        assert!(keys.add(7, waiting(2, 8), true).is_none());
        let delivery = waiting(1, 1).message.info.id();
        let next = keys.finish(delivery, true).expect("it is next");
        assert_eq!(next.message.info.delivered(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn failed_message_waits_on_the_server_if_too_much_waits_here() {
        let mut keys = Keys::default();
        let large = |number: u64, delivered| {
            let mut waiting = waiting(number, delivered);
            waiting.message.payload = vec![0; MAX_BYTES / 2].into();
            waiting
        };
        let due = Instant::now() + Duration::from_secs(1);
        for number in 1..=3 {
            assert!(keys.add(number, large(number, 1), true).is_some());
            assert_eq!(keys.failed(large(number, 1).message.info.id()), 1);
            let parked = keys.park(large(number, 2), due, true);
            assert_eq!(matches!(parked, Parked::OnServer), number == 3);
        }
        assert_eq!(add(&mut keys, 3, 4), None, "it waits for the one on the server");
        assert!(keys.refresh(due, Duration::ZERO).len() == 3 && keys.overdue.is_empty());
        assert_eq!(keys.take_due(due).len(), 2);
        let begun = keys.add(3, large(3, 7), true).expect("its next attempt");
        assert_eq!((sequence(&begun), begun.message.info.delivered()), (3, 2));
        assert_eq!(keys.failures(begun.message.info.id()), 1);
        assert_eq!(finish(&mut keys, 3), Some(4));
        assert_eq!(keys.failures(waiting(4, 1).message.info.id()), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn messages_that_are_all_delivered_again_do_not_fill_the_memory() {
        let mut keys = Keys::default();
        for delivered in 1..=3 {
            for number in 1..=1000 {
                keys.add(7, waiting(number, delivered), true);
            }
            assert_eq!(keys.waiting.0, MAX_OF_KEY);
        }
    }
}

//! The deliveries that have arrived lately, by the number that the consumer gave each of them.

use std::collections::{HashSet, VecDeque};
use std::time::{Duration, SystemTime};

use async_nats::jetstream::consumer;
use tokio::time::Instant;

use crate::message::DeliveryId;

/// The time for which a delivery is remembered; a lost connection is noticed sooner.
const MEMORY: Duration = Duration::from_secs(2);

/// The maximum number of deliveries that are remembered.
const MAX: usize = 5000;

/// The number above the maximum from which the oldest ones are forgotten, many at a time.
const SLACK: usize = 500;

/// The time during which another instance that has received messages is assumed to have some in flight.
const SHARED: Duration = Duration::from_secs(60);

/// The number of gaps on one connection that show another instance.
///
/// The first ones can be those of lost connections, because the deliveries on the next one may arrive at the same inbox.
const MAX_GAPS: u32 = 2;

/// A delivery by its numbers.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Position {
    pub(super) consumer_sequence: u64,
    pub(super) stream_sequence: u64,
}

/// The state of a consumer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Consumer {
    pub(super) created: SystemTime,
    /// Its last delivery.
    pub(super) delivered: Position,
    /// Its ack floor, as a stream sequence.
    pub(super) floor: u64,
}

impl From<&consumer::Info> for Consumer {
    fn from(info: &consumer::Info) -> Self {
        let delivered = Position {
            consumer_sequence: info.delivered.consumer_sequence,
            stream_sequence: info.delivered.stream_sequence,
        };
        Self { created: info.created.into(), delivered, floor: info.ack_floor.stream_sequence }
    }
}

/// The deliveries of one handler that have arrived lately.
#[derive(Debug, Default, Clone)]
pub(super) struct Received {
    /// The last delivery that is accounted for; `None` if it is not known how many were made before this instance
    /// started.
    base: Option<Position>,
    /// The time at which the consumer was created, if that is known.
    created: Option<SystemTime>,
    /// The highest ack floor of the consumer that was read, as a stream sequence.
    floor: u64,
    /// The deliveries that have arrived since, in the order of their arrival.
    latest: VecDeque<(Instant, Position)>,
    /// The time up to which what was too old is forgotten.
    forgotten_at: Option<Instant>,
    /// `true` while it is not known which deliveries after the base were lost, so that none is forgotten by its age.
    is_held: bool,
    /// The number of gaps between deliveries on this connection.
    gaps: u32,
    /// The time at which deliveries were found to go to another instance as well.
    shared_at: Option<Instant>,
}

impl Received {
    /// Records a delivery that has arrived at `now`; `skipped` is `true` if there are others between this one and the last
    /// one at the same inbox.
    pub(super) fn add(&mut self, delivery: DeliveryId, now: Instant, skipped: bool) {
        let DeliveryId { consumer_sequence, stream_sequence, .. } = delivery;
        self.latest.push_back((now, Position { consumer_sequence, stream_sequence }));
        if skipped {
            self.gaps += 1;
            if self.gaps > MAX_GAPS {
                self.shared_at = Some(now);
            }
        }
        // Deliveries arrive by the hundred at a time, and nothing else is too old after each of them.
        if self.forgotten_at != Some(now) || self.latest.len() > MAX + SLACK {
            self.forget(now);
        }
    }

    /// Forgets what is too old; called from time to time.
    pub(super) fn tick(&mut self, now: Instant) {
        self.forget(now);
        if self.latest.is_empty() {
            self.latest.shrink_to_fit();
        }
        self.shared_at = self.shared_at.filter(|at| now - *at < SHARED);
    }

    fn forget(&mut self, now: Instant) {
        self.forgotten_at = Some(now);
        while let Some((at, oldest)) = self.latest.front().copied()
            && (self.latest.len() > MAX || !self.is_held && now - at > MEMORY)
        {
            self.latest.pop_front();
            let Some(base) = &mut self.base else { continue };
            // Nothing was lost, so another instance has what is missing.
            let is_shared = self.shared_at.is_some_and(|at| now - at < MEMORY);
            if oldest.consumer_sequence > base.consumer_sequence + 1 && !is_shared {
                let next = base.consumer_sequence + 1;
                let is_missing = !self.latest.iter().any(|(_, known)| known.consumer_sequence == next);
                self.shared_at = self.shared_at.or(is_missing.then_some(now));
            }
            base.consumer_sequence = base.consumer_sequence.max(oldest.consumer_sequence);
            base.stream_sequence = base.stream_sequence.max(oldest.stream_sequence);
        }
    }

    /// Sets the number of deliveries that the consumer had made before the first one to this instance.
    pub(super) fn begin_after(&mut self, consumer_sequence: u64) {
        self.base.get_or_insert(Position { consumer_sequence, stream_sequence: 0 });
    }

    /// Sets the time at which the consumer was created; forgets everything, and returns `true`, if another one was known.
    pub(super) fn set_created(&mut self, created: SystemTime) -> bool {
        let is_other = self.created.is_some_and(|known| known != created);
        if is_other {
            *self = Self { base: Some(Position::default()), shared_at: self.shared_at, ..Self::default() };
        }
        self.created = Some(created);
        is_other
    }

    /// Records the ack floor of the consumer.
    pub(super) fn set_floor(&mut self, floor: u64) {
        self.floor = self.floor.max(floor);
    }

    /// Returns `true` if the consumer has restarted its numbering since: it is another one, or was reset with
    /// `CONSUMER.RESET`. Its state must have been read after the last delivery arrived.
    pub(super) fn is_restarted(&self, consumer: Consumer) -> bool {
        let arrived = self.latest.iter().map(|(_, known)| *known).chain(self.base);
        let is_lower = |known: Position| {
            consumer.delivered.consumer_sequence < known.consumer_sequence
                || consumer.delivered.stream_sequence < known.stream_sequence
        };
        self.created.is_some_and(|known| known != consumer.created)
            || consumer.floor < self.floor
            || arrived.into_iter().any(is_lower)
    }

    /// Records that the consumer has restarted its numbering, so that no delivery is accounted for.
    ///
    /// Only deliveries with numbers that it can have given since are kept.
    pub(super) fn restart(&mut self, consumer: Consumer) {
        let Consumer { created, delivered, floor } = consumer;
        (self.created, self.floor, self.base) = (Some(created), floor, Some(Position::default()));
        let is_former = |known: &Position| known.consumer_sequence > delivered.consumer_sequence;
        let former = self.latest.iter().rposition(|(_, known)| is_former(known)).map_or(0, |last| last + 1);
        self.latest.drain(..former);
    }

    /// Keeps everything until [`account`](Self::account), because a connection was lost.
    pub(super) fn hold(&mut self) {
        self.is_held = true;
        self.gaps = 0;
    }

    /// Records that all deliveries up to this one are accounted for.
    pub(super) fn account(&mut self, delivered: Position) {
        self.is_held = false;
        self.base = self.base.max(Some(delivered));
        self.latest.retain(|(_, known)| known.consumer_sequence > delivered.consumer_sequence);
    }

    /// Returns the last delivery that is accounted for.
    pub(super) fn base(&self) -> Option<Position> {
        self.base
    }

    /// Returns the number of deliveries that have arrived after the base.
    pub(super) fn count(&self) -> u64 {
        let base = self.base.unwrap_or_default().consumer_sequence;
        self.latest.iter().filter(|(_, known)| known.consumer_sequence > base).count() as u64
    }

    /// Returns the stream sequences of the deliveries that have arrived lately.
    pub(super) fn stream_sequences(&self) -> HashSet<u64> {
        self.latest.iter().map(|(_, known)| known.stream_sequence).collect()
    }

    /// Returns `true` if another instance receives messages too.
    pub(super) fn is_shared(&self) -> bool {
        self.shared_at.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(received: &mut Received, sequences: impl IntoIterator<Item = u64>) {
        let mut last = None;
        for sequence in sequences {
            let id = DeliveryId { consumer_sequence: sequence, stream_sequence: sequence, ..DeliveryId::default() };
            received.add(id, Instant::now(), last.is_some_and(|last| sequence > last + 1));
            last = Some(sequence);
        }
    }

    /// Restarts if the consumer shows that, and returns that.
    fn restarted(received: &mut Received, consumer: Consumer) -> bool {
        let is_restarted = received.is_restarted(consumer);
        if is_restarted {
            received.restart(consumer);
        }
        is_restarted
    }

    fn position(sequence: u64) -> Position {
        Position { consumer_sequence: sequence, stream_sequence: sequence }
    }

    #[tokio::test(start_paused = true)]
    async fn forgets_what_is_accounted_for() {
        let mut received = Received::default();
        received.begin_after(0);
        add(&mut received, 1..=10);
        assert_eq!((received.base(), received.count()), (Some(Position::default()), 10));
        tokio::time::advance(MEMORY * 2).await;
        add(&mut received, [11]);
        assert_eq!((received.base(), received.count()), (Some(position(10)), 1));
        assert!(!received.is_shared());
        received.hold();
        tokio::time::advance(MEMORY * 2).await;
        add(&mut received, [15]);
        assert_eq!((received.base(), received.count()), (Some(position(10)), 2));
        received.account(position(14));
        assert_eq!((received.base(), received.count()), (Some(position(14)), 1));
        assert!(!received.is_shared());
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_accounted_for_after_a_restart_of_the_numbering() {
        let created = SystemTime::UNIX_EPOCH;
        let consumer = |delivered| Consumer { created, delivered, floor: 0 };
        let mut received = Received::default();
        received.set_created(created);
        received.begin_after(0);
        add(&mut received, 1..=10);
        received.account(position(10));
        assert!(!restarted(&mut received, consumer(position(10))));
        assert!(!restarted(&mut received, consumer(position(12))));
        // It was reset, and of its first five deliveries, two have arrived.
        add(&mut received, [11, 1, 3]);
        assert!(restarted(&mut received, consumer(position(5))));
        assert_eq!((received.base(), received.count()), (Some(Position::default()), 2));
        received.account(position(5));
        assert_eq!((received.base(), received.count()), (Some(position(5)), 0));
        // It was reset, and has delivered earlier messages more often, or the same ones.
        assert!(restarted(&mut received, consumer(Position { consumer_sequence: 20, stream_sequence: 2 })));
        received.account(position(5));
        received.set_floor(3);
        assert!(restarted(&mut received, consumer(position(5))));
        received.account(position(5));
        // It was created again.
        let other = Consumer { created: created + MEMORY, ..consumer(position(20)) };
        assert!(restarted(&mut received, other));
        assert!(!restarted(&mut received, other));
        add(&mut received, 1..=3);
        received.set_created(created);
        assert_eq!((received.base(), received.count()), (Some(Position::default()), 0));
    }

    #[tokio::test(start_paused = true)]
    async fn many_gaps_or_an_old_one_show_another_instance() {
        let mut received = Received::default();
        received.begin_after(0);
        add(&mut received, [1, 2, 5, 6, 9]);
        assert!(!received.is_shared());
        add(&mut received, [10, 12]);
        assert!(received.is_shared());

        let mut received = Received::default();
        received.begin_after(0);
        add(&mut received, [1, 3]);
        tokio::time::advance(MEMORY * 2).await;
        received.tick(Instant::now());
        assert!(received.is_shared());
        tokio::time::advance(SHARED * 2).await;
        received.tick(Instant::now());
        assert!(!received.is_shared());
    }

    #[tokio::test(start_paused = true)]
    async fn deliveries_in_another_order_are_no_gap() {
        let mut received = Received::default();
        received.begin_after(0);
        add(&mut received, [1, 3]);
        add(&mut received, [2]);
        tokio::time::advance(MEMORY * 2).await;
        add(&mut received, [4]);
        assert!(!received.is_shared());
        assert_eq!(received.base(), Some(position(3)));
    }
}

//! The incarnations of a consumer: which of the deliveries in this process may be answered.

use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared, WeakShared};
use tokio::time::Instant;

use crate::message::DeliveryId;
use crate::sync::lock;

/// The age in seconds up to which a delivery is answered without reading its message from the stream again.
///
/// A server that restarts without its messages, or with those of a backup, takes longer to deliver new ones.
const MAX_AGE: u32 = 1;

/// The incarnations of one handler's consumer, as far as this process can tell them apart.
///
/// A stream or consumer that is deleted and created again numbers its messages from the beginning, so the answer to a
/// delivery of the former one would end a message of the new one, which was never handled.
/// The same happens if a server loses the messages of a stream and keeps the stream: a stream in memory on a node that
/// restarts, or a disk that is restored from a backup.
///
/// Whenever the consumer may have been replaced, a new incarnation begins; deliveries of earlier ones may be answered
/// only after the server has shown that the consumer is still the one that was created at the same time.
/// They, and all deliveries above [`MAX_AGE`], may be answered only if the stream still has their message: at the same
/// sequence, stored at the same time.
#[derive(Debug)]
pub(crate) struct Incarnations {
    state: Mutex<State>,
    begun: Instant,
    /// The question that the server is asked at the moment.
    inquiry: Mutex<Option<WeakShared<Inquiring>>>,
}

/// A question to the server, whose answer serves all deliveries of a handler.
///
/// Each of those who wait for it polls it, so that it goes on although another one is not polled.
pub(crate) type Inquiry = Shared<Inquiring>;

type Inquiring = BoxFuture<'static, Option<Learned>>;

/// The result of an [`Inquiry`] for one delivery, if it says nothing about others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Learned {
    pub(crate) delivery: DeliveryId,
    pub(crate) is_stored: bool,
}

#[derive(Debug, Default, Clone, Copy)]
struct State {
    /// The number of the connection on which the current incarnation began.
    epoch: u64,
    /// The time at which the consumer was created; `None` if that is unknown.
    created: Option<SystemTime>,
    /// The first incarnation whose deliveries belong to the present consumer.
    first: u32,
    /// The incarnation up to which that is known.
    identified: u32,
    current: u32,
    /// The delivery of the current incarnation with the highest stream sequence.
    newest: Option<DeliveryId>,
    /// The same of the earlier incarnations.
    older: Option<DeliveryId>,
    verified: Option<Verified>,
    /// `true` if the messages of the stream cannot be read in the current incarnation.
    is_unreadable: bool,
    /// A second of the clock, and its end.
    second: u32,
    second_ends: Option<Instant>,
}

/// The deliveries whose messages the stream still had.
#[derive(Debug, Clone, Copy)]
struct Verified {
    /// The incarnation in which the message was read.
    incarnation: u32,
    /// The delivery whose message was read; the messages before it were not replaced since it arrived.
    delivery: DeliveryId,
    at: u32,
}

/// The relation of a delivery to the present consumer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// The present consumer has made the delivery.
    Current,
    /// It is not known whether the present consumer has made the delivery.
    Unknown,
    /// The present consumer has made the delivery, but it is not known whether the stream still has its message.
    Unverified,
    /// A former consumer has made the delivery, which must not be answered.
    Former,
}

impl Default for Incarnations {
    fn default() -> Self {
        Self::of(None)
    }
}

impl Incarnations {
    /// Returns the incarnations of a consumer that was created at this time.
    pub(crate) fn of(created: Option<SystemTime>) -> Self {
        let state = State { created, ..State::default() };
        Self { state: Mutex::new(state), begun: Instant::now(), inquiry: Mutex::default() }
    }

    /// Returns the question that the server is asked at the moment, or else a new one.
    pub(crate) fn inquiry(&self, begin: impl FnOnce() -> Inquiring) -> Inquiry {
        let mut inquiry = lock(&self.inquiry);
        // One that has ended is possibly still held by a future that is not polled.
        let asked = inquiry.as_ref().and_then(WeakShared::upgrade).filter(|asked| asked.peek().is_none());
        asked.unwrap_or_else(|| {
            let begun = begin().shared();
            *inquiry = begun.downgrade();
            begun
        })
    }

    /// Returns the time in seconds on the clock by which deliveries arrive.
    pub(crate) fn now(&self) -> u32 {
        self.at(Instant::now())
    }

    /// Returns this time in seconds on the clock by which deliveries arrive.
    pub(crate) fn at(&self, time: Instant) -> u32 {
        u32::try_from(time.saturating_duration_since(self.begun).as_secs()).unwrap_or(u32::MAX)
    }

    /// Begins another incarnation if the connection has another number than before.
    pub(crate) fn connected(&self, epoch: u64) {
        self.state().connected(epoch);
    }

    /// Returns the incarnation to which new deliveries belong.
    pub(crate) fn current(&self) -> u32 {
        self.state().current
    }

    /// Returns the first incarnation that is not known to be of a former consumer.
    pub(crate) fn oldest(&self) -> u32 {
        self.state().first
    }

    /// Returns the first incarnation that is known to be of the present consumer.
    pub(crate) fn first(&self) -> u32 {
        let State { first, identified, current, .. } = *self.state();
        if identified == current { first } else { current }
    }

    /// Returns the time at which the consumer was created; `None` if that is unknown.
    pub(crate) fn created(&self) -> Option<SystemTime> {
        self.state().created
    }

    /// Records a delivery that arrived at the open inbox; returns its incarnation.
    ///
    /// That is the current one if the consumer is known to be the same as when the inbox was opened.
    pub(crate) fn arrived(&self, mut delivery: DeliveryId) -> u32 {
        let mut state = self.state();
        if state.identified == state.current && delivery.incarnation >= state.first {
            delivery.incarnation = state.current;
        }
        state.arrived(delivery);
        delivery.incarnation
    }

    /// Records a delivery that arrived at a former inbox.
    pub(crate) fn arrived_late(&self, delivery: DeliveryId) {
        self.state().arrived(delivery);
    }

    /// Begins another incarnation, because the consumer may have been replaced.
    pub(crate) fn doubt(&self) {
        self.state().begin();
    }

    /// Begins another incarnation, because the consumer was replaced.
    pub(crate) fn replace(&self) {
        let mut state = self.state();
        state.begin();
        *state = State { created: None, first: state.current, identified: state.current, older: None, ..*state };
    }

    /// Records that the consumer was created at this time, or that none exists.
    ///
    /// `asked` is the incarnation in which the server was asked; the answer says nothing about a later one.
    pub(crate) fn identify(&self, asked: u32, created: Option<SystemTime>) {
        let mut state = self.state();
        if state.current != asked {
            return;
        }
        state.identified = asked;
        let is_known_to_differ = state.created.is_some() && state.created != created;
        if created.is_none() || is_known_to_differ {
            *state = State { first: asked, older: None, ..*state };
        }
        state.created = created;
    }

    /// Returns the delivery whose message shows, if the stream still has it, that it has the one of `delivery` as well.
    ///
    /// Both have arrived at the same time, so the messages were not replaced between them.
    pub(crate) fn witness(&self, delivery: DeliveryId) -> DeliveryId {
        let state = self.state();
        let latest = if delivery.incarnation == state.current { state.newest } else { state.older };
        latest.filter(|latest| latest.covers(delivery)).unwrap_or(delivery)
    }

    /// Records that the stream still had the message of this delivery.
    pub(crate) fn verified(&self, asked: u32, delivery: DeliveryId) {
        let at = self.now();
        self.state().verified = Some(Verified { incarnation: asked, delivery, at });
    }

    /// Records that the stream has no message of this delivery any more, which thus shows nothing about others.
    pub(crate) fn message_gone(&self, delivery: DeliveryId) {
        let mut state = self.state();
        let is_other = |known: &DeliveryId| known.stream_sequence != delivery.stream_sequence;
        (state.newest, state.older) = (state.newest.filter(is_other), state.older.filter(is_other));
    }

    /// Records that the messages of the stream cannot be read, so that deliveries are answered without until the
    /// next incarnation.
    pub(crate) fn unreadable(&self) {
        self.state().is_unreadable = true;
    }

    /// Returns the standing of a delivery on the connection with the number `epoch`.
    pub(crate) fn standing(&self, epoch: u64, delivery: DeliveryId) -> Standing {
        let time = Instant::now();
        let mut state = self.state();
        // This runs for every message, and a comparison costs less than computing the second.
        if state.second_ends.is_none_or(|ends| time >= ends) {
            state.second = self.at(time);
            state.second_ends = Some(self.begun + Duration::from_secs(u64::from(state.second) + 1));
        }
        state.connected(epoch);
        state.standing(state.second, delivery)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl State {
    fn connected(&mut self, epoch: u64) {
        if std::mem::replace(&mut self.epoch, epoch) != epoch {
            self.begin();
        }
    }

    fn arrived(&mut self, delivery: DeliveryId) {
        let known = if delivery.incarnation == self.current { &mut self.newest } else { &mut self.older };
        *known = later(*known, Some(delivery));
    }

    fn begin(&mut self) {
        self.current += 1;
        self.is_unreadable = false;
        self.older = later(self.older, self.newest.take());
    }

    fn standing(&self, now: u32, delivery: DeliveryId) -> Standing {
        let Self { first, identified, current, .. } = *self;
        let incarnation = delivery.incarnation;
        if incarnation < first {
            return Standing::Former;
        }
        if incarnation != current && identified != current {
            return Standing::Unknown;
        }
        let is_new = incarnation == current && now.saturating_sub(delivery.arrived) <= MAX_AGE;
        // Without the time at which it was stored, a message is not told from another one.
        let cannot_be_verified = delivery.stored_at == 0 || self.is_unreadable;
        if is_new || cannot_be_verified || self.is_verified(now, delivery) {
            Standing::Current
        } else {
            Standing::Unverified
        }
    }

    fn is_verified(&self, now: u32, delivery: DeliveryId) -> bool {
        self.verified.is_some_and(|verified| {
            verified.incarnation == self.current
                && now.saturating_sub(verified.at) <= MAX_AGE
                && verified.delivery.covers(delivery)
        })
    }
}

impl DeliveryId {
    /// Returns `true` if the message of `other` was not replaced if that of this delivery was not: nothing happened
    /// between the two.
    fn covers(&self, other: Self) -> bool {
        self.incarnation == other.incarnation
            && self.stream_sequence >= other.stream_sequence
            && other.arrived.saturating_add(MAX_AGE) >= self.arrived
    }
}

/// Returns the delivery with the higher stream sequence.
fn later(one: Option<DeliveryId>, other: Option<DeliveryId>) -> Option<DeliveryId> {
    match (one, other) {
        (Some(first), Some(second)) => {
            Some(if second.stream_sequence >= first.stream_sequence { second } else { first })
        }
        (one, other) => one.or(other),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(second: u64) -> Option<SystemTime> {
        Some(SystemTime::UNIX_EPOCH + Duration::from_secs(second))
    }

    /// Returns a delivery of this incarnation, whose age is not known.
    fn of(incarnation: u32) -> DeliveryId {
        DeliveryId { incarnation, ..DeliveryId::default() }
    }

    #[tokio::test]
    async fn inquiry_goes_on_although_the_first_that_waits_for_it_is_not_polled() {
        let incarnations = Incarnations::default();
        let learned = Learned { delivery: of(1), is_stored: true };
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let mut first = incarnations.inquiry(|| async { receiver.await.ok() }.boxed());
        assert!(futures::poll!(&mut first).is_pending());
        let second = incarnations.inquiry(|| unreachable!("it is the same one"));
        sender.send(learned).unwrap();
        assert_eq!(second.await, Some(learned));
        let next = incarnations.inquiry(|| std::future::ready(None).boxed());
        assert_eq!(next.await, None, "the one that has ended is not asked again");
        assert_eq!(first.await, Some(learned));
    }

    #[test]
    fn same_consumer_keeps_its_deliveries() {
        let incarnations = Incarnations::of(at(1));
        let before = incarnations.current();
        assert_eq!(incarnations.standing(0, of(before)), Standing::Current);
        assert_eq!(incarnations.first(), before);
        incarnations.doubt();
        assert_eq!(incarnations.standing(0, of(before)), Standing::Unknown);
        assert_eq!(incarnations.first(), incarnations.current());
        assert_eq!(incarnations.standing(0, of(incarnations.current())), Standing::Current);
        assert_eq!(incarnations.arrived(of(before)), before);
        incarnations.identify(incarnations.current(), at(1));
        assert_eq!(incarnations.standing(0, of(before)), Standing::Current);
        assert_eq!(incarnations.arrived(of(before)), incarnations.current());
    }

    #[test]
    fn another_consumer_has_no_part_in_earlier_deliveries() {
        for created in [at(2), None] {
            let incarnations = Incarnations::of(at(1));
            let before = incarnations.current();
            incarnations.doubt();
            let after = incarnations.current();
            incarnations.identify(after, created);
            assert_eq!(incarnations.standing(0, of(before)), Standing::Former);
            assert_eq!(incarnations.standing(0, of(after)), Standing::Current);
        }
    }

    #[test]
    fn another_connection_leaves_it_open_which_consumer_it_is() {
        let incarnations = Incarnations::of(at(1));
        let before = incarnations.current();
        assert_eq!(incarnations.standing(1, of(before)), Standing::Unknown);
        assert_eq!(incarnations.standing(1, of(incarnations.current())), Standing::Current);
        incarnations.identify(incarnations.current(), at(1));
        assert_eq!(incarnations.standing(1, of(before)), Standing::Current);
    }

    #[test]
    fn answer_to_an_earlier_question_identifies_nothing() {
        let incarnations = Incarnations::of(at(1));
        let before = incarnations.current();
        incarnations.doubt();
        let asked = incarnations.current();
        incarnations.doubt();
        incarnations.identify(asked, at(1));
        assert_eq!(incarnations.standing(0, of(before)), Standing::Unknown);
        assert_eq!(incarnations.standing(0, of(asked)), Standing::Unknown);
    }

    #[test]
    fn consumer_of_unknown_age_keeps_its_deliveries_if_the_stream_has_their_messages() {
        let incarnations = Incarnations::of(at(1));
        incarnations.replace();
        let delivery = DeliveryId { stored_at: 1, ..of(incarnations.current()) };
        incarnations.doubt();
        assert_eq!(incarnations.standing(0, delivery), Standing::Unknown);
        incarnations.identify(incarnations.current(), at(2));
        assert_eq!(incarnations.standing(0, delivery), Standing::Unverified);
        incarnations.doubt();
        incarnations.identify(incarnations.current(), None);
        assert_eq!(incarnations.standing(0, delivery), Standing::Former);
    }

    #[tokio::test(start_paused = true)]
    async fn old_delivery_is_answered_only_if_its_message_was_seen() {
        let incarnations = Incarnations::of(at(1));
        let delivery = |stream_sequence, arrived| DeliveryId { stream_sequence, stored_at: 1, arrived, ..of(0) };
        let standing = |delivery| incarnations.standing(0, delivery);
        let (first, second, late) = (delivery(1, 0), delivery(2, 0), delivery(3, 5));
        [first, second].into_iter().for_each(|delivery| assert_eq!(incarnations.arrived(delivery), 0));
        assert_eq!(standing(first), Standing::Current);
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(standing(first), Standing::Unverified);
        assert_eq!(incarnations.witness(first), second);
        incarnations.arrived(late);
        assert_eq!(standing(late), Standing::Current);
        assert_eq!(incarnations.witness(first), first, "the messages may have been replaced before the last one");
        incarnations.verified(0, first);
        assert_eq!((standing(first), standing(second)), (Standing::Current, Standing::Unverified));
        incarnations.verified(0, second);
        assert_eq!(standing(first), Standing::Current);
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(standing(first), Standing::Unverified);
        incarnations.unreadable();
        assert_eq!(standing(first), Standing::Current);
    }

    #[tokio::test(start_paused = true)]
    async fn delivery_of_an_earlier_incarnation_is_answered_only_if_its_message_was_seen() {
        let incarnations = Incarnations::of(at(1));
        let delivery = |stream_sequence| DeliveryId { stream_sequence, stored_at: 1, ..of(0) };
        incarnations.arrived(delivery(1));
        incarnations.arrived(delivery(2));
        incarnations.doubt();
        let current = incarnations.current();
        assert_eq!(incarnations.standing(0, delivery(1)), Standing::Unknown);
        incarnations.identify(current, at(1));
        assert_eq!(incarnations.standing(0, delivery(1)), Standing::Unverified);
        assert_eq!(incarnations.witness(delivery(1)), delivery(2));
        incarnations.message_gone(delivery(2));
        assert_eq!(incarnations.witness(delivery(1)), delivery(1));
        incarnations.verified(current, delivery(1));
        assert_eq!(incarnations.standing(0, delivery(1)), Standing::Current);
        // Another message at the same sequence, on another connection in the same second.
        let other = DeliveryId { stored_at: 2, ..delivery(1) };
        let other =
            DeliveryId { incarnation: incarnations.arrived(DeliveryId { incarnation: current, ..other }), ..other };
        incarnations.doubt();
        incarnations.identify(incarnations.current(), at(1));
        assert_eq!(incarnations.witness(delivery(1)), delivery(1));
        assert_eq!(incarnations.witness(other), other);
    }
}

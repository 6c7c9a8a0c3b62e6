//! The resequencer of an ordered handler, which releases messages in the order of the stream, while none is missing.
//!
//! An ack of the handler covers all messages before its own. So the next ack would also acknowledge a message that was
//! delivered but has not arrived, because it was lost with a connection or with an instance that crashed.
//! The consumer numbers its deliveries; a gap in these numbers closes the resequencer until everything unacknowledged
//! has arrived.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use async_nats::jetstream::consumer;
use tokio::time::Instant;

use super::action::{Action, Active, LONG_PERIOD, PERIOD};
use super::missing::Missing;
use crate::message::{AckPrefix, Message};

/// The state of a resequencer, which releases deliveries in order.
#[derive(Debug)]
pub(super) struct Resequencer {
    open: bool,
    /// The consumer sequence of the delivery that was released last.
    last: u64,
    /// The messages that were released last, at most `max_pending`: the worker has them.
    delivered: VecDeque<Delivered>,
    /// The maximum number of unacknowledged messages: the consumer's `max_ack_pending`, or the number that was
    /// unacknowledged when an operator lowered it.
    max_pending: usize,
    /// The lowest consumer sequence that the next ack may contain, so that the server does not ignore it;
    /// above the delivery's own only if the consumer is damaged.
    min_ack_sequence: u64,
    /// The deliveries that are kept back, by stream sequence.
    pending: BTreeMap<u64, Message>,
    /// The highest consumer sequence that has arrived.
    received: u64,
    /// The value of `received` at the last request for the consumer's info.
    received_at_request: u64,
    /// The ack floor of the consumer, as last reported.
    floor: u64,
    /// The stream sequences of messages that were delivered although they are not above the floor: they are
    /// unacknowledged, and the floor rose past them because a message after them was removed from the stream.
    below_floor: BTreeSet<u64>,
    /// The number of those that this process had acked before they arrived.
    acked_again: usize,
    /// The time at which the consumer was created.
    created: Option<String>,
    request_at: Instant,
    in_flight: Option<InFlight>,
    /// The time at which the missing messages were nakked; a nak can be lost as well, and is repeated.
    nakked_at: Option<Instant>,
}

/// A message that was released.
#[derive(Debug)]
struct Delivered {
    stream_sequence: u64,
    /// The consumer sequence that the next ack of this message contains.
    ack_sequence: u64,
}

/// The deliveries that the server had made at the first request after the resequencer closed: they may be in flight
/// until none of them has arrived for a [`PERIOD`].
///
/// Later deliveries do not count, because on a busy stream they would delay the naks forever.
#[derive(Debug)]
struct InFlight {
    up_to: u64,
    since: Instant,
}

impl Resequencer {
    /// Creates a closed resequencer for a consumer with this `max_ack_pending`.
    pub(super) fn new(max_pending: usize) -> Self {
        Self {
            open: false,
            last: 0,
            delivered: VecDeque::new(),
            max_pending,
            min_ack_sequence: 0,
            pending: BTreeMap::new(),
            received: 0,
            received_at_request: 0,
            floor: 0,
            below_floor: BTreeSet::new(),
            acked_again: 0,
            created: None,
            request_at: Instant::now(),
            in_flight: None,
            nakked_at: None,
        }
    }

    /// Returns a delivery if it is the next one, and keeps it back otherwise.
    pub(super) fn pass(&mut self, mut message: Message) -> Option<Message> {
        let consumer_sequence = message.info.consumer_sequence();
        let stream_sequence = message.info.stream_sequence();
        self.received = self.received.max(consumer_sequence);
        if self.open && self.last + 1 == consumer_sequence {
            self.last = consumer_sequence;
            if message.info.delivered() > 1 && self.pass_again(&mut message) {
                return Some(message);
            }
            let ack_sequence = consumer_sequence.max(self.min_ack_sequence);
            if ack_sequence != consumer_sequence {
                message.info.set_ack_sequence(ack_sequence);
            }
            self.min_ack_sequence = ack_sequence + 1;
            self.record(Delivered { stream_sequence, ack_sequence });
            return Some(message);
        }
        if self.open {
            self.close();
        }
        if let Some(in_flight) = &mut self.in_flight
            && consumer_sequence <= in_flight.up_to
        {
            in_flight.since = Instant::now();
        }
        if stream_sequence <= self.floor {
            self.below_floor.insert(stream_sequence);
        }
        self.pending.insert(stream_sequence, message);
        None
    }

    /// Returns `true` if a message was released before, and is redelivered although the resequencer is open:
    /// its ack was lost, or the server ignored it because its consumer sequence was too low.
    ///
    /// Its next ack contains the same consumer sequence; after another redelivery, that of the previous delivery.
    /// That sequence can be above those of later messages; the server then ignores their acks and redelivers them, and
    /// they are handled in the same way.
    fn pass_again(&mut self, message: &mut Message) -> bool {
        let sequence = message.info.stream_sequence();
        let Some(known) = self.delivered.iter_mut().find(|known| known.stream_sequence == sequence) else {
            return false;
        };
        let before = std::mem::replace(&mut known.ack_sequence, message.info.consumer_sequence());
        message.info.set_ack_sequence(before);
        true
    }

    /// Records that the consumer's info is requested now.
    pub(super) fn on_request(&mut self) {
        self.received_at_request = self.received;
    }

    /// Records the identity of the consumer; returns `false` if it is another consumer than before, or the same one
    /// with a restarted numbering: after `CONSUMER.RESET`, or after its server was killed before it stored the numbers.
    ///
    /// Earlier deliveries must not be acknowledged then: their numbers are above all that the consumer has counted, and
    /// the server would ignore every lower ack after that. A consumer to which this has happened is *damaged*. Its info
    /// does not show which of the released messages are unacknowledged, so once the resequencer is closed they are
    /// forgotten, and everything is redelivered.
    pub(super) fn is_same_consumer(&mut self, info: &consumer::Info) -> bool {
        let created = info.created.to_string();
        let same = self.created.as_ref().is_none_or(|before| *before == created);
        self.created = Some(created);
        let counts_on = if is_damaged(info) {
            self.open || self.delivered.is_empty()
        } else {
            info.delivered.consumer_sequence >= self.received_at_request
        };
        same && counts_on
    }

    fn record(&mut self, delivered: Delivered) {
        if self.delivered.len() == self.max_pending {
            self.delivered.pop_front();
        }
        self.delivered.push_back(delivered);
    }

    /// Keeps back all deliveries from now on, because one may be missing.
    pub(super) fn close(&mut self) {
        (self.open, self.request_at, self.in_flight, self.nakked_at) = (false, Instant::now(), None, None);
    }

    /// Forgets all deliveries, because they belong to another instance or the consumer was replaced.
    pub(super) fn reset(&mut self) {
        *self = Self { created: self.created.take(), ..Self::new(self.max_pending) };
    }

    /// Returns the highest consumer sequence that has arrived.
    pub(super) fn received(&self) -> u64 {
        self.received
    }

    pub(super) fn is_open(&self) -> bool {
        self.open
    }

    /// Returns the number of messages that may still arrive at a closed resequencer: all that the consumer can have
    /// delivered, without those that have arrived.
    pub(super) fn capacity(&self) -> usize {
        (self.max_pending + self.acked_again).saturating_sub(self.pending.len())
    }

    /// Returns the time at which a closed resequencer needs the consumer's info.
    pub(super) fn request_at(&self) -> Instant {
        self.request_at
    }

    /// Evaluates the consumer's info; `acked` is the stream sequence up to which this process has sent an ack.
    pub(super) fn on_info(&mut self, info: &consumer::Info, active: Active, acked: u64) -> Action {
        let floor = info.ack_floor.stream_sequence;
        let delivered = info.delivered.stream_sequence.max(floor);
        let now = Instant::now();
        self.request_at = now + if self.open || active == Active::Other { LONG_PERIOD } else { PERIOD };
        if active == Active::Other || self.open && (active == Active::This || info.num_ack_pending == 0) {
            return Action::Wait;
        }
        if self.open {
            // The active instance is gone, and the server pins another one only when there is something to deliver.
            self.close();
        }
        self.floor = floor;
        self.max_pending = self.max_pending.max(info.num_ack_pending);
        self.pending.retain(|sequence, _| *sequence > floor || self.below_floor.contains(sequence));
        // What arrived after this process had acked it must not take the capacity that the missing messages need.
        self.acked_again = self.below_floor.range(..=acked).count();
        // Messages up to the floor have ended, except those in `below_floor`; messages above the last delivery arrived
        // after this info.
        let unacknowledged = floor + 1..delivered + 1;
        // Until the floor shows the ack, it is not known whether the server counts them.
        if self.pending.range(..=acked).any(|(sequence, _)| *sequence > floor) && !is_damaged(info) {
            return Action::AckAgain;
        }
        // Messages that this process has acked do not count, although the floor may be below them, or they may have been
        // delivered again before the ack was processed: the floor of a replicated consumer rises later, and to count an
        // acked message would hide a missing one.
        let released: BTreeSet<u64> = self
            .delivered
            .iter()
            .map(|released| released.stream_sequence)
            .filter(|sequence| *sequence > acked && unacknowledged.contains(sequence))
            .collect();
        let arrived = if is_damaged(info) {
            // The info of a damaged consumer has a wrong count of deliveries, but includes those that had arrived at
            // the request. No message counts as released here (see `is_same_consumer`).
            let at_request = self.received_at_request;
            self.pending.values().filter(|message| message.info.consumer_sequence() <= at_request).count()
        } else {
            let pending = self.pending.range(unacknowledged).map(|(sequence, _)| sequence);
            let pending = pending.chain(&self.below_floor);
            released.len() + pending.filter(|sequence| **sequence > acked && !released.contains(sequence)).count()
        };
        if arrived >= info.num_ack_pending {
            return Action::Release(self.open(info));
        }
        // The info can overtake a delivery, and the client reads its subscriptions in turns.
        let up_to = info.delivered.consumer_sequence;
        let in_flight = now - self.in_flight.get_or_insert(InFlight { up_to, since: now }).since < PERIOD;
        let nakked = self.nakked_at.is_some_and(|nakked_at| now - nakked_at < LONG_PERIOD);
        if in_flight || nakked || is_damaged(info) {
            return Action::Wait;
        }
        self.nakked_at = Some(now);
        let prefix = match self.pending.values().next() {
            Some(any) => any.info.ack_prefix(),
            None => AckPrefix::new(&info.stream_name, &info.name),
        };
        let range = floor + 1..delivered + 1;
        let mut arrived = released;
        arrived.extend(self.pending.range(range.clone()).map(|(sequence, _)| *sequence));
        Action::Nak(Missing { range, arrived, prefix, consumer_sequence: info.delivered.consumer_sequence })
    }

    /// Opens the resequencer, and returns all pending deliveries.
    fn open(&mut self, info: &consumer::Info) -> Vec<Message> {
        let last = self.pending.values().map(|message| message.info.consumer_sequence()).max();
        self.last = last.unwrap_or_default().max(info.delivered.consumer_sequence);
        self.open = true;
        self.below_floor.clear();
        self.acked_again = 0;
        self.assign_ack_sequences(info.ack_floor.consumer_sequence);
        std::mem::take(&mut self.pending).into_values().collect()
    }

    /// Assigns the consumer sequence that the ack of each unacknowledged message contains.
    ///
    /// The server ignores an ack whose consumer sequence is not above that of the last ack, even if its stream sequence
    /// is (`consumer.go`, `processAckMsg`). A redelivery has a consumer sequence above those of later messages, whose
    /// acks would then be ignored. So each ack contains a consumer sequence below that of the next one. It is not below
    /// that of the message's first delivery, and the sequences of earlier acks are below that.
    fn assign_ack_sequences(&mut self, floor: u64) {
        let delivered = self.delivered.drain(..).filter(|delivered| delivered.stream_sequence > self.floor);
        let mut sequences: BTreeMap<u64, u64> =
            delivered.map(|delivered| (delivered.stream_sequence, delivered.ack_sequence)).collect();
        // Messages below the floor count as acked, whatever their acks contain.
        let above = self.pending.range(self.floor + 1..);
        sequences.extend(above.map(|(sequence, message)| (*sequence, message.info.consumer_sequence())));
        let mut next = self.last + 1;
        for ack_sequence in sequences.values_mut().rev() {
            *ack_sequence = (*ack_sequence).min(next.saturating_sub(1));
            next = *ack_sequence;
        }
        // The floor of a healthy consumer is below all these numbers. The floor of a damaged one is above them, and it
        // accepts only numbers above its floor, so the numbers continue from there.
        self.min_ack_sequence = floor + 1;
        for (stream_sequence, ack_sequence) in sequences {
            let ack_sequence = ack_sequence.max(self.min_ack_sequence);
            self.min_ack_sequence = ack_sequence + 1;
            if let Some(message) = self.pending.get_mut(&stream_sequence)
                && message.info.consumer_sequence() != ack_sequence
            {
                message.info.set_ack_sequence(ack_sequence);
            }
            self.record(Delivered { stream_sequence, ack_sequence });
        }
    }

    /// Requests the consumer's info at once.
    pub(super) fn request_now(&mut self) {
        self.request_at = Instant::now();
    }

    /// Delays the next request for the consumer's info, after one that failed.
    pub(super) fn on_info_failed(&mut self) {
        self.request_at = Instant::now() + LONG_PERIOD;
    }

    /// Returns all pending deliveries, for the next instance.
    pub(super) fn take_pending(&mut self) -> Vec<Message> {
        std::mem::take(&mut self.pending).into_values().collect()
    }
}

/// Returns `true` if the consumer received an ack with a consumer sequence that it has not reached: it ignores acks
/// below that one (`consumer.go`, `processAckMsg`), and its store records no delivery below it (`filestore.go`,
/// `UpdateDelivered`).
pub(super) fn is_damaged(info: &consumer::Info) -> bool {
    info.ack_floor.consumer_sequence > info.delivered.consumer_sequence
}

#[cfg(test)]
mod tests {
    use async_nats::Subject;
    use serde_json::json;

    use super::*;
    use crate::message::Info;

    const CREATED: &str = "2026-11-01T00:00:00Z";

    /// Returns a consumer's info with this last delivery and ack floor, each as stream and consumer sequence.
    fn info((delivered, last): (u64, u64), (floor, acked): (u64, u64), unanswered: usize) -> consumer::Info {
        created_at(CREATED, (delivered, last), (floor, acked), unanswered)
    }

    fn created_at(
        created: &str,
        (delivered, last): (u64, u64),
        (floor, acked): (u64, u64),
        unanswered: usize,
    ) -> consumer::Info {
        serde_json::from_value(json!({
            "stream_name": "S",
            "name": "D",
            "created": created,
            "config": { "deliver_policy": "all", "ack_policy": "all", "replay_policy": "instant" },
            "delivered": { "stream_seq": delivered, "consumer_seq": last },
            "ack_floor": { "stream_seq": floor, "consumer_seq": acked },
            "num_ack_pending": unanswered,
            "num_redelivered": 0,
            "num_waiting": 0,
            "num_pending": 0,
        }))
        .expect("it is an info of the server")
    }

    fn delivery(sequence: u64, number: u64, times: u64) -> Message {
        let info = Info::parse(format!("$JS.ACK.S.D.{times}.{sequence}.{number}.7.0").into());
        Message { info: info.expect("it is an ack subject"), ..Message::new("s", "") }
    }

    /// Returns the stream and consumer sequence in the ack of each message.
    fn acks<'a>(messages: impl IntoIterator<Item = &'a Message>) -> Vec<(u64, u64)> {
        let ack = |message: &Message| {
            let numbers = message.info.ack_subject().split('.').skip(5).take(2).map(|it| it.parse().expect("a number"));
            let numbers: Vec<u64> = numbers.collect();
            (numbers[0], numbers[1])
        };
        messages.into_iter().map(ack).collect()
    }

    /// Returns an open resequencer that has released the messages 1 to `last`.
    fn opened(last: u64) -> Resequencer {
        let mut resequencer = Resequencer::new(1000);
        assert!(resequencer.is_same_consumer(&info((0, 0), (0, 0), 0)));
        assert!(matches!(resequencer.on_info(&info((0, 0), (0, 0), 0), Active::This, 0), Action::Release(_)));
        for number in 1..=last {
            assert!(resequencer.pass(delivery(number, number, 1)).is_some());
        }
        resequencer.on_request();
        resequencer
    }

    fn subjects(missing: &Missing) -> Vec<(u64, Subject)> {
        missing.sequences().map(|sequence| (sequence, missing.ack_subject(sequence))).collect()
    }

    fn released(resequencer: &mut Resequencer, info: &consumer::Info) -> Vec<Message> {
        match resequencer.on_info(info, Active::This, 0) {
            Action::Release(messages) => messages,
            action => panic!("{action:?}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn releases_nothing_before_what_is_missing() {
        let mut resequencer = opened(2);
        // 3 is lost.
        assert!(resequencer.pass(delivery(4, 4, 1)).is_none());
        let info_now = info((4, 4), (1, 1), 3);
        assert!(matches!(resequencer.on_info(&info_now, Active::This, 0), Action::Wait), "it may be in flight");
        tokio::time::advance(PERIOD).await;
        let Action::Nak(missing) = resequencer.on_info(&info_now, Active::This, 0) else { panic!("it is missing") };
        assert_eq!(subjects(&missing), [(3, Subject::from("$JS.ACK.S.D.1.3.4.0.0"))]);
        assert!(resequencer.pass(delivery(3, 5, 2)).is_none());
        assert_eq!(acks(&released(&mut resequencer, &info((4, 5), (1, 1), 3))), [(3, 3), (4, 4)]);
        assert!(resequencer.pass(delivery(5, 6, 1)).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn later_deliveries_do_not_put_off_the_nak() {
        let mut resequencer = opened(0);
        resequencer.close();
        let info_now = info((1, 1), (0, 0), 1);
        assert!(matches!(resequencer.on_info(&info_now, Active::This, 0), Action::Wait));
        for number in 2..=6 {
            tokio::time::advance(PERIOD / 4).await;
            assert!(resequencer.pass(delivery(number, number, 1)).is_none());
        }
        let Action::Nak(missing) = resequencer.on_info(&info((6, 6), (0, 0), 6), Active::This, 0) else {
            panic!("it is missing")
        };
        assert_eq!(subjects(&missing), [(1, Subject::from("$JS.ACK.S.D.1.1.6.0.0"))]);
    }

    #[test]
    fn each_ack_names_a_number_below_the_next_one() {
        let mut resequencer = opened(0);
        resequencer.close();
        // 1 and 2 were delivered to a process that crashed, and are redelivered after 3, which is new, as is 4.
        for (sequence, number, times) in [(3, 3, 1), (1, 4, 2), (2, 5, 2), (4, 6, 1)] {
            assert!(resequencer.pass(delivery(sequence, number, times)).is_none());
        }
        assert_eq!(acks(&released(&mut resequencer, &info((4, 6), (0, 0), 4))), [(1, 1), (2, 2), (3, 3), (4, 6)]);
        let next = resequencer.pass(delivery(5, 7, 1));
        assert_eq!(acks(&next), [(5, 7)]);
    }

    #[test]
    fn a_redelivery_while_open_is_acked_as_before_and_then_with_its_new_number() {
        let mut resequencer = opened(2);
        assert_eq!(acks(&resequencer.pass(delivery(1, 3, 2))), [(1, 1)]);
        assert_eq!(acks(&resequencer.pass(delivery(1, 4, 3))), [(1, 3)]);
    }

    #[test]
    fn a_consumer_with_restarted_numbering_is_another_one() {
        assert!(opened(3).is_same_consumer(&info((3, 3), (0, 0), 3)));
        assert!(!opened(3).is_same_consumer(&info((3, 2), (0, 0), 2)), "it has delivered three");
        assert!(!opened(3).is_same_consumer(&created_at("2026-11-02T00:00:00Z", (3, 3), (0, 0), 3)));
    }

    #[tokio::test(start_paused = true)]
    async fn acks_for_a_damaged_consumer_name_numbers_above_its_floor() {
        let mut resequencer = opened(2);
        let info_now = info((0, 0), (0, 500), 2);
        assert!(resequencer.is_same_consumer(&info_now), "while it is open that changes nothing");
        resequencer.close();
        assert!(!resequencer.is_same_consumer(&info_now), "what was released may be acked or not");
        resequencer.reset();
        assert!(resequencer.is_same_consumer(&info_now));
        assert!(resequencer.pass(delivery(1, 3, 2)).is_none());
        resequencer.on_request();
        tokio::time::advance(LONG_PERIOD).await;
        assert!(matches!(resequencer.on_info(&info_now, Active::This, 0), Action::Wait), "it accepts no nak");
        tokio::time::advance(LONG_PERIOD).await;
        assert!(matches!(resequencer.on_info(&info_now, Active::This, 0), Action::Wait));
        assert!(resequencer.pass(delivery(2, 4, 2)).is_none());
        resequencer.on_request();
        assert_eq!(acks(&released(&mut resequencer, &info_now)), [(1, 501), (2, 502)]);
        assert_eq!(acks(&resequencer.pass(delivery(3, 5, 1))), [(3, 503)]);
    }

    #[tokio::test(start_paused = true)]
    async fn acked_messages_do_not_stand_for_missing_ones() {
        let mut resequencer = opened(4);
        resequencer.close();
        // 1 to 3 are acked, which the floor does not show yet; 5 to 7 are lost.
        let info_now = info((7, 7), (0, 0), 4);
        assert!(matches!(resequencer.on_info(&info_now, Active::This, 3), Action::Wait));
        tokio::time::advance(PERIOD).await;
        let Action::Nak(missing) = resequencer.on_info(&info_now, Active::This, 3) else { panic!("they are missing") };
        assert_eq!(missing.sequences().count(), 6, "it may also be the acks that are lost");
        for (sequence, number) in [(5, 8), (6, 9), (7, 10)] {
            assert!(resequencer.pass(delivery(sequence, number, 2)).is_none());
        }
        let Action::Release(messages) = resequencer.on_info(&info((7, 10), (3, 3), 4), Active::This, 3) else {
            panic!("all have arrived")
        };
        assert_eq!(acks(&messages), [(5, 8), (6, 9), (7, 10)]);
    }

    #[tokio::test(start_paused = true)]
    async fn deliveries_that_crossed_their_ack_do_not_stand_for_missing_ones() {
        let mut resequencer = opened(4);
        resequencer.close();
        assert!(matches!(resequencer.on_info(&info((7, 7), (2, 2), 5), Active::This, 2), Action::Wait));
        // 2 is below the floor and acked, 4 is above it and acked, and both were delivered again before.
        for (sequence, number) in [(2, 8), (4, 9), (6, 10), (7, 11)] {
            assert!(resequencer.pass(delivery(sequence, number, 2)).is_none());
        }
        let info_now = info((7, 11), (3, 3), 3);
        assert!(matches!(resequencer.on_info(&info_now, Active::This, 4), Action::AckAgain));
        let info_now = info((7, 11), (4, 4), 3);
        assert!(matches!(resequencer.on_info(&info_now, Active::This, 4), Action::Wait), "5 is missing");
        assert!(resequencer.pass(delivery(5, 12, 2)).is_none());
        let Action::Release(messages) = resequencer.on_info(&info((7, 12), (4, 4), 3), Active::This, 4) else {
            panic!("all have arrived")
        };
        assert_eq!(acks(&messages), [(2, 8), (5, 9), (6, 10), (7, 11)]);
    }

    #[tokio::test(start_paused = true)]
    async fn deliveries_that_crossed_their_ack_leave_room_for_missing_ones() {
        let mut resequencer = Resequencer { max_pending: 3, ..opened(2) };
        resequencer.close();
        // 1 and 2 are acked; 3 to 5, as many as may be unacknowledged, are lost.
        let info_now = info((5, 5), (2, 2), 3);
        assert!(matches!(resequencer.on_info(&info_now, Active::This, 2), Action::Wait));
        tokio::time::advance(PERIOD).await;
        assert!(matches!(resequencer.on_info(&info_now, Active::This, 2), Action::Nak(_)));
        // 1 was delivered again before its ack.
        for (sequence, number) in [(1, 6), (3, 7), (4, 8)] {
            assert!(resequencer.pass(delivery(sequence, number, 2)).is_none());
        }
        let info_now = info((5, 8), (2, 2), 3);
        assert!(matches!(resequencer.on_info(&info_now, Active::This, 2), Action::Wait), "5 is missing");
        assert_eq!(resequencer.capacity(), 1, "for 5");
        assert!(resequencer.pass(delivery(5, 9, 2)).is_none());
        let Action::Release(messages) = resequencer.on_info(&info((5, 9), (2, 2), 3), Active::This, 2) else {
            panic!("all have arrived")
        };
        assert_eq!(acks(&messages), [(1, 6), (3, 7), (4, 8), (5, 9)]);
    }

    #[test]
    fn a_standby_waits() {
        let mut resequencer = opened(0);
        assert!(matches!(resequencer.on_info(&info((3, 3), (0, 0), 3), Active::Other, 0), Action::Wait));
        assert!(resequencer.is_open());
        // It closes when the active instance is gone.
        assert!(matches!(resequencer.on_info(&info((3, 3), (0, 0), 3), Active::NoInstance, 0), Action::Wait));
        assert!(!resequencer.is_open());
    }
}

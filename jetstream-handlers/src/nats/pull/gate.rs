//! The gate of a handler with a `key`: its messages may start while none is missing.
//!
//! A message that was delivered and lost with a connection, or that another instance had when it ended, may be an earlier
//! one of the same key.
//! The consumer numbers its deliveries; a gap in these numbers closes the gate until this process has everything that
//! was delivered and has not ended.

use std::sync::Arc;

use async_nats::jetstream::consumer;
use tokio::time::Instant;

use super::action::{Action, Active, LONG_PERIOD, PERIOD};
use super::missing::Missing;
use crate::delivery::Unfinished;
use crate::message::{AckPrefix, Message};

/// The maximum number of messages that are requested at the same time while the gate is closed.
const MAX_REQUESTED: usize = 500;

/// The minimum number of messages that may arrive between two infos while the gate is closed.
const MIN_ALLOWED: usize = 10;

/// The state of a gate.
#[derive(Debug)]
pub(super) struct Gate {
    unfinished: Arc<Unfinished>,
    /// The maximum number of unacknowledged messages, as it was at the start.
    max_ack_pending: usize,
    /// The highest consumer sequence that has arrived.
    received: u64,
    /// The lowest consumer sequence after which everything up to `received` has arrived.
    contiguous_from: u64,
    /// The value of `received` at the last request for the consumer's info.
    received_at_request: u64,
    /// The time at which the consumer was created.
    created: Option<String>,
    request_at: Instant,
    /// The deliveries that the server had made at the first request after the gate closed, which may be in flight until
    /// this time.
    in_flight: Option<(u64, Instant)>,
    /// The time at which the missing messages were nakked; a nak can be lost as well, and is repeated.
    nakked_at: Option<Instant>,
    /// The number of messages that may arrive before the next info, although the handler holds enough: as many as are
    /// missing, because the server delivers those first that it delivers again.
    allowed: usize,
}

impl Gate {
    /// Creates a closed gate for the messages of a consumer with this `max_ack_pending`.
    pub(super) fn new(unfinished: Arc<Unfinished>, max_ack_pending: usize) -> Self {
        unfinished.set_complete(false);
        Self {
            unfinished,
            max_ack_pending,
            received: 0,
            contiguous_from: 0,
            received_at_request: 0,
            created: None,
            request_at: Instant::now(),
            in_flight: None,
            nakked_at: None,
            allowed: MIN_ALLOWED,
        }
    }

    /// Records a delivery, which may start unless the gate is closed.
    pub(super) fn pass(&mut self, message: &Message) {
        let id = message.info.id();
        let follows = id.consumer_sequence == self.received + 1;
        if !follows && self.is_open() {
            self.close();
        }
        if id.consumer_sequence > self.received + 1 {
            self.contiguous_from = id.consumer_sequence;
        }
        self.received = self.received.max(id.consumer_sequence);
        if let Some((up_to, until)) = &mut self.in_flight
            && id.consumer_sequence <= *up_to
        {
            *until = Instant::now() + PERIOD;
        }
        // What this process has requested again comes before what is missing.
        if self.unfinished.delivered(id) {
            self.allowed = self.allowed.saturating_sub(1);
        }
    }

    /// Records that the consumer's info is requested now.
    pub(super) fn on_request(&mut self) {
        self.received_at_request = self.received;
    }

    /// Records the identity of the consumer; returns `false` if it is another consumer than before, or the same one
    /// with a restarted numbering.
    pub(super) fn is_same_consumer(&mut self, info: &consumer::Info) -> bool {
        let created = info.created.to_string();
        let same = self.created.as_ref().is_none_or(|before| *before == created);
        self.created = Some(created);
        same && info.delivered.consumer_sequence >= self.received_at_request
    }

    /// Evaluates the consumer's info.
    pub(super) fn on_info(&mut self, info: &consumer::Info, active: Active) -> Action {
        let (floor, delivered) = (info.ack_floor.stream_sequence, info.delivered.stream_sequence);
        let now = Instant::now();
        self.request_at = now + if self.is_open() || active == Active::Other { LONG_PERIOD } else { PERIOD };
        if active == Active::Other || self.is_open() && (active == Active::This || info.num_ack_pending == 0) {
            return Action::Wait;
        }
        if self.is_open() {
            // The active instance is gone, and the server pins another one only when there is something to deliver.
            self.close();
        }
        self.unfinished.prune(floor);
        // Messages above the last delivery arrived after this info. The floor can rise past unacknowledged messages if
        // those after them are removed from the stream.
        let held = self.unfinished.count(0..delivered.max(floor) + 1);
        let last = info.delivered.consumer_sequence;
        let has_all_since = self.received <= last || self.contiguous_from <= last + 1;
        if held >= info.num_ack_pending && has_all_since {
            self.received = self.received.max(last);
            self.in_flight = None;
            self.unfinished.set_complete(true);
            return Action::Open;
        }
        self.allowed = info.num_ack_pending.saturating_sub(held).clamp(MIN_ALLOWED, MAX_REQUESTED);
        // The info can overtake a delivery, and the client reads its subscriptions in turns.
        let (_, until) = *self.in_flight.get_or_insert((last, now + PERIOD));
        let nakked = self.nakked_at.is_some_and(|nakked_at| now - nakked_at < LONG_PERIOD);
        if now < until || nakked {
            return Action::Wait;
        }
        self.nakked_at = Some(now);
        let range = floor + 1..delivered.max(floor) + 1;
        let arrived = self.unfinished.held(range.clone());
        let prefix = AckPrefix::new(&info.stream_name, &info.name);
        Action::Nak(Missing { range, arrived, prefix, consumer_sequence: last })
    }

    /// Lets nothing start from now on, because a message may be missing.
    pub(super) fn close(&mut self) {
        self.unfinished.set_complete(false);
        (self.request_at, self.in_flight, self.nakked_at) = (Instant::now(), None, None);
        self.allowed = MIN_ALLOWED;
    }

    /// Forgets all deliveries, because they belong to another instance or the consumer was replaced.
    pub(super) fn reset(&mut self) {
        self.unfinished.clear();
        *self = Self { created: self.created.take(), ..Self::new(self.unfinished.clone(), self.max_ack_pending) };
    }

    pub(super) fn received(&self) -> u64 {
        self.received
    }

    pub(super) fn is_open(&self) -> bool {
        self.unfinished.is_complete()
    }

    /// Returns the number of messages that are requested at the same time while the gate is closed, of a handler that
    /// can hold `capacity` more.
    pub(super) fn capacity(&self, capacity: usize) -> usize {
        let held = self.unfinished.len();
        // The limit may have been raised since the start, and messages that are held may be gone from the stream.
        let most = self.max_ack_pending.saturating_sub(held).clamp(1, MAX_REQUESTED);
        capacity.max(self.allowed).min(most)
    }

    /// Returns the time at which a closed gate needs the consumer's info.
    pub(super) fn request_at(&self) -> Instant {
        self.request_at
    }

    /// Requests the consumer's info at once.
    pub(super) fn request_now(&mut self) {
        self.request_at = Instant::now();
    }

    /// Delays the next request for the consumer's info, after one that failed.
    pub(super) fn on_info_failed(&mut self) {
        self.request_at = Instant::now() + LONG_PERIOD;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;
    use tokio::time::advance;

    use super::*;
    use crate::message::Info;

    /// Returns a consumer's info with this last delivery and ack floor, each as stream and consumer sequence.
    fn info((delivered, last): (u64, u64), (floor, acked): (u64, u64), pending: usize) -> consumer::Info {
        serde_json::from_value(json!({
            "stream_name": "S",
            "name": "D",
            "created": "2026-11-01T00:00:00Z",
            "config": { "deliver_policy": "all", "ack_policy": "explicit", "replay_policy": "instant" },
            "delivered": { "stream_seq": delivered, "consumer_seq": last },
            "ack_floor": { "stream_seq": floor, "consumer_seq": acked },
            "num_ack_pending": pending,
            "num_redelivered": 0,
            "num_waiting": 0,
            "num_pending": 0,
        }))
        .expect("it is an info of the server")
    }

    fn delivery(sequence: u64, number: u64) -> Message {
        let info = Info::parse(format!("$JS.ACK.S.D.1.{sequence}.{number}.7.0").into());
        Message { info: info.expect("it is an ack subject"), ..Message::new("s", "") }
    }

    fn gate() -> Gate {
        Gate::new(Arc::default(), 1000)
    }

    /// Returns an open gate through which the messages 1 to `last` have passed.
    fn opened(last: u64) -> Gate {
        let mut gate = gate();
        assert!(matches!(gate.on_info(&info((0, 0), (0, 0), 0), Active::This), Action::Open));
        (1..=last).for_each(|number| gate.pass(&delivery(number, number)));
        assert!(gate.is_open());
        gate
    }

    #[tokio::test(start_paused = true)]
    async fn closed_gate_requests_what_is_missing_beside_what_the_handler_can_hold() {
        let mut gate = gate();
        assert_eq!((gate.capacity(0), gate.capacity(26)), (MIN_ALLOWED, 26));
        (21..=30).for_each(|number| gate.pass(&delivery(number, number)));
        assert_eq!(gate.capacity(0), 0, "the info tells how many are missing");
        assert!(matches!(gate.on_info(&info((30, 30), (0, 0), 30), Active::This), Action::Wait));
        assert_eq!(gate.capacity(0), 20);
        gate.pass(&delivery(1, 31));
        gate.pass(&delivery(21, 32));
        assert_eq!((gate.capacity(0), gate.capacity(10_000)), (19, MAX_REQUESTED));
    }

    fn end(gate: &Gate, sequence: u64) {
        gate.unfinished.ended(delivery(sequence, sequence).info.id());
    }

    #[tokio::test(start_paused = true)]
    async fn gap_in_the_numbers_closes_the_gate_until_what_is_missing_has_arrived() {
        let mut gate = opened(3);
        end(&gate, 2);
        gate.pass(&delivery(6, 6));
        assert!(!gate.is_open());
        // 1, 3, 4, 5 and 6 are unacknowledged, and the ack of 2 is on its way.
        let pending = info((6, 6), (0, 0), 6);
        assert!(matches!(gate.on_info(&pending, Active::This), Action::Wait), "they may be in flight");
        advance(PERIOD * 2).await;
        let Action::Nak(missing) = gate.on_info(&pending, Active::This) else { panic!("4 and 5 are missing") };
        assert_eq!(missing.sequences().collect::<Vec<_>>(), [2, 4, 5]);
        assert!(matches!(gate.on_info(&pending, Active::This), Action::Wait), "the naks may be on their way");
        gate.pass(&delivery(4, 7));
        assert!(matches!(gate.on_info(&info((6, 7), (0, 0), 5), Active::This), Action::Wait));
        gate.pass(&delivery(5, 8));
        assert!(matches!(gate.on_info(&info((6, 8), (0, 0), 5), Active::This), Action::Open));
        gate.pass(&delivery(7, 9));
        assert!(gate.is_open());
    }

    #[tokio::test(start_paused = true)]
    async fn gate_opens_at_the_start_when_everything_of_the_last_instance_has_arrived() {
        let mut gate = gate();
        let pending = info((9, 9), (4, 4), 2);
        assert!(matches!(gate.on_info(&pending, Active::NoInstance), Action::Wait));
        gate.pass(&delivery(10, 10));
        advance(PERIOD * 2).await;
        assert!(matches!(gate.on_info(&pending, Active::Other), Action::Wait), "another instance has them");
        let Action::Nak(missing) = gate.on_info(&info((10, 10), (4, 4), 3), Active::This) else { panic!("missing") };
        assert_eq!(missing.sequences().collect::<Vec<_>>(), [5, 6, 7, 8, 9]);
        gate.pass(&delivery(6, 11));
        gate.pass(&delivery(9, 12));
        assert!(!gate.is_open());
        assert!(matches!(gate.on_info(&info((10, 12), (4, 4), 3), Active::This), Action::Open));
    }

    #[tokio::test(start_paused = true)]
    async fn instance_that_becomes_active_does_not_wait_as_a_standby_does() {
        let mut gate = gate();
        assert!(matches!(gate.on_info(&info((1, 1), (0, 0), 1), Active::Other), Action::Wait));
        assert_eq!(gate.request_at(), Instant::now() + LONG_PERIOD);
        gate.pass(&delivery(1, 1));
        gate.request_now();
        assert_eq!(gate.request_at(), Instant::now());
        assert!(matches!(gate.on_info(&info((1, 1), (0, 0), 1), Active::This), Action::Open));
    }

    #[tokio::test(start_paused = true)]
    async fn delivery_that_was_lost_after_the_info_keeps_the_gate_closed() {
        let mut gate = gate();
        let before = info((3, 3), (3, 3), 0);
        gate.pass(&delivery(4, 4));
        gate.pass(&delivery(6, 6));
        assert!(
            matches!(gate.on_info(&before, Active::This), Action::Wait),
            "5 is missing, which the info does not show"
        );
        gate.pass(&delivery(5, 7));
        assert!(matches!(gate.on_info(&info((6, 7), (3, 3), 3), Active::This), Action::Open));
    }

    #[tokio::test(start_paused = true)]
    async fn message_that_ends_while_a_message_is_missing_does_not_hide_it() {
        let mut gate = opened(2);
        gate.close();
        end(&gate, 1);
        // The server has not processed the ack of 1, and 3 is missing.
        assert!(matches!(gate.on_info(&info((3, 3), (0, 0), 3), Active::This), Action::Wait));
        assert!(matches!(gate.on_info(&info((3, 3), (1, 1), 2), Active::This), Action::Wait));
        advance(Duration::from_secs(2)).await;
        let Action::Nak(missing) = gate.on_info(&info((3, 3), (1, 1), 2), Active::This) else { panic!("3 is missing") };
        assert_eq!(missing.sequences().collect::<Vec<_>>(), [3]);
    }
}

//! The acks of a handler that were sent last, in case they are lost.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use tokio::time::Instant;

use crate::message::DeliveryId;
use crate::sync::lock;

/// The maximum number of acks that are remembered.
const MAX: usize = 1024;

/// The minimum interval of the heartbeats that count.
const MIN_INTERVAL: Duration = Duration::from_secs(2);

/// The deliveries that were acknowledged or terminated last.
///
/// An ack that the client had not written when its connection ended is lost, and the message would be redelivered although it
/// was handled. The server ignores a repeated ack.
/// The ack can also cross a redelivery that this process has requested, which must not be handled again.
#[derive(Debug, Default)]
pub(crate) struct SentAcks(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    sent: VecDeque<DeliveryId>,
    /// The deliveries whose acks could not be sent.
    unsent: VecDeque<DeliveryId>,
    /// The number of the oldest ones that had been sent at the last heartbeat that counted.
    before_heartbeat: usize,
    heartbeat_at: Option<Instant>,
    /// `true` while the server denies acks, so that it has received none of these.
    are_denied: bool,
    /// `true` if the server permits an ack only as a response to its delivery, so that none can be repeated.
    are_responses: bool,
}

impl SentAcks {
    pub(crate) fn add(&self, delivery: DeliveryId) {
        let mut state = self.state();
        if state.sent.len() == MAX {
            state.sent.pop_front();
            state.before_heartbeat = state.before_heartbeat.saturating_sub(1);
        }
        if !state.unsent.is_empty() {
            state.unsent.retain(|unsent| !is_same_message(unsent, &delivery));
        }
        state.sent.push_back(delivery);
    }

    /// Records that the ack of a handled delivery could not be sent, so that it is sent for the next delivery instead of
    /// another call.
    pub(crate) fn add_unsent(&self, delivery: DeliveryId) {
        let mut state = self.state();
        if state.unsent.len() == MAX {
            state.unsent.pop_front();
        }
        state.unsent.push_back(delivery);
    }

    /// Records that the server has denied an answer to this delivery; if that was its ack, it is sent for the next
    /// delivery instead.
    pub(crate) fn denied_answer(&self, delivery: DeliveryId) {
        let sent = self.state().sent.iter().rfind(|sent| is_same_message(sent, &delivery)).copied();
        if let Some(sent) = sent
            && !self.has_unsent(sent, 0)
        {
            self.add_unsent(sent);
        }
    }

    /// Records that the server permits an ack only as a response to its delivery (`allow_responses`).
    pub(crate) fn are_responses(&self) {
        self.state().are_responses = true;
    }

    /// Returns `false` if the server denies every ack that is repeated.
    pub(crate) fn can_be_repeated(&self) -> bool {
        !self.state().are_responses
    }

    /// Forgets what had been sent at the last call; the server sends heartbeats while a handler is idle, so it has
    /// received that.
    pub(crate) fn heartbeat(&self) {
        let now = Instant::now();
        let mut state = self.state();
        // Each open request has its own heartbeats, and the next one can be on its way already.
        if state.are_denied || state.heartbeat_at.is_some_and(|last| now - last < MIN_INTERVAL) {
            return;
        }
        state.heartbeat_at = Some(now);
        let received = state.before_heartbeat;
        state.sent.drain(..received);
        state.before_heartbeat = state.sent.len();
        let bound = state.sent.len() * 2;
        state.sent.shrink_to(bound);
    }

    /// Records whether the server denies acks, which are remembered until it permits them.
    pub(crate) fn denied(&self, are_denied: bool) {
        self.state().are_denied = are_denied;
    }

    /// Returns `true` if the message of this delivery was acknowledged or terminated lately, in the incarnation `first`
    /// of the consumer or a later one.
    ///
    /// A consumer that an operator has reset or made anew delivers everything again on purpose.
    pub(crate) fn has(&self, delivery: DeliveryId, first: u32) -> bool {
        has(&self.state().sent, delivery, first)
    }

    /// Returns `true` if the ack of this delivery's message could not be sent, in the incarnation `first` of the
    /// consumer or a later one.
    pub(crate) fn has_unsent(&self, delivery: DeliveryId, first: u32) -> bool {
        has(&self.state().unsent, delivery, first)
    }

    /// Returns `true` if there is nothing to repeat.
    pub(crate) fn is_empty(&self) -> bool {
        let state = self.state();
        state.are_responses || state.sent.is_empty() && state.unsent.is_empty()
    }

    /// Returns the deliveries whose acks may be lost, and can be repeated.
    pub(crate) fn all(&self) -> Vec<DeliveryId> {
        let state = self.state();
        if state.are_responses {
            return Vec::new();
        }
        state.sent.iter().chain(&state.unsent).copied().collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.0)
    }
}

fn has(acks: &VecDeque<DeliveryId>, delivery: DeliveryId, first: u32) -> bool {
    acks.iter().any(|known| known.incarnation >= first && is_same_message(known, &delivery))
}

fn is_same_message(one: &DeliveryId, other: &DeliveryId) -> bool {
    (one.stream_sequence, one.stored_at) == (other.stream_sequence, other.stored_at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sequences(acks: &SentAcks) -> Vec<u64> {
        acks.all().iter().map(|delivery| delivery.stream_sequence).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn acks_are_forgotten_after_the_second_heartbeat() {
        let acks = SentAcks::default();
        let add = |stream_sequence| acks.add(DeliveryId { stream_sequence, ..DeliveryId::default() });
        add(1);
        acks.heartbeat();
        add(2);
        assert_eq!(sequences(&acks), [1, 2]);
        acks.heartbeat();
        assert_eq!(sequences(&acks), [1, 2], "of another request");
        tokio::time::advance(MIN_INTERVAL).await;
        acks.heartbeat();
        assert_eq!(sequences(&acks), [2]);
        let sent = DeliveryId { stream_sequence: 2, ..DeliveryId::default() };
        assert!(acks.has(sent, 0));
        assert!(!acks.has(DeliveryId { stored_at: 1, ..sent }, 0), "another message at the same sequence");
        (3..=2000).for_each(add);
        assert_eq!(acks.all().len(), MAX);
        for _ in 0..2 {
            tokio::time::advance(MIN_INTERVAL).await;
            acks.heartbeat();
        }
        assert!(acks.all().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn unsent_ack_is_remembered_until_it_is_sent() {
        let acks = SentAcks::default();
        let delivery = DeliveryId { stream_sequence: 1, stored_at: 1, ..DeliveryId::default() };
        acks.add_unsent(delivery);
        for _ in 0..3 {
            tokio::time::advance(MIN_INTERVAL).await;
            acks.heartbeat();
        }
        let again = DeliveryId { delivered: 2, consumer_sequence: 7, ..delivery };
        assert!(acks.has_unsent(again, 0));
        assert!(!acks.has_unsent(again, 1), "the consumer was replaced");
        acks.add(again);
        assert_eq!(acks.all(), [again]);
    }

    #[test]
    fn denied_ack_is_sent_for_the_next_delivery() {
        let acks = SentAcks::default();
        let delivery = |stream_sequence| DeliveryId { stream_sequence, stored_at: 1, ..DeliveryId::default() };
        acks.add(delivery(1));
        acks.denied_answer(delivery(1));
        acks.denied_answer(delivery(2));
        assert!(acks.has_unsent(delivery(1), 0));
        assert!(!acks.has_unsent(delivery(2), 0), "it was in progress");
        acks.are_responses();
        assert!(acks.all().is_empty() && acks.is_empty() && !acks.can_be_repeated());
    }
}

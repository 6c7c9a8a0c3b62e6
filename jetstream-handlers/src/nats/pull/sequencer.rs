//! The decision when the messages of an ordered handler, or of one with a `key`, may start.

use async_nats::jetstream::consumer;
use tokio::time::Instant;

use super::action::{Action, Active};
use super::gate::Gate;
use super::resequencer::Resequencer;
use crate::message::Message;

/// The sequencer of a handler.
#[derive(Debug)]
pub(super) enum Sequencer {
    /// That of an ordered handler, which keeps deliveries back until they are next.
    Ordered(Resequencer),
    /// That of a handler with a key, which passes deliveries on and tells when they may start.
    Keyed(Gate),
}

impl Sequencer {
    /// Returns a delivery if it is to be passed on.
    pub(super) fn pass(&mut self, message: Message) -> Option<Message> {
        match self {
            Self::Ordered(resequencer) => resequencer.pass(message),
            Self::Keyed(gate) => {
                gate.pass(&message);
                Some(message)
            }
        }
    }

    /// Returns `true` if a delivery shows that the consumer has restarted its numbering: it is the first one, and
    /// others arrived before it.
    pub(super) fn shows_restart(&self, delivery: &Message) -> bool {
        delivery.info.consumer_sequence() == 1 && self.received() > 0
    }

    /// Records that the consumer's info is requested now.
    pub(super) fn on_request(&mut self) {
        match self {
            Self::Ordered(resequencer) => resequencer.on_request(),
            Self::Keyed(gate) => gate.on_request(),
        }
    }

    /// Delays the next request for the consumer's info, after one that failed.
    pub(super) fn on_info_failed(&mut self) {
        match self {
            Self::Ordered(resequencer) => resequencer.on_info_failed(),
            Self::Keyed(gate) => gate.on_info_failed(),
        }
    }

    /// Records the identity of the consumer; returns `false` if it is another consumer than before, or the same one with
    /// a restarted numbering.
    pub(super) fn is_same_consumer(&mut self, info: &consumer::Info) -> bool {
        match self {
            Self::Ordered(resequencer) => resequencer.is_same_consumer(info),
            Self::Keyed(gate) => gate.is_same_consumer(info),
        }
    }

    /// Evaluates the consumer's info; `acked` is the stream sequence up to which an ordered handler has sent an ack.
    pub(super) fn on_info(&mut self, info: &consumer::Info, active: Active, acked: u64) -> Action {
        match self {
            Self::Ordered(resequencer) => resequencer.on_info(info, active, acked),
            Self::Keyed(gate) => gate.on_info(info, active),
        }
    }

    /// Lets nothing start from now on, because a message may be missing.
    pub(super) fn close(&mut self) {
        match self {
            Self::Ordered(resequencer) => resequencer.close(),
            Self::Keyed(gate) => gate.close(),
        }
    }

    /// Forgets all deliveries, because they belong to another instance or the consumer was replaced.
    pub(super) fn reset(&mut self) {
        match self {
            Self::Ordered(resequencer) => resequencer.reset(),
            Self::Keyed(gate) => gate.reset(),
        }
    }

    /// Returns the highest consumer sequence that has arrived.
    pub(super) fn received(&self) -> u64 {
        match self {
            Self::Ordered(resequencer) => resequencer.received(),
            Self::Keyed(gate) => gate.received(),
        }
    }

    /// Returns `true` if no message is missing.
    pub(super) fn is_open(&self) -> bool {
        match self {
            Self::Ordered(resequencer) => resequencer.is_open(),
            Self::Keyed(gate) => gate.is_open(),
        }
    }

    /// Returns the number of messages that are requested at the same time while one may be missing, of a handler that can
    /// hold `capacity` more.
    pub(super) fn capacity(&self, capacity: usize) -> usize {
        match self {
            Self::Ordered(resequencer) => resequencer.capacity(),
            Self::Keyed(gate) => gate.capacity(capacity),
        }
    }

    /// Returns the time at which the consumer's info is needed, while a message may be missing.
    pub(super) fn request_at(&self) -> Instant {
        match self {
            Self::Ordered(resequencer) => resequencer.request_at(),
            Self::Keyed(gate) => gate.request_at(),
        }
    }

    /// Requests the consumer's info at once, because this instance is active from now on.
    pub(super) fn request_now(&mut self) {
        match self {
            Self::Ordered(resequencer) => resequencer.request_now(),
            Self::Keyed(gate) => gate.request_now(),
        }
    }

    /// Returns the deliveries that were kept back, for the next instance.
    pub(super) fn take_pending(&mut self) -> Vec<Message> {
        match self {
            Self::Ordered(resequencer) => resequencer.take_pending(),
            Self::Keyed(_) => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Info;

    fn delivery(consumer_sequence: u64) -> Message {
        let info = Info::parse(format!("$JS.ACK.S.D.1.7.{consumer_sequence}.7.0").into());
        Message { info: info.expect("it is an ack subject"), ..Message::new("s", "") }
    }

    #[tokio::test(start_paused = true)]
    async fn first_delivery_after_others_shows_a_restart() {
        let mut sequencer = Sequencer::Ordered(Resequencer::new(10));
        assert!(!sequencer.shows_restart(&delivery(1)));
        sequencer.pass(delivery(3));
        assert!(sequencer.shows_restart(&delivery(1)));
        assert!(!sequencer.shows_restart(&delivery(4)));
    }
}

//! The gate of an ordered handler: lets messages through while none is missing, and in the order of the stream.
//!
//! Its acks say "everything up to here", so a message that was delivered and is not in hand — lost with a connection,
//! or held by a replica that died — would be acked unseen by the next one behind it.
//! The consumer numbers its deliveries; a gap in these numbers closes the gate until all that is unanswered is in hand.

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::jetstream::consumer;
use tokio::time::Instant;

use crate::transport::Delivery;

/// How long the gate waits before it asks again how much is unanswered.
const PERIOD: Duration = Duration::from_millis(100);

/// The longest range of sequences in which what another replica holds is asked for one by one; beyond it
/// the consumer's `ack_wait` brings it.
const LONGEST_RANGE: u64 = 10_000;

/// Lets deliveries through in order.
#[derive(Debug)]
pub(super) struct Gate {
    /// The number of the delivery that was let through last; `None` where it is not known.
    last: Option<u64>,
    /// By sequence in the stream.
    held: BTreeMap<u64, Delivery>,
    ask_at: Instant,
    asked_back: bool,
}

/// What is to be done after the server has said what is unanswered.
pub(super) enum Verdict {
    /// All of it is in hand: these are next, in order.
    Open(Vec<Delivery>),
    /// These are with somebody else or lost: ack subjects at which the server takes a nak for them.
    AskBack(Vec<String>),
    Wait,
}

impl Gate {
    pub(super) fn new() -> Self {
        Self { last: None, held: BTreeMap::new(), ask_at: Instant::now(), asked_back: false }
    }

    /// Lets a delivery through if it is the next one, and holds it otherwise.
    pub(super) fn pass(&mut self, delivery: Delivery) -> Option<Delivery> {
        let number = delivery.message.info.consumer_sequence();
        if self.held.is_empty() && self.last.is_some_and(|last| last + 1 == number) {
            self.last = Some(number);
            return Some(delivery);
        }
        if self.held.is_empty() {
            self.ask_at = Instant::now();
            self.asked_back = false;
        }
        self.held.insert(delivery.message.info.stream_sequence(), delivery);
        None
    }

    /// Forgets all: somebody else is the active one, or the consumer is another one.
    pub(super) fn reset(&mut self) {
        *self = Self::new();
    }

    /// How many it holds.
    pub(super) fn held(&self) -> usize {
        self.held.len()
    }

    /// When the server should be asked what is unanswered.
    pub(super) fn ask_at(&self) -> Option<Instant> {
        (!self.held.is_empty()).then_some(self.ask_at)
    }

    /// Hears what the consumer's server says.
    pub(super) fn heard(&mut self, info: &consumer::Info) -> Verdict {
        let floor = info.ack_floor.stream_sequence;
        let delivered = info.delivered.stream_sequence;
        // What is below the floor has ended; what is above the last delivery came after these words.
        self.held.retain(|sequence, _| *sequence > floor);
        let in_hand = self.held.range(floor + 1..=delivered.max(floor)).count();
        self.ask_at = Instant::now() + PERIOD;
        if in_hand >= info.num_ack_pending {
            let held = std::mem::take(&mut self.held);
            self.last = held.values().map(|delivery| delivery.message.info.consumer_sequence()).max().or(self.last);
            return Verdict::Open(held.into_values().collect());
        }
        if !self.asked_back && delivered - floor <= LONGEST_RANGE {
            self.asked_back = true;
            if let Some(any) = self.held.values().next() {
                let prefix = any.message.info.ack_prefix();
                // Of the numbers in it the server looks at the two sequences alone (`processNak`).
                let number = info.delivered.consumer_sequence;
                let missing = (floor + 1..=delivered).filter(|sequence| !self.held.contains_key(sequence));
                return Verdict::AskBack(
                    missing.map(|sequence| format!("{prefix}.1.{sequence}.{number}.0.0")).collect(),
                );
            }
        }
        Verdict::Wait
    }

    /// The server could not be asked.
    pub(super) fn unheard(&mut self) {
        self.ask_at = Instant::now() + PERIOD * 10;
    }

    /// What it holds, for the next replica.
    pub(super) fn empty(&mut self) -> Vec<Delivery> {
        std::mem::take(&mut self.held).into_values().collect()
    }
}

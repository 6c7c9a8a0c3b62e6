//! A durable pull consumer: what was delivered, what is unanswered, what comes again and when.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, Config, DeliverPolicy};
use tokio::time::Instant;

use super::faults::{AckFault, Faults};
use super::stream::Message;
use crate::message::{AckPrefix, DeliveryId, Info};
use crate::subject::covers;

#[derive(Debug, Clone)]
pub(super) struct Consumer {
    pub(super) config: Config,
    /// How often messages were handed back without having been tried.
    pub(super) handed_back: BTreeMap<u64, u64>,
    /// The messages that were tried alone.
    pub(super) suspects: BTreeSet<u64>,
    /// The stream sequence from which on nothing was delivered yet.
    next: u64,
    delivered_total: u64,
    /// How often each unanswered message was delivered.
    deliveries: BTreeMap<u64, u64>,
    pending: BTreeMap<u64, Pending>,
    /// What comes again before anything new.
    again: VecDeque<u64>,
    /// Deliveries to a process that has crashed: its answers do not arrive.
    orphans: BTreeSet<(u64, u64)>,
    /// The workers that have room and wait, in the order in which they are served (`consumer.go`, `waitQueue`).
    waiting: VecDeque<u64>,
    /// The one worker that gets anything, where the replicas have one active among them.
    active: Option<u64>,
}

#[derive(Debug, Clone, Copy)]
struct Pending {
    due: Instant,
    /// Whether a worker has it; a delayed message is with the consumer alone.
    in_hand: bool,
}

/// What a worker gets that asks for a message.
pub(super) enum Taken {
    Message(Box<Message>, Info),
    GivenUp {
        sequence: u64,
        delivered: u64,
    },
    /// Nothing now; perhaps at this time.
    Nothing(Option<Instant>),
    NoConsumer,
    NoStream,
}

impl Consumer {
    pub(super) fn new(config: Config) -> Self {
        let next = match config.deliver_policy {
            DeliverPolicy::ByStartSequence { start_sequence } => start_sequence,
            _ => 1,
        };
        Self {
            config,
            handed_back: BTreeMap::new(),
            suspects: BTreeSet::new(),
            next,
            delivered_total: 0,
            deliveries: BTreeMap::new(),
            pending: BTreeMap::new(),
            again: VecDeque::new(),
            orphans: BTreeSet::new(),
            waiting: VecDeque::new(),
            active: None,
        }
    }

    pub(super) fn matches(&self, subject: &str) -> bool {
        self.config.filter_subject.is_empty() || covers(&self.config.filter_subject, subject)
    }

    /// A worker has no room any more, or has stopped.
    pub(super) fn leave(&mut self, reader: u64) {
        self.waiting.retain(|waiting| *waiting != reader);
    }

    /// A worker lets another one become the active one.
    pub(super) fn step_down(&mut self, reader: u64) {
        self.active = self.active.filter(|active| *active != reader);
    }

    /// The next message for a worker whose turn it is.
    pub(super) fn take_in_turn(
        &mut self,
        reader: u64,
        stream: &str,
        messages: &BTreeMap<u64, Message>,
        faults: &mut Faults,
    ) -> Taken {
        if !self.config.priority_groups.is_empty() && *self.active.get_or_insert(reader) != reader {
            return Taken::Nothing(None);
        }
        if !self.waiting.contains(&reader) {
            self.waiting.push_back(reader);
        }
        if self.waiting.front() != Some(&reader) {
            return Taken::Nothing(None);
        }
        let taken = self.take(stream, messages, faults);
        if !matches!(taken, Taken::Nothing(_)) {
            self.waiting.pop_front();
        }
        taken
    }

    /// The next message in the order of the server: first what comes again, then what is new (`consumer.go`, `getNextMsg`).
    fn take(&mut self, stream: &str, messages: &BTreeMap<u64, Message>, faults: &mut Faults) -> Taken {
        let now = Instant::now();
        let due: Vec<u64> =
            self.pending.iter().filter(|(_, pending)| pending.due <= now).map(|(sequence, _)| *sequence).collect();
        for sequence in due {
            if !self.again.contains(&sequence) {
                self.again.push_back(sequence);
            }
        }
        while let Some(sequence) = self.again.pop_front() {
            let Some(message) = messages.get(&sequence) else {
                self.forget(sequence);
                continue;
            };
            let delivered = self.deliveries.entry(sequence).or_default();
            *delivered += 1;
            let delivered = *delivered;
            if self.config.max_deliver > 0 && delivered > self.config.max_deliver as u64 {
                self.pending.remove(&sequence);
                self.deliveries.remove(&sequence);
                return Taken::GivenUp { sequence, delivered: delivered - 1 };
            }
            return self.deliver(stream, sequence, message, delivered, messages);
        }
        let full = self.config.max_ack_pending > 0 && self.pending.len() >= self.config.max_ack_pending as usize;
        // An ack that covers all before it must not cover what nobody has in hand.
        let gap = self.acks_all() && self.pending.iter().any(|(sequence, pending)| self.is_nobodys(*sequence, pending));
        if !full
            && !gap
            && let Some(sequence) = self.new_message(self.next, messages)
        {
            self.next = sequence + 1;
            let overtaking = faults.reorder.then(|| self.new_message(self.next, messages)).flatten();
            if let Some(later) = overtaking {
                // The later one goes first; the other is next, as if it came again.
                self.next = later + 1;
                self.again.push_back(sequence);
            }
            let sequence = overtaking.unwrap_or(sequence);
            self.deliveries.insert(sequence, 1);
            return self.deliver(stream, sequence, &messages[&sequence], 1, messages);
        }
        Taken::Nothing(self.pending.values().map(|pending| pending.due).min())
    }

    fn acks_all(&self) -> bool {
        self.config.ack_policy == AckPolicy::All
    }

    /// Whether no worker has a message in hand that was delivered.
    fn is_nobodys(&self, sequence: u64, pending: &Pending) -> bool {
        // What a worker lost without a word is in nobody's hand, though the consumer waits for `ack_wait`.
        let delivered = self.deliveries.get(&sequence).copied().unwrap_or_default();
        !pending.in_hand || self.orphans.contains(&(sequence, delivered))
    }

    fn new_message(&self, from: u64, messages: &BTreeMap<u64, Message>) -> Option<u64> {
        messages.range(from..).find(|(_, message)| self.matches(&message.subject)).map(|(sequence, _)| *sequence)
    }

    fn deliver(
        &mut self,
        stream: &str,
        sequence: u64,
        message: &Message,
        delivered: u64,
        messages: &BTreeMap<u64, Message>,
    ) -> Taken {
        self.delivered_total += 1;
        self.pending.insert(sequence, Pending { due: Instant::now() + self.config.ack_wait, in_hand: true });
        let consumer = self.config.durable_name.as_deref().unwrap_or_default();
        let left = messages.range(self.next..).filter(|(_, message)| self.matches(&message.subject)).count();
        let id = DeliveryId { delivered, stream_sequence: sequence, consumer_sequence: self.delivered_total };
        let ack_subject = AckPrefix::new(stream, consumer).stored_delivery(id, message.stored_at, left as u64);
        Taken::Message(Box::new(message.clone()), ack_subject.into())
    }

    /// The message was acked; `false` if that changes nothing, or a fault makes it so.
    ///
    /// Any delivery's ack counts, also a late one (`consumer.go`, `processAckMsg`).
    pub(super) fn end(&mut self, sequence: u64, delivered: u64, faults: &mut Faults) -> bool {
        if !self.is_pending(sequence) || self.orphans.remove(&(sequence, delivered)) {
            return false;
        }
        let name = self.config.durable_name.clone().unwrap_or_default();
        match faults.next_ack(&name, sequence) {
            AckFault::None => {
                if self.acks_all() {
                    let before: Vec<_> = self.pending.range(..sequence).map(|(sequence, _)| *sequence).collect();
                    before.into_iter().for_each(|sequence| self.forget(sequence));
                }
                self.forget(sequence);
                true
            }
            AckFault::Lost => {
                self.let_go(sequence);
                false
            }
            AckFault::Again => {
                // The server's doing, and no attempt that failed.
                *self.handed_back.entry(sequence).or_default() += 1;
                self.nak(sequence, Duration::ZERO);
                false
            }
            AckFault::Crash => {
                // The process is gone with all that it had in hand.
                let in_hand = self.pending.iter().filter(|(other, pending)| pending.in_hand && **other != sequence);
                let deliveries = &self.deliveries;
                let orphans = in_hand.map(|(other, _)| (*other, deliveries.get(other).copied().unwrap_or_default()));
                self.orphans.extend(orphans);
                self.let_go(sequence);
                false
            }
        }
    }

    /// Nobody works on the message any more, though the consumer waits for its `ack_wait`.
    fn let_go(&mut self, sequence: u64) {
        if let Some(pending) = self.pending.get_mut(&sequence) {
            pending.in_hand = false;
        }
    }

    /// The stream sequence up to which every message has ended.
    pub(super) fn ack_floor(&self) -> u64 {
        let pending = self.pending.keys().next().into_iter().chain(&self.again);
        pending.fold(self.next, |first, sequence| first.min(*sequence)).saturating_sub(1)
    }

    pub(super) fn is_pending(&self, sequence: u64) -> bool {
        self.pending.contains_key(&sequence)
    }

    pub(super) fn forget(&mut self, sequence: u64) {
        self.pending.remove(&sequence);
        self.deliveries.remove(&sequence);
        self.handed_back.remove(&sequence);
        self.suspects.remove(&sequence);
        self.orphans.retain(|(other, _)| *other != sequence);
        self.again.retain(|other| *other != sequence);
    }

    /// Comes again after `delay`; only an unanswered message does.
    pub(super) fn nak(&mut self, sequence: u64, delay: Duration) {
        let Some(pending) = self.pending.get_mut(&sequence) else { return };
        pending.in_hand = false;
        match delay.is_zero() {
            true if self.again.contains(&sequence) => {}
            true => self.again.push_back(sequence),
            false => pending.due = Instant::now() + delay,
        }
    }

    pub(super) fn progress(&mut self, sequence: u64) {
        if let Some(pending) = self.pending.get_mut(&sequence) {
            pending.due = Instant::now() + self.config.ack_wait;
        }
    }

    /// Whether this consumer has nothing more to do with a message.
    pub(super) fn has_done(&self, sequence: u64) -> bool {
        sequence < self.next && !self.pending.contains_key(&sequence)
    }

    /// How many messages are not delivered yet, or not answered.
    pub(super) fn unanswered(&self, messages: &BTreeMap<u64, Message>) -> u64 {
        let new = messages.range(self.next..).filter(|(_, message)| self.matches(&message.subject)).count();
        (new + self.pending.len()) as u64
    }

    /// Whether nothing can be delivered at this moment, and no worker has anything in hand.
    pub(super) fn is_settled(&self, messages: &BTreeMap<u64, Message>) -> bool {
        let now = Instant::now();
        let full = self.config.max_ack_pending > 0 && self.pending.len() >= self.config.max_ack_pending as usize;
        let new = messages.range(self.next..).any(|(_, message)| self.matches(&message.subject));
        let idle = |(sequence, pending): (&u64, &Pending)| pending.due > now && self.is_nobodys(*sequence, pending);
        self.again.is_empty() && self.pending.iter().all(idle) && (full || !new)
    }
}

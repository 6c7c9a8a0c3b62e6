//! A durable pull consumer: its deliveries, pending acks and redeliveries.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::{Duration, SystemTime};

use async_nats::jetstream::consumer::{AckPolicy, Config, DeliverPolicy};
use tokio::time::Instant;

use super::faults::{AckFault, Faults};
use super::message::Message;
use crate::delivery::Record;
use crate::message::{AckPrefix, DeliveryId, Info, nanos};
use crate::subject::covers;

#[derive(Debug, Clone)]
pub(super) struct Consumer {
    /// Distinguishes the consumer from a later one of the same name.
    pub(super) id: u32,
    pub(super) config: Config,
    /// The records of the readers about messages, by stream sequence.
    pub(super) records: BTreeMap<u64, Record>,
    /// The first stream sequence that was not delivered yet.
    next: u64,
    /// The sequences up to the last one of these that are delivered, with the deliver policy `last_per_subject`.
    selected: BTreeSet<u64>,
    /// The number of deliveries so far: the consumer sequence of the last one.
    delivered_total: u64,
    /// The delivery count of each message with a pending ack, by stream sequence.
    deliveries: BTreeMap<u64, u64>,
    pending: BTreeMap<u64, Pending>,
    /// The stream sequences to redeliver before any new message.
    redeliver: VecDeque<u64>,
    /// Deliveries to a crashed process, as stream sequence and delivery count: their acks do not arrive.
    lost_deliveries: BTreeSet<(u64, u64)>,
    /// The readers that wait for a message, in the order in which they are served (`consumer.go`, `waitQueue`).
    waiting: VecDeque<u64>,
    /// The pinned reader of a consumer with priority groups.
    active: Option<u64>,
}

/// A message whose ack is pending.
#[derive(Debug, Clone, Copy)]
struct Pending {
    /// The time at which the message is redelivered.
    due: Instant,
    /// `true` if a worker has the message; `false` while it waits for the delay of its nak.
    in_flight: bool,
}

/// The result of a reader's request for a message.
pub(super) enum Take {
    Message(Box<Message>, Info),
    /// A message has reached `max_deliver`.
    GivenUp {
        sequence: u64,
        delivered: u64,
    },
    /// No message at the moment; the earliest redelivery is due at this time.
    Nothing(Option<Instant>),
    NoConsumer,
    NoStream,
}

impl Consumer {
    /// Creates a consumer of these messages, the last of which had the sequence `last` (`consumer.go`,
    /// `selectStartingSeqNo`).
    pub(super) fn new(config: Config, messages: &BTreeMap<u64, Message>, last: u64) -> Self {
        let mut matching = messages.iter().filter(|(_, message)| matches(&config, &message.subject));
        let mut selected = BTreeSet::new();
        let next = match config.deliver_policy {
            DeliverPolicy::All => 1,
            DeliverPolicy::New => last + 1,
            DeliverPolicy::Last => matching.next_back().map_or(last + 1, |(sequence, _)| *sequence),
            DeliverPolicy::LastPerSubject => {
                let of_subjects: HashMap<_, _> =
                    matching.map(|(sequence, message)| (message.subject.as_str(), *sequence)).collect();
                selected = of_subjects.into_values().collect();
                selected.first().map_or(last + 1, |first| *first)
            }
            DeliverPolicy::ByStartSequence { start_sequence } => start_sequence,
            DeliverPolicy::ByStartTime { start_time } => {
                let start = SystemTime::from(start_time);
                matching.find(|(_, message)| message.stored_at >= start).map_or(last + 1, |(sequence, _)| *sequence)
            }
        };
        Self {
            id: fastrand::u32(..),
            selected,
            config,
            records: BTreeMap::new(),
            next,
            delivered_total: 0,
            deliveries: BTreeMap::new(),
            pending: BTreeMap::new(),
            redeliver: VecDeque::new(),
            lost_deliveries: BTreeSet::new(),
            waiting: VecDeque::new(),
            active: None,
        }
    }

    pub(super) fn matches(&self, subject: &str) -> bool {
        matches(&self.config, subject)
    }

    fn selects(&self, sequence: u64) -> bool {
        self.selected.contains(&sequence) || self.selected.last().is_none_or(|last| *last < sequence)
    }

    /// Returns the messages from a sequence on that are delivered.
    fn new_messages<'m>(
        &self,
        from: u64,
        messages: &'m BTreeMap<u64, Message>,
    ) -> impl Iterator<Item = u64> + use<'_, 'm> {
        let later = messages.range(from..).filter(|(_, message)| self.matches(&message.subject));
        later.map(|(sequence, _)| *sequence).filter(|sequence| self.selects(*sequence))
    }

    /// Withdraws the request of a reader.
    pub(super) fn leave(&mut self, reader: u64) {
        self.waiting.retain(|waiting| *waiting != reader);
    }

    /// Unpins a reader.
    pub(super) fn step_down(&mut self, reader: u64) {
        self.active = self.active.filter(|active| *active != reader);
    }

    /// Returns the next message if the reader is the first in the wait queue.
    pub(super) fn take_in_turn(
        &mut self,
        reader: u64,
        stream: &str,
        messages: &BTreeMap<u64, Message>,
        faults: &mut Faults,
    ) -> Take {
        if !self.config.priority_groups.is_empty() && *self.active.get_or_insert(reader) != reader {
            return Take::Nothing(None);
        }
        if !self.waiting.contains(&reader) {
            self.waiting.push_back(reader);
        }
        if self.waiting.front() != Some(&reader) {
            return Take::Nothing(None);
        }
        let take = self.take(stream, messages, faults);
        if !matches!(take, Take::Nothing(_)) {
            self.waiting.pop_front();
        }
        take
    }

    /// Returns the next message in the server's order: redeliveries before new messages (`consumer.go`, `getNextMsg`).
    fn take(&mut self, stream: &str, messages: &BTreeMap<u64, Message>, faults: &mut Faults) -> Take {
        let now = Instant::now();
        let due: Vec<u64> =
            self.pending.iter().filter(|(_, pending)| pending.due <= now).map(|(sequence, _)| *sequence).collect();
        for sequence in due {
            if !self.redeliver.contains(&sequence) {
                self.redeliver.push_back(sequence);
            }
        }
        while let Some(sequence) = self.redeliver.pop_front() {
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
                return Take::GivenUp { sequence, delivered: delivered - 1 };
            }
            return self.deliver(stream, sequence, message, delivered, messages);
        }
        // An ack that covers all messages before it must not cover one that no worker has.
        let has_gap =
            self.acks_all() && self.pending.iter().any(|(sequence, pending)| !self.is_in_flight(*sequence, pending));
        if !self.is_full()
            && !has_gap
            && let Some(sequence) = self.new_message(self.next, messages)
        {
            self.next = sequence + 1;
            let overtaking = faults.reorder.then(|| self.new_message(self.next, messages)).flatten();
            if let Some(later) = overtaking {
                self.next = later + 1;
                self.redeliver.push_back(sequence);
            }
            let sequence = overtaking.unwrap_or(sequence);
            self.deliveries.insert(sequence, 1);
            return self.deliver(stream, sequence, &messages[&sequence], 1, messages);
        }
        Take::Nothing(self.pending.values().map(|pending| pending.due).min())
    }

    fn acks_all(&self) -> bool {
        self.config.ack_policy == AckPolicy::All
    }

    /// Returns `true` if the number of pending acks has reached `max_ack_pending`.
    fn is_full(&self) -> bool {
        self.config.max_ack_pending > 0 && self.pending.len() >= self.config.max_ack_pending as usize
    }

    /// Returns `true` if a worker has the message.
    fn is_in_flight(&self, sequence: u64, pending: &Pending) -> bool {
        // A crashed process has lost its messages, although their `ack_wait` has not passed.
        let delivered = self.deliveries.get(&sequence).copied().unwrap_or_default();
        pending.in_flight && !self.lost_deliveries.contains(&(sequence, delivered))
    }

    fn new_message(&self, from: u64, messages: &BTreeMap<u64, Message>) -> Option<u64> {
        self.new_messages(from, messages).next()
    }

    fn deliver(
        &mut self,
        stream: &str,
        sequence: u64,
        message: &Message,
        delivered: u64,
        messages: &BTreeMap<u64, Message>,
    ) -> Take {
        self.delivered_total += 1;
        self.pending.insert(sequence, Pending { due: Instant::now() + self.config.ack_wait, in_flight: true });
        let consumer = self.config.durable_name.as_deref().unwrap_or_default();
        let id = DeliveryId {
            delivered,
            stream_sequence: sequence,
            consumer_sequence: self.delivered_total,
            stored_at: nanos(message.stored_at),
            incarnation: self.id,
            arrived: 0,
        };
        let ack_subject = AckPrefix::new(stream, consumer).delivery_with_pending(id, self.count_new(messages) as u64);
        Take::Message(Box::new(message.clone()), ack_subject.into())
    }

    /// Acks a message; returns `false` if it was not pending, or a fault prevents the ack.
    ///
    /// The ack of any delivery counts, including an earlier one (`consumer.go`, `processAckMsg`).
    pub(super) fn ack(&mut self, sequence: u64, delivered: u64, faults: &mut Faults) -> bool {
        if !self.is_pending(sequence) || self.lost_deliveries.remove(&(sequence, delivered)) {
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
                self.clear_in_flight(sequence);
                false
            }
            AckFault::Redeliver => {
                // The redelivery must not count as a failed attempt.
                self.records.entry(sequence).or_default().handed_back += 1;
                self.nak(sequence, Duration::ZERO);
                false
            }
            AckFault::Crash => {
                let in_flight = self.pending.iter().filter(|(other, pending)| pending.in_flight && **other != sequence);
                let deliveries = &self.deliveries;
                let lost = in_flight.map(|(other, _)| (*other, deliveries.get(other).copied().unwrap_or_default()));
                self.lost_deliveries.extend(lost);
                self.clear_in_flight(sequence);
                false
            }
        }
    }

    fn clear_in_flight(&mut self, sequence: u64) {
        if let Some(pending) = self.pending.get_mut(&sequence) {
            pending.in_flight = false;
        }
    }

    /// Returns the stream sequence up to which every message has ended.
    pub(super) fn ack_floor(&self) -> u64 {
        let pending = self.pending.keys().next().into_iter().chain(&self.redeliver);
        pending.fold(self.next, |first, sequence| first.min(*sequence)).saturating_sub(1)
    }

    pub(super) fn is_pending(&self, sequence: u64) -> bool {
        self.pending.contains_key(&sequence)
    }

    pub(super) fn forget(&mut self, sequence: u64) {
        self.pending.remove(&sequence);
        self.deliveries.remove(&sequence);
        self.records.remove(&sequence);
        self.lost_deliveries.retain(|(other, _)| *other != sequence);
        self.redeliver.retain(|other| *other != sequence);
    }

    /// Schedules the redelivery of a pending message after `delay`.
    pub(super) fn nak(&mut self, sequence: u64, delay: Duration) {
        let Some(pending) = self.pending.get_mut(&sequence) else { return };
        pending.in_flight = false;
        if !delay.is_zero() {
            pending.due = Instant::now() + delay;
        } else if !self.redeliver.contains(&sequence) {
            self.redeliver.push_back(sequence);
        }
    }

    /// Restarts the `ack_wait` of a message.
    pub(super) fn progress(&mut self, sequence: u64) {
        if let Some(pending) = self.pending.get_mut(&sequence) {
            pending.due = Instant::now() + self.config.ack_wait;
        }
    }

    /// Returns `true` if a message was delivered and its ack is not pending.
    pub(super) fn has_finished(&self, sequence: u64) -> bool {
        sequence < self.next && !self.pending.contains_key(&sequence)
    }

    /// Returns the number of messages that were not delivered, or whose ack is pending.
    pub(super) fn count_outstanding(&self, messages: &BTreeMap<u64, Message>) -> u64 {
        (self.count_new(messages) + self.pending.len()) as u64
    }

    fn count_new(&self, messages: &BTreeMap<u64, Message>) -> usize {
        self.new_messages(self.next, messages).count()
    }

    /// Returns `true` if no message can be delivered at the moment, and none is in flight.
    pub(super) fn is_idle(&self, messages: &BTreeMap<u64, Message>) -> bool {
        let now = Instant::now();
        let has_new = self.new_message(self.next, messages).is_some();
        let waits = |(sequence, pending): (&u64, &Pending)| pending.due > now && !self.is_in_flight(*sequence, pending);
        self.redeliver.is_empty() && self.pending.iter().all(waits) && (self.is_full() || !has_new)
    }
}

fn matches(config: &Config, subject: &str) -> bool {
    config.filter_subject.is_empty() || covers(&config.filter_subject, subject)
}

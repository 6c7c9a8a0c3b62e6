//! A durable pull consumer: its deliveries, pending acks and redeliveries.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::{Duration, SystemTime};

use async_nats::jetstream::consumer::{AckPolicy, Config, DeliverPolicy};
use tokio::time::Instant;

use super::faults::{AckFault, Faults};
use super::message::Message;
use super::pending::{Pending, PendingMessages};
use crate::delivery::{ConsumerCounts, Record, filters};
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
    /// The messages that were not delivered yet, by stream sequence.
    new: BTreeSet<u64>,
    /// The sequences up to the last one of these that are delivered, with the deliver policy `last_per_subject`.
    selected: BTreeSet<u64>,
    /// The number of deliveries so far: the consumer sequence of the last one.
    delivered_total: u64,
    /// The delivery count of each message with a pending ack, by stream sequence.
    deliveries: BTreeMap<u64, u64>,
    pending: PendingMessages,
    /// The stream sequences to redeliver before any new message.
    redeliver: VecDeque<u64>,
    /// Deliveries to a crashed process, as stream sequence and delivery count: their acks do not arrive.
    lost_deliveries: BTreeSet<(u64, u64)>,
    /// The readers that wait for a message, in the order in which they are served (`consumer.go`, `waitQueue`).
    waiting: VecDeque<u64>,
    /// The pinned reader of a consumer with priority groups.
    active: Option<u64>,
    /// The end of the pause, as this process and as an operator reads the time.
    paused: Option<(Instant, SystemTime)>,
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
        let mut consumer = Self {
            id: fastrand::u32(..),
            selected,
            config,
            records: BTreeMap::new(),
            next,
            new: BTreeSet::new(),
            delivered_total: 0,
            deliveries: BTreeMap::new(),
            pending: PendingMessages::default(),
            redeliver: VecDeque::new(),
            lost_deliveries: BTreeSet::new(),
            waiting: VecDeque::new(),
            active: None,
            paused: None,
        };
        for (sequence, message) in messages.range(next..) {
            consumer.stored(*sequence, &message.subject);
        }
        consumer
    }

    /// Changes the configuration; messages that have already passed are not delivered again.
    pub(super) fn update(&mut self, config: Config, messages: &BTreeMap<u64, Message>) {
        self.config = config;
        self.new.clear();
        for (sequence, message) in messages.range(self.next..) {
            self.stored(*sequence, &message.subject);
        }
    }

    /// Returns the number of messages that were not delivered, or are not acknowledged.
    pub(super) fn left(&self) -> u64 {
        (self.new.len() + self.pending.iter().count()) as u64
    }

    /// Returns the stream sequence up to which messages were delivered.
    pub(super) fn delivered(&self) -> u64 {
        self.next.saturating_sub(1)
    }

    /// Adds a message that was stored, if it is to be delivered.
    pub(super) fn stored(&mut self, sequence: u64, subject: &str) {
        if sequence >= self.next && self.selects(sequence) && self.matches(subject) {
            self.new.insert(sequence);
        }
    }

    pub(super) fn matches(&self, subject: &str) -> bool {
        matches(&self.config, subject)
    }

    fn selects(&self, sequence: u64) -> bool {
        self.selected.contains(&sequence) || self.selected.last().is_none_or(|last| *last < sequence)
    }

    /// Pauses the consumer until this time; `None` ends its pause.
    pub(super) fn pause(&mut self, until: Option<SystemTime>) {
        self.config.pause_until = until.map(Into::into);
        self.paused = until.and_then(|until| {
            let rest = until.duration_since(SystemTime::now()).ok()?;
            Some((Instant::now().checked_add(rest)?, until))
        });
    }

    /// Returns the end of the pause, if the consumer is paused.
    pub(super) fn paused(&self) -> Option<(Instant, SystemTime)> {
        self.paused.filter(|(until, _)| Instant::now() < *until)
    }

    /// Moves the consumer to a sequence, or to one after its ack floor (`consumer.go`, `resetStartingSeqLocked`); returns
    /// `None` if its deliver policy does not allow that.
    ///
    /// The acks of earlier deliveries have no effect then, as those of another consumer.
    pub(super) fn reset(&mut self, sequence: Option<u64>, messages: &BTreeMap<u64, Message>) -> Option<u64> {
        let next = match (sequence, self.config.deliver_policy) {
            (None, _) => self.ack_floor() + 1,
            (Some(sequence), DeliverPolicy::All) => sequence,
            (Some(sequence), DeliverPolicy::ByStartSequence { start_sequence }) if sequence >= start_sequence => {
                sequence
            }
            (Some(sequence), DeliverPolicy::ByStartTime { start_time }) => {
                let start = SystemTime::from(start_time);
                let first = messages.iter().find(|(_, message)| message.stored_at >= start);
                first.is_none_or(|(first, _)| sequence >= *first).then_some(sequence)?
            }
            (Some(_), _) => return None,
        };
        self.id = fastrand::u32(..);
        self.next = next;
        self.delivered_total = 0;
        self.new.clear();
        self.selected.clear();
        self.deliveries.clear();
        self.pending = PendingMessages::default();
        self.redeliver.clear();
        self.lost_deliveries.clear();
        for (sequence, message) in messages.range(next..) {
            self.stored(*sequence, &message.subject);
        }
        Some(next)
    }

    /// Withdraws the request of a reader.
    pub(super) fn leave(&mut self, reader: u64) {
        self.waiting.retain(|waiting| *waiting != reader);
    }

    /// Redelivers everything that is pending, in stream order, because another instance of a handler with a key becomes
    /// active.
    pub(super) fn redeliver_pending(&mut self) {
        self.redeliver = self.pending.iter().map(|(sequence, _)| sequence).collect();
        for sequence in self.redeliver.clone() {
            self.clear_in_flight(sequence);
        }
    }

    /// Returns `true` if a reader is the pinned one.
    pub(super) fn is_active(&self, reader: u64) -> bool {
        self.active == Some(reader)
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
        if let Some((until, _)) = self.paused() {
            return Take::Nothing(Some(until));
        }
        if !self.config.priority_groups.is_empty() && self.active != Some(reader) {
            if self.active.is_some() {
                return Take::Nothing(None);
            }
            self.active = Some(reader);
            if !self.acks_all() {
                self.redeliver_pending();
            }
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
        for sequence in self.pending.due(Instant::now()) {
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
                self.pending.remove(sequence);
                self.deliveries.remove(&sequence);
                return Take::GivenUp { sequence, delivered: delivered - 1 };
            }
            return self.deliver(stream, sequence, message, delivered);
        }
        // An ack that covers all messages before it must not cover one that no worker has.
        let has_gap =
            self.acks_all() && self.pending.iter().any(|(sequence, pending)| !self.is_in_flight(sequence, pending));
        if !self.is_full()
            && !has_gap
            && let Some(sequence) = self.new.pop_first()
        {
            let overtaking = if faults.reorder { self.new.pop_first() } else { None };
            if overtaking.is_some() {
                self.redeliver.push_back(sequence);
            }
            let sequence = overtaking.unwrap_or(sequence);
            self.next = sequence + 1;
            self.deliveries.insert(sequence, 1);
            return self.deliver(stream, sequence, &messages[&sequence], 1);
        }
        Take::Nothing(self.pending.next_due())
    }

    fn acks_all(&self) -> bool {
        self.config.ack_policy == AckPolicy::All
    }

    /// Returns `true` if the number of pending acks has reached `max_ack_pending`.
    fn is_full(&self) -> bool {
        self.config.max_ack_pending > 0 && self.pending.len() >= self.config.max_ack_pending as usize
    }

    /// Returns `true` if a worker has the message.
    fn is_in_flight(&self, sequence: u64, pending: Pending) -> bool {
        // A crashed process has lost its messages, although their `ack_wait` has not passed.
        let delivered = self.deliveries.get(&sequence).copied().unwrap_or_default();
        pending.in_flight && !self.lost_deliveries.contains(&(sequence, delivered))
    }

    fn deliver(&mut self, stream: &str, sequence: u64, message: &Message, delivered: u64) -> Take {
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
        let ack_subject = AckPrefix::new(stream, consumer).delivery_with_pending(id, self.new.len() as u64);
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
                    self.pending.before(sequence).into_iter().for_each(|sequence| self.forget(sequence));
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
                let in_flight = self.pending.iter().filter(|(other, pending)| pending.in_flight && *other != sequence);
                let deliveries = &self.deliveries;
                let lost = in_flight.map(|(other, _)| (other, deliveries.get(&other).copied().unwrap_or_default()));
                self.lost_deliveries.extend(lost);
                self.clear_in_flight(sequence);
                false
            }
        }
    }

    fn clear_in_flight(&mut self, sequence: u64) {
        self.pending.change(sequence, |pending| pending.in_flight = false);
    }

    /// Returns the stream sequence up to which every message has ended.
    pub(super) fn ack_floor(&self) -> u64 {
        let first_pending = self.pending.iter().next().map(|(sequence, _)| sequence);
        let pending = first_pending.into_iter().chain(self.redeliver.iter().copied());
        pending.fold(self.next, u64::min).saturating_sub(1)
    }

    pub(super) fn is_pending(&self, sequence: u64) -> bool {
        self.pending.contains(sequence)
    }

    pub(super) fn forget(&mut self, sequence: u64) {
        self.new.remove(&sequence);
        self.pending.remove(sequence);
        self.deliveries.remove(&sequence);
        self.records.remove(&sequence);
        self.lost_deliveries.retain(|(other, _)| *other != sequence);
        self.redeliver.retain(|other| *other != sequence);
    }

    /// Schedules the redelivery of a pending message after `delay`.
    pub(super) fn nak(&mut self, sequence: u64, delay: Duration) {
        if !self.is_pending(sequence) {
            return;
        }
        self.clear_in_flight(sequence);
        if !delay.is_zero() {
            self.pending.change(sequence, |pending| pending.due = Instant::now() + delay);
        } else if !self.redeliver.contains(&sequence) {
            self.redeliver.push_back(sequence);
        }
    }

    /// Restarts the `ack_wait` of a message.
    pub(super) fn progress(&mut self, sequence: u64) {
        let due = Instant::now() + self.config.ack_wait;
        self.pending.change(sequence, |pending| pending.due = due);
    }

    /// Returns `true` if a message was delivered and its ack is not pending.
    pub(super) fn has_finished(&self, sequence: u64) -> bool {
        sequence < self.next && !self.is_pending(sequence)
    }

    /// Returns the number of messages that were not delivered, or whose ack is pending.
    pub(super) fn count_outstanding(&self) -> u64 {
        (self.new.len() + self.pending.len()) as u64
    }

    /// Returns what the consumer counts.
    pub(super) fn counts(&self) -> ConsumerCounts {
        let redelivered = self.deliveries.values().filter(|delivered| **delivered > 1).count();
        ConsumerCounts {
            pending: self.new.len() as u64,
            ack_pending: self.pending.len() as u64,
            redelivered: redelivered as u64,
            waiting: self.waiting.len() as u64,
        }
    }

    /// Returns `true` if no message can be delivered at the moment, and none is in flight.
    pub(super) fn is_idle(&self) -> bool {
        let now = Instant::now();
        if self.paused().is_some() {
            return self.pending.iter().all(|(sequence, pending)| !self.is_in_flight(sequence, pending));
        }
        let waits = |(sequence, pending): (u64, Pending)| pending.due > now && !self.is_in_flight(sequence, pending);
        self.redeliver.is_empty() && self.pending.iter().all(waits) && (self.is_full() || self.new.is_empty())
    }
}

fn matches(config: &Config, subject: &str) -> bool {
    filters(config).iter().any(|filter| covers(filter, subject))
}

//! The gate of an ordered handler: lets messages through while none is missing, and in the order of the stream.
//!
//! Its acks say "everything up to here", so a message that was delivered and is not in hand — lost with a connection,
//! or held by a replica that died — would be acked unseen by the next one behind it.
//! The consumer numbers its deliveries; a gap in these numbers closes the gate until all that is unanswered is in hand.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use async_nats::jetstream::consumer;
use tokio::time::Instant;

use crate::message::Message;

/// How long the gate waits before it asks again how much is unanswered.
const PERIOD: Duration = Duration::from_millis(100);

/// How long it waits where somebody else is active, or the server did not answer.
const LONG_PERIOD: Duration = Duration::from_secs(1);

/// The longest range of sequences in which what is missing is asked for one by one; beyond it
/// the consumer's `ack_wait` brings it.
const LONGEST_RANGE: u64 = 10_000;

/// Lets deliveries through in order.
#[derive(Debug)]
pub(super) struct Gate {
    open: bool,
    /// The number of the delivery that was let through last.
    last: u64,
    /// What was let through last, as many as can be unanswered: it is in hand.
    passed: VecDeque<Passed>,
    most: usize,
    /// No ack may say a number below this one.
    least: u64,
    /// How many were unanswered when the server was asked last; more than it delivers at once, if an operator has lowered that.
    unanswered: usize,
    /// By sequence in the stream.
    held: BTreeMap<u64, Message>,
    /// The highest number that has come, and the one that had come when the server was asked last.
    received: u64,
    asked: u64,
    /// Up to where the consumer's acks go, as it was said last.
    floor: u64,
    /// What was delivered in spite of that: it is unanswered, because something behind it was removed from the stream.
    below: BTreeSet<u64>,
    /// When the consumer was made.
    created: Option<String>,
    ask_at: Instant,
    /// Up to which number messages may be on their way that the server has delivered, by its first word since the gate closed.
    awaited: Option<u64>,
    /// When it gave that word, or the last one of them came.
    quiet_since: Instant,
    /// When what is missing was asked for; that may be lost as well, and is asked again.
    asked_back: Option<Instant>,
}

#[derive(Debug)]
struct Passed {
    /// In the stream.
    sequence: u64,
    /// The number of the delivery, as its ack says it.
    number: u64,
}

/// What is to be done after the server has said what is unanswered.
#[derive(Debug)]
pub(super) enum Verdict {
    /// All of it is in hand: these are next, in order.
    Open(Vec<Message>),
    /// These are with nobody: ack subjects at which the server takes a nak for them.
    AskBack(Vec<String>),
    Wait,
}

impl Gate {
    /// A gate for a consumer that has at most so many messages unanswered.
    pub(super) fn new(most: usize) -> Self {
        Self {
            open: false,
            last: 0,
            passed: VecDeque::new(),
            most,
            least: 0,
            unanswered: 0,
            held: BTreeMap::new(),
            received: 0,
            asked: 0,
            floor: 0,
            below: BTreeSet::new(),
            created: None,
            ask_at: Instant::now(),
            awaited: None,
            quiet_since: Instant::now(),
            asked_back: None,
        }
    }

    /// Lets a delivery through if it is the next one, and holds it otherwise.
    pub(super) fn pass(&mut self, mut message: Message) -> Option<Message> {
        let number = message.info.consumer_sequence();
        let sequence = message.info.stream_sequence();
        self.received = self.received.max(number);
        if self.open && self.last + 1 == number {
            self.last = number;
            if message.info.delivered() > 1 && self.is_back(&mut message) {
                return Some(message);
            }
            let answer = number.max(self.least);
            if answer != number {
                message.info.answer_as(answer);
            }
            self.least = answer + 1;
            self.let_through(sequence, answer);
            return Some(message);
        }
        if self.open {
            self.close();
        }
        if self.awaited.is_none_or(|awaited| number <= awaited) {
            self.quiet_since = Instant::now();
        }
        if sequence <= self.floor {
            self.below.insert(sequence);
        }
        self.held.insert(sequence, message);
        None
    }

    /// Whether a message was let through before. Its ack says the number of that time, or the one of this time if the server
    /// did not take that.
    fn is_back(&mut self, message: &mut Message) -> bool {
        let sequence = message.info.stream_sequence();
        let Some(passed) = self.passed.iter_mut().find(|passed| passed.sequence == sequence) else { return false };
        let before = std::mem::replace(&mut passed.number, message.info.consumer_sequence());
        message.info.answer_as(before);
        true
    }

    /// The server is asked now what is unanswered.
    pub(super) fn asks(&mut self) {
        self.asked = self.received;
    }

    /// Whether the consumer is not the one of the last time, or counts its deliveries anew.
    ///
    /// It does after `CONSUMER.RESET`, and where a server was killed before it had written them down.
    /// What was delivered by it before must not be answered: the server would take the old number for a new one,
    /// and no ack below it ever again. Where that has happened, it is not known what of it is unanswered.
    pub(super) fn is_another(&mut self, info: &consumer::Info) -> bool {
        let created = info.created.to_string();
        let another = self.created.as_ref().is_some_and(|before| *before != created);
        self.created = Some(created);
        another
            || match is_damaged(info) {
                true => !self.open && !self.passed.is_empty(),
                false => info.delivered.consumer_sequence < self.asked,
            }
    }

    fn let_through(&mut self, sequence: u64, number: u64) {
        if self.passed.len() == self.most {
            self.passed.pop_front();
        }
        self.passed.push_back(Passed { sequence, number });
    }

    /// Something may be missing.
    pub(super) fn close(&mut self) {
        (self.open, self.ask_at, self.awaited, self.asked_back) = (false, Instant::now(), None, None);
    }

    /// Somebody else is the active one, and has what is held.
    pub(super) fn reset(&mut self) {
        *self = Self { created: self.created.take(), ..Self::new(self.most) };
    }

    pub(super) fn is_open(&self) -> bool {
        self.open
    }

    /// How many may come while it is closed: all that the consumer can have delivered, but for what it holds.
    pub(super) fn room(&self) -> usize {
        self.most.max(self.unanswered).saturating_sub(self.held.len())
    }

    /// When the server should be asked what is unanswered, while the gate is closed.
    pub(super) fn ask_at(&self) -> Instant {
        self.ask_at
    }

    /// Hears what the consumer's server says; `pinned` says that this replica is the active one.
    pub(super) fn heard(&mut self, info: &consumer::Info, pinned: bool) -> Verdict {
        let floor = info.ack_floor.stream_sequence;
        let delivered = info.delivered.stream_sequence.max(floor);
        let other = !pinned && info.priority_groups.iter().any(|group| group.pinned_client_id.is_some());
        self.ask_at = Instant::now() + if self.open || other { LONG_PERIOD } else { PERIOD };
        if other || self.open && (pinned || info.num_ack_pending == 0) {
            return Verdict::Wait;
        }
        if self.open {
            // The active one is gone, and the server would not choose another before there is something to deliver.
            self.close();
        }
        if self.awaited.is_none() {
            self.awaited = Some(info.delivered.consumer_sequence);
            self.quiet_since = Instant::now();
        }
        (self.floor, self.unanswered) = (floor, info.num_ack_pending);
        self.held.retain(|sequence, _| *sequence > floor || self.below.contains(sequence));
        // What is below the floor has ended, mostly; what is above the last delivery came after these words.
        let unanswered = floor + 1..delivered + 1;
        let passed = self.passed.iter().map(|passed| passed.sequence);
        let passed: BTreeSet<u64> = passed.filter(|it| unanswered.contains(it)).collect();
        let in_hand = match is_damaged(info) {
            false => {
                let held = self.held.range(unanswered).filter(|(sequence, _)| !passed.contains(sequence)).count();
                passed.len() + held + self.below.len()
            }
            // It does not say any more what it has delivered; what had come when it was asked, it has.
            true => self.held.values().filter(|message| message.info.consumer_sequence() <= self.asked).count(),
        };
        if in_hand >= info.num_ack_pending {
            return Verdict::Open(self.open(info));
        }
        let now = Instant::now();
        // What the server has delivered may be on its way: its word can come sooner, and the client reads in turns.
        let arriving = now - self.quiet_since < PERIOD;
        let asked = self.asked_back.is_some_and(|asked| now - asked < LONG_PERIOD);
        if arriving || asked || delivered - floor > LONGEST_RANGE {
            return Verdict::Wait;
        }
        self.asked_back = Some(now);
        let missing = (floor + 1..=delivered).filter(|it| !self.held.contains_key(it) && !passed.contains(it));
        let prefix = match self.held.values().next() {
            Some(any) => any.info.ack_prefix().to_owned(),
            None => format!("$JS.ACK.{}.{}", info.stream_name, info.name),
        };
        // Of the numbers in it the server looks at the two sequences alone (`consumer.go`, `processNak`).
        let number = info.delivered.consumer_sequence;
        Verdict::AskBack(missing.map(|sequence| format!("{prefix}.1.{sequence}.{number}.0.0")).collect())
    }

    /// Lets through all that it holds.
    ///
    /// The server ignores an ack whose number is not above that of the last one, though its sequence is
    /// (`consumer.go`, `processAckMsg`). What came again has a number above those of messages behind it, which would
    /// then not be acked. So each ack says a number below that of the next one; it is not below that of its first
    /// delivery, and the number of the last ack was below that.
    fn open(&mut self, info: &consumer::Info) -> Vec<Message> {
        let mut held = std::mem::take(&mut self.held);
        let last = held.values().map(|message| message.info.consumer_sequence()).max();
        self.last = last.unwrap_or_default().max(info.delivered.consumer_sequence);
        self.open = true;
        self.below.clear();
        let passed = self.passed.drain(..).filter(|passed| passed.sequence > self.floor);
        let mut numbers: BTreeMap<u64, u64> = passed.map(|Passed { sequence, number }| (sequence, number)).collect();
        // What is below the floor counts as acked, whatever its ack says.
        let above = held.range(self.floor + 1..);
        numbers.extend(above.map(|(sequence, message)| (*sequence, message.info.consumer_sequence())));
        let mut next = self.last + 1;
        for number in numbers.values_mut().rev() {
            *number = (*number).min(next.saturating_sub(1));
            next = *number;
        }
        if is_damaged(info) {
            tracing::error!(
                consumer = info.name,
                "the consumer's ack floor has the number {}, and its last delivery {}: it was reset while a handler was at work, and keeps no record of what is done now; delete it while the handler runs, which makes it again",
                info.ack_floor.consumer_sequence,
                info.delivered.consumer_sequence,
            );
        }
        self.least = info.ack_floor.consumer_sequence + 1;
        self.most = self.most.max(numbers.len());
        for (sequence, number) in numbers {
            let number = number.max(self.least);
            self.least = number + 1;
            if let Some(message) = held.get_mut(&sequence)
                && message.info.consumer_sequence() != number
            {
                message.info.answer_as(number);
            }
            self.let_through(sequence, number);
        }
        held.into_values().collect()
    }

    /// The server could not be asked.
    pub(super) fn unheard(&mut self) {
        self.ask_at = Instant::now() + LONG_PERIOD;
    }

    /// What it holds, for the next replica.
    pub(super) fn empty(&mut self) -> Vec<Message> {
        std::mem::take(&mut self.held).into_values().collect()
    }
}

/// Whether an ack said a number that the consumer has not reached: it takes none below that (`consumer.go`,
/// `processAckMsg`), and its store notes no delivery below it (`filestore.go`, `UpdateDelivered`).
fn is_damaged(info: &consumer::Info) -> bool {
    info.ack_floor.consumer_sequence > info.delivered.consumer_sequence
}

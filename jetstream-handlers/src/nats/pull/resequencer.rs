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
pub(super) struct Resequencer {
    open: bool,
    /// The number of the delivery that was let through last.
    last: u64,
    /// What was let through last, as many as can be unanswered: it is in hand.
    passed: VecDeque<Passed>,
    /// How many can be unanswered: what the consumer allows, or what it had unanswered when an operator lowered that.
    most: usize,
    /// The lowest number that the next ack may say, so that the server does not ignore it;
    /// above the delivery's own only where the consumer is damaged.
    least: u64,
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
    arriving: Option<Arriving>,
    /// When what is missing was asked for; that may be lost as well, and is asked again.
    asked_back: Option<Instant>,
}

#[derive(Debug)]
struct Passed {
    /// In the stream.
    sequence: u64,
    /// What the next answer to this message says.
    number: u64,
}

/// What the server had delivered when it was asked first after the gate closed: it may be on its way until nothing of it
/// has come for a [`PERIOD`].
///
/// Newer deliveries do not count, or a busy stream would keep the gate from asking back.
#[derive(Debug)]
struct Arriving {
    up_to: u64,
    since: Instant,
}

/// Which replica the server delivers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Active {
    This,
    Other,
    Nobody,
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

impl Resequencer {
    /// A gate for a consumer that has at most so many messages unanswered.
    pub(super) fn new(most: usize) -> Self {
        Self {
            open: false,
            last: 0,
            passed: VecDeque::new(),
            most,
            least: 0,
            held: BTreeMap::new(),
            received: 0,
            asked: 0,
            floor: 0,
            below: BTreeSet::new(),
            created: None,
            ask_at: Instant::now(),
            arriving: None,
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
            if message.info.delivered() > 1 && self.answer_again(&mut message) {
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
        if let Some(arriving) = &mut self.arriving
            && number <= arriving.up_to
        {
            arriving.since = Instant::now();
        }
        if sequence <= self.floor {
            self.below.insert(sequence);
        }
        self.held.insert(sequence, message);
        None
    }

    /// Whether a message was let through before, and is delivered again though the gate is open:
    /// its ack was lost, or the server ignored it because its number was too low.
    ///
    /// It is answered once more with the same number; should it come yet again, with the number of the delivery before
    /// that. This number can be above those of messages behind it; then their acks are ignored, and they come back in
    /// the same way.
    fn answer_again(&mut self, message: &mut Message) -> bool {
        let sequence = message.info.stream_sequence();
        let Some(passed) = self.passed.iter_mut().find(|passed| passed.sequence == sequence) else { return false };
        let before = std::mem::replace(&mut passed.number, message.info.consumer_sequence());
        message.info.answer_as(before);
        true
    }

    /// Whether a delivery says that the consumer counts anew: it has made its first one before.
    pub(super) fn counts_anew(&self, delivery: &Message) -> bool {
        delivery.info.consumer_sequence() == 1 && self.received > 0
    }

    /// The server is asked now what is unanswered.
    pub(super) fn asks(&mut self) {
        self.asked = self.received;
    }

    /// Takes note of which consumer it is; `false` if that is another one than the last time, or the same one that counts
    /// its deliveries anew: after `CONSUMER.RESET`, or after its server was killed before it wrote them down.
    ///
    /// Deliveries from before must not be acked then: their numbers are above all that the consumer has counted, and the
    /// server would ignore every lower ack after that. A consumer to which this has happened is *damaged*. It cannot say
    /// which of the messages that were let through are unanswered, so that once the gate is closed they are forgotten
    /// and gathered anew.
    pub(super) fn recognises(&mut self, info: &consumer::Info) -> bool {
        let created = info.created.to_string();
        let same = self.created.as_ref().is_none_or(|before| *before == created);
        self.created = Some(created);
        same && match is_damaged(info) {
            true => self.open || self.passed.is_empty(),
            false => info.delivered.consumer_sequence >= self.asked,
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
        (self.open, self.ask_at, self.arriving, self.asked_back) = (false, Instant::now(), None, None);
    }

    /// Nothing of what is held or was let through is this process's any more: another replica has it, or the consumer is
    /// another one.
    pub(super) fn reset(&mut self) {
        *self = Self { created: self.created.take(), ..Self::new(self.most) };
    }

    pub(super) fn is_open(&self) -> bool {
        self.open
    }

    /// How many may come while it is closed: all that the consumer can have delivered, but for what it holds.
    pub(super) fn room(&self) -> usize {
        self.most.saturating_sub(self.held.len())
    }

    /// When the server should be asked what is unanswered, while the gate is closed.
    pub(super) fn ask_at(&self) -> Instant {
        self.ask_at
    }

    /// Hears what the consumer's server says; up to `acked` this process has sent an ack.
    pub(super) fn heard(&mut self, info: &consumer::Info, active: Active, acked: u64) -> Verdict {
        let floor = info.ack_floor.stream_sequence;
        let delivered = info.delivered.stream_sequence.max(floor);
        let now = Instant::now();
        self.ask_at = now + if self.open || active == Active::Other { LONG_PERIOD } else { PERIOD };
        if active == Active::Other || self.open && (active == Active::This || info.num_ack_pending == 0) {
            return Verdict::Wait;
        }
        if self.open {
            // The active one is gone, and the server would not choose another before there is something to deliver.
            self.close();
        }
        self.floor = floor;
        self.most = self.most.max(info.num_ack_pending);
        self.held.retain(|sequence, _| *sequence > floor || self.below.contains(sequence));
        // What is below the floor has ended, mostly; what is above the last delivery came after these words.
        let unanswered = floor + 1..delivered + 1;
        // What is acked counts as unanswered as long as the server says so, and not by the floor: where a consumer has
        // several copies that rises later, and what is acked would stand for as many messages that are missing.
        let passed = self.passed.iter().map(|passed| passed.sequence).filter(|it| *it > acked);
        let passed: BTreeSet<u64> = passed.filter(|it| unanswered.contains(it)).collect();
        let in_hand = match is_damaged(info) {
            false => {
                let held = self.held.range(unanswered).filter(|(sequence, _)| !passed.contains(sequence)).count();
                passed.len() + held + self.below.len()
            }
            // It does not say any more what it has delivered; what had come when it was asked, it has.
            // Nothing was let through by now (see `recognises`).
            true => self.held.values().filter(|message| message.info.consumer_sequence() <= self.asked).count(),
        };
        if in_hand >= info.num_ack_pending {
            return Verdict::Open(self.open(info));
        }
        // What the server has delivered may be on its way: its word can come sooner, and the client reads in turns.
        let up_to = info.delivered.consumer_sequence;
        let arriving = now - self.arriving.get_or_insert(Arriving { up_to, since: now }).since < PERIOD;
        let asked = self.asked_back.is_some_and(|asked| now - asked < LONG_PERIOD);
        if arriving || asked || is_damaged(info) || delivered - floor > LONGEST_RANGE {
            return Verdict::Wait;
        }
        self.asked_back = Some(now);
        let missing = (floor + 1..=delivered).filter(|it| !self.held.contains_key(it) && !passed.contains(it));
        let prefix = match self.held.values().next() {
            Some(any) => any.info.ack_prefix().to_owned(),
            None => format!("$JS.ACK.{}.{}", info.stream_name, info.name),
        };
        // Of the numbers in it the server looks at the sequence, and whether the other one is above its ack floor and not
        // above its last delivery (`consumer.go`, `processNak`). A damaged consumer has no such number, and brings what
        // is missing after `ack_wait`.
        let number = info.delivered.consumer_sequence;
        Verdict::AskBack(missing.map(|sequence| format!("{prefix}.1.{sequence}.{number}.0.0")).collect())
    }

    /// Lets through all that it holds.
    fn open(&mut self, info: &consumer::Info) -> Vec<Message> {
        let last = self.held.values().map(|message| message.info.consumer_sequence()).max();
        self.last = last.unwrap_or_default().max(info.delivered.consumer_sequence);
        self.open = true;
        self.below.clear();
        self.give_numbers(info.ack_floor.consumer_sequence);
        std::mem::take(&mut self.held).into_values().collect()
    }

    /// Says which number the answer to each message in hand has.
    ///
    /// The server ignores an ack whose number is not above that of the last one, though its sequence is
    /// (`consumer.go`, `processAckMsg`). What came again has a number above those of messages behind it, which would
    /// then not be acked. So each ack says a number below that of the next one. It is not below that of its first
    /// delivery, and what was acked before has a number below that.
    fn give_numbers(&mut self, floor: u64) {
        let passed = self.passed.drain(..).filter(|passed| passed.sequence > self.floor);
        let mut numbers: BTreeMap<u64, u64> = passed.map(|Passed { sequence, number }| (sequence, number)).collect();
        // What is below the floor counts as acked, whatever its ack says.
        let above = self.held.range(self.floor + 1..);
        numbers.extend(above.map(|(sequence, message)| (*sequence, message.info.consumer_sequence())));
        let mut next = self.last + 1;
        for number in numbers.values_mut().rev() {
            *number = (*number).min(next.saturating_sub(1));
            next = *number;
        }
        // The floor of a healthy consumer is below all these numbers. A damaged one has it above them, and takes only
        // what is above it: then the numbers go on from there.
        self.least = floor + 1;
        for (sequence, number) in numbers {
            let number = number.max(self.least);
            self.least = number + 1;
            if let Some(message) = self.held.get_mut(&sequence)
                && message.info.consumer_sequence() != number
            {
                message.info.answer_as(number);
            }
            self.let_through(sequence, number);
        }
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
pub(super) fn is_damaged(info: &consumer::Info) -> bool {
    info.ack_floor.consumer_sequence > info.delivered.consumer_sequence
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::message::Info;

    const CREATED: &str = "2026-11-01T00:00:00Z";

    /// The server's words: what is delivered and up to where it is acked, each as sequence and number.
    fn info((delivered, last): (u64, u64), (floor, acked): (u64, u64), unanswered: usize) -> consumer::Info {
        made_at(CREATED, (delivered, last), (floor, acked), unanswered)
    }

    fn made_at(
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
        .expect("it is what a server says")
    }

    fn delivery(sequence: u64, number: u64, times: u64) -> Message {
        let info = Info::parse(format!("$JS.ACK.S.D.{times}.{sequence}.{number}.7.0").into());
        Message { info: info.expect("it is an ack subject"), ..Message::new("s", "") }
    }

    /// Sequence and number in the ack of each message.
    fn acks<'a>(messages: impl IntoIterator<Item = &'a Message>) -> Vec<(u64, u64)> {
        let ack = |message: &Message| {
            let numbers = message.info.ack_subject().split('.').skip(5).take(2).map(|it| it.parse().expect("a number"));
            let numbers: Vec<u64> = numbers.collect();
            (numbers[0], numbers[1])
        };
        messages.into_iter().map(ack).collect()
    }

    /// A gate that is open, and has let the messages 1 to `last` through.
    fn opened(last: u64) -> Resequencer {
        let mut gate = Resequencer::new(1000);
        assert!(gate.recognises(&info((0, 0), (0, 0), 0)));
        assert!(matches!(gate.heard(&info((0, 0), (0, 0), 0), Active::This, 0), Verdict::Open(_)));
        for number in 1..=last {
            assert!(gate.pass(delivery(number, number, 1)).is_some());
        }
        gate.asks();
        gate
    }

    fn gathered(gate: &mut Resequencer, info: &consumer::Info) -> Vec<Message> {
        match gate.heard(info, Active::This, 0) {
            Verdict::Open(messages) => messages,
            verdict => panic!("{verdict:?}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_passes_before_what_is_missing() {
        let mut gate = opened(2);
        // 3 is lost.
        assert!(gate.pass(delivery(4, 4, 1)).is_none());
        let words = info((4, 4), (1, 1), 3);
        assert!(matches!(gate.heard(&words, Active::This, 0), Verdict::Wait), "it may be on its way");
        tokio::time::advance(PERIOD).await;
        let Verdict::AskBack(subjects) = gate.heard(&words, Active::This, 0) else { panic!("it is asked for") };
        assert_eq!(subjects, ["$JS.ACK.S.D.1.3.4.0.0"]);
        assert!(gate.pass(delivery(3, 5, 2)).is_none());
        assert_eq!(acks(&gathered(&mut gate, &info((4, 5), (1, 1), 3))), [(3, 3), (4, 4)]);
        assert!(gate.pass(delivery(5, 6, 1)).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_meanwhile_does_not_put_off_the_asking() {
        let mut gate = opened(0);
        gate.close();
        let words = info((1, 1), (0, 0), 1);
        assert!(matches!(gate.heard(&words, Active::This, 0), Verdict::Wait));
        for number in 2..=6 {
            tokio::time::advance(PERIOD / 4).await;
            assert!(gate.pass(delivery(number, number, 1)).is_none());
        }
        let Verdict::AskBack(subjects) = gate.heard(&info((6, 6), (0, 0), 6), Active::This, 0) else {
            panic!("not asked")
        };
        assert_eq!(subjects, ["$JS.ACK.S.D.1.1.6.0.0"]);
    }

    #[test]
    fn each_ack_says_a_number_below_the_next_one() {
        let mut gate = opened(0);
        gate.close();
        // 1 and 2 were with a process that died, and come again after 3, which is new; 4 is new as well.
        for (sequence, number, times) in [(3, 3, 1), (1, 4, 2), (2, 5, 2), (4, 6, 1)] {
            assert!(gate.pass(delivery(sequence, number, times)).is_none());
        }
        assert_eq!(acks(&gathered(&mut gate, &info((4, 6), (0, 0), 4))), [(1, 1), (2, 2), (3, 3), (4, 6)]);
        let next = gate.pass(delivery(5, 7, 1));
        assert_eq!(acks(&next), [(5, 7)]);
    }

    #[test]
    fn what_comes_again_through_the_open_gate_is_answered_as_before_and_then_anew() {
        let mut gate = opened(2);
        assert_eq!(acks(&gate.pass(delivery(1, 3, 2))), [(1, 1)]);
        assert_eq!(acks(&gate.pass(delivery(1, 4, 3))), [(1, 3)]);
    }

    #[test]
    fn a_consumer_that_counts_anew_is_another_one() {
        assert!(opened(3).recognises(&info((3, 3), (0, 0), 3)));
        assert!(!opened(3).recognises(&info((3, 2), (0, 0), 2)), "it has delivered three");
        assert!(!opened(3).recognises(&made_at("2026-11-02T00:00:00Z", (3, 3), (0, 0), 3)));
    }

    #[tokio::test(start_paused = true)]
    async fn the_acks_for_a_damaged_consumer_say_numbers_above_its_floor() {
        let mut gate = opened(2);
        let words = info((0, 0), (0, 500), 2);
        assert!(gate.recognises(&words), "while it is open that changes nothing");
        gate.close();
        assert!(!gate.recognises(&words), "what is in hand may be acked or not");
        gate.reset();
        assert!(gate.recognises(&words));
        assert!(gate.pass(delivery(1, 3, 2)).is_none());
        gate.asks();
        tokio::time::advance(LONG_PERIOD).await;
        assert!(matches!(gate.heard(&words, Active::This, 0), Verdict::Wait), "it would not take a nak");
        tokio::time::advance(LONG_PERIOD).await;
        assert!(matches!(gate.heard(&words, Active::This, 0), Verdict::Wait));
        assert!(gate.pass(delivery(2, 4, 2)).is_none());
        gate.asks();
        assert_eq!(acks(&gathered(&mut gate, &words)), [(1, 501), (2, 502)]);
        assert_eq!(acks(&gate.pass(delivery(3, 5, 1))), [(3, 503)]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_acked_stands_for_nothing_that_is_missing() {
        let mut gate = opened(4);
        gate.close();
        // 1 to 3 are acked, which the floor does not say yet; 5 to 7 are lost.
        let words = info((7, 7), (0, 0), 4);
        assert!(matches!(gate.heard(&words, Active::This, 3), Verdict::Wait));
        tokio::time::advance(PERIOD).await;
        let Verdict::AskBack(subjects) = gate.heard(&words, Active::This, 3) else { panic!("they are missing") };
        assert_eq!(subjects.len(), 6, "it may also be the acks that are lost");
        for (sequence, number) in [(5, 8), (6, 9), (7, 10)] {
            assert!(gate.pass(delivery(sequence, number, 2)).is_none());
        }
        let Verdict::Open(messages) = gate.heard(&info((7, 10), (3, 3), 4), Active::This, 3) else {
            panic!("all are here")
        };
        assert_eq!(acks(&messages), [(5, 8), (6, 9), (7, 10)]);
    }

    #[test]
    fn a_first_delivery_after_others_is_one_of_a_consumer_that_counts_anew() {
        assert!(opened(3).counts_anew(&delivery(1, 1, 1)));
        assert!(!opened(3).counts_anew(&delivery(1, 4, 2)));
        assert!(!opened(0).counts_anew(&delivery(1, 1, 1)));
    }

    #[test]
    fn a_replica_that_stands_by_waits() {
        let mut gate = opened(0);
        assert!(matches!(gate.heard(&info((3, 3), (0, 0), 3), Active::Other, 0), Verdict::Wait));
        assert!(gate.is_open());
        // When the active one is gone, it gathers.
        assert!(matches!(gate.heard(&info((3, 3), (0, 0), 3), Active::Nobody, 0), Verdict::Wait));
        assert!(!gate.is_open());
    }
}

//! An ordered handler: each message ends before the next begins, and one ack stands for many.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep};
use tracing::Instrument as _;

use super::Worker;
use super::attempts::Verdict;
use super::buffer::Next;
use super::call::Caller;
use super::slot::{Slot, YieldBudget};
use crate::delivery::AckedSequence;
use crate::message::{Info, Message};
use crate::outcome::{Outcome, Settle};
use crate::sync::lock;

/// How long a message that has ended may wait for the ack that covers it.
const LONGEST_DELAY: Duration = Duration::from_millis(100);

/// The acks of an ordered handler.
///
/// An ack of its consumer covers all messages before it (`AckAll`), so one for many is enough.
#[derive(Debug)]
pub(super) struct AckAll {
    /// After how many messages one is acked.
    every: usize,
    acks: Mutex<Acks>,
    /// Up to where an ack was sent.
    pub(super) acked: AckedSequence,
    begun: Notify,
    /// Counts how often what was delivered was gathered anew; an attempt of before is nobody's any more.
    gathering: AtomicU64,
    /// Counts how often the consumer was another one; an ack for the one before would end messages of this one unseen.
    consumer: AtomicU64,
    /// The connection on which it is known which consumer it is; on another one nothing is acked yet.
    /// 0 is the one in memory, which needs no word of a server; those of NATS count from 1.
    epoch: AtomicU64,
    regathered: Notify,
}

#[derive(Debug, Default)]
struct Acks {
    /// The last message that has ended.
    done: Option<Info>,
    /// Whether it is to be acked.
    due: bool,
    /// How many have ended since the last ack.
    count: usize,
}

/// What is known of a message that comes again.
enum Known {
    Not,
    /// It has ended, and so have later ones, whose ack covers it.
    Done,
    /// It is the last one that has ended; its ack was lost or is on its way.
    Last,
}

impl AckAll {
    pub(super) fn new(every: usize) -> Self {
        Self {
            every,
            acks: Mutex::default(),
            acked: AckedSequence::default(),
            begun: Notify::new(),
            gathering: AtomicU64::new(0),
            consumer: AtomicU64::new(0),
            epoch: AtomicU64::new(0),
            regathered: Notify::new(),
        }
    }

    /// What has arrived and not begun comes again.
    pub(super) fn regather(&self) {
        self.gathering.fetch_add(1, Ordering::Relaxed);
        self.regathered.notify_waiters();
    }

    /// On this connection it is known which consumer it is; the ack of what has ended may be lost with the one before.
    pub(super) fn verified(&self, epoch: u64) {
        self.epoch.store(epoch, Ordering::Relaxed);
        let mut acks = self.acks();
        acks.due = acks.done.is_some();
        self.begun.notify_one();
    }

    /// The consumer is not the one that it was.
    pub(super) fn replaced(&self) {
        *self.acks() = Acks::default();
        self.acked.reset();
        self.consumer.fetch_add(1, Ordering::Relaxed);
    }

    fn known(&self, info: &Info) -> Known {
        let sequence = info.stream_sequence();
        match &self.acks().done {
            // A stream that was made anew counts from 1 again, with later times.
            Some(done) if sequence <= done.stream_sequence() && info.stored_at() <= done.stored_at() => {
                match sequence == done.stream_sequence() {
                    true => Known::Last,
                    false => Known::Done,
                }
            }
            _ => Known::Not,
        }
    }

    /// A message has ended; gives whether it is time for an ack.
    fn done(&self, delivery: Info) -> bool {
        let mut acks = self.acks();
        if !std::mem::replace(&mut acks.due, true) {
            self.begun.notify_one();
        }
        acks.count += 1;
        acks.done = Some(delivery);
        acks.count >= self.every
    }

    fn take(&self) -> Option<Info> {
        let mut acks = self.acks();
        acks.count = 0;
        std::mem::take(&mut acks.due).then(|| acks.done.clone()).flatten()
    }

    fn acks(&self) -> MutexGuard<'_, Acks> {
        // No code of a user runs under the lock.
        lock(&self.acks)
    }
}

impl Worker {
    /// Handles messages one after the other, and each until it has ended, until there is nothing more to take.
    pub(super) async fn work_in_order(&self, lane: &Slot, order: &AckAll) {
        let mut caller = self.caller();
        let Some(mut now) = self.waiting.arrived().await else { return };
        let mut turn = YieldBudget::begin(now);
        loop {
            let Some(Next { since, mut message, low }) = self.waiting.pop(now, self.patience()) else {
                match self.waiting.arrived().await {
                    Some(then) => now = then,
                    None => break,
                }
                continue;
            };
            let begun = now;
            let due = match order.known(&message.info) {
                Known::Not => {
                    let consumer = order.consumer.load(Ordering::Relaxed);
                    let gathering = order.gathering.load(Ordering::Relaxed);
                    lane.take(since, self.numbers(&message.info));
                    let span = self.span(&message);
                    let work = self.until_it_has_ended(&mut caller, &message, begun, order, gathering);
                    let ended = match span.is_disabled() {
                        true => work.await,
                        false => Box::pin(work).instrument(span).await,
                    };
                    let ours = order.gathering.load(Ordering::Relaxed) == gathering;
                    if !ended && ours && self.context.shutdown().is_cancelled() {
                        // The stop hands it back, unless it is another replica's by now.
                        break;
                    }
                    lane.free(ended);
                    now = Instant::now();
                    let took = now - begun;
                    self.prefetch.measured(took);
                    caller.ended(now);
                    ended
                        && order.consumer.load(Ordering::Relaxed) == consumer
                        && order.done(std::mem::take(&mut message.info))
                }
                Known::Last => {
                    order.done(std::mem::take(&mut message.info));
                    true
                }
                Known::Done => false,
            };
            if due || self.waiting.is_empty() {
                self.ack_all(order).await;
            }
            lane.ready(&mut caller, &self.waiting).await;
            turn.end(now, low).await;
        }
        self.ack_all(order).await;
    }

    /// Gives whether the message has ended; one that has not comes again, to this replica or to another.
    async fn until_it_has_ended(
        &self,
        caller: &mut Caller,
        message: &Message,
        begun: Instant,
        order: &AckAll,
        gathering: u64,
    ) -> bool {
        let first = match message.info.delivered() {
            1 => Some(self.call(caller, message, begun).await),
            _ => None,
        };
        match first {
            Some(Outcome { settle: Settle::Ack, .. }) => true,
            first => {
                caller.ended(Instant::now());
                // The rare way has a large future, which a lane need not hold all the time.
                Box::pin(self.retry_in_place(caller, message, order, gathering, first)).await
            }
        }
    }

    /// Goes on after the first outcome, if there is one, until the message has ended.
    async fn retry_in_place(
        &self,
        caller: &mut Caller,
        message: &Message,
        order: &AckAll,
        gathering: u64,
        mut first: Option<Outcome>,
    ) -> bool {
        let mut failed = 0;
        // As its handler and its dead letter see it: tried again is as good as delivered again.
        let mut message = message.clone();
        let delivery = message.info.clone();
        loop {
            let outcome = match first.take() {
                Some(outcome) => outcome,
                None => self.try_in_order(caller, &message, &delivery, order, gathering).await,
            };
            if outcome.settle == Settle::Ack {
                return true;
            }
            let again = self.fail_in_order(&message, outcome, failed).await;
            let Some(delay) = again else { return true };
            failed += 1;
            message.info.count_attempt();
            self.ack_all(order).await;
            let regathered = order.regathered.notified();
            if order.gathering.load(Ordering::Relaxed) == gathering {
                tokio::select! {
                    () = sleep(delay) => {}
                    () = regathered => return false,
                    () = self.context.shutdown().cancelled() => return false,
                }
            }
            if order.gathering.load(Ordering::Relaxed) != gathering {
                return false;
            }
        }
    }

    /// One attempt of those after the first. Whether it shall be is judged by the `delivery` as it came;
    /// the handler gets the `message`, whose count has the attempts in it.
    async fn try_in_order(
        &self,
        caller: &mut Caller,
        message: &Message,
        delivery: &Info,
        order: &AckAll,
        gathering: u64,
    ) -> Outcome {
        match self.verdict(delivery).await {
            Verdict::Bury(outcome) => outcome,
            Verdict::Try => self.call_again(caller, message).await,
            Verdict::TryAlone => {
                // If it kills the process, nothing else shall be unanswered with it.
                self.ack_all(order).await;
                let outcome = self.call_again(caller, message).await;
                if outcome.settle == Settle::Ack && order.gathering.load(Ordering::Relaxed) == gathering {
                    order.done(delivery.clone());
                    self.ack_all(order).await;
                }
                outcome
            }
        }
    }

    async fn call_again(&self, caller: &mut Caller, message: &Message) -> Outcome {
        let outcome = self.call(caller, message, Instant::now()).await;
        caller.ended(Instant::now());
        outcome
    }

    /// After which delay the message is tried again; `None` if it is a dead letter now.
    async fn fail_in_order(&self, message: &Message, outcome: Outcome, failed: u64) -> Option<Duration> {
        // Not by deliveries: what is gathered anew after a lost connection was delivered and not tried.
        if let Some(delay) = self.delay_after(failed + 1, &outcome) {
            return Some(delay);
        }
        self.bury_in_order(message, outcome.into_failure()).await
    }

    /// Whether it is known whose an ack would be that is sent now.
    pub(super) fn is_verified(&self, order: &AckAll) -> bool {
        self.transport.epoch() == Some(order.epoch.load(Ordering::Relaxed))
    }

    /// Acks everything that has ended.
    ///
    /// Not while it is unknown whose it would be: after a reconnect the consumer may be another one of the same name.
    pub(super) async fn ack_all(&self, order: &AckAll) {
        if !self.is_verified(order) {
            return;
        }
        if let Some(last) = order.take() {
            order.acked.set(last.stream_sequence());
            self.send(self.transport.ack(&self.source, last)).await;
        }
    }

    /// Acks in time what has ended while the next message takes long; never returns.
    pub(super) async fn ack_in_time(&self) {
        match &self.order {
            Some(order) => Box::pin(self.ack_order_in_time(order)).await,
            None => std::future::pending().await,
        }
    }

    async fn ack_order_in_time(&self, order: &AckAll) {
        loop {
            order.begun.notified().await;
            sleep(LONGEST_DELAY).await;
            self.ack_all(order).await;
        }
    }
}

//! An ordered handler: each message ends before the next begins, and one ack stands for many.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;
use tokio::time::{Instant, sleep};
use tracing::Instrument as _;

use super::Worker;
use super::attempts::Verdict;
use super::call::Caller;
use super::lane::{Lane, Turn};
use super::waiting::Next;
use crate::message::Info;
use crate::settle::{Outcome, Settle};
use crate::transport::{Acker, Delivery};

/// How long a message that has ended may wait for the ack that covers it.
const LONGEST_DELAY: Duration = Duration::from_millis(100);

/// The acks of an ordered handler.
///
/// An ack of its consumer covers all messages before it (`AckAll`), so one for many is enough.
#[derive(Debug)]
pub(super) struct Order {
    /// After how many messages one is acked.
    every: usize,
    acks: Mutex<Acks>,
    begun: Notify,
    /// Counts how often what was delivered was gathered anew; an attempt of before is nobody's any more.
    gathering: AtomicU64,
    regathered: Notify,
}

#[derive(Debug, Default)]
struct Acks {
    /// The last message that has ended and is not acked.
    last: Option<Acker>,
    count: usize,
    /// The last one that has ended, as its sequence and the time at which it was stored.
    done: Option<(u64, SystemTime)>,
}

/// What is known of a message that comes again.
enum Known {
    Not,
    /// It has ended, and so have later ones, whose ack covers it.
    Done,
    /// It is the last one that has ended; its ack was lost or is on its way.
    Last,
}

impl Order {
    pub(super) fn new(every: usize) -> Self {
        Self {
            every,
            acks: Mutex::default(),
            begun: Notify::new(),
            gathering: AtomicU64::new(0),
            regathered: Notify::new(),
        }
    }

    /// What has arrived and not begun comes again.
    pub(super) fn regather(&self) {
        self.gathering.fetch_add(1, Ordering::Relaxed);
        self.regathered.notify_waiters();
    }

    fn known(&self, info: &Info) -> Known {
        let (sequence, stored_at) = (info.stream_sequence(), info.stored_at());
        match self.acks().done {
            // A stream that was made anew counts from 1 again, with later times.
            Some((done, time)) if sequence <= done && stored_at <= time => match sequence == done {
                true => Known::Last,
                false => Known::Done,
            },
            _ => Known::Not,
        }
    }

    /// A message has ended; gives whether it is time for an ack.
    fn done(&self, delivery: &Delivery) -> bool {
        let info = &delivery.message.info;
        let mut acks = self.acks();
        if acks.last.replace(delivery.acker.clone()).is_none() {
            self.begun.notify_one();
        }
        acks.count += 1;
        acks.done = Some((info.stream_sequence(), info.stored_at()));
        acks.count >= self.every
    }

    fn take(&self) -> Option<Acker> {
        let mut acks = self.acks();
        acks.count = 0;
        acks.last.take()
    }

    fn acks(&self) -> MutexGuard<'_, Acks> {
        // No code of a user runs under the lock.
        self.acks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Worker {
    /// Handles messages one after the other, and each until it has ended, until there is nothing more to take.
    pub(super) async fn work_in_order(&self, lane: &Lane, order: &Order) {
        let mut caller = self.caller();
        let mut now = Instant::now();
        let mut turn = Turn(now);
        while let Some(Next { since, delivery, low }) = self.waiting.pop(&mut now, self.patience()).await {
            let begun = now;
            let info = &delivery.message.info;
            let due = match order.known(info) {
                Known::Not => {
                    lane.take(since, delivery.acker.clone(), info.stream_sequence());
                    let work = self.until_it_has_ended(&mut caller, &delivery, begun, order);
                    let ended = work.instrument(self.span(&delivery.message)).await;
                    if !ended && self.context.shutdown().is_cancelled() {
                        // The stop hands it back.
                        break;
                    }
                    lane.free(ended);
                    now = Instant::now();
                    self.prefetch.measured(now - begun);
                    ended && order.done(&delivery)
                }
                Known::Last => {
                    order.done(&delivery);
                    true
                }
                Known::Done => false,
            };
            if due || self.waiting.is_empty() {
                self.ack_all(order).await;
            }
            lane.ready(&mut caller).await;
            turn.end(now, low).await;
        }
        self.ack_all(order).await;
    }

    /// Gives whether the message has ended; one that has not comes again, to this replica or to another.
    async fn until_it_has_ended(
        &self,
        caller: &mut Caller,
        delivery: &Delivery,
        begun: Instant,
        order: &Order,
    ) -> bool {
        let message = &delivery.message;
        let gathering = order.gathering.load(Ordering::Relaxed);
        let (mut begun, mut failed) = (begun, 0);
        loop {
            let outcome = match self.verdict(&message.info).await {
                Verdict::Bury(outcome) => outcome,
                Verdict::Try => self.call(caller, message, begun).await,
                Verdict::TryAlone => {
                    // If it kills the process, nothing else shall be unanswered with it.
                    self.ack_all(order).await;
                    let outcome = self.call(caller, message, begun).await;
                    if outcome.settle == Settle::Ack {
                        order.done(delivery);
                        self.ack_all(order).await;
                        return true;
                    }
                    outcome
                }
            };
            if outcome.settle == Settle::Ack {
                return true;
            }
            let again = Box::pin(self.fail_in_order(delivery, outcome, failed)).await;
            let Some(delay) = again else { return true };
            failed += 1;
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
            begun = Instant::now();
        }
    }

    /// After which delay the message is tried again; `None` if it is a dead letter now.
    async fn fail_in_order(&self, delivery: &Delivery, outcome: Outcome, failed: u64) -> Option<Duration> {
        let attempt = self.attempt(&delivery.message.info).await + failed;
        if let Some(delay) = self.delay_after(attempt, &outcome) {
            return Some(delay);
        }
        self.bury_in_order(delivery, outcome.into_failure()).await
    }

    /// Acks everything that has ended.
    pub(super) async fn ack_all(&self, order: &Order) {
        if let Some(acker) = order.take() {
            self.send(acker.ack()).await;
        }
    }

    /// Acks in time what has ended while the next message takes long; never returns.
    pub(super) async fn ack_in_time(&self) {
        let Some(order) = &self.order else { return std::future::pending().await };
        loop {
            order.begun.notified().await;
            sleep(LONGEST_DELAY).await;
            self.ack_all(order).await;
        }
    }
}

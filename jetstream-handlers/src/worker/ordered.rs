//! The slot of an ordered handler: each message ends before the next begins, and failed ones are retried in place.

use std::ops::ControlFlow;
use std::pin::pin;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::Worker;
use super::ack_all::{AckAll, Progress};
use super::attempts::{Verdict, killed};
use super::buffer;
use super::caller::Caller;
use super::slot::YieldBudget;
use super::slots::Slot;
use super::taken::Taken;
use super::waiting::Waiting;
use crate::delivery::Isolation;
use crate::message::Message;
use crate::observe::settled::{Next, Settled, Settlement};
use crate::observe::span::Scope;
use crate::outcome::{Outcome, Settle};

/// The timeout of recording that a message is about to be tried in isolation.
const RECORD_TIMEOUT: Duration = Duration::from_secs(5);

/// A message that is tried in place until it has ended.
#[derive(Clone, Copy)]
struct InPlace<'a> {
    taken: &'a Taken<'a>,
    acks: &'a AckAll,
    /// The number of resyncs when the message was taken.
    resyncs: u64,
}

/// An attempt in place, with its span and its trace.
struct Attempt {
    outcome: Outcome,
    begun: Instant,
    scope: Scope,
}

impl InPlace<'_> {
    /// Returns `true` if the message is redelivered, to this worker or another one.
    fn is_stale(&self) -> bool {
        self.acks.resyncs() != self.resyncs
    }
}

impl Worker {
    /// Handles messages in order until the buffer is closed.
    pub(super) async fn work_in_order(&self, slot: Slot<'_>, acks: &AckAll) {
        let mut caller = self.caller();
        let Some(mut now) = self.until_arrived(slot).await else { return };
        let mut budget = YieldBudget::new(now);
        let mut place = None;
        while let Some(buffer::Next { waiting, refill }) = self.next(slot, &mut now, &mut place).await {
            let ack_due = match acks.progress(&waiting.message.info) {
                Progress::New => match self.handle_in_order(slot, &mut caller, acks, waiting, &mut now).await {
                    ControlFlow::Continue(ack_due) => ack_due,
                    ControlFlow::Break(()) => break,
                },
                Progress::Last => {
                    acks.ended(std::mem::take(&mut waiting.message.info));
                    self.observer.count(Settlement::Ack, 1);
                    true
                }
                Progress::Covered => {
                    self.observer.count(Settlement::Ack, 1);
                    false
                }
            };
            if ack_due || self.buffer.is_empty() {
                self.ack_all(acks).await;
            }
            slot.thread_idle(&mut caller, &self.buffer).await;
            if refill {
                budget.yield_now(now).await;
            } else {
                budget.spend(now).await;
            }
        }
        self.ack_all(acks).await;
    }

    /// Handles a message until it has ended, and continues with `true` if an ack is due; breaks if the worker stops
    /// before.
    async fn handle_in_order(
        &self,
        slot: Slot<'_>,
        caller: &mut Caller,
        acks: &AckAll,
        waiting: &mut Waiting,
        now: &mut Instant,
    ) -> ControlFlow<(), bool> {
        let begun = *now;
        let replacements = acks.replacements();
        slot.take(self.delivery_id(&waiting.message.info), begun, waiting.since);
        let mut taken = self.taken(waiting, begun);
        let in_place = InPlace { taken: &taken, acks, resyncs: acks.resyncs() };
        let ended = self.until_ended(caller, in_place, now).await;
        if ended.is_none() && !in_place.is_stale() && self.context.shutdown().is_cancelled() {
            // The message stays in the slot, and the stop hands it back.
            return ControlFlow::Break(());
        }
        slot.release(ended.as_ref());
        self.prefetch.measured(*now - begun);
        if ended.is_none() {
            return ControlFlow::Continue(false);
        }
        let counts = acks.replacements() == replacements;
        let is_ack_due = counts && acks.ended(std::mem::take(&mut taken.message.info));
        taken.settled_in_batch(None, None);
        ControlFlow::Continue(is_ack_due)
    }

    /// Tries a message until it has ended, and returns how; `None` if it is redelivered, to this worker or another one.
    async fn until_ended(&self, caller: &mut Caller, in_place: InPlace<'_>, now: &mut Instant) -> Option<Settled> {
        let message = &*in_place.taken.message;
        let mut first = None;
        if message.info.delivered() == 1 {
            let (begun, scope) = (*now, self.scope(message));
            let outcome = {
                let call = pin!(Some(self.call(caller, message, begun)));
                scope.run_in_place(call).await
            };
            *now = Instant::now();
            caller.ended(*now);
            if outcome.settle == Settle::Ack {
                self.attempted_in_place(&scope, caller, in_place.taken, message, begun, &Settled::ACK);
                return Some(Settled::ACK);
            }
            first = Some(Attempt { outcome, begun, scope });
        }
        // Boxed, because it is rare and large.
        let ended = Box::pin(self.retry_in_place(caller, in_place, first)).await;
        *now = Instant::now();
        ended
    }

    /// Tries a message until it has ended; `first` is the first attempt, if there was one.
    async fn retry_in_place(
        &self,
        caller: &mut Caller,
        in_place: InPlace<'_>,
        mut first: Option<Attempt>,
    ) -> Option<Settled> {
        let mut failures = 0;
        // For the handler and the dead letter, an attempt in place counts as a delivery.
        let mut message = in_place.taken.message.clone();
        loop {
            let Attempt { outcome, begun, scope } = match first.take() {
                Some(attempt) => attempt,
                None => {
                    let (begun, scope) = (Instant::now(), self.scope(&message));
                    let outcome = scope.clone().run(self.try_in_order(caller, in_place, &message)).await;
                    Attempt { outcome, begun, scope }
                }
            };
            if scope.in_scope(|| self.is_handed_back(&outcome)) {
                // The message stays in the slot, and the stop hands it back.
                return None;
            }
            let (settled, delay) = if outcome.settle == Settle::Ack {
                (Settled::ACK, None)
            } else {
                failures += 1;
                scope.clone().run(self.fail_in_order(&message, outcome, failures)).await
            };
            self.attempted_in_place(&scope, caller, in_place.taken, &message, begun, &settled);
            let Some(delay) = delay else { return Some(settled) };
            drop(scope);
            message.info.count_attempt();
            self.ack_all(in_place.acks).await;
            if !self.wait_in_place(in_place, delay).await {
                return None;
            }
        }
    }

    /// Reports an attempt at a message that is tried in place.
    fn attempted_in_place(
        &self,
        scope: &Scope,
        caller: &mut Caller,
        taken: &Taken<'_>,
        message: &Message,
        begun: Instant,
        settled: &Settled,
    ) {
        scope.settled(settled);
        let call = self.called(caller);
        let report = || taken.report_attempt(&message.info, begun, settled, call);
        if self.observer.needs_span(settled) { scope.in_scope(report) } else { report() }
    }

    /// Waits before the next attempt; returns `false` if there is none, because of a resync or the stop.
    async fn wait_in_place(&self, in_place: InPlace<'_>, delay: Duration) -> bool {
        let resynced = in_place.acks.resynced();
        if in_place.is_stale() {
            return false;
        }
        tokio::select! {
            biased;
            () = self.context.shutdown().cancelled() => false,
            () = resynced => false,
            () = async { sleep(delay).await; self.until_ready().await } => !in_place.is_stale(),
        }
    }

    /// Makes one attempt. The verdict depends on the delivery; the handler is called with `message`, whose number of
    /// deliveries includes the attempts in place.
    async fn try_in_order(&self, caller: &mut Caller, in_place: InPlace<'_>, message: &Message) -> Outcome {
        let delivery = &in_place.taken.message.info;
        match self.verdict(delivery).await {
            Verdict::DeadLetter(failure) => Outcome::dead_letter(failure),
            // Recorded only for handlers whose messages are acknowledged one by one.
            Verdict::Repeated => Outcome::ack(),
            Verdict::Try => self.call_again(caller, message).await,
            Verdict::Isolated => {
                // If the call crashes the process, no other message is unacknowledged.
                self.ack_all(in_place.acks).await;
                let deadline = Instant::now() + RECORD_TIMEOUT;
                if self.was_tried_enough(in_place.taken.message, Isolation::Alone, deadline).await {
                    return Outcome::dead_letter(killed(delivery.delivered() - 1));
                }
                let outcome = self.call_again(caller, message).await;
                if outcome.settle == Settle::Ack && !in_place.is_stale() {
                    in_place.acks.ended(delivery.clone());
                    self.ack_all(in_place.acks).await;
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

    /// Settles a failed attempt; returns the delay before the next one, or `None` if the message has ended.
    ///
    /// Attempts are counted by failures, because a message that is redelivered after a lost connection was delivered
    /// but not tried.
    async fn fail_in_order(&self, message: &Message, outcome: Outcome, failures: u64) -> (Settled, Option<Duration>) {
        let attempt = self.next_attempt(failures, &outcome);
        let failure = outcome.into_failure();
        if let Some((delay, next)) = attempt {
            return (Settled::failed(Settlement::Retry, failure, next), Some(delay));
        }
        // It is acknowledged with the messages before it, which ends it as a termination would.
        let stored = self.dead_letter(message, &failure).await;
        match self.dead_letter_result(message, &failure, stored) {
            Ok(settled) => (settled, None),
            Err(delay) => (Settled::failed(Settlement::Retry, failure, Next::DeadLetterLater), Some(delay)),
        }
    }
}

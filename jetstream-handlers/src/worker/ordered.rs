//! The slot of an ordered handler: each message ends before the next begins, and failed ones are retried in place.

use std::ops::ControlFlow;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tracing::Instrument as _;

use super::Worker;
use super::ack_all::{AckAll, Progress};
use super::attempts::{Verdict, killed};
use super::buffer::Next;
use super::caller::Caller;
use super::settle::Settled;
use super::slot::{Slot, YieldBudget};
use crate::delivery::Isolation;
use crate::message::Message;
use crate::outcome::{Outcome, Settle};

/// The timeout of recording that a message is about to be tried in isolation.
const RECORD_TIMEOUT: Duration = Duration::from_secs(5);

/// A message that is tried in place until it has ended.
#[derive(Clone, Copy)]
struct InPlace<'a> {
    message: &'a Message,
    acks: &'a AckAll,
    /// The number of resyncs when the message was taken.
    resyncs: u64,
}

impl InPlace<'_> {
    /// Returns `true` if the message is redelivered, to this worker or another one.
    fn is_stale(&self) -> bool {
        self.acks.resyncs() != self.resyncs
    }
}

impl Worker {
    /// Handles messages in order until the buffer is closed.
    pub(super) async fn work_in_order(&self, slot: &Slot, acks: &AckAll) {
        let mut caller = self.caller();
        let Some(mut now) = self.buffer.arrived().await else { return };
        let mut budget = YieldBudget::new(now);
        while let Some(mut next) = self.next(&mut now).await {
            let refill = next.refill;
            let ack_due = match acks.progress(&next.message.info) {
                Progress::New => match self.handle_in_order(slot, &mut caller, acks, next, &mut now).await {
                    ControlFlow::Continue(ack_due) => ack_due,
                    ControlFlow::Break(()) => break,
                },
                Progress::Last => {
                    acks.ended(std::mem::take(&mut next.message.info));
                    true
                }
                Progress::Covered => false,
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
        slot: &Slot,
        caller: &mut Caller,
        acks: &AckAll,
        next: Next,
        now: &mut Instant,
    ) -> ControlFlow<(), bool> {
        let Next { since, mut message, .. } = next;
        let begun = *now;
        let replacements = acks.replacements();
        let in_place = InPlace { message: &message, acks, resyncs: acks.resyncs() };
        slot.take(self.delivery_id(&message.info), begun, since);
        let span = self.span(&message);
        let handling = self.until_ended(caller, in_place, begun);
        let settled = if span.is_disabled() { handling.await } else { Box::pin(handling).instrument(span).await };
        if settled == Settled::Pending && !in_place.is_stale() && self.context.shutdown().is_cancelled() {
            // The message stays in the slot, and the stop hands it back.
            return ControlFlow::Break(());
        }
        slot.release(settled);
        *now = Instant::now();
        self.prefetch.measured(*now - begun);
        caller.ended(*now);
        let counts = settled == Settled::Ended && acks.replacements() == replacements;
        ControlFlow::Continue(counts && acks.ended(std::mem::take(&mut message.info)))
    }

    /// Tries a message until it has ended, or until it is redelivered to this worker or another one.
    async fn until_ended(&self, caller: &mut Caller, in_place: InPlace<'_>, begun: Instant) -> Settled {
        let first = if in_place.message.info.delivered() == 1 {
            Some(self.call(caller, in_place.message, begun).await)
        } else {
            None
        };
        if matches!(first, Some(Outcome { settle: Settle::Ack, .. })) {
            return Settled::Ended;
        }
        caller.ended(Instant::now());
        // Boxed, because it is rare and large.
        Box::pin(self.retry_in_place(caller, in_place, first)).await
    }

    /// Tries a message until it has ended; `first` is the outcome of the first attempt, if there was one.
    async fn retry_in_place(&self, caller: &mut Caller, in_place: InPlace<'_>, mut first: Option<Outcome>) -> Settled {
        let mut failures = 0;
        // For the handler and the dead letter, an attempt in place counts as a delivery.
        let mut message = in_place.message.clone();
        loop {
            let outcome = match first.take() {
                Some(outcome) => outcome,
                None => self.try_in_order(caller, in_place, &message).await,
            };
            if outcome.settle == Settle::Ack {
                return Settled::Ended;
            }
            if self.is_handed_back(&outcome) {
                // The message stays in the slot, and the stop hands it back.
                return Settled::Pending;
            }
            failures += 1;
            let Some(delay) = self.fail_in_order(&message, outcome, failures).await else { return Settled::Ended };
            message.info.count_attempt();
            self.ack_all(in_place.acks).await;
            if !self.wait_in_place(in_place, delay).await {
                return Settled::Pending;
            }
        }
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
        let delivery = &in_place.message.info;
        match self.verdict(delivery).await {
            Verdict::DeadLetter(failure) => Outcome::dead_letter(failure),
            // Recorded only for handlers whose messages are acknowledged one by one.
            Verdict::Repeated => Outcome::ack(),
            Verdict::Try => self.call_again(caller, message).await,
            Verdict::Isolated => {
                // If the call crashes the process, no other message is unacknowledged.
                self.ack_all(in_place.acks).await;
                let deadline = Instant::now() + RECORD_TIMEOUT;
                if self.was_tried_enough(in_place.message, Isolation::Alone, deadline).await {
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

    /// Returns the delay before the next attempt, or `None` if the message is a dead letter now.
    ///
    /// Attempts are counted by failures, because a message that is redelivered after a lost connection was delivered
    /// but not tried.
    async fn fail_in_order(&self, message: &Message, outcome: Outcome, failures: u64) -> Option<Duration> {
        if let Some(delay) = self.retry_delay(failures, &outcome) {
            return Some(delay);
        }
        let failure = outcome.into_failure();
        // It is acknowledged with the messages before it, which ends it as a termination would.
        let stored = self.dead_letter(message, &failure).await;
        self.dead_letter_result(message, failure, stored)
    }
}

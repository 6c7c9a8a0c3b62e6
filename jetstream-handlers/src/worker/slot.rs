//! The slots of a worker: each takes a message from the buffer, calls the handler and settles the message.

use std::pin::pin;
use std::time::Duration;

use tokio::time::Instant;

use super::Worker;
use super::attempts::Verdict;
use super::buffer::Next;
use super::caller::Caller;
use super::slots::Slot;
use super::taken::Taken;
use super::waiting::Waiting;
use crate::extract::Delivery;
use crate::message::{DeliveryId, Info, Message};
use crate::observe::settled::{Called, Settled};
use crate::observe::span::Scope;
use crate::outcome::{Outcome, Settle};
use crate::plan::Ack;

/// The maximum time that a slot runs without yielding to the other futures of its worker.
const YIELD_PERIOD: Duration = Duration::from_millis(5);

/// The start of handling a delivery.
pub(super) enum Start {
    Known(Verdict),
    /// The verdict has to be looked up.
    LookUp,
    /// The delivery is not answered.
    Leave(Option<Settled>),
}

impl Worker {
    /// Handles messages one by one until the buffer is closed.
    pub(super) async fn work(&self, slot: Slot<'_>) {
        let mut caller = self.caller();
        let Some(mut now) = self.until_arrived(slot).await else { return };
        let mut budget = YieldBudget::new(now);
        let mut place = None;
        loop {
            let Some(Next { waiting, refill }) = self.next(slot, &mut now, &mut place).await else { return };
            let begun = now;
            slot.take(self.delivery_id(&waiting.message.info), begun, waiting.since);
            let mut taken = self.taken(waiting, begun);
            let scope = self.scope(taken.message);
            let settled = {
                let handling = pin!(Some(self.handle(slot, &mut caller, taken.message, begun)));
                scope.run_in_place(handling).await
            };
            now = Instant::now();
            self.prefetch.measured(now - begun);
            caller.ended(now);
            self.handled(&scope, &mut taken, settled.as_ref(), &mut caller);
            // The slot may wait before its next message.
            drop((scope, taken));
            place = None;
            self.release(slot, settled.as_ref());
            slot.thread_idle(&mut caller, &self.buffer).await;
            if refill {
                budget.yield_now(now).await;
            } else if budget.spend(now).await {
                self.notice_suspension();
            }
        }
    }

    /// Waits until there is a message and returns the time, or `None` after the close, or if the slot is given back.
    pub(super) async fn until_arrived(&self, slot: Slot<'_>) -> Option<Instant> {
        let _parked = self.slots.park();
        self.buffer.arrived(|| slot.is_unneeded()).await
    }

    /// Waits for the next message, and until the handler is ready for a call; returns `None` after the close, or if the
    /// slot is given back.
    ///
    /// It is taken into `place`.
    pub(super) async fn next<'a>(
        &self,
        slot: Slot<'_>,
        now: &mut Instant,
        place: &'a mut Option<Waiting>,
    ) -> Option<Next<'a>> {
        let refill = loop {
            if !self.is_ready() {
                Box::pin(self.until_ready()).await;
                *now = Instant::now();
            }
            if let Some(Next { refill, .. }) = self.buffer.pop(*now, self.max_age(), place) {
                break refill;
            }
            *now = self.until_arrived(slot).await?;
        };
        Some(Next { waiting: place.as_mut()?, refill })
    }

    #[inline]
    pub(super) fn start(&self, delivery: &Info) -> Start {
        if let Some(unfinished) = &self.binding.unfinished {
            return self.start_by_key(delivery, unfinished);
        }
        if self.recent_acks.is_repeated(delivery, &self.binding.incarnations) {
            Start::Known(Verdict::Repeated)
        } else if !delivery.is_redelivered() {
            Start::Known(Verdict::Try)
        } else if self.is_in_progress(delivery) {
            // Two requests for a redelivery can cross, and the answer to the earlier delivery counts.
            Start::Leave(Some(Settled::LOST))
        } else if self.was_acknowledged(delivery) {
            // The request for a redelivery can cross the ack.
            if self.handler.declaration.plan.ack == Ack::Confirmed {
                return Start::Leave(Some(Settled::ACK));
            }
            Start::Known(Verdict::Repeated)
        } else {
            Start::LookUp
        }
    }

    /// Handles a message; returns how it was settled, or `None` if it was set aside and is settled later.
    async fn handle(
        &self,
        slot: Slot<'_>,
        caller: &mut Caller,
        message: &mut Message,
        mut begun: Instant,
    ) -> Option<Settled> {
        let verdict = match self.start(&message.info) {
            Start::Known(verdict) => verdict,
            Start::Leave(settled) => return self.leave(message, settled),
            Start::LookUp => {
                let verdict = Box::pin(self.verdict(&message.info)).await;
                if matches!(verdict, Verdict::Try) && !self.is_ready() {
                    // Another slot has begun a call meanwhile.
                    Box::pin(self.until_ready()).await;
                    if !self.is_ready() {
                        Box::pin(self.hand_back(std::slice::from_ref(&message.info))).await;
                        return Some(Settled::HANDED_BACK);
                    }
                }
                begun = Instant::now();
                verdict
            }
        };
        // Futures of the rare cases are boxed, because every slot would hold their size.
        let settling = {
            let outcome = match verdict {
                Verdict::DeadLetter(failure) => Outcome::dead_letter(failure),
                Verdict::Repeated => Outcome::ack(),
                Verdict::Try => self.call_shared(caller, message, begun).await,
                Verdict::Isolated => return Box::pin(self.isolate(message)).await,
            };
            if self.try_settle(message, &outcome) {
                return Some(Settled::ACK);
            }
            caller.ended(Instant::now());
            Box::pin(self.settle_after_call(slot, caller, message, outcome))
        };
        settling.await
    }

    /// Returns `true` if the message was acknowledged lately, and is delivered again because this process has requested
    /// that in the meantime, or could not send the ack, or was not permitted to.
    pub(super) fn was_acknowledged(&self, delivery: &Info) -> bool {
        let (acks, first) = (&self.binding.sent_acks, self.binding.incarnations.first());
        acks.has_unsent(delivery.id(), first) || delivery.has_lost_deliveries() && acks.has(delivery.id(), first)
    }

    /// Calls the handler, possibly beside other calls but not beside an isolated one.
    async fn call_shared(&self, caller: &mut Caller, message: &Message, mut begun: Instant) -> Outcome {
        let _running = match self.running_calls.try_begin() {
            Some(running) => running,
            None => {
                let running = Box::pin(self.running_calls.begin()).await;
                begun = Instant::now();
                running
            }
        };
        self.call(caller, message, begun).await
    }

    /// Returns the part of a delivery that a slot keeps.
    pub(super) fn delivery_id(&self, delivery: &Info) -> DeliveryId {
        if self.ack_prefix.get().is_none() {
            // Another slot can only have set the same prefix.
            self.ack_prefix.set(delivery.ack_prefix()).ok();
        }
        delivery.id()
    }

    /// Returns the delivery whose id a slot has kept.
    pub(super) fn info(&self, delivery: DeliveryId) -> Info {
        self.ack_prefix.get().map(|prefix| prefix.delivery(delivery).into()).unwrap_or_default()
    }

    pub(super) fn caller(&self) -> Caller {
        // In memory a blocking handler runs inline: a paused clock would advance while only its thread is busy.
        if self.handler.declaration.plan.is_blocking() && self.transport.is_remote() {
            Caller::on_thread(self.handler.clone(), self.context.clone())
        } else {
            Caller::inline(self.handler.clone(), self.context.clone())
        }
    }

    pub(super) fn scope(&self, message: &Message) -> Scope {
        self.observer.spans.attempt(&self.handler.declaration, &self.binding, message)
    }

    /// Returns `true` if a message is acknowledged without a call.
    ///
    /// It only marks a deletion, and the handler needs a value, it is a part of a dead letter, or it is a dead letter that is
    /// replayed for another handler.
    #[inline]
    pub(super) fn needs_no_call(&self, message: &Message) -> bool {
        if self.handler.skips(message) {
            tracing::debug!(
                "acknowledged without a call: the message is no value that the handler takes, but marks a deletion or is a part of a dead letter"
            );
            return true;
        }
        let is_for_another = message.is_replay_for_another();
        if is_for_another {
            tracing::debug!("acknowledged without a call: the replay of a dead letter of another handler");
        }
        is_for_another
    }

    /// Calls the handler, publishes the outputs of a successful call, and reports the attempt.
    pub(super) async fn call(&self, caller: &mut Caller, message: &Message, begun: Instant) -> Outcome {
        if self.needs_no_call(message) {
            return Outcome::ack();
        }
        let publishing = {
            let mut outcome = caller.call(Delivery::from(message), begun).await;
            if self.transport.settings().redact_errors {
                outcome.redact();
            }
            if outcome.outputs.is_empty() {
                self.attempted(message, &outcome);
                return outcome;
            }
            caller.ended(Instant::now());
            // Boxed, because every slot would hold its size.
            Box::pin(self.publish_outputs(message, outcome))
        };
        publishing.await
    }

    /// Reports the call for one message, and how it was settled; `None` if it was set aside.
    #[inline]
    pub(super) fn handled(&self, scope: &Scope, taken: &mut Taken<'_>, settled: Option<&Settled>, caller: &mut Caller) {
        taken.settled(scope, settled, self.called(caller));
    }

    /// Reports a call that has ended, and returns it.
    #[inline]
    pub(super) fn called(&self, caller: &mut Caller) -> Option<Called> {
        let call = caller.take_call()?;
        self.observer.called(&call);
        Some(call)
    }

    /// Reports the attempt at a message whose call has ended.
    pub(super) fn attempted(&self, message: &Message, outcome: &Outcome) {
        self.observer.attempted(message, outcome);
        // A call that ends early at a stop has not failed.
        let is_handed_back = outcome.settle == Settle::HandBack && self.context.shutdown().is_cancelled();
        if let Some(failure) = outcome.failure.as_ref().filter(|_| !is_handed_back) {
            self.observer.failed(failure);
        }
    }
}

/// The time up to which a slot runs without yielding.
pub(super) struct YieldBudget(Instant);

impl YieldBudget {
    pub(super) fn new(now: Instant) -> Self {
        Self(now + YIELD_PERIOD)
    }

    /// Yields and returns `true` if the budget is used up: a handler that never waits would otherwise keep its worker
    /// from heartbeats and arrivals.
    pub(super) async fn spend(&mut self, now: Instant) -> bool {
        let spent = now >= self.0;
        if spent {
            self.yield_now(now).await;
        }
        spent
    }

    /// Yields, so that the worker can request more messages.
    pub(super) async fn yield_now(&mut self, now: Instant) {
        tokio::task::yield_now().await;
        *self = Self::new(now);
    }
}

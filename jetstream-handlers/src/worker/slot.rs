//! The slots of a worker: each takes a message from the buffer, calls the handler and settles the message.

use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use tokio::time::Instant;

use super::Worker;
use super::attempts::Verdict;
use super::buffer::{Buffer, Next};
use super::caller::Caller;
use super::taken::Taken;
use super::waiting::Waiting;
use crate::extract::Delivery;
use crate::message::{DeliveryId, Info, Message};
use crate::observe::settled::{Called, Settled};
use crate::observe::span::{self, Scope};
use crate::outcome::{Outcome, Settle};
use crate::plan::Ack;
use crate::sync::lock;

/// The maximum time that a slot runs without yielding to the other futures of its worker.
const YIELD_PERIOD: Duration = Duration::from_millis(5);

/// The message that a slot handles, shared with the heartbeat and the stop.
#[derive(Debug, Default)]
pub(crate) struct Slot(Mutex<InFlight>);

#[derive(Debug, Default)]
struct InFlight {
    current: Option<Current>,
    last: Option<DeliveryId>,
    /// The time at which a call timed out that the thread of the slot still runs.
    late: Option<Instant>,
}

/// The message that is being handled.
#[derive(Debug, Clone, Copy)]
struct Current {
    delivery: DeliveryId,
    begun: Instant,
    /// The time of the last signal to the server about it.
    since: Instant,
    /// `true` if there was no signal for `ack_wait`, after which the server has redelivered it.
    lost: bool,
}

impl Current {
    fn is_lost(&self, ack_wait: Duration) -> bool {
        self.lost || self.since.elapsed() >= ack_wait
    }
}

/// The start of handling a delivery.
pub(super) enum Start {
    Known(Verdict),
    /// The verdict has to be looked up.
    LookUp,
    /// The delivery is not answered.
    Leave(Option<Settled>),
}

/// The messages that the slots of a worker handle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Handling {
    pub(crate) count: usize,
    /// The time at which the oldest of them was taken.
    pub(crate) oldest: Option<Instant>,
    /// The time of the latest signal to the server about one of them.
    pub(crate) signalled: Option<Instant>,
}

impl Handling {
    pub(crate) fn of(slots: &[Slot]) -> Self {
        slots.iter().filter_map(|slot| slot.in_flight().current).fold(Self::default(), |all, current| Self {
            count: all.count + 1,
            oldest: all.oldest.into_iter().chain([current.begun]).min(),
            signalled: all.signalled.max(Some(current.since)),
        })
    }
}

/// The state of a worker that has no free slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Busy {
    /// The time since which all slots have been busy with what they do now.
    pub(crate) since: Instant,
    /// `true` if all slots are taken by calls that still run after their timeout.
    pub(crate) late: bool,
}

impl Busy {
    /// Returns the state of these slots, of which each call has `per_call`; `None` if a call can begin.
    pub(crate) fn of(slots: &[Slot], per_call: usize) -> Option<Self> {
        let all = slots.iter().step_by(per_call).map(Slot::busy).collect::<Option<Vec<_>>>()?;
        all.into_iter().reduce(|one, other| Self { since: one.since.max(other.since), late: one.late && other.late })
    }
}

impl Slot {
    pub(super) fn is_idle(&self) -> bool {
        let in_flight = self.in_flight();
        in_flight.current.is_none() && in_flight.late.is_none()
    }

    /// Returns the message that is being handled.
    pub(super) fn current(&self) -> Option<DeliveryId> {
        self.in_flight().current.map(|current| current.delivery)
    }

    fn busy(&self) -> Option<Busy> {
        let in_flight = self.in_flight();
        match (in_flight.late, in_flight.current) {
            (Some(since), _) => Some(Busy { since, late: true }),
            (None, Some(Current { begun, .. })) => Some(Busy { since: begun, late: false }),
            (None, None) => None,
        }
    }

    /// Returns the message that ended last.
    pub(super) fn last(&self) -> Option<DeliveryId> {
        self.in_flight().last
    }

    /// Returns the message that is being handled if its last signal to the server is at least `age` old; the caller
    /// sends one now.
    pub(super) fn refresh(&self, age: Duration, ack_wait: Duration) -> Option<DeliveryId> {
        let now = Instant::now();
        let mut in_flight = self.in_flight();
        let current = in_flight.current.as_mut().filter(|current| now - current.since >= age)?;
        current.lost |= now - current.since >= ack_wait;
        current.since = now;
        Some(current.delivery)
    }

    /// Moves the time of the signal back, because the clock stood still for `time`.
    pub(super) fn make_older(&self, time: Duration) {
        if let Some(current) = &mut self.in_flight().current {
            current.since = current.since.checked_sub(time).unwrap_or(current.since);
        }
    }

    /// Returns `true` if this message is being handled, and had no signal for `ack_wait` at some time.
    pub(super) fn has_lost(&self, delivery: DeliveryId, ack_wait: Duration) -> bool {
        let current = self.in_flight().current;
        current.is_some_and(|current| current.delivery == delivery && current.is_lost(ack_wait))
    }

    /// Returns `true` if an earlier delivery of this message is being handled, and had a signal in every `ack_wait`.
    pub(super) fn has_earlier(&self, delivery: DeliveryId, ack_wait: Duration) -> bool {
        self.held(ack_wait).is_some_and(|held| {
            held.consumer_sequence < delivery.consumer_sequence
                && (held.stream_sequence, held.stored_at) == (delivery.stream_sequence, delivery.stored_at)
        })
    }

    /// Returns the message that is being handled, unless it had no signal for `ack_wait` at some time.
    pub(super) fn held(&self, ack_wait: Duration) -> Option<DeliveryId> {
        self.in_flight().current.filter(|current| !current.is_lost(ack_wait)).map(|current| current.delivery)
    }

    /// Takes a message whose last signal to the server was at `since`.
    pub(super) fn take(&self, delivery: DeliveryId, begun: Instant, since: Instant) {
        self.in_flight().current = Some(Current { delivery, begun, since, lost: false });
    }

    /// Releases the message.
    ///
    /// It becomes the last message only if it has ended, because the stop sends a request about the last message, which
    /// would restart the `ack_wait` of one that waits for its next attempt.
    pub(super) fn release(&self, settled: Option<&Settled>) {
        let mut in_flight = self.in_flight();
        let current = in_flight.current.take();
        if settled.is_some_and(Settled::has_ended) {
            in_flight.last = current.map(|current| current.delivery);
        }
    }

    /// Waits until the thread of the slot has finished a call that timed out.
    pub(super) async fn thread_idle(&self, caller: &mut Caller, buffer: &Buffer) {
        if caller.is_late() {
            self.in_flight().late = Some(Instant::now());
            caller.thread_idle().await;
            self.in_flight().late = None;
            buffer.notify_capacity();
        }
    }

    fn in_flight(&self) -> MutexGuard<'_, InFlight> {
        lock(&self.0)
    }
}

impl Worker {
    /// Handles messages one by one until the buffer is closed.
    pub(super) async fn work(&self, slot: &Slot) {
        let mut caller = self.caller();
        let Some(mut now) = self.buffer.arrived().await else { return };
        let mut budget = YieldBudget::new(now);
        let mut place = None;
        loop {
            let Some(Next { waiting, refill }) = self.next(&mut now, &mut place).await else { return };
            let begun = now;
            slot.take(self.delivery_id(&waiting.message.info), begun, waiting.since);
            let mut taken = self.taken(waiting, begun);
            let scope = self.scope(taken.message);
            // Two expressions, because moving the future costs more than most calls.
            let settled = if scope.is_empty() {
                self.handle(slot, &mut caller, taken.message, begun).await
            } else {
                scope.clone().run(Box::pin(self.handle(slot, &mut caller, taken.message, begun))).await
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

    /// Waits for the next message, and until the handler is ready for a call; returns `None` after the close.
    ///
    /// It is taken into `place`.
    pub(super) async fn next<'a>(&self, now: &mut Instant, place: &'a mut Option<Waiting>) -> Option<Next<'a>> {
        let refill = loop {
            if !self.is_ready() {
                Box::pin(self.until_ready()).await;
                *now = Instant::now();
            }
            if let Some(Next { refill, .. }) = self.buffer.pop(*now, self.max_age(), place) {
                break refill;
            }
            *now = self.buffer.arrived().await?;
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
        slot: &Slot,
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
        span::attempt(&self.handler.declaration, &self.binding, self.transport.settings(), message)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn call_with_several_slots_is_busy_by_its_first_one() {
        let slots: Vec<Slot> = (0..4).map(|_| Slot::default()).collect();
        let take = |slot: &Slot| slot.take(DeliveryId::default(), Instant::now(), Instant::now());
        take(&slots[0]);
        take(&slots[1]);
        assert_eq!(Busy::of(&slots, 2), None);
        take(&slots[2]);
        assert!(Busy::of(&slots, 2).is_some(), "a batch that is not full occupies its call");
        assert_eq!(Busy::of(&slots, 1), None);
        slots[0].release(Some(&Settled::ACK));
        assert_eq!(Busy::of(&slots, 2), None);
    }
}

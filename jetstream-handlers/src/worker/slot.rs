//! The slots of a worker: each takes a message from the buffer, calls the handler and settles the message.

use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use tokio::time::Instant;
use tracing::Instrument as _;

use super::Worker;
use super::attempts::Verdict;
use super::buffer::{Buffer, Next};
use super::caller::Caller;
use super::settle::Settled;
use crate::handler::Delivery;
use crate::message::{DeliveryId, Info, Message};
use crate::observe::recorder::Call;
use crate::outcome::Outcome;
use crate::sync::lock;

/// The maximum time that a slot runs without yielding to the other futures of its worker.
const YIELD_PERIOD: Duration = Duration::from_millis(5);

/// The message that a slot handles, shared with the heartbeat and the stop.
#[derive(Debug, Default)]
pub(super) struct Slot(Mutex<InFlight>);

#[derive(Debug, Default)]
struct InFlight {
    /// The message that is being handled, with the time of the last signal to the server about it.
    current: Option<(Instant, DeliveryId)>,
    last: Option<DeliveryId>,
    /// `true` while the thread of the slot still runs a call that timed out.
    late: bool,
}

impl Slot {
    pub(super) fn is_idle(&self) -> bool {
        let in_flight = self.in_flight();
        in_flight.current.is_none() && !in_flight.late
    }

    /// Returns the message that is being handled.
    pub(super) fn current(&self) -> Option<DeliveryId> {
        self.in_flight().current.map(|(_, delivery)| delivery)
    }

    /// Returns the message that ended last.
    pub(super) fn last(&self) -> Option<DeliveryId> {
        self.in_flight().last
    }

    /// Returns the message that is being handled if its last signal to the server is at least `age` old.
    pub(super) fn older_than(&self, age: Duration) -> Option<DeliveryId> {
        self.in_flight().current.filter(|(since, _)| since.elapsed() >= age).map(|(_, delivery)| delivery)
    }

    pub(super) fn take(&self, since: Instant, delivery: DeliveryId) {
        self.in_flight().current = Some((since, delivery));
    }

    /// Releases the message.
    ///
    /// It becomes the last message only if it has ended, because the stop sends a request about the last message, which
    /// would restart the `ack_wait` of one that waits for its next attempt.
    pub(super) fn release(&self, settled: Settled) {
        let mut in_flight = self.in_flight();
        let current = in_flight.current.take();
        if settled == Settled::Ended {
            in_flight.last = current.map(|(_, delivery)| delivery);
        }
    }

    /// Waits until the thread of the slot has finished a call that timed out.
    pub(super) async fn thread_idle(&self, caller: &mut Caller, buffer: &Buffer) {
        if caller.is_late() {
            self.in_flight().late = true;
            caller.thread_idle().await;
            self.in_flight().late = false;
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
        loop {
            // Not `while let`, which would keep the scrutinee in the future beside the parts moved out of it.
            let Some(Next { since, mut message, refill }) = self.next(&mut now).await else { return };
            let begun = now;
            slot.take(since, self.delivery_id(&message.info));
            let span = self.span(&message);
            let handling = self.handle(&mut caller, &mut message, begun);
            let settled = if span.is_disabled() { handling.await } else { Box::pin(handling).instrument(span).await };
            now = Instant::now();
            self.prefetch.measured(now - begun);
            caller.ended(now);
            slot.release(settled);
            slot.thread_idle(&mut caller, &self.buffer).await;
            if refill {
                budget.yield_now(now).await;
            } else {
                budget.spend(now).await;
            }
        }
    }

    /// Waits for the next message, and until the handler is ready for a call; returns `None` after the close.
    pub(super) async fn next(&self, now: &mut Instant) -> Option<Next> {
        loop {
            if !self.is_ready() {
                Box::pin(self.until_ready()).await;
                *now = Instant::now();
            }
            if let Some(next) = self.buffer.pop(*now, self.max_age()) {
                return Some(next);
            }
            *now = self.buffer.arrived().await?;
        }
    }

    async fn handle(&self, caller: &mut Caller, message: &mut Message, mut begun: Instant) -> Settled {
        let verdict = if message.info.delivered() == 1 {
            Verdict::Try
        } else {
            let verdict = Box::pin(self.verdict(&message.info)).await;
            begun = Instant::now();
            verdict
        };
        // Futures of the rare cases are boxed, because every slot would hold their size.
        let settling = {
            let outcome = match verdict {
                Verdict::DeadLetter(failure) => Outcome::dead_letter(failure),
                Verdict::Try => self.call_shared(caller, message, begun).await,
                Verdict::Isolated => Box::pin(self.call_isolated(caller, message)).await,
            };
            if self.try_settle(message, &outcome) {
                return Settled::Ended;
            }
            caller.ended(Instant::now());
            Box::pin(self.settle(message, outcome))
        };
        settling.await
    }

    /// Calls the handler, possibly beside other calls but not beside an isolated one.
    async fn call_shared(&self, caller: &mut Caller, message: &Message, mut begun: Instant) -> Outcome {
        let _shared = if self.slots.len() == 1 {
            None
        } else if let Ok(shared) = self.isolation.try_read() {
            Some(shared)
        } else {
            let shared = self.isolation.read().await;
            begun = Instant::now();
            Some(shared)
        };
        self.call(caller, message, begun).await
    }

    /// Calls the handler while no other call runs.
    async fn call_isolated(&self, caller: &mut Caller, message: &Message) -> Outcome {
        let _isolated = self.isolation.write().await;
        self.call(caller, message, Instant::now()).await
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

    pub(super) fn span(&self, message: &Message) -> tracing::Span {
        // At the level of the most severe event in it, because a filter for warnings drops the fields of a lower span.
        tracing::error_span!(
            "handle",
            handler = self.handler.declaration.name,
            subject = message.subject(),
            sequence = message.info.stream_sequence(),
            delivered = message.info.delivered(),
        )
    }

    /// Calls the handler, publishes the outputs of a successful call, and records the outcome for a test.
    ///
    /// A dead letter that is replayed for another handler is acknowledged without a call.
    pub(super) async fn call(&self, caller: &mut Caller, message: &Message, begun: Instant) -> Outcome {
        if message.is_replay_for_another() {
            tracing::debug!("acknowledged without a call: the replay of a dead letter of another handler");
            return Outcome::ack();
        }
        let publishing = {
            let mut outcome = caller.call(Delivery::from(message), begun).await;
            if self.transport.settings().redact_errors {
                outcome.redact();
            }
            if outcome.outputs.is_empty() {
                self.record(message, &outcome);
                return outcome;
            }
            caller.ended(Instant::now());
            // Boxed, because it is rare and every slot would hold its size.
            Box::pin(self.publish_outputs(outcome))
        };
        let outcome = publishing.await;
        self.record(message, &outcome);
        outcome
    }

    fn record(&self, message: &Message, outcome: &Outcome) {
        if let Some(recorder) = &self.recorder {
            recorder.add(Call {
                handler: self.handler.declaration.name.clone(),
                subject: message.subject().to_owned(),
                sequence: message.info.stream_sequence(),
                payload: message.payload.clone(),
                settle: outcome.settle,
                error: outcome.failure.as_ref().map(|failure| failure.error.clone()),
            });
        }
    }
}

/// The time up to which a slot runs without yielding.
pub(super) struct YieldBudget(Instant);

impl YieldBudget {
    pub(super) fn new(now: Instant) -> Self {
        Self(now + YIELD_PERIOD)
    }

    /// Yields if the budget is used up: a handler that never waits would otherwise keep its worker from heartbeats
    /// and arrivals.
    pub(super) async fn spend(&mut self, now: Instant) {
        if now >= self.0 {
            self.yield_now(now).await;
        }
    }

    /// Yields, so that the worker can request more messages.
    pub(super) async fn yield_now(&mut self, now: Instant) {
        tokio::task::yield_now().await;
        *self = Self::new(now);
    }
}

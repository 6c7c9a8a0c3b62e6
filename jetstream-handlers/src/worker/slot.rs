//! One message at a time: decode, extract, call, settle.

use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use tokio::time::Instant;
use tracing::Instrument as _;

use super::Worker;
use super::attempts::Verdict;
use super::buffer::{Buffer, Next};
use super::call::Caller;
use crate::message::{DeliveryId, Info, Message};
use crate::observe::recorder::Call;
use crate::outcome::{Outcome, Settle};
use crate::plan::Ack;
use crate::sync::lock;

/// After how long a lane lets the others have their turn.
const BUSY: Duration = Duration::from_millis(5);

/// What a lane has in hand, for the heartbeat and the stop.
#[derive(Debug, Default)]
pub(super) struct Slot(Mutex<InFlight>);

#[derive(Debug, Default)]
struct InFlight {
    current: Option<(Instant, DeliveryId)>,
    last: Option<DeliveryId>,
    /// A call that was given up goes on.
    late: bool,
}

impl Slot {
    pub(super) fn is_idle(&self) -> bool {
        let hand = self.hand();
        hand.current.is_none() && !hand.late
    }

    /// The message that is being handled.
    pub(super) fn current(&self) -> Option<DeliveryId> {
        self.hand().current.map(|(_, delivery)| delivery)
    }

    /// The message that ended last.
    pub(super) fn last(&self) -> Option<DeliveryId> {
        self.hand().last
    }

    pub(super) fn older_than(&self, age: Duration) -> Option<DeliveryId> {
        self.hand().current.filter(|(since, _)| since.elapsed() >= age).map(|(_, delivery)| delivery)
    }

    pub(super) fn take(&self, since: Instant, delivery: DeliveryId) {
        self.hand().current = Some((since, delivery));
    }

    /// The message is answered; one that has `ended` may be asked about later, one that waits for its next attempt not,
    /// because every word about it would begin its `ack_wait` anew.
    pub(super) fn free(&self, ended: bool) {
        let mut hand = self.hand();
        let current = hand.current.take();
        if ended {
            hand.last = current.map(|(_, delivery)| delivery);
        }
    }

    /// A thread that computes on after its time was over has none for another message.
    pub(super) async fn ready(&self, caller: &mut Caller, waiting: &Buffer) {
        if caller.is_late() {
            self.hand().late = true;
            caller.ready().await;
            self.hand().late = false;
            waiting.make_room();
        }
    }

    fn hand(&self) -> MutexGuard<'_, InFlight> {
        // No code of a user runs under the lock.
        lock(&self.0)
    }
}

impl Worker {
    /// Handles messages one after the other until there is nothing more to take.
    pub(super) async fn work(&self, lane: &Slot) {
        let mut caller = self.caller();
        let Some(mut now) = self.waiting.arrived().await else { return };
        let mut turn = YieldBudget::begin(now);
        loop {
            let Some(Next { since, mut message, low }) = self.waiting.pop(now, self.patience()) else {
                match self.waiting.arrived().await {
                    Some(then) => now = then,
                    None => return,
                }
                continue;
            };
            let begun = now;
            lane.take(since, self.numbers(&message.info));
            let span = self.span(&message);
            let handling = self.handle(&mut caller, &mut message, begun);
            let ended = match span.is_disabled() {
                true => handling.await,
                false => Box::pin(handling).instrument(span).await,
            };
            now = Instant::now();
            let took = now - begun;
            self.prefetch.measured(took);
            caller.ended(now);
            lane.free(ended);
            lane.ready(&mut caller, &self.waiting).await;
            turn.end(now, low).await;
        }
    }

    async fn handle(&self, caller: &mut Caller, message: &mut Message, mut begun: Instant) -> bool {
        let verdict = match message.info.delivered() {
            1 => Verdict::Try,
            _ => {
                let verdict = Box::pin(self.verdict(&message.info)).await;
                begun = Instant::now();
                verdict
            }
        };
        let outcome = match verdict {
            Verdict::Bury(outcome) => outcome,
            Verdict::Try => {
                let _with_others = match self.lanes.len() {
                    1 => None,
                    _ => match self.alone.try_read() {
                        Ok(with_others) => Some(with_others),
                        Err(_) => {
                            let with_others = self.alone.read().await;
                            begun = Instant::now();
                            Some(with_others)
                        }
                    },
                };
                self.call(caller, message, begun).await
            }
            Verdict::TryAlone => {
                let alone = async {
                    let _alone = self.alone.write().await;
                    self.call(caller, message, Instant::now()).await
                };
                // What is rare has a future of its own, which a lane need not carry all the time.
                Box::pin(alone).await
            }
        };
        // The usual end, without the detours of all others.
        if outcome.settle == Settle::Ack && self.handler.declaration.plan.ack == Ack::Sent {
            // It is moved and not cloned, which would cost an allocation.
            let delivery = std::mem::take(&mut message.info);
            let numbers = delivery.id();
            if self.transport.try_ack(&self.source, delivery) {
                return true;
            }
            message.info = self.delivery(numbers);
        }
        caller.ended(Instant::now());
        Box::pin(self.settle(message, outcome)).await
    }

    /// What a lane keeps of a delivery.
    pub(super) fn numbers(&self, delivery: &Info) -> DeliveryId {
        if self.ack_prefix.get().is_none() {
            // Whoever was first has said the same.
            self.ack_prefix.set(delivery.ack_prefix()).ok();
        }
        delivery.id()
    }

    /// The delivery of which a lane has kept the numbers.
    pub(super) fn delivery(&self, numbers: DeliveryId) -> Info {
        self.ack_prefix.get().map(|prefix| prefix.delivery(numbers).into()).unwrap_or_default()
    }

    pub(super) fn caller(&self) -> Caller {
        // In memory a clock that stands still would run away while nothing but a thread is busy.
        let blocking = self.handler.declaration.plan.is_blocking() && self.transport.is_remote();
        Caller::new(self.handler.clone(), self.context.clone(), blocking)
    }

    pub(super) fn span(&self, message: &Message) -> tracing::Span {
        // At the level of the worst line in it, because a filter for warnings would drop the fields of a lower one.
        tracing::error_span!(
            "handle",
            handler = self.handler.declaration.name,
            subject = message.subject(),
            sequence = message.info.stream_sequence(),
            delivered = message.info.delivered(),
        )
    }

    /// Calls the handler, and notes the call if someone wants to know.
    pub(super) async fn call(&self, caller: &mut Caller, message: &Message, begun: Instant) -> Outcome {
        let outcome = caller.call(message, begun).await;
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
        outcome
    }
}

/// Until when a lane goes on without letting the others have their turn.
pub(super) struct YieldBudget(Instant);

impl YieldBudget {
    pub(super) fn begin(now: Instant) -> Self {
        Self(now + BUSY)
    }

    /// After a message: a handler that never waits would keep the whole worker from its heartbeats and arrivals,
    /// and from asking for more while it is `low`.
    pub(super) async fn end(&mut self, now: Instant, low: bool) {
        if low || now >= self.0 {
            tokio::task::yield_now().await;
            *self = Self::begin(now);
        }
    }
}

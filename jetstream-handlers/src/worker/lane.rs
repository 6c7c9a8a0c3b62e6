//! One message at a time: decode, extract, call, settle.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tracing::Instrument as _;

use super::Worker;
use super::attempts::Verdict;
use super::call::Caller;
use super::waiting::Next;
use crate::message::Message;
use crate::record::Call;
use crate::settle::Outcome;
use crate::transport::Acker;

/// After how long a lane lets the others have their turn.
const BUSY: Duration = Duration::from_millis(5);

/// What a lane has in hand, for the heartbeat and the stop.
#[derive(Debug, Default)]
pub(super) struct Lane(Mutex<Hand>);

#[derive(Debug, Default)]
struct Hand {
    current: Option<(Instant, Acker, u64)>,
    last: Option<Acker>,
    /// A call that was given up goes on.
    late: bool,
}

impl Lane {
    pub(super) fn is_idle(&self) -> bool {
        let hand = self.hand();
        hand.current.is_none() && !hand.late
    }

    /// The message that is being handled, with its sequence in the stream.
    pub(super) fn current(&self) -> Option<(Acker, u64)> {
        self.hand().current.as_ref().map(|(_, acker, sequence)| (acker.clone(), *sequence))
    }

    /// The message that ended last.
    pub(super) fn last(&self) -> Option<Acker> {
        self.hand().last.clone()
    }

    pub(super) fn older_than(&self, age: Duration) -> Option<Acker> {
        self.hand().current.as_ref().filter(|(arrived, ..)| arrived.elapsed() >= age).map(|(_, acker, _)| acker.clone())
    }

    pub(super) fn take(&self, arrived: Instant, acker: Acker, sequence: u64) {
        self.hand().current = Some((arrived, acker, sequence));
    }

    /// The message is answered; one that has `ended` may be asked about later, one that waits for its next attempt not,
    /// because every word about it would begin its `ack_wait` anew.
    pub(super) fn free(&self, ended: bool) {
        let mut hand = self.hand();
        let current = hand.current.take();
        if ended {
            hand.last = current.map(|(_, acker, _)| acker);
        }
    }

    /// A thread that computes on after its time was over has none for another message.
    pub(super) async fn ready(&self, caller: &mut Caller) {
        if caller.is_late() {
            self.hand().late = true;
            caller.ready().await;
            self.hand().late = false;
        }
    }

    fn hand(&self) -> MutexGuard<'_, Hand> {
        // No code of a user runs under the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Worker {
    /// Handles messages one after the other until there is nothing more to take.
    pub(super) async fn work(&self, lane: &Lane) {
        let mut caller = self.caller();
        let mut now = Instant::now();
        let mut turn = Turn(now);
        while let Some(Next { since, delivery, low }) = self.waiting.pop(&mut now, self.patience()).await {
            let begun = now;
            let message = &delivery.message;
            lane.take(since, delivery.acker.clone(), message.info.stream_sequence());
            let ended = async {
                let outcome = match self.verdict(&message.info).await {
                    Verdict::Bury(outcome) => outcome,
                    Verdict::Try => {
                        let _with_others = self.alone.read().await;
                        self.call(&mut caller, message, begun).await
                    }
                    Verdict::TryAlone => {
                        let _alone = self.alone.write().await;
                        self.call(&mut caller, message, begun).await
                    }
                };
                self.settle(&delivery, outcome).await
            }
            .instrument(self.span(message))
            .await;
            now = Instant::now();
            self.prefetch.measured(now - begun);
            lane.free(ended);
            lane.ready(&mut caller).await;
            turn.end(now, low).await;
        }
    }

    pub(super) fn caller(&self) -> Caller {
        // In memory a clock that stands still would run away while nothing but a thread is busy.
        let blocking = self.handler.plan.is_blocking() && self.transport.is_remote();
        Caller::new(self.handler.clone(), self.context.clone(), blocking)
    }

    pub(super) fn span(&self, message: &Message) -> tracing::Span {
        // At the level of the worst line in it, because a filter for warnings would drop the fields of a lower one.
        tracing::error_span!(
            "handle",
            handler = self.handler.name,
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
                handler: self.handler.name.clone(),
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

/// Since when a lane has not let the others have their turn.
pub(super) struct Turn(pub(super) Instant);

impl Turn {
    /// After a message: a handler that never waits would keep the whole worker from its heartbeats and arrivals,
    /// and from asking for more while it is `low`.
    pub(super) async fn end(&mut self, now: Instant, low: bool) {
        if low || now - self.0 >= BUSY {
            tokio::task::yield_now().await;
            self.0 = now;
        }
    }
}

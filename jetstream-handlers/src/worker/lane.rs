//! One message at a time: decode, extract, call, settle.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use tokio::time::{Instant, timeout};
use tracing::Instrument as _;

use super::Worker;
use super::attempts::Verdict;
use crate::message::Message;
use crate::record::Call;
use crate::settle::{Outcome, Reason, Settle};
use crate::subscriber::Slot;
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
}

impl Lane {
    pub(super) fn is_idle(&self) -> bool {
        self.hand().current.is_none()
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

    fn take(&self, arrived: Instant, acker: Acker, sequence: u64) {
        self.hand().current = Some((arrived, acker, sequence));
    }

    /// The message is answered; one that has `ended` may be asked about later, one that waits for its next attempt not,
    /// because every word about it would begin its `ack_wait` anew.
    fn free(&self, ended: bool) {
        let mut hand = self.hand();
        let current = hand.current.take();
        if ended {
            hand.last = current.map(|(_, acker, _)| acker);
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
        let mut slot = Slot::new();
        let mut busy_since = Instant::now();
        while let Some((arrived, delivery)) = self.waiting.pop(self.source.ack_wait).await {
            let message = &delivery.message;
            lane.take(arrived, delivery.acker.clone(), message.info.stream_sequence());
            // At the level of the worst line in it, because a filter for warnings would drop the fields of a lower one.
            let span = tracing::error_span!(
                "handle",
                handler = self.handler.name,
                subject = message.subject(),
                sequence = message.info.stream_sequence(),
                delivered = message.info.delivered(),
            );
            let ended = async {
                let outcome = match self.verdict(&message.info).await {
                    Verdict::Bury(outcome) => outcome,
                    Verdict::Try => {
                        let _with_others = self.alone.read().await;
                        self.call(&mut slot, message).await
                    }
                    Verdict::TryAlone => {
                        let _alone = self.alone.write().await;
                        self.call(&mut slot, message).await
                    }
                };
                self.settle(&delivery, outcome).await
            }
            .instrument(span)
            .await;
            lane.free(ended);
            // A handler that never waits would keep the whole worker from its heartbeats and arrivals.
            if busy_since.elapsed() >= BUSY {
                tokio::task::yield_now().await;
                busy_since = Instant::now();
            }
        }
    }

    /// Calls the handler, and notes the call if someone wants to know.
    async fn call(&self, slot: &mut Slot, message: &Message) -> Outcome {
        let outcome = self.call_guarded(slot, message).await;
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

    /// Calls the handler under its time limit; a panic ends the call, not the lane.
    async fn call_guarded(&self, slot: &mut Slot, message: &Message) -> Outcome {
        // A closure runs up to its first await right here.
        let begun = catch_unwind(AssertUnwindSafe(|| (self.handler.call)(slot, message.clone(), self.context.clone())));
        if let Err(panic) = begun {
            return panicked(&*panic);
        }
        let limit = self.handler.plan.timeout();
        let outcome = match timeout(limit, AssertUnwindSafe(slot.call()).catch_unwind()).await {
            Ok(Ok(outcome)) => return outcome,
            Ok(Err(panic)) => panicked(&*panic),
            Err(_) => {
                Outcome::failed(Settle::Retry, Reason::Timeout, format!("cancelled after its timeout of {limit:?}"))
            }
        };
        // What the call held is dropped here, and may panic in turn.
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| slot.clear())) {
            tracing::error!("the cancelled call panicked while it was dropped: {}", said(&*panic));
            *slot = Slot::new();
        }
        outcome
    }
}

fn panicked(panic: &(dyn Any + Send)) -> Outcome {
    Outcome::failed(Settle::Retry, Reason::Panic, format!("panicked: {}", said(panic)))
}

fn said(panic: &(dyn Any + Send)) -> &str {
    let message = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    message.unwrap_or("(no message)")
}

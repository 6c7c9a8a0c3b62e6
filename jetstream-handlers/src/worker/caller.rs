//! Calls of a handler: inside the task of its worker, or on a thread.

use std::sync::Arc;

use tokio::time::Instant;

use super::guarded_call::{BlockingWarning, GuardedCall};
use super::thread::CallerThread;
use crate::extract::{Context, Delivery};
use crate::handler::Handler;
use crate::observe::settled::Called;
use crate::outcome::{Outcome, Reason};

/// The caller of a handler, for one slot.
pub(super) struct Caller {
    place: Place,
    /// The time at which the present call began.
    begun: Option<Instant>,
    /// The class of the failure of the present call.
    failed: Option<Reason>,
    /// The calls for the present message or batch that have ended.
    ended: Option<Called>,
}

/// The place at which a handler is called.
enum Place {
    /// Calls inside the task of the worker.
    Inline(GuardedCall),
    /// Calls on a thread of the slot, for a handler that blocks.
    Thread(CallerThread),
}

impl Caller {
    pub(super) fn inline(handler: Arc<Handler>, context: Context) -> Self {
        Self::at(Place::Inline(GuardedCall::new(handler, context, Some(BlockingWarning::default()))))
    }

    pub(super) fn on_thread(handler: Arc<Handler>, context: Context) -> Self {
        Self::at(Place::Thread(CallerThread::new(handler, context)))
    }

    fn at(place: Place) -> Self {
        Self { place, begun: None, failed: None, ended: None }
    }

    pub(super) async fn call(&mut self, delivery: Delivery<'_>, begun: Instant) -> Outcome {
        self.begun = Some(begun);
        let outcome = match &mut self.place {
            Place::Inline(call) => call.call(delivery, begun).await,
            Place::Thread(thread) => Box::pin(thread.call(delivery)).await,
        };
        self.failed = outcome.failure.as_ref().map(|failure| failure.reason);
        outcome
    }

    /// Measures a call that has ended, and reports one that blocked the worker; must be called after a call and before
    /// the next await.
    pub(super) fn ended(&mut self, now: Instant) -> Option<Called> {
        if let Place::Inline(call) = &mut self.place {
            call.ended(now);
        }
        let call = Called { begun: self.begun.take()?, ended: now, failed: self.failed };
        // The first part of a batch began earlier.
        self.ended = Some(Called { begun: self.ended.map_or(call.begun, |first| first.begun), ..call });
        Some(call)
    }

    /// Returns the calls since this method was called last; `None` if there was none.
    pub(super) fn take_call(&mut self) -> Option<Called> {
        self.ended.take()
    }

    /// Returns `true` if a call still runs after its timeout.
    pub(super) fn is_late(&self) -> bool {
        matches!(&self.place, Place::Thread(thread) if thread.is_late())
    }

    /// Waits until no call runs after its timeout.
    pub(super) async fn thread_idle(&mut self) {
        if let Place::Thread(thread) = &mut self.place {
            thread.idle().await;
        }
    }
}

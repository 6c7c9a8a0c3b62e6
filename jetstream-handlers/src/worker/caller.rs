//! Calls of a handler: inside the task of its worker, or on a thread.

use std::sync::Arc;

use tokio::time::Instant;

use super::guarded_call::{BlockingWarning, GuardedCall};
use super::thread::CallerThread;
use crate::extract::{Context, Delivery};
use crate::handler::Handler;
use crate::outcome::Outcome;

/// The caller of a handler, for one slot.
pub(super) enum Caller {
    /// Calls inside the task of the worker.
    Inline(GuardedCall),
    /// Calls on a thread of the slot, for a handler that blocks.
    Thread(CallerThread),
}

impl Caller {
    pub(super) fn inline(handler: Arc<Handler>, context: Context) -> Self {
        Self::Inline(GuardedCall::new(handler, context, Some(BlockingWarning::default())))
    }

    pub(super) fn on_thread(handler: Arc<Handler>, context: Context) -> Self {
        Self::Thread(CallerThread::new(handler, context))
    }

    pub(super) async fn call(&mut self, delivery: Delivery<'_>, begun: Instant) -> Outcome {
        match self {
            Self::Inline(call) => call.call(delivery, begun).await,
            Self::Thread(thread) => Box::pin(thread.call(delivery)).await,
        }
    }

    /// Reports a call that blocked the worker; must be called after a call and before the next await.
    pub(super) fn ended(&mut self, now: Instant) {
        if let Self::Inline(call) = self {
            call.ended(now);
        }
    }

    /// Returns `true` if a call still runs after its timeout.
    pub(super) fn is_late(&self) -> bool {
        matches!(self, Self::Thread(thread) if thread.is_late())
    }

    /// Waits until no call runs after its timeout.
    pub(super) async fn thread_idle(&mut self) {
        if let Self::Thread(thread) = self {
            thread.idle().await;
        }
    }
}

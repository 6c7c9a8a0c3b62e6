//! The call of a handler, with a time limit and guarded against panics.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use crate::error::printable::printable;
use crate::extract::Context;
use crate::handler::{CallFuture, Delivery, Handler};
use crate::outcome::{Outcome, Reason, Settle};

/// The maximum time that a handler may compute without an await before it is reported to block its thread.
pub(super) const MAX_POLL: Duration = Duration::from_millis(100);

/// The minimum time between two reports of one slot.
const WARNING_PERIOD: Duration = Duration::from_secs(60);

/// The calls of a handler on the current task, one at a time.
pub(super) struct GuardedCall {
    handler: Arc<Handler>,
    context: Context,
    future: CallFuture,
    /// The warning about blocking; `None` on a thread that has nothing else to run.
    warning: Option<BlockingWarning>,
    /// The time at which the last call began; `None` after the call was checked for blocking.
    begun: Option<Instant>,
}

impl GuardedCall {
    pub(super) fn new(handler: Arc<Handler>, context: Context, warning: Option<BlockingWarning>) -> Self {
        Self { handler, context, future: CallFuture::new(), warning, begun: None }
    }

    /// Calls the handler; a panic is an outcome of the call.
    pub(super) async fn call(&mut self, delivery: Delivery<'_>, begun: Instant) -> Outcome {
        self.begun = Some(begun);
        // A closure runs here until its first await.
        let started =
            catch_unwind(AssertUnwindSafe(|| self.handler.call.call(&mut self.future, delivery, &self.context)));
        if let Err(panic) = started {
            return panicked(&*panic);
        }
        // Most calls end immediately and need no timer.
        match std::future::poll_fn(|task| Poll::Ready(self.poll(task))).await {
            Poll::Ready(outcome) => outcome,
            Poll::Pending => self.finish(begun).await,
        }
    }

    fn poll(&mut self, task: &mut std::task::Context<'_>) -> Poll<Outcome> {
        match catch_unwind(AssertUnwindSafe(|| self.future.poll(task))) {
            Ok(poll) => poll,
            Err(panic) => {
                let outcome = panicked(&*panic);
                self.clear();
                Poll::Ready(outcome)
            }
        }
    }

    /// Waits for the end of a call that was polled once, within its time limit.
    async fn finish(&mut self, begun: Instant) -> Outcome {
        self.begun = None;
        self.check_blocking(begun, Instant::now());
        let limit = self.handler.declaration.plan.timeout();
        let call = std::future::poll_fn(|task| {
            let begun = Instant::now();
            let poll = self.poll(task);
            self.check_blocking(begun, Instant::now());
            poll
        });
        let outcome = timeout(limit, call).await;
        outcome.unwrap_or_else(|_| {
            self.clear();
            Outcome::failed(Settle::Retry, Reason::Timeout, format!("cancelled after its timeout of {limit:?}"))
        })
    }

    pub(super) fn ended(&mut self, now: Instant) {
        if let Some(begun) = self.begun.take() {
            self.check_blocking(begun, now);
        }
    }

    fn check_blocking(&mut self, begun: Instant, now: Instant) {
        if let Some(warning) = &mut self.warning {
            warning.polled(&self.handler.declaration.name, now - begun, now);
        }
    }

    /// Drops the future of the call; the user's values in it may panic when they are dropped.
    fn clear(&mut self) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.future.clear())) {
            tracing::error!("the cancelled call panicked while it was dropped: {}", printable(panic_message(&*panic)));
            self.future = CallFuture::new();
        }
    }
}

/// The warning about a handler that blocks its thread, at most once per [`WARNING_PERIOD`].
#[derive(Debug, Default)]
pub(super) struct BlockingWarning {
    last: Option<Instant>,
}

impl BlockingWarning {
    /// Warns if one poll of the handler took too long.
    fn polled(&mut self, name: &str, took: Duration, now: Instant) {
        if took >= MAX_POLL && self.last.is_none_or(|last| now - last >= WARNING_PERIOD) {
            self.last = Some(now);
            tracing::warn!(
                handler = name,
                "computed for {took:.1?} without an await, which blocked everything else on its runtime thread; set `blocking = true` in its attribute to run it on threads of its own"
            );
        }
    }
}

fn panicked(panic: &(dyn Any + Send)) -> Outcome {
    Outcome::failed(Settle::Retry, Reason::Panic, format!("panicked: {}", panic_message(panic)))
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let message = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    message.unwrap_or("(no message)")
}

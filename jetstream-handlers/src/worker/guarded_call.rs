//! The call of a handler, with a time limit and guarded against panics.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::cpu_time;
use crate::error::printable::printable;
use crate::extract::{Context, Delivery};
use crate::handler::{CallFuture, Handler};
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
        if self.warning.is_some() {
            cpu_time::sample(begun);
        }
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
            if self.warning.is_some() {
                cpu_time::sample(begun);
            }
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
    /// Rises with polls that took long without computing, and falls with others.
    waits: u32,
}

impl BlockingWarning {
    /// The value that a poll that took long without computing adds.
    const WAIT: u32 = 8;

    /// The value from which a handler is reported: a handler that blocks in most of its calls reaches it soon, and one
    /// whose process was stopped for a while does not.
    const MANY_WAITS: u32 = 3 * Self::WAIT - Self::WAIT / 2;

    /// Warns if one poll of the handler took too long.
    fn polled(&mut self, name: &str, took: Duration, now: Instant) {
        if took < MAX_POLL {
            self.waits = self.waits.saturating_sub(1);
            return;
        }
        // The time alone also passes while the process is stopped or throttled.
        let Some(computed) = self.reported(took, cpu_time::since_sample()) else { return };
        if self.last.is_none_or(|last| now - last >= WARNING_PERIOD) {
            self.last = Some(now);
            tracing::warn!(
                handler = name,
                "took {took:.1?} without an await, {computed:.1?} of it computing, which blocked everything else on its runtime thread; set `blocking = true` in its attribute to run it on threads of its own"
            );
        }
    }

    /// Returns the time that a long poll computed if it is the handler that blocked the thread.
    fn reported(&mut self, took: Duration, computed: Option<Duration>) -> Option<Duration> {
        let computed = computed.unwrap_or(took).min(took);
        if computed < MAX_POLL {
            self.waits = (self.waits + Self::WAIT).min(Self::MANY_WAITS);
            if self.waits < Self::MANY_WAITS {
                return None;
            }
        }
        Some(computed)
    }
}

/// Returns the outcome of a call that panicked.
pub(super) fn panicked(panic: &(dyn Any + Send)) -> Outcome {
    Outcome::failed(Settle::Retry, Reason::Panic, format!("panicked: {}", panic_message(panic)))
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let message = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    message.unwrap_or("(no message)")
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_millis(300);

    #[test]
    fn computing_is_reported_at_once() {
        let mut warning = BlockingWarning::default();
        assert_eq!(warning.reported(LONG, Some(LONG / 2)), Some(LONG / 2));
        assert_eq!(warning.reported(LONG, None), Some(LONG), "a platform without the measure");
    }

    #[test]
    fn waiting_is_reported_if_it_is_the_rule() {
        let short = Duration::from_millis(1);
        let mut warning = BlockingWarning::default();
        // A handler that blocks after its first await, in each call.
        let reported = (0..4).filter_map(|_| {
            warning.polled("handler", short, Instant::now());
            warning.reported(LONG, Some(short))
        });
        assert_eq!(reported.count(), 2);
        // A process that is stopped now and then.
        let mut warning = BlockingWarning::default();
        for _ in 0..20 {
            assert_eq!(warning.reported(LONG, Some(short)), None);
            (0..8).for_each(|_| warning.polled("handler", short, Instant::now()));
        }
    }

    #[test]
    fn thread_that_waits_computes_nothing() {
        cpu_time::sample(Instant::now());
        std::thread::sleep(Duration::from_millis(120));
        assert!(cpu_time::since_sample().is_none_or(|computed| computed < MAX_POLL / 2));
        let begun = std::time::Instant::now();
        while begun.elapsed() < Duration::from_secs(20) && cpu_time::since_sample().is_some_and(|time| time < MAX_POLL)
        {
        }
        assert!(cpu_time::since_sample().is_none_or(|computed| computed >= MAX_POLL));
    }
}

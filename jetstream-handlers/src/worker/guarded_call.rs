//! The call of a handler, with a time limit and guarded against panics.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::{cpu_time, lost_time};
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
            warning.polled(&self.handler.declaration.name, begun, now);
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

/// A poll of a handler that took long.
#[derive(Debug, Clone, Copy)]
struct LongPoll {
    took: Duration,
    /// The time that the thread computed; zero on a platform that does not measure it.
    computed: Duration,
    /// The time in which the thread could not run: its process was stopped, or others had the CPU; `None` if unknown.
    lost: Option<Duration>,
}

impl LongPoll {
    fn measure(begun: Instant, now: Instant) -> Self {
        let took = now - begun;
        let computed = cpu_time::since_sample().unwrap_or_default().min(took);
        if computed >= MAX_POLL {
            return Self { took, computed, lost: Some(Duration::ZERO) };
        }
        let lost = lost_time::since(begun.into_std(), now.into_std());
        Self { took, computed, lost: lost.map(|lost| lost.max(cpu_time::delay_since_sample())) }
    }
}

impl BlockingWarning {
    /// The value that a poll that took long without computing adds.
    const WAIT: u32 = 8;

    /// The value from which a handler is reported: a handler that blocks in most of its calls reaches it soon, and one
    /// that reads from a slow disk for once does not.
    const MANY_WAITS: u32 = 2 * Self::WAIT - Self::WAIT / 2;

    /// Warns if one poll of the handler took too long.
    fn polled(&mut self, name: &str, begun: Instant, now: Instant) {
        // A sum, which costs less than the difference.
        if now < begun + MAX_POLL {
            self.waits = self.waits.saturating_sub(1);
            return;
        }
        let poll = LongPoll::measure(begun, now);
        if self.is_reported(poll) && self.last.is_none_or(|last| now - last >= WARNING_PERIOD) {
            self.last = Some(now);
            let LongPoll { took, computed, .. } = poll;
            tracing::warn!(
                handler = name,
                "took {took:.1?} without an await, {computed:.1?} of it computing, which blocked everything else on its runtime thread; set `blocking = true` in its attribute to run it on threads of its own"
            );
        }
    }

    /// Returns `true` if it is the handler that blocked the thread.
    fn is_reported(&mut self, poll: LongPoll) -> bool {
        if poll.computed >= MAX_POLL {
            return true;
        }
        // The time alone also passes while the process is stopped or throttled.
        let is_own = poll.lost.is_some_and(|lost| poll.took.saturating_sub(lost) >= MAX_POLL);
        if is_own {
            self.waits = (self.waits + Self::WAIT).min(Self::MANY_WAITS);
        }
        is_own && self.waits >= Self::MANY_WAITS
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

    fn long(computed: Duration, lost: Option<Duration>) -> LongPoll {
        LongPoll { took: LONG, computed, lost }
    }

    #[test]
    fn computing_is_reported_at_once() {
        let mut warning = BlockingWarning::default();
        assert!(warning.is_reported(long(LONG / 2, Some(Duration::ZERO))));
    }

    #[test]
    fn waiting_is_reported_if_it_is_the_rule_and_the_process_ran() {
        let (short, ran) = (Duration::from_millis(1), Some(Duration::from_millis(20)));
        let poll_quickly = |warning: &mut BlockingWarning| {
            let begun = Instant::now();
            warning.polled("handler", begun, begun + short);
        };
        let mut warning = BlockingWarning::default();
        // A handler that blocks after its first await, in each call; the first time, the process is not watched yet.
        let reported = [None, ran, ran, ran].map(|lost| {
            poll_quickly(&mut warning);
            warning.is_reported(long(short, lost))
        });
        assert_eq!(reported, [false, false, true, true]);
        // One that waits for a disk now and then.
        let mut warning = BlockingWarning::default();
        for _ in 0..20 {
            assert!(!warning.is_reported(long(short, ran)));
            (0..8).for_each(|_| poll_quickly(&mut warning));
        }
        // A process that is stopped in each of its polls.
        let mut warning = BlockingWarning::default();
        for lost in [LONG, LONG - MAX_POLL / 2] {
            assert!((0..100).all(|_| !warning.is_reported(long(short, Some(lost)))));
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

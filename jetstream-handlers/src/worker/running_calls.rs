//! The number of calls that run, and a time during which one call runs alone.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::timeout;

/// The time during which no call begins, so that those that run can end.
const MAX_HOLD: Duration = Duration::from_millis(500);

/// The running calls of a worker's slots, which are futures of one task: no two of them change this at the same time.
#[derive(Debug, Default)]
pub(super) struct RunningCalls {
    count: AtomicUsize,
    /// `true` while no call may begin.
    held: AtomicBool,
    /// `true` while a call waits to run alone.
    is_awaited: AtomicBool,
    ended: Notify,
    released: Notify,
}

/// A running call.
#[derive(Debug)]
pub(super) struct RunningCall<'a>(&'a RunningCalls);

/// A time during which no call of a slot runs, until it is dropped.
#[derive(Debug)]
pub(super) struct Alone<'a>(&'a RunningCalls);

impl RunningCalls {
    /// Begins a call; returns `None` while none may begin.
    pub(super) fn try_begin(&self) -> Option<RunningCall<'_>> {
        if self.held.load(Ordering::Relaxed) {
            return None;
        }
        self.count.store(self.count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        Some(RunningCall(self))
    }

    /// Waits until a call may begin, and begins it.
    pub(super) async fn begin(&self) -> RunningCall<'_> {
        loop {
            let released = self.released.notified();
            if let Some(call) = self.try_begin() {
                return call;
            }
            released.await;
        }
    }

    /// Waits until no call runs: first for `patience`, while others begin, then for a short time in which none begins.
    ///
    /// Returns `None` if a call still runs then.
    pub(super) async fn alone(&self, patience: Duration) -> Option<Alone<'_>> {
        self.is_awaited.store(true, Ordering::Relaxed);
        let idle = timeout(patience, self.idle()).await.is_ok();
        self.held.store(true, Ordering::Relaxed);
        let alone = Alone(self);
        let idle = idle || timeout(MAX_HOLD, self.idle()).await.is_ok();
        self.is_awaited.store(false, Ordering::Relaxed);
        idle.then_some(alone)
    }

    async fn idle(&self) {
        loop {
            let ended = self.ended.notified();
            if self.count.load(Ordering::Relaxed) == 0 {
                return;
            }
            ended.await;
        }
    }
}

impl Drop for RunningCall<'_> {
    fn drop(&mut self) {
        let Self(calls) = self;
        let left = calls.count.load(Ordering::Relaxed) - 1;
        calls.count.store(left, Ordering::Relaxed);
        // Waking costs a lock, which a message must not pay.
        if left == 0 && calls.is_awaited.load(Ordering::Relaxed) {
            calls.ended.notify_waiters();
        }
    }
}

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        self.0.held.store(false, Ordering::Relaxed);
        self.0.released.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn call_that_does_not_end_stops_the_others_for_a_short_time() {
        let calls = RunningCalls::default();
        let endless = calls.try_begin().unwrap();
        let mut alone = Box::pin(calls.alone(Duration::from_secs(1)));
        assert!(futures::poll!(&mut alone).is_pending());
        assert!(calls.try_begin().is_some(), "others begin while it is patient");
        tokio::time::advance(Duration::from_millis(1001)).await;
        assert!(futures::poll!(&mut alone).is_pending());
        assert!(calls.try_begin().is_none());
        assert!(alone.await.is_none());
        assert!(calls.try_begin().is_some());

        drop(endless);
        let alone = calls.alone(Duration::from_secs(1)).await.unwrap();
        let mut waiting = Box::pin(calls.begin());
        assert!(futures::poll!(&mut waiting).is_pending());
        drop(alone);
        assert!(futures::poll!(&mut waiting).is_ready());
    }
}

//! The readiness of a handler for another call.

use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use tokio::sync::Notify;

use super::Worker;
use crate::handler::Call;

/// One waker for all slots of a worker, so that a call has to keep only that of the latest poll.
#[derive(Debug)]
pub(super) struct Readiness {
    signal: Arc<Signal>,
    waker: Waker,
}

#[derive(Debug, Default)]
struct Signal {
    /// Wakes the slots.
    slots: Notify,
    /// Wakes the run loop, which adapts its capacity.
    run_loop: Notify,
}

impl Wake for Signal {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.slots.notify_waiters();
        self.run_loop.notify_one();
    }
}

impl Default for Readiness {
    fn default() -> Self {
        let signal = Arc::<Signal>::default();
        Self { waker: signal.clone().into(), signal }
    }
}

impl Readiness {
    fn poll(&self, call: &dyn Call) -> Poll<()> {
        call.poll_ready(&mut Context::from_waker(&self.waker))
    }

    /// Waits until the handler may have become ready, or not ready.
    pub(super) async fn changed(&self) {
        self.signal.run_loop.notified().await;
    }

    /// Has all slots poll again.
    pub(super) fn wake(&self) {
        self.waker.wake_by_ref();
    }
}

impl Worker {
    /// Returns whether the handler is ready for another call; if not, the worker is woken once it may be.
    pub(super) fn is_ready(&self) -> bool {
        self.readiness.poll(&*self.handler.call).is_ready()
    }

    /// Waits until the handler is ready for another call, or the buffer is closed.
    pub(super) async fn until_ready(&self) {
        let Signal { slots, run_loop } = &*self.readiness.signal;
        loop {
            // Created before the poll, so that a wake-up in between is not lost.
            let woken = slots.notified();
            if self.is_ready() || self.buffer.is_closed() {
                return;
            }
            run_loop.notify_one();
            woken.await;
        }
    }
}

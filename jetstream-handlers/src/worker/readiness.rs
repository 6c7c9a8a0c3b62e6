//! The readiness of a handler for another call.

use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use tokio::sync::Notify;

use super::Worker;
use crate::handler::Call;

/// The waker of all slots of a worker, so that a call has to keep only the waker of the latest poll.
#[derive(Debug)]
pub(super) struct Readiness {
    signal: Arc<Signal>,
    waker: Waker,
}

#[derive(Debug, Default)]
struct Signal {
    /// The wake-up of the slots.
    slots: Notify,
    /// The wake-up of the run loop, which adapts its capacity.
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

    /// Waits until the readiness of the handler may have changed.
    pub(super) async fn changed(&self) {
        self.signal.run_loop.notified().await;
    }

    /// Wakes all slots, so that they poll again.
    pub(super) fn wake(&self) {
        self.waker.wake_by_ref();
    }
}

impl Worker {
    /// Returns `true` if the handler is ready for another call; otherwise the worker is woken when it may have become
    /// ready.
    pub(super) fn is_ready(&self) -> bool {
        !self.denied_acks.are_denied() && self.readiness.poll(&*self.handler.call).is_ready()
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

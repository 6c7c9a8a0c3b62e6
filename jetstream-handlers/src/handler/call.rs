//! The interface between a worker and the code of a handler.

use std::fmt;
use std::task::{self, Poll};

use tokio_util::sync::ReusableBoxFuture;

use crate::extract::{Context, Delivery};
use crate::outcome::Outcome;

/// The code of a handler, as a worker calls it.
pub(crate) trait Call: Send + Sync {
    /// Returns [`Poll::Ready`] if another call may begin.
    ///
    /// While this is pending, the worker begins no call and requests no messages.
    /// As with a future, only the waker of the latest poll has to be woken.
    fn poll_ready(&self, _task: &mut task::Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }

    /// Begins a call: stores its future in `future`.
    fn call(&self, future: &mut CallFuture, delivery: Delivery<'_>, context: &Context);
}

/// The implementation for annotated functions and closures, which are always ready.
impl<F> Call for F
where
    F: Fn(&mut CallFuture, Delivery<'_>, &Context) + Send + Sync,
{
    fn call(&self, future: &mut CallFuture, delivery: Delivery<'_>, context: &Context) {
        self(future, delivery, context);
    }
}

/// Reusable storage for the future of a call, so that a call allocates nothing.
pub struct CallFuture(ReusableBoxFuture<'static, Outcome>);

impl CallFuture {
    pub(crate) fn new() -> Self {
        Self(ReusableBoxFuture::new(std::future::pending()))
    }

    /// Stores the future of one call.
    pub fn run(&mut self, call: impl Future<Output = Outcome> + Send + 'static) {
        self.0.set(call);
    }

    /// Drops the future of a call that is not awaited to its end.
    pub(crate) fn clear(&mut self) {
        self.0.set(std::future::pending());
    }

    /// Polls the future, which must not be polled again after it has returned an outcome.
    pub(crate) fn poll(&mut self, task: &mut task::Context<'_>) -> Poll<Outcome> {
        self.0.poll(task)
    }
}

impl fmt::Debug for CallFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CallFuture")
    }
}

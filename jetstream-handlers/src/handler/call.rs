//! Storage for the future of one call.

use std::fmt;
use std::task::Poll;

use tokio_util::sync::ReusableBoxFuture;

use crate::outcome::Outcome;

/// The room in which a handler's future runs, used again for each message so that a call allocates nothing.
pub struct CallFuture(ReusableBoxFuture<'static, Outcome>);

impl CallFuture {
    pub(crate) fn new() -> Self {
        Self(ReusableBoxFuture::new(std::future::pending()))
    }

    /// Puts the future of one call into the slot.
    pub fn run(&mut self, call: impl Future<Output = Outcome> + Send + 'static) {
        self.0.set(call);
    }

    /// Drops the future of a call that will not be awaited to its end.
    pub(crate) fn clear(&mut self) {
        self.0.set(std::future::pending());
    }

    /// Polls the call; after its outcome it is over.
    pub(crate) fn poll(&mut self, task: &mut std::task::Context<'_>) -> Poll<Outcome> {
        self.0.poll(task)
    }
}

impl fmt::Debug for CallFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CallFuture")
    }
}

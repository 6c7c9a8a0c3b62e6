//! The `ack_wait` of a consumer, which can change while its handler runs.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The `ack_wait` of a consumer as it was read last.
#[derive(Debug)]
pub(crate) struct AckWait(AtomicU64);

impl AckWait {
    pub(crate) fn new(wait: Duration) -> Self {
        Self(AtomicU64::new(nanos(wait)))
    }

    pub(crate) fn get(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }

    /// Sets the value that the server has; returns `true` if it is another one.
    pub(crate) fn set(&self, wait: Duration) -> bool {
        self.0.swap(nanos(wait), Ordering::Relaxed) != nanos(wait)
    }
}

fn nanos(wait: Duration) -> u64 {
    u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX)
}

//! What the health of a handler shows of its messages.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::sync::lock;

/// What the health of a handler shows of its messages.
#[derive(Debug)]
pub(crate) struct Activity {
    pending: AtomicU64,
    failure: Mutex<Option<(Instant, String)>>,
}

impl Default for Activity {
    fn default() -> Self {
        Self { pending: AtomicU64::new(0), failure: Mutex::new(None) }
    }
}

impl Activity {
    pub(crate) fn received(&self, pending: u64) {
        self.pending.store(pending, Ordering::Relaxed);
    }

    pub(crate) fn succeeded(&self) {}

    pub(crate) fn failed(&self, error: &str) {
        *lock(&self.failure) = Some((Instant::now(), error.to_owned()));
    }
}

//! The position up to which an ordered handler has acknowledged its stream.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The stream sequence up to which this process has acknowledged an ordered handler's messages.
///
/// The worker, which sends the acks, shares it with its deliveries, which use it to detect missing messages.
#[derive(Debug, Clone, Default)]
pub(crate) struct AckedSequence(Arc<AtomicU64>);

impl AckedSequence {
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn set(&self, sequence: u64) {
        self.0.store(sequence, Ordering::Relaxed);
    }

    /// Resets the sequence to 0, because the consumer was replaced.
    pub(crate) fn reset(&self) {
        self.set(0);
    }
}

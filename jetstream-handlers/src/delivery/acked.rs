//! How far an ordered handler has acknowledged its stream.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The stream sequence up to which this process has sent an ack, shared by the worker, which sends the acks, and its
/// deliveries, which judge by it what is missing.
#[derive(Debug, Clone, Default)]
pub(crate) struct AckedSequence(Arc<AtomicU64>);

impl AckedSequence {
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn set(&self, sequence: u64) {
        self.0.store(sequence, Ordering::Relaxed);
    }

    /// Forgets the acks, which went to a consumer that was replaced.
    pub(crate) fn reset(&self) {
        self.set(0);
    }
}

//! The limits of a batch.

use std::time::Duration;

use crate::plan::Plan;

/// The limits of a batch.
#[derive(Debug, Clone, Copy)]
pub(super) struct BatchLimits {
    pub(super) messages: usize,
    pub(super) bytes: usize,
    /// The time for which it is filled after its first message has arrived.
    pub(super) wait: Duration,
}

impl BatchLimits {
    /// Returns the limits of a handler of batches.
    pub(super) fn of(plan: &Plan) -> Option<Self> {
        let messages = plan.batch?;
        Some(Self { messages, bytes: plan.batch_bytes.unwrap_or(usize::MAX), wait: plan.batch_wait() })
    }
}

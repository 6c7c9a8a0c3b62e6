//! Delays between attempts, with jitter, which prevent busy loops and simultaneous retries of many processes.

use std::time::Duration;

pub(crate) use crate::rules::MAX_DURATION;

/// An exponential backoff: a delay that doubles from `initial` up to `max`, with jitter.
#[derive(Debug, Clone)]
pub(crate) struct ExponentialBackoff {
    initial: Duration,
    max: Duration,
    failures: u32,
}

impl ExponentialBackoff {
    pub(crate) fn new(initial: Duration, max: Duration) -> Self {
        Self { initial, max, failures: 0 }
    }

    /// Returns the delay before the next attempt.
    pub(crate) fn next(&mut self) -> Duration {
        let delay = self.initial.saturating_mul(1 << self.failures.min(20)).min(self.max);
        self.failures = self.failures.saturating_add(1);
        jittered(delay)
    }

    /// Resets the delay to `initial`, after a success.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

/// Returns the duration with ±20 % jitter.
pub(crate) fn jittered(duration: Duration) -> Duration {
    duration.mul_f64(0.8 + 0.4 * fastrand::f64())
}

/// Returns the longest duration that [`jittered`] returns.
pub(crate) fn max_jittered(duration: Duration) -> Duration {
    duration.mul_f64(1.2)
}

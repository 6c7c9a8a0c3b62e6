//! Delays between attempts of ours, so that no loop is hot and no two processes keep step.

use std::time::Duration;

/// The longest of all durations: with it a point in time can still be computed, and the server can still count its nanoseconds.
pub(crate) const MAX_DURATION: Duration = Duration::from_secs(365 * 24 * 3600);

/// A delay that doubles from `first` up to `longest`, with jitter.
#[derive(Debug, Clone)]
pub(crate) struct ExponentialBackoff {
    first: Duration,
    longest: Duration,
    failures: u32,
}

impl ExponentialBackoff {
    pub(crate) fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, failures: 0 }
    }

    /// The delay before the next attempt.
    pub(crate) fn next(&mut self) -> Duration {
        let delay = self.first.saturating_mul(1 << self.failures.min(20)).min(self.longest);
        self.failures = self.failures.saturating_add(1);
        jittered(delay)
    }

    /// Begins anew, after a success.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

/// The duration, up to a fifth shorter or longer.
pub(crate) fn jittered(duration: Duration) -> Duration {
    duration.mul_f64(0.8 + 0.4 * fastrand::f64())
}

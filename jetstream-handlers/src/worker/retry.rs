//! Delays before a message is tried again.

use std::time::Duration;

use super::Worker;
use crate::backoff::{MAX_DURATION, jittered};
use crate::observe::settled::Next;
use crate::outcome::{Outcome, Settle};

/// The longest delay before a dead letter that could not be stored is tried again.
pub(super) const MAX_DEAD_LETTER_DELAY: Duration = Duration::from_secs(600);

/// The longest such delay if an order is kept; it is shorter, because later messages wait too.
const MAX_DEAD_LETTER_DELAY_IN_ORDER: Duration = Duration::from_secs(10);

impl Worker {
    /// Returns the next attempt and the delay before it; `None` if there is no next attempt.
    pub(super) fn next_attempt(&self, attempt: u64, outcome: &Outcome) -> Option<(Duration, Next)> {
        let plan = &self.handler.declaration.plan;
        let delay = match outcome.settle {
            Settle::Ack | Settle::Terminate => return None,
            _ if attempt >= u64::from(plan.max_deliver()) => return None,
            Settle::Retry | Settle::HandBack => jittered(plan.delay_after(attempt).min(MAX_DURATION)),
            Settle::RetryAfter(delay) => delay.min(MAX_DURATION),
        };
        Some((delay, Next::Attempt { number: attempt, max_deliver: plan.max_deliver(), delay }))
    }

    /// Returns the delay before storing the dead letter of a message is tried again.
    ///
    /// It does not follow the handler's `backoff`, which may be short: the stream of dead letters may be full for hours.
    pub(super) fn dead_letter_delay(&self, delivered: u64) -> Duration {
        let failures = delivered.saturating_sub(u64::from(self.handler.declaration.plan.max_deliver())).min(10);
        let delay = jittered(Duration::from_secs(1 << failures).min(MAX_DEAD_LETTER_DELAY));
        if self.binding.keeps_order() { delay.min(MAX_DEAD_LETTER_DELAY_IN_ORDER) } else { delay }
    }
}

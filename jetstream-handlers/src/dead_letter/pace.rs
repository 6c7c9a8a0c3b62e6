//! The rate at which dead letters are replayed or deleted.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::error::{Error, ErrorKind};

/// The time that is caught up after a delay, because timers are not more precise than this; more would be a burst.
const MAX_BEHIND: Duration = Duration::from_millis(5);

/// A limit of the number of dead letters in a second.
pub(super) struct Pace {
    /// The time between two of them; zero without a limit.
    step: Duration,
    next: Instant,
}

impl Pace {
    /// Returns the limit of this many dead letters in a second; `None` is no limit.
    pub(super) fn new(rate: Option<u32>) -> Result<Self, Error> {
        let step = match rate {
            None => Duration::ZERO,
            Some(0) => {
                let text = "`rate` is 0; expected at least 1 dead letter per second";
                return Err(Error::new(ErrorKind::Config, text));
            }
            Some(rate) => Duration::from_secs(1) / rate,
        };
        Ok(Self { step, next: Instant::now() })
    }

    /// Waits until the next dead letter may follow.
    pub(super) async fn next(&mut self) {
        if self.step.is_zero() {
            return;
        }
        sleep_until(self.next).await;
        let now = Instant::now();
        self.next = self.next.max(now.checked_sub(MAX_BEHIND).unwrap_or(now)) + self.step;
    }

    /// Returns the number of dead letters that may be processed at the same time.
    pub(super) fn at_once(&self) -> usize {
        if self.step.is_zero() { 32 } else { 1 }
    }
}

//! The recent activity of a handler, for its health.

use std::sync::Mutex;
#[cfg(feature = "metrics")]
use std::sync::atomic::AtomicBool;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::health::LastError;
use crate::error::printable::{printable, truncate};
use crate::sync::lock;

/// The value of a number that is not known yet.
const UNKNOWN: u64 = u64::MAX;

/// The maximum length of the text of a failure.
const MAX_TEXT: usize = 1000;

/// The recent activity of a handler, which its worker updates for every message, and its health reads.
#[derive(Debug)]
pub(crate) struct Activity {
    begun: Instant,
    /// The number of messages that the consumer had not delivered when the last message was delivered.
    pending: AtomicU64,
    /// The time at which the worker was last found to run, in nanoseconds since the beginning.
    polled: AtomicU64,
    /// The time of the last success.
    ///
    /// Locking costs less than computing a number from it, which an atomic would need.
    succeeded: Mutex<Option<Instant>>,
    failed: Mutex<Option<(Instant, String)>>,
    /// `true` after a delivery.
    #[cfg(feature = "metrics")]
    has_received: AtomicBool,
}

impl Activity {
    pub(crate) fn new() -> Self {
        Self {
            begun: Instant::now(),
            pending: AtomicU64::new(UNKNOWN),
            polled: AtomicU64::new(0),
            succeeded: Mutex::default(),
            failed: Mutex::default(),
            #[cfg(feature = "metrics")]
            has_received: AtomicBool::new(false),
        }
    }

    /// Records a delivery, and the number of messages that were not delivered then.
    pub(crate) fn received(&self, pending: u64) {
        self.pending.store(pending, Ordering::Relaxed);
        #[cfg(feature = "metrics")]
        self.has_received.store(true, Ordering::Relaxed);
    }

    /// Returns `true` if there was a delivery since the last call.
    #[cfg(feature = "metrics")]
    pub(crate) fn take_received(&self) -> bool {
        self.has_received.swap(false, Ordering::Relaxed)
    }

    /// Records that the worker runs, several times in an `ack_wait` while it holds messages.
    pub(crate) fn polled(&self, now: Instant) {
        self.polled.store(self.nanos(now), Ordering::Relaxed);
    }

    /// Records a call that succeeded.
    pub(crate) fn succeeded(&self, now: Instant) {
        let mut last = lock(&self.succeeded);
        // Messages are not settled in the order in which their calls have ended.
        *last = (*last).max(Some(now));
    }

    /// Records a call that failed.
    pub(crate) fn failed(&self, now: Instant, error: &str) {
        let mut text = printable(error).into_owned();
        truncate(&mut text, MAX_TEXT);
        *lock(&self.failed) = Some((now, text));
    }

    pub(crate) fn lag(&self) -> Option<u64> {
        Some(self.pending.load(Ordering::Relaxed)).filter(|pending| *pending != UNKNOWN)
    }

    /// Returns the time at which the worker was last found to run.
    pub(crate) fn last_polled(&self) -> Instant {
        self.begun + Duration::from_nanos(self.polled.load(Ordering::Relaxed))
    }

    pub(crate) fn last_success(&self) -> Option<SystemTime> {
        lock(&self.succeeded).map(wall_time)
    }

    fn nanos(&self, now: Instant) -> u64 {
        u64::try_from(now.duration_since(self.begun).as_nanos()).unwrap_or(UNKNOWN)
    }

    pub(crate) fn last_failure(&self) -> Option<LastError> {
        let failed = lock(&self.failed);
        failed.as_ref().map(|(at, error)| LastError { at: wall_time(*at), error: error.clone() })
    }
}

/// Returns the time of the wall clock at an instant in the past.
fn wall_time(at: Instant) -> SystemTime {
    SystemTime::now().checked_sub(at.elapsed()).unwrap_or(SystemTime::UNIX_EPOCH)
}

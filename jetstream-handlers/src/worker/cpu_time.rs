//! The CPU time of the current thread.

use std::cell::Cell;
use std::time::Duration;

use tokio::time::Instant;

/// The maximum age of a sample when a poll begins.
const MAX_AGE: Duration = Duration::from_millis(20);

thread_local! {
    /// The CPU time of the thread at an earlier time.
    static SAMPLE: Cell<Option<Duration>> = const { Cell::new(None) };
    /// The time until which the sample is recent.
    static RECENT_UNTIL: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Samples the CPU time of the thread before a poll that begins now, unless it was sampled shortly before: reading it
/// is a system call.
pub(super) fn sample(now: Instant) {
    // A comparison, because this runs for every message and a subtraction costs more.
    if RECENT_UNTIL.get().is_none_or(|until| now >= until) {
        SAMPLE.set(read());
        RECENT_UNTIL.set(Some(now + MAX_AGE));
    }
}

/// Returns the CPU time of the thread since the last sample, which exceeds that of the poll by at most 20 ms; `None` on
/// a platform that does not measure it.
pub(super) fn since_sample() -> Option<Duration> {
    Some(read()?.saturating_sub(SAMPLE.get()?))
}

#[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
fn read() -> Option<Duration> {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Some(Duration::new(time.tv_sec.try_into().ok()?, time.tv_nsec.try_into().ok()?))
}

#[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
fn read() -> Option<Duration> {
    None
}

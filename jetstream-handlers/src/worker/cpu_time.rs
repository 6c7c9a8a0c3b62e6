//! The CPU time of the current thread, and the time for which it waited for a CPU.

use std::cell::Cell;
use std::time::Duration;

use tokio::time::Instant;

use super::lost_time;

/// The maximum age of a sample when a poll begins.
const MAX_AGE: Duration = Duration::from_millis(20);

thread_local! {
    /// The CPU time of the thread at an earlier time.
    static SAMPLE: Cell<Option<Duration>> = const { Cell::new(None) };
    /// The time for which the thread had waited for a CPU then.
    static DELAY_SAMPLE: Cell<Option<Duration>> = const { Cell::new(None) };
    /// The time until which the sample is recent.
    static RECENT_UNTIL: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Samples the CPU time of the thread before a poll that begins now, unless it was sampled shortly before: reading it
/// is a system call.
pub(super) fn sample(now: Instant) {
    // A comparison, because this runs for every message and a subtraction costs more.
    if RECENT_UNTIL.get().is_none_or(|until| now >= until) {
        SAMPLE.set(read());
        // Reading it takes a few microseconds.
        DELAY_SAMPLE.set(if lost_time::is_watching() { read_delay() } else { None });
        RECENT_UNTIL.set(Some(now + MAX_AGE));
    }
}

/// Returns the CPU time of the thread since the last sample, which exceeds that of the poll by at most 20 ms; `None` on
/// a platform that does not measure it.
pub(super) fn since_sample() -> Option<Duration> {
    Some(read()?.saturating_sub(SAMPLE.get()?))
}

/// Returns the time for which the thread has waited for a CPU since the last sample; zero if it is not measured.
pub(super) fn delay_since_sample() -> Duration {
    let before = DELAY_SAMPLE.get();
    before.and_then(|before| read_delay()?.checked_sub(before)).unwrap_or_default()
}

/// Reads the time that the thread was runnable and did not run, the second number in the file.
#[cfg(target_os = "linux")]
fn read_delay() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    text.split(' ').nth(1)?.parse().ok().map(Duration::from_nanos)
}

#[cfg(not(target_os = "linux"))]
fn read_delay() -> Option<Duration> {
    None
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

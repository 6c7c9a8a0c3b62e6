//! The times at which this process did not run, by which a handler that blocks its thread is told from one whose process
//! was stopped or throttled.
//!
//! No clock shows them afterwards. A thread that does nothing but sleep notices that it wakes too late; it runs only for
//! a while after a poll took suspiciously long.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::sync::lock;

/// The interval at which the thread wakes.
const TICK: Duration = Duration::from_millis(20);

/// The time for which the thread runs after a suspicious poll, and the longest, after one that took long itself.
const MIN_WATCH: Duration = Duration::from_secs(60);
const MAX_WATCH: Duration = Duration::from_secs(3600);

/// The maximum number of gaps that are kept.
const MAX_GAPS: usize = 1024;

/// The watch of this process; `None` while no thread runs.
static WATCH: Mutex<Option<Watch>> = Mutex::new(None);

/// `true` while a thread runs; read before every poll that is measured.
static IS_WATCHING: AtomicBool = AtomicBool::new(false);

/// The observations of the thread.
#[derive(Debug)]
struct Watch {
    since: Instant,
    /// The time at which the thread was awake last.
    awake_at: Instant,
    until: Instant,
    /// The times at which the thread should have been awake, from the oldest.
    gaps: VecDeque<(Instant, Instant)>,
}

/// Returns `true` while the process is watched.
pub(super) fn is_watching() -> bool {
    IS_WATCHING.load(Ordering::Relaxed)
}

/// Returns the time between `begun` and `now` at which this process did not run; `None` if it was not watched, which it
/// is from now on.
pub(super) fn since(begun: Instant, now: Instant) -> Option<Duration> {
    let mut watch = lock(&WATCH);
    let until = now + (now.saturating_duration_since(begun) * 4).clamp(MIN_WATCH, MAX_WATCH);
    if let Some(watch) = &mut *watch {
        watch.until = watch.until.max(until);
        return watch.lost(begun, now);
    }
    let thread = std::thread::Builder::new().name("jetstream-handlers-watch".to_owned());
    // Without a thread, no handler is suspected.
    if thread.spawn(run).is_ok() {
        *watch = Some(Watch::new(now, until));
        IS_WATCHING.store(true, Ordering::Relaxed);
    }
    None
}

fn run() {
    loop {
        std::thread::sleep(TICK);
        let mut watch = lock(&WATCH);
        let is_over = watch.as_mut().is_none_or(|watch| watch.tick(Instant::now()));
        if is_over {
            *watch = None;
            IS_WATCHING.store(false, Ordering::Relaxed);
            return;
        }
    }
}

impl Watch {
    fn new(now: Instant, until: Instant) -> Self {
        Self { since: now, awake_at: now, until, gaps: VecDeque::new() }
    }

    /// Observes that the thread is awake; returns `true` if it has run for long enough.
    fn tick(&mut self, now: Instant) -> bool {
        if let Some(gap) = self.gap(now) {
            if self.gaps.len() == MAX_GAPS {
                self.gaps.pop_front();
            }
            self.gaps.push_back(gap);
        }
        self.awake_at = now;
        now >= self.until
    }

    /// Returns the time up to `now` at which the thread should have been awake, if it was late.
    fn gap(&self, now: Instant) -> Option<(Instant, Instant)> {
        let due = self.awake_at + TICK;
        (now > due + TICK).then_some((due, now))
    }

    fn lost(&self, begun: Instant, now: Instant) -> Option<Duration> {
        if begun < self.since {
            return None;
        }
        // After a stop, the thread that asks may run before this one.
        let gaps = self.gaps.iter().copied().chain(self.gap(now));
        Some(gaps.map(|(from, to)| to.min(now).saturating_duration_since(from.max(begun))).sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn time_in_which_the_thread_was_late_is_lost() {
        let begun = Instant::now();
        let mut watch = Watch::new(begun, begun + 60 * SECOND);
        for tick in 1..=50 {
            assert!(!watch.tick(begun + TICK * tick));
        }
        assert_eq!(watch.lost(begun, begun + SECOND), Some(Duration::ZERO));
        // Stopped for a second; the thread of the handler asks first.
        assert_eq!(watch.lost(begun, begun + 2 * SECOND), Some(SECOND - TICK));
        watch.tick(begun + 2 * SECOND);
        watch.tick(begun + 2 * SECOND + TICK);
        assert_eq!(watch.lost(begun, begun + 2 * SECOND + TICK), Some(SECOND - TICK));
        assert_eq!(watch.lost(begun + SECOND + SECOND / 2, begun + 2 * SECOND), Some(SECOND / 2), "a part of it");
        assert_eq!(watch.lost(begun + 2 * SECOND, begun + 2 * SECOND + TICK), Some(Duration::ZERO));
        let earlier = begun.checked_sub(Duration::from_millis(1)).unwrap();
        assert_eq!(watch.lost(earlier, begun + SECOND), None, "not watched at its beginning");
        assert!(watch.tick(begun + 60 * SECOND));
    }
}

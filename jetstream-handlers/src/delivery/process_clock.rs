//! The times at which this process did not run.

use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime};

use crate::sync::lock;

/// The gap between two observations from which the process is taken to have been stopped.
const MAX_GAP: Duration = Duration::from_millis(300);

/// The time by which the wall clock must run ahead for the machine to have been suspended; adjustments are smaller.
const MIN_SUSPENDED: Duration = Duration::from_secs(1);

/// The time after a gap during which arrivals may be old, if the server does not show before that they are not.
const MAX_BEHIND: Duration = Duration::from_secs(5);

/// Detects that the process did not run for a while: it was stopped, throttled, or its machine was suspended.
///
/// It is observed several times a second. What arrives after a gap may have been sent at any time since the last
/// observation, until the server has answered a request made after the gap.
#[derive(Debug)]
pub(crate) struct ProcessClock(Mutex<State>);

#[derive(Debug)]
struct State {
    observed: Observation,
    /// The time that the machine was suspended, in which the monotonic clock stood still.
    suspended: Duration,
    gaps: u64,
    behind: Option<Behind>,
}

#[derive(Debug, Clone, Copy)]
struct Observation {
    monotonic: Instant,
    wall: SystemTime,
}

/// The time after a gap.
#[derive(Debug, Clone, Copy)]
struct Behind {
    sent_since: Instant,
    until: Instant,
}

/// The result of an observation about arrivals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Observed {
    /// The time since which arrivals may have been on their way; `None` if they have just been sent.
    pub(crate) sent_since: Option<Instant>,
    /// The total time that the machine was suspended, which the monotonic clock lacks.
    pub(crate) suspended: Duration,
    /// The number of gaps so far.
    pub(crate) gaps: u64,
}

impl ProcessClock {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(State::new(Observation::now())))
    }

    /// Observes both clocks.
    pub(crate) fn observe(&self) -> Observed {
        lock(&self.0).observe(Observation::now())
    }

    /// Ends the time in which arrivals may be old, because the server has answered a request that was made after this
    /// number of gaps; does nothing if there was another gap since.
    pub(crate) fn caught_up(&self, gaps: u64) {
        lock(&self.0).caught_up(gaps, Observation::now());
    }
}

impl Observation {
    fn now() -> Self {
        Self { monotonic: Instant::now(), wall: SystemTime::now() }
    }
}

impl State {
    fn new(now: Observation) -> Self {
        Self { observed: now, suspended: Duration::ZERO, gaps: 0, behind: None }
    }

    fn observe(&mut self, now: Observation) -> Observed {
        let before = std::mem::replace(&mut self.observed, now);
        let ran = now.monotonic.saturating_duration_since(before.monotonic);
        // A clock that was set back shows nothing.
        let passed = now.wall.duration_since(before.wall).unwrap_or_default();
        let mut suspended = passed.saturating_sub(ran);
        if suspended < MIN_SUSPENDED {
            suspended = Duration::ZERO;
        }
        self.suspended += suspended;
        if self.behind.is_some_and(|behind| behind.until < before.monotonic) {
            self.behind = None;
        }
        if ran + suspended > MAX_GAP {
            self.gaps += 1;
            let sent_since = self.behind.map_or(before.monotonic, |behind| behind.sent_since);
            let sent_since = sent_since.checked_sub(suspended).unwrap_or(sent_since);
            self.behind = Some(Behind { sent_since, until: now.monotonic + MAX_BEHIND });
        }
        let sent_since = self.behind.filter(|behind| now.monotonic < behind.until).map(|behind| behind.sent_since);
        Observed { sent_since, suspended: self.suspended, gaps: self.gaps }
    }

    fn caught_up(&mut self, gaps: u64, now: Observation) {
        if self.observe(now).gaps == gaps {
            self.behind = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// A clock, and what both clocks show.
    struct Test {
        state: State,
        now: Observation,
    }

    impl Test {
        fn new() -> Self {
            let now = Observation::now();
            Self { state: State::new(now), now }
        }

        /// Observes after these times on the monotonic and the wall clock.
        fn after(&mut self, monotonic: Duration, wall: Duration) -> Observed {
            self.now.monotonic += monotonic;
            self.now.wall += wall;
            self.state.observe(self.now)
        }
    }

    #[test]
    fn arrivals_after_a_stop_may_be_as_old_as_the_stop() {
        let mut test = Test::new();
        let begun = test.now.monotonic;
        assert_eq!(test.after(SECOND / 4, SECOND / 4).sent_since, None);
        let observed = test.after(7 * SECOND, 7 * SECOND);
        assert_eq!((observed.sent_since, observed.suspended), (Some(begun + SECOND / 4), Duration::ZERO));
        assert_eq!(test.after(SECOND / 10, SECOND / 10).sent_since, Some(begun + SECOND / 4));
        test.state.caught_up(observed.gaps, test.now);
        assert_eq!(test.after(SECOND / 10, SECOND / 10).sent_since, None);
    }

    #[test]
    fn suspended_machine_is_seen_by_the_wall_clock() {
        let mut test = Test::new();
        let begun = test.now.monotonic;
        let observed = test.after(SECOND / 10, 60 * SECOND);
        let suspended = 60 * SECOND - SECOND / 10;
        assert_eq!((observed.sent_since, observed.suspended), (begun.checked_sub(suspended), suspended));
        // A clock that is set back, and one that is adjusted a little.
        test.now.wall -= 3600 * SECOND;
        assert_eq!(test.after(SECOND / 10, SECOND / 2).suspended, suspended);
    }

    #[test]
    fn second_stop_keeps_arrivals_old() {
        let mut test = Test::new();
        let begun = test.now.monotonic;
        let first = test.after(7 * SECOND, 7 * SECOND);
        test.after(4 * SECOND, 4 * SECOND);
        test.state.caught_up(first.gaps, test.now);
        assert_eq!(test.after(SECOND / 4, SECOND / 4).sent_since, Some(begun));
        // Without an answer of the server it ends after a while.
        for _ in 0..24 {
            test.after(SECOND / 4, SECOND / 4);
        }
        assert_eq!(test.after(SECOND / 4, SECOND / 4).sent_since, None);
    }
}

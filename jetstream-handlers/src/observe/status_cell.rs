//! The status of a worker, which its health shows.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::health::Status;
use crate::sync::lock;

/// A condition that makes a running handler degraded; it has at most one of each kind at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Condition {
    /// Dead letters cannot be stored.
    DeadLetters,
    /// The server denies the acks of the handler.
    DeniedAcks,
    /// The consumer is paused.
    Paused,
    /// The consumer delivers messages that only another version of the program handles.
    Uncovered,
    /// The server does not copy the messages of a derived stream.
    NotCopied,
}

/// The status of a worker, shared with the broker.
#[derive(Debug, Clone)]
pub(crate) struct StatusCell(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    /// The status without the conditions.
    status: Status,
    conditions: BTreeMap<Condition, Reported>,
    quarantined: u64,
}

/// A condition as it was reported last.
#[derive(Debug)]
struct Reported {
    reason: String,
    since: Instant,
    /// The time after which it is no longer known to exist.
    until: Option<Instant>,
}

impl StatusCell {
    pub(crate) fn new() -> Self {
        let state = State { status: Status::Running, conditions: BTreeMap::new(), quarantined: 0 };
        Self(Arc::new(Mutex::new(state)))
    }

    /// Returns the status, which is degraded if the handler runs under a condition.
    pub(crate) fn get(&self) -> Status {
        let mut state = self.state();
        let now = Instant::now();
        state.conditions.retain(|_, known| known.until.is_none_or(|until| now < until));
        let since = state.conditions.values().map(|known| known.since).min();
        match (&state.status, since) {
            (Status::Running, Some(since)) => {
                let reasons: Vec<_> = state.conditions.values().map(|known| &*known.reason).collect();
                Status::Degraded { reason: reasons.join("; "), since }
            }
            (status, _) => status.clone(),
        }
    }

    pub(crate) fn running(&self) {
        self.set(Status::Running);
    }

    /// Sets the status to recovering; if it already is, replaces the reason and keeps the time of the first problem.
    pub(crate) fn recovering(&self, reason: String) {
        let mut state = self.state();
        let since = match state.status {
            Status::Recovering { since, .. } => since,
            _ => Instant::now(),
        };
        state.status = Status::Recovering { reason, since };
    }

    /// Reports a condition, which lasts until it ends, or for this time without another report; `None` is without a
    /// limit.
    pub(crate) fn report(&self, condition: Condition, reason: String, lasts: Option<Duration>) {
        let now = Instant::now();
        let mut state = self.state();
        let since = state.conditions.get(&condition).map_or(now, |known| known.since);
        let until = lasts.and_then(|lasts| now.checked_add(lasts));
        state.conditions.insert(condition, Reported { reason, since, until });
    }

    /// Removes a condition; returns the time that it has lasted if it was reported.
    pub(crate) fn condition_ended(&self, condition: Condition) -> Option<Duration> {
        self.state().conditions.remove(&condition).map(|known| known.since.elapsed())
    }

    /// Counts a message that cannot be read.
    pub(crate) fn quarantined(&self) {
        self.state().quarantined += 1;
    }

    /// Returns `true` if the handler runs under a condition.
    pub(crate) fn has(&self, condition: Condition) -> bool {
        let state = self.state();
        let known = state.conditions.get(&condition);
        known.is_some_and(|known| known.until.is_none_or(|until| Instant::now() < until))
    }

    /// Returns the number of messages that cannot be read.
    pub(crate) fn count_quarantined(&self) -> u64 {
        self.state().quarantined
    }

    /// Returns a guard that reports the end of a worker that was not stopped, when it panics or its runtime ends.
    pub(crate) fn ended_on_drop(&self) -> EndedOnDrop {
        EndedOnDrop(self.clone())
    }

    pub(crate) fn stopping(&self) {
        self.set(Status::Stopping);
    }

    pub(crate) fn stopped(&self) {
        self.set(Status::Stopped);
    }

    fn set(&self, status: Status) {
        self.state().status = status;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.0)
    }
}

/// A guard that sets the status of a worker when its task ends.
#[derive(Debug)]
pub(crate) struct EndedOnDrop(StatusCell);

impl Drop for EndedOnDrop {
    fn drop(&mut self) {
        if self.0.state().status == Status::Stopped {
            return;
        }
        let reason = if std::thread::panicking() {
            "its worker panicked, which is a bug in this crate"
        } else {
            "the runtime on which it ran was shut down"
        };
        self.0.set(Status::Failed { reason: reason.to_owned() });
    }
}

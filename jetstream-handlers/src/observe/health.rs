//! The health of a broker and its handlers.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::sync::lock;

/// The time after which a handler without a free slot is described as busy.
const MIN_BUSY: Duration = Duration::from_secs(10);

/// The status of a handler.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Status {
    /// The handler receives messages.
    Running,
    /// The handler runs, but something in it does not work that a person must mend: its dead letters cannot be stored,
    /// all its slots are taken by calls that do not end, its acks are denied, or its consumer is paused.
    Degraded {
        /// The problems, as human-readable text.
        reason: String,
        /// The time of the first problem.
        since: Instant,
    },
    /// The handler receives no messages, and retries until it does.
    Recovering {
        /// The problem, as human-readable text.
        reason: String,
        /// The time at which the handler stopped receiving messages.
        since: Instant,
    },
    /// The handler accepts no more messages, and finishes those in flight.
    Stopping,
    /// The handler has stopped.
    Stopped,
    /// The handler has ended although nobody stopped it.
    Failed {
        /// The cause, as human-readable text.
        reason: String,
    },
}

/// The health of one handler.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct HandlerHealth {
    /// The full name of the handler.
    pub handler: String,
    /// The status of the handler.
    pub status: Status,
    /// The time since which all slots of the handler have been busy with the calls that run now; `None` if one is free.
    ///
    /// A handler whose calls take minutes is busy for minutes, so this alone is no problem until the calls exceed the
    /// handler's `timeout`, which [`Status::Degraded`] reports.
    pub busy_since: Option<Instant>,
    /// The number of messages that could not be given to the handler since it started, because they cannot be read.
    pub quarantined: u64,
}

/// The health of a broker, for a readiness probe.
///
/// It is the state last reported by the server, and reflects a failure within a few seconds.
/// A consumer that has no leader although the server answers is noticed within the
/// [`fetch_wait`](crate::Builder::fetch_wait).
///
/// # Examples
///
/// ```no_run
/// # async fn probe(broker: jetstream_handlers::Broker) -> (u16, String) {
/// let health = broker.health();
/// (if health.is_healthy() { 200 } else { 503 }, health.to_string())
/// # }
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Health {
    /// `true` if a server is connected.
    pub connected: bool,
    /// The started handlers that [`Running::shutdown`](crate::Running::shutdown) has not stopped.
    pub handlers: Vec<HandlerHealth>,
}

impl Health {
    /// Returns `true` if a server is connected and all handlers are [`Running`](Status::Running).
    pub fn is_healthy(&self) -> bool {
        self.connected && self.handlers.iter().all(|handler| handler.status == Status::Running)
    }
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.connected { "connected" } else { "not connected" })?;
        for HandlerHealth { handler, status, busy_since, quarantined } in &self.handlers {
            write!(f, "\n{handler}: ")?;
            match status {
                Status::Running => f.write_str("running")?,
                Status::Degraded { reason, since } => write!(f, "degraded for {:.0?}: {reason}", since.elapsed())?,
                Status::Recovering { reason, since } => write!(f, "recovering for {:.0?}: {reason}", since.elapsed())?,
                Status::Stopping => f.write_str("stopping")?,
                Status::Stopped => f.write_str("stopped")?,
                Status::Failed { reason } => write!(f, "failed: {reason}")?,
            }
            if let Some(since) = busy_since.filter(|since| since.elapsed() >= MIN_BUSY) {
                write!(f, ", no free slot for {:.0?}", since.elapsed())?;
            }
            if *quarantined > 0 {
                write!(f, ", {quarantined} unreadable messages set aside")?;
            }
        }
        Ok(())
    }
}

/// A condition that makes a running handler degraded; it has at most one of each kind at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Condition {
    /// Dead letters cannot be stored.
    DeadLetters,
    /// The server denies the acks of the handler.
    DeniedAcks,
    /// The consumer is paused.
    Paused,
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

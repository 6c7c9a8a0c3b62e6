//! The health of a broker and its handlers.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use crate::sync::lock;

/// The status of a handler.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Status {
    /// The handler receives messages.
    Running,
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
}

/// The health of one handler.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct HandlerHealth {
    /// The full name of the handler.
    pub handler: String,
    /// The status of the handler.
    pub status: Status,
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
        for HandlerHealth { handler, status } in &self.handlers {
            match status {
                Status::Running => write!(f, "\n{handler}: running")?,
                Status::Recovering { reason, since } => {
                    write!(f, "\n{handler}: recovering for {:.0?}: {reason}", since.elapsed())?;
                }
                Status::Stopping => write!(f, "\n{handler}: stopping")?,
                Status::Stopped => write!(f, "\n{handler}: stopped")?,
            }
        }
        Ok(())
    }
}

/// The status of a worker, shared with the broker.
#[derive(Debug, Clone)]
pub(crate) struct StatusCell(Arc<Mutex<Status>>);

impl StatusCell {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(Status::Running)))
    }

    pub(crate) fn get(&self) -> Status {
        lock(&self.0).clone()
    }

    pub(crate) fn running(&self) {
        self.set(Status::Running);
    }

    /// Sets the status to recovering; if it already is, replaces the reason and keeps the time of the first problem.
    pub(crate) fn recovering(&self, reason: String) {
        let since = match self.get() {
            Status::Recovering { since, .. } => since,
            _ => Instant::now(),
        };
        self.set(Status::Recovering { reason, since });
    }

    /// Returns a guard that sets the status to stopped, also when the worker panics.
    pub(crate) fn stopped_on_drop(&self) -> StoppedOnDrop {
        StoppedOnDrop(self.clone())
    }

    pub(crate) fn stopping(&self) {
        self.set(Status::Stopping);
    }

    pub(crate) fn stopped(&self) {
        self.set(Status::Stopped);
    }

    fn set(&self, status: Status) {
        *lock(&self.0) = status;
    }
}

/// A guard that sets the status of a worker to stopped when it is dropped.
#[derive(Debug)]
pub(crate) struct StoppedOnDrop(StatusCell);

impl Drop for StoppedOnDrop {
    fn drop(&mut self) {
        self.0.stopped();
    }
}

//! What is true of the handlers at this moment.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use crate::sync::lock;

/// What a handler is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Status {
    /// It takes messages.
    Running,
    /// It gets no messages for this reason, and works on it by itself.
    #[allow(missing_docs)]
    Recovering { reason: String, since: Instant },
    /// It takes no more messages, and waits for those that it has in hand.
    Stopping,
    /// It was stopped, and takes no more messages.
    Stopped,
}

/// The health of one handler.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct HandlerHealth {
    /// The full name of the handler.
    pub handler: String,
    /// What it is doing.
    pub status: Status,
}

/// The health of a broker: what a readiness probe asks for.
///
/// It is what the server has said last, so it turns red within a few seconds of a failure;
/// a handler whose consumer has nobody to serve it, on a server that answers, notices within the `fetch_wait`.
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
    /// Whether a server is connected.
    pub connected: bool,
    /// Every handler that was started, until [`Running::shutdown`](crate::Running::shutdown) has stopped it.
    pub handlers: Vec<HandlerHealth>,
}

impl Health {
    /// Whether a server is connected and no handler is recovering or stopped.
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

/// Where a worker says how it is.
#[derive(Debug, Clone)]
pub(crate) struct StatusCell(Arc<Mutex<Status>>);

impl StatusCell {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(Status::Running)))
    }

    pub(crate) fn status(&self) -> Status {
        lock(&self.0).clone()
    }

    pub(crate) fn running(&self) {
        self.set(Status::Running);
    }

    /// The time of the first failure stays while the reasons change.
    pub(crate) fn recovering(&self, reason: String) {
        let since = match self.status() {
            Status::Recovering { since, .. } => since,
            _ => Instant::now(),
        };
        self.set(Status::Recovering { reason, since });
    }

    /// Says that the worker has stopped, however it ends.
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

/// Sets the health of a worker to stopped when it is dropped.
#[derive(Debug)]
pub(crate) struct StoppedOnDrop(StatusCell);

impl Drop for StoppedOnDrop {
    fn drop(&mut self) {
        self.0.stopped();
    }
}

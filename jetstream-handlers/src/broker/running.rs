//! Handlers that were started together, and their stop.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::{join_all, select_all};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::Broker;
use crate::delivery::Binding;
use crate::error::problem::Problem;
use crate::error::{Error, ErrorKind};
use crate::handler::Handler;
use crate::observe::health::StatusCell;
use crate::sync::lock;
use crate::worker::Delayed;

/// What a worker may take beyond the grace period: handing back, and the server's word on the last acks.
const STOP_MARGIN: Duration = Duration::from_secs(15);

/// One handler that was started.
pub(super) struct WorkerHandle {
    pub(super) handler: Arc<Handler>,
    pub(super) source: Arc<Binding>,
    pub(super) delayed: Arc<Delayed>,
    pub(super) beat: StatusCell,
    pub(super) grace: Duration,
    pub(super) stop: CancellationToken,
    pub(super) ended: CancellationToken,
    pub(super) task: Mutex<Option<JoinHandle<Result<(), Error>>>>,
}

impl WorkerHandle {
    /// Whether it runs this function; two closures at one place are two handlers that somebody wants.
    pub(super) fn runs(&self, handler: &Handler) -> bool {
        !handler.declaration.is_closure && !self.ended.is_cancelled() && self.handler.is(handler)
    }

    /// Stops the handler, and gives its result to the first who asks.
    async fn stop(&self) -> Result<(), Error> {
        self.stop.cancel();
        let task = lock(&self.task).take();
        match task {
            // A worker ends by itself soon after the grace period; one whose handler never yields cannot.
            Some(task) => match timeout(self.grace + STOP_MARGIN, task).await {
                Ok(Ok(result)) => result,
                Err(_) => Err(Error::of(vec![Problem::NeverYields { handler: self.handler.declaration.name.clone() }])),
                Ok(Err(error)) => Err(Error::new(
                    ErrorKind::Server,
                    format!("the worker of `{}` ended with a defect of ours", self.handler.declaration.name),
                )
                .with_source(error)),
            },
            None => {
                self.ended.cancelled().await;
                Ok(())
            }
        }
    }
}

/// Stops all at once, so that they share the grace period.
pub(super) async fn stop_all(workers: &[Arc<WorkerHandle>]) -> Result<(), Error> {
    for worker in workers {
        worker.stop.cancel();
    }
    let results = join_all(workers.iter().map(|worker| worker.stop())).await;
    Error::joined(results.into_iter().filter_map(Result::err).collect())
}

/// Handlers that were started together.
///
/// Dropping it leaves them running; [`shutdown`](Running::shutdown) or [`Broker::disconnect`] stops them.
#[must_use = "the handlers run on without it; call `shutdown` to stop them"]
pub struct Running {
    pub(super) broker: Broker,
    pub(super) workers: Vec<Arc<WorkerHandle>>,
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.workers.iter().map(|worker| &worker.handler.declaration.name)).finish()
    }
}

impl Running {
    /// Stops these handlers gracefully: nothing more is asked for, what has not started is handed back,
    /// what runs is awaited up to the grace period, and the server has every ack when this returns.
    ///
    /// While no server is connected nobody can say that, and it returns without: the log warns, and what the server
    /// has no ack of comes again.
    /// The connection stays, and can publish; [`Broker::disconnect`] closes it.
    ///
    /// # Errors
    ///
    /// Handlers that did not end within the grace period; they were cancelled and their messages handed back.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the stop to go on by itself, without anyone to hear its result.
    pub async fn shutdown(self) -> Result<(), Error> {
        let result = stop_all(&self.workers).await;
        self.broker.forget(&self.workers);
        result
    }

    /// Whether every message of these handlers is answered, but for those that wait for their next attempt.
    pub(crate) async fn is_settled(&self) -> bool {
        for worker in &self.workers {
            let unanswered = self.broker.transport().unanswered(&worker.source).await;
            if !unanswered.is_ok_and(|count| count <= worker.delayed.count() as u64) {
                return false;
            }
        }
        true
    }

    /// Returns when any of the handlers has ended.
    pub(super) async fn ended(&self) {
        select_all(self.workers.iter().map(|worker| Box::pin(worker.ended.cancelled()))).await;
    }
}

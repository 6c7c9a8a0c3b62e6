//! Handlers that were started together, and their graceful stop.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::{join_all, select_all};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::Broker;
use crate::delivery::Binding;
use crate::error::problem::Problem;
use crate::error::{Error, ErrorKind};
use crate::handler::Handler;
use crate::observe::health::{HandlerHealth, Status};
use crate::observe::observer::Observer;
use crate::observe::status_cell::{Condition, StatusCell};
use crate::provision::next_uncopied;
use crate::sync::lock;
use crate::transport::Transport;
use crate::worker::{Buffered, Busy, Delayed, Handling, Slots};

/// The maximum time that a worker may take beyond the grace period, to hand messages back and to have the last acks
/// confirmed.
const STOP_MARGIN: Duration = Duration::from_secs(15);

/// The disconnect from all servers.
pub(super) struct Disconnect {
    since: std::time::Instant,
    /// The error because of which no server is connected, if one is known.
    pub(super) error: Option<String>,
}

impl Disconnect {
    /// Returns the disconnect if no server is connected.
    pub(super) fn of(transport: &Transport) -> Option<Self> {
        let since = transport.lost_since()?;
        let error = match transport.is_abandoned() {
            true => Some("the runtime on which the broker has connected was shut down".to_owned()),
            false => transport.connect_error(),
        };
        Some(Self { since, error })
    }
}

impl fmt::Display for Disconnect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not connected")?;
        self.error.as_ref().map_or(Ok(()), |error| write!(f, ": {error}"))
    }
}

/// Calls that keep a handler from all other messages.
struct Stuck {
    reason: String,
    since: Instant,
}

/// The worker of one handler that was started.
pub(super) struct WorkerHandle {
    pub(super) handler: Arc<Handler>,
    pub(super) binding: Arc<Binding>,
    pub(super) delayed: Arc<Delayed>,
    pub(super) status: StatusCell,
    pub(super) observer: Arc<Observer>,
    pub(super) slots: Arc<Slots>,
    pub(super) buffered: Buffered,
    pub(super) grace: Duration,
    pub(super) stop: CancellationToken,
    pub(super) ended: CancellationToken,
    pub(super) task: Mutex<Option<JoinHandle<Result<(), Error>>>>,
    /// `true` if no caller waits for the handler, so that the broker removes it when it has ended.
    pub(super) abandoned: AtomicBool,
}

impl WorkerHandle {
    /// Returns `true` if the broker must still know the handler.
    pub(super) fn is_known(&self) -> bool {
        !(self.abandoned.load(Ordering::Relaxed) && self.ended.is_cancelled())
    }

    /// Returns `true` if this is the only worker of the handler, or that of its first partition.
    pub(super) fn is_first(&self) -> bool {
        self.handler.declaration.is_first()
    }

    /// Returns the health of the handler.
    pub(super) fn health(&self, disconnect: Option<&Disconnect>) -> HandlerHealth {
        let plan = &self.handler.declaration.plan;
        let busy = self.slots.busy();
        let handling = self.slots.handling();
        let status = match self.status.get() {
            // A worker whose thread is blocked learns of the stop later.
            Status::Running | Status::Degraded { .. } if self.stop.is_cancelled() => Status::Stopping,
            status => status,
        };
        // A call that a stop has cancelled leaves its slot taken.
        let is_stopping = matches!(status, Status::Stopping | Status::Stopped);
        let stuck = if is_stopping { None } else { self.stuck(busy, handling, disconnect) };
        let status = match (status, disconnect, &stuck) {
            // An idle handler notices a lost connection late.
            (Status::Running | Status::Degraded { .. }, Some(disconnect), _) => {
                Status::Recovering { reason: disconnect.to_string(), since: disconnect.since }
            }
            (Status::Recovering { since, .. }, Some(disconnect @ Disconnect { error: Some(_), .. }), _) => {
                Status::Recovering { reason: disconnect.to_string(), since }
            }
            (Status::Running, None, Some(stuck)) => {
                Status::Degraded { reason: stuck.reason.clone(), since: stuck.since.into_std() }
            }
            (Status::Degraded { reason, since }, None, Some(stuck)) => {
                Status::Degraded { reason: format!("{reason}; {}", stuck.reason), since }
            }
            // It cannot notice that it would receive messages again.
            (Status::Recovering { since, .. }, None, Some(stuck)) => {
                Status::Recovering { reason: stuck.reason.clone(), since }
            }
            (status, ..) => status,
        };
        HandlerHealth {
            handler: self.handler.declaration.name.clone(),
            stream: self.binding.stream.clone(),
            queue: self.binding.consumer.clone(),
            partition: self.binding.partition.as_ref().map(|partition| partition.number),
            active: self.binding.partition.as_ref().map(|partition| partition.is_active()),
            status,
            paused: self.status.has(Condition::Paused),
            lag: self.observer.activity.lag(),
            concurrency: plan.concurrency(),
            in_flight: handling.count,
            oldest_in_flight: handling.oldest.map(Instant::into_std),
            buffered: self.buffered.count(),
            delayed: self.delayed.count(),
            busy_since: busy.map(|busy| busy.since.into_std()),
            quarantined: self.status.count_quarantined(),
            last_success: self.observer.activity.last_success(),
            last_failure: self.observer.activity.last_failure(),
            stuck_since: stuck.map(|stuck| stuck.since.into_std()),
        }
    }

    /// Returns the calls that keep the handler from all other messages although they should have ended or yielded.
    fn stuck(&self, busy: Option<Busy>, handling: Handling, disconnect: Option<&Disconnect>) -> Option<Stuck> {
        let (count, limit) = (self.slots.max(), self.handler.declaration.plan.timeout());
        if let Some(busy) = busy.filter(|busy| busy.late) {
            let reason = format!(
                "all {count} slots are taken by calls that still run after their timeout of {limit:?}, because they block and cannot be cancelled"
            );
            return Some(Stuck { reason, since: busy.since });
        }
        // Without a server, signals may wait for the connection.
        if disconnect.is_some() {
            return None;
        }
        let reason = "the handler blocks its runtime thread, so that its messages are redelivered after their ack_wait; set `blocking = true` in its attribute";
        // One call blocks all others, also if slots are free. While no server was connected, no signals were sent.
        let since = handling.signalled?.max(self.observer.activity.last_polled());
        let is_blocked = since.elapsed() > self.binding.ack_wait.get() * 2;
        is_blocked.then(|| Stuck { reason: reason.to_owned(), since })
    }

    /// Stops the handler; the first caller receives its result.
    async fn stop(&self) -> Result<(), Error> {
        self.stop.cancel();
        let task = lock(&self.task).take();
        match task {
            // A worker ends soon after the grace period, unless its handler never yields.
            Some(task) => match timeout(self.grace + STOP_MARGIN, task).await {
                Ok(Ok(result)) => result,
                Err(_) => Err(Error::of(vec![Problem::NeverYields { handler: self.handler.declaration.name.clone() }])),
                Ok(Err(error)) if error.is_cancelled() => Err(Error::new(
                    ErrorKind::Closed,
                    format!(
                        "the runtime on which `{}` ran was shut down before the handler was stopped; its messages are redelivered after their `ack_wait`",
                        self.handler.declaration.name
                    ),
                )),
                Ok(Err(error)) => Err(Error::new(
                    ErrorKind::Server,
                    format!("the worker of `{}` panicked (a bug in this crate)", self.handler.declaration.name),
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

/// Stops all workers at the same time, so that they share the grace period.
pub(super) async fn stop_all(workers: &[Arc<WorkerHandle>]) -> Result<(), Error> {
    for worker in workers {
        worker.stop.cancel();
    }
    let results = join_all(workers.iter().map(|worker| worker.stop())).await;
    Error::joined(results.into_iter().filter_map(Result::err).collect())
}

/// Handlers that were started together.
///
/// Dropping it does not stop them; [`shutdown`](Running::shutdown) and [`Broker::disconnect`] do.
#[must_use = "dropping it does not stop the handlers; call `shutdown`"]
pub struct Running {
    pub(crate) broker: Broker,
    pub(super) workers: Vec<Arc<WorkerHandle>>,
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.workers.iter().map(|worker| &worker.handler.declaration.name)).finish()
    }
}

impl Running {
    /// Stops these handlers gracefully.
    ///
    /// No more messages are requested, messages that have not started are handed back for immediate redelivery, running
    /// calls may finish within the grace period, and the server has received every ack when this returns.
    /// While no server is connected, the acks cannot be confirmed: a warning is logged, and messages without an ack are
    /// redelivered.
    ///
    /// The connection stays open and can publish; [`Broker::disconnect`] closes it.
    ///
    /// # Errors
    ///
    /// Returns [`GracePeriod`](ErrorKind::GracePeriod) for calls that did not finish within the grace period. They were
    /// cancelled, and their messages handed back.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the stop continues detached, and its result is lost.
    pub async fn shutdown(self) -> Result<(), Error> {
        abandon(&self.workers);
        let result = stop_all(&self.workers).await;
        self.broker.forget(&self.workers);
        result
    }

    /// Returns `true` if no message of these handlers is unacknowledged, except those that wait for their next attempt in
    /// this process, or as the same handlers of other replicas.
    pub(crate) async fn is_idle(&self, replicas: &[Self]) -> bool {
        for (index, worker) in self.workers.iter().enumerate() {
            let unanswered = self.broker.transport().count_outstanding(&worker.binding).await;
            let others = replicas.iter().filter_map(|replica| replica.workers.get(index));
            let delayed: usize = others.chain([worker]).map(|worker| worker.delayed.count()).sum();
            if !unanswered.is_ok_and(|count| count <= delayed as u64) {
                return false;
            }
            if worker.is_first() && worker.binding.is_derived {
                let uncopied = next_uncopied(self.broker.transport(), &worker.binding.stream).await;
                if !uncopied.is_ok_and(|uncopied| uncopied.is_none()) {
                    return false;
                }
            }
        }
        true
    }

    /// Returns the number of calls for which slots are made.
    #[cfg(test)]
    pub(crate) fn made_slots(&self) -> usize {
        self.workers.iter().map(|worker| worker.slots.made()).sum()
    }

    /// Waits until any of the handlers has ended.
    pub(super) async fn ended(&self) {
        select_all(self.workers.iter().map(|worker| Box::pin(worker.ended.cancelled()))).await;
    }
}

/// The handlers of a start or a run, which are stopped when it is cancelled.
pub(super) struct StopOnDrop(Vec<Arc<WorkerHandle>>);

impl StopOnDrop {
    pub(super) fn new(workers: &[Arc<WorkerHandle>]) -> Self {
        Self(workers.to_vec())
    }

    /// Lets the handlers run on.
    pub(super) fn keep_running(mut self) {
        self.0.clear();
    }
}

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        abandon(&self.0);
        self.0.iter().for_each(|worker| worker.stop.cancel());
    }
}

/// Lets the broker forget handlers as soon as they have ended.
fn abandon(workers: &[Arc<WorkerHandle>]) {
    for worker in workers {
        worker.abandoned.store(true, Ordering::Relaxed);
    }
}

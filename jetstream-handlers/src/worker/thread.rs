//! The thread of a slot whose handler blocks.

use std::sync::{Arc, mpsc};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use super::guarded_call::{GuardedCall, MAX_POLL};
use crate::extract::{Context, Delivery};
use crate::handler::Handler;
use crate::message::Message;
use crate::observe::span::Scope;
use crate::outcome::{Elements, Outcome, Reason, Settle};

/// The thread on which a handler is called; it starts with the first call.
pub(super) struct CallerThread {
    handler: Arc<Handler>,
    context: Context,
    jobs: Option<mpsc::SyncSender<Job>>,
    /// A call that still runs after its timeout.
    late: Option<oneshot::Receiver<Outcome>>,
}

struct Job {
    messages: Vec<Message>,
    elements: Option<Arc<Elements>>,
    outcome: oneshot::Sender<Outcome>,
    /// The span and the trace of the attempt.
    scope: Scope,
}

impl CallerThread {
    pub(super) fn new(handler: Arc<Handler>, context: Context) -> Self {
        Self { handler, context, jobs: None, late: None }
    }

    pub(super) async fn call(&mut self, delivery: Delivery<'_>) -> Outcome {
        self.idle().await;
        let jobs = match &mut self.jobs {
            Some(jobs) => jobs,
            none => match start(self.handler.clone(), self.context.clone()) {
                Ok(jobs) => none.insert(jobs),
                Err(error) => return failed(format!("cannot start a thread: {error}")),
            },
        };
        let (outcome, mut received) = oneshot::channel();
        // The channel has capacity, because there is one call at a time.
        let (messages, elements) = (delivery.messages().to_vec(), delivery.shared_elements());
        let scope = Scope::current();
        if jobs.try_send(Job { messages, elements, outcome, scope }).is_err() {
            return thread_ended();
        }
        self.outcome(&mut received).await.unwrap_or_else(|limit| {
            self.late = Some(received);
            let error =
                format!("still running after its timeout of {limit:?}, because it blocks and cannot be cancelled");
            Outcome::failed(Settle::Retry, Reason::Timeout, error)
        })
    }

    /// Waits for an outcome, or fails with the time limit of the handler.
    async fn outcome(&self, received: &mut oneshot::Receiver<Outcome>) -> Result<Outcome, Duration> {
        let limit = self.handler.declaration.plan.timeout();
        // A call that awaits is cancelled on its thread after its time limit, and its outcome follows immediately.
        match timeout(limit + MAX_POLL, received).await {
            Ok(outcome) => Ok(outcome.unwrap_or_else(|_| thread_ended())),
            Err(_) => Err(limit),
        }
    }

    pub(super) fn is_late(&self) -> bool {
        self.late.is_some()
    }

    /// Waits until no call runs after its timeout.
    pub(super) async fn idle(&mut self) {
        if let Some(late) = &mut self.late {
            late.await.ok();
        }
        self.late = None;
    }
}

/// Starts a thread, which ends when the sender is dropped.
fn start(handler: Arc<Handler>, context: Context) -> std::io::Result<mpsc::SyncSender<Job>> {
    let (jobs, work) = mpsc::sync_channel::<Job>(1);
    let runtime = Handle::current();
    let name = handler.declaration.plan.queue.to_string();
    // Not a blocking thread of the runtime: when a program ends, it waits for those, however long they compute.
    std::thread::Builder::new().name(name).spawn(move || {
        let mut call = GuardedCall::new(handler, context, None);
        while let Ok(Job { messages, elements, outcome, scope }) = work.recv() {
            let delivery = Delivery::new(&messages, elements.as_ref());
            let ended = runtime.block_on(scope.run(call.call(delivery, Instant::now())));
            // The receiver is gone if the worker has stopped meanwhile.
            outcome.send(ended).ok();
        }
    })?;
    Ok(jobs)
}

fn failed(error: impl AsRef<str>) -> Outcome {
    Outcome::failed(Settle::Retry, Reason::Error, error)
}

fn thread_ended() -> Outcome {
    failed("the thread of the handler has ended")
}

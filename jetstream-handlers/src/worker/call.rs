//! One call of a handler: under its time limit, guarded against panics, on the runtime or on a thread of its own.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, mpsc};
use std::task::Poll;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use crate::extract::Context;
use crate::handler::{CallFuture, Handler};
use crate::message::Message;
use crate::outcome::{Outcome, Reason, Settle};

/// A handler that computes for so long without an await keeps everything else on its thread waiting.
const BLOCKED: Duration = Duration::from_millis(100);

/// How often that is said of one lane.
const COMPLAINT_PERIOD: Duration = Duration::from_secs(60);

/// Calls a handler for one lane.
pub(super) struct Caller {
    call: Call,
    /// Where the handler blocks: the lane's own thread, from the first call on.
    thread: Option<Thread>,
    blocking: bool,
}

struct Call {
    handler: Arc<Handler>,
    context: Context,
    slot: CallFuture,
    complaint: BlockingWarning,
    /// When the last call began, until it is judged.
    begun: Option<Instant>,
}

impl Caller {
    pub(super) fn new(handler: Arc<Handler>, context: Context, blocking: bool) -> Self {
        Self { call: Call::new(handler, context, false), thread: None, blocking }
    }

    pub(super) async fn call(&mut self, message: &Message, begun: Instant) -> Outcome {
        if !self.blocking {
            return self.call.call(message, begun).await;
        }
        self.ready().await;
        let thread = match &mut self.thread {
            Some(thread) => thread,
            none => match Thread::start(self.call.handler.clone(), self.call.context.clone()) {
                Ok(thread) => none.insert(thread),
                Err(error) => {
                    return Outcome::failed(Settle::Retry, Reason::Error, format!("cannot start a thread: {error}"));
                }
            },
        };
        Box::pin(thread.call(message.clone(), self.call.handler.declaration.plan.timeout())).await
    }

    /// After a call, and before anything else is waited for: says so if it was one that blocks the others.
    pub(super) fn ended(&mut self, now: Instant) {
        if !self.blocking
            && let Some(begun) = self.call.begun.take()
        {
            self.call.complaint.after(&self.call.handler.declaration.name, now - begun, now);
        }
    }

    /// Whether a call goes on after its time was over.
    pub(super) fn is_late(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| thread.late.is_some())
    }

    /// Waits until the next call can begin.
    pub(super) async fn ready(&mut self) {
        if let Some(late) = self.thread.as_mut().and_then(|thread| thread.late.as_mut()) {
            late.await.ok();
        }
        if let Some(thread) = &mut self.thread {
            thread.late = None;
        }
    }
}

impl Call {
    fn new(handler: Arc<Handler>, context: Context, alone: bool) -> Self {
        Self {
            handler,
            context,
            slot: CallFuture::new(),
            complaint: BlockingWarning { alone, last: None },
            begun: None,
        }
    }

    /// Calls the handler under its time limit; a panic ends the call, not the lane.
    async fn call(&mut self, message: &Message, begun: Instant) -> Outcome {
        self.begun = Some(begun);
        // A closure runs up to its first await right here.
        let started = catch_unwind(AssertUnwindSafe(|| (self.handler.call)(&mut self.slot, message, &self.context)));
        if let Err(panic) = started {
            return panicked(&*panic);
        }
        // Most calls end at once, and need no timer.
        match std::future::poll_fn(|task| Poll::Ready(self.poll(task))).await {
            Poll::Ready(outcome) => outcome,
            Poll::Pending => self.finish(begun).await,
        }
    }

    fn poll(&mut self, task: &mut std::task::Context<'_>) -> Poll<Outcome> {
        match catch_unwind(AssertUnwindSafe(|| self.slot.poll(task))) {
            Ok(poll) => poll,
            Err(panic) => {
                let outcome = panicked(&*panic);
                self.clear();
                Poll::Ready(outcome)
            }
        }
    }

    /// Waits for the end of a call whose first part is over, and says so if a part of it blocks the others.
    async fn finish(&mut self, begun: Instant) -> Outcome {
        self.begun = None;
        let now = Instant::now();
        self.complaint.after(&self.handler.declaration.name, now - begun, now);
        let limit = self.handler.declaration.plan.timeout();
        let call = std::future::poll_fn(|task| {
            let begun = Instant::now();
            let poll = self.poll(task);
            let now = Instant::now();
            self.complaint.after(&self.handler.declaration.name, now - begun, now);
            poll
        });
        let outcome = timeout(limit, call).await;
        outcome.unwrap_or_else(|_| {
            self.clear();
            Outcome::failed(Settle::Retry, Reason::Timeout, format!("cancelled after its timeout of {limit:?}"))
        })
    }

    /// Drops what is left of a call; what it held may panic in turn.
    fn clear(&mut self) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.slot.clear())) {
            tracing::error!("the cancelled call panicked while it was dropped: {}", said(&*panic));
            self.slot = CallFuture::new();
        }
    }
}

/// What is said of a handler that blocks its thread, now and then.
struct BlockingWarning {
    /// The thread has nothing else to do.
    alone: bool,
    last: Option<Instant>,
}

impl BlockingWarning {
    /// After the handler was polled once.
    fn after(&mut self, name: &str, took: Duration, now: Instant) {
        if self.alone {
            return;
        }
        if took >= BLOCKED && self.last.is_none_or(|last| now - last >= COMPLAINT_PERIOD) {
            self.last = Some(now);
            tracing::warn!(
                handler = name,
                "computed for {took:.1?} without an await, while everything else on its thread of the runtime waited; `blocking = true` in its attribute gives it threads of its own"
            );
        }
    }
}

/// The thread of one lane whose handler blocks.
struct Thread {
    jobs: mpsc::SyncSender<Job>,
    /// A call that went on after its time was over.
    late: Option<oneshot::Receiver<Outcome>>,
}

struct Job {
    message: Message,
    answer: oneshot::Sender<Outcome>,
}

impl Thread {
    fn start(handler: Arc<Handler>, context: Context) -> std::io::Result<Self> {
        let (jobs, work) = mpsc::sync_channel::<Job>(1);
        let runtime = Handle::current();
        let name = handler.declaration.plan.queue.to_string();
        // Not one of the runtime's own blocking threads: for those a program waits at its end, however long they compute.
        std::thread::Builder::new().name(name).spawn(move || {
            let mut call = Call::new(handler, context, true);
            while let Ok(Job { message, answer }) = work.recv() {
                let outcome = runtime.block_on(call.call(&message, Instant::now()));
                // Nobody waits any more if the worker has stopped meanwhile.
                answer.send(outcome).ok();
            }
        })?;
        Ok(Self { jobs, late: None })
    }

    async fn call(&mut self, message: Message, limit: Duration) -> Outcome {
        let gone = || Outcome::failed(Settle::Retry, Reason::Error, "the thread of the handler is gone".to_owned());
        let (answer, mut outcome) = oneshot::channel();
        // There is room: one call at a time.
        if self.jobs.try_send(Job { message, answer }).is_err() {
            return gone();
        }
        // One that waits is cancelled on its thread when its time is over, and answers right then.
        match timeout(limit + BLOCKED, &mut outcome).await {
            Ok(outcome) => outcome.unwrap_or_else(|_| gone()),
            Err(_) => {
                self.late = Some(outcome);
                let said = format!("went on after its timeout of {limit:?}, for it blocks and cannot be cancelled");
                Outcome::failed(Settle::Retry, Reason::Timeout, said)
            }
        }
    }
}

fn panicked(panic: &(dyn Any + Send)) -> Outcome {
    Outcome::failed(Settle::Retry, Reason::Panic, format!("panicked: {}", said(panic)))
}

fn said(panic: &(dyn Any + Send)) -> &str {
    let message = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    message.unwrap_or("(no message)")
}

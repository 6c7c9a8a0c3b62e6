//! Closures as handlers: settings, then the start.

use std::fmt;
use std::pin::Pin;
use std::time::Duration;

use super::{Broker, Running};
use crate::error::Error;
use crate::handler::Handler;
use crate::plan::{Backoff, DeadLetter};

/// A closure that is about to handle a subject: settings, then await it.
#[must_use = "nothing is started until it is awaited"]
pub struct Subscribe<'a> {
    pub(super) broker: &'a Broker,
    pub(super) handler: Handler,
}

impl fmt::Debug for Subscribe<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.handler.fmt(f)
    }
}

impl Subscribe<'_> {
    /// The stream to read, where the subject alone does not tell.
    pub fn stream(mut self, stream: &str) -> Self {
        self.handler.declaration.plan.stream = Some(stream.to_owned());
        self
    }

    /// How many messages are handled at the same time; 1 unless said.
    pub fn concurrency(mut self, concurrency: usize) -> Self {
        self.handler.declaration.plan.concurrency = Some(concurrency.max(1));
        self
    }

    /// Runs each call on a thread of its own, for a closure that computes or blocks; `concurrency` says on how many.
    pub fn blocking(mut self) -> Self {
        self.handler.declaration.plan.blocking = true;
        self
    }

    /// Handles one message after the other in the order of the stream, over all replicas.
    ///
    /// A message that failed holds up those behind it until it has succeeded or is a dead letter.
    pub fn ordered(mut self) -> Self {
        self.handler.declaration.plan.ordered = true;
        self
    }

    /// How many messages of an [`ordered`](Self::ordered) closure one ack is for; 100 unless said.
    pub fn ack_every(mut self, messages: usize) -> Self {
        self.handler.declaration.plan.ack_every = Some(messages.max(1));
        self
    }

    /// Says that never more than one process has this queue, so that an [`ordered`](Self::ordered) closure
    /// does not need a server from 2.11, which would choose one of several.
    pub fn single_replica(mut self) -> Self {
        self.handler.declaration.plan.replicas = Some(1);
        self
    }

    /// How many messages are asked for beyond those that can start at once.
    pub fn batch_size(mut self, messages: usize) -> Self {
        self.handler.declaration.plan.batch_size = Some(messages.max(1));
        self
    }

    /// After which silence of ours the server delivers a message again; 30 s unless said.
    pub fn ack_wait(mut self, ack_wait: Duration) -> Self {
        self.handler.declaration.plan.ack_wait = Some(ack_wait);
        self
    }

    /// How long one call may take; 30 minutes unless said.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.handler.declaration.plan.timeout = Some(timeout);
        self
    }

    /// How often a message is tried before it is a dead letter; 5 unless said.
    pub fn max_deliver(mut self, attempts: u32) -> Self {
        self.handler.declaration.plan.max_deliver = Some(attempts.max(1));
        self
    }

    /// The delays between attempts, of which the last repeats; 1 s, 5 s, 30 s, 2 m unless said.
    pub fn backoff(mut self, delays: &[Duration]) -> Self {
        self.handler.declaration.plan.backoff = Some(Backoff::Steps(delays.to_vec().into()));
        self
    }

    /// Where dead letters go; `dlq.<stream>.<queue>` unless said, and `None` for nowhere.
    pub fn dead_letter(mut self, subject: Option<&str>) -> Self {
        self.handler.declaration.plan.dead_letter =
            Some(subject.map_or(DeadLetter::Off, |subject| DeadLetter::Subject(subject.to_owned())));
        self
    }
}

impl<'a> IntoFuture for Subscribe<'a> {
    type Output = Result<Subscription, Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send + 'a>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move { Ok(Subscription(self.broker.start(vec![self.handler]).await?)) })
    }
}

/// A closure at work, from [`Broker::subscribe`].
///
/// Dropping it leaves the closure running.
#[derive(Debug)]
#[must_use = "the closure runs on without it; call `unsubscribe` to stop it"]
pub struct Subscription(Running);

impl Subscription {
    /// Stops the closure gracefully, as [`Running::shutdown`] does.
    ///
    /// The durable consumer stays on the server and remembers how far it came.
    ///
    /// # Errors
    ///
    /// Those of `Running::shutdown`.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the stop to go on by itself, without anyone to hear its result.
    pub async fn unsubscribe(self) -> Result<(), Error> {
        self.0.shutdown().await
    }
}

//! The membership of this process in an elastic group: the partitions that its document gives to the member.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::document::name_problem;
use super::group::Group;
use crate::broker::{Subscribe, Subscription};
use crate::declaration::MemberOf;
use crate::error::problem::Problem;
use crate::error::{Error, ErrorKind, chain};
use crate::handler::Handler;
use crate::plan::DeadLetter;
use crate::sync::lock;

/// The interval at which the document is read.
const INTERVAL: Duration = Duration::from_secs(1);

/// The `ack_wait` of a member that sets none, after which the others notice that it is gone.
const ACK_WAIT: Duration = Duration::from_secs(5);

/// The time after a consumer was deleted, or found to have other partitions, before it is created.
const RECREATION: Duration = Duration::from_millis(500);

/// A closure that handles the partitions of one member of an elastic group, returned by [`Subscribe::join`].
///
/// Dropping it leaves the closure running; [`leave`](Self::leave) and [`Broker::disconnect`](crate::Broker::disconnect)
/// stop it.
#[must_use = "the closure keeps running without it; call `leave` to stop it"]
pub struct Membership {
    filters: Arc<Mutex<Vec<String>>>,
    stop: CancellationToken,
    task: JoinHandle<Result<(), Error>>,
}

impl fmt::Debug for Membership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Membership").field("partitions", &self.partitions()).finish_non_exhaustive()
    }
}

impl Subscribe<'_> {
    /// Starts the closure as a member of the elastic group that has the name of the `queue`, on the [`stream`](Self::stream),
    /// instead of with a consumer of its own.
    ///
    /// The closure needs a [`key`](Self::key). It receives the messages of the partitions that the group gives to the
    /// member, with their original subjects; the others go to members in this and other languages.
    /// Several processes may have the same name: one of them is active at a time.
    /// `ack_wait` defaults to 5 s, after which the others notice that a member was killed.
    ///
    /// # Errors
    ///
    /// Returns an error if the settings are not valid, if the group does not exist, or if the handler cannot be started for
    /// another reason than that a former member still has the partitions.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the closure is not started, or is stopped.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), jetstream_handlers::Error> {
    /// # use jetstream_handlers::prelude::*;
    /// # let broker = Broker::in_memory();
    /// # broker.publish("orders.acme.created", &7).await?;
    /// let group = broker.pcgroup("ORDERS", "billing");
    /// group.create(12, "orders.*.created", &[1]).await?;
    /// group.add_members(&["billing-0"]).await?;
    ///
    /// let membership = broker
    ///     .subscribe("orders.{customer}.created", "billing", |id: u64| async move { println!("order {id}") })
    ///     .stream("ORDERS")
    ///     .key("{customer}")
    ///     .join("billing-0")
    ///     .await?;
    /// assert_eq!(membership.partitions().len(), 12);
    /// membership.leave().await?;
    /// # Ok(()) }
    /// ```
    pub async fn join(self, member: impl Into<String>) -> Result<Membership, Error> {
        let (broker, mut handler, name) = (self.broker, self.handler, member.into());
        let plan = &mut handler.declaration.plan;
        let problem =
            |key, problem: &str| Err(Error::of(vec![Problem::setting(&handler.declaration.name, key, problem)]));
        let Some(stream) = plan.stream.as_deref() else {
            return problem(
                "stream",
                "is not set, but a group belongs to a stream; set it to the one whose messages the group divides",
            );
        };
        if plan.key.is_none() {
            return problem(
                "key",
                "is not set, but a group keeps the order of each key; set it to the tokens by which the group divides the messages, as in `{customer}`",
            );
        }
        if plan.partitions.is_some() {
            return problem("partitions", "is set, but the number of partitions is that of the group; remove it");
        }
        if let Some(error) = name_problem("member", &name) {
            return Err(error);
        }
        let group = broker.pcgroup(broker.transport().settings().stream(stream), plan.queue.to_string());
        group.check_names()?;
        group.existing().await?;
        plan.ack_wait.get_or_insert(ACK_WAIT);
        // That of the whole group, and not of the stream with the numbers.
        plan.dead_letter.get_or_insert_with(|| DeadLetter::Subject(format!("dlq.{stream}.{}", plan.queue).into()));
        let mut member = Member { name, handler, group, filters: Arc::default(), running: None, is_reported: false };
        if let Err(error) = member.follow().await
            && !is_taken(&error)
        {
            return Err(error);
        }
        let (filters, stop) = (member.filters.clone(), CancellationToken::new());
        let task = tokio::spawn(member.run(stop.clone()));
        Ok(Membership { filters, stop, task })
    }
}

impl Membership {
    /// Returns the partitions whose messages this process requests, in order; none while it is no member.
    pub fn partitions(&self) -> Vec<u32> {
        let filters = lock(&self.filters);
        let mut numbers: Vec<u32> = filters.iter().filter_map(|it| it.split('.').next()?.parse().ok()).collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers
    }

    /// Stops the closure gracefully, as [`Running::shutdown`](crate::Running::shutdown) does. The member stays in the group.
    ///
    /// The others do not receive its partitions before it is removed; another process of the same name does.
    ///
    /// # Errors
    ///
    /// Returns the errors of `Running::shutdown`.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the stop continues detached, and its result is lost.
    pub async fn leave(self) -> Result<(), Error> {
        self.stop.cancel();
        self.task.await.unwrap_or_else(|error| Err(Error::new(ErrorKind::Server, error.to_string())))
    }
}

/// Returns `true` if another member still has one of the partitions, or the own consumer has others.
fn is_taken(error: &Error) -> bool {
    match error.kind() {
        ErrorKind::StreamOverlap | ErrorKind::ConsumerMismatch => true,
        // Its consumer was created after the inspection (`CONSUMER_WQ_CONSUMER_NOT_UNIQUE`).
        ErrorKind::Server => chain(error).contains("error code 10100"),
        ErrorKind::Startup => error.problems().iter().all(|it| matches!(it.kind(), ErrorKind::StreamOverlap)),
        _ => false,
    }
}

/// One member in this process.
struct Member {
    name: String,
    handler: Handler,
    group: Group,
    /// The filters of the running handler; none without one.
    filters: Arc<Mutex<Vec<String>>>,
    running: Option<Subscription>,
    /// `true` if the present failure was logged.
    is_reported: bool,
}

impl Member {
    async fn run(mut self, stop: CancellationToken) -> Result<(), Error> {
        let closed = self.group.broker().clone();
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                () = closed.disconnected() => return Ok(()),
                () = sleep(self.interval()) => {}
            }
            match self.follow().await {
                Ok(()) => self.is_reported = false,
                Err(error) if error.kind() == ErrorKind::Closed => return Ok(()),
                Err(error) => self.report(&error),
            }
        }
        lock(&self.filters).clear();
        match self.running.take() {
            Some(running) => running.unsubscribe().await,
            None => Ok(()),
        }
    }

    /// Returns the time up to the next look at the document: longer while others have the partitions.
    fn interval(&self) -> Duration {
        if self.is_reported { INTERVAL.max(RECREATION * 2) } else { INTERVAL }
    }

    fn report(&mut self, error: &Error) {
        if std::mem::replace(&mut self.is_reported, true) {
            return;
        }
        let (handler, member) = (&*self.handler.declaration.name, &*self.name);
        if is_taken(error) {
            tracing::debug!(handler, member, "another member has the partitions of group {} yet", self.group);
        } else {
            tracing::warn!(handler, member, "cannot follow group {}: {}", self.group, chain(error));
        }
    }

    /// Lets the handler receive the partitions that the document gives to the member.
    async fn follow(&mut self) -> Result<(), Error> {
        let found = self.group.read().await?;
        let filters = found.map(|it| it.document.filters(&self.name)).unwrap_or_default();
        if *lock(&self.filters) == filters && self.running.is_some() != filters.is_empty() {
            return Ok(());
        }
        let (handler, member) = (self.handler.declaration.name.clone(), self.name.clone());
        if let Some(running) = self.running.take() {
            lock(&self.filters).clear();
            // A consumer with more filters would not deliver what it has passed already.
            if let Err(error) = running.delete_consumer().await {
                tracing::warn!(handler, member, "a member of group {} was stopped: {}", self.group, chain(&error));
            }
            sleep(RECREATION).await;
        }
        if filters.is_empty() {
            tracing::info!(handler, member, "the member has no partitions of group {}", self.group);
            return Ok(());
        }
        let mut handler_of_member = self.handler.clone();
        let stream = self.group.group_stream();
        handler_of_member.declaration.member =
            Some(MemberOf { name: member.clone(), stream: stream.clone(), filters: filters.clone() });
        let broker = self.group.broker();
        match broker.start(vec![handler_of_member]).await {
            Ok(running) => self.running = Some(Subscription(running)),
            Err(error) => {
                // The consumer of another process of this name, or of a former document.
                if error.kind() == ErrorKind::ConsumerMismatch {
                    let removed = broker.transport().remove_consumer(&stream, &member).await;
                    removed.map_err(|error| error.into_error(&format!("deleting consumer `{member}`")))?;
                }
                return Err(error);
            }
        }
        tracing::info!(handler, member, "the member has partitions of group {}: {}", self.group, filters.join(", "));
        *lock(&self.filters) = filters;
        Ok(())
    }
}

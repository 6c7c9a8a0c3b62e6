//! Closures as handlers: their settings, and their start.

use std::borrow::Cow;
use std::fmt;
use std::pin::Pin;
use std::time::Duration;

use super::{Broker, Running};
use crate::error::Error;
use crate::handler::Handler;
use crate::key::Key;
use crate::plan::{Ack, Backoff, DeadLetter, Deliver, Manage, OnBatchError, Plan};

/// The settings of a closure that handles a subject; awaiting it starts the closure.
///
/// Each method sets the key of the same name of [`subscriber`](macro@crate::subscriber), whose documentation describes
/// it in full.
/// The keys `group` and `broker` have no setters: they select functions for [`Broker::start_all`] and
/// [`Broker::start_groups`], and a closure is started by awaiting it.
/// The methods do not validate; the start reports all invalid settings together, with the error texts of the attribute.
///
/// # Examples
///
/// ```no_run
/// # use jetstream_handlers::prelude::*;
/// # async fn start(broker: Broker) -> Result<(), jetstream_handlers::Error> {
/// let subscription = broker
///     .subscribe("orders.created", "order-processor", |id: u64| async move { println!("order {id}") })
///     .name("orders")
///     .concurrency(16)
///     .max_deliver(8)
///     .backoff_exponential(secs(1), 2.0, secs(120))
///     .await?;
/// # drop(subscription);
/// # Ok(()) }
/// ```
#[must_use = "a closure is not started until this is awaited"]
pub struct Subscribe<'a> {
    pub(crate) broker: &'a Broker,
    pub(crate) handler: Handler,
}

impl fmt::Debug for Subscribe<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.handler.fmt(f)
    }
}

impl Subscribe<'_> {
    /// Sets the name of the closure in logs, health and dead letters; defaults to `closure on <subject>`.
    ///
    /// It must not be empty or contain control characters.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.handler.declaration.name = name.into();
        self
    }

    /// Sets the name of the stream to read; defaults to the stream that covers the subject.
    pub fn stream(self, stream: impl Into<String>) -> Self {
        self.with(|plan| plan.stream = Some(Cow::Owned(stream.into())))
    }

    /// Sets the maximum number of messages that are handled at the same time, from 1 to 10000; defaults to 1.
    pub fn concurrency(self, calls: usize) -> Self {
        self.with(|plan| plan.concurrency = Some(calls))
    }

    /// Runs each call on a thread outside of the runtime, for a closure that computes or blocks; off by default.
    ///
    /// [`concurrency`](Self::concurrency) sets the number of threads, which must not exceed 512.
    pub fn blocking(self) -> Self {
        self.with(|plan| plan.blocking = true)
    }

    /// Makes the closure [`blocking`](Self::blocking), with this number of threads from 1 to 512 as its concurrency;
    /// not set by default.
    pub fn threads(self, threads: usize) -> Self {
        self.with(|plan| plan.threads = Some(threads))
    }

    /// Sets the number of messages that are requested in addition to those that can start at once, from 1 to 10000.
    ///
    /// Defaults to [`Builder::batch_size`](crate::Builder::batch_size), and without it adapts to the closure's speed.
    pub fn batch_size(self, messages: usize) -> Self {
        self.with(|plan| plan.batch_size = Some(messages))
    }

    /// Sets the time without an ack or in-progress signal after which the server redelivers a message, from 100 ms;
    /// defaults to 30 s.
    pub fn ack_wait(self, wait: Duration) -> Self {
        self.with(|plan| plan.ack_wait = Some(wait))
    }

    /// Sets the time limit of one call, from 1 ms; defaults to 30 minutes.
    pub fn timeout(self, timeout: Duration) -> Self {
        self.with(|plan| plan.timeout = Some(timeout))
    }

    /// Sets the number of attempts before a message is dead-lettered, from 1 to 1000000; defaults to 5.
    pub fn max_deliver(self, attempts: u32) -> Self {
        self.with(|plan| plan.max_deliver = Some(attempts))
    }

    /// Sets the delays between attempts, each from 1 ms; the last one repeats. Defaults to 1 s, 5 s, 30 s and 2 minutes.
    ///
    /// Each delay has ±20 % jitter.
    pub fn backoff(self, delays: &[Duration]) -> Self {
        self.with(|plan| plan.backoff = Some(Backoff::Steps(delays.to_vec().into())))
    }

    /// Sets delays between attempts that start at `initial` and are multiplied by `factor` after each attempt, up to `max`.
    ///
    /// `factor` must be at least 1. It replaces [`backoff`](Self::backoff); if neither is set, the defaults of
    /// `backoff` apply.
    pub fn backoff_exponential(self, initial: Duration, factor: f64, max: Duration) -> Self {
        self.with(|plan| plan.backoff = Some(Backoff::Exponential { initial, factor, max }))
    }

    /// Sets the subject of dead letters, or with `None` terminates messages without a dead letter;
    /// defaults to `dlq.<stream>.<queue>`.
    pub fn dead_letter(self, subject: Option<&str>) -> Self {
        let dead_letter =
            subject.map_or(DeadLetter::Off, |subject| DeadLetter::Subject(Cow::Owned(subject.to_owned())));
        self.with(|plan| plan.dead_letter = Some(dead_letter))
    }

    /// Handles one message at a time in the order of the stream, across all instances; off by default.
    ///
    /// A failed message delays those behind it until it succeeds or is dead-lettered.
    pub fn ordered(self) -> Self {
        self.with(|plan| plan.ordered = true)
    }

    /// Sets the maximum number of messages of an [`ordered`](Self::ordered) closure that one ack covers, from 1 to 1000;
    /// defaults to 100.
    pub fn ack_every(self, messages: usize) -> Self {
        self.with(|plan| plan.ack_every = Some(messages))
    }

    /// Declares that only one process ever reads this queue, so that a closure that is [`ordered`](Self::ordered) or has
    /// a [`key`](Self::key) works on a server before 2.11 as well; off by default.
    ///
    /// Nothing prevents a second process from starting, which breaks the order.
    pub fn single_instance(self) -> Self {
        self.with(|plan| plan.single_instance = true)
    }

    /// Handles messages with the same key one after the other, in the order of the stream, and others at the same time;
    /// not set by default.
    ///
    /// A failed message delays only those with its key.
    /// A message without the key becomes a dead letter.
    /// [`subscriber`](macro@crate::subscriber#key) describes what else a key entails.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), jetstream_handlers::Error> {
    /// # use jetstream_handlers::{Key, prelude::*};
    /// # let broker = Broker::in_memory();
    /// #[derive(Debug, serde::Deserialize)]
    /// struct Payment {
    ///     customer: String,
    ///     amount: u64,
    /// }
    ///
    /// let booking = broker
    ///     .subscribe("payments.made", "booking", |payment: Payment| async move { println!("{payment:?}") })
    ///     .key("customer") // or "{region}", a placeholder of the subject, or Key::header("Tenant")
    ///     .concurrency(16)
    ///     .await?;
    /// # booking.unsubscribe().await?;
    /// # Ok(()) }
    /// ```
    pub fn key(self, key: impl Into<Key>) -> Self {
        self.with(|plan| plan.key = Some(key.into()))
    }

    /// Divides the messages of a closure with a [`key`](Self::key), or of an [`ordered`](Self::ordered) one, into this number
    /// of partitions, from 1 to 1000, which all instances share; not set by default.
    ///
    /// Each subject needs `{partition}` for one of its tokens, which the publisher fills with
    /// [`partition`](fn@crate::partition), or the key is another one of them, and the server adds the number.
    /// [`scale`](mod@crate::scale) describes both, and how instances share the partitions.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), jetstream_handlers::Error> {
    /// # use jetstream_handlers::prelude::*;
    /// # let broker = Broker::in_memory();
    /// #[derive(serde::Serialize, serde::Deserialize, Event)]
    /// #[event(subject = "payments.{partition}.made", key = "customer", partitions = 12)]
    /// struct PaymentMade {
    ///     customer: String,
    /// }
    ///
    /// let booking = broker
    ///     .subscribe("payments.{partition}.made", "booking", |made: PaymentMade| async move { println!("{}", made.customer) })
    ///     .key("customer")
    ///     .partitions(12)
    ///     .await?;
    /// # booking.unsubscribe().await?;
    /// # Ok(()) }
    /// ```
    pub fn partitions(self, partitions: u32) -> Self {
        self.with(|plan| plan.partitions = Some(partitions))
    }

    /// Waits for the server to confirm each ack, which is `ack = "confirmed"` of the attribute; off by default.
    pub fn ack_confirmed(self) -> Self {
        self.with(|plan| plan.ack = Ack::Confirmed)
    }

    /// Sets the first message of a consumer that does not exist yet; defaults to [`Deliver::All`].
    ///
    /// An existing consumer keeps its position.
    pub fn deliver(self, first: Deliver) -> Self {
        self.with(|plan| plan.deliver = first)
    }

    /// Sets what the start may create and change for this closure; defaults to
    /// [`Builder::manage`](crate::Builder::manage).
    pub fn manage(self, manage: Manage) -> Self {
        self.with(|plan| plan.manage = Some(manage))
    }

    /// Puts a [layer](crate::layer) around the closure, inside of those of the broker.
    #[cfg(feature = "tower")]
    pub fn layer(mut self, layer: impl crate::layer::LayerOfHandlers) -> Self {
        self.handler.wrappers.push(layer.into_wrapper());
        self
    }

    /// Sets the subject of the [`Output`](crate::Output)s that the closure returns without one, which are published
    /// before its message is acknowledged; none by default.
    ///
    /// [`outputs`](crate::outputs) describes what happens to them.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), jetstream_handlers::Error> {
    /// # use jetstream_handlers::{Output, prelude::*};
    /// # let broker = Broker::in_memory();
    /// let confirming = broker
    ///     .subscribe("orders.created", "confirmer", |order: u64| async move {
    ///         Ok(if order > 0 { Some(Output::new(&order)) } else { None })
    ///     })
    ///     .publish("orders.confirmed")
    ///     .await?;
    /// # confirming.unsubscribe().await?;
    /// # Ok(()) }
    /// ```
    pub fn publish(self, subject: impl Into<String>) -> Self {
        self.with(|plan| plan.publish = Some(Cow::Owned(subject.into())))
    }

    /// Sets the maximum number of messages of one call of a closure that takes a [`Batch`](crate::Batch), from 1 to 10000,
    /// multiplied by the concurrency; not set by default.
    ///
    /// [`subscriber`](macro@crate::subscriber#batches) describes how a batch is filled and settled.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), jetstream_handlers::Error> {
    /// # use jetstream_handlers::prelude::*;
    /// # use std::time::Duration;
    /// # let broker = Broker::in_memory();
    /// let storing = broker
    ///     .subscribe("meters.read", "meters", |readings: Batch<u64>| async move { println!("{readings:?}") })
    ///     .batch(100)
    ///     .batch_wait(Duration::from_millis(200))
    ///     .await?;
    /// # storing.unsubscribe().await?;
    /// # Ok(()) }
    /// ```
    pub fn batch(self, messages: usize) -> Self {
        self.with(|plan| plan.batch = Some(messages))
    }

    /// Sets the time after which a batch is handled that is not full, counted from the arrival of its first message, from
    /// 1 ms to a third of [`ack_wait`](Self::ack_wait); defaults to 500 ms.
    pub fn batch_wait(self, wait: Duration) -> Self {
        self.with(|plan| plan.batch_wait = Some(wait))
    }

    /// Sets the maximum number of bytes of the payloads of a batch, from 1 to 1 GiB; no limit by default.
    ///
    /// A message that is larger is a batch alone.
    pub fn batch_bytes(self, bytes: usize) -> Self {
        self.with(|plan| plan.batch_bytes = Some(bytes))
    }

    /// Calls the closure again with each half of a batch that has failed, until the element that fails is alone, which is
    /// `on_batch_error = "split"` of the attribute; off by default.
    pub fn split_on_batch_error(self) -> Self {
        self.with(|plan| plan.on_batch_error = OnBatchError::Split)
    }

    fn with(mut self, change: impl FnOnce(&mut Plan)) -> Self {
        change(&mut self.handler.declaration.plan);
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

/// A running closure, returned by [`Broker::subscribe`].
///
/// Dropping it leaves the closure running.
#[derive(Debug)]
#[must_use = "the closure keeps running without it; call `unsubscribe` to stop it"]
pub struct Subscription(pub(crate) Running);

impl Subscription {
    /// Stops the closure gracefully, as [`Running::shutdown`] does.
    ///
    /// The durable consumer stays on the server with its position in the stream;
    /// [`delete_consumer`](Self::delete_consumer) deletes it.
    ///
    /// # Errors
    ///
    /// Returns the errors of `Running::shutdown`.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the stop continues detached, and its result is lost.
    pub async fn unsubscribe(self) -> Result<(), Error> {
        self.0.shutdown().await
    }

    /// Stops the closure gracefully, then deletes its durable consumer from the server.
    ///
    /// The position in the stream is lost: a later closure with the same queue begins at the first message of the
    /// stream. Deleting a consumer that does not exist any more is not an error.
    /// If another process runs a handler on the consumer, that handler restores it and continues after the messages
    /// that had been acknowledged.
    ///
    /// # Errors
    ///
    /// Returns the errors of [`unsubscribe`](Self::unsubscribe); the consumer is deleted nevertheless.
    /// Returns an error if the server does not confirm the deletion, for which the user needs the permission to publish
    /// to `$JS.API.CONSUMER.DELETE.<stream>.<queue>`.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the stop continues detached, and the consumer may be deleted or not.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), jetstream_handlers::Error> {
    /// # use jetstream_handlers::prelude::*;
    /// # let broker = Broker::in_memory();
    /// let watching = broker.subscribe("orders.created", "watch-7", |id: u64| async move { println!("{id}") }).await?;
    /// // After the last viewer has left:
    /// watching.delete_consumer().await?;
    /// # Ok(()) }
    /// ```
    pub async fn delete_consumer(self) -> Result<(), Error> {
        let broker = self.0.broker.clone();
        let bindings: Vec<_> = self.0.workers.iter().map(|worker| worker.binding.clone()).collect();
        let mut results = vec![self.0.shutdown().await];
        for binding in bindings {
            results.push(broker.transport().delete_consumer(&binding).await.map(drop));
        }
        Error::joined(results.into_iter().filter_map(Result::err).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules;

    #[test]
    fn every_key_of_a_closure_has_a_setter() {
        type Setter = fn(Subscribe<'_>) -> Subscribe<'_>;
        let setters: [(&str, Setter); 28] = [
            ("stream", |it| it.stream("ORDERS")),
            ("concurrency", |it| it.concurrency(4)),
            ("blocking", |it| it.blocking()),
            ("threads", |it| it.threads(4)),
            ("batch_size", |it| it.batch_size(100)),
            ("ack_wait", |it| it.ack_wait(Duration::from_secs(30))),
            ("timeout", |it| it.timeout(Duration::from_secs(300))),
            ("max_deliver", |it| it.max_deliver(5)),
            ("backoff", |it| it.backoff(&[Duration::from_secs(1)])),
            ("backoff", |it| it.backoff_exponential(Duration::from_secs(1), 2.0, Duration::from_secs(120))),
            ("dead_letter", |it| it.dead_letter(Some("dlq.orders"))),
            ("dead_letter", |it| it.dead_letter(None)),
            ("ordered", |it| it.ordered()),
            ("ack_every", |it| it.ack_every(100)),
            ("single_instance", |it| it.single_instance()),
            ("key", |it| it.key("customer")),
            ("key", |it| it.key(Key::header("Tenant"))),
            ("partitions", |it| it.partitions(12)),
            ("ack", |it| it.ack_confirmed()),
            ("deliver", |it| it.deliver(Deliver::New)),
            ("deliver", |it| it.deliver(Deliver::FromSequence(7))),
            ("deliver", |it| it.deliver(Deliver::FromTime(std::time::SystemTime::now()))),
            ("manage", |it| it.manage(Manage::Bind)),
            ("publish", |it| it.publish("orders.billed")),
            ("batch", |it| it.batch(100)),
            ("batch_wait", |it| it.batch_wait(Duration::from_millis(500))),
            ("batch_bytes", |it| it.batch_bytes(1_000_000)),
            ("on_batch_error", |it| it.split_on_batch_error()),
        ];
        let broker = Broker::in_memory();
        let subscribe = || broker.subscribe("orders.created", "billing", async || {});
        let mut set = vec!["subject", "queue"];
        for (key, setter) in setters {
            let plan = setter(subscribe()).handler.declaration.plan;
            let keys: Vec<_> = plan.settings().into_iter().map(|(key, _)| key).collect();
            assert_eq!(keys, ["subject", "queue", key]);
            set.push(key);
        }
        set.dedup();
        // A group selects functions; see the documentation of `Subscribe`.
        let keys =
            rules::KEYS.iter().map(|key| key.name).filter(|key| !["group", "event", "broker", "layer"].contains(key));
        assert_eq!(set, keys.collect::<Vec<_>>());
    }
}

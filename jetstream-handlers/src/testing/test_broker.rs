//! The broker of a test.

use std::borrow::Cow;
use std::time::Duration;

use async_nats::jetstream::publish::PublishAck;
use bytes::Bytes;
use serde::de::DeserializeOwned;

use super::builder::Server;
use super::{Builder, Handled};
use crate::broker::{Broker, Running};
use crate::codec::Payload;
use crate::dead_letter::DeadLetter;
use crate::error::{Error, chain};
use crate::handler::{Handler, Subscriber};
use crate::memory::{Faults, Memory};
use crate::message::Message;
use crate::observe::health::Health;
use crate::observe::recorder::Recorder;
use crate::publish::PublishMessage;
use crate::subject::covers;
use crate::transport::Transport;

/// The maximum time until the handlers on a live server are idle.
const LIVE_TIMEOUT: Duration = Duration::from_secs(30);

/// The interval at which a live server is polled.
const LIVE_POLL_INTERVAL: Duration = Duration::from_millis(10);

/// A broker that runs the application's handlers and records their calls.
///
/// Its methods panic if those of [`Broker`] return an error, so that a test fails with the error's text.
/// A failed assertion of [`handled`](Self::handled) shows all calls of the handler.
#[derive(Debug)]
pub struct TestBroker {
    broker: Broker,
    running: Running,
    /// The handlers of the other replicas, in the order of their starts.
    replicas: Vec<Running>,
    handlers: Vec<Handler>,
    recorder: Recorder,
    /// The live server, unless the broker is in memory.
    server: Option<Server>,
}

impl TestBroker {
    /// Starts all handlers linked into the test on an in-memory broker.
    ///
    /// # Panics
    ///
    /// Panics if the handlers cannot be started, with all their problems.
    pub async fn start() -> Self {
        Self::builder().start().await
    }

    /// Returns a builder with the default settings.
    pub fn builder() -> Builder {
        Builder::new()
    }

    pub(super) async fn with_handlers(
        broker: Broker,
        handlers: Vec<Handler>,
        server: Option<Server>,
        replicas: usize,
    ) -> Result<Self, Error> {
        let recorder = Recorder::default();
        let running = broker.start_recorded(handlers.clone(), recorder.clone()).await?;
        let mut test_broker = Self { broker, running, replicas: Vec::new(), handlers, recorder, server };
        for _ in 1..replicas {
            test_broker.start_replica().await?;
        }
        test_broker.idle().await;
        Ok(test_broker)
    }

    async fn start_replica(&mut self) -> Result<(), Error> {
        let replica = self.second_instance().await;
        self.replicas.push(replica.start_recorded(self.handlers.clone(), self.recorder.clone()).await?);
        Ok(())
    }

    /// Starts one more replica of the service, which has the same handlers and state; its calls are recorded as well.
    ///
    /// # Panics
    ///
    /// Panics if the handlers cannot be started, with all their problems.
    ///
    /// # Examples
    ///
    /// ```
    /// use jetstream_handlers::prelude::*;
    /// use jetstream_handlers::testing::TestBroker;
    ///
    /// #[subscriber(subject = "orders.{partition}.created", queue = "billing", key = "customer", partitions = 4)]
    /// async fn bill(order: serde_json::Value) {}
    ///
    /// #[jetstream_handlers::test(include(bill), replicas = 3)]
    /// async fn replicas_share_the_partitions(mut broker: TestBroker) {
    ///     broker.publish("orders.0.created", &serde_json::json!({ "customer": "acme" })).await;
    ///     broker.add_replica().await;
    ///     broker.remove_replica().await;
    ///     broker.publish("orders.0.created", &serde_json::json!({ "customer": "acme" })).await;
    ///     broker.handled::<bill>().times(2);
    /// }
    /// ```
    pub async fn add_replica(&mut self) {
        self.start_replica().await.unwrap_or_else(|error| panic!("{}", chain(&error)));
        self.idle().await;
    }

    /// Stops the replica that was started last, gracefully; returns `false` if only the first is left.
    ///
    /// # Panics
    ///
    /// Panics if calls do not finish within the grace period.
    pub async fn remove_replica(&mut self) -> bool {
        let Some(replica) = self.replicas.pop() else { return false };
        replica.shutdown().await.unwrap_or_else(|error| panic!("{}", chain(&error)));
        self.idle().await;
        true
    }

    /// Returns the health of each replica, in the order of their starts.
    pub fn replicas(&self) -> Vec<Health> {
        let brokers = std::iter::once(&self.broker).chain(self.replicas.iter().map(|running| &running.broker));
        brokers.map(Broker::health).collect()
    }

    /// Returns another broker on the same server, with the same state, as a second instance of the service has it.
    ///
    /// It has started no handlers, and the calls of those that it starts are not recorded.
    ///
    /// # Panics
    ///
    /// Panics if a live server cannot be reached.
    ///
    /// # Examples
    ///
    /// ```
    /// use jetstream_handlers::prelude::*;
    /// use jetstream_handlers::testing::TestBroker;
    ///
    /// #[subscriber(subject = "orders.created", queue = "billing")]
    /// async fn bill(order: u64) {}
    ///
    /// #[jetstream_handlers::test(include(bill))]
    /// async fn instances_share_the_messages(broker: TestBroker) {
    ///     let second = broker.second_instance().await;
    ///     let running = second.include::<bill>().start_all().await.unwrap();
    ///     broker.publish("orders.created", &7).await;
    ///     running.shutdown().await.unwrap();
    /// }
    /// ```
    pub async fn second_instance(&self) -> Broker {
        let connection = match &self.server {
            Some(server) => {
                let builder = Broker::builder().with_settings(self.broker.transport().settings().clone());
                Some(server.connect(builder).await)
            }
            None => None,
        };
        self.broker.second(connection.as_ref())
    }

    /// Returns the broker, for operations that this type does not offer.
    pub fn broker(&self) -> &Broker {
        &self.broker
    }

    /// Publishes a value, and waits until the handlers are [`idle`](Self::idle) again.
    ///
    /// It does not wait for retries whose delay has not passed; see [`advance`](Self::advance).
    ///
    /// # Panics
    ///
    /// Panics if no stream stores the message.
    pub async fn publish<T: Payload + ?Sized>(&self, subject: &str, value: &T) -> PublishAck {
        let ack = self.broker.publish(subject, value).await.unwrap_or_else(|error| panic!("{}", chain(&error)));
        self.idle().await;
        ack
    }

    /// Publishes a message with headers, a message id or conditions; otherwise like [`publish`](Self::publish).
    ///
    /// # Panics
    ///
    /// Panics if no stream stores the message.
    ///
    /// # Examples
    ///
    /// ```
    /// use jetstream_handlers::prelude::*;
    /// use jetstream_handlers::testing::TestBroker;
    ///
    /// #[subscriber(subject = "orders.created", queue = "billing")]
    /// async fn bill(order: u64, headers: Headers, publisher: Publisher) -> HandlerResult {
    ///     let tenant = headers.get("Tenant").ok_or("no tenant")?;
    ///     publisher.publish_message("bills.created", &order).header("Tenant", tenant).message_id("bill-7").await?;
    ///     Ok(())
    /// }
    ///
    /// #[jetstream_handlers::test(include(bill))]
    /// async fn bills_the_tenant(broker: TestBroker) {
    ///     let order = broker.broker().publish_message("orders.created", &7).header("Tenant", "acme");
    ///     broker.publish_message(order.message_id("order-7")).await;
    ///     let bills = broker.published_messages("bills.>").await;
    ///     assert_eq!(bills[0].header("Tenant"), Some("acme"));
    ///     assert_eq!(bills[0].header("Nats-Msg-Id"), Some("bill-7"));
    /// }
    /// ```
    pub async fn publish_message(&self, message: PublishMessage) -> PublishAck {
        let ack = message.await.unwrap_or_else(|error| panic!("{}", chain(&error)));
        self.idle().await;
        ack
    }

    /// Publishes bytes unchanged, such as a payload that cannot be decoded; otherwise like [`publish`](Self::publish).
    ///
    /// # Panics
    ///
    /// Panics if no stream stores the message.
    pub async fn publish_bytes(&self, subject: &str, payload: impl Into<Bytes>) -> PublishAck {
        let published = self.broker.publisher().publish_bytes(subject, payload.into()).await;
        let ack = published.unwrap_or_else(|error| panic!("{}", chain(&error)));
        self.idle().await;
        ack
    }

    /// Sleeps for `duration`, then waits until the handlers are [`idle`](Self::idle) again.
    ///
    /// On a paused clock this takes no real time; on a live server it takes the whole `duration`.
    pub async fn advance(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
        self.idle().await;
    }

    /// Waits until no handler runs and no message can be delivered.
    ///
    /// Messages whose redelivery is not due yet may remain.
    ///
    /// # Panics
    ///
    /// Panics if the handlers on a live server are not idle after 30 s.
    pub async fn idle(&self) {
        match self.broker.transport() {
            Transport::Memory(memory) => memory.idle().await,
            Transport::Nats(_) => {
                let polling = async {
                    while !self.running.is_idle(&self.replicas).await {
                        tokio::time::sleep(LIVE_POLL_INTERVAL).await;
                    }
                };
                let idle = tokio::time::timeout(LIVE_TIMEOUT, polling).await;
                assert!(idle.is_ok(), "the handlers are not idle after {LIVE_TIMEOUT:?}");
            }
        }
    }

    /// Returns the calls of a handler so far, for assertions.
    #[must_use = "it asserts nothing by itself"]
    pub fn handled<H: Subscriber>(&self) -> Handled {
        let name = H::registration().name;
        Handled::new(name, self.recorder.of(name), self.broker.transport().settings().codec.clone())
    }

    /// Returns all dead letters in the stream `DLQ`.
    ///
    /// # Panics
    ///
    /// Panics if they cannot be read.
    pub async fn dead_letters(&self) -> Vec<DeadLetter> {
        self.broker.dead_letters().list(usize::MAX).await.unwrap_or_else(|error| panic!("{}", chain(&error)))
    }

    /// Returns the values of all stored messages on a subject, which may have wildcards, decoded as for a handler with
    /// a plain parameter: by their `Content-Type`, or in the format of the broker.
    ///
    /// # Panics
    ///
    /// Panics if a message cannot be read or decoded.
    pub async fn published<T: DeserializeOwned>(&self, subject: &str) -> Vec<T> {
        let decoded = |message: Message| {
            self.broker.transport().settings().codec.decode(&message).unwrap_or_else(|error| {
                let (sequence, subject) = (message.info().stream_sequence(), message.subject());
                panic!("message {sequence} on `{subject}` cannot be decoded: {error}")
            })
        };
        self.published_messages(subject).await.into_iter().map(decoded).collect()
    }

    /// Returns all stored messages on a subject, which may have wildcards, with their headers and payloads.
    ///
    /// The header `Nats-Msg-Id` is the message id.
    /// The [`Info`](crate::Info) of a message has its stream, sequence and time; it was not delivered, so the consumer
    /// is empty and the counts are 0.
    ///
    /// # Panics
    ///
    /// Panics if a message cannot be read.
    pub async fn published_messages(&self, subject: &str) -> Vec<Message> {
        let transport = self.broker.transport();
        let subject = &*transport.settings().subject(subject);
        let mut found = Vec::new();
        let streams = transport.stream_names(subject).await.unwrap_or_else(|error| panic!("{error}"));
        for stream in streams {
            let mut next = 1;
            while let Some(stored) =
                transport.next_stored(&stream, next).await.unwrap_or_else(|error| panic!("{}", chain(&error)))
            {
                next = stored.sequence + 1;
                if covers(subject, &stored.subject) {
                    found.push(Message::of_stored(&stream, stored));
                }
            }
        }
        found
    }
}

/// Faults, which can be injected only on an in-memory broker.
impl TestBroker {
    /// Loses the next `count` acks; their messages are redelivered after `ack_wait`.
    ///
    /// # Panics
    ///
    /// Panics on a live server.
    pub fn lose_acks(&self, count: usize) -> &Self {
        self.with_faults(|faults| faults.lose_acks += count)
    }

    /// Simulates a crash of the process right before its next ack.
    ///
    /// No message in flight is acknowledged; all of them are redelivered after `ack_wait`.
    ///
    /// # Panics
    ///
    /// Panics on a live server.
    pub fn crash_before_ack(&self) -> &Self {
        self.with_faults(|faults| faults.crash_before_ack += 1)
    }

    /// Redelivers the next `count` messages although they were acknowledged.
    ///
    /// # Panics
    ///
    /// Panics on a live server.
    pub fn redeliver(&self, count: usize) -> &Self {
        self.with_faults(|faults| faults.redeliver += count)
    }

    pub(super) fn redeliver_all(&self) {
        self.with_faults(|faults| faults.redeliver_all = true);
    }

    /// Delivers the later of two new messages first, from now on.
    ///
    /// # Panics
    ///
    /// Panics on a live server.
    pub fn reorder(&self) -> &Self {
        self.with_faults(|faults| faults.reorder = true)
    }

    /// Fails the next publish to this subject, which may have wildcards.
    ///
    /// # Panics
    ///
    /// Panics on a live server.
    pub fn fail_next_publish(&self, subject: &str) -> &Self {
        let subject = self.broker.transport().settings().subject(subject).into_owned();
        self.with_faults(|faults| faults.fail_publishes.push((subject.clone(), 1)))
    }

    /// Delays the storing of each message by `delay`, from now on.
    ///
    /// # Panics
    ///
    /// Panics on a live server.
    pub fn slow_server(&self, delay: Duration) -> &Self {
        self.with_faults(|faults| faults.publish_delay = delay)
    }

    /// Deletes a consumer while the handlers run; returns `false` if it did not exist.
    ///
    /// # Panics
    ///
    /// Panics on a live server.
    pub fn delete_consumer(&self, stream: &str, consumer: &str) -> bool {
        self.memory().delete_consumer(&self.stream(stream), consumer)
    }

    /// Deletes a stream with all its messages while the handlers run; returns `false` if it did not exist.
    ///
    /// # Panics
    ///
    /// Panics on a live server.
    pub fn delete_stream(&self, stream: &str) -> bool {
        self.memory().delete_stream(&self.stream(stream))
    }

    /// Deletes one message of a stream; returns `false` if it did not exist.
    ///
    /// # Panics
    ///
    /// Panics if the stream does not exist, and on a live server.
    pub fn delete_message(&self, stream: &str, sequence: u64) -> bool {
        self.memory()
            .delete(&self.stream(stream), sequence)
            .unwrap_or_else(|error| panic!("stream `{stream}`: {error}"))
    }

    /// Deletes all messages of a stream; returns their number.
    ///
    /// # Panics
    ///
    /// Panics if the stream does not exist, and on a live server.
    pub fn purge(&self, stream: &str) -> usize {
        self.memory().purge(&self.stream(stream)).unwrap_or_else(|error| panic!("stream `{stream}`: {error}"))
    }

    /// Returns the name of a stream with the prefix of the environment.
    fn stream<'a>(&self, name: &'a str) -> Cow<'a, str> {
        self.broker.transport().settings().known_stream(name)
    }

    fn with_faults(&self, change: impl FnOnce(&mut Faults)) -> &Self {
        self.memory().with_faults(change);
        self
    }

    fn memory(&self) -> &Memory {
        match self.broker.transport() {
            Transport::Memory(memory) => memory,
            Transport::Nats(_) => {
                panic!("faults cannot be injected on a live server; start the broker in memory with `Builder::start`")
            }
        }
    }
}

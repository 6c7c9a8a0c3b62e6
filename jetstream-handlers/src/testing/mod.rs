//! What a user's tests call: the application's own handlers on a broker in memory, with the real worker around them.
//!
//! Decoding, extraction, retries, dead letters and the stop are those of production; only the server is ours,
//! and it keeps to what a nats-server does: `ack_wait`, `max_ack_pending`, missing streams, overlapping subjects.
//!
//! # Examples
//!
//! ```
//! use jetstream_handlers::prelude::*;
//! use jetstream_handlers::testing::TestBroker;
//!
//! #[subscriber(subject = "orders.created", queue = "confirmer")]
//! async fn confirm(order: u64, publisher: Publisher) -> HandlerResult {
//!     publisher.publish("orders.confirmed", &order).await?;
//!     Ok(())
//! }
//!
//! // In a test: `#[tokio::test(start_paused = true)]`, so that retries take no time.
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let broker = TestBroker::builder().include::<confirm>().start().await;
//! broker.publish("orders.created", &7).await; // returns when all that it set off has settled
//! broker.handled::<confirm>().once().with(&7).settled(Settle::Ack);
//! assert_eq!(broker.published::<u64>("orders.confirmed").await, [7]);
//! # }
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::fmt::Write as _;
use std::time::Duration;

use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::stream;
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::broker::{Broker, Running};
use crate::dead_letter::DeadLetter;
use crate::error::Error;
use crate::handler::{Handler, Subscriber, chosen};
use crate::memory::{Faults, Memory};
use crate::observe::recorder::{Call, Recorder};
use crate::outcome::Settle;
use crate::subject::covers;
use crate::transport::Transport;

/// How long a live server may take until everything has settled.
const LIVE_PATIENCE: Duration = Duration::from_secs(30);

/// How often a live server is asked whether everything has settled.
const LIVE_PERIOD: Duration = Duration::from_millis(10);

/// The settings of a [`TestBroker`].
#[derive(Debug)]
#[must_use = "nothing happens before `start`"]
pub struct Builder {
    builder: crate::Builder,
    handlers: Vec<Handler>,
    groups: Vec<String>,
}

impl Builder {
    /// A value that handlers take as `State<T>`; one for each type.
    pub fn state<T: Clone + Send + Sync + 'static>(mut self, value: T) -> Self {
        self.builder = self.builder.state(value);
        self
    }

    /// A stream as it shall be, where the default one will not do.
    pub fn stream(mut self, config: stream::Config) -> Self {
        self.builder = self.builder.stream(config);
        self
    }

    /// Whether streams that are missing are made; yes unless said.
    pub fn auto_create(mut self, create: bool) -> Self {
        self.builder = self.builder.auto_create(create);
        self
    }

    /// Starts this handler, and no longer every one; it may be called for several.
    pub fn include<H: Subscriber>(mut self) -> Self {
        self.handlers.push(Handler::registered(H::registration()));
        self
    }

    /// Starts the handlers of this group, and no longer every one; it may be called for several.
    pub fn group(mut self, group: &str) -> Self {
        self.groups.push(group.to_owned());
        self
    }

    /// Starts the handlers on a broker in memory.
    ///
    /// # Panics
    ///
    /// With everything that is wrong with the handlers.
    pub async fn start(self) -> TestBroker {
        self.try_start().await.unwrap_or_else(|error| panic!("{error:?}"))
    }

    /// Starts the handlers on a broker in memory, for a test of what is wrong with them.
    ///
    /// # Errors
    ///
    /// Those of [`Broker::start_all`].
    pub async fn try_start(self) -> Result<TestBroker, Error> {
        let Self { builder, handlers, groups } = self;
        start(builder.in_memory(), handlers, groups).await
    }

    /// Starts the same handlers on the server at `NATS_URL`, or at `nats://localhost:4222` if that is not set.
    ///
    /// # Panics
    ///
    /// As [`start_live`](Self::start_live) does.
    pub async fn start_on_nats_url(self) -> TestBroker {
        let server = std::env::var("NATS_URL").ok().filter(|url| !url.is_empty());
        self.start_live(server.as_deref().unwrap_or("nats://localhost:4222")).await
    }

    /// Starts the same handlers on a live server, so that the same test shows what that does.
    ///
    /// Give each test a server or an account of its own: what is in its streams already is handled too.
    ///
    /// # Panics
    ///
    /// If there is no such server, and with everything that is wrong with the handlers.
    pub async fn start_live(self, server: &str) -> TestBroker {
        let Self { builder, handlers, groups } = self;
        let broker = builder.servers([server]).connect().await.unwrap_or_else(|error| panic!("{error:?}"));
        start(broker, handlers, groups).await.unwrap_or_else(|error| panic!("{error:?}"))
    }
}

async fn start(broker: Broker, handlers: Vec<Handler>, groups: Vec<String>) -> Result<TestBroker, Error> {
    let recorder = Recorder::default();
    let wanted = match handlers.is_empty() && groups.is_empty() {
        true => Handler::all(),
        false => chosen(handlers, groups.iter().map(String::as_str))?,
    };
    let running = broker.start_recorded(wanted, recorder.clone()).await?;
    let test_broker = TestBroker { broker, running, recorder };
    test_broker.settled().await;
    Ok(test_broker)
}

/// The application's handlers on a broker, and what they did.
///
/// Every assertion panics with the story of the handler that it is about.
#[derive(Debug)]
pub struct TestBroker {
    broker: Broker,
    running: Running,
    recorder: Recorder,
}

impl TestBroker {
    /// Starts every handler that the test was linked with, on a broker in memory.
    ///
    /// # Panics
    ///
    /// With everything that is wrong with the handlers.
    pub async fn start() -> Self {
        Self::builder().start().await
    }

    /// Begins with the settings.
    pub fn builder() -> Builder {
        Builder { builder: Broker::builder(), handlers: Vec::new(), groups: Vec::new() }
    }

    /// The broker itself, for everything that this type has no word for.
    pub fn broker(&self) -> &Broker {
        &self.broker
    }

    /// Publishes a value, and returns when everything that it set off has settled:
    /// what is left waits for its delay, see [`advance`](Self::advance).
    ///
    /// # Panics
    ///
    /// If no stream stores it.
    pub async fn publish<T: Serialize + ?Sized>(&self, subject: &str, value: &T) -> PublishAck {
        let ack = self.broker.publish(subject, value).await.unwrap_or_else(|error| panic!("{error:?}"));
        self.settled().await;
        ack
    }

    /// Publishes bytes as they are, for a payload that does not decode; otherwise as [`publish`](Self::publish).
    ///
    /// # Panics
    ///
    /// If no stream stores it.
    pub async fn publish_bytes(&self, subject: &str, payload: impl Into<Bytes>) -> PublishAck {
        let published = self.broker.publisher().publish_bytes(subject, payload.into()).await;
        let ack = published.unwrap_or_else(|error| panic!("{error:?}"));
        self.settled().await;
        ack
    }

    /// Lets time pass, and returns when everything that became due has settled.
    ///
    /// On a paused clock it takes no time; on a live server it takes all of it.
    pub async fn advance(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
        self.settled().await;
    }

    /// Waits until nothing can be delivered and no handler runs.
    ///
    /// # Panics
    ///
    /// If a live server has not come to rest within half a minute.
    pub async fn settled(&self) {
        match self.broker.transport() {
            Transport::Memory(memory) => memory.idle().await,
            Transport::Nats(_) => {
                let settling = async {
                    while !self.running.is_settled().await {
                        tokio::time::sleep(LIVE_PERIOD).await;
                    }
                };
                let settled = tokio::time::timeout(LIVE_PATIENCE, settling).await;
                assert!(settled.is_ok(), "the handlers have not come to rest within {LIVE_PATIENCE:?}");
            }
        }
    }

    /// What a handler did so far, to assert on.
    #[must_use = "it asserts nothing by itself"]
    pub fn handled<H: Subscriber>(&self) -> Handled {
        let name = H::registration().name;
        Handled { name: name.to_owned(), calls: self.recorder.of(name) }
    }

    /// Every dead letter in the stream `DLQ`.
    ///
    /// # Panics
    ///
    /// If they cannot be read.
    pub async fn dead_letters(&self) -> Vec<DeadLetter> {
        self.broker.dead_letters().list(usize::MAX).await.unwrap_or_else(|error| panic!("{error:?}"))
    }

    /// Every message that lies in a stream on a subject, which may have wildcards, decoded.
    ///
    /// # Panics
    ///
    /// If one does not decode.
    pub async fn published<T: DeserializeOwned>(&self, subject: &str) -> Vec<T> {
        let transport = self.broker.transport();
        let mut found = Vec::new();
        let streams = transport.stream_names(subject).await.unwrap_or_else(|error| panic!("{error}"));
        for stream in streams {
            let mut next = 1;
            while let Some(stored) =
                transport.next_stored(&stream, next).await.unwrap_or_else(|error| panic!("{error:?}"))
            {
                next = stored.sequence + 1;
                if covers(subject, &stored.subject) {
                    let value = serde_json::from_slice(&stored.payload);
                    found.push(value.unwrap_or_else(|error| {
                        panic!("message {} on `{}` does not decode: {error}", stored.sequence, stored.subject)
                    }));
                }
            }
        }
        found
    }

    /// The next `count` acks do not arrive: their messages come again after `ack_wait`.
    pub fn lose_acks(&self, count: usize) -> &Self {
        self.faults(|faults| faults.lose_acks += count)
    }

    /// The process dies right before its next ack: nothing that it has in hand is ever answered, and all of it comes again after `ack_wait`.
    pub fn crash_before_ack(&self) -> &Self {
        self.faults(|faults| faults.crash_before_ack += 1)
    }

    /// The next `count` messages are delivered again although they were acked.
    pub fn redeliver(&self, count: usize) -> &Self {
        self.faults(|faults| faults.redeliver += count)
    }

    /// Of two new messages the later one comes first, from now on.
    pub fn reorder(&self) -> &Self {
        self.faults(|faults| faults.reorder = true)
    }

    /// The next publish to this subject, which may have wildcards, fails.
    pub fn fail_next_publish(&self, subject: &str) -> &Self {
        self.faults(|faults| faults.fail_publishes.push((subject.to_owned(), 1)))
    }

    /// The server takes this long to store each message, from now on.
    pub fn slow_server(&self, delay: Duration) -> &Self {
        self.faults(|faults| faults.publish_delay = delay)
    }

    /// Deletes a consumer while the handlers run; `false` if there was none.
    pub fn delete_consumer(&self, stream: &str, consumer: &str) -> bool {
        self.memory().delete_consumer(stream, consumer)
    }

    /// Deletes a stream with all its messages while the handlers run; `false` if there was none.
    pub fn delete_stream(&self, stream: &str) -> bool {
        self.memory().delete_stream(stream)
    }

    /// Deletes one message of a stream; `false` if there was none.
    ///
    /// # Panics
    ///
    /// If there is no such stream.
    pub fn delete_message(&self, stream: &str, sequence: u64) -> bool {
        self.memory().delete(stream, sequence).unwrap_or_else(|error| panic!("stream `{stream}`: {error}"))
    }

    /// Deletes all messages of a stream; gives their number.
    ///
    /// # Panics
    ///
    /// If there is no such stream.
    pub fn purge(&self, stream: &str) -> usize {
        self.memory().purge(stream).unwrap_or_else(|error| panic!("stream `{stream}`: {error}"))
    }

    fn faults(&self, change: impl FnOnce(&mut Faults)) -> &Self {
        self.memory().with_faults(change);
        self
    }

    fn memory(&self) -> &Memory {
        match self.broker.transport() {
            Transport::Memory(memory) => memory,
            Transport::Nats(_) => panic!("faults can be asked for in memory only, not of a live server"),
        }
    }
}

/// Shows that handlers may get every message twice: the scenario runs once as it is,
/// once with every message delivered again after its ack, and must have the same effects.
///
/// The scenario gets a fresh broker each time, and gives back what to compare.
///
/// # Panics
///
/// If the effects differ.
///
/// # Examples
///
/// ```
/// use jetstream_handlers::prelude::*;
/// use jetstream_handlers::testing::{TestBroker, assert_idempotent};
/// use std::collections::BTreeSet;
/// use std::sync::{Arc, Mutex};
///
/// type Paid = Arc<Mutex<BTreeSet<u64>>>;
///
/// #[subscriber(subject = "invoices.due", queue = "payer")]
/// async fn pay(invoice: u64, State(paid): State<Paid>) {
///     paid.lock().unwrap().insert(invoice);
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// assert_idempotent(async |start| {
///     let paid = Paid::default();
///     let broker = start(TestBroker::builder().include::<pay>().state(paid.clone())).await;
///     broker.publish("invoices.due", &1).await;
///     paid.lock().unwrap().clone()
/// })
/// .await;
/// # }
/// ```
pub async fn assert_idempotent<E, S>(scenario: S)
where
    E: PartialEq + fmt::Debug,
    S: AsyncFn(fn(Builder) -> Starting) -> E,
{
    let once = scenario(|builder| Box::pin(builder.start())).await;
    let twice = scenario(|builder| {
        Box::pin(async move {
            let broker = builder.start().await;
            broker.faults(|faults| faults.redeliver_all = true);
            broker
        })
    })
    .await;
    assert!(
        once == twice,
        "the handlers are not idempotent: with every message once the effects are {once:#?}, with every message twice {twice:#?}"
    );
}

/// A [`TestBroker`] on its way.
pub type Starting = std::pin::Pin<Box<dyn Future<Output = TestBroker>>>;

/// What a handler did, to assert on; each assertion gives it back for the next one.
#[derive(Debug, Clone)]
pub struct Handled {
    name: String,
    calls: Vec<Call>,
}

impl Handled {
    /// Exactly one message was handled, in however many attempts.
    #[track_caller]
    pub fn once(self) -> Self {
        self.times(1)
    }

    /// No message was handled.
    #[track_caller]
    pub fn never(self) -> Self {
        self.times(0)
    }

    /// Exactly so many messages were handled, each in however many attempts.
    #[track_caller]
    pub fn times(self, count: usize) -> Self {
        let found = self.by_message().len();
        assert!(found == count, "expected {count} messages, found {found}; {}", self.story());
        self
    }

    /// One of the messages has this payload.
    #[track_caller]
    pub fn with<T: Serialize + ?Sized>(self, payload: &T) -> Self {
        let wanted = serde_json::to_value(payload).expect("a payload encodes as JSON");
        let found = self
            .calls
            .iter()
            .any(|call| serde_json::from_slice::<Value>(&call.payload).is_ok_and(|found| found == wanted));
        assert!(found, "expected a message with {wanted}; {}", self.story());
        self
    }

    /// The last attempt of every message ended like this.
    #[track_caller]
    pub fn settled(self, settle: Settle) -> Self {
        let ends: Vec<_> =
            self.by_message().values().filter_map(|calls| calls.last()).map(|call| call.settle).collect();
        let same = !ends.is_empty() && ends.iter().all(|end| *end == settle);
        assert!(same, "expected every message to end with {settle:?}; {}", self.story());
        self
    }

    /// Every message was tried again so many times.
    #[track_caller]
    pub fn retried(self, count: usize) -> Self {
        let messages = self.by_message();
        let same = !messages.is_empty() && messages.values().all(|calls| calls.len() == count + 1);
        assert!(same, "expected every message to be retried {count} times; {}", self.story());
        self
    }

    fn by_message(&self) -> BTreeMap<(&str, u64), Vec<&Call>> {
        let mut messages = BTreeMap::<_, Vec<_>>::new();
        for call in &self.calls {
            messages.entry((call.subject.as_str(), call.sequence)).or_default().push(call);
        }
        messages
    }

    /// All that the handler did, in the order of the calls.
    fn story(&self) -> String {
        let mut story = format!("`{}` was called {} times", self.name, self.calls.len());
        for Call { subject, sequence, payload, settle, error, .. } in &self.calls {
            let payload = String::from_utf8_lossy(payload);
            let error = error.as_ref().map_or(String::new(), |error| format!(": {error}"));
            let _ = write!(story, "\n  message {sequence} on {subject} with {payload} -> {settle:?}{error}");
        }
        story
    }
}

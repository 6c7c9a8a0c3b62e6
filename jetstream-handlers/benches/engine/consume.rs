//! Stored messages: pulled, decoded, handled and acked.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_nats::jetstream::consumer::{Consumer, pull};
use async_nats::jetstream::stream;
use futures::{StreamExt as _, TryStreamExt as _};
use jetstream_handlers::Subscribe;
use jetstream_handlers::prelude::*;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use crate::measure::{Figure, Sample};
use crate::order::Order;
#[cfg(rivals)]
use crate::rivals::variants as rivals;
use crate::table::Claim;
use crate::table::Target::{AtLeast, AtMost};
use crate::{Bench, Group, Variant};

pub(crate) const STREAM: &str = "CONSUME";
pub(crate) const SUBJECT: &str = "CONSUME.orders";

/// The maximum duration of a run, also under valgrind.
const MAX_RUN: Duration = Duration::from_secs(300);

/// The `max_ack_pending` of the consumers that this crate creates.
pub(crate) const MAX_ACK_PENDING: i64 = 10_000;

const OURS: &str = "ours";
/// Without a priority group, and so without the pin id header on each message.
const SINGLE: &str = "ours, single instance";
/// Decodes as this crate does.
const TUNED: &str = "async-nats, batch 1000";
/// Decodes as most programs do.
const FROM_SLICE: &str = "async-nats, from_slice";
const DEFAULTS: &str = "async-nats, defaults";
const FETCH: &str = "async-nats, fetch of 10";
pub(crate) const RUSTSTREAM: &str = "ruststream-nats";
pub(crate) const SHOVE: &str = "shove";
pub(crate) const NATS_GO: &str = "nats.go, fetch of 1000";

pub(crate) fn groups() -> Vec<Group> {
    vec![consume(), ordered()]
}

fn consume() -> Group {
    let mut variants = vec![
        Variant::new(OURS, |bench| ours(bench, bench.messages, |handler| handler)),
        Variant::new(TUNED, |bench| messages(bench, 1000, from_str)),
        Variant::new(FROM_SLICE, |bench| messages(bench, 1000, from_slice)),
        Variant::new(DEFAULTS, |bench| messages(bench, 200, from_str)),
        Variant::new(FETCH, fetch),
    ];
    variants.extend(rivals());
    Group {
        name: "consume",
        prepare: fill,
        variants,
        claims: vec![
            Claim::ratio(Figure::Rate, OURS, TUNED, AtLeast(1.0)),
            Claim::ratio(Figure::ClientCpu, OURS, TUNED, AtMost(0.95)),
            Claim::ratio(Figure::ClientCpu, OURS, FROM_SLICE, AtMost(0.9)),
            Claim::ratio(Figure::Rate, OURS, RUSTSTREAM, AtLeast(1.15)),
            Claim::ratio(Figure::ClientCpu, OURS, RUSTSTREAM, AtMost(0.75)),
            Claim::ratio(Figure::Rate, OURS, SHOVE, AtLeast(1.2)),
            Claim::ratio(Figure::Rate, OURS, NATS_GO, AtLeast(1.2)),
            Claim::ratio(Figure::Rate, OURS, FETCH, AtLeast(4.0)),
        ],
    }
}

#[cfg(not(rivals))]
fn rivals() -> Vec<Variant> {
    Vec::new()
}

fn ordered() -> Group {
    Group {
        name: "ordered",
        prepare: fill,
        variants: vec![
            Variant::new(OURS, |bench| ours(bench, bench.messages, |handler| handler.ordered())),
            Variant::new(SINGLE, |bench| ours(bench, bench.messages, |handler| handler.ordered().single_instance())),
            Variant::new(TUNED, |bench| messages(bench, 1000, from_str)),
        ],
        claims: vec![
            Claim::ratio(Figure::Rate, OURS, TUNED, AtLeast(1.35)),
            Claim::ratio(Figure::ServerCpu, OURS, TUNED, AtMost(0.6)),
            Claim::ratio(Figure::Rate, SINGLE, TUNED, AtLeast(1.7)),
            Claim::ratio(Figure::ServerCpu, SINGLE, TUNED, AtMost(0.5)),
        ],
    }
}

/// The stored messages that the runs of a group read.
#[derive(Clone, Copy)]
pub(crate) struct Stored {
    pub(crate) stream: &'static str,
    pub(crate) subject: &'static str,
    pub(crate) messages: u64,
}

impl Stored {
    /// Returns the messages that most groups read.
    pub(crate) fn of_most_groups(messages: u64) -> Self {
        Self { stream: STREAM, subject: SUBJECT, messages }
    }
}

/// Stores the messages that most groups read.
pub(crate) fn fill(bench: &Bench) {
    store(bench, Stored::of_most_groups(bench.messages), Order::new);
}

/// Stores a number of orders.
pub(crate) fn store(bench: &Bench, stored: Stored, order: fn(u64) -> Order) {
    bench.block_on(async {
        let (jetstream, mut stream) = bench.empty_stream(stored.stream).await;
        let acks = futures::stream::iter(0..stored.messages).map(|id| {
            let published = jetstream.publish(stored.subject, order(id).json());
            async { published.await.expect("it can be sent").await }
        });
        acks.buffered(256).try_for_each(async |_| Ok(())).await.expect("the stream stores it");
        let messages = stream.info().await.expect("the stream exists").state.messages;
        assert_eq!(messages, stored.messages, "the stream has what the runs read");
    });
}

/// A handler of this crate for the messages of most groups; see [`returning`].
pub(crate) fn ours(bench: &Bench, messages: u64, adjust: impl FnOnce(Subscribe<'_>) -> Subscribe<'_>) -> Sample {
    returning(bench, Stored::of_most_groups(messages), adjust)
}

/// A handler of this crate that returns at once, with the default settings, except those of `adjust`.
pub(crate) fn returning(bench: &Bench, stored: Stored, adjust: impl FnOnce(Subscribe<'_>) -> Subscribe<'_>) -> Sample {
    handled(bench, stored, |broker, durable| {
        adjust(broker.subscribe(stored.subject, durable, |order: Order, State(seen): State<Seen>| async move {
            black_box(order);
            seen.one_more();
        }))
    })
}

/// A handler of this crate, which calls [`Seen::one_more`] for each message.
pub(crate) fn handled(
    bench: &Bench,
    stored: Stored,
    subscribe: impl for<'a> FnOnce(&'a Broker, &str) -> Subscribe<'a>,
) -> Sample {
    bench.block_on(async {
        let (observer, durable) = (Observer::of(bench, stored.stream).await, &*bench.durable);
        let meter = bench.meter();
        let seen = Seen::until(stored.messages);
        let broker = Broker::builder().servers([bench.url.clone()]).state(seen.clone()).connect().await;
        let broker = broker.expect("the server is running");
        let subscription = subscribe(&broker, durable).await.expect("the handler starts");
        seen.all().await;
        observer.acked(durable, stored.messages).await;
        let sample = meter.stop(stored.messages);
        subscription.unsubscribe().await.expect("the handler stops");
        broker.disconnect().await.expect("the connection ends");
        observer.delete(durable).await;
        sample
    })
}

/// Hand-written code that tunes async-nats.
pub(crate) fn messages(bench: &Bench, batch: usize, decode: impl Fn(&[u8]) -> Order) -> Sample {
    rival(bench, async |consumer| {
        let messages =
            consumer.stream().max_messages_per_batch(batch).messages().await.expect("messages can be requested");
        let mut messages = messages.take(bench.messages as usize);
        while let Some(message) = messages.next().await {
            let message = message.expect("the server is running");
            black_box(decode(&message.payload));
            message.ack().await.expect("the server is running");
        }
    })
}

/// Small batches fetched one by one, as some frameworks do.
fn fetch(bench: &Bench) -> Sample {
    rival(bench, async |consumer| {
        let mut seen = 0;
        while seen < bench.messages {
            let mut batch = consumer.fetch().max_messages(10).messages().await.expect("messages can be requested");
            while let Some(message) = batch.next().await {
                let message = message.expect("the server is running");
                black_box(from_str(&message.payload));
                message.ack().await.expect("the server is running");
                seen += 1;
            }
        }
    })
}

/// Code for async-nats that handles and acks all messages.
pub(crate) fn rival(bench: &Bench, consume: impl AsyncFnOnce(&Consumer<pull::Config>)) -> Sample {
    bench.block_on(async {
        let (observer, durable) = (Observer::of(bench, STREAM).await, &*bench.durable);
        let meter = bench.meter();
        // Its client must live until the last acks are written.
        let consumer = consumer(bench, durable).await;
        consume(&consumer).await;
        observer.acked(durable, bench.messages).await;
        let sample = meter.stop(bench.messages);
        observer.delete(durable).await;
        sample
    })
}

/// A durable consumer with the settings of those that this crate creates.
pub(crate) async fn consumer(bench: &Bench, durable: &str) -> Consumer<pull::Config> {
    let stream = bench.jetstream().await.get_stream(STREAM).await.expect("the stream was filled");
    let config = pull::Config {
        durable_name: Some(durable.to_owned()),
        filter_subject: SUBJECT.to_owned(),
        max_ack_pending: MAX_ACK_PENDING,
        ..Default::default()
    };
    stream.create_consumer(config).await.expect("the consumer can be created")
}

/// Decodes from checked text, as this crate does.
pub(crate) fn from_str(payload: &[u8]) -> Order {
    serde_json::from_str(std::str::from_utf8(payload).expect("it is text")).expect("it is an order")
}

fn from_slice(payload: &[u8]) -> Order {
    serde_json::from_slice(payload).expect("it is an order")
}

/// The number of messages that a handler has received.
#[derive(Clone)]
pub(crate) struct Seen(Arc<(AtomicU64, u64, Notify)>);

impl Seen {
    pub(crate) fn until(messages: u64) -> Self {
        Self(Arc::new((AtomicU64::new(0), messages, Notify::new())))
    }

    pub(crate) fn one_more(&self) {
        let (seen, messages, all) = &*self.0;
        if seen.fetch_add(1, Ordering::Relaxed) + 1 == *messages {
            all.notify_one();
        }
    }

    pub(crate) async fn all(&self) {
        timeout(MAX_RUN, self.0.2.notified()).await.expect("every message is handled within minutes");
    }
}

/// A separate connection that checks the state of the consumer, only when a run waits for its last acks.
pub(crate) struct Observer(stream::Stream);

impl Observer {
    pub(crate) async fn of(bench: &Bench, stream: &str) -> Self {
        Self(bench.jetstream().await.get_stream(stream).await.expect("the stream was filled"))
    }

    /// Waits until the server has the acks of this many messages.
    pub(crate) async fn acked(&self, durable: &str, messages: u64) {
        while self.0.consumer_info(durable).await.expect("the consumer exists").ack_floor.consumer_sequence < messages {
            sleep(Duration::from_millis(1)).await;
        }
    }

    /// Waits until a consumer exists.
    pub(crate) async fn exists(&self, durable: &str) {
        while self.0.consumer_info(durable).await.is_err() {
            sleep(Duration::from_millis(1)).await;
        }
    }

    /// Waits until the server has the acks of all messages.
    pub(crate) async fn all_acked(&self, durable: &str) {
        loop {
            let info = self.0.consumer_info(durable).await.expect("the consumer exists");
            if info.num_pending == 0 && info.num_ack_pending == 0 {
                return;
            }
            sleep(Duration::from_millis(1)).await;
        }
    }

    pub(crate) async fn delete(&self, durable: &str) {
        self.0.delete_consumer(durable).await.expect("the consumer exists");
    }
}

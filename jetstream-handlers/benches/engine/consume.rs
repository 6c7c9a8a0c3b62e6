//! Stored messages: pulled, decoded, handled and acked.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_nats::jetstream::consumer::{Consumer, pull};
use async_nats::jetstream::{self, stream};
use futures::{StreamExt as _, TryStreamExt as _};
use jetstream_handlers::Subscribe;
use jetstream_handlers::prelude::*;
use tokio::sync::Notify;
use tokio::time::sleep;

use crate::measure::{Figure, Sample};
use crate::order::Order;
use crate::table::Claim;
use crate::table::Target::{AtLeast, AtMost};
use crate::{Bench, Group, Variant};

pub(crate) const STREAM: &str = "CONSUME";
pub(crate) const SUBJECT: &str = "CONSUME.orders";

/// The `max_ack_pending` of the consumers that this crate creates.
pub(crate) const MAX_ACK_PENDING: i64 = 10_000;

/// The sleep of the slow handler, and the number of its concurrent calls.
const SLOW: Duration = Duration::from_millis(5);
const SLOW_CONCURRENCY: usize = 64;
const SLOW_OURS: &str = "64 concurrent, 5 ms each";

/// The runtime's timers alone, which round up to milliseconds.
const SLOW_BARE: &str = "64 bare timers";

const OURS: &str = "ours";
/// Without a priority group, and so without the pin id header on each message.
const SINGLE: &str = "ours, single instance";
const TUNED: &str = "async-nats, batch 1000";
const DEFAULTS: &str = "async-nats, defaults";
const FETCH: &str = "async-nats, fetch of 10";
const RUSTSTREAM: &str = "ruststream-nats";

pub(crate) fn groups() -> Vec<Group> {
    let default = |name| Variant::new(name, |bench| ours(bench, bench.messages, Duration::ZERO, |handler| handler));
    vec![
        Group {
            name: "consume",
            prepare: fill,
            variants: vec![
                default(OURS),
                Variant::new(TUNED, |bench| messages(bench, 1000)),
                #[cfg(rivals)]
                Variant::new(RUSTSTREAM, crate::rivals::ruststream),
                Variant::new(DEFAULTS, |bench| messages(bench, 200)),
                Variant::new(FETCH, fetch),
            ],
            claims: vec![
                Claim::ratio(Figure::Rate, OURS, TUNED, AtLeast(1.0)),
                Claim::ratio(Figure::ClientCpu, OURS, TUNED, AtMost(0.95)),
                Claim::ratio(Figure::Rate, OURS, RUSTSTREAM, AtLeast(1.15)),
                Claim::ratio(Figure::ClientCpu, OURS, RUSTSTREAM, AtMost(0.7)),
                Claim::ratio(Figure::Rate, OURS, FETCH, AtLeast(4.0)),
            ],
        },
        Group {
            name: "ordered",
            prepare: fill,
            variants: vec![
                Variant::new(OURS, |bench| ours(bench, bench.messages, Duration::ZERO, |handler| handler.ordered())),
                Variant::new(SINGLE, |bench| {
                    ours(bench, bench.messages, Duration::ZERO, |handler| handler.ordered().single_instance())
                }),
                Variant::new(TUNED, |bench| messages(bench, 1000)),
            ],
            claims: vec![
                Claim::ratio(Figure::Rate, OURS, TUNED, AtLeast(1.8)),
                Claim::ratio(Figure::ServerCpu, OURS, TUNED, AtMost(0.6)),
                Claim::ratio(Figure::Rate, SINGLE, TUNED, AtLeast(1.8)),
                Claim::ratio(Figure::ServerCpu, SINGLE, TUNED, AtMost(0.6)),
            ],
        },
        Group {
            name: "concurrency",
            prepare: fill,
            variants: vec![
                default("concurrency 1"),
                Variant::new("concurrency 16", |bench| {
                    ours(bench, bench.messages, Duration::ZERO, |handler| handler.concurrency(16))
                }),
            ],
            claims: vec![Claim::ratio(Figure::ClientCpu, "concurrency 16", "concurrency 1", AtMost(1.15))],
        },
        Group {
            name: "slow",
            prepare: fill,
            variants: vec![
                Variant::new(SLOW_OURS, |bench| {
                    let run = ours(bench, bench.messages / 5, SLOW, |handler| handler.concurrency(SLOW_CONCURRENCY));
                    of_ideal(run)
                }),
                Variant::new(SLOW_BARE, |bench| of_ideal(bare_sleeps(bench))),
            ],
            claims: vec![
                Claim::figure(Figure::OfIdeal, SLOW_OURS, AtLeast(90.0)),
                Claim::ratio(Figure::Rate, SLOW_OURS, SLOW_BARE, AtLeast(0.9)),
            ],
        },
    ]
}

fn of_ideal(mut sample: Sample) -> Sample {
    let ideal = SLOW_CONCURRENCY as f64 / SLOW.as_secs_f64();
    sample.insert(Figure::OfIdeal, 100.0 * sample[&Figure::Rate] / ideal);
    sample
}

fn bare_sleeps(bench: &Bench) -> Sample {
    let messages = bench.messages / 5;
    bench.block_on(async {
        let meter = bench.meter();
        futures::stream::iter(0..messages).for_each_concurrent(SLOW_CONCURRENCY, |_| sleep(SLOW)).await;
        meter.stop(messages)
    })
}

/// Stores the messages that all runs read.
fn fill(bench: &Bench) {
    bench.block_on(async {
        let (jetstream, mut stream) = bench.empty_stream(STREAM).await;
        let acks = futures::stream::iter(0..bench.messages).map(|id| {
            let published = jetstream.publish(SUBJECT, Order::new(id).json());
            async { published.await.expect("it can be sent").await }
        });
        acks.buffered(256).try_for_each(async |_| Ok(())).await.expect("the stream stores it");
        let stored = stream.info().await.expect("the stream exists").state.messages;
        assert_eq!(stored, bench.messages, "the stream has what the runs read");
    });
}

/// A handler of this crate with the default settings, except those of `adjust`.
fn ours(bench: &Bench, messages: u64, pause: Duration, adjust: fn(Subscribe<'_>) -> Subscribe<'_>) -> Sample {
    bench.block_on(async {
        let (observer, durable) = (Observer::of(bench, STREAM).await, &*bench.durable);
        let meter = bench.meter();
        let seen = Seen::until(messages);
        let broker = Broker::builder().servers([bench.url.clone()]).state(seen.clone()).connect().await;
        let broker = broker.expect("the server is running");
        let subscribe = broker.subscribe(SUBJECT, durable, move |order: Order, State(seen): State<Seen>| async move {
            if !pause.is_zero() {
                sleep(pause).await;
            }
            black_box(order);
            seen.one_more();
        });
        let subscription = adjust(subscribe).await.expect("the handler starts");
        seen.all().await;
        observer.acked(durable, messages).await;
        let sample = meter.stop(messages);
        subscription.unsubscribe().await.expect("the handler stops");
        broker.disconnect().await.expect("the connection ends");
        observer.delete(durable).await;
        sample
    })
}

/// Hand-written code that tunes async-nats.
fn messages(bench: &Bench, batch: usize) -> Sample {
    bench.block_on(async {
        let (observer, durable) = (Observer::of(bench, STREAM).await, &*bench.durable);
        let meter = bench.meter();
        let consumer = consumer(bench, durable).await;
        let messages =
            consumer.stream().max_messages_per_batch(batch).messages().await.expect("messages can be requested");
        let mut messages = messages.take(bench.messages as usize);
        while let Some(message) = messages.next().await {
            handle(&message.expect("the server is running")).await;
        }
        observer.acked(durable, bench.messages).await;
        let sample = meter.stop(bench.messages);
        observer.delete(durable).await;
        sample
    })
}

/// Small batches fetched one by one, as some frameworks do.
fn fetch(bench: &Bench) -> Sample {
    bench.block_on(async {
        let (observer, durable) = (Observer::of(bench, STREAM).await, &*bench.durable);
        let meter = bench.meter();
        let consumer = consumer(bench, durable).await;
        let mut seen = 0;
        while seen < bench.messages {
            let mut batch = consumer.fetch().max_messages(10).messages().await.expect("messages can be requested");
            while let Some(message) = batch.next().await {
                handle(&message.expect("the server is running")).await;
                seen += 1;
            }
        }
        observer.acked(durable, bench.messages).await;
        let sample = meter.stop(bench.messages);
        observer.delete(durable).await;
        sample
    })
}

/// A durable consumer with the settings of those that this crate creates.
async fn consumer(bench: &Bench, durable: &str) -> Consumer<pull::Config> {
    let stream = bench.jetstream().await.get_stream(STREAM).await.expect("the stream was filled");
    let config = pull::Config {
        durable_name: Some(durable.to_owned()),
        filter_subject: SUBJECT.to_owned(),
        max_ack_pending: MAX_ACK_PENDING,
        ..Default::default()
    };
    stream.create_consumer(config).await.expect("the consumer can be created")
}

async fn handle(message: &jetstream::Message) {
    black_box(serde_json::from_slice::<Order>(&message.payload).expect("it is an order"));
    message.ack().await.expect("the server is running");
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
        self.0.2.notified().await;
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

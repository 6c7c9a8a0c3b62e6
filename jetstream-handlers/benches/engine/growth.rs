//! The same work with more of one thing: concurrent calls, stored messages, replicas.

use std::future::IntoFuture as _;
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::try_join_all;
use jetstream_handlers::prelude::*;
use tokio::time::sleep;

use crate::consume::{Observer, STREAM, SUBJECT, Seen, Stored, fill, handled, ours, returning, store};
use crate::measure::{Figure, Sample};
use crate::order::Order;
use crate::table::Claim;
use crate::table::Target::{AtLeast, AtMost};
use crate::{Bench, Group, Variant};

/// The most by which a figure may differ between the smallest and the largest size.
const FLAT: f64 = 1.15;

/// The sleep of the slow handler, and the number of its concurrent calls.
const SLOW: Duration = Duration::from_millis(5);
const SLOW_CONCURRENCY: usize = 64;
const SLOW_OURS: &str = "64 concurrent, 5 ms each";

/// The runtime's timers alone, which round up to milliseconds.
const SLOW_BARE: &str = "64 bare timers";

/// The subject of the larger backlog, and how many times the messages of the smaller one it has.
const BACKLOG: &str = "BACKLOG.orders";
const MORE: u64 = 10;

pub(crate) fn groups() -> Vec<Group> {
    vec![concurrency(), waiting(), slow(), backlog(), replicas()]
}

/// Handlers that return at once, where the cost of a slot shows.
fn concurrency() -> Group {
    let calls = |name, calls| {
        Variant::new(name, move |bench| ours(bench, bench.messages, move |handler| handler.concurrency(calls)))
    };
    let flat = |of| Claim::ratio(Figure::ClientCpu, of, "concurrency 1", AtMost(FLAT));
    Group {
        name: "concurrency",
        prepare: fill,
        variants: vec![
            calls("concurrency 1", 1),
            calls("concurrency 16", 16),
            calls("concurrency 256", 256),
            calls("concurrency 4096", 4096),
        ],
        claims: vec![flat("concurrency 16"), flat("concurrency 256"), flat("concurrency 4096")],
    }
}

/// Handlers that wait, so that most slots are busy.
fn waiting() -> Group {
    let calls =
        |name, calls| Variant::new(name, move |bench| pausing(bench, bench.messages, Duration::from_millis(1), calls));
    Group {
        name: "concurrency, 1 ms each",
        prepare: fill,
        variants: vec![
            calls("64 calls", 64),
            calls("256 calls", 256),
            calls("1024 calls", 1024),
            calls("2048 calls", 2048),
            calls("4096 calls", 4096),
        ],
        claims: vec![Claim::ratio(Figure::Rate, "4096 calls", "256 calls", AtLeast(0.9))],
    }
}

fn slow() -> Group {
    Group {
        name: "slow",
        prepare: fill,
        variants: vec![
            Variant::new(SLOW_OURS, |bench| of_ideal(pausing(bench, bench.messages / 5, SLOW, SLOW_CONCURRENCY))),
            Variant::new(SLOW_BARE, |bench| of_ideal(bare_sleeps(bench))),
        ],
        claims: vec![
            Claim::figure(Figure::OfIdeal, SLOW_OURS, AtLeast(90.0)),
            Claim::ratio(Figure::Rate, SLOW_OURS, SLOW_BARE, AtLeast(0.9)),
        ],
    }
}

fn pausing(bench: &Bench, messages: u64, pause: Duration, calls: usize) -> Sample {
    handled(bench, Stored::of_most_groups(messages), |broker, durable| {
        let handler = move |order: Order, State(seen): State<Seen>| async move {
            sleep(pause).await;
            black_box(order);
            seen.one_more();
        };
        broker.subscribe(SUBJECT, durable, handler).concurrency(calls)
    })
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

/// A stream that is read to its end.
fn backlog() -> Group {
    Group {
        name: "backlog",
        prepare: |bench| {
            fill(bench);
            store(bench, larger(bench), Order::new);
        },
        variants: vec![
            Variant::new("messages", |bench| ours(bench, bench.messages, |handler| handler)),
            Variant::new("messages × 10", |bench| returning(bench, larger(bench), |handler| handler)),
        ],
        claims: vec![
            Claim::ratio(Figure::Rate, "messages × 10", "messages", AtLeast(0.85)),
            Claim::ratio(Figure::PeakMemory, "messages × 10", "messages", AtMost(FLAT)),
        ],
    }
}

fn larger(bench: &Bench) -> Stored {
    Stored { stream: "BACKLOG", subject: BACKLOG, messages: MORE * bench.messages }
}

/// Connections of one process, which share a consumer as the replicas of a service do.
fn replicas() -> Group {
    let replicas = |name, count| Variant::new(name, move |bench| shared(bench, count));
    Group {
        name: "replicas",
        prepare: fill,
        variants: vec![replicas("1 replica", 1), replicas("4 replicas", 4), replicas("16 replicas", 16)],
        claims: Vec::new(),
    }
}

fn shared(bench: &Bench, replicas: usize) -> Sample {
    bench.block_on(async {
        let (observer, durable) = (Observer::of(bench, STREAM).await, &*bench.durable);
        let meter = bench.meter();
        let seen = Seen::until(bench.messages);
        let mut brokers = Vec::with_capacity(replicas);
        for _ in 0..replicas {
            brokers.push(Broker::connect(bench.url.clone()).await.expect("the server is running"));
        }
        let shares: Vec<_> = brokers.iter().map(|_| Arc::new(AtomicU64::new(0))).collect();
        // They start together: the first one alone would delay the start of the others, on the same thread.
        let starting = brokers.iter().zip(&shares).map(|(broker, share)| {
            let counters = (share.clone(), seen.clone());
            let handler = move |order: Order| {
                let (share, total) = counters.clone();
                async move {
                    black_box(order);
                    share.fetch_add(1, Ordering::Relaxed);
                    total.one_more();
                }
            };
            broker.subscribe(SUBJECT, durable, handler).into_future()
        });
        let subscriptions = try_join_all(starting).await.expect("the handlers start");
        seen.all().await;
        observer.acked(durable, bench.messages).await;
        let mut sample = meter.stop(bench.messages);
        let least = shares.iter().map(|share| share.load(Ordering::Relaxed)).min().expect("it has replicas");
        sample.insert(Figure::LeastShare, 100.0 * (least * replicas as u64) as f64 / bench.messages as f64);
        for (broker, subscription) in brokers.iter().zip(subscriptions) {
            subscription.unsubscribe().await.expect("the handler stops");
            broker.disconnect().await.expect("the connection ends");
        }
        observer.delete(durable).await;
        sample
    })
}

//! The cost of idle handlers.

use std::time::{Duration, Instant};

use async_nats::jetstream::consumer::pull;
use futures::StreamExt as _;
use jetstream_handlers::prelude::*;
use tokio::time::sleep;

use crate::measure::{Figure, Sample, cpu, status};
use crate::order::Order;
use crate::table::Claim;
use crate::table::Target::AtMost;
use crate::{Bench, Group, Variant};

/// The most consumers that the server permits on a stream.
const PER_STREAM: usize = 1000;

/// The measured time, in which the requests last 5 s and then 30 s; they last for minutes later.
const IDLE: Duration = Duration::from_secs(30);

const OURS: &str = "ours";
const RIVAL: &str = "async-nats";
const FEW: &str = "ours, 100 handlers";
const MANY: &str = "ours, 5000 handlers";

pub(crate) fn groups() -> Vec<Group> {
    vec![Group {
        name: "idle",
        // All runs use the durable consumers created here.
        prepare: |bench| {
            bench.block_on(async {
                for number in (0..5000).step_by(PER_STREAM) {
                    bench.empty_stream(&stream(number)).await;
                }
                ours(bench, 5000).await;
            });
        },
        variants: vec![
            Variant::new(OURS, |bench| run(bench, 1000, ours)),
            Variant::new(RIVAL, |bench| run(bench, 1000, async_nats)),
            Variant::new(FEW, |bench| run(bench, 100, ours)),
            Variant::new(MANY, |bench| run(bench, 5000, ours)),
        ],
        claims: vec![
            Claim::figure(Figure::MemoryPerHandler, OURS, AtMost(4.0)),
            Claim::figure(Figure::IdleCpu, OURS, AtMost(0.1)),
            Claim::figure(Figure::Threads, OURS, AtMost(0.0)),
            Claim::ratio(Figure::MemoryPerHandler, MANY, OURS, AtMost(1.15)),
            Claim::ratio(Figure::StartTime, MANY, OURS, AtMost(1.15)),
        ],
    }]
}

fn stream(handler: usize) -> String {
    format!("IDLE-{}", handler / PER_STREAM)
}

fn run(bench: &Bench, handlers: usize, start: impl AsyncFnOnce(&Bench, usize)) -> Sample {
    let process = std::process::id();
    bench.block_on(async {
        // The first connection allocates memory that is not the handlers'.
        drop(bench.jetstream().await);
        let (memory, threads) = (status(process, "VmRSS"), status(process, "Threads"));
        let began = Instant::now();
        start(bench, handlers).await;
        let started = began.elapsed();
        // By then the server has received the first pull request of each handler.
        sleep(Duration::from_secs(1)).await;
        let (memory, threads) = (status(process, "VmRSS") - memory, status(process, "Threads") - threads);
        let (before, began) = (cpu(process), Instant::now());
        sleep(IDLE).await;
        let busy = (cpu(process) - before).as_secs_f64() / began.elapsed().as_secs_f64();
        Sample::from([
            (Figure::MemoryPerHandler, memory / handlers as f64),
            (Figure::Threads, threads),
            (Figure::IdleCpu, 100.0 * busy),
            (Figure::StartTime, 1000.0 * started.as_secs_f64() / handlers as f64),
        ])
    })
}

async fn ours(bench: &Bench, handlers: usize) {
    let broker = Broker::connect(bench.url.clone()).await.expect("the server is running");
    for number in 0..handlers {
        let subject = format!("{}.orders", stream(number));
        let subscribe = broker.subscribe(subject, &format!("handler-{number}"), async |order: Order| drop(order));
        // The handler keeps running when its `Subscription` is dropped.
        _ = subscribe.await.expect("the handler starts");
    }
}

async fn async_nats(bench: &Bench, handlers: usize) {
    let jetstream = bench.jetstream().await;
    for number in 0..handlers {
        let stream = jetstream.get_stream_no_info(stream(number)).await.expect("the name is valid");
        let consumer = stream.get_consumer::<pull::Config>(&format!("handler-{number}")).await;
        let mut messages = consumer.expect("the consumer exists").messages().await.expect("messages can be requested");
        tokio::spawn(async move { while messages.next().await.is_some() {} });
    }
}

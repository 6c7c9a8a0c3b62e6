//! The cost of a thousand idle handlers.

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

const STREAM: &str = "IDLE";
const SUBJECT: &str = "IDLE.orders";
const HANDLERS: usize = 1000;

/// The measured time: the default lifetime of a pull request, to include its heartbeats and its renewal.
const IDLE: Duration = Duration::from_secs(30);

const OURS: &str = "ours";
const RIVAL: &str = "async-nats";

pub(crate) fn groups() -> Vec<Group> {
    vec![Group {
        name: "idle",
        // All runs use the durable consumers created here.
        prepare: |bench| {
            bench.block_on(async {
                bench.empty_stream(STREAM).await;
                ours(bench).await;
            });
        },
        variants: vec![
            Variant::new(OURS, |bench| run(bench, ours)),
            Variant::new(RIVAL, |bench| run(bench, async_nats)),
        ],
        claims: vec![
            Claim::figure(Figure::MemoryPerHandler, OURS, AtMost(4.0)),
            Claim::figure(Figure::IdleCpu, OURS, AtMost(0.1)),
            Claim::figure(Figure::Threads, OURS, AtMost(0.0)),
        ],
    }]
}

fn run(bench: &Bench, start: impl AsyncFnOnce(&Bench)) -> Sample {
    bench.block_on(async {
        // The first connection allocates memory that is not the handlers'.
        drop(bench.jetstream().await);
        let (memory, threads) = (status("VmRSS"), status("Threads"));
        start(bench).await;
        // By then the server has received the first pull request of each handler.
        sleep(Duration::from_secs(1)).await;
        let (memory, threads) = (status("VmRSS") - memory, status("Threads") - threads);
        let (before, began) = (cpu(std::process::id()), Instant::now());
        sleep(IDLE).await;
        let busy = (cpu(std::process::id()) - before).as_secs_f64() / began.elapsed().as_secs_f64();
        Sample::from([
            (Figure::MemoryPerHandler, memory / HANDLERS as f64),
            (Figure::Threads, threads),
            (Figure::IdleCpu, 100.0 * busy),
        ])
    })
}

async fn ours(bench: &Bench) {
    let broker = Broker::connect(bench.url.clone()).await.expect("the server is running");
    for number in 0..HANDLERS {
        let subscribe = broker.subscribe(SUBJECT, &format!("handler-{number}"), async |order: Order| drop(order));
        // The handler keeps running when its `Subscription` is dropped.
        _ = subscribe.await.expect("the handler starts");
    }
}

async fn async_nats(bench: &Bench) {
    let stream = bench.jetstream().await.get_stream(STREAM).await.expect("the stream exists");
    for number in 0..HANDLERS {
        let consumer = stream.get_consumer::<pull::Config>(&format!("handler-{number}")).await;
        let mut messages = consumer.expect("the consumer exists").messages().await.expect("messages can be requested");
        tokio::spawn(async move { while messages.next().await.is_some() {} });
    }
}

//! A worker in its steady state allocates no more per message than the client library.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::{StreamExt as _, TryStreamExt as _};
use jetstream_handlers::async_nats::Client;
use jetstream_handlers::prelude::*;
use jetstream_handlers_tests::{SOON, Server, eventually};

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

/// The allocations are counted between the messages `FROM` and `TO`.
const FROM: u64 = 8_000;
const TO: u64 = 16_000;
const LAST: u64 = 20_000;

/// Counts the allocations between two messages.
#[derive(Debug, Default)]
struct Counter {
    received: AtomicU64,
    started: AtomicU64,
    counted: AtomicU64,
}

impl Counter {
    fn one_more(&self) {
        match self.received.fetch_add(1, Ordering::Relaxed) {
            FROM => self.started.store(dhat::HeapStats::get().total_blocks, Ordering::Relaxed),
            TO => {
                let counted = dhat::HeapStats::get().total_blocks - self.started.load(Ordering::Relaxed);
                self.counted.store(counted, Ordering::Relaxed);
            }
            _ => {}
        }
    }

    fn per_message(&self) -> f64 {
        self.counted.load(Ordering::Relaxed) as f64 / (TO - FROM) as f64
    }
}

async fn handled(counter: &Counter) {
    eventually("all are handled", SOON, async || (counter.received.load(Ordering::Relaxed) >= LAST).then_some(()))
        .await;
}

/// Returns the allocations per message of a handler.
async fn with_a_handler(broker: &Broker, queue: &str, concurrency: usize, ordered: bool) -> f64 {
    let counter = Arc::new(Counter::default());
    let handler = {
        let counter = counter.clone();
        move |_: u64| {
            counter.one_more();
            async {}
        }
    };
    let subscribe = broker.subscribe("work.counted", queue, handler).concurrency(concurrency);
    let subscribe = if ordered { subscribe.ordered().single_instance() } else { subscribe };
    let subscription = subscribe.await.unwrap();
    handled(&counter).await;
    subscription.unsubscribe().await.unwrap();
    counter.per_message()
}

/// Returns the allocations per message of the client library alone, with pull requests of 500 messages.
async fn with_the_client_alone(client: &Client, consumer: &str) -> f64 {
    let counter = Counter::default();
    let inbox = client.new_inbox();
    let mut messages = client.subscribe(inbox.clone()).await.unwrap();
    while counter.received.load(Ordering::Relaxed) < LAST {
        let next = format!("$JS.API.CONSUMER.MSG.NEXT.WORK.{consumer}");
        client.publish_with_reply(next, inbox.clone(), r#"{"batch":500}"#.into()).await.unwrap();
        for _ in 0..500 {
            let message = messages.next().await.unwrap();
            counter.one_more();
            client.publish(message.reply.unwrap(), "+ACK".into()).await.unwrap();
        }
    }
    counter.per_message()
}

#[tokio::test]
async fn message_allocates_no_more_than_the_client_library() {
    let server = Server::start().await;
    let broker = Broker::connect(server.url()).await.unwrap();
    broker.publish("work.counted", &0).await.unwrap();
    let jetstream = server.jetstream().await;
    // Without headers, whose map would need one allocation per message.
    let acks = futures::stream::iter(1..=LAST).map(|id| {
        let published = jetstream.publish("work.counted", id.to_string().into());
        async { published.await.unwrap().await }
    });
    acks.buffered(256).try_for_each(async |_| Ok(())).await.unwrap();
    let stream = jetstream.get_stream("WORK").await.unwrap();
    let config = jetstream_handlers::async_nats::jetstream::consumer::pull::Config {
        durable_name: Some("plain".into()),
        max_ack_pending: 10_000,
        ..Default::default()
    };
    stream.create_consumer(config).await.unwrap();

    let _profiler = dhat::Profiler::builder().testing().build();
    let client = with_the_client_alone(&server.client().await, "plain").await;
    let one = with_a_handler(&broker, "one", 1, false).await;
    let many = with_a_handler(&broker, "many", 16, false).await;
    let ordered = with_a_handler(&broker, "ordered", 1, true).await;
    println!(
        "allocations a message: client {client:.3}, handler {one:.3}, sixteen at once {many:.3}, ordered {ordered:.3}"
    );
    // The margin is for resized queues of the client library and for pull requests, which ask for less on a busy
    // machine; one allocation per message would be 1.
    for allocations in [one, many, ordered] {
        assert!(allocations < client + 0.8, "handler {allocations}, client {client}");
    }
}

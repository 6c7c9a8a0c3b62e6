//! Large messages: what is requested and buffered is bounded in bytes.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

use std::sync::atomic::Ordering;

use jetstream_handlers::prelude::*;
use jetstream_handlers::{Health, Message, Subscription};
use jetstream_handlers_tests::{Proxy, Recorder, Server, connect, ms, stream_config, until_health};

/// Returns a handler that takes a while, and records the first byte of each message and its deliveries.
fn slow(
    handled: &Recorder<(u8, u64)>,
) -> impl Fn(Message) -> futures::future::BoxFuture<'static, ()> + Send + Sync + use<> {
    let handled = handled.clone();
    move |message: Message| {
        let handled = handled.clone();
        Box::pin(async move {
            tokio::time::sleep(ms(2)).await;
            handled.add((message.payload()[0], message.info().delivered()));
        })
    }
}

fn connects(broker: &Broker) -> u64 {
    broker.client().unwrap().statistics().connects.load(Ordering::Relaxed)
}

#[tokio::test]
async fn large_messages_are_delivered_once_on_one_connection() {
    let server = Server::start().await;
    server.jetstream().await.create_stream(stream_config("WORK", &["work.>"])).await.unwrap();
    let broker = connect(&server).await;
    for id in 0..200 {
        broker.publisher().publish_bytes("work.a", vec![id; 1024 * 1024 - 1024]).await.unwrap();
    }
    let handled = Recorder::default();
    let subscription =
        broker.subscribe("work.>", "worker", slow(&handled)).concurrency(4).ack_wait(secs(2)).await.unwrap();
    handled.until_distinct(200).await;
    server.all_acked("WORK", "worker").await;
    assert_eq!(handled.len(), 200, "each once");
    assert!(handled.items().iter().all(|(_, delivered)| *delivered == 1), "none is redelivered");
    assert_eq!(connects(&broker), 1, "the connection is kept");
    subscription.unsubscribe().await.unwrap();
}

#[tokio::test]
async fn message_above_the_bound_is_delivered() {
    let server = Server::builder().config("max_payload: 33554432\nmax_pending: 134217728").start().await;
    server.jetstream().await.create_stream(stream_config("WORK", &["work.>"])).await.unwrap();
    let broker = connect(&server).await;
    let handled = Recorder::default();
    let subscription = broker.subscribe("work.>", "worker", slow(&handled)).concurrency(2).await.unwrap();
    for (id, megabytes) in [(1, 1), (2, 20), (3, 1), (4, 20)] {
        broker.publisher().publish_bytes("work.a", vec![id; megabytes * 1024 * 1024]).await.unwrap();
    }
    handled.until_distinct(4).await;
    server.all_acked("WORK", "worker").await;
    assert_eq!(handled.len(), 4, "each once");
    assert_eq!(connects(&broker), 1, "the connection is kept");
    subscription.unsubscribe().await.unwrap();
}

/// Twelve handlers on one connection, and messages that together are larger than what the server queues for it.
struct Large {
    publisher: Broker,
    broker: Broker,
    handled: Recorder<(u8, u64)>,
    _subscriptions: Vec<Subscription>,
    proxy: Proxy,
    _server: Server,
}

impl Large {
    const HANDLERS: u8 = 12;

    /// Starts the handlers; the rate of their connection is in bytes per second, and 0 is no limit.
    async fn start(rate: u64) -> Self {
        let server = Server::builder().config("max_payload: 16777216").start().await;
        for (stream, subject) in [("WORK", "work.>"), ("DLQ", "dlq.>")] {
            server.jetstream().await.create_stream(stream_config(stream, &[subject])).await.unwrap();
        }
        let proxy = Proxy::start(server.address()).await;
        proxy.limit_rate(rate);
        let (publisher, broker) = (connect(&server).await, connect(&proxy).await);
        let (handled, mut subscriptions) = (Recorder::default(), Vec::new());
        for number in 0..Self::HANDLERS {
            let handler = slow(&handled);
            let subscription = broker.subscribe(format!("work.{number}"), &format!("worker-{number}"), handler);
            subscriptions.push(subscription.ack_wait(secs(60)).await.unwrap());
        }
        Self { publisher, broker, handled, _subscriptions: subscriptions, proxy, _server: server }
    }

    /// Publishes a message for each handler.
    async fn publish(&self, round: u8) {
        for number in 0..Self::HANDLERS {
            let payload = vec![round * Self::HANDLERS + number; 8_000_000];
            self.publisher.publisher().publish_bytes(&format!("work.{number}"), payload).await.unwrap();
        }
    }
}

#[tokio::test]
async fn handlers_of_one_connection_share_the_bound() {
    // Slower than the server sends, which would end the connection with 64 MiB that are not read.
    let large = Large::start(20_000_000).await;
    large.publish(0).await;
    large.handled.until_distinct(12).await;
    assert_eq!(large.handled.len(), 12, "each once");
    assert_eq!(connects(&large.broker), 1, "the connection is kept");
}

#[tokio::test]
async fn handlers_recover_from_a_pause_of_the_connection() {
    let large = Large::start(0).await;
    // Each handler learns how large its messages are.
    large.publish(0).await;
    large.handled.until_distinct(12).await;
    large.proxy.pause();
    large.publish(1).await;
    large.publish(2).await;
    until_health(&large.broker, "the connection is given up", |health| !health.connected).await;
    large.proxy.resume();
    large.handled.until_distinct(36).await;
    until_health(&large.broker, "healthy", Health::is_healthy).await;
    assert!(connects(&large.broker) <= 3, "{} connections", connects(&large.broker));
    assert!(large.publisher.dead_letters().list(1).await.unwrap().is_empty());
}

#[tokio::test]
async fn slow_connection_is_kept() {
    // The server ends a connection that does not take all that waits for it within this time.
    let server = Server::builder().config("write_deadline: \"3s\"").start().await;
    server.jetstream().await.create_stream(stream_config("WORK", &["work.>"])).await.unwrap();
    let proxy = Proxy::start(server.address()).await;
    proxy.limit_rate(2_000_000);
    let (publisher, broker) = (connect(&server).await, connect(&proxy).await);
    for id in 0..16 {
        publisher.publisher().publish_bytes("work.a", vec![id; 1_000_000]).await.unwrap();
    }
    let handled = Recorder::default();
    let _subscription = broker.subscribe("work.>", "worker", slow(&handled)).concurrency(4).await.unwrap();
    handled.until_distinct(16).await;
    assert_eq!(handled.len(), 16, "each once");
    assert_eq!(connects(&broker), 1, "the connection is kept");
}

#[tokio::test]
async fn handlers_behind_large_messages_of_others_are_healthy() {
    const HANDLERS: u8 = 6;
    let server = Server::builder().config("max_payload: 8388608").start().await;
    server.jetstream().await.create_stream(stream_config("WORK", &["work.>"])).await.unwrap();
    let proxy = Proxy::start(server.address()).await;
    // What all handlers request together takes longer than two heartbeats.
    proxy.limit_rate(5_000_000);
    let publisher = connect(&server).await;
    let broker = Broker::builder().servers([proxy.url()]).fetch_wait(secs(1)).connect().await.unwrap();
    let (handled, mut subscriptions) = (Recorder::default(), Vec::new());
    for number in 0..HANDLERS {
        let subscription = broker.subscribe(format!("work.{number}"), &format!("worker-{number}"), slow(&handled));
        subscriptions.push(subscription.ack_wait(secs(60)).await.unwrap());
    }
    for id in 0..HANDLERS * 2 {
        let subject = format!("work.{}", id % HANDLERS);
        publisher.publisher().publish_bytes(&subject, vec![id; 2_000_000]).await.unwrap();
    }
    let watched = async {
        loop {
            let health = broker.health();
            assert!(health.is_healthy(), "{health}");
            tokio::time::sleep(ms(10)).await;
        }
    };
    tokio::select! {
        () = watched => {}
        _ = handled.until_distinct(usize::from(HANDLERS) * 2) => {}
    }
    assert_eq!(handled.len(), usize::from(HANDLERS) * 2, "each once");
    assert!(handled.items().iter().all(|(_, delivered)| *delivered == 1), "none is redelivered");
    assert_eq!(connects(&broker), 1, "the connection is kept");
}

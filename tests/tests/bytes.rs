//! Large messages: what is requested and buffered is bounded in bytes.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

use std::sync::atomic::Ordering;

use jetstream_handlers::Message;
use jetstream_handlers::prelude::*;
use jetstream_handlers_tests::{Proxy, Recorder, Server, connect, ms, stream_config};

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

#[tokio::test]
async fn handlers_of_one_connection_share_the_bound() {
    let server = Server::builder().config("max_payload: 16777216").start().await;
    server.jetstream().await.create_stream(stream_config("WORK", &["work.>"])).await.unwrap();
    let proxy = Proxy::start(server.address()).await;
    let (publisher, broker) = (connect(&server).await, connect(&proxy).await);
    let handled = Recorder::default();
    let mut subscriptions = Vec::new();
    for number in 0..12 {
        let subject = format!("work.{number}");
        subscriptions.push(
            broker.subscribe(&subject, &format!("worker-{number}"), slow(&handled)).ack_wait(secs(60)).await.unwrap(),
        );
    }
    // Each handler learns how large its messages are.
    let publish = async |round: u8| {
        for number in 0..12 {
            let payload = vec![round * 12 + number; 8_000_000];
            publisher.publisher().publish_bytes(&format!("work.{number}"), payload).await.unwrap();
        }
    };
    publish(0).await;
    handled.until_distinct(12).await;
    // The server would end the connection with 64 MiB that are not read.
    proxy.pause();
    publish(1).await;
    publish(2).await;
    proxy.resume();
    handled.until_distinct(36).await;
    assert_eq!(handled.len(), 36, "each once");
    assert_eq!(connects(&broker), 1, "the connection is kept");
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

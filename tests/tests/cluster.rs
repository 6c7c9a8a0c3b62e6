//! A cluster of three nodes loses its leaders.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

use std::time::Instant;

use jetstream_handlers::async_nats::ConnectOptions;
use jetstream_handlers::prelude::*;
use jetstream_handlers::{Health, Subscription, stream};
use jetstream_handlers_tests::{Cluster, Recorder, eventually, publish, stream_config, until_health};

/// Starts a handler with four parallel calls on all subjects of the stream.
async fn subscribe(broker: &Broker, handled: &Recorder) -> Subscription {
    broker.subscribe("work.>", "worker", handled.handler()).concurrency(4).ack_wait(secs(2)).await.unwrap()
}

/// Starts a cluster with a replicated stream `WORK`, a worker on it, and a broker that publishes.
async fn clustered() -> (Cluster, Broker, Recorder, Subscription) {
    clustered_with(|options| options).await
}

/// Starts a cluster like [`clustered`], with a change of the connect options.
async fn clustered_with(
    adjust: impl FnOnce(ConnectOptions) -> ConnectOptions + Send + 'static,
) -> (Cluster, Broker, Recorder, Subscription) {
    jetstream_handlers_tests::trace();
    let cluster = Cluster::start().await;
    let config = stream::Config { num_replicas: 3, ..stream_config("WORK", &["work.>"]) };
    let letters = stream::Config { num_replicas: 3, ..stream_config("DLQ", &["dlq.>"]) };
    let broker = Broker::builder()
        .servers(cluster.urls())
        .stream(config)
        .stream(letters)
        .connect_options(adjust)
        .fetch_wait(secs(1))
        .connect()
        .await
        .unwrap();
    let handled = Recorder::new();
    let subscription = subscribe(&broker, &handled).await;
    (cluster, broker, handled, subscription)
}

/// Publishes during a fault, and checks that no message is lost or stored twice.
async fn survives(fault: &str, inject: impl AsyncFnOnce(&mut Cluster)) {
    let (mut cluster, broker, handled, subscription) = clustered().await;
    publish(&broker, "work.done", 0..50).await;
    let publishing = tokio::spawn({
        let broker = broker.clone();
        async move { publish(&broker, "work.done", 50..150).await }
    });
    let started = Instant::now();
    inject(&mut cluster).await;
    publishing.await.unwrap();
    handled.until_distinct(150).await;
    println!(
        "{fault}: all handled after {:.1?}, {} more than once",
        started.elapsed(),
        handled.counts().values().filter(|count| **count > 1).count()
    );
    until_health(&broker, "healthy", Health::is_healthy).await;
    let mut stream = cluster.jetstream().await.get_stream("WORK").await.unwrap();
    assert_eq!(stream.info().await.unwrap().state.messages, 150, "stored once each");
    subscription.unsubscribe().await.unwrap();
}

#[tokio::test]
async fn killed_leader_loses_nothing_and_stores_nothing_twice() {
    survives("leader killed", async |cluster| {
        let leader = cluster.leader_of_stream("WORK").await;
        cluster.node(leader).kill();
    })
    .await;
}

#[tokio::test]
async fn lame_duck_leader_loses_nothing() {
    survives("leader in lame duck mode", async |cluster| {
        let leader = cluster.leader_of_consumer("WORK", "worker").await;
        cluster.node(leader).lame_duck();
    })
    .await;
}

#[tokio::test]
async fn consumer_survives_leader_step_down() {
    survives("consumer leader steps down", async |cluster| {
        let client = cluster.client().await;
        for _ in 0..3 {
            let subject = "$JS.API.CONSUMER.LEADER.STEPDOWN.WORK.worker";
            client.request(subject, "".into()).await.unwrap();
            cluster.leader_of_consumer("WORK", "worker").await;
        }
    })
    .await;
}

#[tokio::test]
async fn idle_handler_notices_that_the_leader_of_its_consumer_ended() {
    jetstream_handlers_tests::trace();
    let mut cluster = Cluster::start().await;
    // The heartbeats of its requests would show after 30 s that no node has them.
    let broker = Broker::builder()
        .servers(cluster.urls())
        .stream(stream::Config { num_replicas: 3, ..stream_config("WORK", &["work.>"]) })
        .connect_options(|options| options.retain_servers_order())
        .fetch_wait(secs(100))
        .connect()
        .await
        .unwrap();
    let handled = Recorder::new();
    let subscription = subscribe(&broker, &handled).await;
    let client = cluster.client().await;
    // The broker is connected to the first node.
    let leader = loop {
        match cluster.leader_of_consumer("WORK", "worker").await {
            0 => client.request("$JS.API.CONSUMER.LEADER.STEPDOWN.WORK.worker", "".into()).await.unwrap(),
            leader => break leader,
        };
    };
    publish(&broker, "work.done", 0..10).await;
    handled.until_distinct(10).await;
    cluster.node(leader).kill();
    let started = Instant::now();
    publish(&broker, "work.done", 10..20).await;
    handled.until_distinct(20).await;
    assert!(started.elapsed() < secs(25), "took as long as heartbeats need: {:?}", started.elapsed());
    subscription.unsubscribe().await.unwrap();
}

#[tokio::test]
async fn idle_handler_notices_that_the_only_node_of_its_consumer_crashed() {
    jetstream_handlers_tests::trace();
    let mut cluster = Cluster::start().await;
    cluster.jetstream().await.create_stream(stream_config("WORK", &["work.>"])).await.unwrap();
    let only = cluster.leader_of_stream("WORK").await;
    let mut urls = cluster.urls();
    urls.rotate_left(only + 1);
    let in_order = |options: ConnectOptions| options.retain_servers_order();
    let broker =
        Broker::builder().servers(urls).connect_options(in_order).fetch_wait(secs(100)).connect().await.unwrap();
    let handled = Recorder::new();
    let subscription = subscribe(&broker, &handled).await;
    publish(&broker, "work.done", 0..10).await;
    handled.until_distinct(10).await;
    // It has no status and no advisory for the request that is lost with it: only its heartbeats are missing.
    cluster.node(only).kill();
    cluster.node(only).restart().await;
    publish(&broker, "work.done", 10..20).await;
    let all = || handled.counts().len() == 20;
    eventually("all are handled before the request would expire", secs(60), async || all().then_some(())).await;
    subscription.unsubscribe().await.unwrap();
}

#[tokio::test]
async fn frozen_node_is_left_within_seconds() {
    let in_order = |options: ConnectOptions| options.retain_servers_order();
    let (mut cluster, broker, handled, subscription) = clustered_with(in_order).await;
    publish(&broker, "work.done", 0..10).await;
    handled.until_distinct(10).await;
    // The broker is connected to the first node.
    cluster.node(0).freeze();
    let started = Instant::now();
    publish(&broker, "work.done", 10..20).await;
    handled.until_distinct(20).await;
    println!("frozen node: all handled after {:.1?}", started.elapsed());
    assert!(started.elapsed() < secs(20), "took as long as pings need: {:?}", started.elapsed());
    cluster.node(0).thaw();
    subscription.unsubscribe().await.unwrap();
}

#[tokio::test]
async fn dead_letter_stream_has_the_replicas_of_its_source() {
    let mut cluster = Cluster::start().await;
    let jetstream = cluster.jetstream().await;
    let replicated = stream::Config { num_replicas: 3, ..stream_config("WORK", &["work.>"]) };
    jetstream.create_stream(replicated).await.unwrap();
    let broker = Broker::builder().servers(cluster.urls()).connect().await.unwrap();
    let subscription = broker.subscribe("work.a", "worker", |_: u64| std::future::ready(())).await.unwrap();
    assert_eq!(jetstream.get_stream("DLQ").await.unwrap().cached_info().config.num_replicas, 3);
    subscription.unsubscribe().await.unwrap();
}

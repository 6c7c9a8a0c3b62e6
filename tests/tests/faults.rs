//! The server goes away in every way there is, and the workers come back by themselves.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall say where")]

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use jetstream_handlers::async_nats::ConnectOptions;
use jetstream_handlers::async_nats::jetstream::consumer::Config;
use jetstream_handlers::async_nats::jetstream::stream::DiscardPolicy;
use jetstream_handlers::prelude::*;
use jetstream_handlers::{ErrorKind, Health, Status, Subscription, stream};
use jetstream_handlers_tests::{Cluster, Server, eventually};

const SOON: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Default)]
struct Handled(Arc<Mutex<BTreeMap<u64, usize>>>);

impl Handled {
    async fn all(&self, count: u64) {
        eventually(&format!("all of {count} messages handled"), SOON, async || {
            (self.0.lock().unwrap().len() as u64 >= count).then_some(())
        })
        .await;
    }

    fn more_than_once(&self) -> usize {
        self.0.lock().unwrap().values().filter(|count| **count > 1).count()
    }
}

async fn connect(urls: impl IntoIterator<Item = String>) -> Broker {
    Broker::builder().servers(urls).fetch_wait(Duration::from_secs(1)).connect().await.unwrap()
}

async fn subscribe(broker: &Broker, handled: &Handled) -> Subscription {
    let handled = handled.clone();
    let note = move |id: u64| {
        *handled.0.lock().unwrap().entry(id).or_default() += 1;
        std::future::ready(())
    };
    broker.subscribe("work.>", "worker", note).concurrency(4).ack_wait(Duration::from_secs(2)).await.unwrap()
}

async fn publish(broker: &Broker, ids: std::ops::Range<u64>) {
    for id in ids {
        broker.publish("work.done", &id).await.unwrap();
    }
}

/// Waits until the health is as wanted, and returns the text it has then.
async fn health(broker: &Broker, wanted: &str, is: impl Fn(&Health) -> bool) -> String {
    eventually(wanted, SOON, async || {
        let health = broker.health();
        is(&health).then(|| health.to_string())
    })
    .await
}

#[tokio::test]
async fn a_killed_and_restarted_server_loses_nothing() {
    let mut server = Server::start().await;
    let broker = connect([server.url()]).await;
    let handled = Handled::default();
    let subscription = subscribe(&broker, &handled).await;
    publish(&broker, 0..50).await;
    server.kill();
    let text = health(&broker, "not connected", |health| !health.connected && !health.is_healthy()).await;
    assert!(text.contains("recovering for") && text.ends_with("not connected"), "nothing was in hand: {text}");
    // A publish that begins without a server ends when there is one.
    let publishing = tokio::spawn({
        let broker = broker.clone();
        async move { publish(&broker, 50..100).await }
    });
    server.restart().await;
    publishing.await.unwrap();
    handled.all(100).await;
    health(&broker, "healthy again", Health::is_healthy).await;
    subscription.unsubscribe().await.unwrap();
    let mut stream = server.jetstream().await.get_stream("WORK").await.unwrap();
    assert_eq!(stream.info().await.unwrap().state.messages, 100, "stored once each");
}

#[tokio::test]
async fn a_frozen_server_turns_health_red_and_green_again() {
    let mut server = Server::start().await;
    let broker = connect([server.url()]).await;
    let handled = Handled::default();
    let subscription = subscribe(&broker, &handled).await;
    publish(&broker, 0..10).await;
    handled.all(10).await;
    server.freeze();
    let text = health(&broker, "no heartbeats", |health| !health.is_healthy()).await;
    assert!(text.contains("recovering"), "{text}");
    server.thaw();
    publish(&broker, 10..20).await;
    handled.all(20).await;
    health(&broker, "healthy again", Health::is_healthy).await;
    subscription.unsubscribe().await.unwrap();
}

#[tokio::test]
async fn a_deleted_consumer_is_made_again() {
    let server = Server::start().await;
    let broker = connect([server.url()]).await;
    let handled = Handled::default();
    let subscription = subscribe(&broker, &handled).await;
    publish(&broker, 0..5).await;
    handled.all(5).await;
    let stream = server.jetstream().await.get_stream("WORK").await.unwrap();
    let config = async || stream.consumer_info("worker").await.unwrap().config;
    let before = config().await;
    stream.delete_consumer("worker").await.unwrap();
    publish(&broker, 5..10).await;
    handled.all(10).await;
    health(&broker, "healthy again", Health::is_healthy).await;
    // It may begin later in the stream than the first one did, and says so in its metadata; nothing else differs.
    let after = config().await;
    assert_eq!(Config { deliver_policy: before.deliver_policy, metadata: before.metadata.clone(), ..after }, before);
    subscription.unsubscribe().await.unwrap();
}

#[tokio::test]
async fn a_consumer_made_again_begins_where_the_deleted_one_had_come_to() {
    let server = Server::start().await;
    let broker = connect([server.url()]).await;
    let handled = Handled::default();
    let subscription = subscribe(&broker, &handled).await;
    publish(&broker, 0..50).await;
    handled.all(50).await;
    // Now and then, while messages come, the worker asks how far its consumer has come.
    let mut asked = server.client().await.subscribe("$JS.API.CONSUMER.INFO.WORK.worker").await.unwrap();
    let mut next = 50;
    while futures::FutureExt::now_or_never(futures::StreamExt::next(&mut asked)).is_none() {
        publish(&broker, next..next + 1).await;
        next += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    handled.all(next).await;
    let stream = server.jetstream().await.get_stream("WORK").await.unwrap();
    stream.delete_consumer("worker").await.unwrap();
    publish(&broker, next..next + 5).await;
    handled.all(next + 5).await;
    let again: Vec<_> = handled.0.lock().unwrap().iter().filter(|(_, count)| **count > 1).map(|(id, _)| *id).collect();
    assert!(again.iter().all(|id| *id >= 50), "handled again: {again:?}");
    // The next start accepts it as it is.
    subscription.unsubscribe().await.unwrap();
    let subscription = subscribe(&broker, &handled).await;
    subscription.unsubscribe().await.unwrap();

    // A stream that was replaced counts from 1 again, and nothing of it may be skipped.
    let subscription = subscribe(&broker, &handled).await;
    let jetstream = server.jetstream().await;
    let config = stream.cached_info().config.clone();
    jetstream.delete_stream("WORK").await.unwrap();
    jetstream.create_stream(config).await.unwrap();
    publish(&broker, 1000..1005).await;
    eventually("all of the new stream handled", SOON, async || {
        (1000..1005).all(|id| handled.0.lock().unwrap().contains_key(&id)).then_some(())
    })
    .await;
    subscription.unsubscribe().await.unwrap();
}

#[tokio::test]
async fn a_deleted_stream_is_an_error_until_it_is_back() {
    let server = Server::start().await;
    let broker = connect([server.url()]).await;
    let handled = Handled::default();
    let subscription = subscribe(&broker, &handled).await;
    let jetstream = server.jetstream().await;
    let config = jetstream.get_stream("WORK").await.unwrap().cached_info().config.clone();
    jetstream.delete_stream("WORK").await.unwrap();
    let text = health(&broker, "the stream is missed", |health| health.to_string().contains("no such stream")).await;
    assert!(text.contains("closure on work.>: recovering"), "{text}");
    jetstream.create_stream(config).await.unwrap();
    health(&broker, "healthy again", Health::is_healthy).await;
    publish(&broker, 0..5).await;
    handled.all(5).await;
    subscription.unsubscribe().await.unwrap();
}

/// Counts the lines of the log.
#[derive(Debug, Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

impl io::Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().push(String::from_utf8_lossy(line).into_owned());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_worker_without_a_stream_is_quiet_on_the_wire_and_in_the_log() {
    let server = Server::start().await;
    let broker = connect([server.url()]).await;
    let subscription = subscribe(&broker, &Handled::default()).await;
    let lines = Lines::default();
    let writer = lines.clone();
    let log = tracing_subscriber::fmt().with_writer(move || writer.clone()).finish();
    let watcher = server.client().await;
    let mut requests = watcher.subscribe("$JS.API.>").await.unwrap();
    let jetstream = server.jetstream().await;
    let _guard = tracing::subscriber::set_default(log);
    jetstream.delete_stream("WORK").await.unwrap();
    health(&broker, "the stream is missed", |health| !health.is_healthy()).await;
    // Five seconds of misery; this is the one thing here that only time can show.
    let end = Instant::now() + Duration::from_secs(5);
    let mut count = 0;
    while let Ok(Some(_)) = tokio::time::timeout_at(end.into(), futures::StreamExt::next(&mut requests)).await {
        count += 1;
    }
    assert!(count < 40, "{count} requests in 5 s");
    let lines = lines.0.lock().unwrap().clone();
    assert!(!lines.is_empty() && lines.len() < 15, "{} lines in 5 s: {lines:#?}", lines.len());
    drop(_guard);
    subscription.unsubscribe().await.unwrap();
}

#[tokio::test]
async fn a_full_stream_refuses_publishes_and_recovers() {
    let server = Server::start().await;
    let config = stream::Config {
        name: "WORK".into(),
        subjects: vec!["work.>".into()],
        max_messages: 3,
        discard: DiscardPolicy::New,
        ..Default::default()
    };
    let broker = Broker::builder().servers([server.url()]).stream(config).connect().await.unwrap();
    let handled = Handled::default();
    let subscription = subscribe(&broker, &handled).await;
    publish(&broker, 0..3).await;
    let error = broker.publish("work.done", &4).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Publish);
    assert!(error.to_string().contains("full") && error.to_string().contains("work.done"), "{error}");
    handled.all(3).await;
    assert!(broker.health().is_healthy(), "a full stream still delivers");
    server.jetstream().await.get_stream("WORK").await.unwrap().purge().await.unwrap();
    publish(&broker, 5..6).await;
    handled.all(4).await;
    subscription.unsubscribe().await.unwrap();
}

#[tokio::test]
async fn revoked_permissions_turn_health_red_until_they_are_back() {
    // In the file and not in the flags, which a server before 2.11 forgets at the reload.
    let store = tempfile::tempdir().unwrap();
    let account = |worker: &str| {
        format!(
            "jetstream {{ store_dir: {:?} }}
            accounts {{ APP {{ jetstream: enabled, users: [
                {{ user: admin, password: admin }},
                {{ user: worker, password: secret, permissions: {{ {worker} }} }} ] }} }}",
            store.path()
        )
    };
    let all = account("publish: [\">\"], subscribe: [\">\"]");
    let no_pulls = account("publish: { deny: [\"$JS.API.CONSUMER.MSG.NEXT.>\"] }, subscribe: [\">\"]");
    let mut server = Server::builder().without_jetstream().config(&all).user("admin", "admin").start().await;
    let broker = Broker::builder()
        .servers([server.url()])
        .connect_options(|options| options.user_and_password("worker".into(), "secret".into()))
        .fetch_wait(Duration::from_secs(1))
        .connect()
        .await
        .unwrap();
    let handled = Handled::default();
    let subscription = subscribe(&broker, &handled).await;
    publish(&broker, 0..5).await;
    handled.all(5).await;
    server.reload(&no_pulls);
    health(&broker, "pulls are refused", |health| !health.is_healthy()).await;
    server.reload(&all);
    health(&broker, "healthy again", Health::is_healthy).await;
    publish(&broker, 5..10).await;
    handled.all(10).await;
    subscription.unsubscribe().await.unwrap();
}

/// A cluster with a replicated stream `WORK`, a worker on it, and a broker that publishes.
async fn clustered() -> (Cluster, Broker, Handled, Subscription) {
    clustered_with(|options| options).await
}

async fn clustered_with(
    adjust: impl FnOnce(ConnectOptions) -> ConnectOptions + Send + 'static,
) -> (Cluster, Broker, Handled, Subscription) {
    jetstream_handlers_tests::trace();
    let cluster = Cluster::start().await;
    let config =
        stream::Config { name: "WORK".into(), subjects: vec!["work.>".into()], num_replicas: 3, ..Default::default() };
    let letters =
        stream::Config { name: "DLQ".into(), subjects: vec!["dlq.>".into()], num_replicas: 3, ..Default::default() };
    let broker = Broker::builder()
        .servers(cluster.urls())
        .stream(config)
        .stream(letters)
        .connect_options(adjust)
        .fetch_wait(Duration::from_secs(1))
        .connect()
        .await
        .unwrap();
    let handled = Handled::default();
    let subscription = subscribe(&broker, &handled).await;
    (cluster, broker, handled, subscription)
}

/// Publishes while something happens to the cluster, and shows that nothing was lost or stored twice.
async fn survives(fault: &str, happen: impl AsyncFnOnce(&mut Cluster)) {
    let (mut cluster, broker, handled, subscription) = clustered().await;
    publish(&broker, 0..50).await;
    let publishing = tokio::spawn({
        let broker = broker.clone();
        async move { publish(&broker, 50..150).await }
    });
    let begun = Instant::now();
    happen(&mut cluster).await;
    publishing.await.unwrap();
    handled.all(150).await;
    println!("{fault}: all handled after {:.1?}, {} more than once", begun.elapsed(), handled.more_than_once());
    health(&broker, "healthy again", Health::is_healthy).await;
    let mut stream = cluster.jetstream().await.get_stream("WORK").await.unwrap();
    assert_eq!(stream.info().await.unwrap().state.messages, 150, "stored once each");
    subscription.unsubscribe().await.unwrap();
}

#[tokio::test]
async fn a_killed_leader_loses_nothing_and_stores_nothing_twice() {
    survives("leader killed", async |cluster| {
        let leader = cluster.leader_of_stream("WORK").await;
        cluster.node(leader).kill();
    })
    .await;
}

#[tokio::test]
async fn a_leader_in_lame_duck_mode_loses_nothing() {
    survives("leader in lame duck mode", async |cluster| {
        let leader = cluster.leader_of_consumer("WORK", "worker").await;
        cluster.node(leader).lame_duck();
    })
    .await;
}

#[tokio::test]
async fn a_consumer_whose_leader_steps_down_goes_on() {
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
async fn the_health_of_a_stopped_handler_says_so() {
    let server = Server::start().await;
    let broker = connect([server.url()]).await;
    let subscription = subscribe(&broker, &Handled::default()).await;
    assert!(broker.health().is_healthy());
    broker.disconnect().await.unwrap();
    let health = broker.health();
    assert_eq!(health.handlers[0].status, Status::Stopped);
    assert!(!health.is_healthy());
    subscription.unsubscribe().await.unwrap();
}

#[tokio::test]
async fn a_frozen_node_is_left_for_another_within_seconds() {
    let in_order = |options: ConnectOptions| options.retain_servers_order();
    let (mut cluster, broker, handled, subscription) = clustered_with(in_order).await;
    publish(&broker, 0..10).await;
    handled.all(10).await;
    // The first node is the one that the broker is connected to.
    let name = 0;
    cluster.node(name).freeze();
    let begun = Instant::now();
    publish(&broker, 10..20).await;
    handled.all(20).await;
    println!("frozen node: all handled after {:.1?}", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(20), "pings alone would take longer: {:?}", begun.elapsed());
    cluster.node(name).thaw();
    subscription.unsubscribe().await.unwrap();
}

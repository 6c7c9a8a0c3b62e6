//! A server can lose the messages of a stream and keep the stream; then no answer to a former message ends a new one
//! that has the same sequence.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

use std::path::Path;
use std::sync::Arc;

use jetstream_handlers::prelude::*;
use jetstream_handlers::{Subscription, stream};
use jetstream_handlers_tests::{
    Cluster, Recorder, SOON, Server, connect, eventually, ms, publish, stream_config, until_health,
};
use tokio::sync::Semaphore;

/// A handler whose call of message 1 ends only with a permit; the first calls of messages from 100 on fail.
#[derive(Clone)]
struct Held {
    calls: Recorder,
    permits: Arc<Semaphore>,
}

impl Held {
    fn new() -> Self {
        Self { calls: Recorder::new(), permits: Arc::new(Semaphore::new(0)) }
    }

    async fn subscribe(&self, broker: &Broker) -> Subscription {
        let held = self.clone();
        let handler = move |id: u64| {
            let held = held.clone();
            async move {
                let attempt = held.calls.attempt(id);
                if id == 1 {
                    held.permits.acquire().await.unwrap().forget();
                }
                if attempt == 1 && id >= 100 { Err(HandlerError::from("fails once")) } else { Ok(()) }
            }
        };
        let options = broker.subscribe("work.>", "worker", handler).stream("WORK").concurrency(2);
        options.ack_wait(secs(60)).backoff(&[secs(2)]).await.unwrap()
    }

    /// Ends the call of message 1 after message 100 has failed once, and waits until that is handled again.
    async fn end_late(&self) {
        self.calls.until(100).await;
        self.permits.add_permits(1);
        self.calls.until_len(3).await;
        assert_eq!(self.calls.count(100), 2, "the failed message is retried");
    }
}

/// A handler whose calls each end with a permit.
async fn subscribe_ordered(broker: &Broker, calls: &Recorder, permits: &Arc<Semaphore>) -> Subscription {
    let (calls, permits) = (calls.clone(), permits.clone());
    let handler = move |id: u64| {
        let (calls, permits) = (calls.clone(), permits.clone());
        async move {
            calls.add(id);
            permits.acquire().await.unwrap().forget();
        }
    };
    broker.subscribe("work.>", "worker", handler).stream("WORK").ordered().ack_wait(secs(60)).await.unwrap()
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() { copy(&entry.path(), &target) } else { drop(std::fs::copy(entry.path(), target)) }
    }
}

/// Backs up the storage of a server, and restores it after `meanwhile`.
async fn roll_back(server: &mut Server, broker: &Broker, meanwhile: impl AsyncFnOnce()) {
    let (store, backup) = (server.folder().join("store"), server.folder().join("backup"));
    server.terminate().await;
    copy(&store, &backup);
    server.restart().await;
    until_health(broker, "connected", |health| health.connected).await;
    meanwhile().await;
    server.terminate().await;
    std::fs::remove_dir_all(&store).unwrap();
    copy(&backup, &store);
    server.restart().await;
    until_health(broker, "connected", |health| health.connected).await;
}

async fn create_stream(server: &Server) {
    server.jetstream().await.create_stream(stream_config("WORK", &["work.>"])).await.unwrap();
}

/// Starts three nodes with a stream in the memory of one of them; returns that one, and another one.
async fn memory_stream() -> (Cluster, usize, usize) {
    let mut cluster = Cluster::start().await;
    let config = stream::Config { storage: stream::StorageType::Memory, ..stream_config("WORK", &["work.>"]) };
    cluster.jetstream().await.create_stream(config).await.unwrap();
    let leader = cluster.leader_of_stream("WORK").await;
    (cluster, leader, (leader + 1) % 3)
}

/// Restarts the node that has the stream in memory.
async fn lose_memory(cluster: &mut Cluster, leader: usize) {
    let other = cluster.node((leader + 1) % 3).client().await;
    cluster.node(leader).kill();
    cluster.node(leader).restart().await;
    let jetstream = async_nats::jetstream::new(other);
    eventually("the stream is empty", SOON * 3, async || {
        (jetstream.get_stream("WORK").await.ok()?.cached_info().state.last_sequence == 0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn late_ack_after_a_backup_was_restored_ends_nothing() {
    let mut server = Server::start().await;
    create_stream(&server).await;
    let (broker, held) = (connect(&server).await, Held::new());
    let subscription = held.subscribe(&broker).await;
    let first = async || {
        publish(&broker, "work.a", [1]).await;
        held.calls.until(1).await;
    };
    roll_back(&mut server, &broker, first).await;
    publish(&broker, "work.a", [100]).await;
    held.end_late().await;
    subscription.unsubscribe().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn late_ack_after_a_node_lost_its_memory_ends_nothing() {
    let (mut cluster, leader, other) = memory_stream().await;
    let (broker, held) = (connect(cluster.node(other)).await, Held::new());
    let subscription = held.subscribe(&broker).await;
    publish(&broker, "work.a", [1]).await;
    held.calls.until(1).await;
    lose_memory(&mut cluster, leader).await;
    publish(&broker, "work.a", [100]).await;
    held.end_late().await;
    subscription.unsubscribe().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn late_ack_of_an_ordered_handler_after_a_backup_was_restored_covers_nothing() {
    let mut server = Server::start().await;
    create_stream(&server).await;
    let broker = connect(&server).await;
    let (calls, permits) = (Recorder::new(), Arc::new(Semaphore::new(0)));
    let subscription = subscribe_ordered(&broker, &calls, &permits).await;
    let first = async || {
        publish(&broker, "work.a", 1..8).await;
        calls.until(1).await;
    };
    roll_back(&mut server, &broker, first).await;
    publish(&broker, "work.a", 100..112).await;
    eventually("the new messages were delivered", SOON, async || {
        (server.consumer_info("WORK", "worker").await.num_ack_pending > 0).then_some(())
    })
    .await;
    permits.add_permits(1);
    calls.until(100).await;
    assert_eq!(server.consumer_info("WORK", "worker").await.ack_floor.stream_sequence, 0);
    permits.add_permits(1000);
    server.all_acked("WORK", "worker").await;
    assert_eq!(calls.distinct().range(100..).count(), 12);
    subscription.unsubscribe().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_messages_at_sequences_that_were_handled_are_handled() {
    let (mut cluster, leader, other) = memory_stream().await;
    let (broker, calls) = (connect(cluster.node(other)).await, Recorder::<u64>::new());
    let subscription =
        broker.subscribe("work.>", "worker", calls.handler()).stream("WORK").ack_wait(secs(60)).await.unwrap();
    // The handler restores its consumer, and recognizes what that delivers again.
    cluster.jetstream().await.get_stream("WORK").await.unwrap().delete_consumer("worker").await.unwrap();
    publish(&broker, "work.a", 0..20).await;
    calls.until_distinct(20).await;
    lose_memory(&mut cluster, leader).await;
    publish(&broker, "work.a", 100..120).await;
    calls.until_distinct(40).await;
    subscription.unsubscribe().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handled_sequences_of_a_restored_backup_are_handled_again() {
    let mut server = Server::start().await;
    create_stream(&server).await;
    let (broker, calls) = (connect(&server).await, Recorder::<u64>::new());
    let subscription =
        broker.subscribe("work.>", "worker", calls.handler()).stream("WORK").ack_wait(secs(60)).await.unwrap();
    let first = async || {
        publish(&broker, "work.a", 0..20).await;
        calls.until_distinct(20).await;
        server_acked(&broker).await;
    };
    roll_back(&mut server, &broker, first).await;
    server.jetstream().await.get_stream("WORK").await.unwrap().delete_consumer("worker").await.unwrap();
    publish(&broker, "work.a", 100..140).await;
    calls.until_distinct(60).await;
    subscription.unsubscribe().await.unwrap();
}

/// Waits until a broker has sent all acks.
async fn server_acked(broker: &Broker) {
    let jetstream = broker.jetstream().unwrap();
    eventually("everything is acked", SOON, async || {
        let stream = jetstream.get_stream("WORK").await.unwrap();
        let info: async_nats::jetstream::consumer::Info = stream.consumer_info("worker").await.unwrap();
        (info.ack_floor.stream_sequence == 20).then_some(())
    })
    .await;
}

/// A user who receives no advisories learns of a deleted stream by the age of its deliveries.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn late_ack_without_advisories_ends_nothing() {
    let config = r#"accounts { APP { jetstream: enabled, users: [
        { user: admin, password: secret },
        { user: worker, password: secret, permissions: { publish: ">", subscribe: { deny: ["$JS.EVENT.>"] } } } ] } }"#;
    let server = Server::builder().config(config).user("admin", "secret").start().await;
    create_stream(&server).await;
    let admin = connect(&server).await;
    let broker = Broker::builder()
        .servers([server.url()])
        .connect_options(|options| options.user_and_password("worker".into(), "secret".into()))
        .connect()
        .await
        .unwrap();
    let (former, present) = (Held::new(), Held::new());
    let first = former.subscribe(&broker).await;
    publish(&admin, "work.a", [1]).await;
    former.calls.until(1).await;
    // Until this is over, a replaced stream is noticed by an advisory only.
    tokio::time::sleep(secs(3)).await;
    let jetstream = server.jetstream().await;
    jetstream.delete_stream("WORK").await.unwrap();
    create_stream(&server).await;
    let second = present.subscribe(&admin).await;
    publish(&admin, "work.a", [100]).await;
    eventually("the new message has failed once", SOON, async || {
        (present.calls.count(100) + former.calls.count(100) == 1).then_some(())
    })
    .await;
    former.permits.add_permits(1);
    eventually("the failed message is retried", SOON, async || {
        (present.calls.count(100) + former.calls.count(100) >= 2).then_some(())
    })
    .await;
    first.unsubscribe().await.unwrap();
    second.unsubscribe().await.unwrap();
}

/// What an operator lets a consumer deliver again is handled again, and retried if it fails then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_that_fail_in_the_second_pass_are_retried() {
    for instances in [1, 2] {
        let server = Server::start().await;
        create_stream(&server).await;
        let calls = Recorder::<u64>::new();
        let handler = {
            let calls = calls.clone();
            move |id: u64| {
                let attempt = calls.attempt(id);
                async move { if attempt == 2 { Err(HandlerError::from("fails in the second pass")) } else { Ok(()) } }
            }
        };
        let mut running = Vec::new();
        for _ in 0..instances {
            let broker = connect(&server).await;
            let options = broker.subscribe("work.>", "worker", handler.clone()).stream("WORK").concurrency(4);
            let subscription = options.ack_wait(secs(60)).backoff(&[ms(200)]).await.unwrap();
            running.push((broker, subscription));
        }
        publish(&running[0].0, "work.a", 0..100).await;
        calls.until_distinct(100).await;
        server.all_acked("WORK", "worker").await;
        let reset = server.client().await.request("$JS.API.CONSUMER.RESET.WORK.worker", r#"{"seq":1}"#.into()).await;
        assert!(!String::from_utf8_lossy(&reset.unwrap().payload).contains("error"));
        calls.until_len(300).await;
        assert!(calls.counts().values().all(|count| *count == 3), "{:?}", calls.counts());
        for (_, subscription) in running {
            subscription.unsubscribe().await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restored_consumer_delivers_what_takes_the_sequences_of_lost_messages() {
    let (mut cluster, leader, other) = memory_stream().await;
    let (broker, calls) = (connect(cluster.node(other)).await, Recorder::<u64>::new());
    let subscribe = || broker.subscribe("work.>", "worker", calls.handler()).stream("WORK").ack_wait(secs(60));
    let subscription = subscribe().await.unwrap();
    publish(&broker, "work.a", 0..20).await;
    calls.until_distinct(20).await;
    server_acked(&broker).await;
    subscription.unsubscribe().await.unwrap();
    // An instance that finds a consumer reads its ack floor at once.
    let subscription = subscribe().await.unwrap();
    publish(&broker, "work.a", [20]).await;
    calls.until(20).await;
    let jetstream = cluster.node(other).jetstream().await;
    let consumer = async || {
        let stream = jetstream.get_stream("WORK").await.ok()?;
        stream.consumer_info("worker").await.ok().map(|info: async_nats::jetstream::consumer::Info| info)
    };
    jetstream.get_stream("WORK").await.unwrap().delete_consumer("worker").await.unwrap();
    eventually("the consumer is restored behind what was acked", SOON, async || {
        let config = consumer().await?.config;
        config.metadata.get("jetstream-handlers.restored-at").filter(|start| *start != "1").map(drop)
    })
    .await;
    lose_memory(&mut cluster, leader).await;
    publish(&broker, "work.a", 100..120).await;
    calls.until_distinct(41).await;
    subscription.unsubscribe().await.unwrap();
}

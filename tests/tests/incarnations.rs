//! A delivery belongs to one consumer of one stream: after either was replaced, nothing is answered for the former one.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

use std::sync::Arc;

use futures::StreamExt as _;
use jetstream_handlers::prelude::*;
use jetstream_handlers::{Health, Subscription, stream};
use jetstream_handlers_tests::{
    RawClient, Recorder, SOON, Server, connect, eventually, ms, publish, stream_config, until_health,
};
use tokio::sync::Semaphore;

/// A handler whose calls are recorded, and end one by one; the first calls of some messages fail.
#[derive(Clone)]
struct Held {
    calls: Recorder,
    permits: Arc<Semaphore>,
    fails: fn(u64) -> bool,
}

impl Held {
    fn new(fails: fn(u64) -> bool) -> Self {
        Self { calls: Recorder::new(), permits: Arc::new(Semaphore::new(0)), fails }
    }

    async fn subscribe(&self, broker: &Broker) -> Subscription {
        let held = self.clone();
        let handler = move |id: u64| {
            let held = held.clone();
            async move {
                let attempt = held.calls.attempt(id);
                held.permits.acquire().await.unwrap().forget();
                if attempt == 1 && (held.fails)(id) { Err(HandlerError::from("fails once")) } else { Ok(()) }
            }
        };
        // No message is requested in advance, so that no open request reports what happens to the consumer.
        let options = broker.subscribe("work.>", "worker", handler).concurrency(1).batch_size(1);
        options.stream("WORK").ack_wait(secs(30)).backoff(&[ms(100)]).await.unwrap()
    }
}

fn config() -> stream::Config {
    stream::Config { storage: stream::StorageType::Memory, ..stream_config("WORK", &["work.>"]) }
}

/// Replaces the stream while one instance calls its handler, and lets that call end while another instance handles a
/// message of the new stream that has the same sequence; returns the calls of the other instance.
async fn late_answer(
    server: &mut Server,
    former: Held,
    present: Held,
    replace: impl AsyncFnOnce(&mut Server),
) -> Recorder {
    server.jetstream().await.create_stream(config()).await.unwrap();
    let (one, two) = (connect(server).await, connect(server).await);
    let first = former.subscribe(&one).await;
    publish(&one, "work.a", [1, 2]).await;
    former.calls.until(1).await;
    eventually("the second message waits in the process", SOON, async || {
        (server.consumer_info("WORK", "worker").await.num_ack_pending == 2).then_some(())
    })
    .await;
    replace(server).await;
    let second = present.subscribe(&two).await;
    publish(&two, "work.a", [10]).await;
    present.calls.until(10).await;
    until_health(&one, "connected", |health| health.connected).await;
    former.permits.add_permits(1000);
    former.calls.until_len(2).await;
    // The answers of the first instance have reached the server before this.
    first.unsubscribe().await.unwrap();
    present.permits.add_permits(1000);
    server.all_acked("WORK", "worker").await;
    second.unsubscribe().await.unwrap();
    present.calls
}

async fn replace_stream(server: &mut Server) {
    let jetstream = server.jetstream().await;
    jetstream.delete_stream("WORK").await.unwrap();
    jetstream.create_stream(config()).await.unwrap();
}

#[tokio::test]
async fn ack_for_a_replaced_stream_is_not_sent() {
    let mut server = Server::start().await;
    let calls = late_answer(&mut server, Held::new(|_| false), Held::new(|_| true), replace_stream).await;
    assert_eq!(calls.count(10), 2, "the failed message is retried");
}

#[tokio::test]
async fn ack_for_a_stream_that_was_lost_with_its_server_is_not_sent() {
    let mut server = Server::start().await;
    let calls = late_answer(&mut server, Held::new(|_| false), Held::new(|_| true), async |server| {
        server.kill();
        server.restart().await;
        let jetstream = server.jetstream().await;
        assert!(jetstream.get_stream("WORK").await.is_err(), "a stream in memory ends with its server");
        jetstream.create_stream(config()).await.unwrap();
    })
    .await;
    assert_eq!(calls.count(10), 2, "the failed message is retried");
}

#[tokio::test]
async fn nak_for_a_replaced_stream_is_not_sent() {
    let mut server = Server::start().await;
    let calls = late_answer(&mut server, Held::new(|_| true), Held::new(|_| false), replace_stream).await;
    assert_eq!(calls.count(10), 1, "the message is not redelivered while it is handled");
}

#[tokio::test]
async fn ack_for_a_replaced_consumer_is_not_sent() {
    let server = Server::start().await;
    server.jetstream().await.create_stream(config()).await.unwrap();
    let (one, two) = (connect(&server).await, connect(&server).await);
    let former = Held::new(|_| false);
    let first = former.subscribe(&one).await;
    publish(&one, "work.a", [1]).await;
    former.calls.until(1).await;
    let stream = server.jetstream().await.get_stream("WORK").await.unwrap();
    stream.delete_consumer("worker").await.unwrap();
    let present = Held::new(|_| true);
    let second = present.subscribe(&two).await;
    present.calls.until(1).await;
    former.permits.add_permits(1000);
    first.unsubscribe().await.unwrap();
    present.permits.add_permits(1000);
    present.calls.until_times(1, 2).await;
    second.unsubscribe().await.unwrap();
}

#[tokio::test]
async fn calls_that_outlive_a_connection_are_acked_on_the_next_one() {
    let server = Server::start().await;
    server.jetstream().await.create_stream(config()).await.unwrap();
    let broker = connect(&server).await;
    let held = Held::new(|_| false);
    let subscription = held.subscribe(&broker).await;
    publish(&broker, "work.a", [1, 2]).await;
    held.calls.until(1).await;
    broker.client().unwrap().force_reconnect().await.unwrap();
    held.permits.add_permits(1000);
    server.all_acked("WORK", "worker").await;
    until_health(&broker, "healthy", Health::is_healthy).await;
    subscription.unsubscribe().await.unwrap();
    assert_eq!((held.calls.count(1), held.calls.count(2)), (1, 1), "each was handled once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_advisories_about_deletions_delay_and_repeat_nothing() {
    let server = Server::start().await;
    server.jetstream().await.create_stream(config()).await.unwrap();
    let broker = connect(&server).await;
    let calls: Recorder<u64> = Recorder::new();
    let options = broker.subscribe("work.>", "worker", calls.handler()).stream("WORK").concurrency(4);
    let subscription = options.ack_wait(secs(60)).await.unwrap();
    let forger = server.client().await;
    let forging = tokio::spawn(async move {
        loop {
            for subject in ["CONSUMER.DELETED.WORK.worker", "STREAM.DELETED.WORK"] {
                forger.publish(format!("$JS.EVENT.ADVISORY.{subject}"), "{}".into()).await.unwrap();
            }
            forger.flush().await.unwrap();
        }
    });
    for begin in (0..1000).step_by(100) {
        publish(&broker, "work.a", begin..begin + 100).await;
    }
    calls.until_distinct(1000).await;
    server.all_acked("WORK", "worker").await;
    forging.abort();
    assert!(calls.counts().values().all(|count| *count == 1));
    subscription.unsubscribe().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_status_repeats_nothing() {
    let server = Server::start().await;
    server.jetstream().await.create_stream(config()).await.unwrap();
    let forger = server.client().await;
    let mut requests = forger.subscribe("$JS.API.CONSUMER.MSG.NEXT.WORK.worker").await.unwrap();
    forger.flush().await.unwrap();
    let mut raw = RawClient::connect(server.address()).await;
    let forging = tokio::spawn(async move {
        while let Some(request) = requests.next().await {
            let deleted = "NATS/1.0 409 Consumer Deleted\r\n\r\n";
            raw.publish_block(request.reply.unwrap().as_str(), deleted, "").await;
            raw.flush().await;
        }
    });
    let broker = connect(&server).await;
    let calls: Recorder<u64> = Recorder::new();
    let handler = {
        let calls = calls.clone();
        move |id: u64| {
            calls.add(id);
            tokio::time::sleep(ms(20))
        }
    };
    let options = broker.subscribe("work.>", "worker", handler).stream("WORK").concurrency(4);
    let subscription = options.ack_wait(secs(60)).await.unwrap();
    publish(&broker, "work.a", 0..100).await;
    calls.until_distinct(100).await;
    server.all_acked("WORK", "worker").await;
    forging.abort();
    assert!(calls.counts().values().all(|count| *count == 1), "{:?}", calls.counts());
    subscription.unsubscribe().await.unwrap();
}

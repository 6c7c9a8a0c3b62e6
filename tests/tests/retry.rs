//! A call that fails is repeated after its delay, and a call that takes long is not.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use jetstream_handlers::prelude::*;
use jetstream_handlers_tests::{
    Proxy, Recorder, Server, connect, connect_with, dead_letters, dead_letters_of, ms, once_each, payload_of, publish,
};

#[subscriber(subject = "work.retried", queue = "retried", backoff = ["100ms", "300ms"])]
async fn retried(id: u64, State(calls): State<Recorder>) -> HandlerResult {
    match calls.attempt(id) {
        1..=3 => Err("not yet".into()),
        _ => Ok(()),
    }
}

#[tokio::test]
async fn last_step_of_the_backoff_repeats() {
    let server = Server::start().await;
    let calls = Recorder::new();
    let broker = connect_with(&server, &calls).await;
    let running = broker.include::<retried>().start_all().await.unwrap();
    broker.publish("work.retried", &1).await.unwrap();
    calls.until_times(1, 4).await;
    server.all_acked("WORK", "retried").await;
    running.shutdown().await.unwrap();
    let at = calls.times(1);
    assert_eq!(at.len(), 4);
    for (pair, delay) in at.windows(2).zip([100, 300, 300]) {
        // With jitter of 20 %; a slow machine only makes it later.
        assert!(pair[1] - pair[0] >= ms(delay) * 79 / 100, "{:?}", pair[1] - pair[0]);
    }
    assert!(broker.dead_letters().list(100).await.unwrap().is_empty());
}

#[subscriber(subject = "work.later", queue = "later", backoff = ["1h"])]
async fn later(id: u64, State(calls): State<Recorder>) -> HandlerResult {
    match calls.attempt(id) {
        1 => Err(HandlerError::retry_after(ms(200), "soon")),
        _ => Ok(()),
    }
}

#[tokio::test]
async fn handler_chooses_the_delay() {
    let server = Server::start().await;
    let calls = Recorder::new();
    let broker = connect_with(&server, &calls).await;
    let running = broker.include::<later>().start_all().await.unwrap();
    broker.publish("work.later", &1).await.unwrap();
    calls.until_times(1, 2).await;
    running.shutdown().await.unwrap();
    let at = calls.times(1);
    assert!(at[1] - at[0] >= ms(195), "{:?}", at[1] - at[0]);
}

#[tokio::test]
async fn huge_retry_delay_is_applied() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    let calls = Recorder::new();
    let recorder = calls.clone();
    let delaying = move |id: u64| {
        recorder.add(id);
        std::future::ready(match id {
            1 => Settle::RetryAfter(Duration::MAX),
            // More nanoseconds than the server can count.
            2 => Settle::RetryAfter(secs(10_000_000_000_000)),
            _ => Settle::Ack,
        })
    };
    let subscription = broker.subscribe("work.a", "worker", delaying).ack_wait(ms(300)).await.unwrap();
    publish(&broker, "work.a", [1, 2, 3]).await;
    calls.until(3).await;
    // Twice `ack_wait`.
    tokio::time::sleep(ms(600)).await;
    publish(&broker, "work.a", [4]).await;
    calls.until(4).await;
    assert_eq!(calls.counts(), once_each(1..=4));
    assert!(broker.health().is_healthy(), "{}", broker.health());
    subscription.unsubscribe().await.unwrap();
}

#[tokio::test]
async fn delayed_messages_do_not_stall_others() {
    let server = Server::start().await;
    let calls = Recorder::new();
    let broker = Broker::connect(server.url()).await.unwrap();
    let recorder = calls.clone();
    let handler = move |id: u64| {
        recorder.add(id);
        std::future::ready(if id < 2000 { Settle::RetryAfter(secs(3600)) } else { Settle::Ack })
    };
    let subscription = broker.subscribe("work.delayed", "delayed", handler).batch_size(500).await.unwrap();
    let publisher = broker.publisher().clone();
    let publishes = (0..2000).map(|id| {
        let publisher = publisher.clone();
        async move { publisher.publish("work.delayed", &id).await.unwrap() }
    });
    futures::StreamExt::collect::<Vec<_>>(futures::StreamExt::buffer_unordered(futures::stream::iter(publishes), 256))
        .await;
    broker.publish("work.delayed", &5000).await.unwrap();
    calls.until(5000).await;
    let stream = server.jetstream().await.get_stream("WORK").await.unwrap();
    let info = stream.consumer_info("delayed").await.unwrap();
    assert!(info.num_ack_pending >= 2000, "{}", info.num_ack_pending);
    subscription.unsubscribe().await.unwrap();
}

#[subscriber(subject = "work.panicking", queue = "panicking", max_deliver = 2, backoff = ["20ms"], concurrency = 2)]
async fn panicking(id: u64, State(calls): State<Recorder>) {
    calls.add(id);
    assert!(id != 13, "refuses {id}");
}

#[tokio::test]
async fn panic_is_retried_without_affecting_other_messages() {
    let server = Server::start().await;
    let calls = Recorder::new();
    let broker = connect_with(&server, &calls).await;
    let running = broker.include::<panicking>().start_all().await.unwrap();
    for id in 10..20 {
        broker.publish("work.panicking", &id).await.unwrap();
    }
    let letter = dead_letters_of(&broker, "panicking", 1).await.remove(0);
    assert_eq!((letter.reason.as_str(), letter.error.as_str()), ("panic", "panicked: refuses 13"));
    server.all_acked("WORK", "panicking").await;
    running.shutdown().await.unwrap();
    let expected: BTreeMap<_, _> = (10..20).map(|id| (id, if id == 13 { 2 } else { 1 })).collect();
    assert_eq!(calls.counts(), expected);
}

#[tokio::test]
async fn panic_before_the_first_await_is_retried() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    let log = Recorder::<String>::default();
    let recorder = log.clone();
    let closure = move |id: u64| {
        recorder.add(format!("tried {id}"));
        assert!(recorder.count("tried 1") > 1, "the first call");
        async {}
    };
    let subscribe = broker.subscribe("risks.taken", "closure", closure).backoff(&[ms(50)]);
    let subscription = subscribe.await.unwrap();
    publish(&broker, "risks.taken", [1]).await;
    log.until_times("tried 1", 2).await;
    server.all_acked("RISKS", "closure").await;
    subscription.unsubscribe().await.unwrap();
    assert_eq!(log.count("tried 1"), 2);
}

/// Counts how often it is dropped.
struct Dropped(Arc<AtomicUsize>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn call_over_its_timeout_is_cancelled_and_retried() {
    let server = Server::start().await;
    let broker = Broker::connect(server.url()).await.unwrap();
    let dropped = Arc::new(AtomicUsize::new(0));
    let counter = dropped.clone();
    let hanging = move |_: u64| {
        let guard = Dropped(counter.clone());
        async move {
            std::future::pending::<()>().await;
            drop(guard);
        }
    };
    let subscription = broker
        .subscribe("work.hanging", "hanging", hanging)
        .timeout(ms(100))
        .backoff(&[ms(10)])
        .max_deliver(2)
        .await
        .unwrap();
    broker.publish("work.hanging", &1).await.unwrap();
    let letter = dead_letters_of(&broker, "closure on work.hanging", 1).await.remove(0);
    assert_eq!((letter.reason.as_str(), letter.delivered), ("timeout", 2));
    assert_eq!(dropped.load(Ordering::SeqCst), 2);
    subscription.unsubscribe().await.unwrap();
}

/// Panics when it is dropped.
struct PanicOnDrop;

impl Drop for PanicOnDrop {
    fn drop(&mut self) {
        assert!(std::thread::panicking(), "dropped");
    }
}

#[tokio::test]
async fn panic_while_a_cancelled_call_is_dropped_is_contained() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    let calls = Recorder::new();
    let recorder = calls.clone();
    let handler = move |id: u64| {
        recorder.add(id);
        async move {
            if id == 1 {
                let panic = PanicOnDrop;
                std::future::pending::<()>().await;
                drop(panic);
            }
        }
    };
    let subscription =
        broker.subscribe("work.a", "worker", handler).timeout(ms(100)).backoff(&[ms(20)]).max_deliver(2).await.unwrap();
    publish(&broker, "work.a", [1, 2]).await;
    calls.until(2).await;
    let letter = dead_letters(&broker, 1).await.remove(0);
    assert_eq!((payload_of(&letter), letter.reason.as_str()), (1, "timeout"));
    server.all_acked("WORK", "worker").await;
    assert!(broker.health().is_healthy(), "{}", broker.health());
    subscription.unsubscribe().await.unwrap();
}

#[subscriber(subject = "work.long", queue = "long", ack_wait = "200ms")]
async fn long(id: u64, State(calls): State<Recorder>) {
    calls.add(id);
    tokio::time::sleep(secs(2)).await;
}

#[tokio::test]
async fn calls_longer_than_ack_wait_are_not_redelivered() {
    let server = Server::start().await;
    let calls = Recorder::new();
    let broker = connect_with(&server, &calls).await;
    let running = broker.include::<long>().start_all().await.unwrap();
    for id in 1..=3 {
        broker.publish("work.long", &id).await.unwrap();
    }
    server.all_acked("WORK", "long").await;
    running.shutdown().await.unwrap();
    assert_eq!(calls.counts(), [(1, 1), (2, 1), (3, 1)].into());
    let stream = server.jetstream().await.get_stream("WORK").await.unwrap();
    assert_eq!(stream.consumer_info("long").await.unwrap().delivered.consumer_sequence, 3, "no redelivery");
}

#[subscriber(subject = "work.confirmed", queue = "confirmed", ack = "confirmed")]
async fn confirmed(id: u64, State(calls): State<Recorder>, State(proxy): State<Arc<Proxy>>) {
    if calls.attempt(id) == 1 {
        // The connection is cut before the ack reaches the server.
        proxy.pause();
        tokio::spawn(async move {
            tokio::time::sleep(ms(300)).await;
            proxy.cut();
            proxy.resume();
        });
    }
}

#[tokio::test]
async fn lost_ack_is_repeated_when_confirmed() {
    let server = Server::start().await;
    let proxy = Arc::new(Proxy::start(server.address()).await);
    let calls = Recorder::new();
    let broker = Broker::builder()
        .servers([proxy.url()])
        .connect_options(|options| options.ignore_discovered_servers())
        .state(calls.clone())
        .state(proxy.clone())
        .connect()
        .await
        .unwrap();
    let running = broker.include::<confirmed>().start_all().await.unwrap();
    server.jetstream().await.publish("work.confirmed", "1".into()).await.unwrap().await.unwrap();
    calls.until(1).await;
    server.all_acked("WORK", "confirmed").await;
    running.shutdown().await.unwrap();
    assert_eq!(calls.count(1), 1, "the ack was repeated within `ack_wait`");
}

//! Tests with a `TestBroker`: assertions, faults and the clock.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};

use futures::FutureExt as _;
use jetstream_handlers::ErrorKind;
use jetstream_handlers::prelude::*;
use jetstream_handlers::testing::{TestBroker, assert_idempotent};
use jetstream_handlers_tests::{Recorder, stream_config};

#[subscriber(subject = "orders.created", queue = "confirmer", group = "shop", backoff = ["1m", "1h"])]
async fn confirm(order: u64, publisher: Publisher) -> HandlerResult {
    publisher.publish("orders.confirmed", &order).await?;
    Ok(())
}

#[subscriber(subject = "orders.confirmed", queue = "mailer", group = "shop")]
async fn mail(order: u64, State(calls): State<Recorder>) {
    calls.add(order);
}

#[subscriber(subject = "alone.>", queue = "alone", ack_wait = "30s")]
async fn alone(order: u64, State(calls): State<Recorder>) {
    calls.add(order);
    tokio::time::sleep(secs(1)).await;
}

/// Returns the panic message of a future.
async fn panic_of(future: impl Future<Output = ()>) -> String {
    let panic = AssertUnwindSafe(future).catch_unwind().await.unwrap_err();
    panic.downcast_ref::<String>().cloned().unwrap_or_else(|| (*panic.downcast_ref::<&str>().unwrap()).to_owned())
}

#[jetstream_handlers::test(group = "shop", state = Recorder::new())]
async fn publish_returns_when_the_whole_chain_has_settled(broker: TestBroker) {
    broker.publish("orders.created", &7).await;
    broker.handled::<confirm>().once().with(&7).settled(Settle::Ack).retried(0);
    broker.handled::<mail>().once().with(&7);
    broker.handled::<alone>().never();
    assert_eq!(broker.published::<u64>("orders.*").await, [7, 7]);
}

#[jetstream_handlers::test(include(confirm))]
async fn advance_runs_due_retries(broker: TestBroker) {
    broker.fail_next_publish("orders.confirmed");
    broker.publish("orders.created", &1).await;
    broker.handled::<confirm>().once().retried(0).settled(Settle::Retry);
    broker.advance(secs(45)).await;
    broker.handled::<confirm>().retried(0);
    broker.advance(secs(30)).await;
    broker.handled::<confirm>().once().retried(1).settled(Settle::Ack);
    assert_eq!(broker.published::<u64>("orders.confirmed").await, [1]);
}

#[jetstream_handlers::test(include(confirm))]
async fn failed_assertion_lists_the_calls(broker: TestBroker) {
    broker.fail_next_publish("orders.confirmed");
    broker.publish("orders.created", &1).await;
    let story = panic_of(async { drop(broker.handled::<confirm>().settled(Settle::Ack)) }).await;
    assert!(story.contains("expected every message to end with Ack"), "{story}");
    assert!(story.contains("`test_broker::confirm` was called 1 times"), "{story}");
    assert!(story.contains("message 1 on orders.created with 1 -> Retry: "), "{story}");
    for panic in [
        panic_of(async { drop(broker.handled::<confirm>().times(2)) }).await,
        panic_of(async { drop(broker.handled::<confirm>().with(&2)) }).await,
        panic_of(async { drop(broker.handled::<confirm>().retried(1)) }).await,
        panic_of(async { drop(broker.handled::<confirm>().never()) }).await,
        panic_of(async { drop(broker.handled::<mail>().once()) }).await,
    ] {
        assert!(panic.contains("was called"), "{panic}");
    }
}

#[tokio::test(start_paused = true)]
async fn invalid_handlers_are_refused_at_the_start() {
    let error = TestBroker::builder().include::<mail>().try_start().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::MissingState);
    assert!(error.to_string().contains("test_broker::mail"), "{error}");
    let error = TestBroker::builder().include::<confirm>().auto_create(false).try_start().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StreamNotFound);
    let part = stream_config("PART", &["orders.eu.>"]);
    let error = TestBroker::builder().include::<confirm>().stream(part).try_start().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StreamOverlap);
}

#[tokio::test(start_paused = true)]
async fn lost_ack_redelivers_after_ack_wait() {
    let calls = Recorder::new();
    let broker = TestBroker::builder().include::<alone>().state(calls.clone()).start().await;
    broker.lose_acks(1).publish("alone.only", &1).await;
    assert_eq!(calls.items(), [1]);
    broker.advance(secs(20)).await;
    assert_eq!(calls.items(), [1]);
    broker.advance(secs(15)).await;
    assert_eq!(calls.items(), [1, 1]);
}

#[tokio::test(start_paused = true)]
async fn crash_redelivers_all_in_flight_messages() {
    let calls = Recorder::new();
    let broker = TestBroker::builder().include::<alone>().state(calls.clone()).start().await;
    broker.crash_before_ack();
    for id in 1..=3 {
        broker.broker().publish("alone.crash", &id).await.unwrap();
    }
    broker.advance(secs(60)).await;
    let calls = calls.items();
    assert!((1..=3).all(|id| calls.iter().filter(|call| **call == id).count() == 2), "{calls:?}");
}

#[tokio::test(start_paused = true)]
async fn messages_can_be_duplicated_and_reordered() {
    let calls = Recorder::new();
    let broker = TestBroker::builder().include::<alone>().state(calls.clone()).start().await;
    broker.redeliver(1).publish("alone.twice", &1).await;
    assert_eq!(calls.items(), [1, 1]);
    broker.reorder();
    // All are stored before the worker pulls.
    broker.broker().publish("alone.first", &2).await.unwrap();
    broker.broker().publish("alone.second", &3).await.unwrap();
    broker.broker().publish("alone.third", &4).await.unwrap();
    broker.idle().await;
    let calls = calls.items();
    assert_eq!(calls.len(), 5);
    assert_ne!(calls[2..], [2, 3, 4], "still in stream order");
}

#[tokio::test(start_paused = true)]
async fn slow_server_delays_publishes() {
    let broker = TestBroker::builder().include::<confirm>().start().await;
    broker.slow_server(secs(3));
    let started = tokio::time::Instant::now();
    broker.publish("orders.created", &1).await;
    assert!(started.elapsed() >= secs(6), "two publishes: {:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn handler_survives_a_purge_and_deletions() {
    let calls = Recorder::new();
    let broker = TestBroker::builder().include::<alone>().state(calls.clone()).start().await;
    broker.publish("alone.one", &1).await;
    assert_eq!(broker.purge("ALONE"), 1);
    assert!(broker.delete_consumer("ALONE", "alone"));
    assert!(!broker.delete_consumer("ALONE", "missing"));
    broker.publish("alone.two", &2).await;
    assert_eq!(calls.items(), [1, 2]);
    assert!(broker.delete_stream("ALONE"));
    broker.publish("alone.three", &3).await;
    assert_eq!(calls.items(), [1, 2, 3]);
}

#[subscriber(subject = "invoices.due", queue = "payer")]
async fn pay(invoice: u64, State(paid): State<Arc<Mutex<BTreeSet<u64>>>>) {
    paid.lock().unwrap().insert(invoice);
}

#[subscriber(subject = "invoices.due", queue = "adder")]
async fn add(invoice: u64, State(sum): State<Arc<Mutex<u64>>>) {
    *sum.lock().unwrap() += invoice;
}

#[tokio::test(start_paused = true)]
async fn assert_idempotent_detects_a_repeated_effect() {
    assert_idempotent(async |start| {
        let paid = Arc::<Mutex<BTreeSet<u64>>>::default();
        let broker = start(TestBroker::builder().include::<pay>().state(paid.clone())).await;
        broker.publish("invoices.due", &1).await;
        broker.publish("invoices.due", &2).await;
        paid.lock().unwrap().clone()
    })
    .await;
    let panic = panic_of(assert_idempotent(async |start| {
        let sum = Arc::<Mutex<u64>>::default();
        let broker = start(TestBroker::builder().include::<add>().state(sum.clone())).await;
        broker.publish("invoices.due", &3).await;
        *sum.lock().unwrap()
    }))
    .await;
    assert!(panic.contains("not idempotent") && panic.contains('3') && panic.contains('6'), "{panic}");
}

#[tokio::test(start_paused = true)]
async fn thousand_test_brokers_run() {
    let started = std::time::Instant::now();
    for id in 0..1000 {
        let broker = TestBroker::builder().group("shop").state(Recorder::new()).start().await;
        broker.fail_next_publish("orders.confirmed");
        broker.publish("orders.created", &id).await;
        broker.advance(secs(80)).await;
        broker.handled::<confirm>().once().retried(1);
        broker.handled::<mail>().once().with(&id);
        broker.broker().disconnect().await.unwrap();
    }
    println!("1000 tests in {:.1?}", started.elapsed());
}

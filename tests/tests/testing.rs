//! What users test with: the assertions, the faults, the clock, and how fast it all is.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall say where")]

use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt as _;
use jetstream_handlers::prelude::*;
use jetstream_handlers::testing::{TestBroker, assert_idempotent};
use jetstream_handlers::{ErrorKind, stream};

type Seen = Arc<Mutex<Vec<u64>>>;

#[subscriber(subject = "orders.created", queue = "confirmer", group = "shop", backoff = ["1m", "1h"])]
async fn confirm(order: u64, publisher: Publisher) -> HandlerResult {
    publisher.publish("orders.confirmed", &order).await?;
    Ok(())
}

#[subscriber(subject = "orders.confirmed", queue = "mailer", group = "shop")]
async fn mail(order: u64, State(seen): State<Seen>) {
    seen.lock().unwrap().push(order);
}

#[subscriber(subject = "alone.>", queue = "alone", ack_wait = "30s")]
async fn alone(order: u64, State(seen): State<Seen>) {
    seen.lock().unwrap().push(order);
    tokio::time::sleep(Duration::from_secs(1)).await;
}

/// The panic of a future, as text.
async fn panic_of(future: impl Future<Output = ()>) -> String {
    let panic = AssertUnwindSafe(future).catch_unwind().await.unwrap_err();
    panic.downcast_ref::<String>().cloned().unwrap_or_else(|| (*panic.downcast_ref::<&str>().unwrap()).to_owned())
}

#[jetstream_handlers::test(group = "shop", state = Seen::default())]
async fn a_publish_returns_when_the_whole_chain_has_settled(broker: TestBroker) {
    broker.publish("orders.created", &7).await;
    broker.handled::<confirm>().once().with(&7).settled(Settle::Ack).retried(0);
    broker.handled::<mail>().once().with(&7);
    broker.handled::<alone>().never();
    assert_eq!(broker.published::<u64>("orders.*").await, [7, 7]);
}

#[jetstream_handlers::test(include(confirm))]
async fn the_clock_moves_through_retries(broker: TestBroker) {
    broker.fail_next_publish("orders.confirmed");
    broker.publish("orders.created", &1).await;
    broker.handled::<confirm>().once().retried(0).settled(Settle::Retry);
    broker.advance(Duration::from_secs(45)).await;
    broker.handled::<confirm>().retried(0);
    broker.advance(Duration::from_secs(30)).await;
    broker.handled::<confirm>().once().retried(1).settled(Settle::Ack);
    assert_eq!(broker.published::<u64>("orders.confirmed").await, [1]);
}

#[jetstream_handlers::test(include(confirm))]
async fn an_assertion_that_fails_tells_the_story(broker: TestBroker) {
    broker.fail_next_publish("orders.confirmed");
    broker.publish("orders.created", &1).await;
    let story = panic_of(async { drop(broker.handled::<confirm>().settled(Settle::Ack)) }).await;
    assert!(story.contains("expected every message to end with Ack"), "{story}");
    assert!(story.contains("`testing::confirm` was called 1 times"), "{story}");
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
async fn what_is_wrong_with_the_handlers_is_said_at_the_start() {
    let error = TestBroker::builder().include::<mail>().try_start().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::MissingState);
    assert!(error.to_string().contains("testing::mail"), "{error}");
    let error = TestBroker::builder().include::<confirm>().auto_create(false).try_start().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StreamNotFound);
    let part = stream::Config { name: "PART".into(), subjects: vec!["orders.eu.>".into()], ..Default::default() };
    let error = TestBroker::builder().include::<confirm>().stream(part).try_start().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StreamOverlap);
}

#[tokio::test(start_paused = true)]
async fn a_lost_ack_brings_the_message_again_after_ack_wait() {
    let seen = Seen::default();
    let broker = TestBroker::builder().include::<alone>().state(seen.clone()).start().await;
    broker.lose_acks(1).publish("alone.in.the.dark", &1).await;
    assert_eq!(*seen.lock().unwrap(), [1]);
    broker.advance(Duration::from_secs(20)).await;
    assert_eq!(*seen.lock().unwrap(), [1]);
    broker.advance(Duration::from_secs(15)).await;
    assert_eq!(*seen.lock().unwrap(), [1, 1]);
}

#[tokio::test(start_paused = true)]
async fn a_crash_before_the_ack_brings_back_all_that_was_in_hand() {
    let seen = Seen::default();
    let broker = TestBroker::builder().include::<alone>().state(seen.clone()).start().await;
    broker.crash_before_ack();
    for id in 1..=3 {
        broker.broker().publish("alone.crash", &id).await.unwrap();
    }
    broker.advance(Duration::from_secs(60)).await;
    let seen = seen.lock().unwrap();
    assert!((1..=3).all(|id| seen.iter().filter(|seen| **seen == id).count() == 2), "{seen:?}");
}

#[tokio::test(start_paused = true)]
async fn messages_can_be_delivered_twice_and_out_of_order() {
    let seen = Seen::default();
    let broker = TestBroker::builder().include::<alone>().state(seen.clone()).start().await;
    broker.redeliver(1).publish("alone.twice", &1).await;
    assert_eq!(*seen.lock().unwrap(), [1, 1]);
    broker.reorder();
    // Both are there before the worker asks.
    broker.broker().publish("alone.first", &2).await.unwrap();
    broker.broker().publish("alone.second", &3).await.unwrap();
    broker.broker().publish("alone.third", &4).await.unwrap();
    broker.idle().await;
    let seen = seen.lock().unwrap();
    assert_eq!(seen.len(), 5);
    assert_ne!(seen[2..], [2, 3, 4], "in the order of the stream");
}

#[tokio::test(start_paused = true)]
async fn a_slow_server_takes_its_time() {
    let broker = TestBroker::builder().include::<confirm>().start().await;
    broker.slow_server(Duration::from_secs(3));
    let begun = tokio::time::Instant::now();
    broker.publish("orders.created", &1).await;
    assert!(begun.elapsed() >= Duration::from_secs(6), "two publishes: {:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_deleted_consumer_a_purge_and_a_deleted_stream_are_survived() {
    let seen = Seen::default();
    let broker = TestBroker::builder().include::<alone>().state(seen.clone()).start().await;
    broker.publish("alone.one", &1).await;
    assert_eq!(broker.purge("ALONE"), 1);
    assert!(broker.delete_consumer("ALONE", "alone"));
    assert!(!broker.delete_consumer("ALONE", "nobody"));
    broker.publish("alone.two", &2).await;
    assert_eq!(*seen.lock().unwrap(), [1, 2]);
    assert!(broker.delete_stream("ALONE"));
    broker.publish("alone.three", &3).await;
    assert_eq!(*seen.lock().unwrap(), [1, 2, 3]);
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
async fn an_idempotent_handler_is_told_from_one_that_is_not() {
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
async fn a_thousand_tests_of_this_kind_are_nothing() {
    let begun = std::time::Instant::now();
    for id in 0..1000 {
        let broker = TestBroker::builder().group("shop").state(Seen::default()).start().await;
        broker.fail_next_publish("orders.confirmed");
        broker.publish("orders.created", &id).await;
        broker.advance(Duration::from_secs(80)).await;
        broker.handled::<confirm>().once().retried(1);
        broker.handled::<mail>().once().with(&id);
        broker.broker().disconnect().await.unwrap();
    }
    println!("1000 tests in {:.1?}", begun.elapsed());
}

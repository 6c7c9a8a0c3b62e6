//! The contract: one list of tests, each run in memory and on a real nats-server, whose word is the truth.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall say where")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use jetstream_handlers::prelude::*;
use jetstream_handlers::testing::{Builder, TestBroker};
use jetstream_handlers::{ErrorKind, Subscription, stream};
use jetstream_handlers_tests::{Server, binary, eventually};
use proptest::prelude::*;
use proptest::test_runner::Config;
use serde::{Deserialize, Serialize};

const SOON: Duration = Duration::from_secs(20);

/// Where a test runs.
enum Stage {
    Memory,
    Live(Server),
}

impl Stage {
    async fn start(&self, builder: Builder) -> TestBroker {
        match self {
            Self::Memory => builder.start().await,
            Self::Live(server) => builder.start_live(&server.url()).await,
        }
    }

    async fn delete_consumer(&self, broker: &TestBroker, stream: &str, consumer: &str) {
        match self {
            Self::Memory => assert!(broker.delete_consumer(stream, consumer)),
            Self::Live(server) => {
                let stream = server.jetstream().await.get_stream(stream).await.unwrap();
                stream.delete_consumer(consumer).await.unwrap();
            }
        }
    }

    async fn delete_message(&self, broker: &TestBroker, stream: &str, sequence: u64) {
        match self {
            Self::Memory => {
                broker.delete_message(stream, sequence);
            }
            Self::Live(server) => {
                let stream = server.jetstream().await.get_stream(stream).await.unwrap();
                // It may be gone already, which is as good.
                stream.delete_message(sequence).await.map(drop).unwrap_or_default();
            }
        }
    }

    async fn purge(&self, broker: &TestBroker, stream: &str) {
        match self {
            Self::Memory => {
                broker.purge(stream);
            }
            Self::Live(server) => {
                server.jetstream().await.get_stream(stream).await.unwrap().purge().await.map(drop).unwrap();
            }
        }
    }

    async fn delete_stream(&self, broker: &TestBroker, stream: &str) {
        match self {
            Self::Memory => assert!(broker.delete_stream(stream)),
            Self::Live(server) => server.jetstream().await.delete_stream(stream).await.map(drop).unwrap(),
        }
    }
}

macro_rules! contract {
    ($($name:ident,)*) => {
        mod in_memory {
            $(#[tokio::test(start_paused = true)]
            async fn $name() {
                super::$name(&super::Stage::Memory).await;
            })*
        }

        mod on_a_server {
            $(#[tokio::test]
            async fn $name() {
                super::$name(&super::Stage::Live(super::Server::start().await)).await;
            })*
        }
    };
}

contract![
    a_handled_message_is_acked_once,
    an_error_is_retried_after_its_backoff,
    exhausted_attempts_are_a_dead_letter,
    a_terminated_message_does_not_come_again,
    an_undecodable_payload_is_a_dead_letter,
    a_panic_is_a_retry,
    a_timeout_is_a_retry,
    long_work_is_not_delivered_again,
    waiting_messages_are_not_delivered_again,
    a_handler_too_slow_to_hold_anything_in_advance_handles_everything,
    messages_come_in_the_order_of_the_stream,
    a_failing_message_holds_up_an_ordered_handler,
    one_of_two_ordered_workers_is_active_and_the_other_follows,
    a_blocking_handler_is_called_and_retried_like_any_other,
    two_queues_get_every_message,
    two_workers_of_one_queue_share,
    a_wildcard_gets_what_it_matches,
    a_duplicate_is_not_stored,
    a_wrong_last_sequence_is_refused,
    a_message_over_the_limit_of_the_stream_is_refused,
    a_full_stream_refuses,
    a_stream_discards_old_messages,
    one_subject_keeps_its_last_messages,
    a_work_queue_forgets_what_is_handled,
    a_work_queue_refuses_overlapping_consumers,
    a_missing_stream_is_an_error_without_auto_create,
    overlapping_streams_are_an_error,
    a_subject_outside_the_named_stream_is_an_error,
    a_differing_consumer_is_an_error,
    max_ack_pending_stops_new_messages,
    a_deleted_consumer_is_made_again,
    a_restored_consumer_starts_behind_the_ack_floor,
    a_restored_consumer_of_a_work_queue_delivers_what_is_left,
    a_replaced_stream_is_read_from_its_beginning,
    a_purged_message_does_not_come_again,
    a_deleted_stream_turns_health_red,
    a_stop_hands_back_what_waits,
    headers_arrive,
    nothing_is_published_after_a_disconnect,
    each_of_many_has_its_own_result,
    an_atomic_batch_is_all_or_nothing,
    an_ingest_ends_at_what_is_refused,
];

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Order {
    id: u64,
}

fn order(id: u64) -> Order {
    Order { id }
}

#[subscriber(subject = "orders.created", queue = "accept")]
async fn accept(_order: Order) {}

#[subscriber(subject = "orders.created", queue = "also", concurrency = 4)]
async fn also(_order: Order) {}

#[subscriber(subject = "orders.>", queue = "all")]
async fn all(_subject: Subject) {}

#[subscriber(subject = "orders.created", queue = "fail", max_deliver = 3, backoff = ["100ms", "200ms"])]
async fn fail(_order: Order) -> HandlerResult {
    Err("fails".into())
}

#[subscriber(subject = "orders.created", queue = "refuse")]
async fn refuse(_order: Order) -> Settle {
    Settle::Terminate
}

#[subscriber(subject = "orders.created", queue = "panic", max_deliver = 2, backoff = ["50ms"])]
async fn panic(order: Order, info: Info) {
    assert!(info.delivered() > 1, "on purpose, for {}", order.id);
}

#[subscriber(subject = "orders.created", queue = "hang", max_deliver = 2, backoff = ["50ms"], timeout = "100ms")]
async fn hang(_order: Order, info: Info) {
    if info.delivered() == 1 {
        std::future::pending::<()>().await;
    }
}

#[subscriber(subject = "orders.created", queue = "long", ack_wait = "300ms")]
async fn long(_order: Order) {
    tokio::time::sleep(Duration::from_millis(900)).await;
}

async fn a_handled_message_is_acked_once(stage: &Stage) {
    let broker = stage.start(TestBroker::builder().include::<accept>()).await;
    let ack = broker.publish("orders.created", &order(1)).await;
    assert_eq!((ack.stream.as_str(), ack.sequence, ack.duplicate), ("ORDERS", 1, false));
    broker.handled::<accept>().once().with(&order(1)).settled(Settle::Ack).retried(0);
    assert!(broker.dead_letters().await.is_empty());
}

async fn an_error_is_retried_after_its_backoff(stage: &Stage) {
    let broker = stage.start(TestBroker::builder().include::<fail>()).await;
    broker.publish("orders.created", &order(1)).await;
    broker.handled::<fail>().once().retried(0).settled(Settle::Retry);
    broker.advance(Duration::from_millis(125)).await;
    broker.handled::<fail>().once().retried(1);
    assert!(broker.dead_letters().await.is_empty());
}

async fn exhausted_attempts_are_a_dead_letter(stage: &Stage) {
    let broker = stage.start(TestBroker::builder().include::<fail>()).await;
    broker.publish("orders.created", &order(1)).await;
    broker.advance(Duration::from_millis(500)).await;
    broker.handled::<fail>().once().retried(2);
    let letters = broker.dead_letters().await;
    assert_eq!(letters.len(), 1);
    assert_eq!((letters[0].reason.as_str(), letters[0].error.as_str(), letters[0].delivered), ("error", "fails", 3));
    assert_eq!((letters[0].stream.as_str(), letters[0].stream_sequence), ("ORDERS", 1));
    broker.advance(Duration::from_millis(500)).await;
    broker.handled::<fail>().retried(2);
}

async fn a_terminated_message_does_not_come_again(stage: &Stage) {
    let broker = stage.start(TestBroker::builder().include::<refuse>()).await;
    broker.publish("orders.created", &order(1)).await;
    broker.advance(Duration::from_millis(300)).await;
    broker.handled::<refuse>().once().retried(0).settled(Settle::Terminate);
    assert_eq!(broker.dead_letters().await.len(), 1);
}

async fn an_undecodable_payload_is_a_dead_letter(stage: &Stage) {
    let broker = stage.start(TestBroker::builder().include::<accept>()).await;
    broker.publish_bytes("orders.created", "{ oops").await;
    let letters = broker.dead_letters().await;
    assert_eq!(
        (letters.len(), letters[0].reason.as_str(), &letters[0].payload[..]),
        (1, "undecodable", &b"{ oops"[..])
    );
}

async fn a_panic_is_a_retry(stage: &Stage) {
    let broker = stage.start(TestBroker::builder().include::<panic>()).await;
    broker.publish("orders.created", &order(1)).await;
    broker.advance(Duration::from_millis(100)).await;
    broker.handled::<panic>().once().retried(1).settled(Settle::Ack);
}

async fn a_timeout_is_a_retry(stage: &Stage) {
    let broker = stage.start(TestBroker::builder().include::<hang>()).await;
    broker.publish("orders.created", &order(1)).await;
    broker.advance(Duration::from_millis(100)).await;
    broker.handled::<hang>().once().retried(1).settled(Settle::Ack);
}

async fn long_work_is_not_delivered_again(stage: &Stage) {
    let broker = stage.start(TestBroker::builder().include::<long>()).await;
    broker.publish("orders.created", &order(1)).await;
    broker.handled::<long>().once().retried(0).settled(Settle::Ack);
}

async fn waiting_messages_are_not_delivered_again(stage: &Stage) {
    let broker = stage.start(TestBroker::builder().include::<long>()).await;
    for id in 1..=3 {
        broker.broker().publish("orders.created", &order(id)).await.unwrap();
    }
    broker.settled().await;
    broker.handled::<long>().times(3).retried(0).settled(Settle::Ack);
}

/// A closure that notes what it gets.
async fn note(broker: &TestBroker, queue: &str, subject: &str) -> (Subscription, Arc<Mutex<Vec<u64>>>) {
    let seen = Arc::<Mutex<Vec<u64>>>::default();
    let noted = seen.clone();
    let noting = move |order: Order| {
        noted.lock().unwrap().push(order.id);
        std::future::ready(())
    };
    (broker.broker().subscribe(subject, queue, noting).await.unwrap(), seen)
}

async fn publish(broker: &TestBroker, ids: impl IntoIterator<Item = u64>) {
    for id in ids {
        broker.broker().publish("orders.created", &order(id)).await.unwrap();
    }
}

async fn until(seen: &Mutex<Vec<u64>>, count: usize) {
    eventually("so many messages", SOON, async || (seen.lock().unwrap().len() >= count).then_some(())).await;
}

async fn a_handler_too_slow_to_hold_anything_in_advance_handles_everything(stage: &Stage) {
    let broker = stage.start(TestBroker::builder()).await;
    publish(&broker, 1..=20).await;
    let seen = Arc::<Mutex<Vec<u64>>>::default();
    let noted = seen.clone();
    let handler = move |order: Order| {
        let noted = noted.clone();
        async move {
            // Longer than what waits may wait, which is a sixth of the time for an ack.
            tokio::time::sleep(Duration::from_millis(75)).await;
            noted.lock().unwrap().push(order.id);
        }
    };
    let subscribe = broker.broker().subscribe("orders.created", "slow", handler);
    let _subscription = subscribe.ack_wait(Duration::from_millis(300)).await.unwrap();
    until(&seen, 20).await;
    assert_eq!(*seen.lock().unwrap(), (1..=20).collect::<Vec<_>>());
}

async fn messages_come_in_the_order_of_the_stream(stage: &Stage) {
    let broker = stage.start(TestBroker::builder().include::<accept>()).await;
    publish(&broker, 0..50).await;
    let (_subscription, seen) = note(&broker, "ordered", "orders.created").await;
    until(&seen, 50).await;
    assert_eq!(*seen.lock().unwrap(), (0..50).collect::<Vec<_>>());
}

async fn a_failing_message_holds_up_an_ordered_handler(stage: &Stage) {
    let broker = stage.start(TestBroker::builder().include::<accept>()).await;
    publish(&broker, 0..6).await;
    let seen = Arc::new(Mutex::new(Vec::new()));
    let handler = {
        let seen = seen.clone();
        move |order: Order| {
            seen.lock().unwrap().push(order.id);
            let times = seen.lock().unwrap().iter().filter(|id| **id == order.id).count();
            async move {
                match order.id {
                    1 if times < 3 => Err("not yet".into()),
                    3 => Err("never".into()),
                    _ => Ok(()),
                }
            }
        }
    };
    let subscribe = broker.broker().subscribe("orders.created", "in-order", handler).ordered().max_deliver(3);
    let _subscription = subscribe.backoff(&[Duration::from_millis(50)]).await.unwrap();
    until(&seen, 10).await;
    broker.settled().await;
    assert_eq!(*seen.lock().unwrap(), [0, 1, 1, 1, 2, 3, 3, 3, 4, 5]);
    let letters = broker.broker().dead_letters().list().await.unwrap();
    assert_eq!(letters.len(), 1);
}

async fn one_of_two_ordered_workers_is_active_and_the_other_follows(stage: &Stage) {
    let broker = stage.start(TestBroker::builder().include::<accept>()).await;
    let start = async || {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let noted = seen.clone();
        let handler = move |order: Order| {
            noted.lock().unwrap().push(order.id);
            async {}
        };
        let subscription = broker.broker().subscribe("orders.created", "in-order", handler).ordered().await.unwrap();
        (subscription, seen)
    };
    let (one, seen_by_one) = start().await;
    publish(&broker, 0..5).await;
    until(&seen_by_one, 5).await;
    let (_other, seen_by_other) = start().await;
    publish(&broker, 5..10).await;
    until(&seen_by_one, 10).await;
    assert!(seen_by_other.lock().unwrap().is_empty());
    one.unsubscribe().await.unwrap();
    publish(&broker, 10..15).await;
    until(&seen_by_other, 5).await;
    assert_eq!(*seen_by_other.lock().unwrap(), (10..15).collect::<Vec<_>>());
}

async fn a_blocking_handler_is_called_and_retried_like_any_other(stage: &Stage) {
    let broker = stage.start(TestBroker::builder().include::<accept>()).await;
    publish(&broker, 0..4).await;
    let seen = Arc::new(Mutex::new(Vec::new()));
    let handler = {
        let seen = seen.clone();
        move |order: Order| {
            let seen = seen.clone();
            async move {
                seen.lock().unwrap().push(order.id);
                let first = seen.lock().unwrap().iter().filter(|id| **id == order.id).count() == 1;
                match order.id {
                    1 if first => Err("once".into()),
                    2 if first => panic!("once"),
                    _ => Ok(()),
                }
            }
        }
    };
    let subscribe = broker.broker().subscribe("orders.created", "blocking", handler).blocking().concurrency(2);
    let _subscription = subscribe.backoff(&[Duration::from_millis(50)]).await.unwrap();
    until(&seen, 6).await;
    broker.settled().await;
    let mut seen = seen.lock().unwrap().clone();
    seen.sort_unstable();
    assert_eq!(seen, [0, 1, 1, 2, 2, 3]);
}

async fn two_queues_get_every_message(stage: &Stage) {
    let broker = stage.start(TestBroker::builder().include::<accept>().include::<also>()).await;
    for id in 0..5 {
        broker.publish("orders.created", &order(id)).await;
    }
    broker.handled::<accept>().times(5).settled(Settle::Ack);
    broker.handled::<also>().times(5).settled(Settle::Ack);
}

async fn two_workers_of_one_queue_share(stage: &Stage) {
    let broker = stage.start(TestBroker::builder().include::<accept>()).await;
    let (_one, seen_by_one) = note(&broker, "shared", "orders.created").await;
    let (_other, seen_by_other) = note(&broker, "shared", "orders.created").await;
    publish(&broker, 0..40).await;
    let total = || seen_by_one.lock().unwrap().len() + seen_by_other.lock().unwrap().len();
    eventually("all forty", SOON, async || (total() >= 40).then_some(())).await;
    broker.settled().await;
    assert_eq!(total(), 40, "each message once");
    assert!(!seen_by_one.lock().unwrap().is_empty() && !seen_by_other.lock().unwrap().is_empty());
}

async fn a_wildcard_gets_what_it_matches(stage: &Stage) {
    let broker = stage.start(TestBroker::builder().include::<all>().include::<accept>()).await;
    for subject in ["orders.created", "orders.paid", "orders.eu.created"] {
        broker.publish(subject, &order(1)).await;
    }
    broker.handled::<all>().times(3);
    broker.handled::<accept>().once();
}

async fn a_duplicate_is_not_stored(stage: &Stage) {
    let broker = stage.start(TestBroker::builder().include::<accept>()).await;
    let send = async || broker.broker().publish_message("orders.created", &order(1)).message_id("one").await.unwrap();
    let (first, second) = (send().await, send().await);
    assert_eq!((first.duplicate, second.duplicate, first.sequence == second.sequence), (false, true, true));
    broker.settled().await;
    broker.handled::<accept>().once();
}

async fn a_wrong_last_sequence_is_refused(stage: &Stage) {
    let broker = stage.start(TestBroker::builder().include::<accept>()).await;
    let publish =
        |sequence| broker.broker().publish_message("orders.created", &order(1)).expect_last_subject_sequence(sequence);
    assert_eq!(publish(0).await.unwrap().sequence, 1);
    assert_eq!(publish(1).await.unwrap().sequence, 2);
    assert_eq!(publish(1).await.unwrap_err().kind(), ErrorKind::WrongLastSequence);
    let publish = |sequence| broker.broker().publish_message("orders.paid", &order(1)).expect_last_sequence(sequence);
    assert_eq!(publish(9).await.unwrap_err().kind(), ErrorKind::WrongLastSequence);
    assert_eq!(publish(2).await.unwrap().sequence, 3);
}

fn orders() -> stream::Config {
    stream::Config { name: "ORDERS".into(), subjects: vec!["orders.>".into()], ..Default::default() }
}

async fn a_message_over_the_limit_of_the_stream_is_refused(stage: &Stage) {
    let config = stream::Config { max_message_size: 200, ..orders() };
    let broker = stage.start(TestBroker::builder().stream(config).include::<all>()).await;
    let error = broker.broker().publish("orders.created", &"x".repeat(300)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PayloadTooLarge);
    let error = broker.broker().publish("orders.created", &"x".repeat(2_000_000)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PayloadTooLarge, "the server's own limit");
}

async fn a_full_stream_refuses(stage: &Stage) {
    let config = stream::Config { max_messages: 2, discard: stream::DiscardPolicy::New, ..orders() };
    let broker = stage.start(TestBroker::builder().stream(config).include::<accept>()).await;
    publish(&broker, 0..2).await;
    let error = broker.broker().publish("orders.created", &order(3)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Publish);
    assert!(error.to_string().contains("full"), "{error}");
    stage.purge(&broker, "ORDERS").await;
    publish(&broker, 3..4).await;
}

async fn each_of_many_has_its_own_result(stage: &Stage) {
    let config = stream::Config { max_messages: 3, discard: stream::DiscardPolicy::New, ..orders() };
    let broker = stage.start(TestBroker::builder().stream(config).include::<accept>()).await;
    let publish = |id| broker.broker().publish_message("orders.created", &order(id));
    let messages = [
        publish(1).message_id("one"),
        broker.broker().publish_message("orders.*", &order(2)),
        publish(3).expect_last_sequence(7),
        publish(4).message_id("one"),
        publish(5),
        publish(6).message_id("six").header("Tenant", "eu"),
        publish(7),
    ];
    let results = broker.broker().publish_all(messages).await;
    let told = |result: &Result<_, jetstream_handlers::Error>| {
        result.as_ref().map_or_else(|error| Some(error.kind()), |_| None)
    };
    let expected =
        [None, Some(ErrorKind::Config), Some(ErrorKind::WrongLastSequence), None, None, None, Some(ErrorKind::Publish)];
    assert_eq!(results.iter().map(told).collect::<Vec<_>>(), expected);
    assert!(results[3].as_ref().is_ok_and(|ack| ack.duplicate && ack.sequence == 1));
    assert_eq!(results[5].as_ref().map(|ack| ack.sequence).unwrap(), 3);
    assert_eq!(broker.published::<Order>("orders.>").await, [order(1), order(5), order(6)]);
}

async fn an_atomic_batch_is_all_or_nothing(stage: &Stage) {
    if matches!(stage, Stage::Live(_)) && binary::version() < (2, 12, 1) {
        return;
    }
    let config = stream::Config { allow_atomic_publish: true, ..orders() };
    let broker = stage.start(TestBroker::builder().stream(config).include::<accept>()).await;
    let publish = |id| broker.broker().publish_message("orders.created", &order(id));
    let ack = broker.broker().publish_atomic([publish(1).message_id("one"), publish(2), publish(3)]).await.unwrap();
    assert_eq!((ack.stream.as_str(), ack.sequence, ack.batch_size), ("ORDERS", 3, Some(3)));
    let paid = |id| broker.broker().publish_message("orders.paid", &order(id));
    for (last, kind) in [
        (paid(9).expect_last_subject_sequence(7), ErrorKind::WrongLastSequence),
        (paid(9).message_id("one"), ErrorKind::Duplicate),
        (paid(9).expect_stream("SHOP"), ErrorKind::StreamMismatch),
        (broker.broker().publish_message("orders.*", &order(9)), ErrorKind::Config),
    ] {
        let error = broker.broker().publish_atomic([publish(4), publish(5), last]).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error:?}");
    }
    assert_eq!(broker.published::<Order>("orders.>").await, [order(1), order(2), order(3)]);
    let lone = |subject| [broker.broker().publish_message(subject, &order(1))];
    let error = broker.broker().publish_atomic(lone("bills.paid")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StreamNotFound, "{error:?}");
    broker.publish("bills.paid", &order(1)).await;
    let error = broker.broker().publish_atomic(lone("bills.paid")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StreamMismatch, "{error:?}");
}

async fn an_ingest_ends_at_what_is_refused(stage: &Stage) {
    if matches!(stage, Stage::Live(_)) && binary::version() < (2, 14, 0) {
        return;
    }
    let config = stream::Config { allow_batch_publish: true, ..orders() };
    let broker = stage.start(TestBroker::builder().stream(config).include::<accept>()).await;
    broker.publish("bills.paid", &order(1)).await;
    let publish = |id| broker.broker().publish_message("orders.created", &order(id));
    let ack = broker.broker().ingest((1..=3).map(publish)).await.unwrap();
    assert_eq!((ack.stream.as_str(), ack.sequence, ack.batch_size), ("ORDERS", 3, Some(3)));
    for (third, kind) in [
        (publish(9).expect_last_sequence(1), ErrorKind::WrongLastSequence),
        (publish(9).expect_stream("SHOP"), ErrorKind::StreamMismatch),
        (broker.broker().publish_message("orders.*", &order(9)), ErrorKind::Config),
        (broker.broker().publish_message("cars.new", &order(9)), ErrorKind::Publish),
    ] {
        let error = broker.broker().ingest([publish(4), publish(5), third, publish(6)]).await.unwrap_err();
        assert_eq!((error.kind(), error.stored()), (kind, Some(2)), "{error:?}");
    }
    assert_eq!(broker.published::<Order>("orders.>").await.len(), 3 + 4 * 2);
    let lone = |subject| [broker.broker().publish_message(subject, &order(1))];
    for (subject, kind) in [("cars.new", ErrorKind::StreamNotFound), ("bills.paid", ErrorKind::StreamMismatch)] {
        let error = broker.broker().ingest(lone(subject)).await.unwrap_err();
        assert_eq!((error.kind(), error.stored()), (kind, Some(0)), "{error:?}");
    }
}

async fn a_stream_discards_old_messages(stage: &Stage) {
    let config = stream::Config { max_messages: 2, ..orders() };
    let broker = stage.start(TestBroker::builder().stream(config).include::<accept>()).await;
    publish(&broker, 0..5).await;
    assert_eq!(broker.published::<Order>("orders.>").await, [order(3), order(4)]);
}

async fn one_subject_keeps_its_last_messages(stage: &Stage) {
    let config = stream::Config { max_messages_per_subject: 1, ..orders() };
    let broker = stage.start(TestBroker::builder().stream(config).include::<accept>()).await;
    publish(&broker, 0..3).await;
    broker.publish("orders.paid", &order(9)).await;
    assert_eq!(broker.published::<Order>("orders.>").await, [order(2), order(9)]);
}

fn work_queue() -> stream::Config {
    stream::Config { retention: stream::RetentionPolicy::WorkQueue, ..orders() }
}

async fn a_work_queue_forgets_what_is_handled(stage: &Stage) {
    let broker = stage.start(TestBroker::builder().stream(work_queue()).include::<fail>()).await;
    broker.publish("orders.created", &order(1)).await;
    assert_eq!(broker.published::<Order>("orders.>").await, [order(1)], "it waits for its next attempt");
    broker.advance(Duration::from_millis(500)).await;
    assert_eq!(broker.dead_letters().await.len(), 1);
    assert!(broker.published::<Order>("orders.>").await.is_empty(), "a terminated message leaves the queue");
}

async fn a_work_queue_refuses_overlapping_consumers(stage: &Stage) {
    let broker = stage.start(TestBroker::builder().stream(work_queue()).include::<all>()).await;
    let error = broker.broker().subscribe("orders.created", "other", |_: Order| async {}).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StreamOverlap);
    assert!(error.to_string().contains("work queue") && error.to_string().contains("`all`"), "{error}");
}

async fn a_missing_stream_is_an_error_without_auto_create(stage: &Stage) {
    let letters = stream::Config { name: "DLQ".into(), subjects: vec!["dlq.>".into()], ..Default::default() };
    let broker = stage.start(TestBroker::builder().stream(orders()).stream(letters).include::<accept>()).await;
    drop(broker);
    // What is missing here is missing on both.
    let builder = Broker::builder().auto_create(false);
    let broker = match stage {
        Stage::Memory => builder.in_memory(),
        Stage::Live(server) => builder.servers([server.url()]).connect().await.unwrap(),
    };
    let error = broker.subscribe("nothing.here", "worker", |_: Order| async {}).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StreamNotFound);
    let error = broker.publish("nothing.here", &1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StreamNotFound);
    assert!(error.to_string().contains("auto_create"), "{error}");
}

async fn overlapping_streams_are_an_error(stage: &Stage) {
    let config = stream::Config { name: "EUROPE".into(), subjects: vec!["orders.eu.>".into()], ..Default::default() };
    let broker = stage.start(TestBroker::builder().stream(config).include::<elsewhere>()).await;
    let error = broker.broker().subscribe("orders.us.created", "us", |_: Order| async {}).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StreamOverlap);
    assert!(error.to_string().contains("EUROPE"), "{error}");
}

#[subscriber(subject = "elsewhere.>", queue = "elsewhere")]
async fn elsewhere(_subject: Subject) {}

async fn a_subject_outside_the_named_stream_is_an_error(stage: &Stage) {
    let broker = stage.start(TestBroker::builder().include::<accept>()).await;
    let subscribe = broker.broker().subscribe("payments.made", "payer", |_: Order| async {}).stream("ORDERS");
    let error = subscribe.await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StreamNotFound);
    assert!(error.to_string().contains("ORDERS") && error.to_string().contains("payments.made"), "{error}");
}

async fn a_differing_consumer_is_an_error(stage: &Stage) {
    let broker = stage.start(TestBroker::builder().include::<accept>()).await;
    let subscribe = broker.broker().subscribe("orders.created", "accept", |_: Order| async {});
    let error = subscribe.ack_wait(Duration::from_secs(7)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConsumerMismatch);
    assert!(error.to_string().contains("ack_wait is 30s on the server, 7s here"), "{error}");
}

#[subscriber(subject = "orders.created", queue = "greedy", concurrency = 700)]
async fn greedy(_order: Order) {}

async fn max_ack_pending_stops_new_messages(stage: &Stage) {
    // 700 at once ask for 11,200; a delayed message counts as unanswered, as on the server.
    let broker = stage.start(TestBroker::builder().include::<greedy>()).await;
    let attempts = Arc::<Mutex<Vec<u64>>>::default();
    let noted = attempts.clone();
    let later = move |order: Order| {
        noted.lock().unwrap().push(order.id);
        std::future::ready(Settle::RetryAfter(Duration::from_secs(3600)))
    };
    let _subscription = broker.broker().subscribe("orders.created", "later", later).batch_size(1000).await.unwrap();
    let bound = 10_000;
    let publisher = broker.broker().publisher();
    let publishes = (0..bound + 50).map(|id| {
        let publisher = publisher.clone();
        async move { publisher.publish("orders.created", &order(id)).await.unwrap() }
    });
    futures::StreamExt::for_each(futures::StreamExt::buffer_unordered(futures::stream::iter(publishes), 256), |_| {
        std::future::ready(())
    })
    .await;
    let wanted = usize::try_from(bound).unwrap();
    until(&attempts, wanted).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(attempts.lock().unwrap().len(), wanted, "nothing new while so many wait");
}

async fn a_deleted_consumer_is_made_again(stage: &Stage) {
    let broker = stage.start(TestBroker::builder().include::<accept>()).await;
    let (_subscription, seen) = note(&broker, "deleted", "orders.created").await;
    publish(&broker, 1..2).await;
    until(&seen, 1).await;
    stage.delete_consumer(&broker, "ORDERS", "deleted").await;
    publish(&broker, 2..3).await;
    eventually("the consumer is made again", SOON, async || seen.lock().unwrap().contains(&2).then_some(())).await;
    eventually("healthy again", SOON, async || broker.broker().health().is_healthy().then_some(())).await;
}

async fn a_restored_consumer_starts_behind_the_ack_floor(stage: &Stage) {
    let broker = stage.start(TestBroker::builder().include::<accept>()).await;
    let (subscription, seen) = note(&broker, "restored", "orders.created").await;
    publish(&broker, 1..21).await;
    until(&seen, 20).await;
    broker.settled().await;
    subscription.unsubscribe().await.unwrap();
    // A worker whose consumer existed before reads the ack floor at its start.
    let (_subscription, seen) = note(&broker, "restored", "orders.created").await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    stage.delete_consumer(&broker, "ORDERS", "restored").await;
    publish(&broker, 21..23).await;
    until(&seen, 2).await;
    broker.settled().await;
    assert_eq!(*seen.lock().unwrap(), [21, 22]);
    eventually("healthy again", SOON, async || broker.broker().health().is_healthy().then_some(())).await;
}

async fn a_restored_consumer_of_a_work_queue_delivers_what_is_left(stage: &Stage) {
    let retention = stream::RetentionPolicy::WorkQueue;
    let config =
        stream::Config { name: "TASKS".into(), subjects: vec!["tasks.>".into()], retention, ..Default::default() };
    let broker = stage.start(TestBroker::builder().stream(config).include::<accept>()).await;
    let (subscription, seen) = note(&broker, "tasks", "tasks.new").await;
    for id in 1..4 {
        broker.broker().publish("tasks.new", &order(id)).await.unwrap();
    }
    until(&seen, 3).await;
    broker.settled().await;
    subscription.unsubscribe().await.unwrap();
    let (_subscription, seen) = note(&broker, "tasks", "tasks.new").await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    stage.delete_consumer(&broker, "TASKS", "tasks").await;
    broker.broker().publish("tasks.new", &order(4)).await.unwrap();
    until(&seen, 1).await;
    broker.settled().await;
    assert_eq!(*seen.lock().unwrap(), [4]);
}

async fn a_replaced_stream_is_read_from_its_beginning(stage: &Stage) {
    let broker = stage.start(TestBroker::builder().include::<accept>()).await;
    let (subscription, seen) = note(&broker, "replaced", "orders.created").await;
    publish(&broker, 1..6).await;
    until(&seen, 5).await;
    broker.settled().await;
    subscription.unsubscribe().await.unwrap();
    let (_subscription, seen) = note(&broker, "replaced", "orders.created").await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    stage.delete_stream(&broker, "ORDERS").await;
    // A publish creates the stream again, which numbers its messages from 1.
    publish(&broker, 6..9).await;
    until(&seen, 3).await;
    assert_eq!(*seen.lock().unwrap(), [6, 7, 8]);
}

async fn a_purged_message_does_not_come_again(stage: &Stage) {
    let broker = stage.start(TestBroker::builder().include::<fail>()).await;
    broker.publish("orders.created", &order(1)).await;
    stage.purge(&broker, "ORDERS").await;
    tokio::time::sleep(Duration::from_millis(400)).await;
    broker.handled::<fail>().once().retried(0);
    assert!(broker.dead_letters().await.is_empty());
}

async fn a_deleted_stream_turns_health_red(stage: &Stage) {
    let broker = stage.start(TestBroker::builder().include::<accept>()).await;
    assert!(broker.broker().health().is_healthy());
    stage.delete_stream(&broker, "ORDERS").await;
    eventually("health is red", SOON, async || (!broker.broker().health().is_healthy()).then_some(())).await;
    // A publish makes the stream again, and the handler goes on.
    broker.broker().publish("orders.created", &order(1)).await.unwrap();
    eventually("healthy again", SOON, async || broker.broker().health().is_healthy().then_some(())).await;
    broker.settled().await;
    broker.handled::<accept>().once().with(&order(1));
}

async fn a_stop_hands_back_what_waits(stage: &Stage) {
    let broker = stage.start(TestBroker::builder().include::<accept>()).await;
    let slow = |_: Order| async { tokio::time::sleep(Duration::from_millis(300)).await };
    let subscription = broker.broker().subscribe("orders.created", "handed", slow).await.unwrap();
    publish(&broker, 0..4).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let (stopped, (_successor, seen)) =
        futures::join!(subscription.unsubscribe(), note(&broker, "handed", "orders.created"));
    stopped.unwrap();
    until(&seen, 3).await;
    broker.settled().await;
    assert_eq!(*seen.lock().unwrap(), [1, 2, 3], "the first was finished, the others handed back");
}

async fn headers_arrive(stage: &Stage) {
    let broker = stage.start(TestBroker::builder().include::<accept>()).await;
    let seen = Arc::<Mutex<Vec<(String, String)>>>::default();
    let noted = seen.clone();
    let noting = move |headers: Headers, _order: Order| {
        noted.lock().unwrap().extend(headers.iter().map(|(name, value)| (name.to_owned(), value.to_owned())));
        std::future::ready(())
    };
    let _subscription = broker.broker().subscribe("orders.created", "headers", noting).await.unwrap();
    let message = broker.broker().publish_message("orders.created", &order(1));
    message.header("Tenant", "eu").header("Tenant", "us").message_id("x").await.unwrap();
    eventually("the message", SOON, async || (!seen.lock().unwrap().is_empty()).then_some(())).await;
    let mut seen = seen.lock().unwrap().clone();
    seen.sort();
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(seen, [pair("Nats-Msg-Id", "x"), pair("Tenant", "eu"), pair("Tenant", "us")]);
}

async fn nothing_is_published_after_a_disconnect(stage: &Stage) {
    let broker = stage.start(TestBroker::builder().include::<accept>()).await;
    broker.broker().disconnect().await.unwrap();
    assert!(broker.broker().publish("orders.created", &order(1)).await.is_err());
    assert!(!broker.broker().health().is_healthy());
    let error = broker.broker().start_all().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed);
}

/// What a script does to a broker.
#[derive(Debug, Clone)]
enum Step {
    /// Publishes a message whose handler answers like this, attempt by attempt; the last answer repeats.
    Publish(Vec<Answer>),
    Wait,
    /// Deletes the message of this publish, whatever has become of it.
    Delete(usize),
    Purge,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
enum Answer {
    Ack,
    Nak,
    NakLater,
    Term,
    Panic,
}

fn script() -> impl Strategy<Value = Vec<Step>> {
    let answer = prop_oneof![
        4 => Just(Answer::Ack),
        2 => Just(Answer::Nak),
        2 => Just(Answer::NakLater),
        1 => Just(Answer::Term),
        1 => Just(Answer::Panic),
    ];
    let step = prop_oneof![
        6 => proptest::collection::vec(answer, 1..4).prop_map(Step::Publish),
        2 => Just(Step::Wait),
        1 => (0..6_usize).prop_map(Step::Delete),
        1 => Just(Step::Purge),
    ];
    proptest::collection::vec(step, 1..10)
}

/// Runs a script; gives every answer in the order of the attempts, by message, and the dead letters.
async fn play(stage: &Stage, script: &[Step]) -> (Vec<Vec<Answer>>, Vec<(u64, String, u64)>) {
    let broker = stage.start(TestBroker::builder().stream(orders()).include::<accept>()).await;
    let played = Arc::<Mutex<Vec<(u64, Answer)>>>::default();
    let noted = played.clone();
    let handler = move |(id, answers): (u64, Vec<Answer>)| {
        let noted = noted.clone();
        async move {
            let attempt = noted.lock().unwrap().iter().filter(|(other, _)| *other == id).count();
            let answer = answers[attempt.min(answers.len() - 1)];
            noted.lock().unwrap().push((id, answer));
            match answer {
                Answer::Ack => Ok(()),
                Answer::Nak => Err(HandlerError::retry("nak")),
                Answer::NakLater => Err(HandlerError::retry_after(Duration::from_millis(300), "later")),
                Answer::Term => Err(HandlerError::terminate("term")),
                Answer::Panic => panic!("on purpose"),
            }
        }
    };
    let subscribe = broker.broker().subscribe("orders.played", "player", handler).max_deliver(3);
    let _subscription = subscribe.backoff(&[Duration::from_millis(200)]).concurrency(2).await.unwrap();
    let mut sequences = Vec::new();
    for step in script {
        match step {
            Step::Publish(answers) => {
                let id = sequences.len() as u64;
                let ack = broker.broker().publish("orders.played", &(id, answers)).await.unwrap();
                sequences.push(ack.sequence);
                eventually("the first attempt", SOON, async || {
                    played.lock().unwrap().iter().any(|(other, _)| *other == id).then_some(())
                })
                .await;
            }
            // Long enough for every delay that may be running, so that both stages are at the same point.
            Step::Wait => tokio::time::sleep(Duration::from_millis(600)).await,
            Step::Delete(index) => {
                if let Some(sequence) = sequences.get(*index) {
                    stage.delete_message(&broker, "ORDERS", *sequence).await;
                }
            }
            Step::Purge => stage.purge(&broker, "ORDERS").await,
        }
    }
    tokio::time::sleep(Duration::from_millis(1000)).await;
    let letters = broker.dead_letters().await;
    let played = played.lock().unwrap();
    let of = |id: usize| played.iter().filter(|(other, _)| *other == id as u64).map(|(_, answer)| *answer).collect();
    let mut letters: Vec<_> =
        letters.into_iter().map(|letter| (letter.stream_sequence, letter.reason, letter.delivered)).collect();
    letters.sort();
    ((0..sequences.len()).map(of).collect(), letters)
}

proptest! {
    #![proptest_config(Config { cases: 10, max_shrink_iters: 20, failure_persistence: None, ..Config::default() })]

    #[test]
    fn a_random_script_ends_alike_on_both(script in script()) {
        let runtime = |paused| {
            let mut builder = tokio::runtime::Builder::new_current_thread();
            builder.enable_all().start_paused(paused).build().unwrap()
        };
        let in_memory = runtime(true).block_on(play(&Stage::Memory, &script));
        let on_a_server = runtime(false).block_on(async { play(&Stage::Live(Server::start().await), &script).await });
        prop_assert_eq!(in_memory, on_a_server);
    }
}

//! The contract of both transports: each test runs in memory and on a real nats-server, which is the reference.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

use std::sync::{Arc, Mutex};

use jetstream_handlers::prelude::*;
use jetstream_handlers::testing::{Builder, TestBroker};
use jetstream_handlers::{ErrorKind, Subscription, stream};
use jetstream_handlers_tests::{Recorder, SOON, Server, binary, eventually, ms, stream_config};
use proptest::prelude::*;
use proptest::test_runner::Config;
use serde::{Deserialize, Serialize};

/// The transport of a test.
enum Transport {
    Memory,
    Live(Server),
}

impl Transport {
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
                // The message may have been removed already.
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
                super::$name(&super::Transport::Memory).await;
            })*
        }

        mod on_a_server {
            $(#[tokio::test]
            async fn $name() {
                super::$name(&super::Transport::Live(super::Server::start().await)).await;
            })*
        }
    };
}

contract![
    handled_message_is_acked,
    error_is_retried_after_its_backoff,
    exhausted_message_becomes_a_dead_letter,
    terminated_message_is_not_redelivered,
    undecodable_payload_becomes_a_dead_letter,
    panic_is_retried,
    timeout_is_retried,
    long_call_is_not_redelivered,
    waiting_messages_are_not_redelivered,
    handler_too_slow_to_prefetch_handles_everything,
    messages_arrive_in_stream_order,
    failing_message_blocks_an_ordered_handler,
    standby_ordered_worker_takes_over,
    blocking_handler_is_retried,
    each_queue_receives_every_message,
    workers_of_one_queue_share_the_messages,
    wildcard_receives_matching_subjects,
    duplicate_is_not_stored,
    wrong_last_sequence_is_refused,
    too_large_message_is_refused,
    full_stream_refuses_messages,
    full_stream_discards_old_messages,
    max_messages_per_subject_keeps_the_latest,
    work_queue_removes_handled_messages,
    work_queue_refuses_overlapping_consumers,
    missing_stream_is_an_error_without_auto_create,
    overlapping_stream_is_refused,
    subject_outside_the_named_stream_is_refused,
    differing_consumer_is_refused,
    max_ack_pending_stops_delivery,
    deleted_consumer_is_recreated,
    restored_consumer_starts_behind_the_ack_floor,
    restored_consumer_of_a_work_queue_delivers_the_remaining_messages,
    replaced_stream_is_read_from_its_beginning,
    purged_message_is_not_redelivered,
    deleted_stream_is_unhealthy,
    stop_returns_waiting_messages,
    headers_reach_the_handler,
    disconnected_broker_refuses_publishes,
    publish_all_returns_each_result,
    atomic_batch_is_all_or_nothing,
    ingest_ends_at_the_first_refused_message,
    header_of_the_server_is_refused,
    replay_calls_the_failed_queue_again,
    large_dead_letter_is_stored_in_parts,
    dead_letter_is_kept_if_its_stream_denies_deletes,
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
    tokio::time::sleep(ms(900)).await;
}

async fn handled_message_is_acked(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<accept>()).await;
    let ack = broker.publish("orders.created", &order(1)).await;
    assert_eq!((ack.stream.as_str(), ack.sequence, ack.duplicate), ("ORDERS", 1, false));
    broker.handled::<accept>().once().with(&order(1)).settled(Settle::Ack).retried(0);
    assert!(broker.dead_letters().await.is_empty());
}

async fn error_is_retried_after_its_backoff(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<fail>()).await;
    broker.publish("orders.created", &order(1)).await;
    broker.handled::<fail>().once().retried(0).settled(Settle::Retry);
    broker.advance(ms(125)).await;
    broker.handled::<fail>().once().retried(1);
    assert!(broker.dead_letters().await.is_empty());
}

async fn exhausted_message_becomes_a_dead_letter(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<fail>()).await;
    broker.publish("orders.created", &order(1)).await;
    broker.advance(ms(500)).await;
    broker.handled::<fail>().once().retried(2);
    let letters = broker.dead_letters().await;
    assert_eq!(letters.len(), 1);
    assert_eq!((letters[0].reason.as_str(), letters[0].error.as_str(), letters[0].delivered), ("error", "fails", 3));
    assert_eq!((letters[0].stream.as_str(), letters[0].stream_sequence), ("ORDERS", 1));
    broker.advance(ms(500)).await;
    broker.handled::<fail>().retried(2);
}

async fn terminated_message_is_not_redelivered(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<refuse>()).await;
    broker.publish("orders.created", &order(1)).await;
    broker.advance(ms(300)).await;
    broker.handled::<refuse>().once().retried(0).settled(Settle::Terminate);
    assert_eq!(broker.dead_letters().await.len(), 1);
}

async fn undecodable_payload_becomes_a_dead_letter(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<accept>()).await;
    broker.publish_bytes("orders.created", "{ oops").await;
    let letters = broker.dead_letters().await;
    assert_eq!(
        (letters.len(), letters[0].reason.as_str(), &letters[0].payload[..]),
        (1, "undecodable", &b"{ oops"[..])
    );
}

async fn panic_is_retried(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<panic>()).await;
    broker.publish("orders.created", &order(1)).await;
    broker.advance(ms(100)).await;
    broker.handled::<panic>().once().retried(1).settled(Settle::Ack);
}

async fn timeout_is_retried(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<hang>()).await;
    broker.publish("orders.created", &order(1)).await;
    broker.advance(ms(100)).await;
    broker.handled::<hang>().once().retried(1).settled(Settle::Ack);
}

async fn long_call_is_not_redelivered(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<long>()).await;
    broker.publish("orders.created", &order(1)).await;
    broker.handled::<long>().once().retried(0).settled(Settle::Ack);
}

async fn waiting_messages_are_not_redelivered(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<long>()).await;
    for id in 1..=3 {
        broker.broker().publish("orders.created", &order(id)).await.unwrap();
    }
    broker.idle().await;
    broker.handled::<long>().times(3).retried(0).settled(Settle::Ack);
}

/// Starts a handler that records the messages.
async fn record(broker: &TestBroker, queue: &str, subject: &str) -> (Subscription, Recorder) {
    record_on(broker.broker(), queue, subject).await
}

async fn record_on(broker: &Broker, queue: &str, subject: &str) -> (Subscription, Recorder) {
    let calls = Recorder::new();
    let recorder = calls.clone();
    let handler = move |order: Order| {
        recorder.add(order.id);
        std::future::ready(())
    };
    (broker.subscribe(subject, queue, handler).await.unwrap(), calls)
}

async fn publish(broker: &TestBroker, ids: impl IntoIterator<Item = u64>) {
    for id in ids {
        broker.broker().publish("orders.created", &order(id)).await.unwrap();
    }
}

async fn handler_too_slow_to_prefetch_handles_everything(transport: &Transport) {
    let broker = transport.start(TestBroker::builder()).await;
    publish(&broker, 1..=20).await;
    let calls = Recorder::new();
    let recorder = calls.clone();
    let handler = move |order: Order| {
        let recorder = recorder.clone();
        async move {
            // Longer than the sixth of `ack_wait` that a message may wait.
            tokio::time::sleep(ms(75)).await;
            recorder.add(order.id);
        }
    };
    let subscribe = broker.broker().subscribe("orders.created", "slow", handler);
    let _subscription = subscribe.ack_wait(ms(300)).await.unwrap();
    calls.until_len(20).await;
    assert_eq!(calls.items(), (1..=20).collect::<Vec<_>>());
}

async fn messages_arrive_in_stream_order(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<accept>()).await;
    publish(&broker, 0..50).await;
    let (_subscription, calls) = record(&broker, "ordered", "orders.created").await;
    calls.until_len(50).await;
    assert_eq!(calls.items(), (0..50).collect::<Vec<_>>());
}

async fn failing_message_blocks_an_ordered_handler(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<accept>()).await;
    publish(&broker, 0..6).await;
    let calls = Recorder::new();
    let handler = {
        let calls = calls.clone();
        move |order: Order| {
            let times = calls.attempt(order.id);
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
    let _subscription = subscribe.backoff(&[ms(50)]).await.unwrap();
    calls.until_len(10).await;
    broker.idle().await;
    assert_eq!(calls.items(), [0, 1, 1, 1, 2, 3, 3, 3, 4, 5]);
    let letters = broker.broker().dead_letters().list(100).await.unwrap();
    assert_eq!(letters.len(), 1);
}

async fn standby_ordered_worker_takes_over(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<accept>()).await;
    let start = async |broker: &Broker| {
        let calls = Recorder::new();
        let recorder = calls.clone();
        let handler = move |order: Order| {
            recorder.add(order.id);
            async {}
        };
        let subscription = broker.subscribe("orders.created", "in-order", handler).ordered().await.unwrap();
        (subscription, calls)
    };
    let (one, first_calls) = start(broker.broker()).await;
    publish(&broker, 0..5).await;
    first_calls.until_len(5).await;
    let second = broker.second_instance().await;
    let (_other, second_calls) = start(&second).await;
    publish(&broker, 5..10).await;
    first_calls.until_len(10).await;
    assert!(second_calls.is_empty());
    one.unsubscribe().await.unwrap();
    publish(&broker, 10..15).await;
    second_calls.until_len(5).await;
    assert_eq!(second_calls.items(), (10..15).collect::<Vec<_>>());
}

async fn blocking_handler_is_retried(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<accept>()).await;
    publish(&broker, 0..4).await;
    let calls = Recorder::new();
    let handler = {
        let calls = calls.clone();
        move |order: Order| {
            let calls = calls.clone();
            async move {
                let first = calls.attempt(order.id) == 1;
                match order.id {
                    1 if first => Err("once".into()),
                    2 if first => panic!("once"),
                    _ => Ok(()),
                }
            }
        }
    };
    let subscribe = broker.broker().subscribe("orders.created", "blocking", handler).blocking().concurrency(2);
    let _subscription = subscribe.backoff(&[ms(50)]).await.unwrap();
    calls.until_len(6).await;
    broker.idle().await;
    let mut calls = calls.items();
    calls.sort_unstable();
    assert_eq!(calls, [0, 1, 1, 2, 2, 3]);
}

async fn each_queue_receives_every_message(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<accept>().include::<also>()).await;
    for id in 0..5 {
        broker.publish("orders.created", &order(id)).await;
    }
    broker.handled::<accept>().times(5).settled(Settle::Ack);
    broker.handled::<also>().times(5).settled(Settle::Ack);
}

async fn workers_of_one_queue_share_the_messages(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<accept>()).await;
    let (_one, first_calls) = record(&broker, "shared", "orders.created").await;
    let second = broker.second_instance().await;
    let (_other, second_calls) = record_on(&second, "shared", "orders.created").await;
    publish(&broker, 0..40).await;
    let total = || first_calls.len() + second_calls.len();
    eventually("forty calls", SOON, async || (total() >= 40).then_some(())).await;
    broker.idle().await;
    assert_eq!(total(), 40, "each message once");
    assert!(!first_calls.is_empty() && !second_calls.is_empty());
}

async fn wildcard_receives_matching_subjects(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<all>().include::<accept>()).await;
    for subject in ["orders.created", "orders.paid", "orders.eu.created"] {
        broker.publish(subject, &order(1)).await;
    }
    broker.handled::<all>().times(3);
    broker.handled::<accept>().once();
}

async fn duplicate_is_not_stored(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<accept>()).await;
    let send = async || broker.broker().publish_message("orders.created", &order(1)).message_id("one").await.unwrap();
    let (first, second) = (send().await, send().await);
    assert_eq!((first.duplicate, second.duplicate, first.sequence == second.sequence), (false, true, true));
    broker.idle().await;
    broker.handled::<accept>().once();
}

async fn wrong_last_sequence_is_refused(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<accept>()).await;
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
    stream_config("ORDERS", &["orders.>"])
}

async fn too_large_message_is_refused(transport: &Transport) {
    let config = stream::Config { max_message_size: 200, ..orders() };
    let broker = transport.start(TestBroker::builder().stream(config).include::<all>()).await;
    let error = broker.broker().publish("orders.created", &"x".repeat(300)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PayloadTooLarge);
    let error = broker.broker().publish("orders.created", &"x".repeat(2_000_000)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PayloadTooLarge, "the limit of the server");
}

async fn full_stream_refuses_messages(transport: &Transport) {
    let config = stream::Config { max_messages: 2, discard: stream::DiscardPolicy::New, ..orders() };
    let broker = transport.start(TestBroker::builder().stream(config).include::<accept>()).await;
    publish(&broker, 0..2).await;
    let error = broker.broker().publish("orders.created", &order(3)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Publish);
    assert!(error.to_string().contains("full"), "{error}");
    broker.idle().await;
    broker.handled::<accept>().times(2);
    assert!(broker.broker().health().is_healthy(), "a full stream still delivers");
    transport.purge(&broker, "ORDERS").await;
    publish(&broker, 3..4).await;
}

async fn publish_all_returns_each_result(transport: &Transport) {
    let config = stream::Config { max_messages: 3, discard: stream::DiscardPolicy::New, ..orders() };
    let broker = transport.start(TestBroker::builder().stream(config).include::<accept>()).await;
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
    let results = futures::StreamExt::collect::<Vec<_>>(broker.broker().publisher().publish_all(messages)).await;
    let parts = |result: &Result<_, jetstream_handlers::Error>| {
        result.as_ref().map_or_else(|error| Some(error.kind()), |_| None)
    };
    let expected =
        [None, Some(ErrorKind::Config), Some(ErrorKind::WrongLastSequence), None, None, None, Some(ErrorKind::Publish)];
    assert_eq!(results.iter().map(parts).collect::<Vec<_>>(), expected);
    assert!(results[3].as_ref().is_ok_and(|ack| ack.duplicate && ack.sequence == 1));
    assert_eq!(results[5].as_ref().map(|ack| ack.sequence).unwrap(), 3);
    assert_eq!(broker.published::<Order>("orders.>").await, [order(1), order(5), order(6)]);
}

async fn atomic_batch_is_all_or_nothing(transport: &Transport) {
    if matches!(transport, Transport::Live(_)) && binary::version() < (2, 12, 1) {
        return;
    }
    let config = stream::Config { allow_atomic_publish: true, ..orders() };
    let broker = transport.start(TestBroker::builder().stream(config).include::<accept>()).await;
    let publish = |id| broker.broker().publish_message("orders.created", &order(id));
    let ack = broker
        .broker()
        .publisher()
        .publish_atomic([publish(1).message_id("one"), publish(2), publish(3)])
        .await
        .unwrap();
    assert_eq!((ack.stream.as_str(), ack.sequence, ack.batch_size), ("ORDERS", 3, Some(3)));
    let paid = |id| broker.broker().publish_message("orders.paid", &order(id));
    for (last, kind) in [
        (paid(9).expect_last_subject_sequence(7), ErrorKind::WrongLastSequence),
        (paid(9).message_id("one"), ErrorKind::Duplicate),
        (paid(9).expect_stream("SHOP"), ErrorKind::StreamMismatch),
        (broker.broker().publish_message("orders.*", &order(9)), ErrorKind::Config),
    ] {
        let error = broker.broker().publisher().publish_atomic([publish(4), publish(5), last]).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error:?}");
    }
    assert_eq!(broker.published::<Order>("orders.>").await, [order(1), order(2), order(3)]);
    let lone = |subject| [broker.broker().publish_message(subject, &order(1))];
    let error = broker.broker().publisher().publish_atomic(lone("bills.paid")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StreamNotFound, "{error:?}");
    broker.publish("bills.paid", &order(1)).await;
    let error = broker.broker().publisher().publish_atomic(lone("bills.paid")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StreamMismatch, "{error:?}");
}

async fn ingest_ends_at_the_first_refused_message(transport: &Transport) {
    if matches!(transport, Transport::Live(_)) && binary::version() < (2, 14, 0) {
        return;
    }
    let config = stream::Config { allow_batch_publish: true, ..orders() };
    let broker = transport.start(TestBroker::builder().stream(config).include::<accept>()).await;
    broker.publish("bills.paid", &order(1)).await;
    let publish = |id| broker.broker().publish_message("orders.created", &order(id));
    let ack = broker.broker().publisher().ingest((1..=3).map(publish)).await.unwrap();
    assert_eq!((ack.stream.as_str(), ack.sequence, ack.batch_size), ("ORDERS", 3, Some(3)));
    for (third, kind) in [
        (publish(9).expect_last_sequence(1), ErrorKind::WrongLastSequence),
        (publish(9).expect_stream("SHOP"), ErrorKind::StreamMismatch),
        (broker.broker().publish_message("orders.*", &order(9)), ErrorKind::Config),
        (broker.broker().publish_message("cars.new", &order(9)), ErrorKind::Publish),
    ] {
        let error = broker.broker().publisher().ingest([publish(4), publish(5), third, publish(6)]).await.unwrap_err();
        assert_eq!((error.kind(), error.stored()), (kind, 2), "{error:?}");
    }
    assert_eq!(broker.published::<Order>("orders.>").await.len(), 3 + 4 * 2);
    let lone = |subject| [broker.broker().publish_message(subject, &order(1))];
    for (subject, kind) in [("cars.new", ErrorKind::StreamNotFound), ("bills.paid", ErrorKind::StreamMismatch)] {
        let error = broker.broker().publisher().ingest(lone(subject)).await.unwrap_err();
        assert_eq!((error.kind(), error.stored()), (kind, 0), "{error:?}");
    }
}

async fn full_stream_discards_old_messages(transport: &Transport) {
    let config = stream::Config { max_messages: 2, ..orders() };
    let broker = transport.start(TestBroker::builder().stream(config).include::<accept>()).await;
    publish(&broker, 0..5).await;
    assert_eq!(broker.published::<Order>("orders.>").await, [order(3), order(4)]);
}

async fn max_messages_per_subject_keeps_the_latest(transport: &Transport) {
    let config = stream::Config { max_messages_per_subject: 1, ..orders() };
    let broker = transport.start(TestBroker::builder().stream(config).include::<accept>()).await;
    publish(&broker, 0..3).await;
    broker.publish("orders.paid", &order(9)).await;
    assert_eq!(broker.published::<Order>("orders.>").await, [order(2), order(9)]);
}

fn work_queue() -> stream::Config {
    stream::Config { retention: stream::RetentionPolicy::WorkQueue, ..orders() }
}

async fn work_queue_removes_handled_messages(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().stream(work_queue()).include::<fail>()).await;
    broker.publish("orders.created", &order(1)).await;
    assert_eq!(broker.published::<Order>("orders.>").await, [order(1)], "kept until its next attempt");
    broker.advance(ms(500)).await;
    assert_eq!(broker.dead_letters().await.len(), 1);
    assert!(broker.published::<Order>("orders.>").await.is_empty(), "a terminated message is removed");
}

async fn work_queue_refuses_overlapping_consumers(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().stream(work_queue()).include::<all>()).await;
    let error = broker.broker().subscribe("orders.created", "other", |_: Order| async {}).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StreamOverlap);
    assert!(error.to_string().contains("work queue") && error.to_string().contains("`all`"), "{error}");
}

async fn missing_stream_is_an_error_without_auto_create(transport: &Transport) {
    let letters = stream_config("DLQ", &["dlq.>"]);
    let broker = transport.start(TestBroker::builder().stream(orders()).stream(letters).include::<accept>()).await;
    drop(broker);
    // This stream exists on neither transport.
    let builder = Broker::builder().auto_create(false);
    let broker = match transport {
        Transport::Memory => builder.connect_in_memory(),
        Transport::Live(server) => builder.servers([server.url()]).connect().await.unwrap(),
    };
    let error = broker.subscribe("nothing.here", "worker", |_: Order| async {}).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StreamNotFound);
    let error = broker.publish("nothing.here", &1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StreamNotFound);
    assert!(error.to_string().contains("auto_create"), "{error}");
}

async fn overlapping_stream_is_refused(transport: &Transport) {
    let config = stream_config("EUROPE", &["orders.eu.>"]);
    let broker = transport.start(TestBroker::builder().stream(config).include::<other>()).await;
    let error = broker.broker().subscribe("orders.us.created", "us", |_: Order| async {}).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StreamOverlap);
    assert!(error.to_string().contains("EUROPE"), "{error}");
}

#[subscriber(subject = "other.>", queue = "other")]
async fn other(_subject: Subject) {}

async fn subject_outside_the_named_stream_is_refused(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<accept>()).await;
    let subscribe = broker.broker().subscribe("payments.made", "payer", |_: Order| async {}).stream("ORDERS");
    let error = subscribe.await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StreamNotFound);
    assert!(error.to_string().contains("ORDERS") && error.to_string().contains("payments.made"), "{error}");
}

async fn differing_consumer_is_refused(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<accept>()).await;
    let subscribe = broker.broker().subscribe("orders.created", "accept", |_: Order| async {});
    let error = subscribe.ack_wait(secs(7)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConsumerMismatch);
    assert!(error.to_string().contains("ack_wait is 30s on the server, 7s here"), "{error}");
}

#[subscriber(subject = "orders.created", queue = "many_in_flight", concurrency = 700)]
async fn many_in_flight(_order: Order) {}

async fn max_ack_pending_stops_delivery(transport: &Transport) {
    // With 700 parallel calls the worker requests 11,200; a delayed message counts for `max_ack_pending`.
    let broker = transport.start(TestBroker::builder().include::<many_in_flight>()).await;
    let attempts = Recorder::new();
    let recorder = attempts.clone();
    let later = move |order: Order| {
        recorder.add(order.id);
        std::future::ready(Settle::RetryAfter(secs(3600)))
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
    attempts.until_len(wanted).await;
    tokio::time::sleep(ms(300)).await;
    assert_eq!(attempts.len(), wanted, "no delivery above `max_ack_pending`");
}

async fn deleted_consumer_is_recreated(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<accept>()).await;
    let (_subscription, calls) = record(&broker, "deleted", "orders.created").await;
    publish(&broker, 1..2).await;
    calls.until_len(1).await;
    transport.delete_consumer(&broker, "ORDERS", "deleted").await;
    publish(&broker, 2..3).await;
    calls.until(2).await;
    eventually("healthy", SOON, async || broker.broker().health().is_healthy().then_some(())).await;
}

async fn restored_consumer_starts_behind_the_ack_floor(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<accept>()).await;
    let (subscription, calls) = record(&broker, "restored", "orders.created").await;
    publish(&broker, 1..21).await;
    calls.until_len(20).await;
    broker.idle().await;
    subscription.unsubscribe().await.unwrap();
    // A worker whose consumer existed before reads the ack floor at its start.
    let (_subscription, calls) = record(&broker, "restored", "orders.created").await;
    tokio::time::sleep(ms(300)).await;
    transport.delete_consumer(&broker, "ORDERS", "restored").await;
    publish(&broker, 21..23).await;
    calls.until_len(2).await;
    broker.idle().await;
    assert_eq!(calls.items(), [21, 22]);
    eventually("healthy", SOON, async || broker.broker().health().is_healthy().then_some(())).await;
}

async fn restored_consumer_of_a_work_queue_delivers_the_remaining_messages(transport: &Transport) {
    let retention = stream::RetentionPolicy::WorkQueue;
    let config =
        stream::Config { name: "TASKS".into(), subjects: vec!["tasks.>".into()], retention, ..Default::default() };
    let broker = transport.start(TestBroker::builder().stream(config).include::<accept>()).await;
    let (subscription, calls) = record(&broker, "tasks", "tasks.new").await;
    for id in 1..4 {
        broker.broker().publish("tasks.new", &order(id)).await.unwrap();
    }
    calls.until_len(3).await;
    broker.idle().await;
    subscription.unsubscribe().await.unwrap();
    let (_subscription, calls) = record(&broker, "tasks", "tasks.new").await;
    tokio::time::sleep(ms(300)).await;
    transport.delete_consumer(&broker, "TASKS", "tasks").await;
    broker.broker().publish("tasks.new", &order(4)).await.unwrap();
    calls.until_len(1).await;
    broker.idle().await;
    assert_eq!(calls.items(), [4]);
}

async fn replaced_stream_is_read_from_its_beginning(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<accept>()).await;
    let (subscription, calls) = record(&broker, "replaced", "orders.created").await;
    publish(&broker, 1..6).await;
    calls.until_len(5).await;
    broker.idle().await;
    subscription.unsubscribe().await.unwrap();
    let (_subscription, calls) = record(&broker, "replaced", "orders.created").await;
    tokio::time::sleep(ms(300)).await;
    transport.delete_stream(&broker, "ORDERS").await;
    // A publish creates the stream again, which numbers its messages from 1.
    publish(&broker, 6..9).await;
    calls.until_len(3).await;
    assert_eq!(calls.items(), [6, 7, 8]);
}

async fn purged_message_is_not_redelivered(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<fail>()).await;
    broker.publish("orders.created", &order(1)).await;
    transport.purge(&broker, "ORDERS").await;
    tokio::time::sleep(ms(400)).await;
    broker.handled::<fail>().once().retried(0);
    assert!(broker.dead_letters().await.is_empty());
}

async fn deleted_stream_is_unhealthy(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<accept>()).await;
    assert!(broker.broker().health().is_healthy());
    transport.delete_stream(&broker, "ORDERS").await;
    eventually("unhealthy", SOON, async || (!broker.broker().health().is_healthy()).then_some(())).await;
    // A publish recreates the stream, and the handler continues.
    broker.broker().publish("orders.created", &order(1)).await.unwrap();
    eventually("healthy", SOON, async || broker.broker().health().is_healthy().then_some(())).await;
    broker.idle().await;
    broker.handled::<accept>().once().with(&order(1));
}

async fn stop_returns_waiting_messages(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<accept>()).await;
    let slow = |_: Order| async { tokio::time::sleep(ms(300)).await };
    let subscription = broker.broker().subscribe("orders.created", "handed", slow).await.unwrap();
    publish(&broker, 0..4).await;
    tokio::time::sleep(ms(100)).await;
    let second = broker.second_instance().await;
    let (stopped, (_successor, calls)) =
        futures::join!(subscription.unsubscribe(), record_on(&second, "handed", "orders.created"));
    stopped.unwrap();
    calls.until_len(3).await;
    broker.idle().await;
    assert_eq!(calls.items(), [1, 2, 3], "the first call ended, and the others were returned");
}

async fn headers_reach_the_handler(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<accept>()).await;
    let calls = Arc::<Mutex<Vec<(String, String)>>>::default();
    let recorder = calls.clone();
    let handler = move |headers: Headers, _order: Order| {
        recorder.lock().unwrap().extend(headers.iter().map(|(name, value)| (name.to_owned(), value.to_owned())));
        std::future::ready(())
    };
    let _subscription = broker.broker().subscribe("orders.created", "headers", handler).await.unwrap();
    let message = broker.broker().publish_message("orders.created", &order(1));
    message.header("Tenant", "eu").header("Tenant", "us").message_id("x").await.unwrap();
    eventually("the message", SOON, async || (!calls.lock().unwrap().is_empty()).then_some(())).await;
    let mut calls = calls.lock().unwrap().clone();
    calls.sort();
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(calls, [pair("Nats-Msg-Id", "x"), pair("Tenant", "eu"), pair("Tenant", "us")]);
}

async fn header_of_the_server_is_refused(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<accept>()).await;
    let publish = |name: &str| broker.broker().publish_message("orders.created", &order(1)).header(name, "1");
    for (name, advice) in [
        ("Nats-Msg-Id", "use `message_id`"),
        ("Nats-TTL", "use `ttl`"),
        ("Nats-Expected-Stream", "use `expect_stream`"),
        ("Nats-Expected-Last-Sequence", "use `expect_last_sequence`"),
        ("Nats-Expected-Last-Subject-Sequence", "use `expect_last_subject_sequence`"),
        ("Nats-Rollup", "leave it out"),
        ("Nats-Pin-Id", "leave it out"),
        ("nats-schedule", "leave it out"),
    ] {
        let error = publish(name).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{error}");
        let text = error.to_string();
        assert!(text.contains(&format!("header `{name}` belongs to the server; {advice}")), "{text}");
    }
    // A batch refuses it as well, and a name that only resembles one is accepted.
    let error = broker.broker().publisher().publish_atomic([publish("Nats-Rollup")]).await.unwrap_err();
    assert!(error.to_string().contains("message 1 of the batch"), "{error}");
    publish("Natsy-Rollup").await.unwrap();
    broker.idle().await;
    assert_eq!(broker.published::<Order>("orders.created").await, [order(1)]);
}

async fn replay_calls_the_failed_queue_again(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<accept>().include::<refuse>()).await;
    publish(&broker, [1]).await;
    broker.idle().await;
    let letters = broker.broker().dead_letters();
    let report = letters.replay_all().await.unwrap();
    assert_eq!((report.replayed, report.kept), (1, 0), "{report}");
    broker.idle().await;
    broker.handled::<accept>().times(1);
    broker.handled::<refuse>().times(2);
    let letter = letters.list(10).await.unwrap().remove(0);
    let report = letters.to_every_queue().replay_all().await.unwrap();
    assert_eq!((report.replayed, report.kept), (1, 0), "{report}");
    broker.idle().await;
    broker.handled::<accept>().times(2);
    broker.handled::<refuse>().times(3);
    let again = broker.broker().dead_letters().list(10).await.unwrap().remove(0);
    assert_eq!(again.idempotency_key(), letter.idempotency_key());
    assert_ne!(again.header("Nats-Msg-Id"), letter.header("Nats-Msg-Id"));
}

async fn large_dead_letter_is_stored_in_parts(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<refuse>()).await;
    let filler = "f".repeat(65_400);
    let publish = broker.broker().publish_message("orders.created", &order(1)).header("Filler", &filler);
    publish.message_id("large").await.unwrap();
    broker.publish_bytes("orders.created", "x".repeat(1024 * 1024 - 100)).await;
    broker.idle().await;
    let letters = broker.broker().dead_letters().list(10).await.unwrap();
    assert_eq!(letters.iter().map(|letter| letter.payload.len()).collect::<Vec<_>>(), [8, 1024 * 1024 - 100]);
    assert_eq!((letters[0].header("Filler"), letters[0].header("Nats-Msg-Id")), (Some(&*filler), Some("large")));
    let report = broker.broker().dead_letters().replay_all().await.unwrap();
    assert_eq!(report.replayed, 1, "the other leaves no space for the headers of a replay: {report}");
    let error = broker.broker().publish_message("orders.created", &order(2)).header("Filler", &filler.repeat(2));
    let error = error.await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PayloadTooLarge, "{error}");
}

async fn dead_letter_is_kept_if_its_stream_denies_deletes(transport: &Transport) {
    let config = stream::Config { deny_delete: true, ..stream_config("DLQ", &["dlq.>"]) };
    let broker = transport.start(TestBroker::builder().stream(config).include::<refuse>()).await;
    publish(&broker, [1]).await;
    broker.idle().await;
    let letters = broker.broker().dead_letters();
    let report = letters.replay_all().await.unwrap();
    assert_eq!((report.replayed, report.kept), (0, 1), "{report}");
    letters.replay(1).await.unwrap();
    broker.idle().await;
    broker.handled::<refuse>().times(2);
    assert_eq!(letters.list(10).await.unwrap().len(), 2);
}

async fn disconnected_broker_refuses_publishes(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<accept>()).await;
    broker.broker().disconnect().await.unwrap();
    assert!(broker.broker().publish("orders.created", &order(1)).await.is_err());
    assert!(!broker.broker().health().is_healthy());
    let error = broker.broker().start_all().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed);
}

/// A step of a script.
#[derive(Debug, Clone)]
enum Step {
    /// Publishes a message whose attempts have these results; the last one repeats.
    Publish(Vec<Attempt>),
    Wait,
    /// Deletes the message of this publish, if it still exists.
    Delete(usize),
    Purge,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
enum Attempt {
    Ack,
    Nak,
    NakLater,
    Term,
    Panic,
}

fn script() -> impl Strategy<Value = Vec<Step>> {
    let attempt = prop_oneof![
        4 => Just(Attempt::Ack),
        2 => Just(Attempt::Nak),
        2 => Just(Attempt::NakLater),
        1 => Just(Attempt::Term),
        1 => Just(Attempt::Panic),
    ];
    let step = prop_oneof![
        6 => proptest::collection::vec(attempt, 1..4).prop_map(Step::Publish),
        2 => Just(Step::Wait),
        1 => (0..6_usize).prop_map(Step::Delete),
        1 => Just(Step::Purge),
    ];
    proptest::collection::vec(step, 1..10)
}

/// Runs a script, and returns the attempts of each message and the dead letters.
async fn play(transport: &Transport, script: &[Step]) -> (Vec<Vec<Attempt>>, Vec<(u64, String, u64)>) {
    let broker = transport.start(TestBroker::builder().stream(orders()).include::<accept>()).await;
    let played = Arc::<Mutex<Vec<(u64, Attempt)>>>::default();
    let recorder = played.clone();
    let handler = move |(id, attempts): (u64, Vec<Attempt>)| {
        let recorder = recorder.clone();
        async move {
            let attempt = recorder.lock().unwrap().iter().filter(|(other, _)| *other == id).count();
            let attempt = attempts[attempt.min(attempts.len() - 1)];
            recorder.lock().unwrap().push((id, attempt));
            match attempt {
                Attempt::Ack => Ok(()),
                Attempt::Nak => Err(HandlerError::retry("nak")),
                Attempt::NakLater => Err(HandlerError::retry_after(ms(300), "later")),
                Attempt::Term => Err(HandlerError::terminate("term")),
                Attempt::Panic => panic!("on purpose"),
            }
        }
    };
    let subscribe = broker.broker().subscribe("orders.played", "player", handler).max_deliver(3);
    let _subscription = subscribe.backoff(&[ms(200)]).concurrency(2).await.unwrap();
    let mut sequences = Vec::new();
    for step in script {
        match step {
            Step::Publish(attempts) => {
                let id = sequences.len() as u64;
                let ack = broker.broker().publish("orders.played", &(id, attempts)).await.unwrap();
                sequences.push(ack.sequence);
                eventually("the first attempt", SOON, async || {
                    played.lock().unwrap().iter().any(|(other, _)| *other == id).then_some(())
                })
                .await;
            }
            // Longer than every delay, so that both transports are at the same point.
            Step::Wait => tokio::time::sleep(ms(600)).await,
            Step::Delete(index) => {
                if let Some(sequence) = sequences.get(*index) {
                    transport.delete_message(&broker, "ORDERS", *sequence).await;
                }
            }
            Step::Purge => transport.purge(&broker, "ORDERS").await,
        }
    }
    tokio::time::sleep(ms(1000)).await;
    let letters = broker.dead_letters().await;
    let played = played.lock().unwrap();
    let of = |id: usize| played.iter().filter(|(other, _)| *other == id as u64).map(|(_, attempt)| *attempt).collect();
    let mut letters: Vec<_> = letters
        .into_iter()
        .map(|letter| (letter.stream_sequence, letter.reason.to_string(), letter.delivered))
        .collect();
    letters.sort();
    ((0..sequences.len()).map(of).collect(), letters)
}

proptest! {
    #![proptest_config(Config { cases: 10, max_shrink_iters: 20, failure_persistence: None, ..Config::default() })]

    #[test]
    fn random_script_has_equal_results_on_both(script in script()) {
        let runtime = |paused| {
            let mut builder = tokio::runtime::Builder::new_current_thread();
            builder.enable_all().start_paused(paused).build().unwrap()
        };
        let in_memory = runtime(true).block_on(play(&Transport::Memory, &script));
        let on_a_server = runtime(false).block_on(async { play(&Transport::Live(Server::start().await), &script).await });
        prop_assert_eq!(in_memory, on_a_server);
    }
}

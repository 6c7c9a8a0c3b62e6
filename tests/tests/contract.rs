//! The contract of both transports: each test runs in memory and on a real nats-server, which is the reference.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use jetstream_handlers::prelude::*;
use jetstream_handlers::testing::{Builder, TestBroker};
use jetstream_handlers::{Deliver, Error, ErrorKind, Status, Subscription, stream};
use jetstream_handlers_tests::{Recorder, SOON, Server, binary, eventually, ms, stream_config};
use proptest::prelude::*;
use proptest::test_runner::Config;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

/// The transport of a test.
enum Transport {
    Memory,
    Live(Box<Server>),
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
                super::$name(&super::Transport::Live(Box::new(super::Server::start().await))).await;
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
    other_format_is_named,
    number_that_json_lacks_is_not_published,
    bytes_are_published_as_they_are,
    time_to_live_out_of_range_is_refused,
    stream_without_acks_is_named,
    limit_of_a_subject_is_named,
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
    unstored_dead_letters_do_not_delay_other_messages,
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
    answer_to_a_former_consumer_ends_nothing,
    deleted_stream_is_unhealthy,
    stop_returns_waiting_messages,
    handed_back_message_is_not_an_attempt,
    message_is_handed_back_in_order,
    hand_back_without_a_shutdown_is_a_retry,
    delete_marker_is_acked_without_a_call,
    message_with_a_ttl_leaves_a_delete_marker,
    replayed_delete_marker_remains_one,
    empty_payload_is_a_value_of_optional_and_unit_payloads,
    closure_that_deletes_its_consumer_starts_over,
    dead_letters_of_a_closure_are_found_by_name_and_queue,
    messages_and_headers_of_a_test_are_shown,
    headers_reach_the_handler,
    disconnected_broker_refuses_publishes,
    publish_all_returns_each_result,
    atomic_batch_is_all_or_nothing,
    ingest_ends_at_the_first_refused_message,
    new_consumer_begins_where_its_handler_says,
    existing_consumer_keeps_its_position,
    deleted_consumer_that_began_later_does_not_begin_earlier,
    work_queue_is_read_from_its_beginning,
    transformed_stream_is_read_by_what_it_stores,
    copies_of_streams_are_read,
    part_of_a_named_stream_is_read,
    subjects_of_replies_have_no_stream,
    header_of_the_server_is_refused,
    replay_calls_the_failed_queue_again,
    another_message_with_the_id_of_a_replay_does_not_replace_it,
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

async fn other_format_is_named(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<accept>()).await;
    let payloads = [
        (&b"\xef\xbb\xbf{\"id\":1}"[..], "byte order mark"),
        (b"\x1f\x8b\x08", "gzip"),
        (b"\x81\xa2id\x01", "MessagePack"),
    ];
    for (payload, named) in payloads {
        broker.publish_bytes("orders.created", payload).await;
        let letters = broker.dead_letters().await;
        let error = &letters.last().unwrap().error;
        assert!(error.contains(named), "{error}");
    }
}

async fn number_that_json_lacks_is_not_published(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<all>()).await;
    for number in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let error = broker.broker().publish("orders.created", &Some(number)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Encode, "{error}");
        assert!(error.to_string().contains("JSON does not have"), "{error}");
    }
    assert_eq!(broker.publish("orders.created", &(None::<f64>, f64::MAX)).await.sequence, 1);
}

async fn bytes_are_published_as_they_are(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<all>()).await;
    let recorder = Recorder::<Vec<u8>>::default();
    let note = recorder.clone();
    let handler = move |message: Message| {
        note.add(message.payload().to_vec());
        std::future::ready(())
    };
    let _subscription = broker.broker().subscribe("orders.*", "bytes", handler).await.unwrap();
    for payload in [&b"\0\xff"[..], b"", b"[1,2]"] {
        broker.publish_bytes("orders.created", payload).await;
    }
    recorder.until_len(3).await;
    assert_eq!(recorder.items(), [&b"\0\xff"[..], b"", b"[1,2]"]);
}

async fn time_to_live_out_of_range_is_refused(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<all>()).await;
    for ttl in [std::time::Duration::ZERO, std::time::Duration::MAX] {
        let error = broker.broker().publish_message("orders.created", &1).ttl(ttl).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{error}");
        assert!(error.to_string().contains("36500 days"), "{error}");
    }
}

async fn stream_without_acks_is_named(transport: &Transport) {
    let is_new = matches!(transport, Transport::Memory) || binary::version() >= (2, 14, 0);
    let config = stream::Config { no_ack: true, allow_batch_publish: is_new, ..orders() };
    let broker = transport.start(TestBroker::builder().stream(config).include::<all>()).await;
    let error = broker.broker().publish("orders.created", &order(1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StreamMismatch, "{error}");
    assert!(error.to_string().contains("`no_ack: true`"), "{error}");
    broker.idle().await;
    broker.handled::<all>().once();
    if !is_new {
        return;
    }
    let message = broker.broker().publish_message("orders.created", &order(2));
    let error = broker.broker().publisher().ingest([message]).await.unwrap_err().into_error();
    assert_eq!(error.kind(), ErrorKind::StreamMismatch, "{error}");
    assert!(error.to_string().contains("`no_ack: true`"), "{error}");
}

async fn limit_of_a_subject_is_named(transport: &Transport) {
    let config = stream::Config {
        max_messages_per_subject: 1,
        discard: stream::DiscardPolicy::New,
        discard_new_per_subject: true,
        ..orders()
    };
    let broker = transport.start(TestBroker::builder().stream(config).include::<all>()).await;
    broker.publish("orders.created", &order(1)).await;
    broker.publish("orders.paid", &order(1)).await;
    let error = broker.broker().publish("orders.created", &order(2)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Publish, "{error}");
    assert!(error.to_string().contains("`discard_new_per_subject`"), "{error}");
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
    (broker.subscribe(subject, queue, recording(&calls)).await.unwrap(), calls)
}

fn recording(calls: &Recorder) -> impl Fn(Order) -> std::future::Ready<()> + Send + Sync + 'static {
    let recorder = calls.clone();
    move |order: Order| {
        recorder.add(order.id);
        std::future::ready(())
    }
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

async fn unstored_dead_letters_do_not_delay_other_messages(transport: &Transport) {
    let config =
        stream::Config { max_messages: 1, discard: stream::DiscardPolicy::New, ..stream_config("DLQ", &["dlq.>"]) };
    let broker = transport.start(TestBroker::builder().stream(config).include::<accept>()).await;
    let calls = Recorder::new();
    let recorder = calls.clone();
    let handler = move |order: Order| {
        recorder.add(order.id);
        std::future::ready(if order.id <= 20 { HandlerResult::Err("fails".into()) } else { Ok(()) })
    };
    let subscribe = broker.broker().subscribe("orders.created", "failing", handler).max_deliver(2).backoff(&[ms(20)]);
    let subscription = subscribe.await.unwrap();
    publish(&broker, 1..=20).await;
    for id in 1..=20 {
        calls.until_times(id, 2).await;
    }
    publish(&broker, 21..=30).await;
    for id in 21..=30 {
        calls.until(id).await;
    }
    assert_eq!(broker.dead_letters().await.len(), 1);
    // Long enough for the next delivery of each message.
    broker.advance(ms(2500)).await;
    let status = broker.broker().health().handlers[1].status.clone();
    assert!(matches!(status, Status::Degraded { .. }), "{status:?}");
    assert_eq!(calls.counts(), (1..=30).map(|id| (id, if id <= 20 { 2 } else { 1 })).collect());
    transport.purge(&broker, "DLQ").await;
    eventually("another dead letter is stored", SOON, async || {
        broker.advance(ms(500)).await;
        (broker.dead_letters().await.len() == 1).then_some(())
    })
    .await;
    subscription.unsubscribe().await.unwrap();
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
    let second = broker.second_instance().await;
    let subscribe = second.subscribe("orders.created", "accept", |_: Order| async {});
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

async fn answer_to_a_former_consumer_ends_nothing(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<accept>()).await;
    let (calls, ended) = (Recorder::new(), Arc::new(Notify::new()));
    let recorder = calls.clone();
    let handler = move |order: Order| {
        let (recorder, ended) = (recorder.clone(), ended.clone());
        async move {
            match recorder.attempt(order.id) {
                // The first call ends after the consumer was deleted.
                1 => {
                    ended.notified().await;
                    Ok(())
                }
                2 => {
                    ended.notify_one();
                    // The first call is answered before this one.
                    tokio::time::sleep(ms(100)).await;
                    Err(HandlerError::from("fails"))
                }
                _ => Ok(()),
            }
        }
    };
    let subscription = broker
        .broker()
        .subscribe("orders.created", "outlive", handler)
        .concurrency(2)
        .backoff(&[ms(50)])
        .await
        .unwrap();
    broker.broker().publish("orders.created", &order(1)).await.unwrap();
    calls.until(1).await;
    transport.delete_consumer(&broker, "ORDERS", "outlive").await;
    calls.until_times(1, 3).await;
    subscription.unsubscribe().await.unwrap();
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

async fn handed_back_message_is_not_an_attempt(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<accept>()).await;
    // Three messages are handed back at the same time.
    publish(&broker, 1..4).await;
    let calls = Recorder::new();
    for stops in 1..=3 {
        let recorder = calls.clone();
        let handler = move |_: Order, info: Info, shutdown: Shutdown| {
            recorder.add(info.delivered());
            async move {
                shutdown.requested().await;
                Err(HandlerError::hand_back("stopping"))
            }
        };
        let subscribe = broker.broker().subscribe("orders.created", "restarted", handler).max_deliver(2);
        let subscription = subscribe.concurrency(3).await.unwrap();
        calls.until_len(3 * stops).await;
        subscription.unsubscribe().await.unwrap();
    }
    assert!(calls.items().iter().any(|delivered| *delivered >= 3), "{calls:?}");
    let handled = Recorder::new();
    let subscribe = broker.broker().subscribe("orders.created", "restarted", recording(&handled)).max_deliver(2);
    let _subscription = subscribe.concurrency(3).await.unwrap();
    handled.until_distinct(3).await;
    broker.idle().await;
    assert!(broker.dead_letters().await.is_empty());
}

async fn message_is_handed_back_in_order(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<accept>()).await;
    publish(&broker, 1..4).await;
    let calls = Recorder::new();
    for stops in 1..=3 {
        let recorder = calls.clone();
        let handler = move |order: Order, shutdown: Shutdown| {
            recorder.add(order.id);
            async move {
                shutdown.requested().await;
                Settle::HandBack
            }
        };
        let subscribe = broker.broker().subscribe("orders.created", "restarted", handler).max_deliver(2);
        let subscription = subscribe.ordered().await.unwrap();
        calls.until_len(stops).await;
        subscription.unsubscribe().await.unwrap();
    }
    assert_eq!(calls.items(), [1, 1, 1]);
    let handled = Recorder::new();
    let subscribe = broker.broker().subscribe("orders.created", "restarted", recording(&handled)).max_deliver(2);
    let _subscription = subscribe.ordered().await.unwrap();
    handled.until_len(3).await;
    assert_eq!(handled.items(), [1, 2, 3]);
    assert!(broker.dead_letters().await.is_empty());
}

async fn hand_back_without_a_shutdown_is_a_retry(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<accept>()).await;
    let calls = Recorder::new();
    let recorder = calls.clone();
    let handler = move |order: Order| {
        recorder.add(order.id);
        std::future::ready(Settle::HandBack)
    };
    let subscribe = broker.broker().subscribe("orders.created", "returns", handler).max_deliver(2);
    let _subscription = subscribe.backoff(&[ms(50)]).await.unwrap();
    publish(&broker, 1..2).await;
    let letters = eventually("a dead letter", SOON, async || {
        let letters = broker.dead_letters().await;
        (!letters.is_empty()).then_some(letters)
    })
    .await;
    assert_eq!((letters.len(), letters[0].delivered, calls.items()), (1, 2, vec![1, 1]));
}

async fn delete_marker_is_acked_without_a_call(transport: &Transport) {
    if matches!(transport, Transport::Live(_)) && binary::version() < (2, 11, 0) {
        return;
    }
    let config = stream::Config {
        allow_message_ttl: true,
        max_age: secs(1),
        subject_delete_marker_ttl: Some(secs(60)),
        // The server requires it for delete markers.
        allow_rollup: true,
        ..orders()
    };
    let broker =
        transport.start(TestBroker::builder().stream(config).include::<accept>().include::<with_tenant>()).await;
    let (raw, optional) = (Recorder::<Option<String>>::default(), Recorder::<Option<u64>>::default());
    let recorder = raw.clone();
    let handler = move |message: Message| {
        recorder.add(message.header("Nats-Marker-Reason").map(str::to_owned));
        std::future::ready(())
    };
    let _raw = broker.broker().subscribe("orders.created", "raw", handler).await.unwrap();
    let recorder = optional.clone();
    let handler = move |order: Option<Order>| {
        recorder.add(order.map(|order| order.id));
        std::future::ready(())
    };
    let _optional = broker.broker().subscribe("orders.created", "optional", handler).await.unwrap();
    let message = broker.broker().publish_message("orders.created", &order(1)).header("Tenant", "acme");
    broker.publish_message(message).await;
    raw.until_len(2).await;
    optional.until_len(2).await;
    broker.idle().await;
    assert_eq!(raw.items(), [None, Some("MaxAge".to_owned())]);
    assert_eq!(optional.items(), [Some(1), None]);
    broker.handled::<accept>().once();
    broker.handled::<with_tenant>().once();
    assert!(broker.dead_letters().await.is_empty());
    assert_eq!(broker.published_messages("orders.created").await.len(), 1, "the marker");
    // The marker expires too, without another marker.
    eventually("an empty stream", SOON, async || {
        broker.published_messages("orders.created").await.is_empty().then_some(())
    })
    .await;
    broker.idle().await;
    assert_eq!((raw.len(), optional.len()), (2, 2));
}

async fn message_with_a_ttl_leaves_a_delete_marker(transport: &Transport) {
    if matches!(transport, Transport::Live(_)) && binary::version() < (2, 11, 0) {
        return;
    }
    let config = stream::Config {
        allow_message_ttl: true,
        subject_delete_marker_ttl: Some(secs(2)),
        allow_rollup: true,
        ..orders()
    };
    let broker = transport.start(TestBroker::builder().stream(config).include::<all>().include::<accept>()).await;
    broker.publish_message(broker.broker().publish_message("orders.created", &order(1)).ttl(secs(1))).await;
    let ttl_of = |message: &Message| message.header("Nats-TTL").map(str::to_owned);
    let stored = broker.published_messages("orders.>").await;
    // The server raises a shorter time to that of the markers.
    assert_eq!(stored.iter().map(ttl_of).collect::<Vec<_>>(), [Some("2".to_owned())]);
    let marker = eventually("a delete marker", SOON, async || {
        let stored = broker.published_messages("orders.>").await;
        stored.into_iter().find(|message| message.header("Nats-Marker-Reason").is_some())
    })
    .await;
    assert_eq!((marker.header("Nats-Marker-Reason"), marker.header("Nats-Rollup")), (Some("MaxAge"), Some("sub")));
    assert_eq!((ttl_of(&marker), marker.info().stream_sequence()), (Some("2s".to_owned()), 2));
    broker.idle().await;
    broker.handled::<all>().times(2);
    broker.handled::<accept>().once();
    assert!(broker.dead_letters().await.is_empty());
}

async fn replayed_delete_marker_remains_one(transport: &Transport) {
    if matches!(transport, Transport::Live(_)) && binary::version() < (2, 11, 0) {
        return;
    }
    let config = stream::Config {
        allow_message_ttl: true,
        subject_delete_marker_ttl: Some(secs(2)),
        allow_rollup: true,
        ..orders()
    };
    let broker = transport.start(TestBroker::builder().stream(config).include::<accept>()).await;
    let raw = Recorder::<Option<String>>::default();
    let recorder = raw.clone();
    let handler = move |message: Message| {
        let reason = message.header("Nats-Marker-Reason").map(str::to_owned);
        let fails = reason.is_some() && !recorder.items().contains(&reason);
        recorder.add(reason);
        std::future::ready(if fails { Settle::Terminate } else { Settle::Ack })
    };
    let _raw = broker.broker().subscribe("orders.created", "raw", handler).await.unwrap();
    broker.publish_message(broker.broker().publish_message("orders.created", &order(1)).ttl(secs(1))).await;
    let letters = broker.broker().dead_letters().to_every_queue();
    let letter = eventually("the dead letter of the marker", SOON, async || letters.list(1).await.unwrap().pop()).await;
    let ack = letters.replay(letter.sequence).await.unwrap();
    broker.idle().await;
    let marker = Some("MaxAge".to_owned());
    assert_eq!(raw.items(), [None, marker.clone(), marker]);
    let stored = broker.published_messages("orders.>").await;
    let replayed = stored.iter().find(|message| message.info().stream_sequence() == ack.sequence).unwrap();
    assert_eq!((replayed.header("Nats-TTL"), replayed.header("Nats-Rollup")), (Some("2"), None));
    broker.handled::<accept>().once();
    assert!(broker.dead_letters().await.is_empty());
    // It expires without another marker.
    eventually("an empty stream", SOON, async || {
        broker.published_messages("orders.created").await.is_empty().then_some(())
    })
    .await;
    broker.idle().await;
    assert_eq!(raw.len(), 3);
}

/// A marker has no headers of the application either.
struct Tenant;

impl FromMessage for Tenant {
    fn from_message(message: &Message, _: &jetstream_handlers::Context) -> Result<Self, Rejection> {
        message.header("Tenant").map(|_| Self).ok_or(Rejection::new("no tenant"))
    }
}

#[subscriber(subject = "orders.created", queue = "with-tenant")]
async fn with_tenant(_tenant: Tenant, _order: Order) {}

async fn empty_payload_is_a_value_of_optional_and_unit_payloads(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<accept>()).await;
    let calls = Recorder::<&str>::default();
    let recorder = calls.clone();
    let handler = move |order: Option<Order>| {
        recorder.add(if order.is_none() { "none" } else { "some" });
        std::future::ready(())
    };
    let _optional = broker.broker().subscribe("orders.created", "optional", handler).await.unwrap();
    let recorder = calls.clone();
    let handler = move |(): ()| {
        recorder.add("unit");
        std::future::ready(())
    };
    let _unit = broker.broker().subscribe("orders.created", "unit", handler).await.unwrap();
    broker.publish_bytes("orders.created", "").await;
    calls.until_len(2).await;
    broker.idle().await;
    assert_eq!((calls.count("none"), calls.count("unit")), (1, 1));
    let letters = broker.dead_letters().await;
    assert_eq!((letters.len(), letters[0].consumer.as_str(), letters[0].reason.as_str()), (1, "accept", "undecodable"));
    assert!(letters[0].error.contains("the payload is empty"), "{}", letters[0]);
}

async fn closure_that_deletes_its_consumer_starts_over(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<accept>()).await;
    let (subscription, calls) = record(&broker, "temporary", "orders.created").await;
    publish(&broker, 1..3).await;
    calls.until_len(2).await;
    subscription.delete_consumer().await.unwrap();
    // The stop of the first one had acknowledged both messages.
    let (subscription, calls) = record(&broker, "temporary", "orders.created").await;
    calls.until_len(2).await;
    assert_eq!(calls.items(), [1, 2]);
    transport.delete_stream(&broker, "ORDERS").await;
    subscription.delete_consumer().await.unwrap();
}

async fn dead_letters_of_a_closure_are_found_by_name_and_queue(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<accept>()).await;
    let fails = |_: Order| std::future::ready(Settle::Terminate);
    let _first = broker.broker().subscribe("orders.created", "first", fails).await.unwrap();
    let _second = broker.broker().subscribe("orders.created", "second", fails).name("biller").await.unwrap();
    publish(&broker, 1..2).await;
    let count = async |handler: &str| broker.broker().dead_letters().for_handler(handler).list(10).await.unwrap().len();
    eventually("two dead letters", SOON, async || (broker.dead_letters().await.len() == 2).then_some(())).await;
    for (handler, letters) in
        [("first", 1), ("closure on orders.created", 1), ("second", 1), ("biller", 1), ("bill", 0), ("accept", 0)]
    {
        assert_eq!(count(handler).await, letters, "{handler}");
    }
}

async fn messages_and_headers_of_a_test_are_shown(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<accept>()).await;
    let message = |id: u64| {
        let message = broker.broker().publish_message("orders.created", &order(id));
        message.header("Tenant", "eu").header("Tenant", "us").message_id("one")
    };
    let first = broker.publish_message(message(1)).await;
    let second = broker.publish_message(message(2)).await;
    assert_eq!((first.duplicate, second.duplicate), (false, true));
    broker.publish_bytes("orders.paid", "raw").await;
    let stored = broker.published_messages("orders.*").await;
    assert_eq!(stored.iter().map(Message::subject).collect::<Vec<_>>(), ["orders.created", "orders.paid"]);
    assert_eq!((stored[0].header("Tenant"), stored[0].header("Nats-Msg-Id")), (Some("eu"), Some("one")));
    assert_eq!((stored[0].info().stream(), stored[0].info().stream_sequence()), ("ORDERS", 1));
    assert_eq!(&stored[1].payload()[..], b"raw");
    assert_eq!(broker.published::<Order>("orders.created").await, [order(1)]);
    broker.handled::<accept>().once().with(&order(1));
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

async fn another_message_with_the_id_of_a_replay_does_not_replace_it(transport: &Transport) {
    for stream in [orders(), work_queue()] {
        let retention = stream.retention;
        let broker = transport.start(TestBroker::builder().stream(stream).include::<refuse>()).await;
        publish(&broker, [1]).await;
        broker.idle().await;
        let letters = broker.broker().dead_letters();
        let letter = letters.list(10).await.unwrap().remove(0);
        let stored_at = letter.stored_at.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos();
        let guessed = format!("replay/DLQ/{}/{stored_at}/ORDERS.refuse", letter.sequence);
        broker.broker().publish_message("orders.created", &order(666)).message_id(&guessed).await.unwrap();
        broker.idle().await;
        let result = letters.replay(letter.sequence).await;
        if retention == stream::RetentionPolicy::Limits {
            result.unwrap();
            broker.idle().await;
            broker.handled::<refuse>().times(3);
        } else {
            // It was handled and removed, so it may as well have been the replay.
            let error = result.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Duplicate, "{error}");
            assert!(letters.get(letter.sequence).await.unwrap().is_some());
        }
        letters.purge().await.unwrap();
        transport.delete_stream(&broker, "ORDERS").await;
    }
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
        let on_a_server = runtime(false).block_on(async { play(&Transport::Live(Box::new(Server::start().await)), &script).await });
        prop_assert_eq!(in_memory, on_a_server);
    }
}

/// Starts a closure that records the ids on `orders.>`.
async fn record_from(broker: &TestBroker, queue: &str, deliver: Deliver) -> (Subscription, Recorder) {
    let calls = Recorder::new();
    let recorder = calls.clone();
    let handler = move |order: Order| {
        recorder.add(order.id);
        std::future::ready(())
    };
    let subscribe = broker.broker().subscribe("orders.>", queue, handler);
    (subscribe.deliver(deliver).await.unwrap(), calls)
}

/// Publishes five messages on three subjects.
async fn publish_five(broker: &TestBroker) {
    for (subject, id) in [("orders.a", 1), ("orders.b", 2), ("orders.a", 3), ("orders.c", 4), ("orders.b", 5)] {
        broker.broker().publish(subject, &order(id)).await.unwrap();
    }
}

async fn new_consumer_begins_where_its_handler_says(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<other>()).await;
    publish_five(&broker).await;
    let mut readers = Vec::new();
    for (queue, deliver, expected) in [
        ("all", Deliver::All, vec![1, 2, 3, 4, 5, 6]),
        ("new", Deliver::New, vec![6]),
        ("last", Deliver::Last, vec![5, 6]),
        ("last-per-subject", Deliver::LastPerSubject, vec![3, 4, 5, 6]),
        ("from-sequence", Deliver::FromSequence(4), vec![4, 5, 6]),
        ("from-next", Deliver::FromSequence(6), vec![6]),
        ("from-far", Deliver::FromSequence(u64::MAX), vec![]),
        ("from-time", Deliver::FromTime(SystemTime::UNIX_EPOCH), vec![1, 2, 3, 4, 5, 6]),
        ("before-1970", Deliver::FromTime(SystemTime::UNIX_EPOCH - ms(1)), vec![1, 2, 3, 4, 5, 6]),
        ("from-later", Deliver::FromTime(SystemTime::now() + ms(3_600_000)), vec![6]),
    ] {
        let (subscription, calls) = record_from(&broker, queue, deliver).await;
        readers.push((queue, subscription, calls, expected));
    }
    broker.broker().publish("orders.a", &order(6)).await.unwrap();
    for (queue, _subscription, calls, expected) in &readers {
        calls.until_len(expected.len()).await;
        broker.idle().await;
        assert_eq!(calls.items(), *expected, "{queue}");
    }
}

async fn existing_consumer_keeps_its_position(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<other>()).await;
    publish_five(&broker).await;
    let (subscription, calls) = record_from(&broker, "reader", Deliver::Last).await;
    calls.until_len(1).await;
    broker.idle().await;
    subscription.unsubscribe().await.unwrap();
    for (id, deliver) in [(6, Deliver::All), (7, Deliver::New), (8, Deliver::FromSequence(1)), (9, Deliver::Last)] {
        // Stored while no instance runs.
        broker.broker().publish("orders.a", &order(id)).await.unwrap();
        let (subscription, calls) = record_from(&broker, "reader", deliver).await;
        calls.until_len(1).await;
        broker.idle().await;
        assert_eq!(calls.items(), [id], "{deliver:?}");
        subscription.unsubscribe().await.unwrap();
    }
}

async fn deleted_consumer_that_began_later_does_not_begin_earlier(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<other>()).await;
    publish_five(&broker).await;
    let (_subscription, calls) = record_from(&broker, "reader", Deliver::New).await;
    // The worker reads the position of its consumer at once.
    tokio::time::sleep(ms(300)).await;
    transport.delete_consumer(&broker, "ORDERS", "reader").await;
    broker.broker().publish("orders.a", &order(6)).await.unwrap();
    calls.until_len(1).await;
    broker.idle().await;
    assert_eq!(calls.items(), [6]);
}

async fn work_queue_is_read_from_its_beginning(transport: &Transport) {
    let retention = stream::RetentionPolicy::WorkQueue;
    let config = stream::Config { retention, ..stream_config("ORDERS", &["orders.>"]) };
    let broker = transport.start(TestBroker::builder().include::<other>().stream(config)).await;
    publish_five(&broker).await;
    let subscribe = || broker.broker().subscribe("orders.>", "reader", async |_: Order| {});
    let error = subscribe().deliver(Deliver::New).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    let text = error.to_string();
    assert!(text.contains("deliver: stream `ORDERS` is a work queue") && text.contains("remove `deliver`"), "{text}");
    let (subscription, calls) = record_from(&broker, "reader", Deliver::All).await;
    calls.until_len(5).await;
    subscription.unsubscribe().await.unwrap();
    // The consumer exists, so that its beginning no longer matters.
    let _subscription = subscribe().deliver(Deliver::New).await.unwrap();
}

/// Starts a closure that records the subjects of its messages.
async fn record_subjects(
    broker: &TestBroker,
    subject: &str,
    queue: &str,
    stream: Option<&str>,
) -> Result<(Subscription, Recorder<String>), Error> {
    let calls = Recorder::default();
    let recorder = calls.clone();
    let handler = move |subject: Subject| {
        recorder.add(subject.to_string());
        std::future::ready(())
    };
    let subscribe = broker.broker().subscribe(subject, queue, handler);
    let subscribe = match stream {
        Some(stream) => subscribe.stream(stream),
        None => subscribe,
    };
    Ok((subscribe.await?, calls))
}

fn transform(source: &str, destination: &str) -> stream::SubjectTransform {
    stream::SubjectTransform { source: source.to_owned(), destination: destination.to_owned() }
}

async fn transformed_stream_is_read_by_what_it_stores(transport: &Transport) {
    let config = stream::Config {
        subject_transform: Some(transform("in.*.*", "out.{{wildcard(2)}}.$1")),
        ..stream_config("SWAPPED", &["in.>"])
    };
    let broker = transport.start(TestBroker::builder().include::<other>().stream(config)).await;
    let error = record_subjects(&broker, "in.eu.created", "wrong", None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StreamNotFound);
    assert!(error.to_string().ends_with("set `subject = \"out.created.eu\"`"), "{error}");
    let (_swapped, swapped) = record_subjects(&broker, "out.created.*", "swapped", None).await.unwrap();
    let (_short, short) = record_subjects(&broker, "in.*", "short", Some("SWAPPED")).await.unwrap();
    broker.broker().publish("in.eu.created", &1).await.unwrap();
    broker.broker().publish("in.short", &2).await.unwrap();
    swapped.until_len(1).await;
    short.until_len(1).await;
    assert_eq!((swapped.items(), short.items()), (vec!["out.created.eu".into()], vec!["in.short".into()]));
}

async fn copies_of_streams_are_read(transport: &Transport) {
    let copy = |name: &str| stream::Source { name: name.to_owned(), ..Default::default() };
    let orders = stream_config("ORDERS", &["orders.>"]);
    let mirror = stream::Config { mirror: Some(copy("ORDERS")), ..stream_config("MIRROR", &[]) };
    let filtered = stream::Source { filter_subject: Some("orders.eu.*".to_owned()), ..copy("MIRROR") };
    let renamed = stream::Source { subject_transforms: vec![transform("notes.*", "memos.$1")], ..copy("NOTES") };
    let all = stream::Config { sources: Some(vec![filtered, renamed]), ..stream_config("SOME", &["own"]) };
    let notes = stream_config("NOTES", &["notes.*"]);
    let builder = TestBroker::builder().include::<other>().stream(orders).stream(mirror).stream(notes).stream(all);
    let broker = transport.start(builder).await;
    let (_first, mirrored) = record_subjects(&broker, "orders.>", "mirrored", Some("MIRROR")).await.unwrap();
    let (_second, sourced) = record_subjects(&broker, ">", "sourced", Some("SOME")).await.unwrap();
    for subject in ["orders.eu.a", "orders.us.b", "notes.c", "own"] {
        broker.broker().publish(subject, &1).await.unwrap();
    }
    mirrored.until_len(2).await;
    sourced.until_len(3).await;
    assert_eq!(mirrored.items(), ["orders.eu.a", "orders.us.b"]);
    let expected = ["memos.c", "orders.eu.a", "own"].map(str::to_owned);
    assert_eq!(sourced.distinct().into_iter().collect::<Vec<_>>(), expected);
    let error = record_subjects(&broker, "orders.us.b", "wrong", Some("SOME")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StreamOverlap, "{error}");
}

async fn part_of_a_named_stream_is_read(transport: &Transport) {
    let config = stream_config("SHOP", &["orders.created", "orders.paid"]);
    let broker = transport.start(TestBroker::builder().include::<other>().stream(config)).await;
    broker.broker().publish("orders.paid", &1).await.unwrap();
    let error = record_subjects(&broker, "orders.*", "wrong", None).await.unwrap_err();
    assert!(error.to_string().contains("set `stream = \"SHOP\"` to receive only these"), "{error}");
    let (_subscription, calls) = record_subjects(&broker, "orders.*", "orders", Some("SHOP")).await.unwrap();
    broker.broker().publish("orders.created", &2).await.unwrap();
    calls.until_len(2).await;
    assert_eq!(calls.items(), ["orders.paid", "orders.created"]);
}

async fn subjects_of_replies_have_no_stream(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<other>()).await;
    for subject in ["_INBOX.x", "_INBOX", "_R_.a.b"] {
        let error = broker.broker().publish(subject, &1).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::StreamNotFound, "{error}");
        let error = record_subjects(&broker, subject, "replies", None).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::StreamNotFound, "{error}");
    }
    let error = record_subjects(&broker, "$KV.sessions.>", "entries", None).await.unwrap_err();
    assert!(error.to_string().contains("create the bucket"), "{error}");
}

//! Consumers: where they begin, and what happens when they are deleted.

use std::sync::Arc;
use std::time::SystemTime;

use jetstream_handlers::prelude::*;
use jetstream_handlers::testing::TestBroker;
use jetstream_handlers::{Deliver, ErrorKind, Subscription, stream};
use jetstream_handlers_tests::{Recorder, SOON, eventually, ms, stream_config};
use tokio::sync::Notify;

use crate::{Order, Transport, accept, order, other, publish, record};

contract![
    deleted_consumer_is_recreated,
    restored_consumer_starts_behind_the_ack_floor,
    restored_consumer_of_a_work_queue_delivers_the_remaining_messages,
    answer_to_a_former_consumer_ends_nothing,
    closure_that_deletes_its_consumer_starts_over,
    new_consumer_begins_where_its_handler_says,
    existing_consumer_keeps_its_position,
    deleted_consumer_that_began_later_does_not_begin_earlier,
    work_queue_is_read_from_its_beginning,
];

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

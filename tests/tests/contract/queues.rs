//! Queues: which messages each of them receives.

use jetstream_handlers::ErrorKind;
use jetstream_handlers::prelude::*;
use jetstream_handlers::testing::TestBroker;
use jetstream_handlers_tests::{SOON, eventually, ms};

use crate::{Order, Transport, accept, all, fail, order, publish, record, record_on, work_queue};

contract![
    each_queue_receives_every_message,
    workers_of_one_queue_share_the_messages,
    wildcard_receives_matching_subjects,
    work_queue_removes_handled_messages,
    work_queue_refuses_overlapping_consumers,
    differing_consumer_is_refused,
    purged_message_is_not_redelivered,
];

#[subscriber(subject = "orders.created", queue = "also", concurrency = 4)]
async fn also(_order: Order) {}

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

async fn differing_consumer_is_refused(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<accept>()).await;
    let second = broker.second_instance().await;
    let subscribe = second.subscribe("orders.created", "accept", |_: Order| async {});
    let error = subscribe.ack_wait(secs(7)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConsumerMismatch);
    assert!(error.to_string().contains("ack_wait is 30s on the server, 7s here"), "{error}");
}

async fn purged_message_is_not_redelivered(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<fail>()).await;
    broker.publish("orders.created", &order(1)).await;
    transport.purge(&broker, "ORDERS").await;
    tokio::time::sleep(ms(400)).await;
    broker.handled::<fail>().once().retried(0);
    assert!(broker.dead_letters().await.is_empty());
}

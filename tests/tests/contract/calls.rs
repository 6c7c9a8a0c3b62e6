//! Calls of a handler: acks, retries, and messages that wait.

use jetstream_handlers::prelude::*;
use jetstream_handlers::testing::TestBroker;
use jetstream_handlers_tests::{Recorder, ms};

use crate::{Order, Transport, accept, fail, order, publish, refuse};

contract![
    handled_message_is_acked,
    error_is_retried_after_its_backoff,
    terminated_message_is_not_redelivered,
    panic_is_retried,
    timeout_is_retried,
    long_call_is_not_redelivered,
    waiting_messages_are_not_redelivered,
    handler_too_slow_to_prefetch_handles_everything,
    blocking_handler_is_retried,
];

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

async fn terminated_message_is_not_redelivered(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<refuse>()).await;
    broker.publish("orders.created", &order(1)).await;
    broker.advance(ms(300)).await;
    broker.handled::<refuse>().once().retried(0).settled(Settle::Terminate);
    assert_eq!(broker.dead_letters().await.len(), 1);
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

async fn handler_too_slow_to_prefetch_handles_everything(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<crate::other>()).await;
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

#[subscriber(subject = "orders.created", queue = "panic", max_deliver = 2, backoff = ["50ms"])]
async fn panic(order: Order, info: Info) {
    assert!(info.delivered() > 1, "on purpose, for {}", order.id);
}

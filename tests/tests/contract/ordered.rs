//! Ordered handlers.

use jetstream_handlers::prelude::*;
use jetstream_handlers::testing::TestBroker;
use jetstream_handlers_tests::{Recorder, ms};

use crate::{Order, Transport, accept, publish, record};

contract![
    messages_arrive_in_stream_order,
    failing_message_blocks_an_ordered_handler,
    standby_ordered_worker_takes_over,
];

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

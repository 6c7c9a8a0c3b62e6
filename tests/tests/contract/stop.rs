//! Messages that are handed back, at a stop and otherwise.

use jetstream_handlers::prelude::*;
use jetstream_handlers::testing::TestBroker;
use jetstream_handlers_tests::{Recorder, SOON, eventually, ms};

use crate::{Order, Transport, accept, publish, record_on, recording};

contract![
    stop_returns_waiting_messages,
    handed_back_message_is_not_an_attempt,
    message_is_handed_back_in_order,
    hand_back_without_a_shutdown_is_a_retry,
];

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
                HandlerResult::<()>::Err(HandlerError::hand_back("stopping"))
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

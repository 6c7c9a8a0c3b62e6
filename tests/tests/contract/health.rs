//! The health of a broker and its handlers.

use std::sync::Arc;
use std::time::SystemTime;

use jetstream_handlers::prelude::*;
use jetstream_handlers::testing::TestBroker;
use jetstream_handlers::{HandlerHealth, Health};
use jetstream_handlers_tests::{Recorder, SOON, eventually};
use tokio::sync::Semaphore;

use crate::{Order, Transport, accept, publish};

contract![
    broker_is_ready_from_the_start_to_the_stop,
    handler_shows_what_it_does_and_did_last,
    messages_that_wait_are_counted,
];

async fn broker_is_ready_from_the_start_to_the_stop(transport: &Transport) {
    let test = transport.start(TestBroker::builder().include::<accept>()).await;
    let broker = test.second_instance().await;
    let before = broker.health();
    assert!(before.connected && !before.is_healthy() && !before.is_ready() && before.is_alive(), "{before}");
    assert!(before.to_string().contains("no handler is started"), "{before}");
    let running = broker.include::<accept>().start_all().await.unwrap();
    let during = broker.health();
    assert!(during.is_healthy() && during.is_ready() && during.is_alive(), "{during}");
    running.shutdown().await.unwrap();
    assert!(!broker.health().is_ready());
    broker.disconnect().await.unwrap();
    let after = broker.health();
    assert!(!after.connected && !after.is_ready() && after.is_alive(), "{after}");
}

async fn until(broker: &Broker, what: &str, check: impl Fn(&HandlerHealth) -> bool) -> Health {
    let what = &format!("{what}: {}", broker.health());
    eventually(what, SOON, async || Some(broker.health()).filter(|health| check(&health.handlers[0]))).await
}

async fn handler_shows_what_it_does_and_did_last(transport: &Transport) {
    let test = transport.start(TestBroker::builder().include::<accept>()).await;
    let (calls, permits) = (Recorder::new(), Arc::new(Semaphore::new(0)));
    let handler = {
        let (calls, permits) = (calls.clone(), permits.clone());
        move |order: Order| {
            let (calls, permits) = (calls.clone(), permits.clone());
            async move {
                calls.add(order.id);
                permits.acquire().await.unwrap().forget();
                if order.id == 3 { Err(HandlerError::retry("no stock")) } else { Ok(()) }
            }
        }
    };
    let broker = test.second_instance().await;
    let begun = SystemTime::now();
    let subscribe = broker.subscribe("orders.created", "counting", handler).batch_size(1).max_deliver(1);
    let subscription = subscribe.await.unwrap();
    let idle = &broker.health().handlers[0];
    assert_eq!((&*idle.stream, &*idle.queue, idle.lag, idle.in_flight), ("ORDERS", "counting", None, 0));
    assert!(idle.last_success.is_none() && idle.last_failure.is_none() && idle.oldest_in_flight.is_none());

    for id in 1..=5 {
        broker.publish("orders.created", &Order { id }).await.unwrap();
    }
    calls.until(1).await;
    // Two messages are taken, and three are not delivered.
    let health = until(&broker, "one is in flight", |it| it.in_flight == 1 && it.buffered == 1).await;
    assert!(health.is_healthy() && health.handlers[0].oldest_in_flight.is_some(), "{health}");
    permits.add_permits(2);
    calls.until(3).await;
    let health = until(&broker, "the second has succeeded", |it| it.last_success.is_some()).await;
    assert!(health.handlers[0].last_success.unwrap() <= SystemTime::now() && health.handlers[0].last_failure.is_none());
    permits.add_permits(1);
    let health = until(&broker, "the third has failed", |it| it.last_failure.is_some()).await;
    let failure = health.handlers[0].last_failure.as_ref().unwrap();
    assert!(failure.error == "no stock" && failure.at + secs(1) >= begun, "{failure:?}");
    permits.add_permits(2);
    let health = until(&broker, "nothing is left", |it| it.lag == Some(0) && it.in_flight == 0).await;
    assert!(health.is_healthy() && health.to_string().contains(" ago: no stock"), "{health}");

    // What is undecodable never reaches the code of the handler.
    broker.publish("orders.created", "not an order").await.unwrap();
    let is_undecodable = |it: &HandlerHealth| it.last_failure.as_ref().is_some_and(|it| it.error != "no stock");
    until(&broker, "the undecodable message has failed", is_undecodable).await;
    subscription.unsubscribe().await.unwrap();
}

async fn messages_that_wait_are_counted(transport: &Transport) {
    let test = transport.start(TestBroker::builder().include::<accept>()).await;
    let broker = test.second_instance().await;
    let (calls, permits) = (Recorder::new(), Arc::new(Semaphore::new(0)));
    let handler = {
        let (calls, permits) = (calls.clone(), permits.clone());
        move |order: Order| {
            let (calls, permits) = (calls.clone(), permits.clone());
            async move {
                calls.add(order.id);
                permits.acquire().await.unwrap().forget();
            }
        }
    };
    let subscribe = broker.subscribe("orders.created", "by-key", handler).key("id").concurrency(4);
    let subscription = subscribe.await.unwrap();
    publish(&test, [7, 7, 7]).await;
    calls.until(7).await;
    // Two messages wait for the first one with the same key.
    until(&broker, "two are buffered", |it| it.in_flight == 1 && it.buffered == 2).await;
    permits.add_permits(3);
    until(&broker, "none is buffered", |it| it.in_flight == 0 && it.buffered == 0).await;
    subscription.unsubscribe().await.unwrap();

    // Without a key, the messages wait for the only slot.
    let handler = {
        let (calls, permits) = (calls.clone(), permits.clone());
        move |order: Order| {
            let (calls, permits) = (calls.clone(), permits.clone());
            async move {
                calls.add(order.id);
                permits.acquire().await.unwrap().forget();
            }
        }
    };
    let subscription = broker.subscribe("orders.created", "one-slot", handler).batch_size(10).await.unwrap();
    until(&broker, "two are buffered", |it| it.in_flight == 1 && it.buffered == 2).await;
    permits.add_permits(1);
    until(&broker, "one is buffered", |it| it.in_flight == 1 && it.buffered == 1).await;
    permits.add_permits(2);
    until(&broker, "none is buffered", |it| it.in_flight == 0 && it.buffered == 0).await;
    subscription.unsubscribe().await.unwrap();

    let failing = async |_: Order| Err::<(), HandlerError>(HandlerError::retry("later"));
    let subscribe = broker.subscribe("orders.created", "delayed", failing).backoff(&[secs(3600)]);
    let subscription = subscribe.await.unwrap();
    until(&broker, "three are delayed", |it| it.delayed == 3 && it.in_flight == 0).await;
    subscription.unsubscribe().await.unwrap();
}

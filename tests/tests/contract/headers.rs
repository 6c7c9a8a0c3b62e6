//! Headers of messages.

use std::sync::{Arc, Mutex};

use jetstream_handlers::ErrorKind;
use jetstream_handlers::prelude::*;
use jetstream_handlers::testing::TestBroker;
use jetstream_handlers_tests::{SOON, eventually};

use crate::{Order, Transport, accept, order};

contract![messages_and_headers_of_a_test_are_shown, headers_reach_the_handler, header_of_the_server_is_refused,];

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

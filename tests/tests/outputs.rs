//! Outputs on a real server: crashes between every two steps, missing streams, rights, and the stop.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

use std::collections::BTreeMap;
use std::time::Duration;

use futures::TryStreamExt as _;

use jetstream_handlers::{ErrorKind, HandlerResult, Output, stream};
use jetstream_handlers_tests::wire::{Cut, Side, Wire};
use jetstream_handlers_tests::{
    Program, Server, assert_error, binary, builder, connect, dead_letters, publish, stream_config, users, worker,
};

const MESSAGES: u64 = 1000;

/// Every place between two steps of a message: the handler has returned, an output is stored, all outputs are stored,
/// the ack is sent, the ack is processed.
const STEPS: [Cut; 6] = [
    cut(Side::Client, "HPUB mid.first", false),
    cut(Side::Client, "HPUB mid.second", false),
    cut(Side::Server, "\"stream\":\"MID\"", false),
    cut(Side::Server, "\"stream\":\"OUT\"", false),
    cut(Side::Client, "+ACK", false),
    cut(Side::Client, "+ACK", true),
];

const fn cut(from: Side, text: &'static str, forwarded: bool) -> Cut {
    Cut { from, text, after: 0, forwarded }
}

/// Returns the number of messages of a stream by subject and payload.
async fn stored(server: &Server, stream: &str) -> BTreeMap<(String, String), usize> {
    let stream = server.jetstream().await.get_stream(stream).await.unwrap();
    let consumer =
        stream.create_consumer(async_nats::jetstream::consumer::pull::OrderedConfig::default()).await.unwrap();
    let mut left = stream.get_info().await.unwrap().state.messages;
    let mut messages = consumer.messages().await.unwrap();
    let mut counts = BTreeMap::new();
    while left > 0 {
        let message = messages.try_next().await.unwrap().unwrap();
        let payload = String::from_utf8_lossy(&message.payload).into_owned();
        *counts.entry((message.subject.to_string(), payload)).or_default() += 1;
        left -= 1;
    }
    counts
}

/// Runs the chain with a crash of the process and a lost connection at each step, several times; asserts that every
/// message has passed it once.
async fn chain_is_exactly_once(middle: stream::Config, rounds: usize) {
    let server = Server::start().await;
    let jetstream = server.jetstream().await;
    for config in [stream_config("IN", &["in.>"]), middle, stream_config("OUT", &["out.>"])] {
        jetstream.create_stream(config).await.unwrap();
    }
    let broker = connect(&server).await;
    let wire = Wire::start(server.address()).await;
    let url = wire.url();
    let start = || Program::start(env!("CARGO_BIN_EXE_chain"), &[], &[("NATS_URL", &url)]);
    let mut program = start();
    let cuts = (rounds * STEPS.len()) as u64;
    let mut numbers = 0..MESSAGES;
    for round in 0..rounds {
        for (step, cut) in STEPS.into_iter().enumerate() {
            // At another message of those in flight each time.
            let cut = Cut { after: (round * 5 + step * 3) % 8, ..cut };
            // Published meanwhile, so that every step is reached.
            let some = numbers.by_ref().take((MESSAGES / cuts) as usize);
            futures::join!(wire.cut(cut), publish(&broker, "in.number", some));
            if (round + step) % 2 == 0 {
                program.signal("KILL");
                program.ended().await;
                program = start();
            }
        }
    }
    publish(&broker, "in.number", numbers).await;
    server.all_acked("IN", "divide").await;
    server.all_acked("MID", "unite").await;
    let middle = stored(&server, "MID").await;
    assert_eq!(middle.len() as u64, 2 * MESSAGES, "every output is stored");
    assert_eq!(middle.values().sum::<usize>() as u64, 2 * MESSAGES, "and none twice");
    let out = stored(&server, "OUT").await;
    assert_eq!(out.len() as u64, 2 * MESSAGES, "every output is stored");
    assert_eq!(out.values().sum::<usize>() as u64, 2 * MESSAGES, "and none twice");
    drop(program);
}

#[tokio::test]
async fn crash_at_any_step_loses_and_doubles_nothing() {
    chain_is_exactly_once(stream_config("MID", &["mid.*"]), 6).await;
}

#[tokio::test]
async fn crash_of_an_atomic_batch_loses_and_doubles_nothing() {
    if binary::version() < (2, 12, 1) {
        return;
    }
    let middle = stream::Config { allow_atomic_publish: true, ..stream_config("MID", &["mid.*"]) };
    chain_is_exactly_once(middle, 3).await;
}

async fn confirm(order: u64) -> HandlerResult<Output> {
    Ok(Output::new(&order))
}

#[tokio::test]
async fn denied_output_is_named_at_once() {
    let permissions = r#"publish: { deny: ["confirmed.>"] }"#;
    let server = Server::builder().config(&users(permissions)).user("admin", "secret").start().await;
    let jetstream = server.jetstream().await;
    jetstream.create_stream(stream_config("CONFIRMED", &["confirmed.>"])).await.unwrap();
    let admin = connect(&server).await;
    let broker = worker(&server).connect().await.unwrap();
    let subscribe = broker.subscribe("orders.created", "confirmer", confirm).max_deliver(1);
    let subscription = subscribe.publish("confirmed.orders").await.unwrap();
    let begun = tokio::time::Instant::now();
    publish(&admin, "orders.created", [7]).await;
    let letters = dead_letters(&admin, 1).await;
    assert!(begun.elapsed() < Duration::from_secs(15), "the publish timeout is 20 s");
    let error = &letters[0].error;
    assert!(error.starts_with("the output on `confirmed.orders` could not be published: "), "{error}");
    assert!(error.contains("may not publish to `confirmed.orders`"), "{error}");
    subscription.unsubscribe().await.unwrap();
}

#[tokio::test]
async fn missing_stream_is_named_with_the_handler() {
    let server = Server::start().await;
    let jetstream = server.jetstream().await;
    for config in [stream_config("ORDERS", &["orders.>"]), stream_config("DLQ", &["dlq.>"])] {
        jetstream.create_stream(config).await.unwrap();
    }
    let broker = builder(&server).auto_create(false).connect().await.unwrap();
    let subscribe = broker.subscribe("orders.created", "confirmer", confirm).name("confirmer");
    let error = subscribe.publish("confirmed.orders").await.map(drop).unwrap_err();
    let expected = "the outputs of `confirmer`: no stream covers `confirmed.orders`, and `auto_create(false)` disables";
    assert_error(&error, ErrorKind::StreamNotFound, &[expected]);
    assert_eq!(error.problems()[0].handler(), Some("confirmer"));
}

#[tokio::test]
async fn created_stream_recognizes_an_output_until_the_last_attempt() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    for (queue, subject, max_deliver, window) in [
        ("once", "once.orders", 1, 120.0),
        ("five", "five.orders", 5, 1.2 * (1.0 + 5.0 + 30.0 + 120.0) + 30.0),
        ("many", "many.orders", 1000, 600.0),
    ] {
        let subscribe = broker.subscribe("orders.created", queue, confirm).max_deliver(max_deliver);
        subscribe.publish(subject).await.map(drop).unwrap();
        let stream = server.jetstream().await.get_stream(queue.to_uppercase()).await.unwrap();
        assert_eq!(stream.cached_info().config.duplicate_window, Duration::from_secs_f64(window), "{queue}");
    }
    // An existing stream is left as it is.
    let subscribe = broker.subscribe("orders.created", "again", confirm).max_deliver(1000);
    subscribe.publish("once.again").await.map(drop).unwrap();
    let stream = server.jetstream().await.get_stream("ONCE").await.unwrap();
    assert_eq!(stream.cached_info().config.duplicate_window, Duration::from_secs(120));
    broker.disconnect().await.unwrap();
}

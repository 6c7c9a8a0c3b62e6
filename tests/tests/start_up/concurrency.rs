//! Several processes start at the same time.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::StreamExt as _;
use jetstream_handlers::prelude::*;
use jetstream_handlers::{ErrorKind, stream};
use jetstream_handlers_tests::{Recorder, Server, assert_error, builder, connect, stream_config};

use crate::{found_stream, names, set};

#[subscriber(subject = "orders.created", queue = "shared", group = "shared")]
async fn shared(id: u64, State(calls): State<Recorder>) {
    calls.add(id);
}

#[subscriber(subject = "payments.received", stream = "MONEY", queue = "shared", group = "shared")]
async fn shared_elsewhere(_: u64) {}

#[tokio::test]
async fn simultaneous_starts_on_an_empty_server_succeed() {
    for round in 0..10 {
        let server = Server::start().await;
        let calls = Recorder::new();
        let mut brokers = Vec::new();
        for _ in 0..4 {
            brokers.push(builder(&server).state(calls.clone()).connect().await.unwrap());
        }
        // With different offsets, so that the requests of the processes interleave in many ways.
        let starts = brokers.iter().zip(0..).map(async |(broker, place)| {
            tokio::time::sleep(Duration::from_micros(round * place * 150)).await;
            broker.start_groups(["shared"]).await
        });
        let publishes = brokers.iter().map(|broker| broker.publish("orders.created", &round));
        let (started, published) =
            futures::join!(futures::future::join_all(starts), futures::future::join_all(publishes));
        let running: Vec<_> = started.into_iter().map(Result::unwrap).collect();
        let sequences: BTreeSet<_> = published.into_iter().map(|ack| ack.unwrap().sequence).collect();
        assert_eq!(sequences, BTreeSet::from([1, 2, 3, 4]));
        calls.until_len(4).await;
        assert_eq!(calls.items(), [round; 4], "each message once");
        for running in running {
            running.shutdown().await.unwrap();
        }
        assert_eq!(names(&server.jetstream().await).await, set(&["DLQ", "MONEY", "ORDERS"]));
    }
}

#[subscriber(subject = "orders.created", queue = "concurrent", group = "concurrent")]
async fn unnamed_stream(_: u64) {}

#[subscriber(subject = "orders.created", stream = "SHOP", queue = "concurrent-named", group = "concurrent-named")]
async fn named_stream(_: u64) {}

/// Connects a broker whose API requests are forwarded by the test.
///
/// Another process creates the stream `made` directly after the reply to `request`, or directly
/// before a `STREAM.CREATE` request is forwarded.
async fn connect_overtaken(server: &Server, request: &'static str, made: stream::Config) -> Broker {
    let client = server.client().await;
    let jetstream = server.jetstream().await;
    let mut requests = client.subscribe("forwarded.API.>").await.unwrap();
    client.flush().await.unwrap();
    tokio::spawn(async move {
        let mut made = Some(made);
        while let Some(message) = requests.next().await {
            let subject = message.subject.strip_prefix("forwarded.API.").unwrap();
            let overtake = subject.starts_with(request) && made.is_some();
            if overtake && request.starts_with("STREAM.CREATE") {
                jetstream.create_stream(made.take().unwrap()).await.unwrap();
            }
            let (subject, reply) = (format!("$JS.API.{subject}"), message.reply.unwrap());
            if subject.contains("CONSUMER.MSG.NEXT") {
                client.publish_with_reply(subject, reply, message.payload).await.unwrap();
                continue;
            }
            let answer = client.request(subject, message.payload).await.unwrap();
            if overtake && let Some(made) = made.take() {
                jetstream.create_stream(made).await.unwrap();
            }
            client.publish(reply, answer.payload).await.unwrap();
        }
    });
    Broker::builder().servers([server.url()]).api_prefix("forwarded.API").connect().await.unwrap()
}

#[tokio::test]
async fn stream_created_meanwhile_is_used_if_it_fits() {
    let fits =
        |name| stream::Config { max_messages: 1000, ..stream_config(name, &["orders.created", "orders.*.late"]) };
    for (request, group, made) in [
        ("STREAM.NAMES", "concurrent", stream_config("ORDERS", &["orders.>"])),
        ("STREAM.NAMES", "concurrent", fits("ORDERS")),
        ("STREAM.INFO.ORDERS", "concurrent", stream_config("ORDERS", &["orders.>"])),
        ("STREAM.CREATE.ORDERS", "concurrent", stream_config("ORDERS", &["orders.>"])),
        (
            "STREAM.CREATE.ORDERS",
            "concurrent",
            stream::Config { max_messages: 1000, ..stream_config("ORDERS", &["orders.>"]) },
        ),
        ("STREAM.INFO.SHOP", "concurrent-named", stream_config("SHOP", &["orders.>"])),
        ("STREAM.INFO.SHOP", "concurrent-named", fits("SHOP")),
        ("STREAM.CREATE.SHOP", "concurrent-named", stream_config("SHOP", &["orders.>"])),
    ] {
        let server = Server::start().await;
        let (name, limit) = (made.name.clone(), made.max_messages);
        let broker = connect_overtaken(&server, request, made).await;
        let running = broker.start_groups([group]).await;
        let running = running.unwrap_or_else(|error| panic!("{name} made at {request}: {error:?}"));
        running.shutdown().await.unwrap();
        let found = found_stream(&server.jetstream().await, &name).await;
        assert_eq!(found.max_messages.max(0), limit, "{request}: the stream of the other process");
    }
}

#[tokio::test]
async fn stream_created_meanwhile_is_refused_if_it_does_not_fit() {
    for (request, group, made, kind, parts) in [
        (
            "STREAM.NAMES",
            "concurrent",
            stream_config("ORDERS", &["orders.lost"]),
            ErrorKind::StreamNotFound,
            "[\"orders.lost\"]",
        ),
        (
            "STREAM.CREATE.ORDERS",
            "concurrent",
            stream_config("ORDERS", &["lost"]),
            ErrorKind::StreamNotFound,
            "[\"lost\"]",
        ),
        (
            "STREAM.CREATE.ORDERS",
            "concurrent",
            stream_config("OTHER", &["orders.lost"]),
            ErrorKind::StreamOverlap,
            "stream `OTHER`",
        ),
        (
            "STREAM.INFO.SHOP",
            "concurrent-named",
            stream_config("OTHER", &["orders.>"]),
            ErrorKind::StreamOverlap,
            "stream `OTHER`",
        ),
        (
            "STREAM.CREATE.SHOP",
            "concurrent-named",
            stream_config("SHOP", &["shop"]),
            ErrorKind::StreamNotFound,
            "[\"shop\"]",
        ),
    ] {
        let server = Server::start().await;
        let name = made.name.clone();
        let broker = connect_overtaken(&server, request, made).await;
        assert_error(broker.start_groups([group]).await, kind, &["`start_up::concurrency::", parts]);
        found_stream(&server.jetstream().await, &name).await;
    }
}

#[tokio::test]
async fn only_one_of_two_different_settings_starts() {
    let server = Server::start().await;
    let (one, other) = (connect(&server).await, connect(&server).await);
    let subscribe = async |broker: &Broker, seconds| {
        let subscribe = broker.subscribe("orders.created", "disputed", async |_: Message| {});
        subscribe.ack_wait(secs(seconds)).await
    };
    let (one, other) = futures::join!(subscribe(&one, 20), subscribe(&other, 40));
    let refused = if one.is_ok() { other } else { one };
    assert_error(refused, ErrorKind::ConsumerMismatch, &["consumer `disputed`", "ack_wait is", "20s", "40s"]);
}

//! Publishing: stored once, told what became of it, refused with a reason.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall say where")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::future::join_all;
use jetstream_handlers::async_nats::jetstream::Context as JetStream;
use jetstream_handlers::prelude::*;
use jetstream_handlers::{ErrorKind, stream};
use jetstream_handlers_tests::{Cluster, Proxy, Server, assert_says, binary, breaking_wire, eventually};
use serde::ser::{Error as _, Serializer};
use serde::{Deserialize, Serialize};

const SOON: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct OrderCreated {
    id: u64,
    customer: String,
}

async fn connect(server: &Server) -> Broker {
    Broker::connect(server.url()).await.unwrap()
}

async fn count(jetstream: &JetStream, stream: &str) -> u64 {
    jetstream.get_stream(stream).await.unwrap().cached_info().state.messages
}

fn shop() -> stream::Config {
    stream::Config { name: "SHOP".to_owned(), subjects: vec!["orders.>".to_owned()], ..Default::default() }
}

#[tokio::test]
async fn the_ack_of_the_stream_is_returned() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    for sequence in 1..=3 {
        let order = OrderCreated { id: sequence, customer: "Ada".to_owned() };
        let ack = broker.publish("orders.created", &order).await.unwrap();
        assert_eq!((ack.stream.as_str(), ack.sequence, ack.duplicate), ("ORDERS", sequence, false));
    }
    let jetstream = server.jetstream().await;
    let stream = jetstream.get_stream("ORDERS").await.unwrap();
    let message = stream.get_raw_message(2).await.unwrap();
    assert_eq!((message.subject.as_str(), &*message.payload), ("orders.created", &br#"{"id":2,"customer":"Ada"}"#[..]));
    assert_eq!(count(&jetstream, "ORDERS").await, 3);
}

#[tokio::test]
async fn a_condition_that_the_message_itself_has_ended_is_no_refusal() {
    // The stream may have forgotten the id by the time of the repetition.
    for (of_subject, window) in [(false, 120_000), (true, 120_000), (false, 100), (true, 100)] {
        let server = Server::start().await;
        let config = stream::Config { duplicate_window: Duration::from_millis(window), ..shop() };
        server.jetstream().await.create_stream(config).await.unwrap();
        let url = breaking_wire(server.address(), r#""stream":"SHOP","seq":1"#).await;
        let options = |options: jetstream_handlers::async_nats::ConnectOptions| options.ignore_discovered_servers();
        let broker = Broker::builder().servers([url]).connect_options(options).connect().await.unwrap();
        let publish = || match of_subject {
            true => broker.publish_message("orders.created", &1).expect_last_subject_sequence(0).into_future(),
            false => broker.publish_message("orders.created", &1).expect_last_sequence(0).into_future(),
        };
        let ack = publish().await.unwrap();
        assert_eq!((ack.sequence, ack.duplicate), (1, true), "the answer was lost, and it was repeated");
        assert_says(publish().await, ErrorKind::WrongLastSequence, &["last sequence"]);
        assert_eq!(count(&server.jetstream().await, "SHOP").await, 1);
    }
}

#[tokio::test]
async fn a_condition_that_another_has_ended_leaves_a_stream_of_three_copies_alone() {
    let mut cluster = Cluster::start().await;
    let jetstream = cluster.jetstream().await;
    jetstream.create_stream(stream::Config { num_replicas: 3, ..shop() }).await.unwrap();
    let leader = cluster.leader_of_stream("SHOP").await;
    let proxy = Proxy::start(cluster.node(leader).address()).await;
    let options = |options: jetstream_handlers::async_nats::ConnectOptions| options.ignore_discovered_servers();
    let connect = |url: String| Broker::builder().servers([url]).connect_options(options).connect().into_future();
    let broker = connect(proxy.url()).await.unwrap();
    let other = connect(cluster.urls()[leader].clone()).await.unwrap();
    proxy.pause();
    let publishing = broker.publish_message("orders.created", &1).expect_last_subject_sequence(0).into_future();
    let meanwhile = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        proxy.refuse();
        proxy.cut();
        tokio::time::sleep(Duration::from_millis(20)).await;
        proxy.resume();
        other.publish("orders.created", &2).await.unwrap();
        proxy.accept();
    };
    let (refused, ()) = futures::join!(publishing, meanwhile);
    assert_says(refused, ErrorKind::WrongLastSequence, &["wrong last sequence: 1"]);
    other.publish("orders.created", &3).await.unwrap();
}

#[tokio::test]
async fn one_message_id_is_stored_once() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    let publish = |id: &'static str| broker.publish_message("orders.created", &1).message_id(id).into_future();
    let first = publish("order-1").await.unwrap();
    let second = publish("order-1").await.unwrap();
    let third = publish("order-2").await.unwrap();
    assert_eq!((first.sequence, first.duplicate), (1, false));
    assert_eq!((second.sequence, second.duplicate), (1, true));
    assert_eq!((third.sequence, third.duplicate), (2, false));
    assert_eq!(count(&server.jetstream().await, "ORDERS").await, 2);
}

#[tokio::test]
async fn equal_messages_without_an_id_are_each_stored() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    let acks = join_all((0..100).map(|_| broker.publish("orders.created", &1))).await;
    let sequences: BTreeSet<_> = acks.into_iter().map(|ack| ack.unwrap().sequence).collect();
    assert_eq!(sequences, (1..=100).collect());
}

#[tokio::test]
async fn a_subject_whose_last_sequence_is_another_is_not_written() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    let publish = |subject, last| broker.publish_message(subject, &1).expect_last_subject_sequence(last).into_future();
    assert_eq!(publish("orders.a", 0).await.unwrap().sequence, 1);
    assert_eq!(publish("orders.b", 0).await.unwrap().sequence, 2);
    assert_eq!(publish("orders.a", 1).await.unwrap().sequence, 3);
    for wrong in [0, 1, 2, 7] {
        let told = ["`orders.a`", "not stored", "wrong last sequence: 3"];
        assert_says(publish("orders.a", wrong).await, ErrorKind::WrongLastSequence, &told);
    }
    assert_eq!(count(&server.jetstream().await, "ORDERS").await, 3);
}

#[tokio::test]
async fn a_stream_whose_last_sequence_is_another_is_not_written() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    broker.publish("orders.a", &1).await.unwrap();
    let publish = |last| broker.publish_message("orders.b", &1).expect_last_sequence(last).into_future();
    assert_says(publish(4).await, ErrorKind::WrongLastSequence, &["`orders.b`", "wrong last sequence: 1"]);
    assert_eq!(publish(1).await.unwrap().sequence, 2);
    assert_eq!(count(&server.jetstream().await, "ORDERS").await, 2);
}

#[tokio::test]
async fn a_stream_other_than_the_expected_one_is_not_written() {
    let server = Server::start().await;
    server.jetstream().await.create_stream(shop()).await.unwrap();
    let broker = connect(&server).await;
    let publish = |stream| broker.publish_message("orders.created", &1).expect_stream(stream).into_future();
    assert_says(publish("ORDERS").await, ErrorKind::StreamMismatch, &["`orders.created`", "not stored", "ORDERS"]);
    assert_eq!(publish("SHOP").await.unwrap().sequence, 1);
}

#[tokio::test]
async fn a_message_with_a_time_to_live_goes_when_it_is_over() {
    let server = Server::start().await;
    let jetstream = server.jetstream().await;
    let broker = connect(&server).await;
    let publish = || broker.publish_message("orders.created", &1).ttl(Duration::from_millis(300)).into_future();
    if binary::version() < (2, 11, 0) {
        // Such a server would store it for ever, and say nothing.
        assert_says(publish().await, ErrorKind::Config, &["`orders.created`", "2.10", "2.11"]);
        return;
    }
    let mut config = stream::Config { allow_message_ttl: true, ..shop() };
    jetstream.create_stream(config.clone()).await.unwrap();
    broker.publish("orders.created", &1).await.unwrap();
    publish().await.unwrap();
    let stream = jetstream.get_stream("SHOP").await.unwrap();
    let mortal = stream.get_raw_message(2).await.unwrap();
    assert_eq!(mortal.headers.get("Nats-TTL").unwrap().as_str(), "1", "a whole second is the least");
    eventually("it is gone", SOON, async || (count(&jetstream, "SHOP").await == 1).then_some(())).await;
    stream.get_raw_message(1).await.unwrap();
    // Where it is not allowed, it is refused.
    jetstream.delete_stream("SHOP").await.unwrap();
    config.allow_message_ttl = false;
    jetstream.create_stream(config).await.unwrap();
    assert_says(publish().await, ErrorKind::Publish, &["`orders.created`", "allow_message_ttl"]);
    assert_eq!(count(&jetstream, "SHOP").await, 0);
}

/// What the handler found in the headers.
#[derive(Clone, Debug, Default)]
struct Found(Arc<Mutex<Vec<Values>>>);

/// The values of each header.
type Values = BTreeMap<String, Vec<String>>;

#[subscriber(subject = "orders.*", queue = "header-reader", group = "headers")]
async fn read_headers(headers: Headers, message: Message, State(found): State<Found>) {
    assert_eq!(headers.get("Tenant"), message.header("Tenant"));
    let mut all = BTreeMap::<_, Vec<_>>::new();
    for (name, value) in headers.iter() {
        all.entry(name.to_owned()).or_default().push(value.to_owned());
    }
    found.0.lock().unwrap().push(all);
}

#[tokio::test]
async fn headers_arrive_at_the_handler() {
    let server = Server::start().await;
    let found = Found::default();
    let broker = Broker::builder().servers([server.url()]).state(found.clone()).connect().await.unwrap();
    let running = broker.start_groups(["headers"]).await.unwrap();
    let message = broker.publish_message("orders.created", &1).header("Tenant", "eu").message_id("order-1");
    message.header("Trace", "one").header("Trace", "zwei \u{fc}").await.unwrap();
    // One that has none at all.
    let client = server.client().await;
    client.publish("orders.plain", "1".into()).await.unwrap();
    eventually("both were handled", SOON, async || (found.0.lock().unwrap().len() == 2).then_some(())).await;
    running.shutdown().await.unwrap();
    let found = found.0.lock().unwrap();
    assert_eq!(found[0]["Tenant"], ["eu"]);
    assert_eq!(found[0]["Trace"], ["one", "zwei \u{fc}"]);
    assert_eq!(found[0]["Nats-Msg-Id"], ["order-1"]);
    assert_eq!(found[1], BTreeMap::new());
}

#[tokio::test]
async fn what_cannot_be_a_subject_or_a_header_is_not_sent() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    for (subject, told) in [
        ("orders.*", "the wildcard `*`"),
        ("orders.>", "the wildcard `>`"),
        ("", "the subject is empty"),
        ("orders..created", "an empty token"),
        ("orders created", "a space"),
        ("orders.created\r\nPUB x 0\r\n", "a line break"),
        ("$JS.API.STREAM.DELETE.ORDERS", "reserved"),
    ] {
        assert_says(broker.publish(subject, &1).await, ErrorKind::Config, &["cannot publish to", told]);
    }
    for (name, value) in [("Te nant", "eu"), ("Tenant", "e\r\nu"), ("", "eu"), ("Ten:ant", "eu")] {
        let result = broker.publish_message("orders.created", &1).header(name, value).await;
        assert_says(result, ErrorKind::Config, &["cannot publish to `orders.created`", "header"]);
    }
    let result = broker.publish_message("orders.created", &1).message_id("a\nb").await;
    assert_says(result, ErrorKind::Config, &["Nats-Msg-Id", "line break"]);
    assert!(server.jetstream().await.get_stream("ORDERS").await.is_err(), "nothing was asked of the server");
}

/// A value that does not want to be written down.
struct Secret;

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(S::Error::custom("a secret stays one"))
    }
}

#[tokio::test]
async fn a_value_that_does_not_encode_is_named() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    let told = ["publishing::Secret", "`orders.created`", "a secret stays one"];
    assert_says(broker.publish("orders.created", &Secret).await, ErrorKind::Encode, &told);
    let by_pair = BTreeMap::from([((1, 2), 3)]);
    assert_says(broker.publish("orders.created", &by_pair).await, ErrorKind::Encode, &["key must be a string"]);
}

#[tokio::test]
async fn a_message_may_be_as_large_as_the_server_takes_and_not_larger() {
    let server = Server::builder().config("max_payload: 1000").start().await;
    let broker = connect(&server).await;
    // 12 bytes of every header block, `Nats-Msg-Id: x` with its line end, and the quotes around the text.
    let text = |size: usize| "a".repeat(size - 12 - 16 - 2);
    let publish = |size| {
        let value = text(size);
        broker.publish_message("orders.created", &value).message_id("x").into_future()
    };
    assert_eq!(publish(1000).await.unwrap().sequence, 1);
    let told = ["`orders.created`", "1001 bytes", "1000", "max_payload"];
    assert_says(publish(1001).await, ErrorKind::PayloadTooLarge, &told);
    let result = broker.publish_message("orders.created", "").header("Long", &"h".repeat(1000)).await;
    assert_says(result, ErrorKind::PayloadTooLarge, &["`orders.created`", "1000"]);
    assert_eq!(broker.publish("orders.created", &1).await.unwrap().sequence, 2, "the connection is still there");
}

#[tokio::test]
async fn a_message_larger_than_the_stream_takes_is_refused() {
    let server = Server::start().await;
    let config = stream::Config { max_message_size: 100, ..shop() };
    server.jetstream().await.create_stream(config).await.unwrap();
    let told = ["`orders.created`", "max_msg_size"];
    let value = "a".repeat(100);
    assert_says(connect(&server).await.publish("orders.created", &value).await, ErrorKind::PayloadTooLarge, &told);
}

#[tokio::test]
async fn a_full_stream_is_told_of_at_once() {
    let server = Server::start().await;
    let jetstream = server.jetstream().await;
    let config = stream::Config { max_messages: 2, discard: stream::DiscardPolicy::New, ..shop() };
    jetstream.create_stream(config).await.unwrap();
    let broker = connect(&server).await;
    for _ in 0..2 {
        broker.publish("orders.created", &1).await.unwrap();
    }
    let begun = Instant::now();
    let told = ["`orders.created`", "the stream is full", "maximum messages exceeded"];
    assert_says(broker.publish("orders.created", &1).await, ErrorKind::Publish, &told);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!(count(&jetstream, "SHOP").await, 2);
}

#[tokio::test]
async fn an_answer_of_somebody_else_is_no_ack() {
    let server = Server::start().await;
    let client = server.client().await;
    let mut requests = client.subscribe("orders.created").await.unwrap();
    client.flush().await.unwrap();
    tokio::spawn(async move {
        while let Some(message) = futures::StreamExt::next(&mut requests).await {
            if let Some(reply) = message.reply {
                client.publish(reply, "thanks".into()).await.unwrap();
            }
        }
    });
    let told = ["`orders.created`", "another subscriber answered"];
    assert_says(connect(&server).await.publish("orders.created", &1).await, ErrorKind::Publish, &told);
}

#[tokio::test]
async fn after_the_disconnect_nothing_is_published_and_nobody_waits() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    let publisher = broker.publisher().clone();
    broker.publish("orders.created", &1).await.unwrap();
    broker.disconnect().await.unwrap();
    for publisher in [broker.publisher(), &publisher] {
        let publish = publisher.publish("orders.created", &2);
        let result = tokio::time::timeout(Duration::from_secs(5), publish).await.unwrap();
        assert_says(result, ErrorKind::Closed, &["`orders.created`", "disconnected"]);
    }
    assert_eq!(count(&server.jetstream().await, "ORDERS").await, 1);
}

#[tokio::test]
async fn a_publish_outlives_a_restart_of_the_server() {
    let mut server = Server::start().await;
    let broker = connect(&server).await;
    broker.publish("orders.created", &0).await.unwrap();
    server.kill();
    eventually("the broker knows", SOON, async || (!broker.health().connected).then_some(())).await;
    let publishes: Vec<_> = (1..=20)
        .map(|id| {
            let broker = broker.clone();
            tokio::spawn(async move { broker.publish("orders.created", &id).await })
        })
        .collect();
    server.restart().await;
    for publish in publishes {
        let ack = publish.await.unwrap().unwrap();
        assert_eq!(ack.stream, "ORDERS");
    }
    assert_eq!(count(&server.jetstream().await, "ORDERS").await, 21);
}

#[tokio::test]
async fn a_publish_without_a_server_ends_when_its_time_is_over() {
    let mut server = Server::start().await;
    let limit = Duration::from_millis(500);
    let broker = Broker::builder().servers([server.url()]).publish_timeout(limit).connect().await.unwrap();
    broker.publish("orders.created", &0).await.unwrap();
    server.kill();
    let begun = Instant::now();
    let told = ["`orders.created`", "within 500ms", "may be stored or not"];
    assert_says(broker.publish("orders.created", &1).await, ErrorKind::Timeout, &told);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_message_whose_ack_was_lost_is_stored_once() {
    let server = Server::start().await;
    let jetstream = server.jetstream().await;
    jetstream.create_stream(shop()).await.unwrap();
    let url = breaking_wire(server.address(), r#""stream":"SHOP","seq":1"#).await;
    let broker = Broker::builder()
        .servers([url])
        .connect_options(|options| options.ignore_discovered_servers())
        .connect()
        .await
        .unwrap();
    let ack = broker.publish("orders.created", &1).await.unwrap();
    assert_eq!((ack.sequence, ack.duplicate), (1, true), "the repetition was recognised");
    assert_eq!(count(&jetstream, "SHOP").await, 1);
}

#[subscriber(subject = "orders.created", queue = "confirmer", group = "confirming")]
async fn confirm(order: OrderCreated, publisher: Publisher) -> HandlerResult {
    let ack = publisher.publish_message("orders.confirmed", &order.id).header("Customer", &order.customer).await?;
    assert_eq!(ack.stream, "ORDERS");
    Ok(())
}

#[tokio::test]
async fn a_handler_publishes_through_its_publisher() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    let running = broker.start_groups(["confirming"]).await.unwrap();
    broker.publish("orders.created", &OrderCreated { id: 7, customer: "Ada".to_owned() }).await.unwrap();
    let stream = server.jetstream().await.get_stream("ORDERS").await.unwrap();
    let confirmed = eventually("the confirmation is stored", SOON, async || {
        stream.get_last_raw_message_by_subject("orders.confirmed").await.ok()
    })
    .await;
    assert_eq!(&*confirmed.payload, b"7");
    assert_eq!(confirmed.headers.get("Customer").unwrap().as_str(), "Ada");
    running.shutdown().await.unwrap();
}

//! One message: stored once, or refused with a reason.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use futures::future::join_all;
use jetstream_handlers::prelude::*;
use jetstream_handlers::{ErrorKind, stream};
use jetstream_handlers_tests::{
    Recorder, SOON, Server, assert_error, binary, builder, connect, connect_with, cut_connection_at, eventually, ms,
    stream_config,
};
use serde::ser::{Error as _, Serializer};
use serde::{Deserialize, Serialize};

use crate::{count, shop};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct OrderCreated {
    id: u64,
    customer: String,
}

#[tokio::test]
async fn returns_the_ack_of_the_stream() {
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
async fn condition_that_the_message_itself_broke_is_met() {
    // With the short window, the stream has forgotten the id when the message is repeated.
    for (of_subject, window) in [(false, 120_000), (true, 120_000), (false, 100), (true, 100)] {
        let server = Server::start().await;
        let config = stream::Config { duplicate_window: ms(window), ..shop() };
        server.jetstream().await.create_stream(config).await.unwrap();
        let url = cut_connection_at(server.address(), r#""stream":"SHOP","seq":1"#).await;
        let options = |options: jetstream_handlers::async_nats::ConnectOptions| options.ignore_discovered_servers();
        let broker = Broker::builder().servers([url]).connect_options(options).connect().await.unwrap();
        let publish = || match of_subject {
            true => broker.publish_message("orders.created", &1).expect_last_subject_sequence(0).into_future(),
            false => broker.publish_message("orders.created", &1).expect_last_sequence(0).into_future(),
        };
        let ack = publish().await.unwrap();
        assert_eq!((ack.sequence, ack.duplicate), (1, false), "stored by this publish, whose first ack was lost");
        assert_error(publish().await, ErrorKind::WrongLastSequence, &["last sequence"]);
        assert_eq!(count(&server.jetstream().await, "SHOP").await, 1);
    }
}

#[tokio::test]
async fn message_id_is_stored_once() {
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
async fn equal_messages_without_id_are_all_stored() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    let acks = join_all((0..100).map(|_| broker.publish("orders.created", &1))).await;
    let sequences: BTreeSet<_> = acks.into_iter().map(|ack| ack.unwrap().sequence).collect();
    assert_eq!(sequences, (1..=100).collect());
}

#[tokio::test]
async fn wrong_last_subject_sequence_is_refused() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    let publish = |subject, last| broker.publish_message(subject, &1).expect_last_subject_sequence(last).into_future();
    assert_eq!(publish("orders.a", 0).await.unwrap().sequence, 1);
    assert_eq!(publish("orders.b", 0).await.unwrap().sequence, 2);
    assert_eq!(publish("orders.a", 1).await.unwrap().sequence, 3);
    for wrong in [0, 1, 2, 7] {
        let parts = ["`orders.a`", "not stored", "wrong last sequence: 3"];
        assert_error(publish("orders.a", wrong).await, ErrorKind::WrongLastSequence, &parts);
    }
    assert_eq!(count(&server.jetstream().await, "ORDERS").await, 3);
}

#[tokio::test]
async fn wrong_last_sequence_is_refused() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    broker.publish("orders.a", &1).await.unwrap();
    let publish = |last| broker.publish_message("orders.b", &1).expect_last_sequence(last).into_future();
    assert_error(publish(4).await, ErrorKind::WrongLastSequence, &["`orders.b`", "wrong last sequence: 1"]);
    assert_eq!(publish(1).await.unwrap().sequence, 2);
    assert_eq!(count(&server.jetstream().await, "ORDERS").await, 2);
}

#[tokio::test]
async fn unexpected_stream_is_refused() {
    let server = Server::start().await;
    server.jetstream().await.create_stream(shop()).await.unwrap();
    let broker = connect(&server).await;
    let publish = |stream| broker.publish_message("orders.created", &1).expect_stream(stream).into_future();
    assert_error(publish("ORDERS").await, ErrorKind::StreamMismatch, &["`orders.created`", "not stored", "ORDERS"]);
    assert_eq!(publish("SHOP").await.unwrap().sequence, 1);
}

#[tokio::test]
async fn message_expires_after_its_ttl() {
    let server = Server::start().await;
    let jetstream = server.jetstream().await;
    let broker = connect(&server).await;
    let publish = || broker.publish_message("orders.created", &1).ttl(ms(300)).into_future();
    if binary::version() < (2, 11, 0) {
        // Such a server would ignore the header.
        assert_error(publish().await, ErrorKind::Config, &["`orders.created`", "2.10", "2.11"]);
        return;
    }
    let mut config = stream::Config { allow_message_ttl: true, ..shop() };
    jetstream.create_stream(config.clone()).await.unwrap();
    broker.publish("orders.created", &1).await.unwrap();
    publish().await.unwrap();
    let stream = jetstream.get_stream("SHOP").await.unwrap();
    let message = stream.get_raw_message(2).await.unwrap();
    assert_eq!(message.headers.get("Nats-TTL").unwrap().as_str(), "1", "one second is the minimum");
    eventually("the message expires", SOON, async || (count(&jetstream, "SHOP").await == 1).then_some(())).await;
    stream.get_raw_message(1).await.unwrap();
    // A stream without `allow_message_ttl` refuses the message.
    jetstream.delete_stream("SHOP").await.unwrap();
    config.allow_message_ttl = false;
    jetstream.create_stream(config).await.unwrap();
    assert_error(publish().await, ErrorKind::Publish, &["`orders.created`", "allow_message_ttl"]);
    assert_eq!(count(&jetstream, "SHOP").await, 0);
}

/// The values of each header.
type Values = BTreeMap<String, Vec<String>>;

#[subscriber(subject = "orders.*", queue = "header-reader", group = "headers")]
async fn read_headers(headers: Headers, message: Message, State(found): State<Recorder<Values>>) {
    assert_eq!(headers.get("Tenant"), message.header("Tenant"));
    let mut all = BTreeMap::<_, Vec<_>>::new();
    for (name, value) in headers.iter() {
        all.entry(name.to_owned()).or_default().push(value.to_owned());
    }
    found.add(all);
}

#[tokio::test]
async fn headers_reach_the_handler() {
    let server = Server::start().await;
    let found = Recorder::<Values>::default();
    let broker = connect_with(&server, &found).await;
    let running = broker.start_groups(["headers"]).await.unwrap();
    let message = broker.publish_message("orders.created", &1).header("Tenant", "eu").message_id("order-1");
    message.header("Trace", "one").header("Trace", "zwei \u{fc}").await.unwrap();
    // A message without headers.
    let client = server.client().await;
    client.publish("orders.plain", "1".into()).await.unwrap();
    found.until_len(2).await;
    running.shutdown().await.unwrap();
    let found = found.items();
    assert_eq!(found[0]["Tenant"], ["eu"]);
    assert_eq!(found[0]["Trace"], ["one", "zwei \u{fc}"]);
    assert_eq!(found[0]["Nats-Msg-Id"], ["order-1"]);
    assert_eq!(found[1], BTreeMap::new());
}

#[tokio::test]
async fn invalid_subjects_and_headers_are_not_sent() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    for (subject, parts) in [
        ("orders.*", "the wildcard `*`"),
        ("orders.>", "the wildcard `>`"),
        ("", "the subject is empty"),
        ("orders..created", "an empty token"),
        ("orders created", "a space"),
        ("orders.created\r\nPUB x 0\r\n", "a line break"),
        ("$JS.API.STREAM.DELETE.ORDERS", "reserved"),
    ] {
        assert_error(broker.publish(subject, &1).await, ErrorKind::Config, &["cannot publish to", parts]);
    }
    for (name, value) in [("Te nant", "eu"), ("Tenant", "e\r\nu"), ("", "eu"), ("Ten:ant", "eu")] {
        let result = broker.publish_message("orders.created", &1).header(name, value).await;
        assert_error(result, ErrorKind::Config, &["cannot publish to `orders.created`", "header"]);
    }
    let result = broker.publish_message("orders.created", &1).message_id("a\nb").await;
    assert_error(result, ErrorKind::Config, &["Nats-Msg-Id", "line break"]);
    assert!(server.jetstream().await.get_stream("ORDERS").await.is_err(), "nothing was sent");
}

/// A value that cannot be serialized.
struct Secret;

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(S::Error::custom("a secret is not serialized"))
    }
}

#[tokio::test]
async fn encoding_error_names_the_type() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    let parts = ["publishing::publish::Secret", "`orders.created`", "a secret is not serialized"];
    assert_error(broker.publish("orders.created", &Secret).await, ErrorKind::Encode, &parts);
    let parts = ["`orders.created`", "`[1]` is NaN"];
    assert_error(broker.publish("orders.created", &[Some(1.0), Some(f64::NAN)]).await, ErrorKind::Encode, &parts);
    let by_pair = BTreeMap::from([((1, 2), 3)]);
    assert_error(broker.publish("orders.created", &by_pair).await, ErrorKind::Encode, &["key must be a string"]);
}

#[tokio::test]
async fn max_payload_of_the_server_is_enforced() {
    let server = Server::builder().config("max_payload: 1000").start().await;
    let broker = connect(&server).await;
    // Without the 12 bytes of a header block, the line `Nats-Msg-Id: x`, and the quotes of the JSON string.
    let text = |size: usize| "a".repeat(size - 12 - 16 - 2);
    let publish = |size| {
        let value = text(size);
        broker.publish_message("orders.created", &value).message_id("x").into_future()
    };
    assert_eq!(publish(1000).await.unwrap().sequence, 1);
    let parts = ["`orders.created`", "1001 bytes", "1000", "max_payload"];
    assert_error(publish(1001).await, ErrorKind::PayloadTooLarge, &parts);
    let result = broker.publish_message("orders.created", "").header("Long", &"h".repeat(1000)).await;
    assert_error(result, ErrorKind::PayloadTooLarge, &["`orders.created`", "1000"]);
    assert_eq!(broker.publish("orders.created", &1).await.unwrap().sequence, 2, "the connection is still open");
}

#[tokio::test]
async fn max_message_size_of_the_stream_is_enforced() {
    let server = Server::start().await;
    let config = stream::Config { max_message_size: 100, ..shop() };
    server.jetstream().await.create_stream(config).await.unwrap();
    let parts = ["`orders.created`", "max_msg_size"];
    let value = "a".repeat(100);
    assert_error(connect(&server).await.publish("orders.created", &value).await, ErrorKind::PayloadTooLarge, &parts);
}

#[tokio::test]
async fn time_to_live_out_of_range_is_refused() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    let years = |years: u64| secs(years * 366 * 24 * 60 * 60);
    for ttl in [Duration::ZERO, years(100), years(1000), Duration::MAX] {
        let result = broker.publish_message("orders.created", &1).ttl(ttl).await;
        assert_error(result, ErrorKind::Config, &["`orders.created`", "time to live", "36500 days"]);
    }
    if binary::version() < (2, 11, 0) {
        return;
    }
    let jetstream = server.jetstream().await;
    jetstream.create_stream(stream::Config { allow_message_ttl: true, ..shop() }).await.unwrap();
    for ttl in [Duration::from_nanos(1), years(99)] {
        broker.publish_message("orders.created", &1).ttl(ttl).await.unwrap();
    }
    eventually("the short one expires", SOON, async || (count(&jetstream, "SHOP").await == 1).then_some(())).await;
    jetstream.get_stream("SHOP").await.unwrap().get_raw_message(2).await.unwrap();
}

#[tokio::test]
async fn bytes_are_published_as_they_are() {
    let server = Server::start().await;
    let jetstream = server.jetstream().await;
    let newest = binary::version() >= (2, 12, 0);
    let counters = stream::Config { allow_message_counter: newest, ..stream_config("VISITS", &["visits.>"]) };
    jetstream.create_stream(counters).await.unwrap();
    let broker = connect(&server).await;
    let publisher = broker.publisher();
    let raw = vec![0_u8, 0xff, b'\n'];
    publisher.publish_bytes("orders.created", raw.clone()).message_id("raw").await.unwrap();
    publisher.publish_bytes("orders.created", "").header("KV-Operation", "DEL").await.unwrap();
    let stream = jetstream.get_stream("ORDERS").await.unwrap();
    assert_eq!(stream.get_raw_message(1).await.unwrap().payload, raw);
    let tombstone = stream.get_raw_message(2).await.unwrap();
    assert!(tombstone.payload.is_empty());
    assert_eq!(tombstone.headers.get("KV-Operation").unwrap().as_str(), "DEL");
    if newest {
        for sum in ["1", "2"] {
            let ack = publisher.publish_bytes("visits.home", "").increment(1).await.unwrap();
            assert_eq!(ack.value.as_deref(), Some(sum));
        }
    }
    let invalid = publisher.publish_bytes("orders.*", "1").await;
    assert_error(invalid, ErrorKind::Config, &["`orders.*`", "wildcard"]);
}

#[tokio::test]
async fn stream_without_acks_is_named() {
    let server = Server::start().await;
    let newest = binary::version() >= (2, 14, 0);
    let config = stream::Config { no_ack: true, allow_atomic_publish: newest, allow_batch_publish: newest, ..shop() };
    server.jetstream().await.create_stream(config).await.unwrap();
    let broker = connect(&server).await;
    let begun = Instant::now();
    let parts = ["stream `SHOP`", "`no_ack: true`", "may be stored or not"];
    assert_error(broker.publish("orders.created", &1).await, ErrorKind::StreamMismatch, &parts);
    assert!(begun.elapsed() < secs(5), "{:?}", begun.elapsed());
    let result = broker.publisher().publish_all([broker.publish_message("orders.created", &2)]).next().await.unwrap();
    assert_error(result, ErrorKind::StreamMismatch, &parts);
    assert!(begun.elapsed() < secs(15), "{:?}", begun.elapsed());
    assert_eq!(count(&server.jetstream().await, "SHOP").await, 2);
    if newest {
        let batch = [3, 4].map(|id| broker.publish_message("orders.created", &id));
        let begun = Instant::now();
        assert_error(broker.publisher().publish_atomic(batch).await, ErrorKind::StreamMismatch, &parts);
        assert!(begun.elapsed() < secs(5), "{:?}", begun.elapsed());
        let messages = (5..5000).map(|id| broker.publish_message("orders.created", &id));
        let begun = Instant::now();
        let error = broker.publisher().ingest(messages).await.unwrap_err();
        assert_eq!(error.stored(), 0);
        assert_error(&error, ErrorKind::StreamMismatch, &parts);
        assert!(begun.elapsed() < secs(5), "{:?}", begun.elapsed());
    }
}

#[tokio::test]
async fn refusal_that_cannot_change_is_reported_at_once_with_the_words_of_the_server() {
    let server = Server::start().await;
    let config = stream::Config { num_replicas: 3, ..shop() };
    let broker = builder(&server).stream(config).connect().await.unwrap();
    let begun = Instant::now();
    let error = broker.publish("orders.created", &1).await.unwrap_err();
    assert!(error.to_string().contains("replicas > 1 not supported in non-clustered mode"), "{error}");
    let config = stream::Config {
        max_messages_per_subject: 1,
        discard: stream::DiscardPolicy::New,
        discard_new_per_subject: true,
        ..stream_config("LAST", &["last.>"])
    };
    server.jetstream().await.create_stream(config).await.unwrap();
    broker.publish("last.a", &1).await.unwrap();
    broker.publish("last.b", &1).await.unwrap();
    let error = broker.publish("last.a", &1).await.unwrap_err();
    assert!(error.to_string().contains("`discard_new_per_subject`"), "{error}");
    assert!(error.to_string().contains("maximum messages per subject exceeded"), "{error}");
    assert!(!error.to_string().contains("the stream is full"), "{error}");
    assert!(begun.elapsed() < secs(5), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn full_stream_is_reported_at_once() {
    let server = Server::start().await;
    let jetstream = server.jetstream().await;
    let config = stream::Config { max_messages: 2, discard: stream::DiscardPolicy::New, ..shop() };
    jetstream.create_stream(config).await.unwrap();
    let broker = connect(&server).await;
    for _ in 0..2 {
        broker.publish("orders.created", &1).await.unwrap();
    }
    let started = Instant::now();
    let parts = ["`orders.created`", "the stream is full", "maximum messages exceeded"];
    assert_error(broker.publish("orders.created", &1).await, ErrorKind::Publish, &parts);
    assert!(started.elapsed() < secs(5), "{:?}", started.elapsed());
    assert_eq!(count(&jetstream, "SHOP").await, 2);
}

#[tokio::test]
async fn reply_of_another_subscriber_is_no_ack() {
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
    let parts = ["`orders.created`", "another subscriber answered"];
    assert_error(connect(&server).await.publish("orders.created", &1).await, ErrorKind::Publish, &parts);
}

#[tokio::test]
async fn publish_after_a_disconnect_fails_at_once() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    let publisher = broker.publisher().clone();
    broker.publish("orders.created", &1).await.unwrap();
    broker.disconnect().await.unwrap();
    for publisher in [broker.publisher(), &publisher] {
        let publish = publisher.publish("orders.created", &2);
        let result = tokio::time::timeout(secs(5), publish).await.unwrap();
        assert_error(result, ErrorKind::Closed, &["`orders.created`", "disconnected"]);
    }
    assert_eq!(count(&server.jetstream().await, "ORDERS").await, 1);
}

#[tokio::test]
async fn publish_survives_a_server_restart() {
    let mut server = Server::start().await;
    let broker = connect(&server).await;
    broker.publish("orders.created", &0).await.unwrap();
    server.kill();
    eventually("the broker is disconnected", SOON, async || (!broker.health().connected).then_some(())).await;
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
async fn publish_without_a_server_times_out() {
    let mut server = Server::start().await;
    let limit = ms(500);
    let broker = Broker::builder().servers([server.url()]).publish_timeout(limit).connect().await.unwrap();
    broker.publish("orders.created", &0).await.unwrap();
    server.kill();
    eventually("the broker is disconnected", SOON, async || (!broker.health().connected).then_some(())).await;
    let started = Instant::now();
    let parts = ["`orders.created`", "within 500ms", "it is not stored", "no server is connected"];
    assert_error(broker.publish("orders.created", &1).await, ErrorKind::Timeout, &parts);
    assert!(started.elapsed() < secs(5), "{:?}", started.elapsed());
}

#[tokio::test]
async fn message_with_a_lost_ack_is_stored_once() {
    let server = Server::start().await;
    let jetstream = server.jetstream().await;
    jetstream.create_stream(shop()).await.unwrap();
    let url = cut_connection_at(server.address(), r#""stream":"SHOP","seq":1"#).await;
    let broker = Broker::builder()
        .servers([url])
        .connect_options(|options| options.ignore_discovered_servers())
        .connect()
        .await
        .unwrap();
    let ack = broker.publish("orders.created", &1).await.unwrap();
    assert_eq!((ack.sequence, ack.duplicate), (1, false), "the application has published it once");
    assert_eq!(count(&jetstream, "SHOP").await, 1);
}

#[subscriber(subject = "orders.created", queue = "confirmer", group = "confirming")]
async fn confirm(order: OrderCreated, publisher: Publisher) -> HandlerResult {
    let ack = publisher.publish_message("orders.confirmed", &order.id).header("Customer", &order.customer).await?;
    assert_eq!(ack.stream, "ORDERS");
    Ok(())
}

#[tokio::test]
async fn handler_publishes_through_its_publisher() {
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

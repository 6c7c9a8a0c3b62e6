//! Payloads in other formats than JSON, and compressed ones.

use bytes::Bytes;
use jetstream_handlers::prelude::*;
use jetstream_handlers::testing::TestBroker;
use jetstream_handlers::{
    Cbor, CborCodec, Codec, Coded, ErrorKind, Json, MessagePack, MessagePackCodec, Protobuf, PublishMessage, Raw,
};
use jetstream_handlers_tests::Recorder;
use serde::de::DeserializeSeed;
use serde::{Deserialize, Serialize};

use crate::{Order, Transport, accept, all, order};

contract![
    format_of_a_message_is_that_of_its_content_type,
    default_format_is_that_of_handlers_and_publishes,
    parameter_names_its_format,
    other_content_type_than_that_of_the_parameter_is_refused,
    codec_of_the_application_encodes_and_decodes,
    raw_payload_is_as_it_was_published,
    compressed_payload_is_decompressed,
    bomb_becomes_a_dead_letter,
    error_of_a_payload_names_its_path,
    marker_reaches_no_payload_in_a_format,
    rejection_is_passed_to_the_handler,
    missing_parameter_is_none,
    content_type_of_the_caller_is_kept,
];

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// An order in Protobuf.
#[derive(Clone, PartialEq, prost::Message)]
struct Parcel {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(string, tag = "2")]
    address: String,
}

fn parcel(id: u64) -> Parcel {
    Parcel { id, address: "Taipei".to_owned() }
}

/// Starts a handler on `orders.created` that records what an expression makes of its parameter.
macro_rules! record {
    ($broker:expr, $queue:literal, |$parameter:ident: $type:ty| $note:expr) => {{
        let recorder = Recorder::default();
        let note = recorder.clone();
        let handler = move |$parameter: $type| {
            note.add($note);
            std::future::ready(())
        };
        // The handler runs on without the subscription.
        drop($broker.broker().subscribe("orders.created", $queue, handler).await.unwrap());
        recorder
    }};
}

/// Returns a message on `orders.created`.
fn message<T: jetstream_handlers::Payload>(broker: &TestBroker, value: &T) -> PublishMessage {
    broker.broker().publish_message("orders.created", value)
}

/// Returns a message of another program.
fn foreign(broker: &TestBroker, payload: impl Into<Bytes>, content_type: &str) -> PublishMessage {
    let message = broker.broker().publisher().publish_bytes("orders.created", payload);
    if content_type.is_empty() { message } else { message.header("Content-Type", content_type) }
}

/// Returns the content types of the messages on `orders.created`.
async fn content_types(broker: &TestBroker) -> Vec<Option<String>> {
    let messages = broker.published_messages("orders.created").await;
    messages.iter().map(|message| message.header("Content-Type").map(str::to_owned)).collect()
}

/// Returns the errors of the dead letters of a handler.
async fn errors(broker: &TestBroker, queue: &str) -> Vec<String> {
    let letters = broker.dead_letters().await;
    letters.iter().filter(|letter| letter.consumer == queue).map(|letter| letter.error.clone()).collect()
}

async fn format_of_a_message_is_that_of_its_content_type(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<accept>()).await;
    let orders = record!(broker, "orders", |order: Order| order);
    broker.publish("orders.created", &order(1)).await;
    broker.publish("orders.created", &MessagePack(order(2))).await;
    broker.publish("orders.created", &Cbor(order(3))).await;
    broker.publish("orders.created", &Json(order(4))).await;
    let foreign_json = br#"{"id":5}"#.as_slice();
    for content_type in ["application/json; charset=utf-8", "application/cloudevents+json", "text/plain"] {
        broker.publish_message(foreign(&broker, foreign_json, content_type)).await;
    }
    broker.publish_message(foreign(&broker, b"\x81\xa2id\x06".as_slice(), "application/x-msgpack")).await;
    broker.publish_message(foreign(&broker, b"\xef\xbb\xbf{\"id\":7}".as_slice(), "")).await;
    orders.until_len(9).await;
    assert_eq!(orders.items(), [1, 2, 3, 4, 5, 5, 5, 6, 7].map(order));
    broker.idle().await;
    assert!(broker.dead_letters().await.is_empty());
    broker.handled::<accept>().with(&order(4)).with(&MessagePack(order(2)));
    assert_eq!(broker.published::<Order>("orders.created").await, [1, 2, 3, 4, 5, 5, 5, 6, 7].map(order));
    let content_types = content_types(&broker).await;
    let own = content_types[..4].iter().map(Option::as_deref).collect::<Vec<_>>();
    assert_eq!(own, [None, Some("application/msgpack"), Some("application/cbor"), None]);
    // Protobuf cannot be decoded into any type, and the last one has no format that is known.
    broker.publish("orders.created", &Protobuf(parcel(8))).await;
    broker.publish_message(foreign(&broker, "<order/>", "application/xml")).await;
    let errors = errors(&broker, "accept").await;
    assert_eq!(errors.len(), 2);
    assert!(errors[0].contains("take `Protobuf<T>`"), "{}", errors[0]);
    assert!(
        errors[1].contains("the payload `<order/>`, whose content type `application/xml` is not one of"),
        "{}",
        errors[1]
    );
}

async fn default_format_is_that_of_handlers_and_publishes(transport: &Transport) {
    for_default(transport, MessagePackCodec, "application/msgpack", b"\x81\xa2id\x01").await;
}

async fn for_default(transport: &Transport, codec: impl Codec, content_type: &str, encoded: &[u8]) {
    let broker = transport.start(TestBroker::builder().codec(codec).include::<accept>()).await;
    let orders = record!(broker, "orders", |order: Order| order);
    broker.publish("orders.created", &order(1)).await;
    broker.publish("orders.created", &Cbor(order(2))).await;
    broker.publish("orders.created", &Json(order(3))).await;
    broker.publish_message(foreign(&broker, br#"{"id":4}"#.as_slice(), "application/json")).await;
    broker.publish_message(foreign(&broker, encoded.to_vec(), "")).await;
    orders.until_len(5).await;
    assert_eq!(orders.items(), [1, 2, 3, 4, 1].map(order));
    broker.handled::<accept>().with(&order(1));
    let messages = broker.published_messages("orders.created").await;
    assert_eq!(messages[0].payload(), encoded);
    let content_types = messages.iter().map(|message| message.header("Content-Type")).collect::<Vec<_>>();
    let json = Some("application/json");
    assert_eq!(content_types, [Some(content_type), Some("application/cbor"), json, json, None]);
    // Binary data could be decoded to anything, so that nothing is guessed.
    broker.publish_message(foreign(&broker, encoded.to_vec(), "application/octet-stream")).await;
    let errors = errors(&broker, "accept").await;
    assert_eq!(errors.len(), 1);
    assert!(errors[0].starts_with("the message has the content type `application/octet-stream`"), "{}", errors[0]);
    assert!(errors[0].contains("`application/msgpack`, `application/cbor`"), "{}", errors[0]);
    // A program that publishes JSON as for another broker.
    broker.publish_message(foreign(&broker, br#"{"id":4}"#.as_slice(), "")).await;
    let error = broker.dead_letters().await.pop().unwrap().error;
    assert!(error.ends_with("it seems to be JSON, without the header `Content-Type: application/json`"), "{error}");
}

async fn parameter_names_its_format(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().codec(CborCodec).include::<all>()).await;
    let message_pack = record!(broker, "message-pack", |order: MessagePack<Order>| order.0);
    let cbor = record!(broker, "cbor", |order: Option<Cbor<Order>>| order.map(|Cbor(order)| order));
    let protobuf = record!(broker, "protobuf", |parcel: Protobuf<Parcel>| parcel.0);
    let json = record!(broker, "json", |order: Result<Json<Order>, Rejection>| order.map(|order| order.id).ok());
    broker.publish("orders.created", &MessagePack(order(1))).await;
    broker.publish("orders.created", &Cbor(order(2))).await;
    broker.publish("orders.created", &Protobuf(parcel(3))).await;
    broker.publish("orders.created", &Json(order(4))).await;
    broker.publish("orders.created", &order(5)).await;
    json.until_len(5).await;
    broker.idle().await;
    assert_eq!(message_pack.items(), [order(1)]);
    assert_eq!(cbor.items(), [Some(order(2)), Some(order(5))]);
    assert_eq!(protobuf.items(), [parcel(3)]);
    assert_eq!(json.items(), [None, None, None, Some(4), None]);
    assert_eq!(errors(&broker, "protobuf").await.len(), 4);
}

async fn other_content_type_than_that_of_the_parameter_is_refused(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<all>()).await;
    let numbers = record!(broker, "numbers", |number: MessagePack<u64>| number.0);
    // The digit 5 is 53 in MessagePack.
    for content_type in ["application/msgpack", "", "application/octet-stream"] {
        broker.publish_message(foreign(&broker, "5", content_type)).await;
    }
    broker.publish_message(foreign(&broker, "5", "application/json")).await;
    broker.publish_message(foreign(&broker, "55", "")).await;
    numbers.until_len(3).await;
    broker.idle().await;
    assert_eq!(numbers.items(), [53, 53, 53]);
    let errors = errors(&broker, "numbers").await;
    assert_eq!(errors.len(), 2);
    let other = "the message has the content type `application/json`, which is JSON, and the handler takes";
    assert!(errors[0].starts_with(other), "{}", errors[0]);
    assert!(errors[1].ends_with("is not valid MessagePack for `u64`: other bytes follow the value"), "{}", errors[1]);
}

/// JSON behind a version.
#[derive(Default)]
struct Versioned;

impl Codec for Versioned {
    const CONTENT_TYPE: &'static str = "application/vnd.acme.versioned";

    fn encode<T: Serialize + ?Sized>(&self, value: &T) -> Result<Vec<u8>, BoxError> {
        let mut payload = vec![1];
        serde_json::to_writer(&mut payload, value)?;
        Ok(payload)
    }

    fn decode<'de, S: DeserializeSeed<'de>>(&self, payload: &'de [u8], seed: S) -> Result<S::Value, BoxError> {
        let json = payload.strip_prefix(&[1]).ok_or("it is not of version 1")?;
        let mut deserializer = serde_json::Deserializer::from_slice(json);
        let value = seed.deserialize(&mut deserializer)?;
        deserializer.end()?;
        Ok(value)
    }
}

async fn codec_of_the_application_encodes_and_decodes(transport: &Transport) {
    for_default(transport, Versioned, Versioned::CONTENT_TYPE, b"\x01{\"id\":1}").await;
    // The handlers of the first broker read the same stream of a server.
    let broker = transport.start(TestBroker::builder().include::<all>()).await;
    let orders = record!(broker, "coded", |order: Coded<Versioned, Order>| order.into_inner());
    broker.publish("orders.created", &Coded::<Versioned, _>::new(order(9))).await;
    orders.until(order(9)).await;
}

async fn raw_payload_is_as_it_was_published(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<all>()).await;
    let bytes = record!(broker, "bytes", |bytes: Raw<Bytes>| bytes.0);
    let text = record!(broker, "text", |text: Raw<String>| text.0);
    broker.publish("orders.created", &Raw("a \"text\"\n")).await;
    broker.publish("orders.created", &Raw(String::new())).await;
    broker.publish("orders.created", &Raw(vec![0, 255])).await;
    bytes.until_len(3).await;
    broker.idle().await;
    assert_eq!(bytes.items(), [&b"a \"text\"\n"[..], b"", b"\0\xff"]);
    assert_eq!(text.items(), ["a \"text\"\n", ""]);
    let errors = errors(&broker, "text").await;
    assert_eq!(errors.len(), 1);
    assert!(errors[0].starts_with("the payload is not text: invalid utf-8"), "{}", errors[0]);
    assert_eq!(content_types(&broker).await, [None, None, None]);
}

async fn compressed_payload_is_decompressed(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<accept>()).await;
    let orders = record!(broker, "orders", |order: Order| order);
    let raw = record!(broker, "raw", |text: Raw<String>| text.0.len());
    let stored = record!(broker, "stored", |message: Message| message.payload()[..2].to_vec());
    broker.publish_message(message(&broker, &order(1)).gzip()).await;
    broker.publish_message(message(&broker, &order(2)).zstd()).await;
    broker.publish_message(message(&broker, &MessagePack(order(3))).gzip()).await;
    // A server, proxy or browser may have decompressed it, without changing the header.
    broker.publish_message(message(&broker, &order(4)).header("Content-Encoding", "gzip")).await;
    stored.until_len(4).await;
    orders.until_len(4).await;
    broker.idle().await;
    assert_eq!(orders.items(), [1, 2, 3, 4].map(order));
    assert_eq!(raw.items(), [8, 8, 8]);
    assert_eq!(stored.items(), [&b"\x1f\x8b"[..], b"\x28\xb5", b"\x1f\x8b", b"{\""]);
    let error = message(&broker, &order(5)).gzip().zstd().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
    assert!(error.to_string().contains("compress it once"), "{error}");
    // An empty payload stays one.
    assert!(broker.published_messages("orders.created").await.iter().all(|message| !message.payload().is_empty()));
    broker.publish_message(foreign(&broker, "", "").gzip()).await;
    assert_eq!(broker.published_messages("orders.created").await.last().unwrap().header("Content-Encoding"), None);
}

async fn bomb_becomes_a_dead_letter(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<accept>()).await;
    let mut zeros = std::io::Read::take(std::io::repeat(b' '), 65 << 20);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    std::io::copy(&mut zeros, &mut gzip).unwrap();
    let bomb = gzip.finish().unwrap();
    assert!(bomb.len() < 100_000, "{}", bomb.len());
    let cut = bomb[..100].to_vec();
    for payload in [bomb, cut] {
        broker.publish_message(foreign(&broker, payload, "").header("Content-Encoding", "gzip")).await;
    }
    let errors = errors(&broker, "accept").await;
    assert_eq!(errors.len(), 2);
    let too_large = "the payload cannot be decompressed with gzip: it has more than 67108864 bytes decompressed";
    assert_eq!(errors[0], too_large);
    assert!(errors[1].starts_with("the payload cannot be decompressed with gzip: "), "{}", errors[1]);
}

#[derive(Debug, Deserialize)]
struct Cart {
    items: Vec<Order>,
}

async fn error_of_a_payload_names_its_path(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<all>()).await;
    let ids = record!(broker, "carts", |cart: Cart| cart.items.iter().map(|order| order.id).sum::<u64>());
    let cart = serde_json::json!({ "items": [{ "id": 1 }, { "id": "two" }] });
    broker.publish("orders.created", &cart).await;
    broker.publish("orders.created", &MessagePack(&cart)).await;
    broker.publish("orders.created", &Cbor(&cart)).await;
    let errors = errors(&broker, "carts").await;
    assert_eq!(errors.len(), 3);
    for (error, format) in errors.iter().zip(["JSON", "MessagePack", "CBOR"]) {
        assert!(error.starts_with(&format!("the payload is not valid {format} for `")), "{error}");
        assert!(error.contains("Cart`: items[1].id: "), "{error}");
    }
    assert!(errors[0].contains("invalid type: string \"two\", expected u64"), "{}", errors[0]);
    assert!(errors[0].ends_with(" at line 1 column 30"), "{}", errors[0]);
    assert!(ids.is_empty());
}

async fn marker_reaches_no_payload_in_a_format(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<all>()).await;
    let protobuf = record!(broker, "protobuf", |_parcel: Protobuf<Parcel>| ());
    let raw = record!(broker, "raw", |_bytes: Raw<Bytes>| ());
    let result = record!(broker, "result", |order: Result<Order, Rejection>| order.is_ok());
    let optional = record!(broker, "optional", |order: Option<MessagePack<Order>>| order.is_some());
    broker.publish_message(foreign(&broker, "", "").header("KV-Operation", "DEL")).await;
    optional.until_len(1).await;
    // An empty payload alone is no marker, and a value of Protobuf.
    broker.publish_message(foreign(&broker, "", "")).await;
    optional.until_len(2).await;
    broker.idle().await;
    assert_eq!(optional.items(), [false, false]);
    assert_eq!((protobuf.len(), raw.len()), (1, 1));
    assert_eq!(result.items(), [false]);
    assert!(broker.dead_letters().await.is_empty());
}

async fn rejection_is_passed_to_the_handler(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<all>()).await;
    let seen = Recorder::<Option<u64>>::default();
    let note = seen.clone();
    let handler = move |order: Result<Order, Rejection>, tenant: Result<Tenant, Rejection>| {
        note.add(order.as_ref().ok().map(|order| order.id));
        let (order, tenant) = (order.map(drop), tenant.map(drop));
        async move {
            order?;
            tenant?;
            Ok(())
        }
    };
    drop(broker.broker().subscribe("orders.created", "results", handler).await.unwrap());
    broker.publish_message(message(&broker, &order(1)).header("Tenant", "acme")).await;
    broker.publish_message(foreign(&broker, "no order", "")).await;
    broker.publish_message(message(&broker, &order(3))).await;
    seen.until_len(3).await;
    let letters = broker.dead_letters().await;
    assert_eq!(seen.items(), [Some(1), None, Some(3)]);
    let told: Vec<_> = letters.iter().map(|letter| (letter.reason.as_str(), letter.delivered)).collect();
    // The handler was called once for each, and returned an error.
    assert_eq!(told, [("error", 1), ("error", 1)]);
    assert!(letters[0].error.contains("`no order` is not valid JSON"), "{}", letters[0]);
    assert_eq!(letters[1].error, "header `Tenant` is missing");
}

#[derive(Debug)]
struct Tenant(String);

impl FromMessage for Tenant {
    fn from_message(message: &Message, _: &jetstream_handlers::Context) -> Result<Self, Rejection> {
        match message.header("Tenant") {
            None => Err(Rejection::missing("header `Tenant` is missing")),
            Some("") => Err(Rejection::new("header `Tenant` is empty")),
            Some(tenant) => Ok(Self(tenant.to_owned())),
        }
    }
}

async fn missing_parameter_is_none(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<all>()).await;
    let tenants = record!(broker, "tenants", |tenant: Option<Tenant>| tenant.map(|Tenant(name)| name));
    let states = record!(broker, "states", |state: Option<State<u64>>| state.is_some());
    broker.publish("orders.created", &order(1)).await;
    for tenant in ["acme", ""] {
        broker.publish_message(message(&broker, &order(2)).header("Tenant", tenant)).await;
    }
    states.until_len(3).await;
    broker.idle().await;
    assert_eq!(tenants.items(), [None, Some("acme".to_owned())]);
    assert_eq!(states.items(), [false; 3]);
    assert_eq!(errors(&broker, "tenants").await, ["header `Tenant` is empty"]);
}

async fn content_type_of_the_caller_is_kept(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<accept>()).await;
    let own = "application/vnd.acme.order+cbor";
    broker.publish_message(message(&broker, &Cbor(order(1))).header("Content-Type", own)).await;
    broker.idle().await;
    broker.handled::<accept>().once();
    assert_eq!(content_types(&broker).await, [Some(own.to_owned())]);
    assert!(broker.dead_letters().await.is_empty());
}

//! Events: types that know their subject and their message id, and enums of them.

use std::collections::BTreeSet;

use jetstream_handlers::prelude::*;
use jetstream_handlers::testing::TestBroker;
use jetstream_handlers::{CborCodec, ErrorKind, JsonCodec, MessagePackCodec, Reason, stream};
use jetstream_handlers_tests::{Recorder, stream_config};
use serde::{Deserialize, Serialize};

use crate::Transport;

contract![
    event_has_its_subject_and_id,
    events_of_different_types_have_ids_of_their_own,
    field_that_is_no_token_is_not_published,
    enum_is_told_apart_by_the_subject,
    enum_is_told_apart_by_a_header,
    enum_is_told_apart_by_a_tag,
    delete_marker_is_no_event,
    returned_events_are_published,
    variant_has_the_version_of_its_event,
    event_has_its_codec,
    variant_has_the_codec_of_its_event,
    codec_of_an_event_differs_from_that_of_the_broker,
    event_has_the_partition_that_the_server_computes,
];

#[derive(Debug, Clone, PartialEq, Event, Serialize, Deserialize)]
#[event(subject = "events.{region}.created", id = "id", version = 2)]
struct Created {
    id: u64,
    region: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Payment {
    order: u64,
}

/// Fields may have the names of keywords.
#[derive(Debug, Clone, PartialEq, Event, Serialize, Deserialize)]
#[serde(untagged)]
#[event(subject = "keywords.{type}", id = "type")]
enum Keywords {
    Named { r#type: u64 },
}

#[derive(Debug, Clone, PartialEq, Event)]
enum Shop {
    Created(Created),
    #[event(subject = "events.{order}.paid", id = "order")]
    Paid(Payment),
}

#[derive(Debug, Clone, PartialEq, Event)]
#[event(subject = "headed.events", header = "Event-Type")]
enum Headed {
    #[event(name = "created")]
    New(Created),
    Paid(Payment),
}

#[derive(Debug, Clone, PartialEq, Event, Serialize, Deserialize)]
#[serde(tag = "type")]
#[event(subject = "tagged.{order}", id = "order")]
enum Tagged {
    Paid { order: u64 },
    Refunded(Payment),
}

#[derive(Debug, Event, Serialize, Deserialize)]
#[event(subject = "events.{partition}.shipped", key = "customer", partitions = 12)]
struct Shipped {
    customer: String,
}

fn created(id: u64) -> Created {
    Created { id, region: "eu".to_owned() }
}

#[subscriber(event = Created, queue = "created")]
async fn on_created(event: Created, headers: Headers, info: Info) {
    assert_eq!((headers.get("Event-Version"), headers.get("Nats-Msg-Id")), (Some("2"), Some("events.eu.created:7")));
    assert_eq!((event, info.stream()), (created(7), "EVENTS"));
}

#[subscriber(event = Shop, queue = "shop")]
async fn on_shop(event: Shop) {
    assert!(matches!(event, Shop::Created(Created { id: 1, .. }) | Shop::Paid(Payment { order: 2 })), "{event:?}");
}

#[subscriber(event = Headed, queue = "headed")]
async fn on_headed(event: Headed, headers: Headers) {
    let name = headers.get("Event-Type").unwrap().to_owned();
    match event {
        Headed::New(event) => assert_eq!((name.as_str(), event.id), ("created", 1)),
        Headed::Paid(event) => assert_eq!((name.as_str(), event.order), ("Paid", 2)),
    }
}

#[subscriber(event = Tagged, queue = "tagged")]
async fn on_tagged(event: Tagged, Path(order): Path<u64>) {
    match event {
        Tagged::Paid { order: paid } => assert_eq!((order, paid), (1, 1)),
        Tagged::Refunded(payment) => assert_eq!((order, payment.order), (2, 2)),
    }
}

async fn event_has_its_subject_and_id(transport: &Transport) {
    assert_eq!(Created::PATTERN, "events.{region}.created");
    let keyword = Keywords::Named { r#type: 7 };
    assert_eq!((keyword.subject().unwrap().as_str(), keyword.message_id().as_deref()), ("keywords.7", Some("7")));
    assert_eq!(Shop::PATTERNS, ["events.{region}.created", "events.{order}.paid"]);
    let broker = transport.start(TestBroker::builder().include::<on_created>()).await;
    assert!(!broker.broker().send(&created(7)).await.unwrap().duplicate);
    assert!(broker.broker().publisher().send(&created(7)).await.unwrap().duplicate);
    broker.idle().await;
    broker.handled::<on_created>().once().with(&created(7)).settled(Settle::Ack);
}

async fn events_of_different_types_have_ids_of_their_own(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<on_shop>()).await;
    for event in [Shop::Created(created(1)), Shop::Paid(Payment { order: 1 }), Shop::Created(created(2))] {
        assert!(!broker.broker().send(&event).await.unwrap().duplicate, "{event:?}");
    }
}

async fn field_that_is_no_token_is_not_published(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<on_created>()).await;
    for region in ["", "a.b", "a b", ">"] {
        let event = Created { region: region.to_owned(), ..created(7) };
        let error = broker.broker().send(&event).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Encode, "{error}");
        let expected = format!("`region` of the event's subject `events.{{region}}.created` is `{region}`, which ");
        assert!(error.to_string().starts_with(&expected), "{error}");
    }
}

async fn enum_is_told_apart_by_the_subject(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<on_shop>()).await;
    broker.broker().send(&Shop::Created(created(1))).await.unwrap();
    broker.broker().send(&Shop::Paid(Payment { order: 2 })).await.unwrap();
    // The payload is that of the variant.
    broker.publish("events.2.paid", &Payment { order: 2 }).await;
    broker.publish("events.2.deleted", &Payment { order: 2 }).await;
    broker.publish("events.eu.created", "text").await;
    broker.handled::<on_shop>().times(4);
    let letters = broker.dead_letters().await;
    assert_eq!((letters.len(), letters[0].reason), (1, Reason::Undecodable), "{letters:?}");
}

async fn enum_is_told_apart_by_a_header(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<on_headed>()).await;
    broker.broker().send(&Headed::New(created(1))).await.unwrap();
    broker.broker().send(&Headed::Paid(Payment { order: 2 })).await.unwrap();
    let message = || broker.broker().publish_message("headed.events", &created(1));
    message().header("Event-Type", "refunded").await.unwrap();
    message().await.unwrap();
    broker.idle().await;
    let letters = broker.dead_letters().await;
    let texts: Vec<_> = letters.iter().map(|letter| letter.error.as_str()).collect();
    assert_eq!(
        texts,
        [
            "no event has the name `refunded` (header `Event-Type`); the names are `created`, `Paid`",
            "header `Event-Type` is missing, which names the event: `created`, `Paid`",
        ]
    );
}

async fn enum_is_told_apart_by_a_tag(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<on_tagged>()).await;
    broker.broker().send(&Tagged::Paid { order: 1 }).await.unwrap();
    broker.broker().send(&Tagged::Refunded(Payment { order: 2 })).await.unwrap();
    broker.publish("tagged.3", &serde_json::json!({ "type": "Lost", "order": 3 })).await;
    broker.handled::<on_tagged>().times(3);
    let letters = broker.dead_letters().await;
    assert_eq!(letters.len(), 1);
    assert!(letters[0].error.contains("unknown variant `Lost`, expected `Paid` or `Refunded`"), "{}", letters[0].error);
}

async fn delete_marker_is_no_event(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<on_shop>().include::<on_created>()).await;
    let publisher = broker.broker().publisher();
    publisher.publish_bytes("events.eu.created", "").header("KV-Operation", "DEL").await.unwrap();
    broker.idle().await;
    broker.handled::<on_shop>().never();
    broker.handled::<on_created>().never();
    assert!(broker.dead_letters().await.is_empty());
}

#[derive(Debug, Clone, PartialEq, Event, Serialize, Deserialize)]
#[event(subject = "shipments.{id}.sent", id = "id")]
struct Sent {
    id: u64,
}

#[derive(Debug, Clone, PartialEq, Event, Serialize, Deserialize)]
#[event(subject = "reports.{name}")]
struct Report {
    name: String,
}

#[subscriber(event = Created, queue = "ship")]
async fn ship(event: Created) -> HandlerResult<(Sent, Option<Report>)> {
    let report = (event.id != 1).then(|| Report { name: if event.id == 2 { "two".into() } else { "a b".into() } });
    Ok((Sent { id: event.id }, report))
}

async fn returned_events_are_published(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<ship>()).await;
    for id in [1, 2, 3] {
        broker.broker().send(&created(id)).await.unwrap();
    }
    broker.idle().await;
    let sent = broker.published_messages("shipments.>").await;
    let sent: Vec<_> = sent.iter().map(|it| (it.subject(), it.header("Nats-Msg-Id").unwrap())).collect();
    let expected = [("shipments.1.sent", "shipments.1.sent:1"), ("shipments.2.sent", "shipments.2.sent:2")];
    assert_eq!(sent, expected, "nothing of a call is published if one of its events cannot be");
    assert_eq!(broker.published::<Report>("reports.>").await, [Report { name: "two".to_owned() }]);
    let letters = broker.dead_letters().await;
    assert_eq!(letters.len(), 1, "{letters:?}");
    assert!(
        letters[0].error.contains("`name` of the event's subject `reports.{name}` is `a b`"),
        "{}",
        letters[0].error
    );
}

#[subscriber(event = Shop, queue = "versions")]
async fn on_versions(event: Result<Shop, Rejection>, headers: Headers) {
    let expected = if matches!(event, Ok(Shop::Created(_))) { Some("2") } else { None };
    assert_eq!(headers.get("Event-Version"), expected);
}

async fn variant_has_the_version_of_its_event(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<on_versions>()).await;
    broker.broker().send(&Shop::Created(created(1))).await.unwrap();
    broker.broker().send(&Shop::Paid(Payment { order: 2 })).await.unwrap();
    let publisher = broker.broker().publisher();
    publisher.publish_bytes("events.eu.created", "").header("KV-Operation", "DEL").await.unwrap();
    broker.idle().await;
    broker.handled::<on_versions>().times(2).settled(Settle::Ack);
}

#[derive(Debug, Clone, PartialEq, Event, Serialize, Deserialize)]
#[event(subject = "packed.{id}.created", id = "id", codec = MessagePackCodec)]
struct Packed {
    id: u64,
}

#[derive(Debug, Clone, PartialEq, Event)]
enum PackedOrPlain {
    Packed(Packed),
    #[event(subject = "packed.{order}.paid", id = "order", codec = CborCodec)]
    Paid(Payment),
    #[event(subject = "packed.{order}.refunded", id = "order")]
    Refunded(Payment),
}

#[derive(Debug, Clone, PartialEq, Event)]
#[event(subject = "packed-headed", header = "Event-Type", codec = CborCodec)]
enum PackedHeaded {
    Paid(Payment),
}

/// The `Content-Type` and the payload of the messages on a subject.
async fn formats(broker: &TestBroker, subject: &str) -> Vec<(Option<String>, Vec<u8>)> {
    let messages = broker.published_messages(subject).await;
    messages.iter().map(|it| (it.header("Content-Type").map(str::to_owned), it.payload().to_vec())).collect()
}

#[subscriber(event = Packed, queue = "pack", backoff = ["10ms"])]
async fn pack(event: Packed) -> HandlerResult<(Option<Packed>, PackedHeaded)> {
    let again = (event.id < 7).then(|| Packed { id: event.id + 1 });
    Ok((again, PackedHeaded::Paid(Payment { order: event.id })))
}

#[subscriber(event = Packed, queue = "pack-optional")]
async fn pack_optional(event: Result<Option<Packed>, Rejection>) {
    assert!(matches!(event, Ok(Some(Packed { id: 6 | 7 }))), "{event:?}");
}

#[subscriber(event = Packed, queue = "pack-batch", batch = 10)]
async fn pack_batch(events: Batch<Packed>) {
    assert!(events.iter().all(|event| matches!(event, Packed { id: 6 | 7 })));
}

#[subscriber(event = PackedHeaded, queue = "pack-headed")]
async fn pack_headed(PackedHeaded::Paid(payment): PackedHeaded) {
    assert!(matches!(payment.order, 6 | 7), "{payment:?}");
}

async fn event_has_its_codec(transport: &Transport) {
    let builder = TestBroker::builder().include::<pack>().include::<pack_optional>().include::<pack_batch>();
    let broker = transport.start(builder.include::<pack_headed>()).await;
    broker.broker().send(&Packed { id: 6 }).await.unwrap();
    broker.idle().await;
    let packed = |id: u8| (Some("application/msgpack".to_owned()), vec![0x81, 0xa2, b'i', b'd', id]);
    assert_eq!(formats(&broker, "packed.>").await, [packed(6), packed(7)], "sent and returned");
    let paid = |id: u8| (Some("application/cbor".to_owned()), [b"\xa1\x65order".to_vec(), vec![id]].concat());
    assert_eq!(formats(&broker, "packed-headed").await, [paid(6), paid(7)]);
    // What others publish without a content type is in the format of the event.
    broker.broker().publisher().publish_bytes("packed.7.created", vec![0x81, 0xa2, b'i', b'd', 7]).await.unwrap();
    // A content type has precedence.
    let json = broker.broker().publisher().publish_bytes("packed.7.created", r#"{"id":7}"#);
    json.header("Content-Type", "application/json").await.unwrap();
    broker.idle().await;
    broker.handled::<pack>().times(4).settled(Settle::Ack);
    broker.handled::<pack_optional>().times(4).settled(Settle::Ack);
    broker.handled::<pack_headed>().times(4).settled(Settle::Ack);
    assert!(broker.dead_letters().await.is_empty());
}

#[subscriber(event = PackedOrPlain, queue = "pack-variants")]
async fn pack_variants(event: PackedOrPlain) {
    let (PackedOrPlain::Packed(Packed { id }) | PackedOrPlain::Paid(Payment { order: id })) = event else {
        assert_eq!(event, PackedOrPlain::Refunded(Payment { order: 3 }));
        return;
    };
    assert!(matches!(id, 1 | 2));
}

async fn variant_has_the_codec_of_its_event(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<pack_variants>()).await;
    let send = async |event: PackedOrPlain| broker.broker().send(&event).await.unwrap();
    send(PackedOrPlain::Packed(Packed { id: 1 })).await;
    send(PackedOrPlain::Paid(Payment { order: 2 })).await;
    send(PackedOrPlain::Refunded(Payment { order: 3 })).await;
    let types = formats(&broker, "packed.>").await.into_iter().map(|(content_type, _)| content_type);
    let types: Vec<_> = types.collect();
    assert_eq!(
        types.iter().map(Option::as_deref).collect::<Vec<_>>(),
        [Some("application/msgpack"), Some("application/cbor"), None]
    );
    let publisher = broker.broker().publisher();
    publisher.publish_bytes("packed.1.created", vec![0x81, 0xa2, b'i', b'd', 1]).await.unwrap();
    broker.idle().await;
    broker.handled::<pack_variants>().times(4).settled(Settle::Ack);
}

#[derive(Debug, Clone, PartialEq, Event, Serialize, Deserialize)]
#[event(subject = "plain.{id}.created", id = "id", codec = JsonCodec)]
struct Plain {
    id: u64,
}

#[subscriber(event = Plain, queue = "plain")]
async fn plain(event: Plain) -> HandlerResult<Option<Plain>> {
    Ok((event.id < 7).then_some(Plain { id: 7 }))
}

async fn codec_of_an_event_differs_from_that_of_the_broker(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().codec(MessagePackCodec).include::<plain>()).await;
    broker.broker().send(&Plain { id: 6 }).await.unwrap();
    // Without a content type it is JSON, because the event says so.
    broker.broker().publisher().publish_bytes("plain.7.created", r#"{"id":7}"#).await.unwrap();
    broker.idle().await;
    let json = |id: u8| (Some("application/json".to_owned()), format!(r#"{{"id":{id}}}"#).into_bytes());
    let mut found = formats(&broker, "plain.>").await;
    found.sort();
    assert_eq!(found, [(None, br#"{"id":7}"#.to_vec()), json(6), json(7)]);
    broker.handled::<plain>().times(3).settled(Settle::Ack);
}

async fn event_has_the_partition_that_the_server_computes(transport: &Transport) {
    assert_eq!((Shipped::PARTITIONS, Created::PARTITIONS), (Some(12), None));
    let destination = "mapped.{{partition(12,1)}}".to_owned();
    let transform = stream::SubjectTransform { source: "in.*".to_owned(), destination };
    let mapped = stream::Config { subject_transform: Some(transform), ..stream_config("MAPPED", &["in.*"]) };
    let broker = transport.start(TestBroker::builder().include::<on_shop>().stream(mapped)).await;
    let broker = broker.broker();
    let record = |subject: &'static str, queue: &'static str| {
        let partitions = Recorder::default();
        let recorder = partitions.clone();
        let handler = move |Path(partition): Path<u32>, shipped: Shipped| {
            recorder.add((shipped.customer, partition));
            std::future::ready(())
        };
        (partitions, broker.subscribe(subject, queue, handler).into_future())
    };
    let (of_events, events) = record("events.{partition}.shipped", "events");
    let (of_server, mapped) = record("mapped.{partition}", "mapped");
    let _subscriptions = (events.await.unwrap(), mapped.await.unwrap());
    for number in 0..50 {
        let shipped = Shipped { customer: format!("customer-{number}-台北") };
        broker.send(&shipped).await.unwrap();
        broker.publish(&format!("in.{}", shipped.customer), &shipped).await.unwrap();
    }
    of_events.until_len(50).await;
    of_server.until_len(50).await;
    assert_eq!(of_events.items(), of_server.items());
    let partitions = of_events.items().into_iter().map(|(_, partition)| partition);
    assert_eq!(partitions.collect::<BTreeSet<_>>(), (0..12).collect());
}

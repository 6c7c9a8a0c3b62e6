//! Documents in the format AsyncAPI, of a service with every kind of handler and event.

#![allow(clippy::unwrap_used, reason = "tests may panic")]
#![allow(dead_code, reason = "the fields of payloads are only described")]

use std::borrow::Cow;
use std::collections::BTreeSet;

use bytes::Bytes;
use jetstream_handlers::asyncapi::{AsyncApi, ServiceInfo, Severity, diff, read};
use jetstream_handlers::prelude::*;
use jetstream_handlers::{Cbor, Json, MessagePack, MessagePackCodec, Outputs, Protobuf, Raw, stream};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// An order of a customer.
#[derive(Debug, Clone, Event, Serialize, Deserialize, JsonSchema)]
#[event(subject = "orders.{id}.created", id = "id", version = 2)]
struct OrderCreated {
    id: u64,
    customer: Option<String>,
    /// Absent in messages of earlier versions.
    #[serde(default)]
    lines: Vec<Line>,
}

#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
struct Line {
    article: String,
    count: u32,
    /// The parts of a set.
    parts: Vec<Line>,
}

#[derive(Serialize, Deserialize, JsonSchema)]
struct Payment {
    order: u64,
}

#[derive(Event, JsonSchema)]
enum OrderEvent {
    Created(OrderCreated),
    #[event(subject = "orders.{order}.paid", id = "order")]
    Paid(Payment),
}

#[derive(Event)]
#[event(subject = "stock.events", header = "Event-Type")]
enum StockEvent {
    Taken(Line),
    #[event(name = "given-back")]
    GivenBack(Payment),
}

#[derive(Event, Serialize, Deserialize, JsonSchema)]
#[event(subject = "notices", codec = MessagePackCodec)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Notice {
    Mail { to: String },
    Call { number: u64 },
}

/// Confirms an order.
#[derive(Event, Serialize, JsonSchema)]
#[event(subject = "orders.{id}.confirmed")]
struct Confirmed {
    id: u64,
}

/// Has no schema, and the name of a trait by which the expansion chooses.
#[derive(Event, Serialize, Deserialize)]
#[event(subject = "plain.things")]
struct Plain {
    id: u64,
}

mod other {
    use super::{Deserialize, JsonSchema, Serialize};

    #[derive(Serialize, Deserialize, JsonSchema)]
    pub(crate) struct Line {
        pub(crate) text: String,
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct Scan {
    #[prost(uint64, tag = "1")]
    id: u64,
}

/// Bills an order.
///
/// Orders without lines are free.
#[subscriber(event = OrderCreated, queue = "billing", group = "money", key = "customer", concurrency = 4, dead_letter = "dlq.billing")]
async fn bill(order: OrderCreated) -> HandlerResult<Confirmed> {
    Ok(Confirmed { id: order.id })
}

#[subscriber(subject = "orders.*.created", queue = "statistics", backoff = { initial = "1s", factor = 2.0, max = "10s" })]
async fn count(order: Result<Json<OrderCreated>, Rejection>) {
    drop(order);
}

#[subscriber(event = OrderEvent, queue = "audit", ordered)]
async fn audit(event: OrderEvent) {
    drop(event);
}

#[subscriber(event = StockEvent, queue = "stock", batch = 10)]
async fn stock(events: Batch<StockEvent>) {
    drop(events);
}

#[subscriber(event = Notice, queue = "notices")]
async fn notify(notice: Notice) {
    drop(notice);
}

#[subscriber(subject = "meters.{room..}", queue = "meters", batch = 10, publish = "meters-stored.lines")]
async fn store(readings: Batch<Json<Line>>) -> Vec<HandlerResult<Payment>> {
    readings.iter().map(|_| Err("no order".into())).collect()
}

#[subscriber(subject = "carts.filled", queue = "orders", publish = "carts.ordered")]
async fn order(cart: Option<other::Line>) -> HandlerResult<Option<Vec<Line>>> {
    Ok(cart.map(|_| Vec::new()))
}

#[subscriber(subject = "carts.emptied", queue = "outputs", publish = "carts.gone")]
async fn outputs(cart: Cbor<(u64, String)>) -> HandlerResult<Outputs> {
    drop(cart);
    Ok(Outputs::new())
}

#[subscriber(subject = "notes.written", queue = "notes", publish = "notes.kept")]
async fn keep(note: Raw<&str>) -> HandlerResult<Raw<Bytes>> {
    Ok(Raw(note.0.to_owned().into()))
}

#[subscriber(subject = "scans.made", queue = "scans", dead_letter = false)]
async fn scan(scan: Protobuf<Scan>) {
    let _ = scan;
}

#[subscriber(subject = "plain.things", queue = "plain")]
async fn plain(thing: MessagePack<Plain>) {
    let _ = thing;
}

#[subscriber(subject = ["logs.a", "logs.b.>"], queue = "logs")]
async fn any(message: Message, tenant: Tenant) {
    drop((message, tenant.0));
}

/// A note that borrows from its message.
#[derive(Serialize, Deserialize, JsonSchema)]
struct NoteView<'a> {
    #[serde(borrow)]
    text: Cow<'a, str>,
}

#[subscriber(subject = "notes.viewed", queue = "views")]
async fn view(note: NoteView<'_>) {
    drop(note);
}

/// A parameter that is made from a header, so that its schema is not that of a payload.
#[derive(JsonSchema)]
struct Tenant(String);

impl FromMessage for Tenant {
    fn from_message(_: &Message, _: &jetstream_handlers::Context) -> Result<Self, Rejection> {
        Ok(Self(String::new()))
    }
}

async fn document() -> AsyncApi {
    let info =
        ServiceInfo::new("orders", "1.2.0").description("Handles orders.").server("local", "nats://a:b@localhost:4222");
    Broker::in_memory().asyncapi(info).await.unwrap()
}

/// Returns what a reference leads to.
fn resolve<'a>(document: &'a Value, reference: &str) -> Option<&'a Value> {
    document.pointer(reference.strip_prefix('#')?)
}

fn references(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(object) => {
            found.extend(object.get("$ref").and_then(Value::as_str).map(str::to_owned));
            object.values().for_each(|value| references(value, found));
        }
        Value::Array(values) => values.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}

/// Returns the payloads of an operation's messages, by the names of the messages.
fn payloads(document: &Value, operation: &str) -> Vec<(String, Value)> {
    let messages = document["operations"][operation]["messages"].as_array().unwrap_or_else(|| panic!("{operation}"));
    let message = |message: &Value| {
        let in_channel = resolve(document, message["$ref"].as_str().unwrap()).unwrap();
        let message = resolve(document, in_channel["$ref"].as_str().unwrap()).unwrap();
        (message["name"].as_str().unwrap().to_owned(), message["payload"].clone())
    };
    messages.iter().map(message).collect()
}

/// Returns the messages of an operation.
fn messages(document: &Value, operation: &str) -> Vec<Value> {
    let messages = document["operations"][operation]["messages"].as_array().unwrap_or_else(|| panic!("{operation}"));
    let message = |message: &Value| {
        let in_channel = resolve(document, message["$ref"].as_str().unwrap()).unwrap();
        resolve(document, in_channel["$ref"].as_str().unwrap()).unwrap().clone()
    };
    messages.iter().map(message).collect()
}

#[track_caller]
fn assert_valid(document: &Value, schema: &Value, payload: &Value, is_valid: bool) {
    let mut root = json!({ "components": document["components"] });
    root["allOf"] = json!([schema]);
    let validator = jsonschema::draft7::new(&root).unwrap();
    let errors: Vec<_> = validator.iter_errors(payload).map(|error| error.to_string()).collect();
    assert_eq!(errors.is_empty(), is_valid, "{payload} with {schema}: {errors:?}");
}

#[tokio::test]
async fn document_is_valid_by_the_published_schema() {
    let schema: Value = serde_json::from_str(include_str!("../asyncapi/3.1.0.json")).unwrap();
    let validator = jsonschema::draft7::new(&schema).unwrap();
    let document = document().await;
    let errors: Vec<_> =
        validator.iter_errors(document.as_value()).map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert!(errors.is_empty(), "{}\n{}", errors.join("\n"), document.to_json());
    // So that it is known to find mistakes.
    let mut wrong = document.as_value().clone();
    wrong["operations"]["asyncapi.bill"]["action"] = "handle".into();
    assert!(!validator.is_valid(&wrong));
}

#[tokio::test]
async fn every_reference_leads_to_something() {
    let document = document().await;
    let mut found = Vec::new();
    references(document.as_value(), &mut found);
    assert!(found.len() > 50, "{}", found.len());
    for reference in found {
        assert!(resolve(document.as_value(), &reference).is_some(), "{reference}");
    }
    for (id, operation) in document.as_value()["operations"].as_object().unwrap() {
        let channel = operation["channel"]["$ref"].as_str().unwrap();
        for message in operation["messages"].as_array().into_iter().flatten() {
            assert!(message["$ref"].as_str().unwrap().starts_with(&format!("{channel}/messages/")), "{id}");
        }
    }
}

#[tokio::test]
async fn handler_is_an_operation_with_its_settings() {
    let document = document().await;
    let document = document.as_value();
    let bill = &document["operations"]["asyncapi.bill"];
    assert_eq!(bill["action"], "receive");
    assert_eq!(bill["description"], "Bills an order.\n\nOrders without lines are free.");
    assert_eq!(bill["tags"], json!([{ "name": "money" }]));
    assert_eq!(bill["bindings"]["nats"], json!({ "queue": "billing", "bindingVersion": "0.1.0" }));
    let mut settings = bill["x-jetstream"].clone();
    let location = settings.as_object_mut().unwrap().remove("location").unwrap();
    assert!(location.as_str().unwrap().contains("tests/asyncapi.rs:"), "{location}");
    let expected = json!({
        "stream": "ORDERS", "consumer": "billing", "filterSubjects": ["orders.*.created"], "ackWaitSeconds": 30.0,
        "maxDeliver": 5, "backoffSeconds": [1.0, 5.0, 30.0, 120.0], "deadLetter": "dlq.billing", "concurrency": 4,
        "key": "customer", "group": "money",
    });
    assert_eq!(settings, expected);
    let count = &document["operations"]["asyncapi.count"];
    assert_eq!(count["x-jetstream"]["backoffSeconds"], json!([1.0, 2.0, 4.0, 8.0]));
    assert_eq!(count["channel"], bill["channel"], "two handlers of one subject");
    assert_eq!(document["channels"]["orders.id.created"]["address"], "orders.{id}.created");
    assert_eq!(
        document["channels"]["orders.id.created"]["parameters"]["id"]["description"],
        "one token of the subject"
    );
    assert_eq!(document["operations"]["asyncapi.audit.orders.order.paid"]["x-jetstream"]["ordered"], true);
    assert_eq!(document["operations"]["asyncapi.stock"]["x-jetstream"]["batch"], 10);
    assert_eq!(document["operations"]["asyncapi.scan"]["x-jetstream"]["deadLetter"], false);
    assert!(document["operations"].get("asyncapi.scan.dead_letters").is_none());
    let letters = &document["operations"]["asyncapi.notify.dead_letters"];
    assert_eq!(letters["channel"]["$ref"], "#/channels/dlq.NOTICES.notices");
    assert_eq!(document["channels"]["meters.room"]["address"], "meters.{room}");
    assert_eq!(document["operations"]["asyncapi.any.logs.b._"]["channel"]["$ref"], "#/channels/logs.b.rest");
    assert_eq!(document["x-jetstream-streams"]["ORDERS"]["subjects"], json!(["orders.>"]));
    assert_eq!(document["servers"], json!({ "local": { "host": "localhost:4222", "protocol": "nats" } }));
}

#[tokio::test]
async fn messages_have_the_format_and_the_headers_of_their_type() {
    let document = document().await;
    let document = document.as_value();
    let content_types = |operation: &str| -> Vec<_> {
        messages(document, operation).iter().map(|it| it["contentType"].as_str().unwrap().to_owned()).collect()
    };
    for (operation, content_type) in [
        ("asyncapi.bill", "application/json"),
        ("asyncapi.notify", "application/msgpack"),
        ("asyncapi.outputs", "application/cbor"),
        ("asyncapi.keep", "text/plain"),
        ("asyncapi.keep.publish", "application/octet-stream"),
        ("asyncapi.scan", "application/protobuf"),
        ("asyncapi.plain", "application/msgpack"),
    ] {
        assert_eq!(content_types(operation), [content_type], "{operation}");
    }
    let created = &messages(document, "asyncapi.OrderCreated.send")[0];
    assert_eq!(created["headers"]["properties"]["Event-Version"]["const"], "2");
    assert_eq!(created["description"], "An order of a customer.");
    let stock = messages(document, "asyncapi.stock");
    let names: Vec<_> = stock.iter().map(|it| &it["headers"]["properties"]["Event-Type"]["const"]).collect();
    assert_eq!(names, ["Taken", "given-back"]);
    assert_eq!(stock[0]["headers"]["required"], json!(["Event-Type"]));
    // One operation for each subject, with the messages of that subject.
    let paid = messages(document, "asyncapi.audit.orders.order.paid");
    assert_eq!(paid.iter().map(|it| &it["name"]).collect::<Vec<_>>(), ["Payment"]);
    // The event in a variant is sent once, as itself.
    assert!(document["operations"].get("asyncapi.OrderEvent.send").is_some());
    assert_eq!(document["operations"]["asyncapi.OrderEvent.send"]["channel"]["$ref"], "#/channels/orders.order.paid");
    // A handler of any message, and one with outputs that are known only after a call.
    assert!(document["operations"]["asyncapi.any.logs.a"].get("messages").is_none());
    assert!(document["operations"]["asyncapi.outputs.publish"].get("messages").is_none());
}

#[tokio::test]
async fn values_are_valid_by_their_schemas() {
    let document = document().await;
    let document = document.as_value();
    let line =
        Line { article: "screw".into(), count: 7, parts: vec![Line { article: "a".into(), count: 1, parts: vec![] }] };
    let order = json!(OrderCreated { id: 7, customer: None, lines: vec![line.clone()] });
    let values = [
        ("asyncapi.bill", order.clone()),
        ("asyncapi.OrderCreated.send", order.clone()),
        ("asyncapi.count", order),
        ("asyncapi.store", json!(line)),
        ("asyncapi.store.publish", json!(Payment { order: 7 })),
        ("asyncapi.order", json!(other::Line { text: "a".into() })),
        ("asyncapi.order", json!(None::<other::Line>)),
        ("asyncapi.order.publish", json!([line])),
        ("asyncapi.audit.orders.order.paid", json!(Payment { order: 7 })),
        ("asyncapi.notify", json!(Notice::Mail { to: "ada".into() })),
        ("asyncapi.Notice.send", json!(Notice::Call { number: 7 })),
        ("asyncapi.outputs", json!([7, "x"])),
        ("asyncapi.view", json!(NoteView { text: "a".into() })),
        ("asyncapi.Confirmed.send", json!(Confirmed { id: 7 })),
    ];
    for (operation, value) in values {
        let payloads = payloads(document, operation);
        assert_eq!(payloads.len(), 1, "{operation}");
        assert_valid(document, &payloads[0].1, &value, true);
        assert_valid(document, &payloads[0].1, &json!({ "wrong": 7, "text": 7 }), false);
    }
    // What is received may lack a field with a default, and what is sent has it.
    let earlier = json!({ "id": 7 });
    assert_valid(document, &payloads(document, "asyncapi.bill")[0].1, &earlier, true);
    assert_valid(document, &payloads(document, "asyncapi.OrderCreated.send")[0].1, &earlier, false);
}

#[tokio::test]
async fn payload_without_a_schema_is_listed() {
    let document = document().await;
    let expected = ["`asyncapi::Plain` of `asyncapi::Plain`", "`asyncapi::Plain` of `asyncapi::plain`"];
    assert_eq!(document.without_schema(), expected);
    assert!(payloads(document.as_value(), "asyncapi.plain")[0].1.is_null());
}

#[tokio::test]
async fn events_are_restricted_to_those_that_are_sent() {
    let broker = Broker::in_memory();
    broker.include::<bill>();
    let document = broker.asyncapi(ServiceInfo::new("orders", "1").sends::<Notice>()).await.unwrap();
    let ids: Vec<_> = document.as_value()["operations"].as_object().unwrap().keys().cloned().collect();
    // `Confirmed` is returned by the handler.
    let expected = ["asyncapi.Confirmed.send", "asyncapi.Notice.send", "asyncapi.bill", "asyncapi.bill.dead_letters"];
    assert_eq!(ids, expected);
}

#[tokio::test]
async fn texts_are_the_same_document() {
    let document = document().await;
    assert_eq!(&read(&document.to_json()).unwrap(), document.as_value());
    assert_eq!(serde_json::to_value(&document).unwrap(), *document.as_value());
    let other = self::document().await;
    assert_eq!((document.to_json(), document.to_yaml()), (other.to_json(), other.to_yaml()));
    assert!(document.to_json().starts_with("{\n  \"asyncapi\": \"3.1.0\",\n  \"info\": {\n    \"title\": \"orders\""));
    assert!(document.to_yaml().starts_with("asyncapi: \"3.1.0\"\ninfo:\n  title: \"orders\"\n  version: \"1.2.0\"\n"));
}

#[tokio::test]
async fn prefix_of_an_environment_is_part_of_every_subject() {
    let broker = Broker::builder().subject_prefix("staging").connect_in_memory();
    let document = broker.include::<bill>().asyncapi(ServiceInfo::new("orders", "1").sends::<Notice>()).await.unwrap();
    let document = document.as_value();
    let addresses: Vec<_> = document["channels"].as_object().unwrap().values().map(|it| &it["address"]).collect();
    assert!(addresses.iter().all(|it| it.as_str().unwrap().starts_with("staging.")), "{addresses:?}");
    assert_eq!(document["operations"]["asyncapi.bill"]["x-jetstream"]["stream"], "STAGING_ORDERS");
}

#[tokio::test]
async fn problems_of_a_start_are_returned() {
    #[subscriber(subject = "orders.state", queue = "state", broker = "incomplete")]
    async fn incomplete(_: State<u32>) {}

    let broker = Broker::builder().name("incomplete").connect_in_memory();
    let error = broker.asyncapi(ServiceInfo::new("orders", "1")).await.unwrap_err();
    assert!(error.to_string().contains("none was registered"), "{error}");
}

#[tokio::test]
async fn document_does_not_differ_from_itself() {
    let document = document().await;
    let changes = diff(document.as_value(), document.as_value());
    assert!(changes.is_empty(), "{changes:?}");
}

#[tokio::test]
async fn contract_lists_the_extensions() {
    let page = include_str!("../../jetstream-handlers/src/docs/contract.md");
    let listed = |row: &str| -> BTreeSet<String> {
        let row = page.lines().find(|line| line.starts_with(row)).unwrap();
        let fields = row.split(" | ").nth(1).unwrap();
        fields.split('`').skip(1).step_by(2).map(str::to_owned).collect()
    };
    let keys = |objects: &mut dyn Iterator<Item = &Value>| -> BTreeSet<String> {
        objects.flat_map(|object| object.as_object().into_iter().flat_map(|it| it.keys().cloned())).collect()
    };
    let aged =
        stream::Config { name: "AGED".into(), subjects: vec!["aged".into()], max_age: secs(60), ..Default::default() };
    let document =
        Broker::builder().stream(aged).connect_in_memory().asyncapi(ServiceInfo::new("orders", "1")).await.unwrap();
    let document = document.as_value();
    let operations = document["operations"].as_object().unwrap();
    let extensions = keys(&mut operations.values().map(|operation| &operation["x-jetstream"]));
    assert_eq!(extensions, listed("| `x-jetstream` of an operation |"));
    let streams = keys(&mut document["x-jetstream-streams"].as_object().unwrap().values());
    assert_eq!(streams, listed("| a stream in `x-jetstream-streams` |"));
    let changes = diff(document, &json!({}));
    let change = serde_json::to_value(&changes[0]).unwrap();
    assert_eq!(keys(&mut [&change].into_iter()), listed("| `asyncapi::Change`"));
    let severities = [Severity::Info, Severity::Dangerous, Severity::Breaking].map(|it| it.to_string());
    assert_eq!(BTreeSet::from(severities), listed("| `asyncapi::Severity` |"));
}

//! Spans and trace contexts for OpenTelemetry, on a real server: what an in-memory exporter receives.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

use std::collections::BTreeMap;
use std::future::IntoFuture as _;
use std::sync::OnceLock;

use jetstream_handlers::async_nats::HeaderMap;
use jetstream_handlers::{ErrorKind, PublishAck, PublishMessage, prelude::*, stream};
use jetstream_handlers_tests::{SOON, Server, assert_error, binary, connect, dead_letters, stream_config, worker};
use opentelemetry::propagation::TextMapPropagator as _;
use opentelemetry::trace::{SpanKind, Status, TraceId, TracerProvider as _};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider, SpanData};
use tracing::Instrument as _;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Returns the exporter of all spans of this process, whose subscriber has a layer for OpenTelemetry.
///
/// The tests run at the same time, so each looks only at the traces that it has begun.
fn exporter() -> &'static InMemorySpanExporter {
    static EXPORTER: OnceLock<InMemorySpanExporter> = OnceLock::new();
    EXPORTER.get_or_init(|| {
        let exporter = InMemorySpanExporter::default();
        let provider = SdkTracerProvider::builder().with_simple_exporter(exporter.clone()).build();
        let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("tests"));
        tracing_subscriber::registry().with(layer).init();
        exporter
    })
}

/// A trace that a test has begun outside of this process.
struct Trace(String);

impl Trace {
    fn new() -> Self {
        exporter();
        Self(format!("{:032x}", rand::random::<u128>()))
    }

    fn traceparent(&self) -> String {
        format!("00-{}-00f067aa0ba902b7-01", self.0)
    }

    /// Waits until these spans of the trace have ended, and returns all that have, in the order of their start.
    async fn spans(&self, names: &[&str]) -> Spans {
        let id = TraceId::from_hex(&self.0).unwrap();
        let ended = || {
            let spans = exporter().get_finished_spans().unwrap().into_iter();
            let mut spans: Vec<_> = spans.filter(|span| span.span_context.trace_id() == id).collect();
            spans.sort_by_key(|span| span.start_time);
            Spans(spans)
        };
        let mut expected = names.to_vec();
        expected.sort_unstable();
        let end = tokio::time::Instant::now() + SOON;
        loop {
            let spans = ended();
            let mut found: Vec<_> = spans.0.iter().map(|span| &*span.name).collect();
            found.sort_unstable();
            if found == expected {
                return spans;
            }
            assert!(tokio::time::Instant::now() < end, "expected the spans {expected:?}, found {found:?}");
            tokio::time::sleep(jetstream_handlers_tests::ms(5)).await;
        }
    }
}

impl Trace {
    /// Publishes a message in a span of this trace.
    async fn publish(&self, message: PublishMessage) -> PublishAck {
        let parent = format!("00-{}-00f067aa0ba902b7-01", self.0);
        let headers = std::collections::HashMap::from([("traceparent".to_owned(), parent)]);
        let span = tracing::info_span!("shop");
        span.set_parent(TraceContextPropagator::new().extract(&headers)).unwrap();
        message.into_future().instrument(span).await.unwrap()
    }
}

struct Spans(Vec<SpanData>);

impl Spans {
    /// Returns the spans of this name, in the order of their start.
    fn all(&self, name: &str) -> Vec<&SpanData> {
        self.0.iter().filter(|span| span.name == name).collect()
    }

    fn one(&self, name: &str) -> &SpanData {
        let found = self.all(name);
        assert_eq!(found.len(), 1, "spans of the name {name}");
        found[0]
    }
}

fn attributes(span: &SpanData) -> BTreeMap<String, String> {
    span.attributes.iter().map(|attribute| (attribute.key.to_string(), attribute.value.to_string())).collect()
}

#[track_caller]
fn assert_attributes(span: &SpanData, expected: &[(&str, &str)]) {
    let found = attributes(span);
    for (name, value) in expected {
        assert_eq!(found.get(*name).map(String::as_str), Some(*value), "{name} of {}: {found:#?}", span.name);
    }
}

#[track_caller]
fn assert_parent(child: &SpanData, parent: &SpanData) {
    assert_eq!(child.parent_span_id, parent.span_context.span_id(), "{} is no child of {}", child.name, parent.name);
}

/// Returns the trace context in the headers of a stored message.
async fn stored_headers(server: &Server, stream: &str, sequence: u64) -> HeaderMap {
    let stream = server.jetstream().await.get_stream(stream).await.unwrap();
    stream.get_raw_message(sequence).await.unwrap().headers
}

#[tokio::test]
async fn producer_two_handlers_and_a_dead_letter_are_one_trace() {
    let trace = Trace::new();
    let server = Server::start().await;
    let broker = connect(&server).await;
    let bill = async |order: u64, publisher: Publisher| -> HandlerResult {
        publisher.publish("invoices.created", &order).await?;
        Ok(())
    };
    let _billing = broker.subscribe("orders.{region}.created", "billing", bill).name("bill").await.unwrap();
    let mail = async |_: u64| HandlerResult::<()>::Err("the mail server is down".into());
    let _mailer = broker.subscribe("invoices.created", "mailer", mail).max_deliver(1).await.unwrap();
    trace.publish(broker.publish_message("orders.eu.created", &7).message_id("order-7")).await;
    let letter = &dead_letters(&broker, 1).await[0];
    let names = [
        "shop",
        "publish orders.eu.created",
        "process orders.{region}.created",
        "publish invoices.created",
        "process invoices.created",
        "publish dlq.INVOICES.mailer",
    ];
    let spans = trace.spans(&names).await;
    let [shop, order, billing, invoice, mailer, dead] = names.map(|name| spans.one(name));
    for (child, parent) in [(order, shop), (billing, order), (invoice, billing), (mailer, invoice), (dead, mailer)] {
        assert_parent(child, parent);
    }
    let kinds = [order, billing, invoice, mailer, dead].map(|span| span.span_kind.clone());
    use SpanKind::{Client, Consumer, Producer};
    // The dead letter has the headers of its message, whose trace context it keeps.
    assert_eq!(kinds, [Producer, Consumer, Producer, Consumer, Client]);
    assert_eq!(dead.links[0].span_context.span_id(), invoice.span_context.span_id());
    assert_eq!(letter.header("traceparent"), Some(&*traceparent(invoice)));
    assert_attributes(
        order,
        &[
            ("messaging.system", "nats"),
            ("messaging.operation.name", "publish"),
            ("messaging.operation.type", "send"),
            ("messaging.destination.name", "orders.eu.created"),
            ("messaging.message.id", "order-7"),
            ("messaging.message.body.size", "1"),
            ("messaging.nats.stream.name", "ORDERS"),
            ("messaging.nats.message.stream_sequence", "1"),
        ],
    );
    assert_attributes(
        billing,
        &[
            ("messaging.system", "nats"),
            ("messaging.operation.name", "process"),
            ("messaging.operation.type", "process"),
            ("messaging.destination.name", "orders.eu.created"),
            ("messaging.destination.template", "orders.{region}.created"),
            ("messaging.consumer.group.name", "billing"),
            ("messaging.message.id", "order-7"),
            ("messaging.nats.stream.name", "ORDERS"),
            ("messaging.nats.message.stream_sequence", "1"),
            ("messaging.nats.message.delivery_count", "1"),
            ("handler", "bill"),
        ],
    );
    assert_eq!(billing.status, Status::Unset);
}

fn traceparent(span: &SpanData) -> String {
    let context = &span.span_context;
    format!("00-{}-{}-01", context.trace_id(), context.span_id())
}

/// An account whose server sends the traces of messages to a subject to which the user `worker` may not publish.
const TRACED: &str = r#"accounts { APP {
    jetstream: enabled
    msg_trace: { dest: "traces.orders" }
    users: [
        { user: admin, password: secret }
        { user: worker, password: secret, permissions: { publish: ["orders.>", "$JS.API.>"], subscribe: "_INBOX.>" } }
    ]
} }"#;

#[tokio::test]
async fn refused_publish_names_the_destination_of_message_tracing() {
    // Versions before drop no message; so do 2.12.12 and later ones of that series.
    if binary::version() < (2, 14, 3) {
        return;
    }
    let server = Server::builder().config(TRACED).user("admin", "secret").start().await;
    let orders = stream::Config { allow_atomic_publish: true, ..stream_config("ORDERS", &["orders.>"]) };
    server.jetstream().await.create_stream(orders).await.unwrap();
    let broker = worker(&server).connect().await.unwrap();
    let traced = |flags: &str| {
        let traceparent = Trace::new().traceparent();
        let traceparent = format!("{}{flags}", traceparent.strip_suffix("01").unwrap());
        broker.publish_message("orders.created", &1).header("traceparent", &traceparent)
    };
    let error = traced("01").await.unwrap_err();
    let why = "cannot publish to `orders.created`: no stream answers, and the user may not publish to `traces.orders`: if that is `msg_trace.dest` of the account, the server drops the user's messages with a sampled `traceparent`; allow `traces.orders` in `permissions.publish` of the user on the server";
    assert_error(&error, ErrorKind::Authorization, &[why]);
    assert_eq!(error.missing_permission(), Some("traces.orders"));
    let error = broker.publisher().publish_atomic([traced("01"), traced("00")]).await.unwrap_err();
    assert_error(&error, ErrorKind::Authorization, &[why]);
    assert_eq!(traced("00").await.unwrap().sequence, 1, "a trace that is not sampled has no destination");
}

//! Spans and trace contexts for OpenTelemetry, on a real server: what an in-memory exporter receives.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod log;

use std::collections::{BTreeMap, HashMap};
use std::future::IntoFuture as _;
use std::sync::OnceLock;

use futures::StreamExt as _;

use jetstream_handlers::async_nats::HeaderMap;
use jetstream_handlers::{ErrorKind, Output, PublishMessage, prelude::*, stream};
use jetstream_handlers_tests::{
    SOON, Server, assert_error, binary, builder, connect, dead_letters, eventually, ms, stream_config, worker,
};
use opentelemetry::KeyValue;
use opentelemetry::propagation::TextMapPropagator as _;
use opentelemetry::trace::{SpanKind, Status, TraceId, TracerProvider as _};
use opentelemetry_sdk::metrics::data::{AggregatedMetrics, MetricData};
use opentelemetry_sdk::metrics::{InMemoryMetricExporter, SdkMeterProvider};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider, SpanData};
use serde::{Deserialize, Serialize};
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
        metrics();
        let exporter = InMemorySpanExporter::default();
        let provider = SdkTracerProvider::builder().with_simple_exporter(exporter.clone()).build();
        let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("tests"));
        tracing_subscriber::registry().with(layer).init();
        exporter
    })
}

/// Returns the provider and the exporter of all metrics of this process.
fn metrics() -> &'static (SdkMeterProvider, InMemoryMetricExporter) {
    static METRICS: OnceLock<(SdkMeterProvider, InMemoryMetricExporter)> = OnceLock::new();
    METRICS.get_or_init(|| {
        let exporter = InMemoryMetricExporter::default();
        let provider = SdkMeterProvider::builder().with_periodic_exporter(exporter.clone()).build();
        opentelemetry::global::set_meter_provider(provider.clone());
        (provider, exporter)
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
            tokio::time::sleep(ms(5)).await;
        }
    }
}

impl Trace {
    /// Returns a span of this trace.
    fn span(&self) -> tracing::Span {
        let headers = HashMap::from([("traceparent".to_owned(), self.traceparent())]);
        let span = tracing::info_span!("shop");
        span.set_parent(TraceContextPropagator::new().extract(&headers)).unwrap();
        span
    }

    /// Publishes a message in a span of this trace.
    async fn publish(&self, message: PublishMessage) {
        message.into_future().instrument(self.span()).await.unwrap();
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

/// Returns the attributes of a span, of which each has one value.
#[track_caller]
fn attributes(span: &SpanData) -> BTreeMap<String, String> {
    let attributes = span.attributes.iter();
    let attributes: BTreeMap<_, _> =
        attributes.map(|attribute| (attribute.key.to_string(), attribute.value.to_string())).collect();
    assert_eq!(attributes.len(), span.attributes.len(), "{:#?}", span.attributes);
    attributes
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
            ("outcome", "ack"),
        ],
    );
    assert_eq!(billing.status, Status::Unset);
    assert_attributes(mailer, &[("outcome", "dead_letter"), ("error.type", "error")]);
    assert_eq!(mailer.status, Status::error("the mail server is down"));
}

fn traceparent(span: &SpanData) -> String {
    let context = &span.span_context;
    format!("00-{}-{}-01", context.trace_id(), context.span_id())
}

#[tokio::test]
async fn header_of_a_publisher_in_go_joins_its_trace() {
    let trace = Trace::new();
    let server = Server::start().await;
    let broker = connect(&server).await;
    let _handler = broker.subscribe("orders.created", "billing", async |_: u64| {}).await.unwrap();
    let mut headers = HeaderMap::new();
    headers.insert("Traceparent", trace.traceparent());
    headers.insert("Tracestate", "vendor=1");
    let client = server.jetstream().await;
    client.publish_with_headers("orders.created", headers, "7".into()).await.unwrap().await.unwrap();
    let spans = trace.spans(&["process orders.created"]).await;
    let context = &spans.one("process orders.created").span_context;
    assert_eq!(context.trace_state().get("vendor"), Some("1"));
    assert_eq!(spans.one("process orders.created").parent_span_id.to_string(), "00f067aa0ba902b7");
}

#[tokio::test]
async fn retry_is_another_attempt_in_the_same_trace() {
    let trace = Trace::new();
    let server = Server::start().await;
    let broker = connect(&server).await;
    let pay = async |info: Info| -> HandlerResult {
        if info.delivered() == 1 { Err("the bank does not answer".into()) } else { Ok(()) }
    };
    let _handler = broker.subscribe("orders.created", "billing", pay).backoff(&[ms(1)]).await.unwrap();
    trace.publish(broker.publish_message("orders.created", &7)).await;
    let name = "process orders.created";
    let spans = trace.spans(&["shop", "publish orders.created", name, name]).await;
    let [first, second] = *spans.all(name) else { panic!("there are two attempts") };
    for attempt in [first, second] {
        assert_parent(attempt, spans.one("publish orders.created"));
    }
    let failed = [("outcome", "retry"), ("error.type", "error"), ("messaging.nats.message.delivery_count", "1")];
    assert_attributes(first, &failed);
    assert_attributes(second, &[("outcome", "ack"), ("messaging.nats.message.delivery_count", "2")]);
    assert_eq!(second.status, Status::Unset);
}

#[tokio::test]
async fn attempts_of_an_ordered_handler_do_not_contain_the_wait_between_them() {
    let trace = Trace::new();
    let server = Server::start().await;
    let broker = connect(&server).await;
    let delay = ms(300);
    let pay = async |info: Info| -> HandlerResult {
        if info.delivered() == 1 { Err("the bank does not answer".into()) } else { Ok(()) }
    };
    let handler = broker.subscribe("orders.created", "billing", pay).ordered().single_instance();
    let _handler = handler.backoff(&[delay]).await.unwrap();
    trace.publish(broker.publish_message("orders.created", &7)).await;
    let name = "process orders.created";
    let spans = trace.spans(&["shop", "publish orders.created", name, name]).await;
    let [first, second] = *spans.all(name) else { panic!("there are two attempts") };
    assert_attributes(first, &[("outcome", "retry")]);
    assert_attributes(second, &[("outcome", "ack")]);
    // The delay of a retry is shortened or prolonged by up to a fifth.
    let between = second.start_time.duration_since(first.end_time).unwrap();
    assert!(between >= delay / 2, "only {between:?} between the attempts");
}

#[tokio::test]
async fn batch_is_linked_to_the_traces_of_its_messages() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    let traces = [Trace::new(), Trace::new(), Trace::new()];
    for (number, trace) in traces.iter().enumerate() {
        trace.publish(broker.publish_message("orders.created", &number)).await;
    }
    let handle = async |orders: Batch<u64>, publisher: Publisher| -> HandlerResult {
        publisher.publish("totals.changed", &orders.len()).await?;
        Err("the totals are wrong".into())
    };
    let handler = broker.subscribe("orders.created", "totals", handle).batch(3).batch_wait(secs(5)).max_deliver(1);
    let _handler = handler.await.unwrap();
    let linked = |span: &SpanData| -> Vec<_> {
        span.links.iter().map(|link| link.span_context.trace_id().to_string()).collect()
    };
    let ids = traces.each_ref().map(|trace| trace.0.clone());
    let batch = eventually("the span of the batch", SOON, async || {
        let spans = exporter().get_finished_spans().unwrap();
        spans.into_iter().find(|span| span.name == "process orders.created" && linked(span) == ids)
    })
    .await;
    assert_eq!(batch.span_kind, SpanKind::Consumer);
    assert_attributes(&batch, &[("messaging.batch.message_count", "3"), ("messaging.operation.type", "process")]);
    assert_eq!(batch.status, Status::error("the totals are wrong"));
    let sequence = |index: usize| {
        let attributes = &batch.links[index].attributes;
        attributes.iter().find(|found| found.key.as_str() == "messaging.nats.message.stream_sequence").unwrap()
    };
    assert_eq!([0, 1, 2].map(|index| sequence(index).value.to_string()), ["1", "2", "3"]);
    // What the handler publishes belongs to the trace of the batch.
    let stored = stored_headers(&server, "TOTALS", 1).await;
    let published = stored.get("traceparent").unwrap().to_string();
    assert!(published.contains(&batch.span_context.trace_id().to_string()), "{published}");
}

#[tokio::test]
async fn every_way_to_publish_passes_the_trace_on() {
    let trace = Trace::new();
    let server = Server::start().await;
    let accepts_all =
        stream::Config { allow_atomic_publish: true, allow_batch_publish: true, ..stream_config("WORK", &["work.>"]) };
    server.jetstream().await.create_stream(accepts_all).await.unwrap();
    let broker = connect(&server).await;
    let publisher = broker.publisher();
    let span = trace.span();
    async {
        publisher.publish("work.one", &1).await.unwrap();
        publisher.publish_message("work.two", &2).header("Tenant", "eu").await.unwrap();
        publisher.publish_bytes("work.three", "3").await.unwrap();
        publisher.send(&Shipped { region: "eu".to_owned() }).await.unwrap();
        let message = |number: u64| broker.publish_message("work.many", &number);
        let all: Vec<_> = publisher.publish_all((0..3).map(message)).collect().await;
        assert!(all.iter().all(Result::is_ok), "{all:?}");
        publisher.publish_atomic((3..6).map(message)).await.unwrap();
        publisher.ingest((6..9).map(message)).await.unwrap();
    }
    .instrument(span)
    .await;
    let (single, many) = ("publish work.many", "publish work.{region}.shipped");
    let names = ["shop", "publish work.one", "publish work.two", "publish work.three", many];
    let names = [&names[..], &[single; 5]].concat();
    let spans = trace.spans(&names).await;
    for span in spans.0.iter().filter(|span| span.name != "shop") {
        assert_parent(span, spans.one("shop"));
        assert_eq!(span.span_kind, SpanKind::Producer);
    }
    let batches = spans.all(single).into_iter().filter_map(|span| {
        attributes(span).get("messaging.batch.message_count").map(|count| (traceparent(span), count.clone()))
    });
    let [(atomic, _), (ingest, _)] = &*batches.collect::<Vec<_>>() else { panic!("there are two batches") };
    let mut singles: Vec<_> = spans.0.iter().filter(|span| span.name != "shop").map(traceparent).collect();
    singles.retain(|parent| parent != atomic && parent != ingest);
    let expected = singles.iter().chain([atomic; 3]).chain([ingest; 3]);
    for (sequence, expected) in (1..).zip(expected) {
        let headers = stored_headers(&server, "WORK", sequence).await;
        assert_eq!(headers.get("traceparent").map(ToString::to_string).as_ref(), Some(expected), "message {sequence}");
    }
    assert_attributes(
        spans.one("publish work.{region}.shipped"),
        &[
            ("messaging.destination.name", "work.eu.shipped"),
            ("messaging.destination.template", "work.{region}.shipped"),
        ],
    );
}

#[derive(Event, Serialize, Deserialize)]
#[event(subject = "work.{region}.shipped")]
struct Shipped {
    region: String,
}

#[tokio::test]
async fn message_that_would_be_too_large_with_its_trace_is_published_without_it() {
    const LIMIT: usize = 8192;
    // The size of the header block with the id `0`, and of the headers of an atomic batch.
    const ID: usize = "NATS/1.0\r\nNats-Msg-Id: 0\r\n\r\n".len();
    const BATCH: usize = 92;
    let trace = Trace::new();
    let server = Server::builder().config(&format!("max_payload: {LIMIT}")).start().await;
    let accepts_all =
        stream::Config { allow_atomic_publish: true, allow_batch_publish: true, ..stream_config("WORK", &["work.>"]) };
    server.jetstream().await.create_stream(accepts_all).await.unwrap();
    let broker = connect(&server).await;
    let publisher = broker.publisher();
    let message =
        |id: usize, size: usize| publisher.publish_bytes("work.full", vec![b'x'; size]).message_id(&id.to_string());
    async {
        message(1, LIMIT - ID).await.unwrap();
        let all: Vec<_> = publisher.publish_all([message(2, LIMIT - ID)]).collect().await;
        assert!(all.iter().all(Result::is_ok), "{all:?}");
        publisher.publish_atomic([message(3, LIMIT - ID - BATCH)]).await.unwrap();
        publisher.ingest([message(4, LIMIT - ID)]).await.unwrap();
        message(5, LIMIT - ID + 1).await.unwrap_err();
        message(6, LIMIT / 2).await.unwrap();
    }
    .instrument(trace.span())
    .await;
    for (sequence, has_trace) in [(1, false), (2, false), (3, false), (4, false), (5, true)] {
        let headers = stored_headers(&server, "WORK", sequence).await;
        assert_eq!(headers.get("traceparent").is_some(), has_trace, "message {sequence}: {headers:?}");
    }
}

#[tokio::test]
async fn publisher_with_a_hostile_trace_does_not_make_a_handler_fail() {
    let trace = Trace::new();
    let server = Server::start().await;
    let broker = connect(&server).await;
    let bill = async |order: u64, publisher: Publisher| -> HandlerResult {
        publisher.publish_message("invoices.created", &order).header("Own", &"x".repeat(60_000)).await?;
        Ok(())
    };
    let _billing = broker.subscribe("orders.created", "billing", bill).await.unwrap();
    let state: Vec<_> = (0..5000).map(|number| format!("vendor{number}=1")).collect();
    let baggage: Vec<_> = (0..5000).map(|number| format!("key{number}=1")).collect();
    for (tracestate, baggage) in
        [(&*state.join(","), "tenant=eu"), ("vendor=1", &*baggage.join(",")), ("vendor=\u{1b}[2J", "tenant=eu")]
    {
        let order = broker.publish_message("orders.created", &7).header("traceparent", &trace.traceparent());
        order.header("tracestate", tracestate).header("baggage", baggage).await.unwrap();
    }
    server.all_acked("ORDERS", "billing").await;
    for sequence in [1, 2, 3] {
        let headers = stored_headers(&server, "INVOICES", sequence).await;
        assert!(headers.get("traceparent").is_some_and(|parent| parent.as_str().contains(&trace.0)));
        let passed_on = ["tracestate", "baggage"].iter().filter_map(|name| Some(headers.get(*name)?.to_string()));
        let passed_on = passed_on.collect::<Vec<_>>().concat();
        assert!(passed_on.len() < 2_000, "{} bytes are passed on", passed_on.len());
        assert!(!passed_on.contains('\u{1b}'), "{passed_on}");
    }
}

#[tokio::test]
async fn failed_publish_has_an_error_status() {
    let trace = Trace::new();
    let server = Server::start().await;
    let broker = builder(&server).auto_create(false).publish_timeout(ms(500)).connect().await.unwrap();
    let message = broker.publish_message("nowhere.one", &1);
    let error = message.into_future().instrument(trace.span()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StreamNotFound);
    let spans = trace.spans(&["shop", "publish nowhere.one"]).await;
    let publish = spans.one("publish nowhere.one");
    assert_attributes(publish, &[("error.type", "stream_not_found")]);
    assert_eq!(publish.status, Status::error(error.to_string()));
}

#[tokio::test]
async fn trace_context_that_the_user_has_set_is_kept() {
    let (own, current) = (Trace::new(), Trace::new());
    let server = Server::start().await;
    let broker = connect(&server).await;
    let message = broker.publish_message("orders.created", &7).header("Traceparent", &own.traceparent());
    current.publish(message.header("baggage", "tenant=eu")).await;
    let headers = stored_headers(&server, "ORDERS", 1).await;
    assert_eq!(headers.get("Traceparent").map(ToString::to_string), Some(own.traceparent()));
    assert!(headers.get("traceparent").is_none(), "{headers:?}");
    let spans = current.spans(&["shop", "publish orders.created"]).await;
    let publish = spans.one("publish orders.created");
    assert_eq!(publish.span_kind, SpanKind::Client);
    assert_eq!(publish.links[0].span_context.trace_id().to_string(), own.0);
}

#[tokio::test]
async fn replay_keeps_the_trace_of_the_original_message() {
    let trace = Trace::new();
    let server = Server::start().await;
    let broker = connect(&server).await;
    let refuse = async |_: u64| HandlerResult::<()>::Err("the bank does not answer".into());
    let handler = broker.subscribe("orders.created", "billing", refuse).max_deliver(1).await.unwrap();
    let original = broker.publish_message("orders.created", &7).header("Traceparent", &trace.traceparent());
    original.header("Tracestate", "vendor=1").await.unwrap();
    let letter = &dead_letters(&broker, 1).await[0];
    handler.unsubscribe().await.unwrap();
    let replayed = broker.dead_letters().replay(letter.sequence).await.unwrap();
    let headers = stored_headers(&server, "ORDERS", replayed.sequence).await;
    assert_eq!(headers.get("Traceparent").map(ToString::to_string), Some(trace.traceparent()));
    assert_eq!(headers.get("Tracestate").map(ToString::to_string).as_deref(), Some("vendor=1"));
    assert!(headers.get("traceparent").is_none(), "{headers:?}");
}

#[tokio::test]
async fn blocking_handler_runs_in_the_span_of_its_attempt() {
    let trace = Trace::new();
    let server = Server::start().await;
    let broker = connect(&server).await;
    let handle = async |_: u64, publisher: Publisher| -> HandlerResult {
        tracing::info!("a line of the handler");
        publisher.publish("invoices.created", &7).await?;
        Ok(())
    };
    let _handler = broker.subscribe("orders.created", "billing", handle).blocking().await.unwrap();
    trace.publish(broker.publish_message("orders.created", &7)).await;
    let names = ["shop", "publish orders.created", "process orders.created", "publish invoices.created"];
    let spans = trace.spans(&names).await;
    let attempt = spans.one("process orders.created");
    assert_parent(spans.one("publish invoices.created"), attempt);
    let lines: Vec<_> = attempt.events.iter().map(|event| &*event.name).collect();
    assert!(lines.contains(&"a line of the handler"), "{lines:?}");
}

#[tokio::test]
async fn trace_is_passed_on_without_a_layer_and_a_propagator() {
    let trace = Trace::new();
    // Nothing collects spans on this thread.
    let _nothing = tracing::subscriber::set_default(tracing::subscriber::NoSubscriber::default());
    let server = Server::start().await;
    let broker = connect(&server).await;
    let forward = async |order: u64, publisher: Publisher| -> HandlerResult<Output> {
        publisher.publish("copies.one", &order).await?;
        Ok(Output::to("copies.two", &order))
    };
    let _one = broker.subscribe("orders.created", "one", forward).await.unwrap();
    let _all = broker.subscribe("orders.created", "ordered", forward).ordered().single_instance().await.unwrap();
    let mut headers = HeaderMap::new();
    headers.insert("TraceParent", trace.traceparent());
    headers.append("tracestate", "one=1");
    headers.append("tracestate", "two=2");
    headers.append("baggage", "tenant=a%20b,user=7;secret");
    headers.append("baggage", "region=eu");
    let client = server.jetstream().await;
    client.publish_with_headers("orders.created", headers, "7".into()).await.unwrap().await.unwrap();
    server.all_acked("ORDERS", "one").await;
    server.all_acked("ORDERS", "ordered").await;
    for sequence in 1..=4 {
        let headers = stored_headers(&server, "COPIES", sequence).await;
        let value = |name| headers.get(name).map(ToString::to_string).unwrap_or_default();
        assert_eq!(value("traceparent"), trace.traceparent(), "message {sequence}");
        assert_eq!(value("tracestate"), "one=1,two=2");
        let baggage = value("baggage");
        let mut members: Vec<_> = baggage.split(',').collect();
        members.sort_unstable();
        assert_eq!(members, ["region=eu", "tenant=a%20b", "user=7;secret"]);
    }
}

#[tokio::test]
async fn metrics_of_the_conventions_are_recorded() {
    Trace::new();
    let server = Server::start().await;
    let broker = connect(&server).await;
    let handle = async |metered: Metered, info: Info| -> HandlerResult {
        if metered.id == 2 && info.delivered() == 1 { Err("the bank does not answer".into()) } else { Ok(()) }
    };
    let handler = broker.subscribe("metered.{id}", "meter", handle).backoff(&[ms(1)]).await.unwrap();
    for id in 1..=3 {
        broker.send(&Metered { id }).await.unwrap();
    }
    broker.send(&Metered { id: 1 }).expect_last_subject_sequence(0).await.unwrap_err();
    server.all_acked("METERED", "meter").await;
    handler.unsubscribe().await.unwrap();
    let handled = |error: &str| {
        format!(
            "{error}messaging.consumer.group.name=meter messaging.destination.template=metered.{{id}} messaging.operation.name=process messaging.operation.type=process messaging.system=nats"
        )
    };
    let (ok, failed) = (handled(""), handled("error.type=error "));
    let published = "messaging.destination.template=metered.{id} messaging.operation.name=publish messaging.operation.type=send messaging.system=nats";
    assert_eq!(recorded("messaging.client.consumed.messages", &ok), Some(4));
    assert_eq!(recorded("messaging.process.duration", &ok), Some(3));
    assert_eq!(recorded("messaging.process.duration", &failed), Some(1));
    assert_eq!(recorded("messaging.client.sent.messages", published), Some(3));
    assert_eq!(recorded("messaging.client.operation.duration", published), Some(3));
    let refused = format!("error.type=wrong_last_sequence {published}");
    assert_eq!(recorded("messaging.client.operation.duration", &refused), Some(1));
}

#[derive(Event, Serialize, Deserialize)]
#[event(subject = "metered.{id}")]
struct Metered {
    id: u64,
}

/// Returns the value of a counter, or the number of durations of a histogram, with these attributes.
fn recorded(name: &str, attributes: &str) -> Option<u64> {
    let (provider, exporter) = metrics();
    provider.force_flush().unwrap();
    let exported = exporter.get_finished_metrics().unwrap();
    let of_crate = exported.last().unwrap().scope_metrics().find(|scope| scope.scope().name() == "jetstream-handlers");
    let metric = of_crate.unwrap().metrics().find(|metric| metric.name() == name).unwrap();
    let is_same = |found: &mut dyn Iterator<Item = &KeyValue>| {
        let mut found: Vec<_> = found.map(|one| format!("{}={}", one.key, one.value)).collect();
        found.sort_unstable();
        found.join(" ") == attributes
    };
    match metric.data() {
        AggregatedMetrics::U64(MetricData::Sum(sum)) => {
            sum.data_points().find(|point| is_same(&mut point.attributes())).map(|point| point.value())
        }
        AggregatedMetrics::F64(MetricData::Histogram(histogram)) => {
            let point = histogram.data_points().find(|point| is_same(&mut point.attributes()))?;
            assert_eq!(point.bounds().next(), Some(0.005));
            assert_eq!(point.bounds().last(), Some(10.0));
            Some(point.count())
        }
        other => panic!("{name} is {other:?}"),
    }
}

#[tokio::test]
async fn headers_of_tracing_by_the_server_belong_to_it() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    for name in ["Nats-Trace-Dest", "nats-trace-dest", "Nats-Trace-Only", "Nats-Trace-Hop"] {
        let refused = broker.publish_message("orders.created", &7).header(name, "true").await;
        assert_error(refused, ErrorKind::Config, &[&format!("header `{name}` belongs to the server")]);
    }
    // Another client has set them. The dead letter is not traced, and its replay is not either.
    let refuse = async |_: u64| HandlerResult::<()>::Err("the bank does not answer".into());
    let handler = broker.subscribe("orders.created", "billing", refuse).max_deliver(1).await.unwrap();
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Trace-Dest", "traces.orders");
    let client = server.jetstream().await;
    client.publish_with_headers("orders.created", headers, "7".into()).await.unwrap().await.unwrap();
    let letter = &dead_letters(&broker, 1).await[0];
    // A server that traces messages has stored it with a value that ends the tracing.
    assert!(letter.header("Nats-Trace-Dest").is_some(), "{letter:?}");
    let stored = stored_headers(&server, "DLQ", letter.sequence).await;
    assert!(stored.get("Nats-Trace-Dest").is_none(), "{stored:?}");
    handler.unsubscribe().await.unwrap();
    let replayed = broker.dead_letters().replay(letter.sequence).await.unwrap();
    let stored = stored_headers(&server, "ORDERS", replayed.sequence).await;
    assert!(stored.get("Nats-Trace-Dest").is_none(), "{stored:?}");
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
    let orders = stream::Config {
        allow_atomic_publish: true,
        allow_batch_publish: true,
        ..stream_config("ORDERS", &["orders.>"])
    };
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
    let error = broker.publisher().ingest([traced("01"), traced("01")]).await.unwrap_err();
    assert_error(
        &error,
        ErrorKind::Authorization,
        &["the user may not publish to `traces.orders`: if that is `msg_trace.dest`"],
    );
    assert_eq!(traced("00").await.unwrap().sequence, 1, "a trace that is not sampled has no destination");
}

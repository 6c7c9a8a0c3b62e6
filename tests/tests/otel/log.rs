//! What subscribers that write lines get of the span of an attempt.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::{Arc, Mutex};

use jetstream_handlers::Subscription;
use jetstream_handlers::prelude::*;
use jetstream_handlers_tests::{SOON, Server, connect, dead_letters, eventually};
use tracing::Subscriber;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing_subscriber::Layer;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Context, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;

use crate::Trace;

/// Starts a handler that refuses a message with this trace in the header, and waits for the dead letter.
async fn refuse(trace: &Trace, header: &str) -> (Server, Broker, Subscription) {
    let server = Server::start().await;
    let broker = connect(&server).await;
    let refuse = async |_: u64| -> HandlerResult {
        tracing::info!("a line of the handler");
        Err("the bank does not answer".into())
    };
    let handler = broker.subscribe("orders.created", "billing", refuse).name("bill").max_deliver(1).await.unwrap();
    broker.publish_message("orders.created", &7).header(header, &trace.traceparent()).await.unwrap();
    dead_letters(&broker, 1).await;
    (server, broker, handler)
}

#[tokio::test]
async fn log_lines_have_the_fields_of_the_attempt_and_no_attributes() {
    let trace = Trace::new();
    let lines = Lines::default();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(lines.clone()).finish();
    let _subscriber = tracing::subscriber::set_default(subscriber);
    let _running = refuse(&trace, "Traceparent").await;
    let line = |text: &str| {
        let lines = lines.text();
        lines.lines().find(|line| line.contains(text)).unwrap_or_else(|| panic!("no {text:?} in {lines}")).to_owned()
    };
    let fields = format!(
        "handler=\"bill\" stream=\"ORDERS\" queue=\"billing\" subject=\"orders.created\" sequence=1 delivered=1 trace_id=\"{}\"",
        trace.0
    );
    let (of_handler, of_end) = (line("a line of the handler"), line("dead letter: "));
    // No layer needs them.
    assert!(!lines.text().contains("otel."), "{}", lines.text());
    assert!(of_handler.contains(&format!("{fields}}}")), "{of_handler}");
    assert!(of_end.contains(&format!("{fields} outcome=\"dead_letter\"}}")), "{of_end}");
    assert!(!lines.text().contains("messaging."), "{}", lines.text());
}

#[tokio::test]
async fn json_lines_have_the_fields_of_the_attempt() {
    let trace = Trace::new();
    let lines = Lines::default();
    let subscriber = tracing_subscriber::fmt().json().with_writer(lines.clone()).finish();
    let _subscriber = tracing::subscriber::set_default(subscriber);
    let _running = refuse(&trace, "traceparent").await;
    let span_of = |text: &str| {
        let lines = lines.text();
        let line = lines.lines().find(|line| line.contains(text));
        let line = line.unwrap_or_else(|| panic!("no {text:?} in {lines}"));
        serde_json::from_str::<serde_json::Value>(line).unwrap()["span"].clone()
    };
    let mut expected = serde_json::json!({
        "name": "process", "handler": "bill", "stream": "ORDERS", "queue": "billing", "subject": "orders.created",
        "sequence": 1, "delivered": 1, "trace_id": trace.0,
    });
    assert_eq!(span_of("a line of the handler"), expected);
    expected["outcome"] = "dead_letter".into();
    assert_eq!(span_of("dead letter: "), expected);
}

#[tokio::test]
async fn acknowledged_attempt_has_six_fields_and_enters_its_span_once() {
    let counts = Counts::default();
    let _subscriber = tracing::subscriber::set_default(tracing_subscriber::registry().with(counts.clone()));
    let server = Server::start().await;
    let broker = connect(&server).await;
    let _one = broker.subscribe("orders.created", "one", async |_: u64| {}).await.unwrap();
    let _all = broker.subscribe("orders.created", "ordered", async |_: u64| {}).ordered().await.unwrap();
    for order in 0..10_u64 {
        broker.publish("orders.created", &order).await.unwrap();
    }
    for queue in ["one", "ordered"] {
        server.all_acked("ORDERS", queue).await;
        let of = move |name: &str| format!("{queue} {name}");
        let ended = || counts.of(&of("closed")) == 10;
        eventually(&format!("10 spans of {queue} have ended"), SOON, async || ended().then_some(())).await;
        let counted = ["made", "fields", "recorded", "entered"].map(|name| counts.of(&of(name)));
        assert_eq!(counted, [10, 60, 0, 10], "{counts:?}");
    }
}

#[tokio::test]
async fn attempts_without_a_span_log_failures_with_their_message() {
    let (lines, counts) = (Lines::default(), Counts::default());
    let filter = tracing_subscriber::filter::Targets::new()
        .with_default(tracing::Level::INFO)
        .with_target("jetstream_handlers::attempt", tracing_subscriber::filter::LevelFilter::OFF);
    let lines_layer = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(lines.clone());
    let subscriber = tracing_subscriber::registry().with(filter).with(counts.clone()).with(lines_layer);
    let _subscriber = tracing::subscriber::set_default(subscriber);
    let server = Server::start().await;
    let broker = connect(&server).await;
    let refuse = async |order: u64| -> HandlerResult {
        tracing::info!("a line of the handler");
        if order == 7 { Err("the bank does not answer".into()) } else { Ok(()) }
    };
    let _handler = broker.subscribe("orders.created", "billing", refuse).name("bill").max_deliver(1).await.unwrap();
    for order in [1, 7] {
        broker.publish("orders.created", &order).await.unwrap();
    }
    dead_letters(&broker, 1).await;
    let of_failure = "process{handler=\"bill\" stream=\"ORDERS\" queue=\"billing\" subject=\"orders.created\" sequence=2 delivered=1}";
    let has_line = || lines.text().lines().any(|line| line.contains(of_failure) && line.contains("dead letter: "));
    eventually(&format!("{of_failure} is logged"), SOON, async || has_line().then_some(())).await;
    let text = lines.text();
    let of_handler: Vec<_> = text.lines().filter(|line| line.contains("a line of the handler")).collect();
    assert!(of_handler.len() == 2 && !of_handler[0].contains("process{"), "{of_handler:?}");
    assert_eq!(counts.of("billing made"), 1, "only the failure has a span: {counts:?}");
}

/// Counts what is done with the spans of attempts, by the queue of their handler.
#[derive(Debug, Clone, Default)]
struct Counts(Arc<Mutex<BTreeMap<String, u64>>>);

/// The queue of the handler of a span, and the number of its fields.
#[derive(Debug, Default)]
struct Fields {
    queue: String,
    count: u64,
}

impl Visit for Fields {
    fn record_debug(&mut self, _: &Field, _: &dyn std::fmt::Debug) {
        self.count += 1;
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.count += 1;
        if field.name() == "queue" {
            value.clone_into(&mut self.queue);
        }
    }
}

impl Counts {
    fn of(&self, counted: &str) -> u64 {
        self.0.lock().unwrap().get(counted).copied().unwrap_or_default()
    }

    fn add<S: Subscriber + for<'a> LookupSpan<'a>>(&self, id: &Id, name: &str, count: u64, context: &Context<'_, S>) {
        let span = context.span(id).unwrap();
        if let Some(Fields { queue, .. }) = span.extensions().get() {
            *self.0.lock().unwrap().entry(format!("{queue} {name}")).or_default() += count;
        }
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Counts {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if attributes.metadata().name() != "process" {
            return;
        }
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        let count = fields.count;
        context.span(id).unwrap().extensions_mut().insert(fields);
        self.add(id, "made", 1, &context);
        self.add(id, "fields", count, &context);
    }

    fn on_record(&self, id: &Id, _: &Record<'_>, context: Context<'_, S>) {
        self.add(id, "recorded", 1, &context);
    }

    fn on_enter(&self, id: &Id, context: Context<'_, S>) {
        self.add(id, "entered", 1, &context);
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        self.add(&id, "closed", 1, &context);
    }
}

/// The lines that a subscriber has written.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Lines {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

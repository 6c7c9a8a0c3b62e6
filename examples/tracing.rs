//! One trace through a producer, two handlers, a retry and a dead letter: `cargo run --example tracing`.
//!
//! The spans are printed as a tree at the end. A service replaces [`Printed`] with the exporter of
//! `opentelemetry-otlp`, and nothing else.
//! With `NATS_URL` it uses that server, without it, it runs in memory.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context as _;
use jetstream_handlers::prelude::*;
use opentelemetry::trace::{SpanId, SpanKind, TracerProvider as _};
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData, SpanExporter};
use serde::{Deserialize, Serialize};
use tracing::Instrument as _;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

#[derive(Event, Serialize, Deserialize)]
#[event(subject = "tracing.{region}.orders")]
struct Order {
    region: String,
    cents: u64,
}

#[subscriber(event = Order, queue = "billing", publish = "tracing.invoices")]
async fn bill(order: Order) -> u64 {
    order.cents
}

#[subscriber(subject = "tracing.invoices", queue = "mailer", max_deliver = 2, backoff = ["100ms"])]
async fn mail(_: u64) -> HandlerResult {
    Err("the mail server does not answer".into())
}

/// Sends the spans of this process to an exporter, and its log to the standard error.
fn set_up(exporter: impl SpanExporter + 'static) -> SdkTracerProvider {
    // Optional: without it, the headers of W3C Trace Context and Baggage are used all the same.
    opentelemetry::global::set_text_map_propagator(TraceContextPropagator::new());
    // A service calls `with_batch_exporter`, so that its handlers do not wait for the exporter.
    let provider = SdkTracerProvider::builder().with_simple_exporter(exporter).build();
    tracing_subscriber::registry()
        .with(LevelFilter::INFO)
        .with(tracing_subscriber::fmt::layer().with_writer(std::io::stderr))
        .with(tracing_opentelemetry::layer().with_tracer(provider.tracer("shop")))
        .init();
    provider
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let printed = Printed::default();
    let provider = set_up(printed.clone());
    let broker = jetstream_handlers_examples::broker(|settings| settings).await?;
    let running = broker.start_all().await?;
    let order = Order { region: "eu".to_owned(), cents: 1999 };
    // In an HTTP server, this is the span of the request.
    let request = tracing::info_span!("POST /orders");
    async { broker.send(&order).await }.instrument(request).await?;
    let dead = async {
        while broker.dead_letters().for_handler("mail").list(1).await?.is_empty() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(Duration::from_secs(30), dead).await.context("no dead letter within 30 s")??;
    running.shutdown().await?;
    broker.disconnect().await?;
    provider.shutdown()?;
    printed.print();
    Ok(())
}

/// An exporter that keeps the spans of this crate until they are printed.
#[derive(Debug, Clone, Default)]
struct Printed(Arc<Mutex<Vec<SpanData>>>);

impl SpanExporter for Printed {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        self.spans().extend(batch);
        Ok(())
    }
}

impl Printed {
    fn spans(&self) -> std::sync::MutexGuard<'_, Vec<SpanData>> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Prints the spans as a tree.
    fn print(&self) {
        self.spans().sort_by_key(|span| span.start_time);
        print_children(&self.spans(), SpanId::INVALID, 0);
    }
}

fn print_children(spans: &[SpanData], parent: SpanId, depth: usize) {
    for span in spans.iter().filter(|span| span.parent_span_id == parent) {
        let kind = match span.span_kind {
            SpanKind::Producer => "producer",
            SpanKind::Consumer => "consumer",
            SpanKind::Client => "client",
            _ => "internal",
        };
        let name = format!("{:indent$}{}", "", span.name, indent = depth * 2);
        let outcome = span.attributes.iter().find(|attribute| attribute.key.as_str() == "outcome");
        let outcome = outcome.map(|outcome| outcome.value.to_string()).unwrap_or_default();
        println!("{name:45} {kind:9} {outcome}");
        print_children(spans, span.span_context.span_id(), depth + 1);
    }
}

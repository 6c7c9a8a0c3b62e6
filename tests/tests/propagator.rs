//! The trace of a message with the propagator of the application, which is set once for a process.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

use jetstream_handlers::async_nats::HeaderMap;
use jetstream_handlers::prelude::*;
use jetstream_handlers_tests::{Server, connect};
use opentelemetry::baggage::BaggageExt as _;
use opentelemetry::propagation::text_map_propagator::FieldIter;
use opentelemetry::propagation::{Extractor, Injector, TextMapCompositePropagator, TextMapPropagator};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::propagation::{BaggagePropagator, TraceContextPropagator};

/// A propagator of another standard, with one header that may have several lines.
#[derive(Debug)]
struct Tenants([String; 1]);

/// The tenants of a context.
struct Of(Vec<String>);

impl TextMapPropagator for Tenants {
    fn inject_context(&self, context: &Context, injector: &mut dyn Injector) {
        if let Some(Of(tenants)) = context.get() {
            injector.set("X-Tenants", tenants.join(" "));
        }
    }

    fn extract_with_context(&self, context: &Context, extractor: &dyn Extractor) -> Context {
        match extractor.get_all("X-Tenants") {
            Some(tenants) => context.with_value(Of(tenants.into_iter().map(str::to_owned).collect())),
            None => context.clone(),
        }
    }

    fn fields(&self) -> FieldIter<'_> {
        FieldIter::new(&self.0)
    }
}

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

#[tokio::test]
async fn propagator_of_the_application_reads_and_writes_its_headers() {
    opentelemetry::global::set_text_map_propagator(TextMapCompositePropagator::new(vec![
        Box::new(TraceContextPropagator::new()),
        Box::new(BaggagePropagator::new()),
        Box::new(Tenants(["X-Tenants".to_owned()])),
    ]));
    let server = Server::start().await;
    let broker = connect(&server).await;
    let forward = async |order: u64, publisher: Publisher| -> HandlerResult {
        let plan = Context::current().baggage().get("plan").map(ToString::to_string);
        assert_eq!(plan.as_deref(), Some("free trial"));
        // What the handler adds is passed on, too.
        let more = Context::current_with_baggage([KeyValue::new("plan", "paid")]);
        let publish = publisher.publish_message("copies.one", &order).header("x-other", "kept");
        opentelemetry::context::FutureExt::with_context(publish.into_future(), more).await?;
        let own = publisher.publish_message("copies.two", &order).header("x-tenants", "mine").header("Baggage", "a=b");
        own.await?;
        Ok(())
    };
    let _handler = broker.subscribe("orders.created", "one", forward).await.unwrap();
    let mut headers = HeaderMap::new();
    headers.insert("TRACEPARENT", PARENT);
    headers.append("Tracestate", "one=1");
    headers.append("Tracestate", "two=2");
    headers.append("Baggage", "user=7");
    headers.append("Baggage", "plan=free%20trial");
    headers.append("x-tenants", "eu");
    headers.append("x-tenants", "us");
    let client = server.jetstream().await;
    client.publish_with_headers("orders.created", headers, "7".into()).await.unwrap().await.unwrap();
    server.all_acked("ORDERS", "one").await;
    let copies = server.jetstream().await.get_stream("COPIES").await.unwrap();
    let first = copies.get_raw_message(1).await.unwrap().headers;
    let value = |name| first.get(name).map(ToString::to_string);
    assert_eq!(value("traceparent").as_deref(), Some(PARENT));
    assert_eq!(value("tracestate").as_deref(), Some("one=1,two=2"));
    assert_eq!(value("x-tenants").as_deref(), Some("eu us"));
    assert_eq!(value("baggage").as_deref(), Some("plan=paid"));
    assert_eq!(value("x-other").as_deref(), Some("kept"));
    // A message with a part of another context gets no other part.
    let second = copies.get_raw_message(2).await.unwrap().headers;
    assert!(second.get("traceparent").is_none(), "{second:?}");
    assert_eq!(second.get("x-tenants").map(ToString::to_string).as_deref(), Some("mine"));
}

//! The same work in a process that records what happens, as a service does.

#[cfg(feature = "observe")]
use metrics_exporter_prometheus::PrometheusBuilder;
#[cfg(feature = "observe")]
use opentelemetry::trace::TracerProvider as _;
#[cfg(feature = "observe")]
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use tracing_subscriber::filter::LevelFilter;
#[cfg(feature = "observe")]
use tracing_subscriber::layer::SubscriberExt as _;
#[cfg(feature = "observe")]
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::consume::{fill, from_str, messages, ours};
use crate::measure::Figure;
use crate::table::Claim;
use crate::table::Target::AtMost;
use crate::{Bench, Group, Variant};

const NOTHING: &str = "ours, nothing installed";
const SUBSCRIBER: &str = "ours, subscriber";
const METRICS: &str = "ours, metrics";
const OTEL: &str = "ours, otel, nothing sampled";

/// It opens no span, so its log lines do not show their message.
const TUNED: &str = "async-nats, batch 1000, subscriber";

/// The most that an observed run may cost of one that is not.
const LITTLE: f64 = 1.15;

pub(crate) fn groups() -> Vec<Group> {
    let observed = |name, install: fn()| {
        Variant::new(name, move |bench: &Bench| {
            install();
            ours(bench, bench.messages, |handler| handler)
        })
    };
    let little = |of, against| Claim::ratio(Figure::ClientCpu, of, against, AtMost(LITTLE));
    vec![Group {
        name: "observed",
        prepare: fill,
        variants: vec![
            observed(NOTHING, || {}),
            observed(SUBSCRIBER, subscriber),
            Variant::new(TUNED, |bench| {
                subscriber();
                messages(bench, 1000, from_str)
            }),
            #[cfg(feature = "observe")]
            observed(METRICS, metrics),
            #[cfg(feature = "observe")]
            observed(OTEL, otel),
        ],
        claims: vec![
            little(SUBSCRIBER, TUNED),
            little(SUBSCRIBER, NOTHING),
            little(METRICS, NOTHING),
            little(OTEL, NOTHING),
        ],
    }]
}

/// Formats events and the fields of spans, and drops the text.
fn subscriber() {
    tracing_subscriber::fmt().with_max_level(LevelFilter::INFO).with_ansi(false).with_writer(std::io::sink).init();
}

#[cfg(feature = "observe")]
fn metrics() {
    PrometheusBuilder::new().install_recorder().expect("no other recorder is installed");
}

/// Samples no trace, as a service does for most messages.
#[cfg(feature = "observe")]
fn otel() {
    let provider = SdkTracerProvider::builder().with_sampler(Sampler::AlwaysOff).build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("engine"));
    tracing_subscriber::registry().with(LevelFilter::INFO).with(layer).init();
}

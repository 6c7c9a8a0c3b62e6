//! The metrics that the messaging conventions define.

use std::borrow::Cow;
use std::sync::OnceLock;
use std::time::Duration;

use opentelemetry::metrics::{Counter, Histogram, Meter};
use opentelemetry::{InstrumentationScope, KeyValue, global};

use super::attributes::{self, operation};
use crate::declaration::Declaration;
use crate::settings::Settings;

/// The upper bounds that the conventions define for durations in seconds.
const BOUNDS: [f64; 14] = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];

/// Returns the meter of this crate, from the provider that the application has set before.
fn meter() -> Meter {
    let scope = InstrumentationScope::builder(env!("CARGO_PKG_NAME"))
        .with_version(env!("CARGO_PKG_VERSION"))
        .with_schema_url("https://opentelemetry.io/schemas/1.44.0");
    global::meter_with_scope(scope.build())
}

fn messages(meter: &Meter, name: &'static str, description: &'static str) -> Counter<u64> {
    meter.u64_counter(name).with_unit("{message}").with_description(description).build()
}

fn duration(meter: &Meter, name: &'static str, description: &'static str) -> Histogram<f64> {
    let histogram = meter.f64_histogram(name).with_unit("s").with_description(description);
    histogram.with_boundaries(BOUNDS.to_vec()).build()
}

/// The metrics of one handler.
#[derive(Debug)]
pub(crate) struct HandlerMeters {
    consumed: Counter<u64>,
    duration: Histogram<f64>,
    attributes: Vec<KeyValue>,
}

impl HandlerMeters {
    pub(crate) fn new(handler: &Declaration, queue: &str, settings: &Settings) -> Self {
        let subjects: Vec<_> = handler.subjects().iter().map(|subject| settings.declared(subject)).collect();
        let own = [
            KeyValue::new(attributes::CONSUMER_GROUP, queue.to_owned()),
            KeyValue::new(attributes::TEMPLATE, subjects.join(", ")),
        ];
        let meter = meter();
        Self {
            consumed: messages(&meter, "messaging.client.consumed.messages", "Messages that were delivered."),
            duration: duration(&meter, "messaging.process.duration", "Duration of the calls of a handler."),
            attributes: operation("process", "process").into_iter().chain(own).collect(),
        }
    }

    /// A delivery has arrived.
    pub(crate) fn received(&self) {
        self.consumed.add(1, &self.attributes);
    }

    /// A call has ended, of a message or a batch.
    pub(crate) fn processed(&self, took: Duration, error_type: Option<&'static str>) {
        match error_type {
            None => self.duration.record(took.as_secs_f64(), &self.attributes),
            Some(error_type) => {
                let mut attributes = self.attributes.clone();
                attributes.push(KeyValue::new(attributes::ERROR_TYPE, error_type));
                self.duration.record(took.as_secs_f64(), &attributes);
            }
        }
    }
}

/// The metrics of all publishes of this process.
#[derive(Debug)]
pub(super) struct PublishMeters {
    sent: Counter<u64>,
    duration: Histogram<f64>,
    /// The attributes of every publish.
    attributes: Vec<KeyValue>,
}

impl PublishMeters {
    /// Returns the metrics of this process.
    pub(super) fn global() -> &'static Self {
        static METERS: OnceLock<PublishMeters> = OnceLock::new();
        METERS.get_or_init(|| {
            let meter = meter();
            Self {
                sent: messages(&meter, "messaging.client.sent.messages", "Messages that were published."),
                duration: duration(&meter, "messaging.client.operation.duration", "Duration of publishes."),
                attributes: operation("publish", "send").into_iter().collect(),
            }
        })
    }

    /// A publish of this many messages has ended; `pattern` is the subject that their event declares, because other
    /// subjects are without number.
    pub(super) fn published(
        &self,
        pattern: Option<&'static str>,
        messages: u64,
        took: Duration,
        error_type: Option<&'static str>,
    ) {
        let pattern = pattern.map(|pattern| KeyValue::new(attributes::TEMPLATE, pattern));
        let error = error_type.map(|error_type| KeyValue::new(attributes::ERROR_TYPE, error_type));
        let attributes = match (&pattern, &error) {
            (None, None) => Cow::Borrowed(&*self.attributes),
            _ => self.attributes.iter().cloned().chain(pattern).chain(error).collect(),
        };
        self.sent.add(messages, &attributes);
        self.duration.record(took.as_secs_f64(), &attributes);
    }
}

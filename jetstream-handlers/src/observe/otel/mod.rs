//! OpenTelemetry: the context of a trace in the headers of messages, and spans and metrics by the messaging conventions.
//!
//! <https://opentelemetry.io/docs/specs/semconv/messaging/>, version 1.44.

mod attributes;
mod carrier;
pub(crate) mod meters;
pub(crate) mod process;
mod propagation;
pub(crate) mod publish;
mod w3c;

use opentelemetry::baggage::BaggageExt as _;
use opentelemetry::trace::{Status, TraceContextExt as _};
use opentelemetry::{Context, KeyValue};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use super::settled::Settlement;

/// Returns `true` if a context has something to pass on.
pub(super) fn has_trace(context: &Context) -> bool {
    context.span().span_context().is_valid() || !context.baggage().is_empty()
}

/// Records the failure of what a span stands for; `error_type` is one of few values.
pub(super) fn failed(span: &Span, error_type: &'static str, description: &str) {
    span.set_attribute(attributes::ERROR_TYPE, error_type);
    span.set_status(Status::error(description.to_owned()));
}

/// Records that the attempt of a span was acknowledged, only for OpenTelemetry.
pub(super) fn acknowledged(span: &Span) {
    span.set_attribute("outcome", Settlement::Ack.as_str());
}

fn set(span: &Span, attributes: impl IntoIterator<Item = KeyValue>) {
    for KeyValue { key, value, .. } in attributes {
        span.set_attribute(key, value);
    }
}

/// Returns the context that a publish continues: that of the current `tracing` span, or that of OpenTelemetry itself.
fn current() -> Context {
    let of_span = Span::current().context();
    if of_span.span().span_context().is_valid() { of_span } else { Context::current() }
}

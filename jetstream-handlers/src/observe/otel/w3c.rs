//! W3C Trace Context and Baggage, for an application that has set no propagator.

use std::str::FromStr as _;

use opentelemetry::baggage::{BaggageExt as _, KeyValueMetadata};
use opentelemetry::propagation::{Extractor, Injector};
use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceId, TraceState};
use opentelemetry::{Context, Key};

use super::super::trace_context::{TRACEPARENT, TraceParent};

/// The header with what each tracing system adds to a trace.
pub(super) const TRACESTATE: &str = "tracestate";

/// The header with what an application adds to a trace (<https://www.w3.org/TR/baggage/>).
pub(super) const BAGGAGE: &str = "baggage";

/// Returns the context in the headers of a message.
pub(super) fn extract(headers: &dyn Extractor) -> Context {
    let mut context = Context::new();
    if let Some(parent) = headers.get(TRACEPARENT).and_then(|value| span_context(value, headers)) {
        context = context.with_remote_span_context(parent);
    }
    match headers.get(BAGGAGE) {
        Some(baggage) => context.with_baggage(members(baggage)),
        None => context,
    }
}

fn span_context(traceparent: &str, headers: &dyn Extractor) -> Option<SpanContext> {
    let TraceParent { trace_id, span_id, flags } = TraceParent::parse(traceparent)?;
    let state = headers.get(TRACESTATE).and_then(|state| TraceState::from_str(state).ok()).unwrap_or_default();
    let (trace_id, span_id) = (TraceId::from_hex(trace_id).ok()?, SpanId::from_hex(span_id).ok()?);
    // Of the flags, this library knows only the first one.
    let flags = TraceFlags::new(flags) & TraceFlags::SAMPLED;
    Some(SpanContext::new(trace_id, span_id, flags, true, state))
}

/// Writes the context into the headers of a message.
pub(super) fn inject(context: &Context, headers: &mut dyn Injector) {
    let span = context.span();
    let span = span.span_context();
    if span.is_valid() {
        let (trace_id, span_id) = (span.trace_id().to_string(), span.span_id().to_string());
        let flags = span.trace_flags().to_u8();
        let parent = TraceParent { trace_id: &trace_id, span_id: &span_id, flags };
        headers.set(TRACEPARENT, parent.to_string());
        headers.set(TRACESTATE, span.trace_state().header());
    }
    if !context.baggage().is_empty() {
        headers.set(BAGGAGE, context.baggage().to_string());
    }
}

/// Returns the members of a baggage; those that are invalid are left out.
fn members(baggage: &str) -> impl Iterator<Item = KeyValueMetadata> {
    baggage.split(',').filter_map(|member| {
        let (member, metadata) = member.split_once(';').unwrap_or((member, ""));
        let (key, value) = member.split_once('=')?;
        let value = percent_decoded(value.trim())?;
        Some(KeyValueMetadata::new(Key::from(key.trim().to_owned()), value, metadata.trim()))
    })
}

/// Returns a text without its percent-encoding; `None` if it is not UTF-8.
fn percent_decoded(text: &str) -> Option<String> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let digits = tail.get(..2).filter(|_| *first == b'%').and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                decoded.push(byte);
                rest = &tail[2..];
            }
            None => {
                decoded.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8(decoded).ok()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn headers(lines: &[(&str, &str)]) -> HashMap<String, String> {
        lines.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn extracted_context_is_injected_again() {
        let received = headers(&[
            (TRACEPARENT, PARENT),
            (TRACESTATE, "one=1,two=2"),
            (BAGGAGE, "plan=free%20trial%2C%C3%A9%;secret"),
        ]);
        let context = extract(&received);
        let span = context.span().span_context().clone();
        assert!(span.is_valid() && span.is_remote() && span.is_sampled());
        assert_eq!(context.baggage().get("plan").map(ToString::to_string).as_deref(), Some("free trial,é%"));
        let mut sent = HashMap::new();
        inject(&context, &mut sent);
        assert_eq!(
            sent,
            headers(&[
                (TRACEPARENT, PARENT),
                (TRACESTATE, "one=1,two=2"),
                (BAGGAGE, "plan=free%20trial%2C%C3%A9%25;secret"),
            ])
        );
    }

    #[test]
    fn invalid_headers_are_ignored() {
        let invalid =
            [headers(&[]), headers(&[(TRACEPARENT, "00-what"), (TRACESTATE, "one=1"), (BAGGAGE, "a,b;c,=d,e=%FF")])];
        for received in invalid {
            let mut sent = HashMap::new();
            inject(&extract(&received), &mut sent);
            assert_eq!(sent, headers(&[]), "{received:?}");
        }
        // Without the state, the trace goes on.
        let context = extract(&headers(&[(TRACEPARENT, PARENT), (TRACESTATE, "no state")]));
        assert!(context.span().span_context().is_valid());
    }
}

//! The context of a trace in the headers of a message, by the propagator of the application.

use async_nats::HeaderMap;
use opentelemetry::{Context, global};

use super::super::trace_context::{TRACEPARENT, first};
use super::carrier::{Received, ToPublish};
use super::w3c::{self, BAGGAGE};

/// Returns the context in the headers of a message; it is empty if they have none.
pub(super) fn extract(headers: &HeaderMap) -> Context {
    let received = Received::new(headers);
    global::get_text_map_propagator(|propagator| match propagator.fields().next() {
        Some(_) => propagator.extract_with_context(&Context::new(), &received),
        // The one of an application that has set none does nothing.
        None => w3c::extract(&received),
    })
}

/// Writes the context into the headers of a message, unless it has one; it keeps a baggage that it has.
///
/// The headers grow by at most `space` bytes, because a message without a trace is better than none.
pub(super) fn inject(context: &Context, headers: &mut HeaderMap, space: usize) {
    global::get_text_map_propagator(|propagator| {
        let mut fields = propagator.fields().peekable();
        let is_set = fields.peek().is_some();
        // With a part of another context, the message would have none that is consistent.
        let has_other = |field: &str| field != BAGGAGE && first(headers, field).is_some();
        if fields.any(has_other) || !is_set && has_other(TRACEPARENT) {
            return;
        }
        let mut headers = ToPublish { headers, space };
        if is_set { propagator.inject_context(context, &mut headers) } else { w3c::inject(context, &mut headers) }
    });
}

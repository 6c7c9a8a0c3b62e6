//! The context of a trace in the headers of a message, by the propagator of the application.

use async_nats::HeaderMap;
use opentelemetry::{Context, global};

use super::super::trace_context::{TRACEPARENT, first};
use super::carrier::{Received, ToPublish};
use super::has_trace;
use super::w3c::{self, BAGGAGE};
use crate::message::Outgoing;

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
/// A message that would be larger than `max_payload` stays without, because one without a trace is better than none.
pub(super) fn inject(context: &Context, message: &mut Outgoing, max_payload: usize) {
    global::get_text_map_propagator(|propagator| {
        let mut fields = propagator.fields().peekable();
        let is_set = fields.peek().is_some();
        if !is_set && !has_trace(context) {
            return;
        }
        // With a part of another context, the message would have none that is consistent.
        let has_other = |field: &str| field != BAGGAGE && first(&message.headers, field).is_some();
        if fields.any(has_other) || !is_set && has_other(TRACEPARENT) {
            return;
        }
        let space = message.header_space(max_payload);
        let mut headers = ToPublish { headers: &mut message.headers, space };
        if is_set { propagator.inject_context(context, &mut headers) } else { w3c::inject(context, &mut headers) }
    });
}

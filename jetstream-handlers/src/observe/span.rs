//! The spans in which messages are handled.
//!
//! They have the level of the most severe event in them, because a filter for warnings drops the fields of a lower span.

use tracing::Span;
use tracing::field::Empty;

use crate::delivery::Binding;
use crate::message::Message;
use crate::outcome::Reason;
use crate::plan::Declaration;

/// Returns the span of one attempt at a message.
pub(crate) fn attempt(handler: &Declaration, binding: &Binding, message: &Message) -> Span {
    tracing::error_span!(
        "handle",
        handler = handler.name,
        stream = binding.stream,
        queue = binding.consumer,
        subject = message.subject(),
        sequence = message.info.stream_sequence(),
        delivered = message.info.delivered(),
        outcome = Empty,
    )
}

/// Returns the span of one attempt at several messages.
pub(crate) fn batch<'a>(
    handler: &Declaration,
    binding: &Binding,
    mut messages: impl ExactSizeIterator<Item = &'a Message>,
) -> Span {
    tracing::error_span!(
        "handle_batch",
        handler = handler.name,
        stream = binding.stream,
        queue = binding.consumer,
        messages = messages.len(),
        sequence = messages.next().map(|first| first.info.stream_sequence()),
    )
}

/// Records the end of the attempt whose span is the current one.
pub(crate) fn ended(outcome: &'static str, _reason: Option<Reason>) {
    Span::current().record("outcome", outcome);
}

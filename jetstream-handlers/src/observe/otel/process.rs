//! The span of an attempt: its name, its attributes, and the traces that it continues.

use opentelemetry::trace::TraceContextExt as _;
use opentelemetry::{Context, KeyValue};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use super::attributes::{self, operation};
use super::{has_trace, propagation, set};
use crate::delivery::Binding;
use crate::message::Message;
use crate::pattern::filter;
use crate::plan::Declaration;
use crate::settings::Settings;
use crate::subject::covers;

/// Returns the subject that a handler declares for a message, without the prefix of the environment.
///
/// It names the span, because the subjects of messages are without number.
pub(crate) fn declared<'a>(handler: &'a Declaration, settings: &Settings, message: &Message) -> &'a str {
    settings.declared(declared_subject(handler, Some(message)))
}

/// Returns the subject that a handler declares for the first message of a batch.
pub(crate) fn declared_of_batch<'a>(handler: &'a Declaration, settings: &Settings, first: Option<&Message>) -> &'a str {
    settings.declared(declared_subject(handler, first))
}

fn declared_subject<'a>(handler: &'a Declaration, message: Option<&Message>) -> &'a str {
    let mut subjects = handler.plan.subject.iter();
    let matching =
        subjects.clone().find(|subject| message.is_some_and(|message| covers(&filter(subject), message.subject())));
    // A stream may deliver a message under another subject than any of them.
    matching.or_else(|| subjects.next()).unwrap_or_default()
}

/// Makes the span of an attempt a child of the span that published the message; returns the context of the message.
///
/// It must be called before the span is entered, because a sampler decides by the parent and the attributes then.
pub(crate) fn continue_trace(
    span: &Span,
    handler: &Declaration,
    binding: &Binding,
    settings: &Settings,
    message: &Message,
) -> Context {
    let context = message.headers.as_deref().map(propagation::extract).unwrap_or_default();
    let parent = if has_trace(&context) { context.clone() } else { Context::current() };
    // It fails if nothing collects spans for OpenTelemetry.
    if span.set_parent(parent).is_ok() {
        set(span, of_handler(handler, binding, settings, message));
        set(span, of_message(message));
    }
    context
}

/// Links the span of an attempt at several messages to the spans that published them.
pub(crate) fn link_traces<'a>(
    span: &Span,
    handler: &Declaration,
    binding: &Binding,
    settings: &Settings,
    messages: &(impl ExactSizeIterator<Item = &'a Message> + Clone),
) {
    let Some(first) = messages.clone().next() else { return };
    if span.set_parent(Context::current()).is_err() {
        return;
    }
    set(span, of_handler(handler, binding, settings, first));
    span.set_attribute(attributes::BATCH_COUNT, messages.len() as i64);
    for message in messages.clone() {
        let Some(headers) = message.headers.as_deref() else { continue };
        let context = propagation::extract(headers);
        span.add_link_with_attributes(context.span().span_context().clone(), of_message(message).into());
    }
}

/// Returns the attributes that all messages of a handler share.
fn of_handler(
    handler: &Declaration,
    binding: &Binding,
    settings: &Settings,
    message: &Message,
) -> impl Iterator<Item = KeyValue> {
    let own = [
        KeyValue::new(attributes::TEMPLATE, declared(handler, settings, message).to_owned()),
        KeyValue::new(attributes::CONSUMER_GROUP, binding.consumer.clone()),
        KeyValue::new(attributes::STREAM, binding.stream.clone()),
    ];
    operation("process", "process").into_iter().chain(own)
}

/// Returns the attributes of one message.
fn of_message(message: &Message) -> [KeyValue; 6] {
    let info = &message.info;
    [
        KeyValue::new(attributes::DESTINATION, message.subject().to_owned()),
        KeyValue::new(attributes::MESSAGE_ID, message.idempotency_key().into_owned()),
        KeyValue::new(attributes::BODY_SIZE, message.payload.len() as i64),
        KeyValue::new(attributes::STREAM_SEQUENCE, info.stream_sequence() as i64),
        KeyValue::new(attributes::CONSUMER_SEQUENCE, info.consumer_sequence() as i64),
        KeyValue::new(attributes::DELIVERY_COUNT, info.delivered() as i64),
    ]
}

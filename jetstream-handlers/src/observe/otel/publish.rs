//! The span of a publish, whose context the published messages carry.

use std::time::Duration;

use async_nats::header;
use opentelemetry::trace::{SpanContext, TraceContextExt as _};
use opentelemetry::{Context, KeyValue};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use super::attributes::{self, operation};
use super::meters::PublishMeters;
use super::{current, propagation, set};
use crate::error::{Error, ErrorKind};
use crate::message::{Outgoing, PublishAck};
use crate::settings::Settings;

/// The span of the publish of a message or a batch.
#[derive(Debug)]
pub(crate) struct PublishSpan {
    pub(crate) span: Span,
    /// The context that the messages carry.
    context: Context,
    pattern: Option<&'static str>,
    messages: u64,
}

impl PublishSpan {
    /// Returns the span of the publish of one message.
    pub(crate) fn of_message(settings: &Settings, message: &Outgoing) -> Self {
        Self::begin(settings, message, || {
            let id = message.header(header::NATS_MESSAGE_ID);
            let id = id.map(|id| KeyValue::new(attributes::MESSAGE_ID, id.to_owned()));
            id.into_iter().chain([KeyValue::new(attributes::BODY_SIZE, message.payload.len() as i64)])
        })
    }

    /// Returns the span of the publish of a batch of this many messages that begins with `first`.
    pub(crate) fn of_batch(settings: &Settings, first: &Outgoing, messages: u64) -> Self {
        Self { messages, ..Self::begin(settings, first, || []) }
    }

    /// Sets the number of messages of a batch.
    pub(crate) fn set_messages(&mut self, messages: u64) {
        self.messages = messages;
    }

    fn begin<A>(settings: &Settings, message: &Outgoing, of_message: impl FnOnce() -> A) -> Self
    where
        A: IntoIterator<Item = KeyValue>,
    {
        let parent = current();
        let own = match message.headers.is_empty() {
            true => SpanContext::NONE,
            false => propagation::extract(&message.headers).span().span_context().clone(),
        };
        let span = tracing::info_span!(
            "publish",
            otel.name = format_args!("publish {}", destination(settings, message)),
            // The message continues another trace, to which this span is only linked.
            otel.kind = if own.is_valid() { "client" } else { "producer" },
            subject = &*message.subject,
        );
        let begun = Self { span, context: parent, pattern: message.pattern, messages: 1 };
        // Setting the parent fails if nothing collects spans for OpenTelemetry.
        if begun.span.is_disabled() || begun.span.set_parent(begun.context.clone()).is_err() {
            return begun;
        }
        let span = &begun.span;
        set(span, operation("publish", "send"));
        span.set_attribute(attributes::DESTINATION, message.subject.to_string());
        if let Some(pattern) = message.pattern {
            span.set_attribute(attributes::TEMPLATE, pattern);
        }
        set(span, of_message());
        span.add_link(own);
        Self { context: span.context(), ..begun }
    }

    /// Adds the context to a message, unless it carries one, or would be larger than `max_payload` with it.
    pub(crate) fn inject(&self, message: &mut Outgoing, max_payload: usize) {
        propagation::inject(&self.context, message, max_payload);
    }

    /// Records the result of the publish, and the time that it took.
    pub(crate) fn ended(&self, result: Result<&PublishAck, &Error>, took: Duration) {
        let error_type = result.err().map(|error| error_type(error.kind()));
        PublishMeters::global().published(self.pattern, self.messages, took, error_type);
        if self.span.is_disabled() {
            return;
        }
        match result {
            Ok(ack) => {
                self.span.set_attribute(attributes::STREAM, ack.stream.clone());
                self.span.set_attribute(attributes::STREAM_SEQUENCE, ack.sequence as i64);
                if let Some(count) = ack.batch_size {
                    self.span.set_attribute(attributes::BATCH_COUNT, count as i64);
                }
            }
            Err(error) => super::failed(&self.span, error_type.unwrap_or_default(), &error.to_string()),
        }
    }
}

/// Returns the destination in the name of a span: the subject that the event declares, or that of the message.
fn destination<'a>(settings: &Settings, message: &'a Outgoing) -> &'a str {
    message.pattern.unwrap_or_else(|| settings.declared(&message.subject))
}

/// Returns the `error.type` of a publish.
fn error_type(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Authorization => "authorization",
        ErrorKind::Closed => "closed",
        ErrorKind::Config => "config",
        ErrorKind::Duplicate => "duplicate",
        ErrorKind::PayloadTooLarge => "payload_too_large",
        ErrorKind::Publish => "publish",
        ErrorKind::StreamMismatch => "stream_mismatch",
        ErrorKind::StreamNotFound => "stream_not_found",
        ErrorKind::Timeout => "timeout",
        ErrorKind::WrongLastSequence => "wrong_last_sequence",
        // These are no errors of a publish.
        _ => "_OTHER",
    }
}

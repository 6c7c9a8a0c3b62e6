//! The span of an attempt: its name, its attributes, and the traces that it continues.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use opentelemetry::trace::TraceContextExt as _;
use opentelemetry::{Context, KeyValue};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use super::attributes::{self, operation};
use super::{has_trace, propagation, set};
use crate::declaration::Declaration;
use crate::delivery::Binding;
use crate::message::Message;
use crate::pattern::filter;
use crate::settings::Settings;
use crate::subject::covers;

/// The traces that the spans of one handler continue.
#[derive(Debug)]
pub(crate) struct Traces {
    /// The subjects that the handler declares, of which the first is also that of other subjects.
    subjects: Vec<Declared>,
    queue: Arc<str>,
    stream: Arc<str>,
    /// `true` if the last span was exported: if a layer collects spans for OpenTelemetry.
    ///
    /// Only then a span has a name and a kind as fields, which every other layer formats as well.
    is_exported: AtomicBool,
}

/// A subject that a handler declares.
#[derive(Debug)]
struct Declared {
    filter: String,
    /// The name of the span, because the subjects of messages are without number.
    name: String,
    /// The subject without the prefix of the environment.
    template: Arc<str>,
}

impl Declared {
    fn new(subject: &str, settings: &Settings) -> Self {
        let template = settings.declared(subject);
        Self { filter: filter(subject).into_owned(), name: format!("process {template}"), template: template.into() }
    }
}

impl Traces {
    /// The kind of a span.
    pub(crate) const KIND: &'static str = "consumer";

    pub(crate) fn new(handler: &Declaration, binding: &Binding, settings: &Settings) -> Self {
        Self {
            subjects: handler.subjects().iter().map(|subject| Declared::new(subject, settings)).collect(),
            queue: binding.consumer.as_str().into(),
            stream: binding.stream.as_str().into(),
            is_exported: AtomicBool::new(false),
        }
    }

    /// Returns the name of the span of an attempt at a message, or at several, of which this is the first; `None` if no
    /// span is exported.
    pub(crate) fn exported_name(&self, first: Option<&Message>) -> Option<&str> {
        if !self.is_exported.load(Ordering::Relaxed) {
            return None;
        }
        self.declared(first).map(|declared| &*declared.name)
    }

    /// Returns the subject that the handler declares for a message.
    fn declared(&self, message: Option<&Message>) -> Option<&Declared> {
        if let ([_, _, ..], Some(message)) = (&*self.subjects, message) {
            let matching = self.subjects.iter().find(|declared| covers(&declared.filter, message.subject()));
            if matching.is_some() {
                return matching;
            }
        }
        // A stream may deliver a message under another subject than any of them.
        self.subjects.first()
    }

    /// Makes the span of an attempt a child of the span that published the message; returns whether it is exported, and
    /// the context of the message if it has one. `name` is the one that the span has.
    ///
    /// It must be called before the span is entered, because a sampler decides by the parent and the attributes then.
    pub(crate) fn continue_trace(&self, span: &Span, name: Option<&str>, message: &Message) -> (bool, Option<Context>) {
        let context = message.headers.as_deref().map(propagation::extract).filter(has_trace);
        if span.is_disabled() {
            return (false, context);
        }
        let is_exported = self.begin(span, name, context.as_ref(), Some(message));
        if is_exported {
            set(span, of_message(message));
        }
        (is_exported, context)
    }

    /// Links the span of an attempt at several messages to the spans that published them; returns `true` if it is
    /// exported.
    pub(crate) fn link_traces<'a>(
        &self,
        span: &Span,
        name: Option<&str>,
        messages: &(impl ExactSizeIterator<Item = &'a Message> + Clone),
    ) -> bool {
        if span.is_disabled() || !self.begin(span, name, None, messages.clone().next()) {
            return false;
        }
        span.set_attribute(attributes::BATCH_COUNT, messages.len() as i64);
        for message in messages.clone() {
            let Some(headers) = message.headers.as_deref() else { continue };
            let context = propagation::extract(headers);
            span.add_link_with_attributes(context.span().span_context().clone(), of_message(message).into());
        }
        true
    }

    /// Sets the parent of a span, and what all messages of the handler share; returns `true` if the span is exported.
    fn begin(&self, span: &Span, name: Option<&str>, parent: Option<&Context>, first: Option<&Message>) -> bool {
        // It fails if nothing collects spans for OpenTelemetry.
        let is_exported = span.set_parent(parent.cloned().unwrap_or_else(Context::current)).is_ok();
        // An application may have several subscribers, of which each thread uses another.
        if is_exported != name.is_some() {
            self.is_exported.store(is_exported, Ordering::Relaxed);
        }
        let Some(declared) = self.declared(first).filter(|_| is_exported) else { return is_exported };
        if name.is_none() {
            span.record("otel.name", &*declared.name).record("otel.kind", Self::KIND);
        }
        set(span, operation("process", "process"));
        set(span, self.shared(declared));
        true
    }

    /// Returns the attributes that all messages of the handler with this declared subject share.
    fn shared(&self, declared: &Declared) -> [KeyValue; 3] {
        [
            KeyValue::new(attributes::TEMPLATE, declared.template.clone()),
            KeyValue::new(attributes::CONSUMER_GROUP, self.queue.clone()),
            KeyValue::new(attributes::STREAM, self.stream.clone()),
        ]
    }
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

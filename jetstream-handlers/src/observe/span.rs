//! The spans in which messages are handled.
//!
//! They have the level of the most severe event in them, because a filter for warnings drops the fields of a lower span.

#[cfg(feature = "otel")]
use opentelemetry::context::FutureExt as _;
use tracing::field::Empty;
use tracing::{Instrument as _, Span};

#[cfg(feature = "otel")]
use super::otel::process;
use super::settled::Settled;
use super::trace_context::TraceParent;
use crate::delivery::Binding;
use crate::message::Message;
use crate::plan::Declaration;
use crate::settings::Settings;

/// Returns a span of a handler; with OpenTelemetry, it has the name and the kind that the conventions define.
#[cfg(feature = "otel")]
macro_rules! handler_span {
    ($name:literal, $declared:expr, $($fields:tt)*) => {
        tracing::error_span!(
            $name,
            otel.name = format_args!("process {}", $declared),
            otel.kind = "consumer",
            $($fields)*
        )
    };
}

#[cfg(not(feature = "otel"))]
macro_rules! handler_span {
    ($name:literal, $declared:expr, $($fields:tt)*) => { tracing::error_span!($name, $($fields)*) };
}

/// The span of an attempt, and the trace of its message.
#[derive(Debug, Clone)]
pub(crate) struct Scope {
    span: Span,
    /// The context of the message, which reaches what the handler publishes even if no span is recorded.
    #[cfg(feature = "otel")]
    context: opentelemetry::Context,
}

/// Returns the scope of one attempt at a message.
pub(crate) fn attempt(handler: &Declaration, binding: &Binding, settings: &Settings, message: &Message) -> Scope {
    let span = handler_span!(
        "process",
        process::declared(handler, settings, message),
        handler = handler.name,
        stream = binding.stream,
        queue = binding.consumer,
        subject = message.subject(),
        sequence = message.info.stream_sequence(),
        delivered = message.info.delivered(),
        trace_id = trace_id(message),
        outcome = Empty,
    );
    #[cfg(feature = "otel")]
    let context = process::continue_trace(&span, handler, binding, settings, message);
    #[cfg(not(feature = "otel"))]
    let _ = settings;
    Scope {
        span,
        #[cfg(feature = "otel")]
        context,
    }
}

/// Returns the scope of one attempt at several messages.
pub(crate) fn batch<'a>(
    handler: &Declaration,
    binding: &Binding,
    settings: &Settings,
    messages: &(impl ExactSizeIterator<Item = &'a Message> + Clone),
) -> Scope {
    let first = messages.clone().next();
    let span = handler_span!(
        "process_batch",
        process::declared_of_batch(handler, settings, first),
        handler = handler.name,
        stream = binding.stream,
        queue = binding.consumer,
        messages = messages.len(),
        sequence = first.map(|first| first.info.stream_sequence()),
        outcome = Empty,
    );
    #[cfg(feature = "otel")]
    process::link_traces(&span, handler, binding, settings, messages);
    #[cfg(not(feature = "otel"))]
    let _ = settings;
    Scope {
        span,
        #[cfg(feature = "otel")]
        context: opentelemetry::Context::new(),
    }
}

impl Scope {
    /// Returns the scope in which this is called, to run a part of an attempt on another thread.
    pub(crate) fn current() -> Self {
        Self {
            span: Span::current(),
            #[cfg(feature = "otel")]
            context: opentelemetry::Context::current(),
        }
    }

    /// Returns `true` if a future need not run in this scope: no span is recorded, and the message has no trace.
    pub(crate) fn is_empty(&self) -> bool {
        #[cfg(feature = "otel")]
        if super::otel::has_trace(&self.context) {
            return false;
        }
        self.span.is_disabled()
    }

    /// Calls a function in this scope.
    #[inline]
    pub(crate) fn in_scope<T>(&self, f: impl FnOnce() -> T) -> T {
        if self.span.is_disabled() { f() } else { self.span.in_scope(f) }
    }

    /// Records how the attempt was settled.
    #[inline]
    pub(crate) fn settled(&self, settled: &Settled) {
        if !self.span.is_disabled() {
            self.record(settled);
        }
    }

    fn record(&self, settled: &Settled) {
        self.span.record("outcome", settled.settlement.as_str());
        #[cfg(feature = "otel")]
        if let Some(failed) = &settled.failed {
            super::otel::failed(&self.span, failed.failure.reason.as_str(), &failed.failure.error);
        }
    }

    /// Runs a future in this scope.
    pub(crate) fn run<F: Future>(self, future: F) -> impl Future<Output = F::Output> {
        let future = future.instrument(self.span);
        #[cfg(feature = "otel")]
        let future = future.with_context(self.context);
        future
    }
}

fn trace_id(message: &Message) -> Option<&str> {
    Some(TraceParent::of(message.headers.as_deref()?)?.trace_id)
}

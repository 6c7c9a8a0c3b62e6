//! The spans in which messages are handled.
//!
//! They have the level of the most severe event in them, because a filter for warnings drops the fields of a lower span.
//! A subscriber may format each field when the span is made or recorded, so a span has few of them, and only a failure
//! adds another one.

use std::pin::Pin;
use std::task::{Context as TaskContext, Poll};

#[cfg(feature = "otel")]
use opentelemetry::context::FutureExt as _;
use tracing::field::Empty;
use tracing::{Instrument as _, Span};

#[cfg(feature = "otel")]
use super::otel::process::Traces;
use super::settled::{Settled, Settlement};
use super::trace_context::TraceParent;
use crate::declaration::Declaration;
use crate::delivery::Binding;
use crate::message::{DeliveryId, Message};
use crate::settings::Settings;

/// The target of the spans, by which a filter disables them.
const TARGET: &str = "jetstream_handlers::attempt";

/// Returns a span of a handler; for OpenTelemetry, it has the name and the kind that the conventions define.
#[cfg(feature = "otel")]
macro_rules! handler_span {
    ($name:literal, $exported:expr, $($fields:tt)*) => {
        tracing::error_span!(
            target: TARGET,
            $name,
            otel.name = $exported,
            otel.kind = $exported.map(|_| Traces::KIND),
            $($fields)*
        )
    };
}

#[cfg(not(feature = "otel"))]
macro_rules! handler_span {
    ($name:literal, $exported:expr, $($fields:tt)*) => {
        tracing::error_span!(target: TARGET, $name, $($fields)*)
    };
}

/// The spans of one handler.
#[derive(Debug)]
pub(crate) struct Spans {
    #[cfg(feature = "otel")]
    traces: Traces,
}

/// The span of an attempt, and the trace of its message.
#[derive(Debug, Clone)]
pub(crate) struct Scope {
    span: Span,
    /// `true` if the span is exported to OpenTelemetry.
    #[cfg(feature = "otel")]
    is_exported: bool,
    /// The context of the message, which reaches what the handler publishes even if no span is recorded; `None` if the
    /// message has none.
    #[cfg(feature = "otel")]
    context: Option<opentelemetry::Context>,
}

impl Spans {
    pub(crate) fn new(handler: &Declaration, binding: &Binding, settings: &Settings) -> Self {
        #[cfg(not(feature = "otel"))]
        let _ = (handler, binding, settings);
        Self {
            #[cfg(feature = "otel")]
            traces: Traces::new(handler, binding, settings),
        }
    }

    /// Returns the scope of one attempt at a message.
    pub(crate) fn attempt(&self, handler: &Declaration, binding: &Binding, message: &Message) -> Scope {
        #[cfg(feature = "otel")]
        let exported = self.traces.exported_name(Some(message));
        let span = handler_span!(
            "process",
            exported,
            handler = handler.name,
            stream = binding.stream,
            queue = binding.consumer,
            subject = message.subject(),
            // As `u64`, they would be exported as text.
            sequence = message.info.stream_sequence() as i64,
            delivered = message.info.delivered() as i64,
            trace_id = trace_id(message),
            outcome = Empty,
        );
        #[cfg(feature = "otel")]
        let (is_exported, context) = self.traces.continue_trace(&span, exported, message);
        Scope {
            span,
            #[cfg(feature = "otel")]
            is_exported,
            #[cfg(feature = "otel")]
            context,
        }
    }

    /// Returns the scope of one attempt at several messages.
    pub(crate) fn batch<'a>(
        &self,
        handler: &Declaration,
        binding: &Binding,
        messages: &(impl ExactSizeIterator<Item = &'a Message> + Clone),
    ) -> Scope {
        let first = messages.clone().next();
        #[cfg(feature = "otel")]
        let exported = self.traces.exported_name(first);
        let span = handler_span!(
            "process_batch",
            exported,
            handler = handler.name,
            stream = binding.stream,
            queue = binding.consumer,
            messages = messages.len() as i64,
            sequence = first.map(|first| first.info.stream_sequence() as i64),
            outcome = Empty,
        );
        Scope {
            #[cfg(feature = "otel")]
            is_exported: self.traces.link_traces(&span, exported, messages),
            span,
            #[cfg(feature = "otel")]
            context: None,
        }
    }
}

impl Scope {
    /// Returns the scope in which this is called, to run a part of an attempt on another thread.
    pub(crate) fn current() -> Self {
        Self {
            span: Span::current(),
            #[cfg(feature = "otel")]
            is_exported: false,
            #[cfg(feature = "otel")]
            context: Some(opentelemetry::Context::current()),
        }
    }

    /// Calls a function in this scope.
    #[inline]
    pub(crate) fn in_scope<T>(&self, f: impl FnOnce() -> T) -> T {
        if self.span.is_disabled() { f() } else { self.span.in_scope(f) }
    }

    /// Records how the attempt was settled.
    ///
    /// The span of an attempt that was acknowledged has no `outcome`, which costs as much as several other fields: a
    /// subscriber that writes JSON parses all of them again.
    #[inline]
    pub(crate) fn settled(&self, settled: &Settled) {
        if self.span.is_disabled() {
            return;
        }
        match settled.settlement {
            #[cfg(feature = "otel")]
            Settlement::Ack if self.is_exported => super::otel::acknowledged(&self.span),
            Settlement::Ack => {}
            _ => self.record(settled),
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
        let future = future.with_context(self.context.unwrap_or_default());
        future
    }

    /// Runs a future in this scope where it is, once; it is also dropped in this scope.
    ///
    /// It costs less than [`run`](Self::run), and nothing if no span is recorded.
    pub(crate) fn run_in_place<'a, F: Future>(&'a self, future: Pin<&'a mut Option<F>>) -> RunInPlace<'a, F> {
        RunInPlace { scope: self, future }
    }

    #[inline]
    fn poll<T>(&self, poll: impl FnOnce() -> T) -> T {
        #[cfg(feature = "otel")]
        let _context = self.context.clone().map(opentelemetry::Context::attach);
        self.in_scope(poll)
    }
}

/// The future of [`Scope::run_in_place`].
#[derive(Debug)]
pub(crate) struct RunInPlace<'a, F> {
    scope: &'a Scope,
    future: Pin<&'a mut Option<F>>,
}

impl<F: Future> Future for RunInPlace<'_, F> {
    type Output = F::Output;

    #[inline]
    fn poll(self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<F::Output> {
        let Self { scope, future } = self.get_mut();
        scope.poll(|| {
            let Some(running) = future.as_mut().as_pin_mut() else { return Poll::Pending };
            let poll = running.poll(task);
            if poll.is_ready() {
                future.set(None);
            }
            poll
        })
    }
}

impl<F> Drop for RunInPlace<'_, F> {
    fn drop(&mut self) {
        if self.future.is_some() {
            self.scope.poll(|| self.future.set(None));
        }
    }
}

/// Returns the span of the log line of a failure, if a filter has disabled that of the attempt.
pub(super) fn of_failure(handler: &str, stream: &str, queue: &str, subject: &str, delivery: DeliveryId) -> Span {
    tracing::error_span!(
        "process",
        handler,
        stream,
        queue,
        subject,
        sequence = delivery.stream_sequence,
        delivered = delivery.delivered
    )
}

fn trace_id(message: &Message) -> Option<&str> {
    Some(TraceParent::of(message.headers.as_deref()?)?.trace_id)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::pin::pin;

    use futures::FutureExt as _;

    use super::*;

    /// A value that notes the span in which it is dropped.
    struct Dropped<'a>(&'a Cell<Option<&'static str>>);

    impl Drop for Dropped<'_> {
        fn drop(&mut self) {
            self.0.set(Span::current().metadata().map(tracing::Metadata::name));
        }
    }

    #[test]
    fn future_that_does_not_end_is_dropped_in_its_scope() {
        let _subscriber = tracing::subscriber::set_default(tracing_subscriber::registry());
        let scope = Scope {
            span: tracing::error_span!("process"),
            #[cfg(feature = "otel")]
            is_exported: false,
            #[cfg(feature = "otel")]
            context: None,
        };
        for is_polled in [false, true] {
            let dropped_in = Cell::new(None);
            let value = Dropped(&dropped_in);
            let mut future = pin!(Some(async move {
                let _value = value;
                std::future::pending::<()>().await;
            }));
            let running = scope.run_in_place(future.as_mut());
            if is_polled {
                assert_eq!(running.now_or_never(), None);
            } else {
                drop(running);
            }
            assert_eq!((dropped_in.get(), future.is_none()), (Some("process"), true), "polled: {is_polled}");
        }
    }
}

//! The observer of one handler, to which everything that happens to its messages is reported once.

use tokio::time::Instant;
use tracing::Span;

use super::activity::Activity;
use super::hooks::Hooks;
use super::queued::Queued;
use super::recorder::{Call, Recorder};
use super::settled::{Called, Failed, Next, Settled, SettledEvent, Settlement};
use super::span::{self, Spans};
use crate::declaration::Declaration;
use crate::delivery::Binding;
use crate::message::{DeliveryId, Info, Message};
use crate::outcome::{Failure, Outcome, Reason};
use crate::settings::Settings;

/// The observer of one handler.
///
/// It passes what is reported on to the log, the current span, the health, the metrics, the functions of the
/// application, and the recorder of a test.
#[derive(Debug)]
pub(crate) struct Observer {
    handler: String,
    queue: String,
    stream: String,
    pub(crate) activity: Activity,
    pub(crate) spans: Spans,
    hooks: Hooks,
    recorder: Option<Recorder>,
    #[cfg(feature = "metrics")]
    pub(crate) metrics: super::handler_metrics::HandlerMetrics,
    #[cfg(feature = "otel")]
    meters: super::otel::meters::HandlerMeters,
}

/// A delivery whose attempt has ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ended<'a> {
    pub(crate) delivery: DeliveryId,
    pub(crate) subject: &'a str,
    pub(crate) times: Times,
    /// The call; `None` if the handler was not called.
    pub(crate) call: Option<Called>,
}

/// The times of an attempt.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    /// The time at which the delivery arrived.
    pub(crate) received: Instant,
    /// The time at which the attempt began.
    pub(crate) begun: Instant,
}

/// The time in the buffer, which a histogram computes only if the application has installed a recorder.
#[cfg(feature = "metrics")]
impl ::metrics::IntoF64 for Times {
    fn into_f64(self) -> f64 {
        self.begun.saturating_duration_since(self.received).as_secs_f64()
    }
}

impl Observer {
    pub(crate) fn new(
        handler: &Declaration,
        binding: &Binding,
        settings: &Settings,
        hooks: Hooks,
        recorder: Option<Recorder>,
    ) -> Self {
        let (name, stream, queue) = (handler.name.clone(), binding.stream.clone(), binding.consumer.clone());
        Self {
            #[cfg(feature = "metrics")]
            metrics: super::handler_metrics::HandlerMetrics::new(&name, binding),
            #[cfg(feature = "otel")]
            meters: super::otel::meters::HandlerMeters::new(handler, &queue, settings),
            handler: name,
            queue,
            stream,
            activity: Activity::new(),
            spans: Spans::new(handler, binding, settings),
            hooks,
            recorder,
        }
    }

    /// A delivery has arrived.
    #[inline]
    pub(crate) fn received(&self, _delivery: &Info) {
        #[cfg(feature = "metrics")]
        self.metrics.received(_delivery.is_redelivered());
        #[cfg(feature = "otel")]
        self.meters.received();
    }

    /// The consumer had this number of messages to deliver after the last one that has arrived.
    #[inline]
    pub(crate) fn pending(&self, pending: u64) {
        self.activity.received(pending);
        #[cfg(feature = "metrics")]
        self.metrics.pending(pending);
    }

    /// A slot has taken a delivery from the buffer.
    #[inline]
    pub(crate) fn started(&self, _delivery: DeliveryId, _times: Times) {
        #[cfg(feature = "metrics")]
        {
            // The time before a redelivery is that of the backoff.
            let queued = (_delivery.delivered == 1).then_some(Queued { stored_at: _delivery.stored_at });
            self.metrics.started(queued, _times);
        }
    }

    /// A call has ended, of a message or a batch.
    #[inline]
    pub(crate) fn called(&self, _call: &Called) {
        #[cfg(feature = "metrics")]
        self.metrics.called(*_call);
        #[cfg(feature = "otel")]
        self.meters.processed(_call.took(), _call.failed.map(Reason::as_str));
    }

    /// A call for this message has ended, before the message is settled; its outputs are published.
    pub(crate) fn attempted(&self, message: &Message, outcome: &Outcome) {
        if let Some(recorder) = &self.recorder {
            recorder.add(Call {
                handler: self.handler.clone(),
                subject: message.subject().to_owned(),
                sequence: message.info.stream_sequence(),
                payload: message.payload.clone(),
                settle: outcome.settle,
                error: outcome.failure.as_ref().map(|failure| failure.error.clone()),
                outputs: outcome.outputs.clone(),
            });
        }
    }

    /// The attempt has failed.
    pub(crate) fn failed(&self, failure: &Failure) {
        self.activity.failed(Instant::now(), &failure.error);
        #[cfg(feature = "metrics")]
        self.metrics.attempt_failed(failure.reason);
    }

    /// Returns `true` if the outputs of calls are recorded.
    pub(crate) fn records_outputs(&self) -> bool {
        self.recorder.is_some()
    }

    /// Returns `true` if the report of a settlement needs the span of its attempt: if it is logged, or an application
    /// is told.
    #[inline]
    pub(crate) fn needs_span(&self, settled: &Settled) -> bool {
        settled.failed.is_some() || !self.hooks.is_empty()
    }

    /// An attempt was settled.
    #[inline]
    pub(crate) fn settled(&self, ended: Ended<'_>, settled: &Settled) {
        self.count(settled.settlement, 1);
        if let (Settlement::Ack, Some(call)) = (settled.settlement, ended.call) {
            self.activity.succeeded(call.ended);
        }
        if let Some(failed) = &settled.failed {
            self.log_failure(ended, failed);
        }
        if !self.hooks.is_empty() {
            self.call_hooks(ended, settled);
        }
    }

    #[cold]
    fn log_failure(&self, Ended { delivery, subject, .. }: Ended<'_>, failed: &Failed) {
        if Span::current().is_none() {
            span::of_failure(&self.handler, &self.stream, &self.queue, subject, delivery)
                .in_scope(|| log_failure(failed));
        } else {
            log_failure(failed);
        }
    }

    /// Deliveries were settled that no attempt was made at.
    #[inline]
    pub(crate) fn count(&self, _settlement: Settlement, _deliveries: usize) {
        #[cfg(feature = "metrics")]
        self.metrics.settled(_settlement, _deliveries);
    }

    /// A dead letter was stored.
    pub(crate) fn dead_lettered(&self, _reason: Reason) {
        #[cfg(feature = "metrics")]
        self.metrics.dead_lettered(_reason);
    }

    #[cold]
    fn call_hooks(&self, ended: Ended<'_>, settled: &Settled) {
        let failure = settled.failed.as_ref().map(|failed| &failed.failure);
        let Ended { delivery, subject, times, call } = ended;
        self.hooks.settled(&SettledEvent {
            handler: &self.handler,
            queue: &self.queue,
            stream: &self.stream,
            subject,
            sequence: delivery.stream_sequence,
            delivered: delivery.delivered,
            outcome: settled.settlement,
            reason: failure.map(|failure| failure.reason),
            error: failure.map(|failure| &*failure.error),
            queued: Queued { stored_at: delivery.stored_at }.until_now().saturating_sub(times.begun.elapsed()),
            buffered: times.begun.saturating_duration_since(times.received),
            elapsed: call.map(|call| call.took()),
        });
    }
}

/// Logs a failed attempt.
fn log_failure(Failed { failure, next }: &Failed) {
    let (error, reason) = (&failure.error, failure.reason.as_str());
    match next {
        Next::Attempt { number, max_deliver, delay } => {
            tracing::warn!(attempt = number, max_deliver, "failed, retrying in {delay:.1?}: {error}");
        }
        Next::DeadLetter { stream, sequence } => {
            tracing::error!(
                reason,
                dead_letter_stream = &**stream,
                dead_letter_sequence = sequence,
                "dead letter: {error}"
            );
        }
        Next::Terminated => tracing::error!(reason, "terminated, without a dead letter: {error}"),
        Next::Redelivery => {
            tracing::warn!("failed; the message is redelivered, because it had no signal for its ack_wait: {error}");
        }
        Next::DeadLetterLater => {}
    }
}

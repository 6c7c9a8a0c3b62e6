//! The observation of publishes; without the features `otel` and `metrics`, nothing is observed.

use std::borrow::Cow;
#[cfg(any(feature = "otel", feature = "metrics"))]
use std::collections::VecDeque;
#[cfg(any(feature = "otel", feature = "metrics"))]
use std::sync::{Arc, Mutex};

#[cfg(any(feature = "otel", feature = "metrics"))]
use tokio::time::Instant;
#[cfg(feature = "otel")]
use tracing::Instrument as _;

#[cfg(feature = "otel")]
use super::otel::publish::PublishSpan;
#[cfg(feature = "metrics")]
use super::publish_metrics::PublishTimer;
use crate::error::Error;
use crate::message::{Outgoing, PublishAck};
use crate::settings::Settings;
#[cfg(any(feature = "otel", feature = "metrics"))]
use crate::sync::lock;

/// One publish, of a message or of a batch.
#[derive(Debug)]
pub(crate) struct Publishing {
    #[cfg(any(feature = "otel", feature = "metrics"))]
    begun: Instant,
    #[cfg(feature = "otel")]
    span: PublishSpan,
    #[cfg(feature = "metrics")]
    timer: PublishTimer,
}

impl Publishing {
    /// Returns the publish of one message, which begins now.
    pub(crate) fn of_message(_settings: &Settings, _message: &Outgoing) -> Self {
        Self {
            #[cfg(any(feature = "otel", feature = "metrics"))]
            begun: Instant::now(),
            #[cfg(feature = "otel")]
            span: PublishSpan::of_message(_settings, _message),
            #[cfg(feature = "metrics")]
            timer: PublishTimer::new(_settings, _message, 1),
        }
    }

    /// Returns the publish of a batch of this many messages that begins with `first`.
    pub(crate) fn of_batch(_settings: &Settings, _first: &Outgoing, _messages: u64) -> Self {
        Self {
            #[cfg(any(feature = "otel", feature = "metrics"))]
            begun: Instant::now(),
            #[cfg(feature = "otel")]
            span: PublishSpan::of_batch(_settings, _first, _messages),
            #[cfg(feature = "metrics")]
            timer: PublishTimer::new(_settings, _first, _messages),
        }
    }

    /// Sets the number of messages of a batch that are stored, or were refused.
    pub(crate) fn set_messages(&mut self, _messages: u64) {
        #[cfg(feature = "otel")]
        self.span.set_messages(_messages);
        #[cfg(feature = "metrics")]
        self.timer.set_messages(_messages);
    }

    /// Counts messages of a batch that are stored, although the rest of it is not.
    pub(crate) fn stored(&self, _messages: u64) {
        #[cfg(feature = "metrics")]
        self.timer.stored(_messages);
    }

    /// Adds the trace to a message, unless it has one, or the server would not accept it with its trace.
    pub(crate) fn inject(&self, _message: &mut Outgoing, _max_payload: usize) {
        #[cfg(feature = "otel")]
        self.span.inject(_message, _max_payload);
    }

    /// Returns the messages of a batch with the trace.
    pub(crate) fn injected<'a>(&self, messages: &'a [Outgoing], _max_payload: usize) -> Cow<'a, [Outgoing]> {
        #[cfg(feature = "otel")]
        {
            let mut messages = messages.to_vec();
            messages.iter_mut().for_each(|message| self.inject(message, _max_payload));
            Cow::Owned(messages)
        }
        #[cfg(not(feature = "otel"))]
        Cow::Borrowed(messages)
    }

    /// Runs a future in the span of the publish.
    pub(crate) fn run<F: Future>(&self, future: F) -> impl Future<Output = F::Output> {
        #[cfg(feature = "otel")]
        let future = future.instrument(self.span.span.clone());
        future
    }

    /// Records the result.
    pub(crate) fn ended(&self, _result: Result<&PublishAck, &Error>) {
        #[cfg(any(feature = "otel", feature = "metrics"))]
        let took = self.begun.elapsed();
        #[cfg(feature = "otel")]
        self.span.ended(_result, took);
        #[cfg(feature = "metrics")]
        self.timer.ended(_result, took);
    }
}

/// Publishes whose results arrive in their order.
#[derive(Debug, Clone, Default)]
pub(crate) struct Publishings {
    /// `None` for a message that cannot be published.
    #[cfg(any(feature = "otel", feature = "metrics"))]
    begun: Arc<Mutex<VecDeque<Option<Publishing>>>>,
}

#[cfg(any(feature = "otel", feature = "metrics"))]
impl Publishings {
    /// Begins the publish of the next message.
    pub(crate) fn begin(
        &self,
        settings: &Settings,
        max_payload: usize,
        message: Result<Outgoing, Error>,
    ) -> Result<Outgoing, Error> {
        let (message, publishing) = match message {
            Ok(mut message) => {
                let publishing = Publishing::of_message(settings, &message);
                publishing.inject(&mut message, max_payload);
                (Ok(message), Some(publishing))
            }
            Err(error) => (Err(error), None),
        };
        lock(&self.begun).push_back(publishing);
        message
    }

    /// Records the next result.
    pub(crate) fn ended(&self, result: Result<&PublishAck, &Error>) {
        // Not in the condition, which would hold the lock meanwhile.
        let publishing = lock(&self.begun).pop_front();
        if let Some(Some(publishing)) = publishing {
            publishing.ended(result);
        }
    }
}

#[cfg(not(any(feature = "otel", feature = "metrics")))]
#[expect(clippy::unused_self, reason = "the features `otel` and `metrics` need it")]
impl Publishings {
    pub(crate) fn begin(&self, _: &Settings, _: usize, message: Result<Outgoing, Error>) -> Result<Outgoing, Error> {
        message
    }

    pub(crate) fn ended(&self, _: Result<&PublishAck, &Error>) {}
}

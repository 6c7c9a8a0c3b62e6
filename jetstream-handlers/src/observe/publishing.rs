//! The observation of publishes; without the feature `otel`, nothing is observed.

use std::borrow::Cow;
#[cfg(feature = "otel")]
use std::collections::VecDeque;
#[cfg(feature = "otel")]
use std::sync::{Arc, Mutex};

#[cfg(feature = "otel")]
use tracing::Instrument as _;

#[cfg(feature = "otel")]
use super::otel::publish::PublishSpan;
use crate::error::Error;
use crate::message::{Outgoing, PublishAck};
use crate::settings::Settings;
#[cfg(feature = "otel")]
use crate::sync::lock;

/// One publish, of a message or of a batch.
#[derive(Debug)]
pub(crate) struct Publishing {
    #[cfg(feature = "otel")]
    span: PublishSpan,
}

#[cfg(feature = "otel")]
impl Publishing {
    /// Returns the publish of one message, which begins now.
    pub(crate) fn of_message(settings: &Settings, message: &Outgoing) -> Self {
        Self { span: PublishSpan::of_message(settings, message) }
    }

    /// Returns the publish of a batch that begins with this message.
    pub(crate) fn of_batch(settings: &Settings, first: &Outgoing) -> Self {
        Self { span: PublishSpan::of_batch(settings, first) }
    }

    /// Adds the trace to a message, unless it has one.
    pub(crate) fn inject(&self, message: &mut Outgoing) {
        self.span.inject(message);
    }

    /// Returns the messages of a batch with the trace.
    pub(crate) fn injected<'a>(&self, messages: &'a [Outgoing]) -> Cow<'a, [Outgoing]> {
        let mut messages = messages.to_vec();
        messages.iter_mut().for_each(|message| self.inject(message));
        Cow::Owned(messages)
    }

    /// Runs a future in the span of the publish.
    pub(crate) fn run<F: Future>(&self, future: F) -> impl Future<Output = F::Output> {
        future.instrument(self.span.span.clone())
    }

    /// Records the result.
    pub(crate) fn ended(&self, result: Result<&PublishAck, &Error>) {
        self.span.ended(result);
    }
}

#[cfg(not(feature = "otel"))]
#[expect(clippy::unused_self, reason = "the feature `otel` needs it")]
impl Publishing {
    pub(crate) fn of_message(_: &Settings, _: &Outgoing) -> Self {
        Self {}
    }

    pub(crate) fn of_batch(_: &Settings, _: &Outgoing) -> Self {
        Self {}
    }

    pub(crate) fn inject(&self, _: &mut Outgoing) {}

    pub(crate) fn injected<'a>(&self, messages: &'a [Outgoing]) -> Cow<'a, [Outgoing]> {
        Cow::Borrowed(messages)
    }

    pub(crate) fn run<F: Future>(&self, future: F) -> F {
        future
    }

    pub(crate) fn ended(&self, _: Result<&PublishAck, &Error>) {}
}

/// Publishes whose results arrive in their order.
#[derive(Debug, Clone, Default)]
pub(crate) struct Publishings {
    /// `None` for a message that cannot be published.
    #[cfg(feature = "otel")]
    begun: Arc<Mutex<VecDeque<Option<Publishing>>>>,
}

#[cfg(feature = "otel")]
impl Publishings {
    /// Begins the publish of the next message.
    pub(crate) fn begin(&self, settings: &Settings, message: Result<Outgoing, Error>) -> Result<Outgoing, Error> {
        let (message, publishing) = match message {
            Ok(mut message) => {
                let publishing = Publishing::of_message(settings, &message);
                publishing.inject(&mut message);
                (Ok(message), Some(publishing))
            }
            Err(error) => (Err(error), None),
        };
        lock(&self.begun).push_back(publishing);
        message
    }

    /// Records the next result.
    pub(crate) fn ended(&self, result: Result<&PublishAck, &Error>) {
        if let Some(Some(publishing)) = lock(&self.begun).pop_front() {
            publishing.ended(result);
        }
    }
}

#[cfg(not(feature = "otel"))]
#[expect(clippy::unused_self, reason = "the feature `otel` needs it")]
impl Publishings {
    pub(crate) fn begin(&self, _: &Settings, message: Result<Outgoing, Error>) -> Result<Outgoing, Error> {
        message
    }

    pub(crate) fn ended(&self, _: Result<&PublishAck, &Error>) {}
}

//! The context that all messages of a handler share.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::States;
use crate::codec::DefaultCodec;
use crate::memory::Memory;
use crate::plan::{Plan, Subjects};
use crate::publish::Publisher;
use crate::settings::Settings;
use crate::transport::Transport;

/// The context of a handler: the application's state, a publisher and the shutdown signal.
#[derive(Debug, Clone)]
pub struct Context(Arc<ContextInner>);

#[derive(Debug, Clone)]
struct ContextInner {
    handler: String,
    subjects: Subjects,
    /// The format of the event that the handler takes.
    codec: Option<DefaultCodec>,
    states: Arc<States>,
    /// The values that layers have inserted into the call.
    #[cfg(feature = "tower")]
    extensions: States,
    /// `true` if the handler has a layer.
    #[cfg(feature = "tower")]
    is_layered: bool,
    publisher: Publisher,
    shutdown: CancellationToken,
}

impl Context {
    pub(crate) fn new(
        handler: String,
        plan: &Plan,
        states: Arc<States>,
        publisher: Publisher,
        shutdown: CancellationToken,
    ) -> Self {
        let (subjects, codec) = (plan.subject.clone(), plan.event_codec.clone());
        Self(Arc::new(ContextInner {
            handler,
            subjects,
            codec,
            states,
            #[cfg(feature = "tower")]
            extensions: States::default(),
            #[cfg(feature = "tower")]
            is_layered: false,
            publisher,
            shutdown,
        }))
    }

    /// Returns a context for unit tests of [`FromMessage`](crate::FromMessage), with the publisher of an in-memory broker.
    ///
    /// Its handler is named `test` and subscribes to `>`. [`with_state`](Self::with_state) adds state, and
    /// [`with_subject`](Self::with_subject) sets the subject.
    pub fn for_test() -> Self {
        let transport = Transport::Memory(Memory::new(Settings::default()));
        let publisher = Publisher::new(Arc::new(transport));
        let plan = Plan::new(">", "test");
        Self::new("test".to_owned(), &plan, Arc::default(), publisher, CancellationToken::new())
    }

    /// Returns the context with a state, as [`Builder::state`](crate::Builder::state) adds it, for unit tests.
    #[must_use]
    pub fn with_state<T: Clone + Send + Sync + 'static>(&self, value: T) -> Self {
        let mut states = States::clone(&self.0.states);
        states.insert(value);
        Self(Arc::new(ContextInner { states: Arc::new(states), ..ContextInner::clone(&self.0) }))
    }

    /// Returns the context with the subjects of its handler, whose placeholders a [`Path`](crate::Path) has, for unit
    /// tests.
    #[must_use]
    pub fn with_subject(&self, subject: impl Into<Subjects>) -> Self {
        Self(Arc::new(ContextInner { subjects: subject.into(), ..ContextInner::clone(&self.0) }))
    }

    /// Returns the context with a value that a handler takes as an [`Extension`](crate::Extension), as
    /// [`Request::insert_extension`](crate::layer::Request::insert_extension) adds it, for unit tests.
    ///
    /// # Examples
    ///
    /// ```
    /// use jetstream_handlers::prelude::*;
    /// use jetstream_handlers::{Context, Extension};
    ///
    /// let (message, context) = (Message::new("orders.created", ""), Context::for_test().with_extension(7_u64));
    /// assert!(Extension::<u64>::from_message(&message, &context).is_ok_and(|Extension(value)| value == 7));
    /// ```
    #[cfg(feature = "tower")]
    #[must_use]
    pub fn with_extension<T: Clone + Send + Sync + 'static>(&self, value: T) -> Self {
        let mut inner = ContextInner::clone(&self.0);
        inner.extensions.insert(value);
        Self(Arc::new(inner))
    }

    /// Returns the value of this type that a layer has inserted into the call.
    #[cfg(feature = "tower")]
    pub fn extension<T: Send + Sync + 'static>(&self) -> Option<&T> {
        self.0.extensions.get()
    }

    /// Returns the context of a handler with a layer.
    #[cfg(feature = "tower")]
    pub(crate) fn with_layers(&self) -> Self {
        Self(Arc::new(ContextInner { is_layered: true, ..ContextInner::clone(&self.0) }))
    }

    /// Returns `true` if the handler has a layer, which may insert values.
    #[cfg(feature = "tower")]
    pub(crate) fn is_layered(&self) -> bool {
        self.0.is_layered
    }

    /// Returns the full name of the handler: the module path and name of its function, or the name of a closure.
    pub fn handler(&self) -> &str {
        &self.0.handler
    }

    /// Returns the state of this type, if it was passed to [`Builder::state`](crate::Builder::state).
    pub fn state<T: Send + Sync + 'static>(&self) -> Option<&T> {
        self.0.states.get()
    }

    /// Returns a publisher on the connection that received the message.
    pub fn publisher(&self) -> &Publisher {
        &self.0.publisher
    }

    /// Returns the subjects of the handler.
    pub(crate) fn subjects(&self) -> &Subjects {
        &self.0.subjects
    }

    /// Returns a subject without the prefix of the environment.
    pub(crate) fn declared<'a>(&self, subject: &'a str) -> &'a str {
        self.0.publisher.declared(subject)
    }

    /// Returns the format of payloads that name none: that of the handler's event, or that of the broker.
    pub(crate) fn codec(&self) -> &DefaultCodec {
        self.0.codec.as_ref().unwrap_or_else(|| self.0.publisher.codec())
    }

    /// Returns the context with the format of an event.
    pub(crate) fn with_codec(&self, codec: DefaultCodec) -> Self {
        Self(Arc::new(ContextInner { codec: Some(codec), ..ContextInner::clone(&self.0) }))
    }

    /// Returns the context with another shutdown signal.
    pub(crate) fn with_shutdown(&self, shutdown: CancellationToken) -> Self {
        Self(Arc::new(ContextInner { shutdown, ..ContextInner::clone(&self.0) }))
    }

    pub(crate) fn shutdown(&self) -> &CancellationToken {
        &self.0.shutdown
    }
}

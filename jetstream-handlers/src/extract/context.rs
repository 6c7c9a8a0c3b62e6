//! The context that all messages of a handler share.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::States;
use crate::codec::DefaultCodec;
use crate::memory::Memory;
use crate::publish::Publisher;
use crate::settings::Settings;
use crate::transport::Transport;

/// The context of a handler: the application's state, a publisher and the shutdown signal.
#[derive(Debug, Clone)]
pub struct Context(Arc<ContextInner>);

#[derive(Debug)]
struct ContextInner {
    handler: String,
    states: Arc<States>,
    publisher: Publisher,
    shutdown: CancellationToken,
}

impl Context {
    pub(crate) fn new(handler: String, states: Arc<States>, publisher: Publisher, shutdown: CancellationToken) -> Self {
        Self(Arc::new(ContextInner { handler, states, publisher, shutdown }))
    }

    /// Returns a context for unit tests of [`FromMessage`](crate::FromMessage), with the publisher of an in-memory broker.
    ///
    /// Its handler is named `test`. [`with_state`](Self::with_state) adds state.
    pub fn for_test() -> Self {
        let transport = Transport::Memory(Memory::new(Settings::default()));
        Self::new("test".to_owned(), Arc::default(), Publisher::new(Arc::new(transport)), CancellationToken::new())
    }

    /// Returns the context with a state, as [`Builder::state`](crate::Builder::state) adds it, for unit tests.
    #[must_use]
    pub fn with_state<T: Clone + Send + Sync + 'static>(&self, value: T) -> Self {
        let mut states = States::clone(&self.0.states);
        states.insert(value);
        let ContextInner { handler, publisher, shutdown, .. } = &*self.0;
        Self::new(handler.clone(), Arc::new(states), publisher.clone(), shutdown.clone())
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

    /// Returns the format of payloads that name none.
    pub(crate) fn codec(&self) -> &DefaultCodec {
        self.0.publisher.codec()
    }

    pub(crate) fn shutdown(&self) -> &CancellationToken {
        &self.0.shutdown
    }
}

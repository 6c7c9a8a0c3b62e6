//! The messages of one call.

use std::sync::Arc;

use crate::message::Message;
use crate::outcome::Elements;

/// The messages of one call, in the order of their delivery: one, or those of a batch.
#[derive(Debug, Clone, Copy)]
pub struct Delivery<'a> {
    messages: &'a [Message],
    /// The outcomes of single messages; `None` for a handler of one message.
    elements: Option<&'a Arc<Elements>>,
}

impl<'a> Delivery<'a> {
    /// Returns the messages of a call, of which there is at least one.
    pub(crate) fn new(messages: &'a [Message], elements: Option<&'a Arc<Elements>>) -> Self {
        Self { messages, elements }
    }

    /// Returns the messages of a batch, of which there is at least one.
    pub(crate) fn batch(messages: &'a [Message], elements: &'a Arc<Elements>) -> Self {
        Self::new(messages, Some(elements))
    }

    /// Returns the messages, of which there is at least one.
    pub(crate) fn messages(self) -> &'a [Message] {
        self.messages
    }

    /// Returns the first message.
    pub(crate) fn first(self) -> &'a Message {
        &self.messages[0]
    }

    /// Returns the message of a handler that takes one.
    ///
    /// # Panics
    ///
    /// Panics if there are several messages.
    pub fn single(self) -> &'a Message {
        let [message] = self.messages else {
            panic!("a handler of one message was called with {}", self.messages.len())
        };
        message
    }

    /// Returns the outcomes of single messages, if the call is one of a handler of batches.
    pub(crate) fn shared_elements(self) -> Option<Arc<Elements>> {
        self.elements.cloned()
    }

    /// Returns the outcomes of single messages.
    pub fn elements(self) -> Arc<Elements> {
        self.shared_elements().unwrap_or_default()
    }
}

impl<'a> From<&'a Message> for Delivery<'a> {
    fn from(message: &'a Message) -> Self {
        Self { messages: std::slice::from_ref(message), elements: None }
    }
}

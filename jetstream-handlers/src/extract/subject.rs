//! The subject of a message.

use std::fmt;
use std::ops::Deref;

use super::{Context, FromMessage, Rejection};
use crate::message::Message;

/// The subject to which the message was published, without the
/// [prefix](crate::Builder::subject_prefix) of the environment; it has no wildcards.
///
/// # Examples
///
/// ```
/// use jetstream_handlers::prelude::*;
///
/// #[subscriber(subject = "orders.*.created", queue = "regions")]
/// async fn by_region(subject: Subject) {
///     println!("an order from {}", subject.token(1).unwrap_or("nowhere"));
/// }
///
/// # async fn test() {
/// // In a unit test:
/// by_region(Subject::new("orders.eu.created")).await;
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject(async_nats::Subject);

impl Subject {
    /// Returns a subject, to call a handler in a unit test.
    pub fn new(subject: impl Into<String>) -> Self {
        Self(subject.into().into())
    }

    /// Returns the subject as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the token at `index`, counted from 0.
    pub fn token(&self, index: usize) -> Option<&str> {
        self.0.split('.').nth(index)
    }
}

impl Deref for Subject {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromMessage for Subject {
    fn from_message(message: &Message, context: &Context) -> Result<Self, Rejection> {
        Ok(Self(match context.declared(&message.subject) {
            declared if declared.len() == message.subject.len() => message.subject.clone(),
            declared => declared.into(),
        }))
    }

    fn is_of_one_message() -> bool {
        true
    }
}

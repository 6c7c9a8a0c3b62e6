//! Messages: delivered, stored, and to be published.

pub(crate) mod ack_subject;
mod attempt;
mod info;
mod outgoing;
pub(crate) mod refusal;
pub(crate) mod reserved;
mod stored;

pub(crate) use async_nats::jetstream::publish::PublishAck;
pub(crate) use attempt::{Attempt, BeginFailure, FirstSend, Pipelined, PublishFailure};
pub(crate) use outgoing::Outgoing;
pub(crate) use stored::Stored;

use std::sync::Arc;

use async_nats::HeaderMap;
use bytes::Bytes;

pub(crate) use ack_subject::{AckPrefix, DeliveryId};
pub use info::Info;

/// A message as its stream delivered it: the raw payload, its subject, headers and [`Info`].
///
/// As a parameter of a handler it is the undecoded message.
/// Cloning is cheap, because clones share their data.
///
/// # Examples
///
/// ```
/// use jetstream_handlers::prelude::*;
///
/// #[subscriber(subject = "scans.>", queue = "archive")]
/// async fn archive(message: Message) -> HandlerResult {
///     println!("{} bytes on {}", message.payload().len(), message.subject());
///     Ok(())
/// }
/// ```
#[derive(Debug, Clone)]
pub struct Message {
    pub(crate) subject: async_nats::Subject,
    pub(crate) payload: Bytes,
    pub(crate) headers: Option<Arc<HeaderMap>>,
    pub(crate) info: Info,
}

impl Message {
    /// Creates a message for unit tests, to call a handler with.
    ///
    /// The numbers of its [`Info`] are zero, and the names are empty.
    pub fn new(subject: impl Into<String>, payload: impl Into<Bytes>) -> Self {
        Self {
            subject: async_nats::Subject::from(subject.into()),
            payload: payload.into(),
            headers: None,
            info: Info::default(),
        }
    }

    /// Returns the subject on which the message was published.
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// Returns the payload.
    pub fn payload(&self) -> &Bytes {
        &self.payload
    }

    /// Returns the first value of a header; `None` if the message does not have the header.
    ///
    /// Names are case-sensitive.
    /// The header `Nats-Pin-Id`, with which the server names the active instance of an `ordered` handler, is not part
    /// of the message and is not returned.
    pub fn header(&self, name: &str) -> Option<&str> {
        if reserved::is_of_delivery(name) {
            return None;
        }
        self.headers.as_ref()?.get(name).map(|value| value.as_str())
    }

    /// Returns the id by which the server names the pinned worker, if it pins one.
    pub(crate) fn pin_id(&self) -> Option<&str> {
        reserved::pin_id(self.headers.as_ref()?)
    }

    /// Returns the origin and the delivery count of the message.
    pub fn info(&self) -> &Info {
        &self.info
    }
}

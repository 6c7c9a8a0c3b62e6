//! The state of a handler's consumer on the server, which all instances share.

use std::time::SystemTime;

use serde::Serialize;

use super::times::optional_rfc3339;

/// The state of a handler's consumer, from [`Broker::status`](crate::Broker::status).
///
/// `Serialize` writes an object with these fields.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct HandlerStatus {
    /// The full path of the function.
    pub handler: String,
    /// The stream that the handler reads; `None` if it was not found.
    pub stream: Option<String>,
    /// The name of the durable consumer.
    pub queue: String,
    /// The numbers of messages; `None` if the consumer does not exist, or cannot be read.
    pub counts: Option<StatusCounts>,
    /// The limit of deliveries that are not acknowledged; `None` if there is no limit.
    pub max_ack_pending: Option<u64>,
    /// The time until which the consumer is paused.
    #[serde(serialize_with = "optional_rfc3339")]
    pub paused_until: Option<SystemTime>,
    /// The number of dead letters of the handler's queue that are stored; `None` if they cannot be counted.
    pub dead_letters: Option<u64>,
    /// The reason for which something of this is not known, or the handler could not start.
    pub problem: Option<String>,
}

/// The numbers of messages of a handler's consumer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct StatusCounts {
    /// Messages that were not delivered to any instance.
    pub pending: u64,
    /// Deliveries that are not acknowledged: messages that are being handled, wait in an instance, or wait for their next
    /// attempt.
    pub ack_pending: u64,
    /// Messages that were delivered more than once, and are not acknowledged.
    pub redelivered: u64,
    /// Pull requests that wait at the consumer; zero if no instance runs, and also while all instances are busy.
    pub waiting: u64,
}

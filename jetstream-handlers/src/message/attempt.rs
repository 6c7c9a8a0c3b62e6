//! One attempt to publish a message, and its results.

use async_nats::jetstream::publish::PublishAck;
use tokio::time::Instant;

use super::Outgoing;
use crate::error::Error;
use crate::error::ingest::IngestError;

/// A message with the state of its publish.
#[derive(Debug, Clone)]
pub(crate) struct Attempt {
    pub(crate) message: Outgoing,
    /// The start of the first attempt, from which the publish timeout counts.
    pub(crate) begun: Instant,
    /// `true` if an earlier attempt had no answer, so that the message may be stored.
    pub(crate) unanswered: bool,
}

impl Attempt {
    /// Returns the state of a message that was not sent yet.
    pub(crate) fn first(message: Outgoing) -> Self {
        Self { message, begun: Instant::now(), unanswered: false }
    }
}

/// The reason that an attempt returned no ack.
#[derive(Debug)]
pub(crate) enum PublishFailure {
    /// The subject has no responder: no stream covers it, or its stream has no leader.
    NoStream(Error),
    /// The answer is missing, so the message may be stored.
    Unanswered(Error),
    /// The message is not stored, and another attempt may store it.
    Transient(Error),
    /// The message is not stored, and another attempt would fail in the same way.
    Permanent(Error),
}

/// The reason that a fast-ingest batch did not begin.
#[derive(Debug)]
pub(crate) enum BeginFailure {
    /// Nothing is stored.
    NotBegun(PublishFailure),
    /// The batch ended with its first message.
    Ended(IngestError),
}

/// The result of one of many messages that are published at once.
#[derive(Debug)]
pub(crate) enum Pipelined {
    Done(Result<PublishAck, Error>),
    /// The message must be sent again, alone and with the same id.
    Resend(Attempt),
}

/// The outcome of an unanswered attempt, as read from the stream.
#[derive(Debug)]
pub(crate) enum FirstSend {
    Stored(PublishAck),
    NotStored,
    /// The stream no longer contains the message that would show the outcome.
    Unknown,
}

//! Publishing through the transport, in single attempts; the caller handles their failures.

use std::sync::Arc;

use async_nats::jetstream::publish::PublishAck;
use tokio::time::Instant;

use super::Transport;
use crate::error::Error;
use crate::error::ingest::IngestError;
use crate::memory::{self, Memory};
use crate::message::{Attempt, BeginFailure, FirstSend, Outgoing, Pipelined, PublishFailure};
use crate::nats;

/// Many publishes in flight at once.
pub(crate) enum Pipeline<I: Iterator> {
    Nats(Box<nats::Pipeline<I>>),
    Memory(Arc<Memory>, I),
}

/// An atomic batch over all of its attempts.
pub(crate) enum AtomicBatch<'a> {
    Nats(nats::AtomicBatch<'a>),
    Memory(&'a Memory, &'a [Outgoing]),
}

/// A fast-ingest batch that the stream has begun.
pub(crate) enum Ingest<'a> {
    Nats(Box<nats::Ingest<'a>>),
    Memory(memory::Ingest<'a>),
}

impl Transport {
    /// Returns an error for a message that the server would refuse, or of which it would ignore a part.
    pub(crate) fn check(&self, message: &Outgoing) -> Result<(), Error> {
        match self {
            Self::Nats(connection) => nats::check(connection, message, message.size()),
            Self::Memory(memory) => message.check_size(memory.max_payload()),
        }
    }

    /// Returns the size of the largest message that the server accepts, with its headers, in bytes.
    pub(crate) fn max_payload(&self) -> usize {
        match self {
            Self::Nats(connection) => connection.client().max_payload(),
            Self::Memory(memory) => memory.max_payload(),
        }
    }

    /// Returns an error if the server is older than `feature` requires.
    pub(crate) fn require_version(&self, since: (i64, i64, i64), feature: &str, instead: &str) -> Result<(), Error> {
        match self {
            Self::Nats(connection) => connection.require_version(since, feature, instead),
            Self::Memory(_) => Ok(()),
        }
    }

    /// Waits until the connection is closed.
    pub(crate) async fn closed(&self) {
        match self {
            Self::Nats(connection) => connection.closed().await,
            // The in-memory server refuses every publish after it was closed, so none has to be interrupted.
            Self::Memory(_) => std::future::pending().await,
        }
    }

    /// Sends a message once, and waits for the ack.
    pub(crate) async fn publish_once(
        &self,
        message: &Outgoing,
        deadline: Instant,
    ) -> Result<PublishAck, PublishFailure> {
        match self {
            Self::Nats(connection) => nats::publish_once(connection, message, deadline).await,
            Self::Memory(memory) => memory.publish(message).await,
        }
    }

    /// Reads the outcome of an attempt whose answer was lost.
    pub(crate) async fn first_send(&self, message: &Outgoing) -> Result<FirstSend, Error> {
        match self {
            Self::Nats(connection) => nats::first_send(connection, message).await,
            // No answer is lost in memory.
            Self::Memory(_) => Ok(FirstSend::NotStored),
        }
    }

    /// Returns a pipeline for many messages; nothing is sent before [`Pipeline::next`] is polled.
    pub(crate) fn pipeline<I>(&self, messages: I) -> Pipeline<I>
    where
        I: Iterator<Item = Result<Outgoing, Error>>,
    {
        match self {
            Self::Nats(connection) => Pipeline::Nats(Box::new(nats::Pipeline::new(connection.clone(), messages))),
            Self::Memory(memory) => Pipeline::Memory(memory.clone(), messages),
        }
    }

    /// Returns an atomic batch; nothing is sent before its first attempt.
    pub(crate) fn atomic_batch<'a>(&'a self, messages: &'a [Outgoing]) -> AtomicBatch<'a> {
        match self {
            Self::Nats(connection) => AtomicBatch::Nats(nats::AtomicBatch::new(connection, messages)),
            Self::Memory(memory) => AtomicBatch::Memory(memory, messages),
        }
    }

    /// Sends the first message of a fast-ingest batch once, and waits until the stream begins the batch.
    pub(crate) async fn begin_ingest(&self, first: Outgoing, deadline: Instant) -> Result<Ingest<'_>, BeginFailure> {
        match self {
            Self::Nats(connection) => {
                let batch = nats::Ingest::begin(connection, first, deadline).await?;
                Ok(Ingest::Nats(Box::new(batch)))
            }
            Self::Memory(memory) => memory::Ingest::begin(memory, &first).await.map(Ingest::Memory),
        }
    }
}

impl<I: Iterator<Item = Result<Outgoing, Error>>> Pipeline<I> {
    /// Returns the result of the next message, in order; `None` after the last.
    pub(crate) async fn next(&mut self) -> Option<Pipelined> {
        match self {
            Self::Nats(pipeline) => pipeline.next().await,
            // Storing in memory needs no pipeline, so each message is published alone.
            Self::Memory(memory, messages) => Some(match messages.next()? {
                Ok(message) => {
                    let message = message.with_id();
                    match message.check_size(memory.max_payload()) {
                        Ok(()) => Pipelined::Resend(Attempt::first(message)),
                        Err(error) => Pipelined::Done(Err(error)),
                    }
                }
                Err(error) => Pipelined::Done(Err(error)),
            }),
        }
    }
}

impl AtomicBatch<'_> {
    /// Sends the whole batch once, and waits for the ack.
    pub(crate) async fn attempt(&mut self, deadline: Instant) -> Result<PublishAck, PublishFailure> {
        match self {
            Self::Nats(batch) => batch.attempt(deadline).await,
            Self::Memory(memory, messages) => memory.publish_atomic(messages),
        }
    }
}

impl Ingest<'_> {
    /// Sends the next message as soon as the stream accepts it.
    pub(crate) async fn add(&mut self, message: Result<Outgoing, Error>) -> Result<(), IngestError> {
        match self {
            Self::Nats(batch) => batch.add(message).await,
            Self::Memory(batch) => batch.add(message).await,
        }
    }

    /// Returns `true` if the batch accepts no more messages.
    pub(crate) fn has_ended(&self) -> bool {
        match self {
            Self::Nats(batch) => batch.has_ended(),
            // In memory, every problem of a batch is returned as an error immediately.
            Self::Memory(_) => false,
        }
    }

    /// Ends the batch, and returns its ack.
    pub(crate) async fn end(&mut self) -> Result<PublishAck, IngestError> {
        match self {
            Self::Nats(batch) => batch.end().await,
            Self::Memory(batch) => Ok(batch.end()),
        }
    }
}

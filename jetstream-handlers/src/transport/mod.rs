//! The seam: what a worker and a publisher need from whatever stands behind them.
//!
//! Above it stand the worker and provisioning, which know streams and consumers but not how they are reached;
//! below it nothing decides how a message ends.

mod deliveries;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

pub(crate) use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::{consumer, stream};
use futures::StreamExt as _;
use futures::stream::{self as results, BoxStream};

pub(crate) use deliveries::Deliveries;

use crate::delivery::Binding;
use crate::error::api::ApiError;
use crate::error::{Error, ErrorKind};
use crate::memory::{self, PublishRefusal};
use crate::message::{Outgoing, Stored};
use crate::nats;
use crate::provision;
use crate::publish::batch::{batch_member, batch_refused, empty, ensure_batch_stream, ingest_refused};
use crate::publish::{check_size, closed, identified, refused};
use crate::settings::Settings;

/// Where messages come from and go to.
#[derive(Debug)]
pub(crate) enum Transport {
    Nats(Arc<nats::Connection>),
    Memory(Arc<memory::Memory>),
}

impl Transport {
    pub(crate) fn settings(&self) -> &Settings {
        match self {
            Self::Nats(connection) => &connection.settings,
            Self::Memory(memory) => &memory.settings,
        }
    }

    pub(crate) async fn stream(&self, name: &str) -> Result<Option<stream::Config>, ApiError> {
        match self {
            Self::Nats(connection) => connection.stream(name).await,
            Self::Memory(memory) => Ok(memory.stream(name)),
        }
    }

    /// The names of the streams that have a part of `subject`.
    pub(crate) async fn stream_names(&self, subject: &str) -> Result<Vec<String>, ApiError> {
        match self {
            Self::Nats(connection) => connection.stream_names(subject).await,
            Self::Memory(memory) => Ok(memory.stream_names(subject)),
        }
    }

    pub(crate) async fn create_stream(&self, config: &stream::Config) -> Result<(), ApiError> {
        match self {
            Self::Nats(connection) => connection.create_stream(config).await,
            Self::Memory(memory) => memory.create_stream(config).map_err(ApiError::Refused),
        }
    }

    pub(crate) async fn consumer(&self, stream: &str, name: &str) -> Result<Option<consumer::Config>, ApiError> {
        match self {
            Self::Nats(connection) => connection.consumer(stream, name).await,
            Self::Memory(memory) => memory.consumer(stream, name).map_err(ApiError::Refused),
        }
    }

    /// The consumers of a stream with each of their filters.
    pub(crate) async fn consumers(&self, stream: &str) -> Result<Vec<(String, String)>, ApiError> {
        match self {
            Self::Nats(connection) => connection.consumers(stream).await,
            Self::Memory(memory) => memory.consumers(stream).map_err(ApiError::Refused),
        }
    }

    /// The version of the server, if that is too old to choose one worker of many (ADR-42, from 2.11).
    pub(crate) fn too_old_to_pin(&self) -> Option<String> {
        match self {
            Self::Nats(connection) => connection.version_before((2, 11, 0)),
            Self::Memory(_) => None,
        }
    }

    /// Makes a consumer; one of this name that exists is an error.
    pub(crate) async fn create_consumer(
        &self,
        stream: &str,
        config: &consumer::Config,
    ) -> Result<consumer::Config, ApiError> {
        match self {
            Self::Nats(connection) => connection.create_consumer(stream, config).await,
            Self::Memory(memory) => memory.create_consumer(stream, config).map_err(ApiError::Refused),
        }
    }

    /// Publishes a message and waits until a stream has stored it.
    pub(crate) async fn publish(&self, message: Outgoing) -> Result<PublishAck, Error> {
        match self {
            Self::Nats(connection) => nats::publish(connection, message).await,
            Self::Memory(memory) => self.publish_in_memory(memory, &message).await,
        }
    }

    /// Publishes messages, many at once, and gives the result of each in order.
    pub(crate) fn publish_all<'a>(
        self: &Arc<Self>,
        messages: impl Iterator<Item = Result<Outgoing, Error>> + Send + 'a,
    ) -> BoxStream<'a, Result<PublishAck, Error>> {
        match &**self {
            Self::Nats(connection) => nats::publish_all(connection.clone(), messages),
            Self::Memory(_) => {
                let transport = self.clone();
                let publish = move |message: Result<Outgoing, Error>| {
                    let transport = transport.clone();
                    async move { transport.publish(identified(message?)).await }
                };
                results::iter(messages).then(publish).boxed()
            }
        }
    }

    /// Publishes messages, all or none.
    pub(crate) async fn publish_atomic(&self, messages: Vec<Outgoing>) -> Result<PublishAck, Error> {
        match self {
            Self::Nats(connection) => nats::publish_atomic(connection, &messages).await,
            Self::Memory(memory) => self.publish_atomic_in_memory(memory, &messages).await,
        }
    }

    /// Publishes messages in order, until one is refused.
    pub(crate) async fn ingest(
        &self,
        messages: impl Iterator<Item = Result<Outgoing, Error>> + Send,
    ) -> Result<PublishAck, Error> {
        match self {
            Self::Nats(connection) => nats::ingest(connection, messages).await,
            Self::Memory(memory) => self.ingest_in_memory(memory, messages).await,
        }
    }

    /// The message of a stream at this sequence, or with `or_later` the next one there is.
    pub(crate) async fn stored(&self, stream: &str, sequence: u64, or_later: bool) -> Result<Option<Stored>, Error> {
        match self {
            Self::Nats(connection) => connection.stored(stream, sequence, or_later).await,
            Self::Memory(memory) => memory.stored(stream, sequence, or_later).map_err(|error| {
                ApiError::Refused(error).into_error(&format!("reading message {sequence} of stream `{stream}`"))
            }),
        }
    }

    /// The sequence of the last message on a subject, which may have wildcards; 0 if there is none.
    pub(crate) async fn last_sequence(&self, stream: &str, subject: &str) -> Result<u64, Error> {
        match self {
            Self::Nats(connection) => connection.last_sequence(stream, subject).await,
            Self::Memory(memory) => memory.last_sequence(stream, subject).map_err(|error| {
                ApiError::Refused(error).into_error(&format!("reading the last message of stream `{stream}`"))
            }),
        }
    }

    /// Deletes one message of a stream; `false` if there was none.
    pub(crate) async fn delete(&self, stream: &str, sequence: u64) -> Result<bool, Error> {
        match self {
            Self::Nats(connection) => connection.delete(stream, sequence).await,
            Self::Memory(memory) => memory.delete(stream, sequence).map_err(|error| {
                ApiError::Refused(error).into_error(&format!("deleting message {sequence} of stream `{stream}`"))
            }),
        }
    }

    /// How many messages of a consumer are not delivered yet, or not answered.
    pub(crate) async fn unanswered(&self, source: &Binding) -> Result<u64, Error> {
        match self {
            Self::Nats(connection) => connection.unanswered(source).await,
            Self::Memory(memory) => Ok(memory.unanswered(source)),
        }
    }

    /// How often each message of a consumer was handed back without having been tried.
    pub(crate) async fn handed_back(&self, source: &Binding) -> Result<BTreeMap<u64, u64>, Error> {
        match self {
            Self::Nats(connection) => connection.handed_back(source).await,
            Self::Memory(memory) => Ok(memory.handed_back(source)),
        }
    }

    /// Notes that a message is about to be tried alone; `true` if that was noted before, and it has not ended since.
    pub(crate) async fn suspect(&self, source: &Binding, sequence: u64) -> Result<bool, Error> {
        match self {
            Self::Nats(connection) => connection.suspect(source, sequence).await,
            Self::Memory(memory) => Ok(memory.suspect(source, sequence)),
        }
    }

    /// Remembers for every replica that these messages were handed back.
    pub(crate) async fn hand_back(&self, source: &Binding, sequences: &[u64]) -> Result<(), Error> {
        match self {
            Self::Nats(connection) => connection.hand_back(source, sequences).await,
            Self::Memory(memory) => {
                memory.hand_back(source, sequences);
                Ok(())
            }
        }
    }

    /// Waits until the server has taken all that was sent before.
    pub(crate) async fn round_trip(&self, limit: Duration) -> Result<(), Error> {
        match self {
            Self::Nats(connection) => connection.round_trip(limit).await,
            // What is done in memory is done when the call returns.
            Self::Memory(_) => Ok(()),
        }
    }

    /// Whether there is a server behind it, which has its own clock.
    pub(crate) fn is_remote(&self) -> bool {
        matches!(self, Self::Nats(_))
    }

    /// Since when no server is connected, if none is.
    pub(crate) fn lost_since(&self) -> Option<std::time::Instant> {
        match self {
            Self::Nats(connection) => connection.lost_since(),
            Self::Memory(memory) => (!memory.is_open()).then(std::time::Instant::now),
        }
    }

    /// Whether a server is connected at this moment.
    pub(crate) fn is_connected(&self) -> bool {
        match self {
            Self::Nats(connection) => connection.is_connected(),
            Self::Memory(memory) => memory.is_open(),
        }
    }

    /// The number of the connection, which is another one after each reconnect; `None` while there is none.
    pub(crate) fn epoch(&self) -> Option<u64> {
        match self {
            Self::Nats(connection) => connection.epoch_now(),
            Self::Memory(memory) => memory.is_open().then_some(0),
        }
    }

    /// Ends the connection after all that was sent has left.
    pub(crate) async fn close(&self) -> Result<(), Error> {
        match self {
            Self::Nats(connection) => connection.close().await,
            Self::Memory(memory) => {
                memory.close();
                Ok(())
            }
        }
    }
}

impl Transport {
    async fn publish_in_memory(&self, memory: &memory::Memory, message: &Outgoing) -> Result<PublishAck, Error> {
        check_size(message, memory.max_payload())?;
        let subject = message.subject.as_str();
        let mut looked_for_stream = false;
        loop {
            match memory.publish(message).await {
                Ok(ack) => return Ok(ack),
                Err(PublishRefusal::NoStream) if !looked_for_stream => {
                    Box::pin(provision::ensure_stream(self, subject)).await?;
                    looked_for_stream = true;
                }
                Err(PublishRefusal::NoStream) => {
                    return Err(Error::new(ErrorKind::StreamNotFound, format!("no stream covers `{subject}`")));
                }
                Err(PublishRefusal::Refused(error)) => return Err(refused(message, error)),
                Err(PublishRefusal::Closed) => return Err(closed(subject)),
            }
        }
    }
}

impl Transport {
    async fn publish_atomic_in_memory(
        &self,
        memory: &memory::Memory,
        messages: &[Outgoing],
    ) -> Result<PublishAck, Error> {
        for (number, message) in (1..).zip(messages) {
            check_size(message, memory.max_payload())
                .map_err(|error| error.about(&format!("message {number} of the batch")))?;
        }
        let subject = messages.first().map_or("", |message| message.subject.as_str());
        loop {
            match memory.publish_atomic(messages) {
                Ok(ack) => return Ok(ack),
                Err((_, PublishRefusal::NoStream)) => {
                    ensure_batch_stream(self, subject, "allow_atomic_publish").await?;
                }
                Err((number, PublishRefusal::Refused(error))) => return Err(batch_refused(messages, number, error)),
                Err((_, PublishRefusal::Closed)) => return Err(closed(subject)),
            }
        }
    }
}

impl Transport {
    async fn ingest_in_memory(
        &self,
        memory: &memory::Memory,
        messages: impl Iterator<Item = Result<Outgoing, Error>> + Send,
    ) -> Result<PublishAck, Error> {
        let mut last = None;
        let mut stored = 0;
        for (index, message) in messages.enumerate() {
            let stream = last.as_ref().map(|ack: &PublishAck| ack.stream.as_str());
            let ack = async {
                let message = batch_member(index + 1, message)?;
                check_size(&message, memory.max_payload())?;
                if stream.is_none() && memory.stream_names(&message.subject).is_empty() {
                    ensure_batch_stream(self, &message.subject, "allow_batch_publish").await?;
                }
                memory.ingest(&message, stream).await.map_err(|refusal| match refusal {
                    PublishRefusal::NoStream => Error::new(ErrorKind::Publish, "no stream answers any more"),
                    PublishRefusal::Refused(error) => ingest_refused(index as u64 + 1, error),
                    PublishRefusal::Closed => closed(&message.subject),
                })
            };
            last = Some(ack.await.map_err(|error: Error| error.with_stored(stored))?);
            stored += 1;
        }
        let last = last.ok_or_else(|| empty().with_stored(0))?;
        Ok(PublishAck { batch_size: Some(stored), ..last })
    }
}

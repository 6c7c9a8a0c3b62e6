//! The transport of a broker: a connection to a NATS server, or the in-memory server.
//!
//! The layers above use streams and consumers without knowing the transport;
//! the layers below do not decide how a message is settled.

mod announcements;
mod deliveries;
mod publish;

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_nats::jetstream::{consumer, stream};

pub(crate) use announcements::Announcements;
pub(crate) use publish::{Ingest, Pipeline};

pub(crate) use deliveries::Deliveries;

use crate::delivery::{
    Binding, ConsumerCounts, ConsumerState, FoundConsumer, Isolation, Observed, Record, StreamCopies, StreamSubjects,
    filters,
};
use crate::error::Error;
use crate::error::api::ApiError;
use crate::memory;
use crate::message::Stored;
use crate::nats;
use crate::observe::health::LastError;
use crate::settings::Settings;
use crate::subject::covers;

/// The separator of the server and the account in the identity of a transport.
pub(crate) const ACCOUNT: &str = ", account ";

/// The transport of a broker.
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

    /// Returns the configuration of a stream, if it exists.
    pub(crate) async fn stream(&self, name: &str) -> Result<Option<stream::Config>, ApiError> {
        match self {
            Self::Nats(connection) => connection.stream(name).await,
            Self::Memory(memory) => Ok(memory.stream(name)),
        }
    }

    /// Returns a stream with the position of its first source, if it exists.
    pub(crate) async fn copies(&self, name: &str) -> Result<Option<StreamCopies>, ApiError> {
        match self {
            Self::Nats(connection) => connection.copies(name).await,
            Self::Memory(memory) => Ok(memory.copies(name)),
        }
    }

    /// Returns the version of a server that may copy again what a stream copied before it was started again, or leave
    /// messages out.
    ///
    /// Since 2.15, the position is kept with the stream. An older server reads it from the last copy that the stream has:
    /// from an empty work queue, it continued behind the last message of the origin (observed with 2.11.11 to 2.14.6).
    pub(crate) fn too_old_to_derive(&self) -> Option<String> {
        match self {
            Self::Nats(connection) => connection.version_before((2, 15, 0)),
            Self::Memory(_) => None,
        }
    }

    /// Returns the time at which a stream was created, by the clock of the server, if it exists.
    pub(crate) async fn stream_created(&self, name: &str) -> Result<Option<SystemTime>, Error> {
        match self {
            Self::Nats(connection) => connection.stream_created(name).await.map(Some),
            Self::Memory(memory) => Ok(memory.stream_created(name)),
        }
    }

    /// Returns the client of the connection; `None` in memory.
    pub(crate) fn client(&self) -> Option<async_nats::Client> {
        match self {
            Self::Nats(connection) => Some((**connection.client()).clone()),
            Self::Memory(_) => None,
        }
    }

    /// Returns a JetStream context of the client library with the API prefix of this connection; `None` in memory.
    pub(crate) fn jetstream(&self) -> Option<async_nats::jetstream::Context> {
        match self {
            Self::Nats(connection) => Some(connection.jetstream()),
            Self::Memory(_) => None,
        }
    }

    /// Returns the addresses of the servers, without credentials; none in memory.
    #[cfg(feature = "asyncapi")]
    pub(crate) fn addresses(&self) -> &[String] {
        match self {
            Self::Nats(connection) => connection.addresses(),
            Self::Memory(_) => &[],
        }
    }

    /// Returns the server, for the log.
    pub(crate) fn server(&self) -> String {
        match self {
            Self::Nats(connection) => connection.server(),
            Self::Memory(_) => "in memory".to_owned(),
        }
    }

    /// Returns the names of the streams whose subjects overlap with `subject`.
    pub(crate) async fn stream_names(&self, subject: &str) -> Result<Vec<String>, ApiError> {
        match self {
            Self::Nats(connection) => connection.stream_names(subject).await,
            Self::Memory(memory) => Ok(memory.stream_names(subject)),
        }
    }

    /// Returns the configurations of all streams of the account.
    pub(crate) async fn streams(&self) -> Result<Vec<stream::Config>, ApiError> {
        match self {
            Self::Nats(connection) => connection.streams().await,
            Self::Memory(memory) => Ok(memory.streams()),
        }
    }

    /// Returns the first tokens of the subjects on which this connection receives replies.
    pub(crate) fn inbox_prefix(&self) -> String {
        let inbox = self.client().map(|client| client.new_inbox());
        // The last token is unique to each inbox.
        let prefix = inbox.as_deref().and_then(|inbox| inbox.rsplit_once('.')).map(|(prefix, _)| prefix);
        prefix.or(self.settings().inbox_prefix.as_deref()).unwrap_or("_INBOX").to_owned()
    }

    /// Returns the pattern of the subjects on which this connection receives replies.
    pub(crate) fn inboxes(&self) -> String {
        format!("{}.>", self.inbox_prefix())
    }

    pub(crate) async fn create_stream(&self, config: &stream::Config) -> Result<(), ApiError> {
        match self {
            Self::Nats(connection) => connection.create_stream(config).await,
            Self::Memory(memory) => memory.create_stream(config).map_err(ApiError::Refused),
        }
    }

    /// Returns a consumer, if it exists.
    pub(crate) async fn consumer(&self, stream: &str, name: &str) -> Result<Option<FoundConsumer>, ApiError> {
        match self {
            Self::Nats(connection) => connection.consumer(stream, name).await,
            Self::Memory(memory) => memory.consumer(stream, name).map_err(ApiError::Refused),
        }
    }

    /// Returns the consumers of a stream.
    pub(crate) async fn found_consumers(&self, stream: &str) -> Result<Vec<FoundConsumer>, ApiError> {
        match self {
            Self::Nats(connection) => connection.consumers(stream).await,
            Self::Memory(memory) => memory.consumers(stream).map_err(ApiError::Refused),
        }
    }

    /// Returns each consumer of a stream with each of its filters.
    pub(crate) async fn consumers(&self, stream: &str) -> Result<Vec<(String, String)>, ApiError> {
        let found = self.found_consumers(stream).await?;
        let each = found.iter().flat_map(|it| filters(&it.config).into_iter().map(|filter| (it.name(), filter)));
        Ok(each.map(|(name, filter)| (name.to_owned(), filter.to_owned())).collect())
    }

    /// Returns the limits and the usage of the account as the server writes them; `None` in memory, and if they cannot be
    /// read.
    pub(crate) async fn account(&self) -> Option<serde_json::Value> {
        match self {
            Self::Nats(connection) => connection.account().await.ok(),
            Self::Memory(_) => None,
        }
    }

    /// Returns the name by which one JetStream system is told from another.
    pub(crate) async fn identity(&self) -> String {
        match self {
            Self::Nats(connection) => match connection.account_name().await {
                Some(account) => format!("{}{ACCOUNT}{account}", connection.identity()),
                None => connection.identity(),
            },
            Self::Memory(memory) => memory.identity(),
        }
    }

    /// Changes a stream in the fields in which `wanted` differs from `found`.
    pub(crate) async fn update_stream(&self, found: &stream::Config, wanted: &stream::Config) -> Result<(), ApiError> {
        match self {
            Self::Nats(connection) => connection.update_stream(found, wanted).await,
            Self::Memory(memory) => memory.update_stream(wanted).map_err(ApiError::Refused),
        }
    }

    /// Changes a consumer in the fields in which `wanted` differs from `found`.
    pub(crate) async fn update_consumer(
        &self,
        stream: &str,
        found: &consumer::Config,
        wanted: &consumer::Config,
    ) -> Result<FoundConsumer, ApiError> {
        match self {
            Self::Nats(connection) => connection.update_consumer(stream, found, wanted).await,
            Self::Memory(memory) => memory.update_consumer(stream, wanted).map_err(ApiError::Refused),
        }
    }

    /// Deletes a consumer; returns `false` if it did not exist.
    pub(crate) async fn remove_consumer(&self, stream: &str, name: &str) -> Result<bool, ApiError> {
        match self {
            Self::Nats(connection) => connection.remove_consumer(stream, name).await,
            Self::Memory(memory) => Ok(memory.delete_consumer(stream, name)),
        }
    }

    /// Returns `true` if the server keeps the metadata of a consumer (from 2.10).
    pub(crate) fn has_metadata(&self) -> bool {
        match self {
            Self::Nats(connection) => connection.version_before((2, 10, 0)).is_none(),
            Self::Memory(_) => true,
        }
    }

    /// Returns the version of the server if it does not support pinned clients (ADR-42, from 2.11).
    pub(crate) fn too_old_to_pin(&self) -> Option<String> {
        match self {
            Self::Nats(connection) => connection.version_before((2, 11, 0)),
            Self::Memory(_) => None,
        }
    }

    /// Creates a consumer; fails if one of this name exists.
    pub(crate) async fn create_consumer(
        &self,
        stream: &str,
        config: &consumer::Config,
    ) -> Result<FoundConsumer, ApiError> {
        match self {
            Self::Nats(connection) => connection.create_consumer(stream, config).await,
            Self::Memory(memory) => memory.create_consumer(stream, config).map_err(ApiError::Refused),
        }
    }

    /// Deletes a handler's consumer; returns `false` if it did not exist.
    pub(crate) async fn delete_consumer(&self, binding: &Binding) -> Result<bool, Error> {
        match self {
            Self::Nats(connection) => connection.delete_consumer(binding).await,
            Self::Memory(memory) => Ok(memory.delete_consumer(&binding.stream, &binding.consumer)),
        }
    }

    /// Pauses a consumer until this time; `None` ends its pause.
    pub(crate) async fn pause_consumer(
        &self,
        stream: &str,
        consumer: &str,
        until: Option<SystemTime>,
    ) -> Result<(), Error> {
        match self {
            Self::Nats(connection) => connection.pause_consumer(stream, consumer, until).await,
            Self::Memory(memory) => memory.pause_consumer(stream, consumer, until).map_err(|error| {
                ApiError::Refused(error)
                    .into_consumer_error(&format!("pausing consumer `{consumer}` of stream `{stream}`"))
            }),
        }
    }

    /// Moves a consumer to this sequence, or to one after its ack floor; returns the first sequence that it delivers.
    pub(crate) async fn reset_consumer(
        &self,
        stream: &str,
        consumer: &str,
        sequence: Option<u64>,
    ) -> Result<u64, Error> {
        match self {
            Self::Nats(connection) => connection.reset_consumer(stream, consumer, sequence).await,
            Self::Memory(memory) => memory.reset_consumer(stream, consumer, sequence).map_err(|error| {
                ApiError::Refused(error)
                    .into_consumer_error(&format!("resetting consumer `{consumer}` of stream `{stream}`"))
            }),
        }
    }

    /// Returns the message of a stream at this sequence.
    pub(crate) async fn stored(&self, stream: &str, sequence: u64) -> Result<Option<Stored>, Error> {
        match self {
            Self::Nats(connection) => connection.stored(stream, sequence).await,
            Self::Memory(memory) => memory.stored(stream, sequence).map_err(|error| {
                ApiError::Refused(error).into_error(&format!("reading message {sequence} of stream `{stream}`"))
            }),
        }
    }

    /// Returns the first message of a stream at or after this sequence.
    pub(crate) async fn next_stored(&self, stream: &str, sequence: u64) -> Result<Option<Stored>, Error> {
        match self {
            Self::Nats(connection) => connection.next_stored(stream, sequence).await,
            Self::Memory(memory) => memory.next_stored(stream, sequence).map_err(|error| {
                ApiError::Refused(error).into_error(&format!("reading message {sequence} of stream `{stream}`"))
            }),
        }
    }

    /// Returns the messages at these sequences, as many of them as fit into memory well, and the last sequence that was
    /// read.
    pub(crate) async fn stored_range(
        &self,
        stream: &str,
        sequences: RangeInclusive<u64>,
    ) -> Result<(Vec<Stored>, u64), Error> {
        match self {
            Self::Nats(connection) => connection.stored_range(stream, sequences).await,
            Self::Memory(memory) => {
                let last = *sequences.end();
                let found: Result<Vec<_>, _> =
                    sequences.filter_map(|sequence| memory.stored(stream, sequence).transpose()).collect();
                let found = found.map_err(|error| {
                    ApiError::Refused(error).into_error(&format!("reading the messages of stream `{stream}`"))
                })?;
                Ok((found, last))
            }
        }
    }

    /// Returns the sequence of the first message of a stream that was stored at this time or later; `None` if all were
    /// stored before.
    ///
    /// The messages are ordered by time, so about 20 of a million are read.
    pub(crate) async fn first_stored_since(&self, stream: &str, time: SystemTime) -> Result<Option<u64>, Error> {
        let (mut from, mut to) = (1, self.last_assigned_sequence(stream).await? + 1);
        while from < to {
            let middle = from + (to - from) / 2;
            match self.next_stored(stream, middle).await? {
                Some(stored) if stored.time < time => from = stored.sequence + 1,
                // It may be before this one, where messages were deleted.
                Some(_) | None => to = middle,
            }
        }
        Ok(self.next_stored(stream, from).await?.map(|stored| stored.sequence))
    }

    /// Returns a time at which the messages from this sequence on were stored, and no earlier one; `None` if that is
    /// unknown.
    pub(crate) async fn time_of(&self, stream: &str, sequence: u64) -> Result<Option<SystemTime>, Error> {
        match self {
            Self::Nats(connection) => connection.time_of(stream, sequence).await,
            // In memory, no message is lost.
            Self::Memory(_) => Ok(None),
        }
    }

    /// Returns the first message of a stream at or after this sequence on a subject, which may have wildcards; `None` in
    /// memory, where only lost advisories would require it.
    pub(crate) async fn next_stored_on(
        &self,
        stream: &str,
        mut sequence: u64,
        subject: &str,
    ) -> Result<Option<Stored>, Error> {
        match self {
            Self::Nats(connection) => connection.next_stored_on(stream, sequence, subject).await,
            Self::Memory(_) => {
                while let Some(stored) = self.next_stored(stream, sequence).await? {
                    if covers(subject, &stored.subject) {
                        return Ok(Some(stored));
                    }
                    sequence = stored.sequence + 1;
                }
                Ok(None)
            }
        }
    }

    /// Returns the last sequence that a stream has assigned, even if that message was deleted.
    pub(crate) async fn last_assigned_sequence(&self, stream: &str) -> Result<u64, Error> {
        match self {
            Self::Nats(connection) => connection.last_assigned_sequence(stream).await,
            Self::Memory(memory) => memory
                .last_assigned_sequence(stream)
                .map_err(|error| ApiError::Refused(error).into_error(&format!("reading stream `{stream}`"))),
        }
    }

    /// Deletes one message of a stream; returns `false` if it did not exist.
    pub(crate) async fn delete(&self, stream: &str, sequence: u64) -> Result<bool, Error> {
        match self {
            Self::Nats(connection) => connection.delete(stream, sequence).await,
            Self::Memory(memory) => memory.delete(stream, sequence).map_err(|error| {
                ApiError::Refused(error).into_error(&format!("deleting message {sequence} of stream `{stream}`"))
            }),
        }
    }

    /// Returns the state of a handler's consumer, with which a report that it gave up a message is compared; `None` in
    /// memory, where nobody but the consumer itself can report it.
    pub(crate) async fn consumer_state(&self, binding: &Binding) -> Result<Option<ConsumerState>, Error> {
        match self {
            Self::Nats(connection) => connection.consumer_state(binding).await.map(Some),
            Self::Memory(_) => Ok(None),
        }
    }

    /// Returns the number of messages that a handler's consumer has not delivered, or whose ack is pending.
    pub(crate) async fn count_outstanding(&self, binding: &Binding) -> Result<u64, Error> {
        match self {
            Self::Nats(connection) => connection.count_outstanding(binding).await,
            Self::Memory(memory) => Ok(memory.count_outstanding(binding)),
        }
    }

    /// Returns what a handler's consumer counts.
    pub(crate) async fn consumer_counts(&self, binding: &Binding) -> Result<ConsumerCounts, Error> {
        match self {
            Self::Nats(connection) => connection.consumer_counts(binding).await,
            Self::Memory(memory) => Ok(memory.consumer_counts(binding)),
        }
    }

    /// Returns the number of messages of a stream on a subject; `None` if the stream does not exist.
    pub(crate) async fn count_messages(&self, stream: &str, subject: &str) -> Result<Option<u64>, Error> {
        match self {
            Self::Nats(connection) => connection.count_messages(stream, subject).await,
            Self::Memory(memory) => Ok(memory.count_messages(stream, subject)),
        }
    }

    /// Returns the subjects that a stream declares, and the number of those that its messages have, if it exists.
    pub(crate) async fn stream_subjects(&self, stream: &str) -> Result<Option<StreamSubjects>, Error> {
        match self {
            Self::Nats(connection) => connection.stream_subjects(stream).await,
            Self::Memory(memory) => Ok(memory.stream_subjects(stream)),
        }
    }

    /// Returns the number of subjects of a stream that match a filter; `None` if the stream does not exist.
    pub(crate) async fn count_subjects(&self, stream: &str, filter: &str) -> Result<Option<u64>, Error> {
        match self {
            Self::Nats(connection) => connection.count_subjects(stream, filter).await,
            Self::Memory(memory) => Ok(memory.count_subjects(stream, filter)),
        }
    }

    /// Returns what the processes that share a consumer have recorded about a message.
    pub(crate) async fn record(&self, binding: &Binding, sequence: u64) -> Result<Record, Error> {
        match self {
            Self::Nats(connection) => connection.record(binding, sequence).await,
            Self::Memory(memory) => Ok(memory.record(binding, sequence)),
        }
    }

    /// Records that these messages were handed back, for every process that shares the consumer.
    pub(crate) async fn hand_back(&self, binding: &Binding, sequences: &[u64]) -> Result<(), Error> {
        match self {
            Self::Nats(connection) => connection.hand_back(binding, sequences).await,
            Self::Memory(memory) => {
                memory.hand_back(binding, sequences);
                Ok(())
            }
        }
    }

    /// Records that a message is about to be tried in isolation.
    ///
    /// Returns the sum of the weights that were recorded before; the record is removed once the message has ended.
    pub(crate) async fn mark_isolated(
        &self,
        binding: &Binding,
        sequence: u64,
        isolation: Isolation,
    ) -> Result<u64, Error> {
        match self {
            Self::Nats(connection) => connection.mark_isolated(binding, sequence, isolation).await,
            Self::Memory(memory) => Ok(memory.mark_isolated(binding, sequence, isolation)),
        }
    }

    /// Records that these messages have no attempts left, although their dead letters could not be stored.
    pub(crate) async fn mark_exhausted(&self, binding: &Binding, sequences: &[u64]) -> Result<(), Error> {
        match self {
            Self::Nats(connection) => connection.mark_exhausted(binding, sequences).await,
            Self::Memory(memory) => {
                memory.mark_exhausted(binding, sequences);
                Ok(())
            }
        }
    }

    /// Waits until the server has received everything sent before.
    pub(crate) async fn round_trip(&self, limit: Duration) -> Result<(), Error> {
        match self {
            Self::Nats(connection) => connection.round_trip(limit).await,
            // In memory, every call takes effect before it returns.
            Self::Memory(_) => Ok(()),
        }
    }

    /// Observes whether the process did not run for a while; `None` in memory, where nothing is on its way.
    pub(crate) fn observe_clock(&self) -> Option<Observed> {
        match self {
            Self::Nats(connection) => Some(connection.clock.observe()),
            Self::Memory(_) => None,
        }
    }

    /// Returns `true` if the transport has a server, whose clock can differ from that of this process.
    pub(crate) fn is_remote(&self) -> bool {
        matches!(self, Self::Nats(_))
    }

    /// Returns the time of the disconnect, if no server is connected.
    pub(crate) fn lost_since(&self) -> Option<std::time::Instant> {
        match self {
            Self::Nats(connection) => connection.lost_since(),
            Self::Memory(memory) => (!memory.is_open()).then(std::time::Instant::now),
        }
    }

    /// Returns the last error of the client.
    pub(crate) fn last_error(&self) -> Option<LastError> {
        match self {
            Self::Nats(connection) => connection.errors.last(),
            Self::Memory(_) => None,
        }
    }

    /// Returns the error because of which no server is connected, if one is known.
    pub(crate) fn connect_error(&self) -> Option<String> {
        match self {
            Self::Nats(connection) => connection.errors.connecting(),
            Self::Memory(_) => None,
        }
    }

    /// Returns `true` if no server will be connected again, because the runtime of the connection was shut down.
    pub(crate) fn is_abandoned(&self) -> bool {
        match self {
            Self::Nats(connection) => connection.is_abandoned(),
            Self::Memory(_) => false,
        }
    }

    pub(crate) fn is_connected(&self) -> bool {
        match self {
            Self::Nats(connection) => connection.is_connected(),
            Self::Memory(memory) => memory.is_open(),
        }
    }

    /// Returns the number of connections to a server that were made so far.
    #[cfg(feature = "metrics")]
    pub(crate) fn count_connections(&self) -> u64 {
        match self {
            Self::Nats(connection) => connection.count_connections(),
            Self::Memory(_) => 1,
        }
    }

    /// Returns the number of the connection, which changes with every reconnect; `None` while disconnected.
    pub(crate) fn epoch(&self) -> Option<u64> {
        match self {
            Self::Nats(connection) => connection.epoch_now(),
            Self::Memory(memory) => memory.is_open().then_some(0),
        }
    }

    /// Sends what is queued, then closes the connection.
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

//! The seam: what a worker and a publisher need from whatever stands behind them.
//!
//! Above it stand the worker and provisioning, which know streams and consumers but not how they are reached;
//! below it nothing decides how a message ends.

mod publish;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::{consumer, stream};

pub(crate) use publish::{Ingest, Pipeline};

use crate::delivery::{Binding, DeliveryEvent};
use crate::error::Error;
use crate::error::api::ApiError;
use crate::handler::Handler;
use crate::memory;
use crate::message::{Info, Message, Stored};
use crate::nats;
use crate::settings::Settings;

/// Where messages come from and go to.
#[derive(Debug)]
pub(crate) enum Transport {
    Nats(Arc<nats::Connection>),
    Memory(Arc<memory::Memory>),
}

/// The deliveries of one handler.
#[derive(Debug)]
pub(crate) enum Deliveries {
    Nats(Box<nats::Pull>),
    Memory(Box<memory::Deliveries>),
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

    /// Opens the deliveries of a handler; nothing comes before [`Deliveries::room`] is called.
    pub(crate) async fn deliveries(
        &self,
        handler: &Arc<Handler>,
        source: &Arc<Binding>,
        fetch_wait: Option<Duration>,
    ) -> Result<Deliveries, Error> {
        match self {
            Self::Nats(connection) => {
                let pull = nats::Pull::open(connection.clone(), handler.clone(), source.clone(), fetch_wait).await?;
                Ok(Deliveries::Nats(Box::new(pull)))
            }
            Self::Memory(memory) => Ok(Deliveries::Memory(Box::new(memory::Deliveries::open(
                memory.clone(),
                handler.clone(),
                source.clone(),
            )))),
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

/// How a delivery is answered.
impl Transport {
    /// Done; `false` if that could not be said at once.
    pub(crate) fn try_ack(&self, source: &Binding, delivery: Info) -> bool {
        match self {
            Self::Nats(connection) => connection.try_ack(delivery),
            Self::Memory(memory) => {
                memory.ack(source, &delivery);
                true
            }
        }
    }

    /// Done.
    pub(crate) async fn ack(&self, source: &Binding, delivery: Info) -> Result<(), Error> {
        match self {
            Self::Nats(connection) => connection.ack(delivery).await,
            Self::Memory(memory) => {
                memory.ack(source, &delivery);
                Ok(())
            }
        }
    }

    /// Done, and the server has said that it knows.
    pub(crate) async fn ack_confirmed(&self, source: &Binding, delivery: &Info, limit: Duration) -> Result<(), Error> {
        match self {
            Self::Nats(connection) => connection.ack_confirmed(delivery, limit).await,
            Self::Memory(memory) => {
                memory.ack(source, delivery);
                Ok(())
            }
        }
    }

    /// Deliver it again after `delay`; zero means at once.
    pub(crate) async fn nak(&self, source: &Binding, delivery: &Info, delay: Duration) -> Result<(), Error> {
        match self {
            Self::Nats(connection) => connection.nak(delivery, delay).await,
            Self::Memory(memory) => {
                memory.nak(source, delivery, delay);
                Ok(())
            }
        }
    }

    /// Never deliver it again.
    pub(crate) async fn term(&self, source: &Binding, delivery: &Info, reason: &str) -> Result<(), Error> {
        match self {
            Self::Nats(connection) => connection.term(delivery, reason).await,
            Self::Memory(memory) => {
                memory.term(source, delivery);
                Ok(())
            }
        }
    }

    /// Still at work: another `ack_wait` from now.
    pub(crate) async fn progress(&self, source: &Binding, delivery: &Info) -> Result<(), Error> {
        match self {
            Self::Nats(connection) => connection.progress(delivery).await,
            Self::Memory(memory) => {
                memory.progress(source, delivery);
                Ok(())
            }
        }
    }

    /// Waits until the server has taken all that was sent before for the consumer of a delivery that has ended.
    pub(crate) async fn settled(&self, delivery: &Info, limit: Duration) -> Result<(), Error> {
        match self {
            Self::Nats(connection) => connection.settled(delivery, limit).await,
            // What is done in memory is done when the call returns.
            Self::Memory(_) => Ok(()),
        }
    }
}

impl Deliveries {
    /// Lets at most `room` messages be on their way.
    pub(crate) fn room(&mut self, room: usize) {
        match self {
            Self::Nats(pull) => pull.room(room),
            Self::Memory(feed) => feed.room(room),
        }
    }

    /// An event that has arrived already.
    pub(crate) fn ready(&mut self) -> Option<DeliveryEvent> {
        match self {
            Self::Nats(pull) => pull.ready(),
            Self::Memory(_) => None,
        }
    }

    /// The next event.
    ///
    /// Cancel safe: a delivery is returned or stays.
    pub(crate) async fn next(&mut self) -> DeliveryEvent {
        match self {
            Self::Nats(pull) => pull.next().await,
            Self::Memory(feed) => feed.next().await,
        }
    }

    /// Asks for nothing more, and returns what still arrives until nothing can.
    ///
    /// Cancel safe: a delivery is returned or stays.
    pub(crate) async fn last(&mut self) -> Option<Message> {
        match self {
            Self::Nats(pull) => pull.last().await,
            Self::Memory(feed) => feed.last().await,
        }
    }
}

impl Deliveries {
    /// Of an ordered handler: keeps other replicas from becoming active after [`last`](Self::last); never returns.
    pub(crate) async fn stay_active(&mut self) {
        match self {
            Self::Nats(pull) => pull.stay_active().await,
            Self::Memory(_) => std::future::pending().await,
        }
    }

    /// Of an ordered handler, after a reconnect: asks whether the consumer is still the same, and gives the number of the
    /// connection if it is.
    pub(crate) async fn verify(&mut self) -> Option<u64> {
        match self {
            Self::Nats(pull) => pull.verify().await,
            Self::Memory(_) => None,
        }
    }

    /// Of an ordered handler: lets another replica become the active one.
    pub(crate) async fn step_down(&mut self) {
        match self {
            Self::Nats(pull) => pull.step_down().await,
            Self::Memory(feed) => feed.step_down(),
        }
    }
}

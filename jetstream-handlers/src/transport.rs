//! The seam: what a worker and a publisher need from whatever stands behind them.
//!
//! Above it nothing names the client library; below it nothing decides how a message ends.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_nats::HeaderMap;
use async_nats::jetstream::publish::PublishAck;
use bytes::Bytes;

use crate::error::Error;
use crate::message::Message;
use crate::nats;
use crate::subscriber::Handler;

/// Where messages come from and go to.
#[derive(Debug)]
pub(crate) enum Transport {
    Nats(Arc<nats::Connection>),
}

/// A message on its way to a stream.
#[derive(Debug, Clone)]
pub(crate) struct Outgoing {
    pub(crate) subject: async_nats::Subject,
    pub(crate) payload: Bytes,
    pub(crate) headers: HeaderMap,
}

/// A message as it lies in a stream.
#[derive(Debug, Clone)]
pub(crate) struct Stored {
    pub(crate) sequence: u64,
    pub(crate) subject: async_nats::Subject,
    pub(crate) payload: Bytes,
    pub(crate) headers: HeaderMap,
    pub(crate) time: SystemTime,
}

/// What start-up found or made for one handler.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    pub(crate) stream: String,
    pub(crate) consumer: String,
    /// The consumer's effective one, which paces the in-progress signals.
    pub(crate) ack_wait: Duration,
    /// The consumer's effective one.
    pub(crate) max_ack_pending: usize,
    /// Whether a message leaves the stream when its consumer has done with it, and stays for ever if that gives up.
    pub(crate) work_queue: bool,
    /// Where dead letters go; `None` where the handler wants none.
    pub(crate) dead_letter: Option<String>,
}

/// A message, and the means to end it.
#[derive(Debug)]
pub(crate) struct Delivery {
    pub(crate) message: Message,
    pub(crate) acker: Acker,
}

/// What comes from a transport to a worker.
#[derive(Debug)]
pub(crate) enum Event {
    Delivery(Delivery),
    /// Nothing can come for the reason given; the transport is working on it.
    Recovering(String),
    /// Messages can come again.
    Running,
    /// The server has given a message up after so many deliveries, and will not deliver it again.
    GivenUp {
        sequence: u64,
        delivered: u64,
    },
}

/// The deliveries of one handler.
#[derive(Debug)]
pub(crate) enum Deliveries {
    Nats(Box<nats::Pull>),
}

/// Ends one delivery, or keeps it alive.
#[derive(Debug, Clone)]
pub(crate) enum Acker {
    Nats(nats::Acker),
}

impl Transport {
    /// Finds or makes the stream and the consumer of every handler, and reports all that is wrong.
    ///
    /// With `problems` found before, everything is looked at but nothing made.
    pub(crate) async fn provision(
        &self,
        handlers: &[Handler],
        problems: Vec<Error>,
    ) -> Result<Vec<Source>, Vec<Error>> {
        match self {
            Self::Nats(connection) => nats::provision(connection, handlers, problems).await,
        }
    }

    /// Opens the deliveries of a handler; nothing comes before [`Deliveries::room`] is called.
    pub(crate) async fn deliveries(
        &self,
        handler: &Handler,
        source: &Source,
        expires: Duration,
    ) -> Result<Deliveries, Error> {
        match self {
            Self::Nats(connection) => {
                let pull = nats::Pull::open(connection.clone(), handler.clone(), source.clone(), expires).await?;
                Ok(Deliveries::Nats(Box::new(pull)))
            }
        }
    }

    /// Publishes a message and waits until a stream has stored it.
    pub(crate) async fn publish(&self, message: Outgoing) -> Result<PublishAck, Error> {
        match self {
            Self::Nats(connection) => nats::publish(connection, message).await,
        }
    }

    /// The message of a stream at this sequence, or with `or_later` the next one there is.
    pub(crate) async fn stored(&self, stream: &str, sequence: u64, or_later: bool) -> Result<Option<Stored>, Error> {
        match self {
            Self::Nats(connection) => connection.stored(stream, sequence, or_later).await,
        }
    }

    /// Deletes one message of a stream; `false` if there was none.
    pub(crate) async fn delete(&self, stream: &str, sequence: u64) -> Result<bool, Error> {
        match self {
            Self::Nats(connection) => connection.delete(stream, sequence).await,
        }
    }

    /// How often each message of a consumer was handed back without having been tried.
    pub(crate) async fn handed_back(&self, source: &Source) -> Result<BTreeMap<u64, u64>, Error> {
        match self {
            Self::Nats(connection) => connection.handed_back(source).await,
        }
    }

    /// Remembers for every replica that these messages were handed back.
    pub(crate) async fn hand_back(&self, source: &Source, sequences: &[u64]) -> Result<(), Error> {
        match self {
            Self::Nats(connection) => connection.hand_back(source, sequences).await,
        }
    }

    /// Whether a server is connected at this moment.
    pub(crate) fn is_connected(&self) -> bool {
        match self {
            Self::Nats(connection) => connection.is_connected(),
        }
    }

    /// Ends the connection after all that was sent has left.
    pub(crate) async fn close(&self) -> Result<(), Error> {
        match self {
            Self::Nats(connection) => connection.close().await,
        }
    }
}

impl Deliveries {
    /// Lets at most `room` messages be on their way.
    pub(crate) fn room(&mut self, room: usize) {
        match self {
            Self::Nats(pull) => pull.room(room),
        }
    }

    /// The next event.
    ///
    /// Cancel safe: a delivery is returned or stays.
    pub(crate) async fn next(&mut self) -> Event {
        match self {
            Self::Nats(pull) => pull.next().await,
        }
    }

    /// Asks for nothing more, and returns what still arrives until nothing can.
    ///
    /// Cancel safe: a delivery is returned or stays.
    pub(crate) async fn last(&mut self) -> Option<Delivery> {
        match self {
            Self::Nats(pull) => pull.last().await,
        }
    }
}

impl Acker {
    /// Done.
    pub(crate) async fn ack(&self) -> Result<(), Error> {
        match self {
            Self::Nats(acker) => acker.ack().await,
        }
    }

    /// Done, and the server has said that it knows.
    pub(crate) async fn ack_confirmed(&self, limit: Duration) -> Result<(), Error> {
        match self {
            Self::Nats(acker) => acker.ack_confirmed(limit).await,
        }
    }

    /// Deliver it again after `delay`; zero means at once.
    pub(crate) async fn nak(&self, delay: Duration) -> Result<(), Error> {
        match self {
            Self::Nats(acker) => acker.nak(delay).await,
        }
    }

    /// Never deliver it again.
    pub(crate) async fn term(&self, reason: &str) -> Result<(), Error> {
        match self {
            Self::Nats(acker) => acker.term(reason).await,
        }
    }

    /// Waits until the server has taken all that was sent before for this consumer.
    pub(crate) async fn round_trip(&self, limit: Duration) -> Result<(), Error> {
        match self {
            Self::Nats(acker) => acker.round_trip(limit).await,
        }
    }

    /// Still at work: another `ack_wait` from now.
    pub(crate) async fn progress(&self) -> Result<(), Error> {
        match self {
            Self::Nats(acker) => acker.progress().await,
        }
    }
}

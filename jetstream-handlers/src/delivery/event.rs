//! State changes that a transport reports to a worker.

use std::time::{Duration, SystemTime};

use super::GivenUpReports;

/// The pause of a consumer, which delivers nothing until it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pause {
    /// The end by the clock of the server.
    pub(crate) until: Option<SystemTime>,
    /// The time up to the end when the server was asked.
    pub(crate) remaining: Option<Duration>,
}

/// A state change of a worker's deliveries.
#[derive(Debug)]
pub(crate) enum DeliveryEvent {
    /// No message can arrive, for this reason; the transport is recovering.
    Recovering(String),
    /// Messages can arrive again.
    Running,
    /// The consumer does not exist. The transport sends no requests until `Deliveries::restored` is called.
    ConsumerMissing {
        /// The stream sequence at which a restored consumer must start: one after the ack floor that was read last.
        /// `None` is the beginning of the stream.
        start: Option<u64>,
    },
    /// The messages of an ordered handler, or of one with a key, that have arrived and were not begun must be discarded:
    /// another instance receives them, or they will be redelivered.
    Resync,
    /// The server has identified the consumer of an ordered handler on the connection of this number; if the consumer
    /// was replaced, [`ConsumerReplaced`](Self::ConsumerReplaced) precedes this event.
    ///
    /// Acks may be sent on this connection from now on. The last ack on the former connection may be lost, so it must
    /// be sent again.
    ConsumerVerified(u64),
    /// The consumer of an ordered handler, or of one with a key, was replaced, and has no record of earlier deliveries.
    ConsumerReplaced,
    /// Everything of a handler with a key that was delivered and has not ended has arrived, so that its messages may
    /// start.
    Complete,
    /// The consumer was paused, or `None` if it was resumed.
    Paused(Option<Pause>),
    /// The server denies the acks of the handler, for this reason.
    AcksDenied(String),
    /// These messages are reported to have been delivered `max_deliver` times without an acknowledgement, so that they
    /// will not be redelivered.
    MaxDeliveries(GivenUpReports),
}

//! Events that a transport reports to a worker.

use crate::message::Message;

/// What comes from a transport to a worker.
#[allow(clippy::large_enum_variant)] // a delivery is the usual case, and an allocation for each would cost more
#[derive(Debug)]
pub(crate) enum DeliveryEvent {
    Delivery(Message),
    /// Nothing can come for the reason given; the transport is working on it.
    Recovering(String),
    /// Messages can come again.
    Running,
    /// Of an ordered handler: what has arrived and was not begun is another replica's by now, or comes again.
    Regathering,
    /// Of an ordered handler: on the connection of this number the server has said which consumer it is; if that is
    /// another one than before, [`Replaced`](Self::Replaced) came before this.
    ///
    /// Acks may be sent on it from now on. One of the connection before may be lost, so the last one is due again.
    Verified(u64),
    /// Of an ordered handler: the consumer is not the one that it was, and knows nothing of what was delivered before.
    Replaced,
    /// The server has given a message up after so many deliveries, and will not deliver it again.
    GivenUp {
        sequence: u64,
        delivered: u64,
    },
}

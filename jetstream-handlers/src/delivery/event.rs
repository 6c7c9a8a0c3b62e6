//! State changes that a transport reports to a worker.

/// A change in what a worker can expect from its consumer.
#[derive(Debug)]
pub(crate) enum DeliveryEvent {
    /// No message can arrive, for the reason given; the transport is recovering.
    Recovering(String),
    /// Messages can arrive again.
    Running,
    /// The consumer does not exist. The transport sends no requests until `Deliveries::restored` is called.
    ConsumerMissing {
        /// The stream sequence at which a restored consumer has to start: one behind the ack floor that was read last.
        /// `None` is the beginning of the stream.
        start: Option<u64>,
    },
    /// Of an ordered handler: messages that have arrived and were not begun belong to another instance by now, or will
    /// be redelivered.
    Resync,
    /// Of an ordered handler: on the connection of this number the server has identified the consumer; if it is another
    /// one than before, [`ConsumerReplaced`](Self::ConsumerReplaced) came first.
    ///
    /// Acks may be sent on this connection from now on. The last ack on the former connection may be lost, so it is due
    /// again.
    ConsumerVerified(u64),
    /// Of an ordered handler: the consumer was replaced, and knows nothing of earlier deliveries.
    ConsumerReplaced,
    /// The server delivered a message `max_deliver` times without an answer, and will not deliver it again.
    MaxDeliveries { sequence: u64, delivered: u64 },
}

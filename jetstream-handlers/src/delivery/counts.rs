//! The counts of a consumer and of a stream.

/// The numbers of messages of a consumer, for gauges.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct ConsumerCounts {
    /// Messages that were not delivered.
    pub(crate) pending: u64,
    /// Deliveries that are not acknowledged.
    pub(crate) ack_pending: u64,
    /// Messages that were delivered more than once, and are not acknowledged.
    pub(crate) redelivered: u64,
    /// Pull requests that wait.
    pub(crate) waiting: u64,
}

/// The subjects of a stream.
#[derive(Debug)]
pub(crate) struct StreamSubjects {
    /// The subjects to which the stream listens, which may have wildcards.
    pub(crate) declared: Vec<String>,
    /// The number of subjects that its messages have.
    pub(crate) count: u64,
}

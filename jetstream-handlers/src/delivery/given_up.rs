//! The state of a message that its consumer is reported to have given up.

/// The state of a message that is reported to have reached its consumer's `max_deliver`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum GivenUpState {
    /// The consumer has delivered it and does not wait for its ack, so it is never delivered again.
    GivenUp,
    /// It may be in flight, so the consumer must be asked again later.
    InFlight,
    /// The report is wrong, for this reason.
    NotGivenUp(String),
}

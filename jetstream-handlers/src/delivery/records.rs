//! What the processes that share a consumer have recorded about its messages.

use std::collections::BTreeMap;

/// A number for each message, by stream sequence.
pub(crate) type Counts = BTreeMap<u64, u64>;

/// The records about the messages of a consumer, by which its processes distinguish attempts from deliveries.
#[derive(Debug, Clone, Default)]
pub(crate) struct Records {
    /// The number of deliveries that were handed back without an attempt.
    pub(crate) handed_back: Counts,
    /// The sum of the weights of the attempts in isolation.
    pub(crate) tried_alone: Counts,
    /// The messages that have no attempts left, and whose dead letters could not be stored yet.
    pub(crate) exhausted: Counts,
}

/// The way in which a message is tried whose earlier attempts ended without an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Isolation {
    /// No other call runs when it begins.
    Alone,
    /// Other calls run that did not end in time.
    Beside,
}

impl Isolation {
    /// The sum of weights from which the message is taken for the one that ends its process.
    pub(crate) const ENOUGH: u64 = 3;

    /// Returns the weight of one attempt that ended without an answer.
    pub(crate) fn weight(self) -> u64 {
        match self {
            Self::Alone => Self::ENOUGH,
            Self::Beside => 1,
        }
    }
}

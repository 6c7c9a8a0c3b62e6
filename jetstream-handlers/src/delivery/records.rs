//! The records about messages that the processes of one consumer share.

use std::collections::BTreeMap;

/// A number for each message, by stream sequence.
pub(crate) type Counts = BTreeMap<u64, u64>;

/// The record about one message, by which the processes of its consumer distinguish attempts from deliveries.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Record {
    /// The number of deliveries that were handed back without an attempt.
    pub(crate) handed_back: u64,
    /// The sum of the weights of the attempts in isolation.
    pub(crate) tried_alone: u64,
    /// `true` if the message has no attempts left, and its dead letter could not be stored yet.
    pub(crate) exhausted: bool,
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

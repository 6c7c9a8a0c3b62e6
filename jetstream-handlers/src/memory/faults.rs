//! What goes wrong because a test asked for it.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::subject::covers;

/// The faults that are still to happen.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    pub(crate) lose_acks: usize,
    pub(crate) crash_before_ack: usize,
    pub(crate) redeliver: usize,
    /// Whether every message is delivered again after its first ack.
    pub(crate) redeliver_all: bool,
    /// The messages that were, by consumer.
    redelivered: BTreeSet<(String, u64)>,
    /// Whether of two new messages the later one comes first.
    pub(crate) reorder: bool,
    pub(crate) fail_publishes: Vec<(String, usize)>,
    /// How long the server takes to store a message.
    pub(crate) slow: Duration,
}

/// What becomes of an ack.
pub(super) enum AckFault {
    None,
    Lost,
    Crash,
    /// It is taken, and the message delivered again all the same.
    Again,
}

impl Faults {
    pub(super) fn next_ack(&mut self, consumer: &str, sequence: u64) -> AckFault {
        let happens = |count: &mut usize| {
            let happens = *count > 0;
            *count = count.saturating_sub(1);
            happens
        };
        if happens(&mut self.lose_acks) {
            AckFault::Lost
        } else if happens(&mut self.crash_before_ack) {
            AckFault::Crash
        } else if happens(&mut self.redeliver)
            || (self.redeliver_all && self.redelivered.insert((consumer.to_owned(), sequence)))
        {
            AckFault::Again
        } else {
            AckFault::None
        }
    }

    pub(super) fn fails_publish(&mut self, subject: &str) -> bool {
        let fault = self.fail_publishes.iter_mut().find(|(pattern, count)| *count > 0 && covers(pattern, subject));
        fault.map(|(_, count)| *count -= 1).is_some()
    }
}

//! Faults injected by a test.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::subject::covers;

/// The faults still to be injected.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    /// The number of acks to lose.
    pub(crate) lose_acks: usize,
    /// The number of crashes at an ack.
    pub(crate) crash_before_ack: usize,
    /// The number of acked messages to redeliver.
    pub(crate) redeliver: usize,
    /// `true` if every message is redelivered after its first ack.
    pub(crate) redeliver_all: bool,
    /// The messages redelivered by `redeliver_all`, by consumer.
    redelivered: BTreeSet<(String, u64)>,
    /// `true` if the later of two new messages is delivered first.
    pub(crate) reorder: bool,
    /// Subjects, which may have wildcards, with the number of publishes to refuse.
    pub(crate) fail_publishes: Vec<(String, usize)>,
    /// The delay before a message is stored.
    pub(crate) publish_delay: Duration,
}

/// The effect of the faults on one ack.
pub(super) enum AckFault {
    None,
    /// The ack does not arrive.
    Lost,
    /// The process crashes before it sends the ack.
    Crash,
    /// The message is redelivered although its ack arrived.
    Redeliver,
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
            AckFault::Redeliver
        } else {
            AckFault::None
        }
    }

    pub(super) fn fails_publish(&mut self, subject: &str) -> bool {
        let fault = self.fail_publishes.iter_mut().find(|(pattern, count)| *count > 0 && covers(pattern, subject));
        fault.map(|(_, count)| *count -= 1).is_some()
    }
}

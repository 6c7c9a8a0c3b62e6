//! Messages that their consumer is reported to have given up, and the state of the consumer that confirms it.

use std::collections::BTreeSet;
use std::time::SystemTime;

use crate::error::printable::printable;
use crate::subject::covers;

/// Reports that messages reached `max_deliver`, each with a stream sequence and a number of deliveries.
///
/// Everyone without a list of allowed subjects can send any number of reports, also with wrong numbers for a message
/// whose correct report follows. All different ones are therefore kept, up to a limit.
#[derive(Debug, Default)]
pub(crate) struct GivenUpReports {
    reports: BTreeSet<(u64, u64)>,
    dropped: u64,
}

impl GivenUpReports {
    /// The maximum number of reports, which a flood of forged ones reaches after a second.
    pub(crate) const MAX: usize = 16_384;

    /// Adds a report, or counts it as dropped; returns `true` if it is the first one.
    pub(crate) fn add(&mut self, sequence: u64, delivered: u64) -> bool {
        let was_empty = self.reports.is_empty();
        if self.reports.len() < Self::MAX {
            self.reports.insert((sequence, delivered));
        } else if !self.reports.contains(&(sequence, delivered)) {
            self.dropped += 1;
        }
        was_empty
    }

    /// Adds the reports of another set.
    pub(crate) fn append(&mut self, other: Self) {
        self.dropped += other.dropped;
        for (sequence, delivered) in other.reports {
            self.add(sequence, delivered);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.reports.is_empty() && self.dropped == 0
    }

    /// Returns the reports by sequence, and the number of those that were dropped.
    pub(crate) fn into_parts(self) -> (BTreeSet<(u64, u64)>, u64) {
        (self.reports, self.dropped)
    }
}

/// The state of a consumer, which tells whether it can have given up a message.
#[derive(Debug, Clone, Default)]
pub(crate) struct ConsumerState {
    /// The time at which the consumer was created, which tells it from another one of the same name.
    pub(crate) created: Option<SystemTime>,
    /// The subjects that the consumer receives; empty for all.
    pub(crate) filters: Vec<String>,
    /// 0 without a limit.
    pub(crate) max_deliver: u64,
    /// The last sequence of the stream that was delivered.
    pub(crate) delivered: u64,
    /// The number of deliveries.
    pub(crate) deliveries: u64,
    /// The sequence of the stream up to which everything has ended.
    pub(crate) ack_floor: u64,
    pub(crate) ack_pending: usize,
    pub(crate) redelivered: usize,
}

impl ConsumerState {
    /// Returns `true` if the consumer receives messages on a subject.
    pub(crate) fn receives(&self, subject: &str) -> bool {
        self.filters.is_empty() || self.filters.iter().any(|filter| covers(filter, subject))
    }

    /// Returns the state of a message that is reported to have been given up after `delivered` deliveries
    /// (`consumer.go`, `hasMaxDeliveries` and `infoWithSnapAndReply`).
    ///
    /// A message that was acknowledged and is kept by its stream looks like one that was given up, unless the numbers
    /// of deliveries exclude it: the server does not report the state of one message.
    pub(crate) fn of_message(&self, sequence: u64, delivered: u64) -> GivenUpState {
        let Self { max_deliver, .. } = *self;
        let wrong = if sequence > self.delivered {
            format!("the consumer has delivered messages only up to {}", self.delivered)
        } else if max_deliver == 0 {
            "the consumer has no max_deliver".to_owned()
        } else if delivered < max_deliver {
            format!("it is reported after {delivered} deliveries, and max_deliver is {max_deliver}")
        } else if delivered > self.deliveries {
            format!("it is reported after {delivered} deliveries, and the consumer has made {}", self.deliveries)
        } else if max_deliver > 1 && self.redelivered == 0 {
            // The server counts a message that it has given up among the redelivered ones, except with `max_deliver: 1`.
            "the consumer has no redelivered message".to_owned()
        } else if self.ack_pending > 0 && sequence > self.ack_floor {
            return GivenUpState::InFlight;
        } else {
            return GivenUpState::GivenUp;
        };
        GivenUpState::NotGivenUp(wrong)
    }

    /// Returns the reason that the consumer cannot have given up a message on a subject.
    pub(crate) fn not_received(subject: &str) -> String {
        format!("the consumer does not receive subject `{}`", printable(subject))
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn correct_report_is_kept_among_wrong_ones_of_the_same_message() {
        let mut reports = GivenUpReports::default();
        for delivered in [0, 2, u64::MAX, 2] {
            reports.add(7, delivered);
        }
        let state =
            ConsumerState { max_deliver: 2, delivered: 9, deliveries: 12, redelivered: 1, ..Default::default() };
        let (reports, dropped) = reports.into_parts();
        let given_up = |(sequence, delivered)| state.of_message(sequence, delivered) == GivenUpState::GivenUp;
        assert_eq!((reports.into_iter().map(given_up).collect::<Vec<_>>(), dropped), (vec![false, true, false], 0));
    }

    #[test]
    fn reports_are_bounded_and_counted() {
        let mut reports = GivenUpReports::default();
        let max = GivenUpReports::MAX as u64;
        for sequence in (0..max + 10).chain(0..5) {
            reports.add(sequence, 1);
        }
        let mut all = GivenUpReports::default();
        all.add(max + 20, 1);
        all.append(reports);
        let (reports, dropped) = all.into_parts();
        assert_eq!((reports.len(), dropped), (GivenUpReports::MAX, 11));
    }
}

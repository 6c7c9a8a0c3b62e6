//! Messages that were on their way, or in this process, while the process did not run.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::Worker;
use crate::message::Info;

impl Worker {
    /// Returns the time since which messages that arrive now may have been on their way.
    ///
    /// The server may have redelivered those that are older than `ack_wait`, which the buffer does not return.
    pub(super) fn arrivals_since(&self) -> Instant {
        let Some(observed) = self.transport.observe_clock() else { return Instant::now() };
        self.make_older(observed.suspended);
        observed.sent_since.map_or_else(Instant::now, Instant::from_std)
    }

    /// Notices that the machine was suspended, in which time the monotonic clock stood still.
    pub(super) fn notice_suspension(&self) {
        if let Some(observed) = self.transport.observe_clock() {
            self.make_older(observed.suspended);
        }
    }

    /// Moves the times of all messages back if the machine was suspended since the last call.
    fn make_older(&self, suspended: Duration) {
        let total = u64::try_from(suspended.as_nanos()).unwrap_or(u64::MAX);
        let before = self.suspended_nanos.swap(total, Ordering::Relaxed);
        if total > before {
            let time = Duration::from_nanos(total - before);
            self.buffers().for_each(|buffer| buffer.make_older(time));
            self.slots.make_older(time);
        }
    }

    /// Returns `true` if the server has redelivered a message in a slot, because it had no signal for `ack_wait`.
    pub(super) fn was_redelivered(&self, delivery: &Info) -> bool {
        let ack_wait = self.binding.ack_wait.get();
        self.ack_all.is_none() && self.slots.has_lost(delivery.id(), ack_wait)
    }

    /// Returns `true` if another slot handles an earlier delivery of a message, which the server has not lost.
    pub(super) fn is_in_progress(&self, delivery: &Info) -> bool {
        let ack_wait = self.binding.ack_wait.get();
        self.ack_all.is_none() && self.slots.has_earlier(delivery.id(), ack_wait)
    }

    /// Returns the messages in the slots that the server has not redelivered.
    pub(super) fn held(&self) -> impl Iterator<Item = Info> {
        self.slots.held(self.max_age()).into_iter().map(|delivery| self.info(delivery))
    }
}

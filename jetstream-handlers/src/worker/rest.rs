//! The time in which a handler is idle, and its worker holds only what it needs to receive a message.

use tokio_util::sync::CancellationToken;

use super::Worker;
use crate::transport::Deliveries;

impl Worker {
    /// Waits until something has arrived, or the handler stops.
    pub(super) async fn rest(&self, deliveries: &mut Deliveries, stop: &CancellationToken) {
        loop {
            if self.binding.partition.is_some() {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return,
                    () = self.attend_to_partition(deliveries) => {}
                }
            }
            deliveries.set_capacity(self.capacity(deliveries.max_messages()), self.prefetch.mean());
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = deliveries.arrived() => {
                    if deliveries.has_deliveries() {
                        return;
                    }
                }
                () = self.readiness.changed() => {}
                () = self.partition_changed() => {}
            }
        }
    }

    /// Returns `true` if the worker has nothing to do until something arrives.
    pub(super) fn can_rest(&self) -> bool {
        self.slots.made() == 0
            && !self.holds_messages()
            // A call that has exceeded its timeout can still run on its thread.
            && self.slots.aside() == 0
            && self.quarantine.is_empty()
            && self.uncovered.is_idle()
            && !self.denied_acks.are_denied()
            && !self.unstored.has_unrecorded()
            && !self.exhausted.is_used()
            && self.ack_all.as_ref().is_none_or(|acks| !acks.is_due())
    }
}

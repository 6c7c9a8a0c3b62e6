//! In-progress signals for the messages in the buffer and in the slots.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::Worker;
use super::buffer::Buffer;
use crate::backoff::jittered;
use crate::observe::settled::Settlement;

/// The number of signals per `ack_wait`: if one is lost, the next is still in time.
const PER_ACK_WAIT: u32 = 3;

/// The maximum time after which a changed `ack_wait` is noticed.
const MAX_SLEEP: Duration = Duration::from_secs(1);

impl Worker {
    /// Sends in-progress signals periodically; never returns.
    pub(super) async fn heartbeat(&self) {
        loop {
            // An idle handler sends no heartbeats.
            tokio::select! {
                () = self.buffer.filled() => {}
                () = self.quarantine.added() => {}
            }
            let mut sent = Instant::now();
            while self.holds_messages() || !self.quarantine.is_empty() {
                // Another version of the program may have lowered it meanwhile.
                let ack_wait = self.binding.ack_wait.get();
                let period = jittered(ack_wait / PER_ACK_WAIT).max(Duration::from_millis(1));
                let now = Instant::now();
                let due = sent + period;
                if now < due {
                    sleep((due - now).min(MAX_SLEEP)).await;
                }
                if Instant::now() >= due {
                    Box::pin(self.send_heartbeats(ack_wait / (2 * PER_ACK_WAIT))).await;
                    sent = Instant::now();
                }
            }
        }
    }

    pub(super) fn holds_messages(&self) -> bool {
        self.buffers().any(|buffer| !buffer.is_empty()) || self.slots.hold_messages()
    }

    /// Returns the buffers of the slots, and of those beside them.
    pub(super) fn buffers(&self) -> impl Iterator<Item = &Buffer> {
        std::iter::once(&*self.buffer).chain(self.asides.made().map(|aside| &aside.buffer))
    }

    /// Reports the messages that were dropped from the buffers since the last call.
    pub(super) fn report_lost(&self) {
        let lost = self.buffers().map(Buffer::take_lost).sum();
        self.observer.count(Settlement::Lost, lost);
    }

    /// Sends a signal for each message that is older than `min_age`.
    async fn send_heartbeats(&self, min_age: Duration) {
        self.observer.activity.polled(Instant::now());
        self.notice_suspension();
        self.buffers().for_each(|buffer| buffer.expire(self.max_age()));
        self.report_lost();
        if !self.transport.is_connected() {
            // A signal sent after the reconnect might be for a message that another worker has by then.
            return;
        }
        for buffer in self.buffers() {
            for delivery in buffer.refresh(min_age) {
                self.in_progress(&delivery).await;
            }
        }
        for delivery in self.buffer.keys(|keys| keys.refresh(Instant::now(), min_age)) {
            self.in_progress(&self.info(delivery)).await;
        }
        for delivery in self.quarantine.deliveries() {
            self.in_progress(&delivery).await;
        }
        // One by one, because a signal must not follow the answer to a message.
        let mut from = 0;
        while let Some((next, delivery)) = self.slots.refresh(from, min_age, self.max_age()) {
            self.in_progress(&self.info(delivery)).await;
            from = next;
        }
    }
}

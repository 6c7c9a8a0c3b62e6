//! Acks that the user's permissions do not allow.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::sleep;

use super::Worker;
use crate::backoff::ExponentialBackoff;
use crate::observe::health::Condition;

/// The minimum and maximum delay between two tries whether acks are permitted again.
const DELAYS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5));

/// The time in which the server reports that it denies an ack.
const REPORT: Duration = Duration::from_secs(1);

/// The denied acks of a handler, which is not called meanwhile: everything that it handled would be redelivered.
#[derive(Debug, Default)]
pub(super) struct DeniedAcks {
    count: AtomicU64,
    are_denied: AtomicBool,
    reported: Notify,
}

impl DeniedAcks {
    /// Returns `true` while the server denies acks.
    pub(super) fn are_denied(&self) -> bool {
        self.are_denied.load(Ordering::Relaxed)
    }
}

impl Worker {
    /// Stops the calls of the handler, because the server denies its acks.
    pub(super) fn acks_denied(&self, reason: String) {
        let denied = &self.denied_acks;
        denied.count.fetch_add(1, Ordering::Relaxed);
        if !denied.are_denied.swap(true, Ordering::Relaxed) {
            let handler = &self.handler.declaration.name;
            tracing::error!(handler, "the handler is not called until its acks are permitted: {reason}");
            self.binding.sent_acks.denied(true);
            denied.reported.notify_one();
        }
        self.status.report(Condition::DeniedAcks, reason, None);
    }

    /// Repeats the last acks until the server permits them, and then resumes the calls; never returns.
    pub(super) async fn resume_when_acks_are_permitted(&self) {
        loop {
            self.denied_acks.reported.notified().await;
            // Boxed, because most handlers never need it.
            Box::pin(self.until_acks_are_permitted()).await;
            self.binding.sent_acks.denied(false);
            self.denied_acks.are_denied.store(false, Ordering::Relaxed);
            self.readiness.wake();
            let lasted = self.status.condition_ended(Condition::DeniedAcks).unwrap_or_default();
            tracing::info!(handler = self.handler.declaration.name, "acks are permitted again after {lasted:.0?}");
        }
    }

    async fn until_acks_are_permitted(&self) {
        let mut backoff = ExponentialBackoff::new(DELAYS.0, DELAYS.1);
        loop {
            sleep(backoff.next()).await;
            // After the reports about what was sent before.
            let before = self.denied_acks.count.load(Ordering::Relaxed);
            // One ack shows whether they are permitted; each denied one is a line in the log of the server.
            self.transport.repeat_acks(&self.binding, 1).await;
            sleep(REPORT).await;
            if self.transport.is_connected() && self.denied_acks.count.load(Ordering::Relaxed) == before {
                return self.transport.repeat_acks(&self.binding, usize::MAX).await;
            }
        }
    }
}

//! Acks that the user's permissions do not allow.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};

use super::Worker;
use crate::backoff::ExponentialBackoff;
use crate::message::Info;
use crate::observe::status_cell::Condition;
use crate::sync::lock;

/// The minimum and maximum delay between two tries whether acks are permitted again.
const DELAYS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5));

/// The time in which the server reports that it denies an ack.
const REPORT: Duration = Duration::from_secs(1);

/// The maximum time after a denial at which a delivery is requested to try an ack.
const MAX_WAIT: Duration = Duration::from_secs(30);

/// The denied acks of a handler, which is not called meanwhile: everything that it handled would be redelivered.
#[derive(Debug, Default)]
pub(super) struct DeniedAcks {
    count: AtomicU64,
    are_denied: AtomicBool,
    reported: Notify,
    trial: Mutex<Trial>,
    trial_arrived: Notify,
}

/// A delivery with which it is tried whether acks are permitted.
#[derive(Debug, Default)]
enum Trial {
    #[default]
    None,
    Requested,
    Arrived(Info),
}

impl DeniedAcks {
    /// Returns `true` while the server denies acks.
    pub(super) fn are_denied(&self) -> bool {
        self.are_denied.load(Ordering::Relaxed)
    }

    /// Returns `true` while a delivery is requested although the server denies acks.
    pub(super) fn requests_delivery(&self) -> bool {
        matches!(*lock(&self.trial), Trial::Requested)
    }

    /// Takes a delivery that has arrived while the server denies acks, if one is requested.
    pub(super) fn offer(&self, delivery: Info) {
        let mut trial = lock(&self.trial);
        if matches!(*trial, Trial::Requested) {
            *trial = Trial::Arrived(delivery);
            self.trial_arrived.notify_one();
        }
    }

    /// Requests a delivery, and waits for it.
    async fn delivery(&self, worker: &Worker) -> Info {
        loop {
            {
                let mut trial = lock(&self.trial);
                match std::mem::take(&mut *trial) {
                    Trial::Arrived(delivery) => return delivery,
                    Trial::Requested | Trial::None => *trial = Trial::Requested,
                }
            }
            worker.readiness.wake();
            self.trial_arrived.notified().await;
        }
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

    /// Tries acks until the server permits them, and then resumes the calls; never returns.
    pub(super) async fn resume_when_acks_are_permitted(&self) {
        loop {
            self.denied_acks.reported.notified().await;
            // Boxed, because most handlers never need it.
            Box::pin(self.until_acks_are_permitted()).await;
            self.binding.sent_acks.denied(false);
            *lock(&self.denied_acks.trial) = Trial::None;
            self.denied_acks.are_denied.store(false, Ordering::Relaxed);
            self.readiness.wake();
            let lasted = self.status.condition_ended(Condition::DeniedAcks).unwrap_or_default();
            tracing::info!(handler = self.handler.declaration.name, "acks are permitted again after {lasted:.0?}");
        }
    }

    async fn until_acks_are_permitted(&self) {
        let sent = &self.binding.sent_acks;
        let mut backoff = ExponentialBackoff::new(DELAYS.0, DELAYS.1);
        // The message whose ack was denied is redelivered by then.
        let redelivery = self.binding.ack_wait.get().min(MAX_WAIT);
        let mut trial_at = Instant::now() + if sent.can_be_repeated() { redelivery } else { Duration::ZERO };
        loop {
            let delivery = self.next_trial(trial_at, backoff.next()).await;
            // An ordered handler has its own record of acks, which it sends again.
            let is_sent = !sent.is_empty() || self.ack_all.is_some();
            if is_sent && self.repeats_ack().await {
                return self.transport.repeat_acks(&self.binding, usize::MAX).await;
            }
            let Some(delivery) = delivery else { continue };
            trial_at = Instant::now() + redelivery;
            if self.is_permitted(self.answer_trial(&delivery)).await {
                // The user may have been given the right since.
                if is_sent && !self.repeats_ack().await && self.transport.is_connected() {
                    self.acks_are_responses();
                }
                return;
            }
        }
    }

    /// Waits for this long, or until a delivery has arrived that is requested from `at` on.
    async fn next_trial(&self, at: Instant, wait: Duration) -> Option<Info> {
        if self.ack_all.is_some() || Instant::now() < at {
            sleep(wait).await;
            return None;
        }
        timeout(wait, self.denied_acks.delivery(self)).await.ok()
    }

    /// Repeats one ack; returns `true` if the server permits it.
    ///
    /// One ack shows whether they are permitted; each denied one is a line in the log of the server.
    async fn repeats_ack(&self) -> bool {
        self.is_permitted(self.transport.repeat_acks(&self.binding, 1)).await
    }

    /// Sends an answer; returns `true` if the server permits it.
    async fn is_permitted(&self, answer: impl Future<Output = ()>) -> bool {
        // After the reports about what was sent before.
        let before = self.denied_acks.count.load(Ordering::Relaxed);
        answer.await;
        sleep(REPORT).await;
        self.transport.is_connected() && self.denied_acks.count.load(Ordering::Relaxed) == before
    }

    /// Records that the server permits an ack only as a response to its delivery.
    fn acks_are_responses(&self) {
        self.binding.sent_acks.are_responses();
        tracing::warn!(
            handler = self.handler.declaration.name,
            "the user may acknowledge only by `allow_responses`: acks are denied, and their messages redelivered, after `max` in-progress signals, after `expires`, and after a reconnect; allow `$JS.ACK.{}.{}.>` in `permissions.publish` of the user on the server",
            self.binding.stream,
            self.binding.consumer
        );
    }
}

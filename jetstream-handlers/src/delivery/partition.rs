//! One partition of a handler, as this process takes part in it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::sync::lock;

/// The time after which this instance requests the messages of a partition that no instance receives, although another
/// one claims it; a hand-over takes less.
const MAX_UNSERVED: Duration = Duration::from_secs(3);

/// The time for which an instance must be active for the messages to count as served.
const SERVED: Duration = Duration::from_secs(2);

/// The time for which a partition that no other instance has served is kept at first; it doubles each time.
const MIN_FORCED: Duration = Duration::from_secs(60);

/// The maximum of that time.
const MAX_FORCED: Duration = Duration::from_secs(3600);

/// The state of one partition, which the shares of the handler, its worker and its pulls exchange.
#[derive(Debug)]
pub(crate) struct Partition {
    pub(crate) number: u32,
    /// `true` if the share of this instance has it.
    is_assigned: AtomicBool,
    /// `true` if this instance has it although its share does not: no other one serves it, or calls do not end.
    is_kept: AtomicBool,
    /// `true` if the server delivers its messages to this instance.
    is_active: AtomicBool,
    /// `true` if another instance claims it.
    is_claimed: AtomicBool,
    kept: std::sync::Mutex<Kept>,
    /// The wake-up of the worker.
    changed: Notify,
    /// The wake-up of the shares of the handler.
    shares: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Kept {
    until: Option<Instant>,
    /// The time since which it has messages and no active instance.
    unserved_since: Option<Instant>,
    /// The time since which this instance is active.
    active_since: Option<Instant>,
    /// The time for which it was last kept because no other instance served it.
    forced: Duration,
}

impl Partition {
    /// Returns a partition that this instance does not have yet.
    pub(crate) fn new(number: u32, shares: Arc<Notify>) -> Self {
        Self {
            number,
            is_assigned: AtomicBool::new(false),
            is_kept: AtomicBool::new(false),
            is_active: AtomicBool::new(false),
            is_claimed: AtomicBool::new(false),
            kept: std::sync::Mutex::default(),
            changed: Notify::new(),
            shares,
        }
    }

    /// Returns `true` if this instance requests its messages.
    pub(crate) fn is_wanted(&self) -> bool {
        self.is_assigned.load(Ordering::Relaxed) || self.is_kept()
    }

    /// Returns `true` if this instance has it although its share does not.
    pub(crate) fn is_kept(&self) -> bool {
        self.is_kept.load(Ordering::Relaxed)
    }

    /// Returns `true` if the server delivers its messages to this instance.
    pub(crate) fn is_active(&self) -> bool {
        self.is_active.load(Ordering::Relaxed)
    }

    /// Returns `true` if another instance claims it.
    pub(crate) fn is_claimed(&self) -> bool {
        self.is_claimed.load(Ordering::Relaxed)
    }

    /// Waits until it may have become wanted or unwanted.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Sets whether the share of this instance has it, and whether another instance claims it.
    pub(crate) fn assign(&self, is_assigned: bool, is_claimed: bool) {
        self.is_claimed.store(is_claimed, Ordering::Relaxed);
        if self.is_assigned.swap(is_assigned, Ordering::Relaxed) != is_assigned {
            self.changed.notify_one();
        }
    }

    /// Records whether the server delivers its messages to this instance.
    pub(crate) fn set_active(&self, is_active: bool) {
        if self.is_active.swap(is_active, Ordering::Relaxed) == is_active {
            return;
        }
        let mut kept = lock(&self.kept);
        let since = std::mem::replace(&mut kept.active_since, is_active.then(Instant::now));
        if since.is_some_and(|since| since.elapsed() >= SERVED) {
            kept.unserved_since = None;
        }
    }

    /// Returns the time for which this instance has been active.
    pub(crate) fn active_for(&self) -> Duration {
        lock(&self.kept).active_since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Returns `true` if this instance has it, and another one is to have it.
    pub(crate) fn is_unwanted_and_active(&self) -> bool {
        self.is_active() && !self.is_wanted()
    }

    /// Records what its consumer shows: `None` if there is nothing to deliver, or an instance is active; otherwise the time
    /// for which that is normal. Some time after it, this instance requests the messages.
    ///
    /// So what other clients claim on the subject of the shares cannot stop a partition.
    pub(crate) fn seen(&self, unserved: Option<Duration>) {
        let forced = {
            let mut kept = lock(&self.kept);
            let Some(normal) = unserved else {
                kept.unserved_since = None;
                if kept.until.is_none() {
                    kept.forced = Duration::ZERO;
                }
                return;
            };
            // Claims that change all the time make it wanted for moments.
            let since = *kept.unserved_since.get_or_insert_with(Instant::now);
            if self.is_wanted() || since.elapsed() < normal + MAX_UNSERVED {
                return;
            }
            kept.unserved_since = None;
            kept.forced = (kept.forced * 2).clamp(MIN_FORCED, MAX_FORCED);
            kept.forced
        };
        self.keep(forced);
    }

    /// Keeps it for this time, whatever the share of this instance is.
    pub(crate) fn keep(&self, time: Duration) {
        lock(&self.kept).until = Some(Instant::now() + time);
        self.is_kept.store(true, Ordering::Relaxed);
        self.changed.notify_one();
        self.shares.notify_one();
    }

    /// Ends the time for which it is kept, if it has passed.
    pub(crate) fn tick(&self, now: Instant) {
        let mut kept = lock(&self.kept);
        if kept.until.is_some_and(|until| until <= now) {
            kept.until = None;
            self.is_kept.store(false, Ordering::Relaxed);
            self.changed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn partition_that_no_instance_serves_is_requested_for_longer_each_time() {
        let partition = Partition::new(7, Arc::default());
        let unserved = Some(Duration::ZERO);
        partition.seen(unserved);
        advance(MAX_UNSERVED).await;
        partition.seen(None);
        for kept in [MIN_FORCED, MIN_FORCED * 2] {
            partition.seen(unserved);
            assert!(!partition.is_wanted());
            // Claimed for a moment.
            partition.assign(true, true);
            partition.seen(unserved);
            partition.assign(false, true);
            advance(MAX_UNSERVED).await;
            partition.seen(unserved);
            assert!(partition.is_wanted() && partition.is_kept());
            advance(kept - Duration::from_secs(1)).await;
            partition.tick(Instant::now());
            assert!(partition.is_wanted());
            advance(Duration::from_secs(1)).await;
            partition.tick(Instant::now());
            assert!(!partition.is_wanted());
        }
        partition.assign(true, false);
        assert!(partition.is_wanted() && !partition.is_kept());
    }

    #[tokio::test(start_paused = true)]
    async fn messages_that_wait_for_their_redelivery_are_not_unserved() {
        let (partition, ack_wait) = (Partition::new(7, Arc::default()), Duration::from_secs(30));
        partition.seen(Some(ack_wait));
        advance(ack_wait).await;
        partition.seen(Some(ack_wait));
        assert!(!partition.is_wanted());
        advance(MAX_UNSERVED).await;
        partition.seen(Some(ack_wait));
        assert!(partition.is_wanted());
    }
}

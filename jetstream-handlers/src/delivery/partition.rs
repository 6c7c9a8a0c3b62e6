//! One partition of a handler, as this process takes part in it.

use std::sync::{Arc, Mutex};
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

/// One partition, whose state the shares of the handler, its worker and its pulls exchange.
#[derive(Debug)]
pub(crate) struct Partition {
    pub(crate) number: u32,
    state: Mutex<State>,
    /// The wake-up of the worker.
    changed: Notify,
    /// The wake-up of the shares of the handler.
    shares: Arc<Notify>,
}

#[derive(Debug, Default)]
struct State {
    /// `true` if the share of this instance has it.
    is_assigned: bool,
    /// `true` if another instance claims it.
    is_claimed: bool,
    /// The time until which this instance has it although its share does not: no other one serves it, or calls do not end.
    kept_until: Option<Instant>,
    /// The time since which it has messages and no active instance.
    unserved_since: Option<Instant>,
    /// The time since which the server delivers its messages to this instance.
    active_since: Option<Instant>,
    /// The time for which it was last kept because no other instance served it.
    forced: Duration,
}

impl State {
    fn is_wanted(&self) -> bool {
        self.is_assigned || self.kept_until.is_some()
    }
}

impl Partition {
    /// Returns a partition that this instance does not have yet.
    pub(crate) fn new(number: u32, shares: Arc<Notify>) -> Self {
        Self { number, state: Mutex::default(), changed: Notify::new(), shares }
    }

    /// Returns `true` if this instance requests its messages.
    pub(crate) fn is_wanted(&self) -> bool {
        lock(&self.state).is_wanted()
    }

    /// Returns `true` if this instance has it although its share does not.
    pub(crate) fn is_kept(&self) -> bool {
        lock(&self.state).kept_until.is_some()
    }

    /// Returns `true` if the server delivers its messages to this instance.
    pub(crate) fn is_active(&self) -> bool {
        lock(&self.state).active_since.is_some()
    }

    /// Returns `true` if another instance claims it.
    pub(crate) fn is_claimed(&self) -> bool {
        lock(&self.state).is_claimed
    }

    /// Waits until it may have become wanted or unwanted.
    ///
    /// # Cancel safety
    ///
    /// A change between two calls is not lost.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Sets whether the share of this instance has it, and whether another instance claims it.
    pub(crate) fn assign(&self, is_assigned: bool, is_claimed: bool) {
        let mut state = lock(&self.state);
        state.is_claimed = is_claimed;
        if std::mem::replace(&mut state.is_assigned, is_assigned) != is_assigned {
            self.changed.notify_one();
        }
    }

    /// Records whether the server delivers its messages to this instance.
    pub(crate) fn set_active(&self, is_active: bool) {
        let mut state = lock(&self.state);
        if state.active_since.is_some() == is_active {
            return;
        }
        let since = std::mem::replace(&mut state.active_since, is_active.then(Instant::now));
        if since.is_some_and(|since| since.elapsed() >= SERVED) {
            state.unserved_since = None;
        }
    }

    /// Returns the time for which this instance has been active.
    pub(crate) fn active_for(&self) -> Duration {
        lock(&self.state).active_since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Returns `true` if this instance has it, and another one is to have it.
    pub(crate) fn is_unwanted_and_active(&self) -> bool {
        let state = lock(&self.state);
        state.active_since.is_some() && !state.is_wanted()
    }

    /// Records what its consumer shows: `None` if there is nothing to deliver, or an instance is active; otherwise the time
    /// for which that is normal. Some time after it, this instance requests the messages.
    ///
    /// Without this, false announcements of another client could stop a partition.
    pub(crate) fn seen(&self, unserved: Option<Duration>) {
        let mut state = lock(&self.state);
        let Some(normal) = unserved else {
            state.unserved_since = None;
            if state.kept_until.is_none() {
                state.forced = Duration::ZERO;
            }
            return;
        };
        // Claims that change all the time make it wanted for moments.
        let since = *state.unserved_since.get_or_insert_with(Instant::now);
        if !state.is_wanted() && since.elapsed() >= normal + MAX_UNSERVED {
            state.unserved_since = None;
            state.forced = (state.forced * 2).clamp(MIN_FORCED, MAX_FORCED);
            let forced = state.forced;
            self.keep_for(&mut state, forced);
        }
    }

    /// Keeps it for this time, whatever the share of this instance is.
    pub(crate) fn keep(&self, time: Duration) {
        self.keep_for(&mut lock(&self.state), time);
    }

    fn keep_for(&self, state: &mut State, time: Duration) {
        state.kept_until = Some(Instant::now() + time);
        self.changed.notify_one();
        self.shares.notify_one();
    }

    /// Ends the time for which it is kept, if it has passed.
    pub(crate) fn tick(&self, now: Instant) {
        if lock(&self.state).kept_until.take_if(|until| *until <= now).is_some() {
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

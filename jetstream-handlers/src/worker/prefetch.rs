//! How many messages a worker asks for beyond those that can start at once.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// What a worker begins with, before it knows how long its handler takes.
const SEED: usize = 10;

/// Larger requests gain nothing; smaller ones stall at each refill.
const LARGEST: usize = 1000;

/// What waits here shall start within this part of the time after which the server would give it to somebody else.
const PART_OF_ACK_WAIT: u32 = 6;

/// And within this time in any case: another replica could have it meanwhile.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// How much the latest message counts in the mean: one part in so many.
const WEIGHT: u64 = 16;

/// The number of messages that may wait here: it doubles while they are used up, and never exceeds what can start soon.
///
/// A handler of microseconds gets its messages by the thousand, one of seconds only when it is idle.
#[derive(Debug)]
pub(super) struct Prefetch {
    /// `batch_size` says how many.
    pinned: Option<usize>,
    size: AtomicUsize,
    /// How long a message takes, as a moving mean; 0 while it is not known.
    nanos: AtomicU64,
    /// How long a message may wait, times the number of lanes.
    horizon_nanos: u64,
    least: usize,
}

impl Prefetch {
    /// For a worker with so many lanes; `least` is what it asks for however slow it is.
    pub(super) fn new(pinned: Option<usize>, ack_wait: Duration, lanes: usize, least: usize) -> Self {
        let horizon = (ack_wait / PART_OF_ACK_WAIT).min(LONGEST_WAIT);
        let horizon_nanos = u64::try_from(horizon.as_nanos()).unwrap_or(u64::MAX).saturating_mul(lanes as u64);
        Self { pinned, size: AtomicUsize::new(SEED), nanos: AtomicU64::new(0), horizon_nanos, least }
    }

    pub(super) fn size(&self) -> usize {
        if let Some(pinned) = self.pinned {
            return pinned;
        }
        let size = self.size.load(Ordering::Relaxed);
        match self.nanos.load(Ordering::Relaxed) {
            0 => size,
            nanos => {
                let can_start = usize::try_from(self.horizon_nanos / nanos).unwrap_or(usize::MAX);
                size.min(can_start).max(self.least)
            }
        }
    }

    /// A lane has handled a message in this time.
    pub(super) fn measured(&self, took: Duration) {
        let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX).max(1);
        let mean = match self.nanos.load(Ordering::Relaxed) {
            0 => took,
            mean => mean - mean / WEIGHT + took / WEIGHT,
        };
        self.nanos.store(mean.max(1), Ordering::Relaxed);
    }

    /// What waited is being used up.
    ///
    /// Before the first message has ended that says nothing: it may have arrived alone, ahead of what was asked for with it.
    pub(super) fn used_up(&self) {
        if self.pinned.is_none() && self.nanos.load(Ordering::Relaxed) > 0 {
            self.size.store((self.size() * 2).clamp(SEED, LARGEST), Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACK_WAIT: Duration = Duration::from_secs(30);

    fn after(took: Duration, lanes: usize, ack_wait: Duration) -> usize {
        let prefetch = Prefetch::new(None, ack_wait, lanes, 0);
        for _ in 0..100 {
            prefetch.measured(took);
            prefetch.used_up();
        }
        prefetch.size()
    }

    #[test]
    fn it_begins_with_ten_and_doubles() {
        let prefetch = Prefetch::new(None, ACK_WAIT, 1, 0);
        assert_eq!(prefetch.size(), 10);
        // Not before it is known how long a message takes.
        prefetch.used_up();
        assert_eq!(prefetch.size(), 10);
        prefetch.measured(Duration::from_micros(5));
        prefetch.used_up();
        assert_eq!(prefetch.size(), 20);
    }

    #[test]
    fn a_quick_handler_gets_a_thousand_and_a_slow_one_what_it_can_start() {
        assert_eq!(after(Duration::from_micros(5), 1, ACK_WAIT), 1000);
        assert_eq!(after(Duration::from_millis(100), 1, ACK_WAIT), 10);
        assert_eq!(after(Duration::from_millis(100), 1, Duration::from_secs(3)), 5);
        assert_eq!(after(Duration::from_millis(5), 64, ACK_WAIT), 1000);
        assert_eq!(after(Duration::from_secs(60), 1, ACK_WAIT), 0);
        assert_eq!(after(Duration::from_secs(60), 100, ACK_WAIT), 1);
    }

    #[test]
    fn it_shrinks_when_the_handler_becomes_slow() {
        let prefetch = Prefetch::new(None, ACK_WAIT, 1, 0);
        for _ in 0..100 {
            prefetch.measured(Duration::from_micros(5));
            prefetch.used_up();
        }
        prefetch.measured(Duration::from_secs(8));
        assert_eq!(prefetch.size(), 1);
    }

    #[test]
    fn a_number_that_was_given_stays() {
        let prefetch = Prefetch::new(Some(7), ACK_WAIT, 1, 0);
        prefetch.measured(Duration::from_secs(60));
        prefetch.used_up();
        assert_eq!(prefetch.size(), 7);
    }
}

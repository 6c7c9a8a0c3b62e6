//! The number of messages that a worker requests beyond those that can start at once.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// The size until the first message was handled.
const INITIAL_SIZE: usize = 10;

/// The maximum size: larger requests are not faster, and with smaller ones the handler waits at each refill.
const MAX_SIZE: usize = 1000;

/// A buffered message must start within this fraction of `ack_wait`, after which the server would redeliver it.
const FRACTION_OF_ACK_WAIT: u32 = 6;

/// A buffered message must also start within this time, because another worker could handle it meanwhile.
const MAX_WAIT: Duration = Duration::from_secs(1);

/// The divisor of the moving mean: the weight of the latest message is one part of this number.
const WEIGHT: u64 = 16;

/// The number of messages that may wait in the buffer: it doubles while they are used up, up to the number that can
/// start soon.
///
/// A handler that takes microseconds prefetches a thousand messages; one that takes seconds prefetches none.
#[derive(Debug)]
pub(super) struct Prefetch {
    /// The configured `batch_size`.
    fixed: Option<usize>,
    size: AtomicUsize,
    /// The mean duration of a message, or 0 before the first one.
    mean_nanos: AtomicU64,
    /// The maximum time that a message may wait, multiplied by the number of slots.
    horizon_nanos: u64,
    min_size: usize,
}

impl Prefetch {
    pub(super) fn new(fixed: Option<usize>, ack_wait: Duration, slots: usize, min_size: usize) -> Self {
        let horizon = (ack_wait / FRACTION_OF_ACK_WAIT).min(MAX_WAIT);
        let horizon_nanos = nanos(horizon).saturating_mul(slots as u64);
        Self { fixed, size: AtomicUsize::new(INITIAL_SIZE), mean_nanos: AtomicU64::new(0), horizon_nanos, min_size }
    }

    pub(super) fn size(&self) -> usize {
        if let Some(fixed) = self.fixed {
            return fixed;
        }
        let size = self.size.load(Ordering::Relaxed);
        let Some(can_start) = self.horizon_nanos.checked_div(self.mean_nanos.load(Ordering::Relaxed)) else {
            return size;
        };
        size.min(usize::try_from(can_start).unwrap_or(usize::MAX)).max(self.min_size)
    }

    /// Records the time that a slot took to handle a message.
    pub(super) fn measured(&self, took: Duration) {
        let took = nanos(took).max(1);
        let mean = match self.mean_nanos.load(Ordering::Relaxed) {
            0 => took,
            mean => mean - mean / WEIGHT + took / WEIGHT,
        };
        self.mean_nanos.store(mean.max(1), Ordering::Relaxed);
    }

    /// Returns the mean duration of a message.
    pub(super) fn mean(&self) -> Duration {
        Duration::from_nanos(self.mean_nanos.load(Ordering::Relaxed))
    }

    /// Records that the buffered messages are being used up.
    ///
    /// Does nothing before the first message has ended, because it may have arrived ahead of the others of its request.
    pub(super) fn used_up(&self) {
        if self.fixed.is_none() && self.mean_nanos.load(Ordering::Relaxed) > 0 {
            self.size.store((self.size() * 2).clamp(INITIAL_SIZE, MAX_SIZE), Ordering::Relaxed);
        }
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACK_WAIT: Duration = Duration::from_secs(30);

    fn size_after(took: Duration, slots: usize, ack_wait: Duration) -> usize {
        let prefetch = Prefetch::new(None, ack_wait, slots, 0);
        for _ in 0..100 {
            prefetch.measured(took);
            prefetch.used_up();
        }
        prefetch.size()
    }

    #[test]
    fn starts_at_ten_and_doubles() {
        let prefetch = Prefetch::new(None, ACK_WAIT, 1, 0);
        assert_eq!(prefetch.size(), 10);
        // Ignored before the first message has ended.
        prefetch.used_up();
        assert_eq!(prefetch.size(), 10);
        prefetch.measured(Duration::from_micros(5));
        prefetch.used_up();
        assert_eq!(prefetch.size(), 20);
    }

    #[test]
    fn size_is_bounded_by_what_can_start_soon() {
        assert_eq!(size_after(Duration::from_micros(5), 1, ACK_WAIT), 1000);
        assert_eq!(size_after(Duration::from_millis(100), 1, ACK_WAIT), 10);
        assert_eq!(size_after(Duration::from_millis(100), 1, Duration::from_secs(3)), 5);
        assert_eq!(size_after(Duration::from_millis(5), 64, ACK_WAIT), 1000);
        assert_eq!(size_after(Duration::from_secs(60), 1, ACK_WAIT), 0);
        assert_eq!(size_after(Duration::from_secs(60), 100, ACK_WAIT), 1);
    }

    #[test]
    fn shrinks_when_the_handler_becomes_slow() {
        let prefetch = Prefetch::new(None, ACK_WAIT, 1, 0);
        for _ in 0..100 {
            prefetch.measured(Duration::from_micros(5));
            prefetch.used_up();
        }
        prefetch.measured(Duration::from_secs(8));
        assert_eq!(prefetch.size(), 1);
    }

    #[test]
    fn configured_size_is_fixed() {
        let prefetch = Prefetch::new(Some(7), ACK_WAIT, 1, 0);
        prefetch.measured(Duration::from_secs(60));
        prefetch.used_up();
        assert_eq!(prefetch.size(), 7);
    }
}

//! The number of messages that wait on the server for their next attempt.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

use crate::sync::lock;

/// The messages of this worker whose redelivery was requested with a delay that has not passed.
///
/// They count towards the consumer's `max_ack_pending`; once that is reached, nothing is delivered until a delay has
/// passed.
#[derive(Debug, Default)]
pub(crate) struct Delayed(Mutex<Heap>);

#[derive(Debug, Default)]
struct Heap {
    due: BinaryHeap<Reverse<Instant>>,
    warned: bool,
}

impl Heap {
    fn prune(&mut self) {
        let now = Instant::now();
        while self.due.peek().is_some_and(|Reverse(due)| *due <= now) {
            self.due.pop();
        }
    }
}

impl Delayed {
    /// Returns the number of messages that wait.
    pub(crate) fn count(&self) -> usize {
        let mut heap = lock(&self.0);
        heap.prune();
        heap.due.len()
    }

    /// Adds a message; returns the number of messages each time that it rises above three quarters of `bound`.
    pub(super) fn add(&self, delay: Duration, bound: usize) -> Option<usize> {
        let mut heap = lock(&self.0);
        heap.prune();
        heap.due.push(Reverse(Instant::now() + delay));
        let count = heap.due.len();
        let full = count > bound / 4 * 3;
        let warn = full && !heap.warned;
        heap.warned = full;
        warn.then_some(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn warns_each_time_it_fills() {
        let delayed = Delayed::default();
        let add = |count: usize| (0..count).filter_map(|_| delayed.add(Duration::from_secs(1), 8)).collect::<Vec<_>>();
        assert_eq!(add(6), Vec::<usize>::new());
        assert_eq!(add(2), [7]);
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(add(7), [7]);
    }
}

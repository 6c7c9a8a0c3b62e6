//! How many messages wait on the server for their next attempt.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

use crate::sync::lock;

/// The messages that this worker has sent back with a delay.
///
/// They count against the consumer's `max_ack_pending`; when that is full, nothing new comes until the first delay is over.
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
    /// How many wait now.
    pub(crate) fn count(&self) -> usize {
        let mut heap = lock(&self.0);
        heap.prune();
        heap.due.len()
    }

    /// Adds one; gives the number of all when it passes three quarters of `bound`, once each time it does.
    pub(super) fn add(&self, delay: Duration, bound: usize) -> Option<usize> {
        let mut heap = lock(&self.0);
        heap.prune();
        heap.due.push(Reverse(Instant::now() + delay));
        let count = heap.due.len();
        let full = count > bound / 4 * 3;
        let news = full && !heap.warned;
        heap.warned = full;
        news.then_some(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_warns_when_it_fills_and_again_when_it_fills_again() {
        let delayed = Delayed::default();
        let add = |count: usize| (0..count).filter_map(|_| delayed.add(Duration::from_secs(1), 8)).collect::<Vec<_>>();
        assert_eq!(add(6), Vec::<usize>::new());
        assert_eq!(add(2), [7]);
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(add(7), [7]);
    }
}

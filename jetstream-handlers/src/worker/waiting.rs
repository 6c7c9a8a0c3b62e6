//! Messages that have arrived and wait for a free lane.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::transport::{Acker, Delivery};

/// The queue between the pull loop and the lanes; it holds no more than the loop has asked for.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    queue: Mutex<Queue>,
    arrived: Notify,
    low: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    deliveries: VecDeque<(Instant, Delivery)>,
    /// With so many left, or none, there is room for more.
    mark: usize,
    closed: bool,
}

/// A message whose turn has come.
#[derive(Debug)]
pub(super) struct Next {
    /// When the server heard of it last.
    pub(super) since: Instant,
    pub(super) delivery: Delivery,
    /// Whether there is room for more now.
    pub(super) low: bool,
}

impl Waiting {
    pub(super) fn push(&self, delivery: Delivery, now: Instant) {
        self.queue().deliveries.push_back((now, delivery));
        self.arrived.notify_one();
    }

    /// The next message, in order; nothing after the close. `now` is brought up to date if it had to be waited for.
    ///
    /// One of which the server has heard nothing for `patience` is left out: it was given to somebody else.
    pub(super) async fn pop(&self, now: &mut Instant, patience: Duration) -> Option<Next> {
        loop {
            let arrived = self.arrived.notified();
            {
                let mut queue = self.queue();
                if queue.closed {
                    return None;
                }
                while let Some((since, delivery)) = queue.deliveries.pop_front() {
                    let left = queue.deliveries.len();
                    let low = left == queue.mark || left == 0;
                    if low {
                        self.low.notify_one();
                    }
                    if now.saturating_duration_since(since) < patience {
                        return Some(Next { since, delivery, low });
                    }
                }
            }
            arrived.await;
            *now = Instant::now();
        }
    }

    /// Waits until there is room for more.
    pub(super) async fn low(&self) {
        self.low.notified().await;
    }

    /// Sets how many shall be left when there is room for more; gives how many there are.
    pub(super) fn mark(&self, mark: usize) -> usize {
        let mut queue = self.queue();
        queue.mark = mark;
        queue.deliveries.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue().deliveries.is_empty()
    }

    /// What has waited longer than `age` since it arrived or was kept last; `kept` says that the server hears of it now.
    ///
    /// What the server has heard nothing of for `patience` is left out for good: it was given to somebody else.
    pub(super) fn keep(&self, age: Duration, patience: Duration, kept: bool) -> Vec<Acker> {
        let now = Instant::now();
        let mut queue = self.queue();
        let before = queue.deliveries.len();
        queue.deliveries.retain(|(since, _)| now - *since < patience);
        if queue.deliveries.len() < before {
            self.low.notify_one();
        }
        let old = queue.deliveries.iter_mut().filter(|(since, _)| now - *since >= age);
        old.map(|(since, delivery)| {
            if kept {
                *since = now;
            }
            delivery.acker.clone()
        })
        .collect()
    }

    /// Forgets what no lane has taken.
    pub(super) fn clear(&self) {
        self.queue().deliveries.clear();
        self.low.notify_one();
    }

    /// Ends the lanes that wait, and gives back what no lane has taken.
    pub(super) fn close(&self) -> Vec<Delivery> {
        let mut queue = self.queue();
        queue.closed = true;
        let left = queue.deliveries.drain(..).map(|(_, delivery)| delivery).collect();
        self.arrived.notify_waiters();
        left
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        // No code of a user runs under the lock.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

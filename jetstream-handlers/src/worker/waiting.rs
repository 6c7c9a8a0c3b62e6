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
    taken: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    deliveries: VecDeque<(Instant, Delivery)>,
    closed: bool,
}

impl Waiting {
    pub(super) fn push(&self, delivery: Delivery) {
        self.queue().deliveries.push_back((Instant::now(), delivery));
        self.arrived.notify_one();
    }

    /// The next message with the time at which the server heard of it last, in order; nothing after the close.
    ///
    /// One of which the server has heard nothing for `ack_wait` is left out: it was given to somebody else.
    pub(super) async fn pop(&self, ack_wait: Duration) -> Option<(Instant, Delivery)> {
        loop {
            let arrived = self.arrived.notified();
            {
                let mut queue = self.queue();
                if queue.closed {
                    return None;
                }
                while let Some((since, delivery)) = queue.deliveries.pop_front() {
                    self.taken.notify_one();
                    if since.elapsed() < ack_wait {
                        return Some((since, delivery));
                    }
                }
            }
            arrived.await;
        }
    }

    /// Waits until a message was taken since the last call.
    pub(super) async fn taken(&self) {
        self.taken.notified().await;
    }

    pub(super) fn len(&self) -> usize {
        self.queue().deliveries.len()
    }

    /// What has waited longer than `age` since it arrived or was kept last; `kept` says that the server hears of it now.
    ///
    /// What the server has heard nothing of for `ack_wait` is left out for good: it was given to somebody else.
    pub(super) fn keep(&self, age: Duration, ack_wait: Duration, kept: bool) -> Vec<Acker> {
        let now = Instant::now();
        let mut queue = self.queue();
        let before = queue.deliveries.len();
        queue.deliveries.retain(|(since, _)| now - *since < ack_wait);
        if queue.deliveries.len() < before {
            self.taken.notify_one();
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

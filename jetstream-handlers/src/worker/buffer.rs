//! Messages that have arrived and wait for a free lane.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::message::{Info, Message};
use crate::sync::lock;

/// The queue between the pull loop and the lanes; it holds no more than the loop has asked for.
#[derive(Debug, Default)]
pub(super) struct Buffer {
    queue: Mutex<Queue>,
    /// For the lanes.
    arrived: Notify,
    /// For the heartbeat, which sleeps while nothing is in hand.
    filled: Notify,
    low: Notify,
    room: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    messages: VecDeque<(Instant, Message)>,
    /// With so many left, or none, there is room for more.
    mark: usize,
    closed: bool,
}

/// A message whose turn has come.
#[derive(Debug)]
pub(super) struct Next {
    /// When the server heard of it last.
    pub(super) since: Instant,
    pub(super) message: Message,
    /// Whether there is room for more now.
    pub(super) low: bool,
}

/// The queue while it is filled.
pub(super) struct BufferGuard<'a> {
    queue: MutexGuard<'a, Queue>,
    arrived: &'a Notify,
    now: Instant,
}

impl BufferGuard<'_> {
    pub(super) fn push(&mut self, message: Message) {
        self.queue.messages.push_back((self.now, message));
        self.arrived.notify_one();
    }

    pub(super) fn clear(&mut self) {
        self.queue.messages.clear();
    }
}

impl Buffer {
    /// Takes in what has arrived by now.
    pub(super) fn fill(&self, now: Instant) -> BufferGuard<'_> {
        self.filled.notify_one();
        BufferGuard { queue: self.queue(), arrived: &self.arrived, now }
    }

    /// The next message, in order.
    ///
    /// One of which the server has heard nothing for `patience` is left out: it was given to somebody else.
    pub(super) fn pop(&self, now: Instant, patience: Duration) -> Option<Next> {
        let mut queue = self.queue();
        while let Some((since, message)) = queue.messages.pop_front() {
            let left = queue.messages.len();
            let low = left == queue.mark || left == 0;
            if low {
                self.low.notify_one();
            }
            if now.saturating_duration_since(since) < patience {
                return Some(Next { since, message, low });
            }
        }
        None
    }

    /// Waits until there is something to take; gives the time then, and nothing after the close.
    pub(super) async fn arrived(&self) -> Option<Instant> {
        loop {
            let arrived = self.arrived.notified();
            {
                let queue = self.queue();
                if queue.closed {
                    return None;
                }
                if !queue.messages.is_empty() {
                    return Some(Instant::now());
                }
            }
            // A lane that is idle is room for one more.
            self.make_room();
            arrived.await;
        }
    }

    /// Waits until something may have arrived since the last time.
    pub(super) async fn filled(&self) {
        self.filled.notified().await;
    }

    /// Says that there is room for more, though nothing was taken.
    pub(super) fn make_room(&self) {
        self.room.notify_one();
    }

    /// Waits until there is room for more though nothing was taken.
    pub(super) async fn room(&self) {
        self.room.notified().await;
    }

    /// Waits until so many were taken that there is room for more.
    pub(super) async fn low(&self) {
        self.low.notified().await;
    }

    /// Sets how many shall be left when there is room for more; gives how many there are.
    pub(super) fn mark(&self, mark: usize) -> usize {
        let mut queue = self.queue();
        queue.mark = mark;
        queue.messages.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue().messages.is_empty()
    }

    /// What has waited longer than `age` since it arrived or was kept last; `kept` says that the server hears of it now.
    ///
    /// What the server has heard nothing of for `patience` is left out for good: it was given to somebody else.
    pub(super) fn keep(&self, age: Duration, patience: Duration, kept: bool) -> Vec<Info> {
        let now = Instant::now();
        let mut queue = self.queue();
        let before = queue.messages.len();
        queue.messages.retain(|(since, _)| now - *since < patience);
        if queue.messages.len() < before {
            self.make_room();
        }
        let old = queue.messages.iter_mut().filter(|(since, _)| now - *since >= age);
        old.map(|(since, message)| {
            if kept {
                *since = now;
            }
            message.info.clone()
        })
        .collect()
    }

    /// Ends the lanes that wait, and gives back what no lane has taken.
    pub(super) fn close(&self) -> Vec<Message> {
        let mut queue = self.queue();
        queue.closed = true;
        let left = queue.messages.drain(..).map(|(_, message)| message).collect();
        self.arrived.notify_waiters();
        left
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        // No code of a user runs under the lock.
        lock(&self.queue)
    }
}

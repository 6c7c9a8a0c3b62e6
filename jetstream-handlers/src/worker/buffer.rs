//! The messages that have arrived and wait for a slot.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::message::{Info, Message};
use crate::sync::lock;

/// The queue between the run loop and the slots, which holds no more messages than the run loop has requested.
#[derive(Debug, Default)]
pub(super) struct Buffer {
    queue: Mutex<Queue>,
    /// The wake-up of the slots when messages have arrived.
    arrived: Notify,
    /// The wake-up of the heartbeat, which sleeps while there are no messages.
    filled: Notify,
    refill: Notify,
    capacity: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    /// The messages, with the time of the last signal to the server about each.
    messages: VecDeque<(Instant, Message)>,
    /// The length at which more messages are requested.
    refill_at: usize,
    closed: bool,
}

/// A message taken from the buffer.
#[derive(Debug)]
pub(super) struct Next {
    /// The time of the last signal to the server about the message.
    pub(super) since: Instant,
    pub(super) message: Message,
    /// `true` if more messages are to be requested now.
    pub(super) refill: bool,
}

/// The locked buffer, while messages are added to it.
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
    /// Locks the buffer to add messages that arrived at `now`.
    pub(super) fn fill(&self, now: Instant) -> BufferGuard<'_> {
        self.filled.notify_one();
        BufferGuard { queue: self.queue(), arrived: &self.arrived, now }
    }

    /// Takes the next message.
    ///
    /// Drops messages that had no signal for `max_age`, because the server has redelivered them.
    pub(super) fn pop(&self, now: Instant, max_age: Duration) -> Option<Next> {
        let mut queue = self.queue();
        while let Some((since, message)) = queue.messages.pop_front() {
            let left = queue.messages.len();
            let refill = left == queue.refill_at || left == 0;
            if refill {
                self.refill.notify_one();
            }
            if now.saturating_duration_since(since) < max_age {
                return Some(Next { since, message, refill });
            }
        }
        None
    }

    /// Waits until there is a message and returns the time, or `None` after the close.
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
            // An idle slot is capacity for one more message.
            self.notify_capacity();
            arrived.await;
        }
    }

    /// Waits until messages may have arrived since the last call.
    pub(super) async fn filled(&self) {
        self.filled.notified().await;
    }

    /// Reports that the capacity has changed although no message was taken.
    pub(super) fn notify_capacity(&self) {
        self.capacity.notify_one();
    }

    /// Waits until the capacity has changed although no message was taken.
    pub(super) async fn capacity_changed(&self) {
        self.capacity.notified().await;
    }

    /// Waits until so many messages were taken that more are to be requested.
    pub(super) async fn refill(&self) {
        self.refill.notified().await;
    }

    /// Sets the length at which more messages are requested, and returns the current one.
    pub(super) fn refill_at(&self, length: usize) -> usize {
        let mut queue = self.queue();
        queue.refill_at = length;
        queue.messages.len()
    }

    pub(super) fn len(&self) -> usize {
        self.queue().messages.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue().messages.is_empty()
    }

    pub(super) fn is_closed(&self) -> bool {
        self.queue().closed
    }

    /// Drops messages that had no signal for `max_age`, because the server has redelivered them.
    pub(super) fn expire(&self, max_age: Duration) {
        let now = Instant::now();
        let mut queue = self.queue();
        let before = queue.messages.len();
        queue.messages.retain(|(since, _)| now - *since < max_age);
        if queue.messages.len() < before {
            self.notify_capacity();
        }
    }

    /// Returns the messages that had no signal for `min_age`, to which the caller sends one now.
    pub(super) fn refresh(&self, min_age: Duration) -> Vec<Info> {
        let now = Instant::now();
        let mut queue = self.queue();
        let due = queue.messages.iter_mut().filter(|(since, _)| now - *since >= min_age);
        due.map(|(since, message)| {
            *since = now;
            message.info.clone()
        })
        .collect()
    }

    /// Moves the times of the signals back, because the clock stood still for `time`.
    pub(super) fn make_older(&self, time: Duration) {
        for (since, _) in &mut self.queue().messages {
            *since = since.checked_sub(time).unwrap_or(*since);
        }
    }

    /// Closes the buffer: ends the slots that wait, and returns the messages that no slot has taken, except those that
    /// had no signal for `max_age`.
    pub(super) fn close(&self, max_age: Duration) -> Vec<Message> {
        let now = Instant::now();
        let mut queue = self.queue();
        queue.closed = true;
        let left = queue.messages.drain(..);
        let left = left.filter(|(since, _)| now.saturating_duration_since(*since) < max_age);
        let left = left.map(|(_, message)| message).collect();
        self.arrived.notify_waiters();
        left
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        lock(&self.queue)
    }
}

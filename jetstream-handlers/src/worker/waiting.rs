//! A message that waits in a worker.

use std::time::Duration;

use tokio::time::Instant;

use crate::message::Message;

/// A message in the buffer.
#[derive(Debug)]
pub(super) struct Waiting {
    /// The time of the last signal to the server about it.
    pub(super) since: Instant,
    /// The time at which it arrived in this process.
    pub(super) received: Instant,
    /// The time at which it may begin.
    pub(super) arrived: Instant,
    pub(super) message: Message,
}

impl Waiting {
    /// Returns a message that has arrived at `now`.
    #[inline]
    pub(super) fn new(message: Message, now: Instant) -> Self {
        Self { since: now, received: now, arrived: now, message }
    }

    /// Returns `true` unless the server has redelivered it, because it had no signal for `max_age`.
    #[inline]
    pub(super) fn is_held(&self, now: Instant, max_age: Duration) -> bool {
        // A sum beyond the clock is never over. It costs less than a difference.
        self.since.checked_add(max_age).is_none_or(|until| now < until)
    }
}

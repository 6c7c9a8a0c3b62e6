//! Messages that the client library cannot read, until they are dead-lettered.

use std::collections::VecDeque;
use std::sync::Mutex;

use tokio::sync::Notify;
use tokio::time::sleep;
use tracing::Instrument as _;

use super::Worker;
use crate::message::{Info, Message};
use crate::outcome::{Failure, Reason};
use crate::sync::lock;

/// The unreadable messages of a handler, which are kept from being redelivered until they are dead-lettered.
///
/// A redelivery would end the connection again.
#[derive(Debug, Default)]
pub(super) struct Quarantine {
    messages: Mutex<VecDeque<Message>>,
    added: Notify,
}

impl Quarantine {
    pub(super) fn add(&self, message: Message) {
        let mut messages = lock(&self.messages);
        let sequence = message.info.stream_sequence();
        // A message that was redelivered in spite of the signals is in quarantine already.
        if !messages.iter().any(|known| known.info.stream_sequence() == sequence) {
            messages.push_back(message);
            self.added.notify_waiters();
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        lock(&self.messages).is_empty()
    }

    /// Waits until a message is added.
    pub(super) async fn added(&self) {
        self.added.notified().await;
    }

    /// Returns the deliveries in quarantine, for in-progress signals.
    pub(super) fn deliveries(&self) -> Vec<Info> {
        lock(&self.messages).iter().map(|message| message.info.clone()).collect()
    }

    fn first(&self) -> Option<Message> {
        lock(&self.messages).front().cloned()
    }

    /// Removes the first message, or moves it behind the others.
    fn advance(&self, is_done: bool) {
        let mut messages = lock(&self.messages);
        let first = messages.pop_front();
        if !is_done {
            messages.extend(first);
        }
    }
}

/// Returns the failure of an unreadable message, or `None` for any other.
pub(super) fn failure(message: &Message) -> Option<Failure> {
    let unreadable = message.unreadable.as_ref()?;
    Some(Failure { reason: Reason::Undecodable, error: format!("it cannot be read: {}", unreadable.reason) })
}

impl Worker {
    /// Stores a dead letter of each unreadable message; never returns.
    pub(super) async fn dead_letter_unreadable(&self) {
        loop {
            let Some(message) = self.quarantine.first() else {
                self.quarantine.added().await;
                continue;
            };
            // Boxed, because it is rare and large.
            Box::pin(self.release_from_quarantine(message)).await;
        }
    }

    async fn release_from_quarantine(&self, message: Message) {
        let is_lost = message.unreadable.as_ref().is_some_and(|unreadable| !unreadable.is_complete);
        let Some(failure) = failure(&message) else { return self.quarantine.advance(true) };
        let span = self.span(&message);
        let delay = async {
            if is_lost && !self.binding.keeps_handled {
                tracing::error!(
                    "an unreadable message cannot be read from its stream either, so it is kept from redelivery; delete it from the stream, or give the user the permission to publish to `$JS.API.STREAM.MSG.GET.{}`",
                    self.binding.stream
                );
                return Some(self.dead_letter_delay(u64::MAX));
            }
            match self.dead_letter(&message, &failure).await {
                Ok(()) => {
                    self.terminate(&message, &failure.error).await;
                    None
                }
                Err(delay) => Some(delay),
            }
        };
        let delay = delay.instrument(span).await;
        self.quarantine.advance(delay.is_none());
        if let Some(delay) = delay {
            sleep(delay).await;
        }
    }
}

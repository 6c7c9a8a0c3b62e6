//! Messages that the client library cannot read, until they are dead-lettered.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use super::Worker;
use crate::message::{Info, Message};
use crate::observe::observer::{Ended, Times};
use crate::observe::settled::Settled;
use crate::outcome::{Failure, Reason};
use crate::sync::lock;

/// The maximum delay before a dead letter that could not be stored is tried again.
const MAX_DELAY: Duration = Duration::from_secs(30);

/// The timeout of a round trip to the server.
const ROUND_TRIP_TIMEOUT: Duration = Duration::from_secs(2);

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

    /// Returns `true` if the bytes of an unreadable message would be lost once it has ended.
    pub(super) fn is_irretrievable(&self, message: &Message) -> bool {
        let is_complete = message.unreadable.as_ref().is_none_or(|unreadable| unreadable.is_complete);
        !is_complete && !self.binding.keeps_handled
    }

    /// Reports an unreadable message that has ended without an attempt; its span is the current one.
    fn unreadable_ended(&self, message: &Message, settled: &Settled) {
        let now = Instant::now();
        let times = Times { received: now, begun: now };
        let ended = Ended { delivery: message.info.id(), subject: message.subject(), times, call: None };
        self.observer.settled(ended, settled);
    }

    async fn release_from_quarantine(&self, message: Message) {
        let Some(failure) = failure(&message) else { return self.quarantine.advance(true) };
        let scope = self.scope(&message);
        let delay = async {
            if self.is_irretrievable(&message) {
                tracing::error!(
                    "an unreadable message cannot be read from its stream either, so it is kept from redelivery; delete it from the stream, or give the user the permission to publish to `$JS.API.STREAM.MSG.GET.{}`",
                    self.binding.stream
                );
                return Some(MAX_DELAY);
            }
            let stored = self.dead_letter(&message, &failure).await;
            match self.dead_letter_result(&message, &failure, stored) {
                Ok(settled) => {
                    self.terminate(&message, &failure.error).await;
                    // If the connection ends before the server has received it, the message is still in quarantine.
                    let received = self.transport.round_trip(ROUND_TRIP_TIMEOUT).await;
                    if received.is_err() {
                        return Some(Duration::ZERO);
                    }
                    scope.settled(&settled);
                    self.unreadable_ended(&message, &settled);
                    None
                }
                Err(delay) => Some(delay.min(MAX_DELAY)),
            }
        };
        let delay = scope.clone().run(delay).await;
        self.quarantine.advance(delay.is_none());
        if let Some(delay) = delay {
            sleep(delay).await;
        }
    }
}

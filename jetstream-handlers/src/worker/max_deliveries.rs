//! Messages that reached `max_deliver` on the server, until they are dead-lettered.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::sleep;

use super::Worker;
use crate::backoff::ExponentialBackoff;
use crate::delivery::Binding;
use crate::error::Error;
use crate::message::{Info, Message};
use crate::outcome::{Failure, Reason};
use crate::sync::lock;

/// The maximum number of messages that can wait to be dead-lettered.
const MAX_WAITING: usize = 1024;

/// The queue of messages that reached `max_deliver` on the server, each with its sequence and number of deliveries.
#[derive(Debug, Default)]
pub(super) struct ExhaustedMessages {
    waiting: Mutex<VecDeque<(u64, u64)>>,
    added: Notify,
}

impl ExhaustedMessages {
    /// Adds a message; returns `false` if the queue is full.
    pub(super) fn add(&self, sequence: u64, delivered: u64) -> bool {
        let mut waiting = lock(&self.waiting);
        let fits = waiting.len() < MAX_WAITING;
        if fits {
            waiting.push_back((sequence, delivered));
            self.added.notify_one();
        }
        fits
    }

    /// Puts back a message that was taken, even if the queue is full.
    fn put_back(&self, sequence: u64, delivered: u64) {
        lock(&self.waiting).push_back((sequence, delivered));
        self.added.notify_one();
    }

    fn take(&self) -> Option<(u64, u64)> {
        lock(&self.waiting).pop_front()
    }
}

impl Worker {
    /// Stores a dead letter of each message that reached `max_deliver` on the server; never returns.
    pub(super) async fn dead_letter_exhausted(&self) {
        let mut backoff = ExponentialBackoff::new(Duration::from_secs(1), Duration::from_secs(60));
        let mut failed = VecDeque::new();
        loop {
            while let Some((sequence, delivered)) = self.exhausted.take() {
                // Boxed, because it is rare and large.
                match Box::pin(self.dead_letter_stored(sequence, delivered)).await {
                    Ok(()) => backoff.reset(),
                    Err(error) => {
                        let handler = &self.handler.declaration.name;
                        tracing::error!(handler, sequence, "the message could not be dead-lettered yet: {error:?}");
                        if failed.len() < MAX_WAITING {
                            failed.push_back((sequence, delivered));
                        } else {
                            tracing::error!(
                                handler,
                                sequence,
                                "too many messages wait to be dead-lettered, so this one stays in its stream"
                            );
                        }
                    }
                }
            }
            tokio::select! {
                () = self.exhausted.added.notified() => {}
                // Boxed in a future of its own, so that the handler does not hold its size while nothing has failed.
                () = async { Box::pin(sleep(backoff.next())).await }, if !failed.is_empty() => {
                    // At the end of the queue, it does not delay the other messages.
                    let (sequence, delivered) = failed.pop_front().expect("the branch is disabled while it is empty");
                    self.exhausted.put_back(sequence, delivered);
                }
            }
        }
    }

    /// Stores a dead letter of a message that is read from its stream.
    async fn dead_letter_stored(&self, sequence: u64, delivered: u64) -> Result<(), Error> {
        let Binding { stream, consumer, dead_letter, work_queue, .. } = &*self.binding;
        let Some(stored) = self.transport.stored(stream, sequence).await? else {
            return Ok(());
        };
        let error = format!("it reached max_deliver on the server, after {delivered} deliveries without an answer");
        tracing::error!(handler = self.handler.declaration.name, sequence, "{error}");
        let Some(subject) = dead_letter else { return Ok(()) };
        let message = Message {
            info: Info::from_stored(stream, consumer, delivered, &stored),
            subject: stored.subject,
            payload: stored.payload,
            headers: Some(Arc::new(stored.headers)),
            unreadable: None,
        };
        self.store_dead_letter(subject, &message, &Failure { reason: Reason::Killed, error }).await?;
        if *work_queue {
            self.transport.delete(stream, sequence).await?;
        }
        Ok(())
    }
}

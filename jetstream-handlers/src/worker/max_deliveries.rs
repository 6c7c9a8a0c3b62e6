//! Messages that reached `max_deliver` on the server, until they are dead-lettered.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use super::Worker;
use crate::backoff::ExponentialBackoff;
use crate::delivery::{Binding, GivenUpState};
use crate::error::Error;
use crate::message::{Info, Message};
use crate::outcome::{Failure, Reason};
use crate::sync::lock;

/// The maximum number of messages that can wait to be dead-lettered.
const MAX_WAITING: usize = 1024;

/// The minimum time between two log lines about wrong reports.
const LOG_PERIOD: Duration = Duration::from_secs(60);

/// The queue of messages that reached `max_deliver` on the server, each with its sequence and number of deliveries.
#[derive(Debug, Default)]
pub(super) struct ExhaustedMessages {
    waiting: Mutex<VecDeque<(u64, u64)>>,
    added: Notify,
}

impl ExhaustedMessages {
    /// Adds a message, unless it waits already; returns `false` if the queue is full.
    pub(super) fn add(&self, sequence: u64, delivered: u64) -> bool {
        let mut waiting = lock(&self.waiting);
        if waiting.iter().any(|(other, _)| *other == sequence) {
            return true;
        }
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

/// The result of an attempt to dead-letter a message that is reported to have reached `max_deliver`.
enum Attempt {
    /// It is dead-lettered, or nothing has to be done.
    Ended,
    /// It may be in flight.
    TooEarly,
}

/// The log of reports that were wrong: everyone may send them, at any rate.
#[derive(Default)]
struct WrongReports {
    unlogged: u64,
    last: Option<Instant>,
}

impl WrongReports {
    /// Logs a report, or counts it if one was logged within the last [`LOG_PERIOD`].
    fn log(&mut self, handler: &str, sequence: u64, why: &str) {
        if self.last.is_some_and(|last| last.elapsed() < LOG_PERIOD) {
            self.unlogged += 1;
            return;
        }
        tracing::warn!(
            handler,
            sequence,
            unlogged = self.unlogged,
            "ignored an advisory that the message reached max_deliver, which it did not: {why}; restrict who may publish to `$JS.EVENT.>`"
        );
        *self = Self { unlogged: 0, last: Some(Instant::now()) };
    }
}

impl Worker {
    /// Stores a dead letter of each message that reached `max_deliver` on the server; never returns.
    pub(super) async fn dead_letter_exhausted(&self) {
        let mut backoff = ExponentialBackoff::new(Duration::from_secs(1), Duration::from_secs(60));
        let mut later = VecDeque::new();
        let mut wrong = WrongReports::default();
        loop {
            while let Some((sequence, delivered)) = self.exhausted.take() {
                // Boxed, because it is rare and large.
                match Box::pin(self.dead_letter_stored(sequence, delivered, &mut wrong)).await {
                    Ok(Attempt::Ended) => backoff.reset(),
                    Ok(Attempt::TooEarly) => self.try_later(&mut later, sequence, delivered),
                    Err(error) => {
                        let handler = &self.handler.declaration.name;
                        tracing::error!(handler, sequence, "the message could not be dead-lettered yet: {error:?}");
                        self.try_later(&mut later, sequence, delivered);
                    }
                }
            }
            tokio::select! {
                () = self.exhausted.added.notified() => {}
                // Boxed in a future of its own, so that the handler does not hold its size while nothing has failed.
                () = async { Box::pin(sleep(backoff.next())).await }, if !later.is_empty() => {
                    // At the end of the queue, it does not delay the other messages.
                    let (sequence, delivered) = later.pop_front().expect("the branch is disabled while it is empty");
                    self.exhausted.put_back(sequence, delivered);
                }
            }
        }
    }

    fn try_later(&self, later: &mut VecDeque<(u64, u64)>, sequence: u64, delivered: u64) {
        if later.len() < MAX_WAITING {
            later.push_back((sequence, delivered));
        } else {
            tracing::error!(
                handler = self.handler.declaration.name,
                sequence,
                "too many messages wait to be dead-lettered, so this one stays in its stream"
            );
        }
    }

    /// Stores a dead letter of a message that is read from its stream, if its consumer has given it up.
    async fn dead_letter_stored(
        &self,
        sequence: u64,
        delivered: u64,
        wrong: &mut WrongReports,
    ) -> Result<Attempt, Error> {
        let Binding { stream, consumer, dead_letter, work_queue, .. } = &*self.binding;
        let handler = &self.handler.declaration.name;
        let Some(stored) = self.transport.stored(stream, sequence).await? else {
            return Ok(Attempt::Ended);
        };
        match self.transport.given_up_state(&self.binding, &stored, delivered).await? {
            GivenUpState::GivenUp => {}
            GivenUpState::InFlight => return Ok(Attempt::TooEarly),
            GivenUpState::NotGivenUp(why) => {
                wrong.log(handler, sequence, &why);
                return Ok(Attempt::Ended);
            }
        }
        // Read again: it may have been acknowledged, and removed from a work queue, before its consumer was asked.
        let Some(stored) = self.transport.stored(stream, sequence).await? else {
            return Ok(Attempt::Ended);
        };
        let error = format!("it reached max_deliver on the server, after {delivered} deliveries without an answer");
        tracing::error!(handler, sequence, "{error}");
        let Some(subject) = dead_letter else { return Ok(Attempt::Ended) };
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
        Ok(Attempt::Ended)
    }
}

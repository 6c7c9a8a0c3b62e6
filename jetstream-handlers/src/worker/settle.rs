//! The one place that ends a message.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::{Worker, max_deliveries};
use crate::backoff::{ExponentialBackoff, MAX_DURATION, jittered};
use crate::dead_letter;
use crate::delivery::Binding;
use crate::error::{Error, ErrorKind};
use crate::message::{Info, Message};
use crate::outcome::{Failure, Outcome, Reason, Settle};
use crate::plan::Ack;
use async_nats::jetstream::publish::PublishAck;

/// The longest delay before a dead letter that could not be stored is tried again.
const LONGEST_BURIAL_DELAY: Duration = Duration::from_secs(600);
const LONGEST_BURIAL_DELAY_IN_ORDER: Duration = Duration::from_secs(10);

/// How long one ack waits for its confirmation.
const CONFIRMATION: Duration = Duration::from_secs(2);

/// How often an ack is sent until nobody is expected to confirm it any more.
const MAX_CONFIRMATIONS: usize = 10;

impl Worker {
    /// Ends a message as its handler said, and says in the log why if it was not with an ack.
    ///
    /// Gives whether the message has ended: it is not one that waits for its next attempt.
    pub(super) async fn settle(&self, message: &Message, outcome: Outcome) -> bool {
        if outcome.settle == Settle::Ack {
            self.ack(message).await;
            return true;
        }
        let attempt = self.attempt(&message.info).await;
        match self.delay_after(attempt, &outcome) {
            Some(delay) => {
                self.delay(message, delay).await;
                false
            }
            None => self.bury(message, outcome.into_failure()).await,
        }
    }

    /// How long to wait before the next attempt; `None` if there is none.
    pub(super) fn delay_after(&self, attempt: u64, outcome: &Outcome) -> Option<Duration> {
        let plan = &self.handler.declaration.plan;
        let delay = match outcome.settle {
            Settle::Ack | Settle::Terminate => return None,
            _ if attempt >= u64::from(plan.max_deliver()) => return None,
            Settle::Retry => jittered(plan.delay_after(attempt).min(MAX_DURATION)),
            Settle::RetryAfter(delay) => delay.min(MAX_DURATION),
        };
        let error = outcome.failure.as_ref().map(|failure| failure.error.as_str()).unwrap_or_default();
        tracing::warn!(attempt, max_deliver = plan.max_deliver(), "failed, again in {delay:.1?}: {error}");
        Some(delay)
    }

    async fn ack(&self, message: &Message) {
        match self.handler.declaration.plan.ack {
            Ack::Sent => self.send(self.transport.ack(&self.source, message.info.clone())).await,
            Ack::Confirmed => self.ack_until_confirmed(message).await,
        };
    }

    /// Repeats the ack while the server does not answer it; the heartbeat keeps the message from coming again meanwhile.
    async fn ack_until_confirmed(&self, message: &Message) -> bool {
        let mut backoff = ExponentialBackoff::new(Duration::from_millis(100), Duration::from_secs(2));
        for _ in 0..MAX_CONFIRMATIONS {
            match timeout(CONFIRMATION, self.transport.ack_confirmed(&self.source, &message.info, CONFIRMATION)).await {
                Ok(Ok(())) => return true,
                Ok(Err(error)) => tracing::warn!("an ack was not confirmed, and is sent again: {error:?}"),
                Err(_) => tracing::warn!("an ack could not be sent, and is sent again"),
            }
            tokio::time::sleep(backoff.next()).await;
        }
        tracing::error!("an ack was never confirmed, so the message may come again although it was handled");
        false
    }

    async fn delay(&self, message: &Message, delay: Duration) {
        let bound = self.source.max_ack_pending;
        if let Some(count) = self.delayed.add(delay, bound) {
            let handler = &self.handler.declaration.name;
            tracing::warn!(
                handler,
                count,
                max_ack_pending = bound,
                "so many messages wait for their next attempt that new ones will soon not be delivered"
            );
        }
        self.send(self.transport.nak(&self.source, &message.info, delay)).await;
    }

    /// Stores a copy among the dead letters, then terminates the message; without a copy it stays alive.
    async fn bury(&self, message: &Message, failure: Failure) -> bool {
        match self.keep_letter(message, &failure).await {
            Ok(()) => {
                self.send(self.transport.term(&self.source, &message.info, &failure.error)).await;
                true
            }
            Err(delay) => {
                self.attempts.remember(&message.info, failure);
                self.delay(message, delay).await;
                false
            }
        }
    }

    /// As [`bury`](Self::bury) for a message that must not leave its place: gives after which delay to come back.
    ///
    /// It is not terminated but acked with the messages before it, which ends it all the same.
    pub(super) async fn bury_in_order(&self, message: &Message, failure: Failure) -> Option<Duration> {
        let delay = self.keep_letter(message, &failure).await.err()?;
        self.attempts.remember(&message.info, failure);
        // All that comes after it waits too.
        Some(delay.min(LONGEST_BURIAL_DELAY_IN_ORDER))
    }

    /// Stores a dead letter if one is wanted; if that cannot be, gives the delay after which to try again.
    async fn keep_letter(&self, message: &Message, failure: &Failure) -> Result<(), Duration> {
        let Failure { reason, error } = failure;
        let Some(subject) = &self.source.dead_letter else {
            tracing::error!(reason = reason.as_str(), "terminated, and no dead letter is wanted: {error}");
            return Ok(());
        };
        match self.store_letter(subject, message, failure).await {
            Ok(stored) => {
                tracing::error!(
                    reason = reason.as_str(),
                    stream = stored.stream,
                    sequence = stored.sequence,
                    "dead letter: {error}"
                );
                Ok(())
            }
            Err(problem) => {
                // Not the handler's own backoff, which may be short: the stream of dead letters may be full for hours.
                let delivered = message.info.delivered();
                let failures = delivered.saturating_sub(u64::from(self.handler.declaration.plan.max_deliver())).min(10);
                let delay = jittered(Duration::from_secs(1 << failures).min(LONGEST_BURIAL_DELAY));
                tracing::error!(
                    "no dead letter could be stored, so the message stays and comes again in {delay:.1?}: {problem:?}; it failed with: {error}"
                );
                Err(delay)
            }
        }
    }

    /// Publishes the copy of a message; one that is too large for the server goes without its payload,
    /// where the original stays in its stream for as long as the limits of that say.
    async fn store_letter(&self, subject: &str, message: &Message, failure: &Failure) -> Result<PublishAck, Error> {
        let copy = dead_letter::copy(subject, &self.handler.declaration.name, message, failure);
        match self.transport.publish(copy.clone()).await {
            Err(error) if error.kind() == ErrorKind::PayloadTooLarge && self.source.keeps_handled => {
                self.transport.publish(dead_letter::without_payload(copy)).await
            }
            result => result,
        }
    }

    /// Gives messages to the next replica: those that have not started, and those that did not end within the grace period.
    ///
    /// The delivery is no attempt that failed, because it was our stop that ended it.
    pub(super) async fn hand_back(&self, messages: &[Info]) {
        // Without a server they come again after `ack_wait`, without a word.
        if messages.is_empty() || !self.transport.is_connected() {
            return;
        }
        let sequences: Vec<_> = messages.iter().map(Info::stream_sequence).collect();
        self.remember_hand_back(&sequences).await;
        for delivery in messages {
            self.send(self.transport.nak(&self.source, delivery, Duration::ZERO)).await;
        }
    }

    /// Stores a dead letter of each message that the server has given up: nobody answered it, however often it came.
    pub(super) async fn undertake(&self) {
        let mut backoff = ExponentialBackoff::new(Duration::from_secs(1), Duration::from_secs(60));
        let mut again = VecDeque::new();
        loop {
            while let Some((sequence, delivered)) = self.graves.take() {
                // It is seldom at work, and large when it is.
                match Box::pin(self.exhume(sequence, delivered)).await {
                    Ok(()) => backoff.reset(),
                    Err(error) => {
                        let handler = &self.handler.declaration.name;
                        tracing::error!(handler, sequence, "what the server gave up is no dead letter yet: {error:?}");
                        if again.len() < max_deliveries::MOST {
                            again.push_back((sequence, delivered));
                        } else {
                            tracing::error!(handler, sequence, "and too many others are none; it stays in its stream");
                        }
                    }
                }
            }
            tokio::select! {
                () = self.graves.news() => {}
                // A timer of its own, for which a handler need not keep the room.
                () = async { Box::pin(tokio::time::sleep(backoff.next())).await }, if !again.is_empty() => {
                    // One that cannot be stored shall not hold up the others, so it goes to the end.
                    let (sequence, delivered) = again.pop_front().expect("it is not empty");
                    self.graves.add_again(sequence, delivered);
                }
            }
        }
    }

    async fn exhume(&self, sequence: u64, delivered: u64) -> Result<(), Error> {
        let Binding { stream, consumer, dead_letter, work_queue, .. } = &*self.source;
        let Some(stored) = self.transport.stored(stream, sequence, false).await? else {
            return Ok(());
        };
        let error = format!("the server gave it up after {delivered} deliveries without an answer");
        tracing::error!(handler = self.handler.declaration.name, sequence, "{error}");
        let Some(subject) = dead_letter else { return Ok(()) };
        let message = Message {
            info: Info::from_stored(stream, consumer, delivered, &stored),
            subject: stored.subject,
            payload: stored.payload,
            headers: Some(Arc::new(stored.headers)),
        };
        let failure = Failure { reason: Reason::Killed, error };
        self.store_letter(subject, &message, &failure).await?;
        if *work_queue {
            self.transport.delete(stream, sequence).await?;
        }
        Ok(())
    }
}

//! The one place that ends a message.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::timeout;

use super::Worker;
use crate::backoff::{Doubling, jittered};
use crate::dead_letter;
use crate::error::Error;
use crate::message::{Info, Message};
use crate::settle::{Failure, Outcome, Reason, Settle};
use crate::subscriber::Ack;
use crate::testing::Call;
use crate::transport::{Acker, Delivery, Source};

/// How long one ack waits for its confirmation.
const CONFIRMATION: Duration = Duration::from_secs(2);

/// How often an ack is sent until nobody is expected to confirm it any more.
const MAX_CONFIRMATIONS: usize = 10;

impl Worker {
    /// Ends a message as its handler said, and says in the log why if it was not with an ack.
    pub(super) async fn settle(&self, delivery: &Delivery, outcome: Outcome) {
        let Outcome { settle, failure } = outcome;
        if let Some(recorder) = &self.recorder {
            let message = &delivery.message;
            recorder.add(Call {
                handler: self.handler.name.clone(),
                subject: message.subject().to_owned(),
                sequence: message.info.stream_sequence(),
                payload: message.payload.clone(),
                settle,
                error: failure.as_ref().map(|failure| failure.error.clone()),
            });
        }
        let plan = &self.handler.plan;
        if settle == Settle::Ack {
            return self.ack(delivery).await;
        }
        let attempt = self.attempt(&delivery.message.info).await;
        let failure = failure.unwrap_or(Failure { reason: Reason::Error, error: String::new() });
        let delay = match settle {
            Settle::Ack | Settle::Terminate => None,
            _ if attempt >= u64::from(plan.max_deliver()) => None,
            Settle::Retry => Some(jittered(plan.delay_after(attempt))),
            Settle::RetryAfter(delay) => Some(delay),
        };
        match delay {
            Some(delay) => {
                tracing::warn!(
                    attempt,
                    max_deliver = plan.max_deliver(),
                    "failed, again in {delay:.1?}: {}",
                    failure.error
                );
                self.delay(delivery, delay).await;
            }
            None => self.bury(delivery, failure).await,
        }
    }

    async fn ack(&self, delivery: &Delivery) {
        match self.handler.plan.ack {
            Ack::Sent => self.send(delivery.acker.ack()).await,
            Ack::Confirmed => self.ack_until_confirmed(delivery).await,
        };
    }

    /// Repeats the ack while the server does not answer it; the heartbeat keeps the message from coming again meanwhile.
    async fn ack_until_confirmed(&self, delivery: &Delivery) -> bool {
        let mut backoff = Doubling::new(Duration::from_millis(100), Duration::from_secs(2));
        for _ in 0..MAX_CONFIRMATIONS {
            match timeout(CONFIRMATION, delivery.acker.ack_confirmed(CONFIRMATION)).await {
                Ok(Ok(())) => return true,
                Ok(Err(error)) => tracing::warn!("an ack was not confirmed, and is sent again: {error:?}"),
                Err(_) => tracing::warn!("an ack could not be sent, and is sent again"),
            }
            tokio::time::sleep(backoff.next()).await;
        }
        tracing::error!("an ack was never confirmed, so the message may come again although it was handled");
        false
    }

    async fn delay(&self, delivery: &Delivery, delay: Duration) {
        let bound = self.source.max_ack_pending;
        if let Some(count) = self.delayed.add(delay, bound) {
            let handler = &self.handler.name;
            tracing::warn!(
                handler,
                count,
                max_ack_pending = bound,
                "so many messages wait for their next attempt that new ones will soon not be delivered"
            );
        }
        self.send(delivery.acker.nak(delay)).await;
    }

    /// Stores a copy among the dead letters, then terminates the message; without a copy it stays alive.
    async fn bury(&self, delivery: &Delivery, failure: Failure) {
        let Failure { reason, error } = &failure;
        let Some(subject) = &self.source.dead_letter else {
            tracing::error!(reason = reason.as_str(), "terminated, and no dead letter is wanted: {error}");
            self.send(delivery.acker.term(error)).await;
            return;
        };
        let copy = dead_letter::copy(subject, &self.handler.name, &delivery.message, &failure);
        match self.transport.publish(copy).await {
            Ok(stored) => {
                tracing::error!(
                    reason = reason.as_str(),
                    stream = stored.stream,
                    sequence = stored.sequence,
                    "dead letter: {error}"
                );
                self.send(delivery.acker.term(error)).await;
            }
            Err(problem) => {
                let delay = jittered(self.handler.plan.delay_after(delivery.message.info.delivered()));
                tracing::error!(
                    "no dead letter could be stored, so the message stays and comes again in {delay:.1?}: {problem:?}; it failed with: {error}"
                );
                self.attempts.remember(delivery.message.info.stream_sequence(), failure);
                self.delay(delivery, delay).await;
            }
        }
    }

    /// Gives messages that have not started to the next replica.
    pub(super) async fn hand_back(&self, deliveries: &[Delivery]) {
        self.remember_hand_back(deliveries).await;
        for delivery in deliveries {
            self.send(delivery.acker.nak(Duration::ZERO)).await;
        }
    }

    /// Gives messages to the next replica whose handlers did not end within the grace period.
    pub(super) async fn abandon(&self, ackers: &[Acker]) {
        for acker in ackers {
            self.send(acker.nak(Duration::ZERO)).await;
        }
    }

    /// Stores a dead letter of each message that the server has given up: nobody answered it, however often it came.
    pub(super) async fn undertake(&self, mut given_up: mpsc::Receiver<(u64, u64)>) {
        let mut backoff = Doubling::new(Duration::from_secs(1), Duration::from_secs(60));
        while let Some((sequence, delivered)) = given_up.recv().await {
            while let Err(error) = self.exhume(sequence, delivered).await {
                let handler = &self.handler.name;
                tracing::error!(
                    handler,
                    sequence,
                    "a message that the server gave up is no dead letter yet: {error:?}"
                );
                tokio::time::sleep(backoff.next()).await;
            }
            backoff.reset();
        }
        std::future::pending::<()>().await;
    }

    async fn exhume(&self, sequence: u64, delivered: u64) -> Result<(), Error> {
        let Source { stream, consumer, dead_letter, work_queue, .. } = &self.source;
        let Some(stored) = self.transport.stored(stream, sequence, false).await? else {
            return Ok(());
        };
        let error = format!("the server gave it up after {delivered} deliveries without an answer");
        tracing::error!(handler = self.handler.name, sequence, "{error}");
        let Some(subject) = dead_letter else { return Ok(()) };
        let message = Message {
            info: Info::of_stored(stream, consumer, delivered, &stored),
            subject: stored.subject,
            payload: stored.payload,
            headers: Some(Arc::new(stored.headers)),
        };
        let failure = Failure { reason: Reason::Killed, error };
        self.transport.publish(dead_letter::copy(subject, &self.handler.name, &message, &failure)).await?;
        if *work_queue {
            self.transport.delete(stream, sequence).await?;
        }
        Ok(())
    }
}

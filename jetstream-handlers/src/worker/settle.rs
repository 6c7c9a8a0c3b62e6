//! The one place that ends a message.

use super::{LAST_ACKS, Worker};
use crate::backoff::jittered;
use crate::dead_letter;
use crate::settle::{Failure, Outcome, Reason, Settle};
use crate::subscriber::Ack;
use crate::transport::Delivery;

impl Worker {
    /// Ends a message as its handler said, and says in the log why if it was not with an ack.
    pub(super) async fn settle(&self, delivery: &Delivery, outcome: Outcome) {
        let Outcome { settle, failure } = outcome;
        let plan = &self.handler.plan;
        let attempt = delivery.message.info.delivered();
        let failure = failure.unwrap_or(Failure { reason: Reason::Error, error: String::new() });
        let delay = match settle {
            Settle::Ack => return self.ack(delivery).await,
            Settle::Terminate => None,
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
                self.send(delivery.acker.nak(delay)).await;
            }
            None => self.bury(delivery, &failure).await,
        }
    }

    async fn ack(&self, delivery: &Delivery) {
        match self.handler.plan.ack {
            Ack::Sent => self.send(delivery.acker.ack()).await,
            Ack::Confirmed => self.send(delivery.acker.ack_confirmed(LAST_ACKS)).await,
        };
    }

    /// Stores a copy among the dead letters, then terminates the message; without a copy it stays alive.
    async fn bury(&self, delivery: &Delivery, failure: &Failure) {
        let Failure { reason, error } = failure;
        let Some(subject) = &self.source.dead_letter else {
            tracing::error!(reason = reason.as_str(), "terminated, and no dead letter is wanted: {error}");
            self.send(delivery.acker.term(error)).await;
            return;
        };
        let copy = dead_letter::copy(subject, &self.handler.name, &delivery.message, failure);
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
                    "the dead letter could not be stored, so the message stays and comes again in {delay:.1?}: {problem:?}; it failed with: {error}"
                );
                self.send(delivery.acker.nak(delay)).await;
            }
        }
    }

    /// Gives a message that has not started to the next replica.
    pub(super) async fn hand_back(&self, delivery: &Delivery) {
        self.send(delivery.acker.nak(std::time::Duration::ZERO)).await;
    }
}

//! The answers to deliveries, which settle every message of a worker.

use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::Worker;
use super::ack_all::AckAll;
use super::attempts::RECORD_TIMEOUT;
use crate::backoff::ExponentialBackoff;
use crate::error::Error;
use crate::message::{DeliveryId, Info, Message};
use crate::observe::settled::{Next, Settled, Settlement};
use crate::outcome::{Failure, Outcome, Settle};
use crate::plan::Ack;
use crate::sync::lock;

/// The timeout of the confirmation of an ack.
const CONFIRMATION_TIMEOUT: Duration = Duration::from_secs(2);

/// The maximum number of times that an ack is sent until it is confirmed.
const MAX_CONFIRMATIONS: usize = 10;

/// An answer that ends a delivery.
enum Answer<'a> {
    Ack,
    /// Redelivery of the message after a delay.
    Nak(Duration),
    /// Termination of the message, with a reason.
    Term(&'a str),
}

impl Worker {
    /// Settles a message without waiting, if the outcome of its call is a plain ack; returns `false` otherwise.
    pub(super) fn try_settle(&self, message: &mut Message, outcome: &Outcome) -> bool {
        if outcome.settle != Settle::Ack || self.handler.declaration.plan.ack != Ack::Sent {
            return false;
        }
        self.record_end(&message.info);
        // Moved and restored, because a clone would allocate.
        let delivery = std::mem::take(&mut message.info);
        let id = delivery.id();
        let sent = self.transport.try_ack(&self.binding, delivery);
        if !sent {
            message.info = self.info(id);
        }
        sent
    }

    /// Settles a message by the outcome of its call; returns `None` if it was set aside and is settled later.
    pub(super) async fn settle(&self, message: &Message, outcome: Outcome) -> Option<Settled> {
        if outcome.settle == Settle::Ack {
            return Some(if self.ack(message).await { Settled::ACK } else { Settled::LOST });
        }
        if self.is_handed_back(&outcome) {
            let is_connected = self.transport.is_connected();
            self.hand_back_call(message).await;
            return Some(if is_connected { Settled::HANDED_BACK } else { Settled::LOST });
        }
        let attempt = match &self.binding.unfinished {
            Some(_) => self.buffer.keys(|keys| keys.failed(message.info.id())),
            None => self.attempt(&message.info).await,
        };
        if let Some((delay, next)) = self.next_attempt(attempt, &outcome) {
            return Some(self.retry(message, delay, outcome.into_failure(), next).await);
        }
        self.end_failed(message, outcome.into_failure()).await
    }

    /// Terminates a message whose dead letter is stored.
    pub(super) async fn terminate(&self, message: &Message, reason: &str) {
        self.record_end(&message.info);
        self.answer(message.info.clone(), Answer::Term(reason)).await;
    }

    /// Records that a message has ended, before its ack is sent.
    pub(super) fn record_end(&self, delivery: &Info) {
        self.recent_acks.record(delivery);
        if let Some(unfinished) = &self.binding.unfinished {
            unfinished.ended(delivery.id());
        }
    }

    /// Acknowledges a message; returns `false` if the ack was not sent, or not confirmed.
    async fn ack(&self, message: &Message) -> bool {
        self.record_end(&message.info);
        match self.handler.declaration.plan.ack {
            Ack::Sent => self.answer(message.info.clone(), Answer::Ack).await,
            Ack::Confirmed => self.ack_until_confirmed(&message.info).await,
        }
    }

    /// Repeats an ack until the server confirms it, and returns `true`; meanwhile the heartbeat prevents a redelivery.
    pub(super) async fn ack_until_confirmed(&self, delivery: &Info) -> bool {
        let mut backoff = ExponentialBackoff::new(Duration::from_millis(100), Duration::from_secs(2));
        for _ in 0..MAX_CONFIRMATIONS {
            let confirmed = self.transport.ack_confirmed(&self.binding, delivery, CONFIRMATION_TIMEOUT);
            match timeout(CONFIRMATION_TIMEOUT, confirmed).await {
                Ok(Ok(())) => return true,
                Ok(Err(error)) => tracing::warn!("an ack was not confirmed and is sent again: {error:?}"),
                Err(_) => tracing::warn!("an ack could not be sent in time and is sent again"),
            }
            sleep(backoff.next()).await;
        }
        self.remember_unsent(delivery.id());
        tracing::error!("an ack was never confirmed, so the message may be redelivered although it was handled");
        false
    }

    /// Acknowledges all messages of an ordered handler that have ended and are not acknowledged yet.
    ///
    /// Sends nothing while the consumer is not verified: after a reconnect it may be another consumer with the same
    /// name.
    pub(super) async fn ack_all(&self, acks: &AckAll) {
        if !self.is_verified(acks) {
            return;
        }
        if let Some(last) = acks.take() {
            acks.acked.set(last.stream_sequence());
            if !self.answer(last, Answer::Ack).await {
                acks.repeat_last();
            }
        }
    }

    /// Asks the server to redeliver a message after `delay`.
    ///
    /// Sends nothing if the server has redelivered it, because another worker may have it by now.
    ///
    /// A message of a handler with a key stays in this process meanwhile, so that the later ones of its key wait.
    pub(super) async fn retry(&self, message: &Message, delay: Duration, failure: Failure, next: Next) -> Settled {
        if self.binding.unfinished.is_some() {
            self.park(message, delay).await;
            return Settled::failed(Settlement::Retry, failure, next);
        }
        if self.was_redelivered(&message.info) {
            return Settled::failed(Settlement::Lost, failure, Next::Redelivery);
        }
        self.nak_later(message, delay).await;
        Settled::failed(Settlement::Retry, failure, next)
    }

    /// Asks the server to redeliver a message after `delay`.
    pub(super) async fn nak_later(&self, message: &Message, delay: Duration) {
        let max_ack_pending = self.binding.max_ack_pending;
        if let Some(count) = self.delayed.add(delay, max_ack_pending) {
            tracing::warn!(
                handler = self.handler.declaration.name,
                count,
                max_ack_pending,
                "messages that wait for their next attempt have almost reached max_ack_pending, at which no new ones are delivered"
            );
        }
        self.answer(message.info.clone(), Answer::Nak(delay)).await;
    }

    /// Returns `true` if the handler has ended early at the shutdown signal, and returns its message.
    pub(super) fn is_handed_back(&self, outcome: &Outcome) -> bool {
        let is_handed_back = outcome.settle == Settle::HandBack && self.context.shutdown().is_cancelled();
        if is_handed_back {
            let reason = outcome.failure.as_ref().map(|failure| failure.error.as_str()).unwrap_or_default();
            tracing::info!("handed back: {reason}");
        }
        is_handed_back
    }

    /// Hands a message back whose handler has ended early at the shutdown signal.
    ///
    /// Calls that end together share one record of their messages, because each record is a write to the consumer.
    async fn hand_back_call(&self, message: &Message) {
        lock(&self.attempts.handing_back).push(message.info.clone());
        tokio::task::yield_now().await;
        let messages = std::mem::take(&mut *lock(&self.attempts.handing_back));
        self.hand_back(&messages).await;
    }

    /// Hands messages back for immediate redelivery: those that were not started, and those whose call was cancelled.
    ///
    /// A delivery that is handed back does not count as an attempt.
    pub(super) async fn hand_back(&self, messages: &[Info]) {
        // Without a connection, the server redelivers them after `ack_wait`.
        if messages.is_empty() || !self.transport.is_connected() {
            return;
        }
        let sequences: Vec<_> = messages.iter().map(Info::stream_sequence).collect();
        self.record_hand_back(&sequences, RECORD_TIMEOUT).await;
        for delivery in messages {
            self.answer(delivery.clone(), Answer::Nak(Duration::ZERO)).await;
        }
    }

    /// Answers a delivery that is not handled, to find out whether the server permits that.
    pub(super) async fn answer_trial(&self, delivery: &Info) {
        if self.was_acknowledged(delivery) {
            self.answer(delivery.clone(), Answer::Ack).await;
        } else {
            self.hand_back(std::slice::from_ref(delivery)).await;
        }
    }

    /// Requests the message of a delivery again.
    pub(super) async fn request_again(&self, delivery: &Info) {
        self.request_later(delivery, Duration::ZERO).await;
    }

    /// Requests the message of a delivery again after a delay.
    pub(super) async fn request_later(&self, delivery: &Info, delay: Duration) {
        self.answer(delivery.clone(), Answer::Nak(delay)).await;
    }

    /// Restarts the `ack_wait` of a delivery.
    pub(super) async fn in_progress(&self, delivery: &Info) {
        self.send(self.transport.progress(&self.binding, delivery)).await;
    }

    /// Sends an answer; returns `false` if it was not sent.
    async fn answer(&self, delivery: Info, answer: Answer<'_>) -> bool {
        let (transport, binding) = (&self.transport, &self.binding);
        let id = delivery.id();
        let (sent, has_ended) = match answer {
            Answer::Ack => (self.send(transport.ack(binding, delivery)).await, true),
            Answer::Nak(delay) => (self.send(transport.nak(binding, &delivery, delay)).await, false),
            Answer::Term(reason) => (self.send(transport.term(binding, &delivery, reason)).await, true),
        };
        if !sent && has_ended {
            self.remember_unsent(id);
        }
        sent
    }

    /// Remembers a handled message whose ack could not be sent; an ordered handler has its own record.
    fn remember_unsent(&self, delivery: DeliveryId) {
        if !self.binding.ordered() {
            self.binding.sent_acks.add_unsent(delivery);
        }
    }

    /// Waits until a signal is sent, but not beyond `ack_wait`, after which the message is redelivered anyway; returns
    /// `false` if it was not sent.
    async fn send(&self, signal: impl Future<Output = Result<(), Error>>) -> bool {
        let mut signal = pin!(signal);
        // Most signals are sent immediately and need no timer.
        let sent = match futures::poll!(signal.as_mut()) {
            Poll::Ready(sent) => Ok(sent),
            Poll::Pending => timeout(self.binding.ack_wait.get(), signal).await,
        };
        let handler = &self.handler.declaration.name;
        match sent {
            Ok(Ok(())) => return true,
            Ok(Err(error)) => {
                tracing::warn!(handler, "an answer was not sent, so its message is redelivered: {error:?}");
            }
            Err(_) => {
                tracing::warn!(handler, "an answer could not be sent in time, so its message is redelivered");
            }
        }
        false
    }
}

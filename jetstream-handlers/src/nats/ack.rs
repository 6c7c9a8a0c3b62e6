//! Acknowledgements: messages to the ack subject of a delivery (ADR-15; `consumer.go`, `processAck`).

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use async_nats::Subject;
use bytes::Bytes;
use tokio::task::coop::unconstrained;

use super::Connection;
use crate::delivery::{Binding, Standing};
use crate::error::{Error, ErrorKind};
use crate::message::{AckPrefix, Info, ack_subject};

/// The maximum length in bytes of the reason of a termination, which the server copies into an advisory.
const MAX_REASON: usize = 512;

impl Connection {
    /// Acks and returns `true` if the client's command channel has capacity; otherwise sends nothing.
    ///
    /// It is not `async`, because it is called for every message, and each caller would copy its future.
    pub(crate) fn try_ack(&self, binding: &Binding, delivery: Info) -> bool {
        let client = self.present();
        let id = delivery.id();
        match self.standing_by(&client, binding, id) {
            Standing::Current => {}
            Standing::Unknown | Standing::Unverified => return false,
            Standing::Former => return true,
        }
        let mut ack = pin!(client.publish(delivery.into_ack_subject(), ack_subject::ACK));
        // Outside of the budget of the task: an ack that finds it used up would take the slow path, and its message was
        // taken within the budget.
        let ack = pin!(unconstrained(ack.as_mut()));
        let sent = matches!(ack.poll(&mut Context::from_waker(Waker::noop())), Poll::Ready(Ok(())));
        if sent {
            binding.sent_acks.add(id);
        }
        sent
    }

    pub(crate) async fn ack(self: &Arc<Self>, binding: &Arc<Binding>, delivery: Info) -> Result<(), Error> {
        if !self.may_answer(binding, &delivery).await {
            return Ok(());
        }
        if !binding.ordered() {
            binding.sent_acks.add(delivery.id());
        }
        let subject = delivery.into_ack_subject();
        let sent = self.client().publish(subject, ack_subject::ACK).await;
        sent.map_err(|error| Error::new(ErrorKind::Closed, "could not send an ack").with_source(error))
    }

    /// Acks, and waits for the server's confirmation.
    pub(crate) async fn ack_confirmed(
        self: &Arc<Self>,
        binding: &Arc<Binding>,
        delivery: &Info,
        limit: Duration,
    ) -> Result<(), Error> {
        if !self.may_answer(binding, delivery).await {
            return Ok(());
        }
        self.request_ack(delivery, ack_subject::ACK, limit).await?;
        binding.sent_acks.add(delivery.id());
        Ok(())
    }

    /// Waits until the server has processed the acks sent before, even if this delivery has ended.
    ///
    /// The server confirms an in-progress signal only after it has processed them.
    pub(crate) async fn flush_acks(&self, binding: &Binding, delivery: &Info, limit: Duration) -> Result<(), Error> {
        if self.standing(binding, delivery.id()) != Standing::Current {
            return self.round_trip(limit).await;
        }
        self.request_ack(delivery, ack_subject::PROGRESS, limit).await
    }

    pub(crate) async fn nak(
        self: &Arc<Self>,
        binding: &Arc<Binding>,
        delivery: &Info,
        delay: Duration,
    ) -> Result<(), Error> {
        self.send_ack(binding, delivery, ack_subject::nak_payload(delay)).await
    }

    pub(crate) async fn term(
        self: &Arc<Self>,
        binding: &Arc<Binding>,
        delivery: &Info,
        reason: &str,
    ) -> Result<(), Error> {
        let mut reason: String = reason.chars().map(|char| if char.is_control() { ' ' } else { char }).collect();
        let end = (0..=MAX_REASON.min(reason.len())).rev().find(|end| reason.is_char_boundary(*end)).unwrap_or(0);
        reason.truncate(end);
        self.send_ack(binding, delivery, ack_subject::term_payload(&reason)).await?;
        // It is repeated as an ack, which for an ordered handler covers the messages before it.
        if !binding.ordered() {
            binding.sent_acks.add(delivery.id());
        }
        Ok(())
    }

    pub(crate) async fn progress(self: &Arc<Self>, binding: &Arc<Binding>, delivery: &Info) -> Result<(), Error> {
        self.send_ack(binding, delivery, ack_subject::PROGRESS).await
    }

    /// Repeats the acks that were sent last, at most `max` of them, because they may be lost with a connection.
    pub(crate) async fn repeat_acks(self: &Arc<Self>, binding: &Arc<Binding>, max: usize) {
        let prefix = AckPrefix::new(&binding.stream, &binding.consumer);
        let mut sent = binding.sent_acks.all();
        // The message of the highest sequence is read from the stream, and shows that the others are the same.
        sent.sort_unstable_by_key(|id| std::cmp::Reverse(id.stream_sequence));
        for id in sent.into_iter().take(max) {
            let delivery = Info::from(prefix.delivery(id));
            if self.may_answer(binding, &delivery).await {
                self.client().publish(delivery.into_ack_subject(), ack_subject::ACK).await.ok();
            }
        }
    }

    /// Naks messages that were lost with a connection, unless the present one is lost as well.
    pub(super) async fn nak_lost(&self, ack_subjects: impl IntoIterator<Item = Subject>) {
        let client = self.client();
        for ack_subject in ack_subjects {
            if !self.is_connected() || client.publish(ack_subject, ack_subject::NAK).await.is_err() {
                return;
            }
        }
    }

    /// Sends an acknowledgement as a request through the client's own inbox, which reports "no responders";
    /// the `double_ack` of async-nats treats that as a confirmation.
    async fn request_ack(&self, delivery: &Info, payload: Bytes, limit: Duration) -> Result<(), Error> {
        let request = async_nats::Request::new().payload(payload).timeout(Some(limit));
        match self.client().send_request(delivery.ack_subject().clone(), request).await {
            Ok(_) => Ok(()),
            Err(error) => {
                let message = format!("the server did not confirm `{}`", delivery.ack_subject());
                Err(Error::new(ErrorKind::Timeout, message).with_source(error))
            }
        }
    }

    async fn send_ack(self: &Arc<Self>, binding: &Arc<Binding>, delivery: &Info, payload: Bytes) -> Result<(), Error> {
        if !self.may_answer(binding, delivery).await {
            return Ok(());
        }
        self.client().publish(delivery.ack_subject().clone(), payload).await.map_err(|error| {
            let message = format!("could not send an acknowledgement to `{}`", delivery.ack_subject());
            Error::new(ErrorKind::Closed, message).with_source(error)
        })
    }
}

//! Ending a delivery: a message to its ack subject (ADR-15; `consumer.go`, `processAck`).

use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;

use super::Connection;
use crate::error::{Error, ErrorKind};
use crate::message::{Info, ack_subject};

/// The longest reason that is sent with a term; the server copies it into an advisory.
const MAX_REASON: usize = 512;

impl Connection {
    /// Acks if the connection has room at this moment.
    ///
    /// It is asked for every message: a future that is passed on would be copied at each step.
    pub(crate) fn try_ack(&self, delivery: Info) -> bool {
        let ack = pin!(self.client().publish(delivery.into_ack_subject(), ack_subject::ACK));
        matches!(ack.poll(&mut Context::from_waker(Waker::noop())), Poll::Ready(Ok(())))
    }

    pub(crate) async fn ack(&self, delivery: Info) -> Result<(), Error> {
        let subject = delivery.into_ack_subject();
        self.client()
            .publish(subject, ack_subject::ACK)
            .await
            .map_err(|error| Error::new(ErrorKind::Closed, "could not send an ack").with_source(error))
    }

    pub(crate) async fn ack_confirmed(&self, delivery: &Info, limit: Duration) -> Result<(), Error> {
        self.question(delivery, ack_subject::ACK, limit).await
    }

    /// The server answers an in-progress signal after the acks that came before it, and also for a message that has ended.
    pub(crate) async fn settled(&self, delivery: &Info, limit: Duration) -> Result<(), Error> {
        self.question(delivery, ack_subject::PROGRESS, limit).await
    }

    pub(crate) async fn nak(&self, delivery: &Info, delay: Duration) -> Result<(), Error> {
        self.answer(delivery, ack_subject::nak_payload(delay)).await
    }

    pub(crate) async fn term(&self, delivery: &Info, reason: &str) -> Result<(), Error> {
        let mut reason: String = reason.chars().map(|char| if char.is_control() { ' ' } else { char }).collect();
        let end = (0..=MAX_REASON.min(reason.len())).rev().find(|end| reason.is_char_boundary(*end)).unwrap_or(0);
        reason.truncate(end);
        self.answer(delivery, ack_subject::term_payload(&reason)).await
    }

    pub(crate) async fn progress(&self, delivery: &Info) -> Result<(), Error> {
        self.answer(delivery, ack_subject::PROGRESS).await
    }

    /// A request through the client's own inbox, which tells "no responders" apart;
    /// the library's `double_ack` takes that for an answer.
    async fn question(&self, delivery: &Info, payload: Bytes, limit: Duration) -> Result<(), Error> {
        let request = async_nats::Request::new().payload(payload).timeout(Some(limit));
        match self.client().send_request(delivery.ack_subject().clone(), request).await {
            Ok(_) => Ok(()),
            Err(error) => {
                let message = format!("the server did not confirm `{}`", delivery.ack_subject());
                Err(Error::new(ErrorKind::Timeout, message).with_source(error))
            }
        }
    }

    async fn answer(&self, delivery: &Info, payload: Bytes) -> Result<(), Error> {
        self.client().publish(delivery.ack_subject().clone(), payload).await.map_err(|error| {
            let message = format!("could not send the answer for `{}`", delivery.ack_subject());
            Error::new(ErrorKind::Closed, message).with_source(error)
        })
    }
}

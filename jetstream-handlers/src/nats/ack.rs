//! Ending a delivery: a message to its ack subject (ADR-15; `consumer.go`, `processAck`).

use std::sync::Arc;
use std::time::Duration;

use async_nats::Subject;
use bytes::Bytes;

use super::Connection;
use crate::error::{Error, ErrorKind};

/// The longest reason that is sent with a term; the server copies it into an advisory.
const MAX_REASON: usize = 512;

/// Ends one delivery, or keeps it alive.
#[derive(Debug, Clone)]
pub(crate) struct Acker {
    connection: Arc<Connection>,
    subject: Subject,
}

impl Acker {
    pub(super) fn new(connection: Arc<Connection>, subject: Subject) -> Self {
        Self { connection, subject }
    }

    pub(crate) async fn ack(&self) -> Result<(), Error> {
        self.send(Bytes::from_static(b"+ACK")).await
    }

    pub(crate) async fn ack_confirmed(&self, limit: Duration) -> Result<(), Error> {
        self.request(Bytes::from_static(b"+ACK"), limit).await
    }

    /// The server answers an in-progress signal after the acks that came before it, and also for a message that has ended.
    pub(crate) async fn round_trip(&self, limit: Duration) -> Result<(), Error> {
        self.request(Bytes::from_static(b"+WPI"), limit).await
    }

    pub(crate) async fn nak(&self, delay: Duration) -> Result<(), Error> {
        let payload = match delay.as_nanos() {
            0 => Bytes::from_static(b"-NAK"),
            nanos => Bytes::from(format!("-NAK {{\"delay\":{nanos}}}")),
        };
        self.send(payload).await
    }

    pub(crate) async fn term(&self, reason: &str) -> Result<(), Error> {
        let mut reason: String = reason.chars().map(|char| if char.is_control() { ' ' } else { char }).collect();
        let end = (0..=MAX_REASON.min(reason.len())).rev().find(|end| reason.is_char_boundary(*end)).unwrap_or(0);
        reason.truncate(end);
        self.send(Bytes::from(format!("+TERM {reason}"))).await
    }

    pub(crate) async fn progress(&self) -> Result<(), Error> {
        self.send(Bytes::from_static(b"+WPI")).await
    }

    /// A request through the client's own inbox, which tells "no responders" apart;
    /// the library's `double_ack` takes that for an answer.
    async fn request(&self, payload: Bytes, limit: Duration) -> Result<(), Error> {
        let request = async_nats::Request::new().payload(payload).timeout(Some(limit));
        match self.connection.client().send_request(self.subject.clone(), request).await {
            Ok(_) => Ok(()),
            Err(error) => {
                let message = format!("the server did not confirm `{}`", self.subject);
                Err(Error::new(ErrorKind::Timeout, message).with_source(error))
            }
        }
    }

    async fn send(&self, payload: Bytes) -> Result<(), Error> {
        self.connection.client().publish(self.subject.clone(), payload).await.map_err(|error| {
            let message = format!("could not send the answer for `{}`", self.subject);
            Error::new(ErrorKind::Closed, message).with_source(error)
        })
    }
}

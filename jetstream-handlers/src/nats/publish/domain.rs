//! The answer of one JetStream domain, where streams of several domains may store the same message.
//!
//! A message that is published on a leaf node reaches the streams of the leaf node and of its hub, and each that covers
//! the subject stores it and answers. An ack names the domain of its stream; a refusal does not.

use async_nats::StatusCode;
use bytes::Bytes;
use futures::StreamExt as _;
use tokio::time::{Instant, timeout_at};

use super::super::Connection;
use super::answer::read_ack;
use crate::error::{BoxError, Error, ErrorKind};
use crate::message::Outgoing;

/// The result of a message, of whose answers only those of a domain count.
pub(super) enum DomainAnswer {
    /// The answer that counts.
    Accepted(Bytes),
    /// Only this answer arrived in time, which does not count.
    Other(Bytes),
    NoStream,
    Silence,
}

impl Connection {
    /// Returns the domain that the application has chosen, whose streams have to store what is published.
    pub(super) fn domain(&self) -> Option<&str> {
        // The prefix takes precedence, and nothing is known of the domain behind it.
        self.settings.domain.as_deref().filter(|_| self.settings.api_prefix.is_none())
    }

    /// Returns `true` for an ack of a stream that has to store what is published.
    pub(super) fn is_of_domain(&self, domain: &str) -> bool {
        self.domain().is_none_or(|own| own == domain)
    }

    /// Sends a message, and waits for an answer that `accepts` returns `true` for.
    pub(super) async fn request_of_domain(
        &self,
        message: Outgoing,
        deadline: Instant,
        accepts: impl Fn(&[u8]) -> bool,
    ) -> Result<DomainAnswer, BoxError> {
        let inbox = self.client().new_inbox();
        let mut answers = self.client().subscribe(inbox.clone()).await?;
        let Outgoing { subject, payload, headers, .. } = message;
        self.client().publish_with_reply_and_headers(subject, inbox, headers, payload).await?;
        let mut other = None;
        while let Ok(Some(answer)) = timeout_at(deadline, answers.next()).await {
            if answer.status == Some(StatusCode::NO_RESPONDERS) {
                return Ok(DomainAnswer::NoStream);
            }
            if accepts(&answer.payload) {
                return Ok(DomainAnswer::Accepted(answer.payload));
            }
            // Next to the ack of another domain, a refusal is that of the stream that counts.
            let is_ack = matches!(read_ack(&answer.payload), Ok(Ok(_)));
            match other.replace((is_ack, answer.payload)) {
                Some((was_ack, ack)) if was_ack != is_ack => {
                    let refusal = if was_ack { other.map(|(_, answer)| answer) } else { Some(ack) };
                    return Ok(refusal.map_or(DomainAnswer::Silence, DomainAnswer::Other));
                }
                _ => {}
            }
        }
        Ok(other.map_or(DomainAnswer::Silence, |(_, answer)| DomainAnswer::Other(answer)))
    }
}

/// Returns `true` for the ack of a stream of this domain.
pub(super) fn is_ack_of(domain: &str, payload: &[u8]) -> bool {
    matches!(read_ack(payload), Ok(Ok(ack)) if ack.domain == domain)
}

/// Returns the error of a message of which only a stream of another domain has sent an ack.
pub(super) fn stored_elsewhere(domain: &str, stream: &str, found: &str) -> Error {
    let found = match found {
        "" => "of no domain".to_owned(),
        found => format!("of the domain `{found}`"),
    };
    let text = format!(
        "stream `{stream}` {found} stored it, and no stream of the domain `{domain}`, which `Builder::domain` sets, answers"
    );
    Error::new(ErrorKind::Timeout, text)
}

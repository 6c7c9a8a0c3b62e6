//! An atomic batch: staged by the stream, and stored by its last message or not at all (ADR-50).

use async_nats::client::RequestErrorKind;
use async_nats::header;
use async_nats::header::HeaderValue;
use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::{self, ErrorCode};
use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::super::Connection;
use super::answer::read_ack;
use super::domain::{DomainAnswer, is_ack_of, stored_elsewhere};
use super::first_send::{ack_of_stored, stream_of};
use super::{RECONNECTED, attempt_timeout, no_stream_answers, ready_to_send, unsent};
use crate::error::{BoxError, Error, ErrorKind};
use crate::message::refusal::{batch_refused, empty_batch, is_transient};
use crate::message::{Outgoing, PublishFailure, atomic_batch_id};

/// The number of messages, back from the last one on the subject, that are searched for a batch whose ack was lost.
const LOOK_BACK: u64 = 64;

/// An atomic batch over all of its attempts.
pub(crate) struct AtomicBatch<'a> {
    connection: &'a Connection,
    messages: &'a [Outgoing],
    /// The prefix of the batch ids of all attempts.
    ids: String,
    attempts: u32,
    answers: Answers,
    /// The number of the message at which an attempt with [`Answers::Each`] failed.
    missed: Option<usize>,
    /// `true` if the last message of an attempt had no answer, so that the batch may be stored.
    unanswered: bool,
    /// The error of an attempt that a stream of another domain has stored.
    elsewhere: Option<String>,
}

/// The messages whose answer is requested from the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answers {
    /// The first message, whose answer shows whether the stream accepts batches, and the last one, which is the commit.
    FirstAndLast,
    /// Every message; the stream reports that it refused a message only if an answer to that message is requested.
    Each,
}

/// The reason that an attempt did not store the batch, with the number of the message.
enum Failure {
    Refused(usize, jetstream::Error),
    NoStream(usize, BoxError),
    Unanswered(usize, BoxError),
    /// Only a stream of another domain has stored the batch.
    Elsewhere(Error),
    /// No message that was sent can be stored.
    NotSent(Error),
    Other(Error),
}

impl<'a> AtomicBatch<'a> {
    pub(crate) fn new(connection: &'a Connection, messages: &'a [Outgoing]) -> Self {
        Self {
            connection,
            messages,
            ids: nuid::next().to_string(),
            attempts: 0,
            answers: Answers::FirstAndLast,
            missed: None,
            unanswered: false,
            elsewhere: None,
        }
    }

    /// Sends the whole batch once, and waits for the ack of its last message.
    pub(crate) async fn attempt(&mut self, deadline: Instant) -> Result<PublishAck, PublishFailure> {
        self.attempts += 1;
        // The stream keeps a failed attempt for ten seconds, so each attempt has a batch id of its own.
        let id = atomic_batch_id(&self.ids, self.attempts);
        let denied = self
            .connection
            .denied_where(|violation| self.messages.iter().any(|message| violation.concerns(&message.subject)));
        let mut traced = self.connection.observe_traced(self.messages);
        let sent = tokio::select! {
            biased;
            error = denied => {
                let subject = self.messages.first().map_or("", |message| &message.subject);
                Err(Failure::Other(error.about(&format!("the atomic batch on `{subject}` was refused"))))
            }
            sent = self.send(&id, deadline) => sent,
        };
        match sent {
            Ok(ack) => Ok(ack),
            Err(failure) => match (self.on_failure(failure).await, traced.dropped()) {
                (Err(PublishFailure::Unanswered(_) | PublishFailure::Transient(_)), Some(error)) => {
                    Err(PublishFailure::Unanswered(error))
                }
                (result, _) => result,
            },
        }
    }

    async fn on_failure(&mut self, failure: Failure) -> Result<PublishAck, PublishFailure> {
        let count = self.messages.len();
        Err(match failure {
            Failure::Other(error) => PublishFailure::Permanent(error),
            Failure::NotSent(error) => PublishFailure::Transient(error),
            Failure::Elsewhere(error) => {
                self.elsewhere = Some(error.to_string());
                self.unanswered = true;
                PublishFailure::Unanswered(error)
            }
            // The stream that has stored the batch refuses it now.
            Failure::Refused(..) if self.elsewhere.is_some() => {
                let text = self.elsewhere.clone().unwrap_or_default();
                PublishFailure::Unanswered(Error::new(ErrorKind::Timeout, text))
            }
            Failure::Refused(_, error)
                if self.unanswered && error.error_code() == ErrorCode::ATOMIC_PUBLISH_CONTAINS_DUPLICATE_MESSAGE =>
            {
                return self.ack_of_lost_answer(error).await.map_err(PublishFailure::Permanent);
            }
            Failure::Refused(number, error) if is_transient_for_batch(&error) => {
                let error = batch_refused(self.messages, Some(number), error);
                self.failed_at(number, error)
            }
            Failure::Refused(number, error) => {
                // The conditions of all messages are checked at the last one, whose answer does not name the message.
                let number = Some(number).filter(|number| *number < count || count == 1);
                PublishFailure::Permanent(batch_refused(self.messages, number, error))
            }
            Failure::NoStream(1, error) => PublishFailure::NoStream(no_stream_answers(error)),
            Failure::NoStream(number, error) => {
                let subject = self.messages.get(number - 1).map_or("", |message| &message.subject);
                let text = format!(
                    "no stream covers `{subject}` of message {number} of the atomic batch, and nothing is stored"
                );
                self.failed_at(number, Error::new(ErrorKind::StreamNotFound, text).with_source(error))
            }
            Failure::Unanswered(number, error) => {
                let error =
                    Error::new(ErrorKind::Timeout, format!("the stream does not answer: {error}")).with_source(error);
                if number == count {
                    self.unanswered = true;
                    PublishFailure::Unanswered(error)
                } else {
                    PublishFailure::Transient(error)
                }
            }
        })
    }

    /// Returns the failure of an attempt that ended at the message of this number.
    fn failed_at(&mut self, number: usize, error: Error) -> PublishFailure {
        if number == 1 {
            return PublishFailure::Transient(error);
        }
        // A message at which two attempts failed although each message was answered belongs to another stream or to
        // none.
        let is_repeated = self.answers == Answers::Each && self.missed.replace(number) == Some(number);
        self.answers = Answers::Each;
        if is_repeated && !self.unanswered {
            return PublishFailure::Permanent(error);
        }
        PublishFailure::Transient(error)
    }

    async fn send(&self, id: &str, deadline: Instant) -> Result<PublishAck, Failure> {
        // Nothing of a batch is given to a client that would only queue it.
        ready_to_send(self.connection, 0, deadline).await.map_err(Failure::NotSent)?;
        let mut epoch = self.connection.epoch();
        epoch.mark_unchanged();
        for (number, message) in (1..).zip(self.messages) {
            let last = number == self.messages.len();
            let message = message.in_atomic_batch(id, number, self.messages.len());
            let ready = ready_to_send(self.connection, message.size(), deadline).await;
            ready.map_err(Failure::NotSent)?;
            if epoch.has_changed().unwrap_or_default() {
                return Err(Failure::NotSent(Error::new(ErrorKind::Timeout, RECONNECTED)));
            }
            if self.answers == Answers::FirstAndLast && number != 1 && !last {
                self.stage(number, message, deadline).await?;
                continue;
            }
            let answer = self.request(number, message, deadline, &mut epoch).await?;
            if last || !answer.is_empty() {
                return self.read_answer(number, &answer);
            }
        }
        Err(Failure::Other(empty_batch()))
    }

    /// Sends a message without requesting an answer.
    async fn stage(&self, number: usize, message: Outgoing, deadline: Instant) -> Result<(), Failure> {
        let Outgoing { subject, payload, headers, .. } = message;
        let client = self.connection.client();
        match timeout_at(deadline, client.publish_with_headers(subject.clone(), headers, payload)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(Failure::Other(unsent(self.connection, &subject, error))),
            Err(error) => Err(Failure::Unanswered(number, error.into())),
        }
    }

    /// Sends a message, and returns the payload of its answer.
    async fn request(
        &self,
        number: usize,
        message: Outgoing,
        deadline: Instant,
        epoch: &mut watch::Receiver<u64>,
    ) -> Result<Bytes, Failure> {
        if let Some(domain) = self.connection.domain() {
            return self.request_of(domain, number, message, deadline, epoch).await;
        }
        let wait = attempt_timeout(self.connection, message.size(), deadline);
        let Outgoing { subject, payload, headers, .. } = message;
        let request = async_nats::Request::new().payload(payload).headers(headers).timeout(Some(wait));
        let client = self.connection.client();
        let sent = tokio::select! {
            sent = timeout_at(deadline, client.send_request(subject.clone(), request)) => sent,
            // No answer to a request of the former connection arrives on this one.
            Ok(()) = epoch.changed() => return Err(Failure::Unanswered(number, RECONNECTED.into())),
        };
        match sent {
            Ok(Ok(answer)) => Ok(answer.payload),
            Ok(Err(error)) => Err(match error.kind() {
                RequestErrorKind::NoResponders => Failure::NoStream(number, error.into()),
                RequestErrorKind::TimedOut => Failure::Unanswered(number, error.into()),
                _ => Failure::Other(unsent(self.connection, &subject, error)),
            }),
            Err(error) => Err(Failure::Unanswered(number, error.into())),
        }
    }

    /// Sends a message, and returns the answer of a stream of `domain`.
    async fn request_of(
        &self,
        domain: &str,
        number: usize,
        message: Outgoing,
        deadline: Instant,
        epoch: &mut watch::Receiver<u64>,
    ) -> Result<Bytes, Failure> {
        let subject = message.subject.clone();
        let last = number == self.messages.len();
        // The answer to a staged message is empty, and names no domain.
        let accepts = |payload: &[u8]| if last { is_ack_of(domain, payload) } else { payload.is_empty() };
        let due = Instant::now() + attempt_timeout(self.connection, message.size(), deadline);
        let answer = tokio::select! {
            answer = self.connection.request_of_domain(message, due, accepts) => answer,
            Ok(()) = epoch.changed() => return Err(Failure::Unanswered(number, RECONNECTED.into())),
        };
        match answer {
            Ok(DomainAnswer::Accepted(answer)) => Ok(answer),
            Ok(DomainAnswer::Other(answer)) => match read_ack(&answer) {
                Ok(Ok(ack)) => Err(Failure::Elsewhere(stored_elsewhere(domain, &ack.stream, &ack.domain))),
                _ => Ok(answer),
            },
            Ok(DomainAnswer::NoStream) => Err(Failure::NoStream(number, "no responders".into())),
            Ok(DomainAnswer::Silence) => Err(Failure::Unanswered(number, "no stream answers".into())),
            Err(error) => Err(Failure::Other(unsent(self.connection, &subject, error))),
        }
    }

    /// Parses the answer to the last message, or a refusal of an earlier one.
    fn read_answer(&self, number: usize, payload: &[u8]) -> Result<PublishAck, Failure> {
        match read_ack(payload) {
            Ok(Ok(ack)) if number == self.messages.len() && ack.batch_size.is_some() => Ok(ack),
            Ok(Ok(ack)) => {
                let text = format!(
                    "stream `{}` stored message {number} of the atomic batch alone: its server does not support atomic batches",
                    ack.stream
                );
                Err(Failure::Other(Error::new(ErrorKind::Server, text)))
            }
            Ok(Err(error)) => Err(Failure::Refused(number, error)),
            Err(error) => {
                let text = format!(
                    "the answer to message {number} of the atomic batch is not that of a stream; another subscriber answered"
                );
                Err(Failure::Other(Error::new(ErrorKind::Publish, text).with_source(error)))
            }
        }
    }

    /// Returns the ack of a batch whose answer was lost, if the stream has stored this batch and not another one with
    /// the same message ids.
    ///
    /// The stream is read, because another publish could damage a replicated stream (see `publish/store.rs`).
    async fn ack_of_lost_answer(&self, refusal: jetstream::Error) -> Result<PublishAck, Error> {
        if let Ok(Some(ack)) = self.stored_batch().await {
            return Ok(ack);
        }
        let text = "the answer to the atomic batch was lost, and the stream has one of its message ids now: either all of this batch is stored, or something else under that id and nothing of it";
        Err(Error::new(ErrorKind::Duplicate, text).with_source(refusal))
    }

    /// Searches the last messages of the stream for the last message of the batch, and returns its ack.
    async fn stored_batch(&self) -> Result<Option<PublishAck>, Error> {
        let Some(message) = self.messages.last() else { return Ok(None) };
        let Some(stream) = stream_of(self.connection, message).await? else { return Ok(None) };
        let count = self.messages.len().to_string();
        let last = self.connection.last_sequence(&stream, &message.subject).await?;
        for sequence in (last.saturating_sub(LOOK_BACK) + 1..=last).rev() {
            let Some(stored) = self.connection.stored(&stream, sequence).await? else { continue };
            let header = |name| stored.headers.get(name).map(HeaderValue::as_str);
            let id = header(header::NATS_BATCH_ID).filter(|id| id.starts_with(&self.ids));
            if let Some(id) = id
                && header(header::NATS_BATCH_SEQUENCE) == Some(&count)
            {
                return Ok(Some(PublishAck {
                    batch_id: Some(id.to_owned()),
                    batch_size: Some(self.messages.len() as u64),
                    ..ack_of_stored(self.connection, stream, sequence)
                }));
            }
        }
        Ok(None)
    }
}

/// Returns `true` if the stream may store the batch at another attempt.
fn is_transient_for_batch(error: &jetstream::Error) -> bool {
    let code = error.error_code();
    code == ErrorCode::ATOMIC_PUBLISH_INCOMPLETE_BATCH
        || code == ErrorCode::ATOMIC_PUBLISH_TOO_MANY_INFLIGHT
        || is_transient(error)
}

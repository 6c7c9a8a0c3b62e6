//! A fast-ingest batch: one answer for hundreds of messages, at the rate at which the stream accepts them (ADR-50).

use std::collections::VecDeque;
use std::time::Duration;

use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::{self, ErrorCode};
use async_nats::{HeaderMap, StatusCode, Subject, Subscriber};
use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _};
use serde::Deserialize;
use tokio::sync::{broadcast, watch};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::super::Connection;
use super::super::violations::Violation;
use super::answer::read_ack;
use super::domain::stored_elsewhere;
use super::{attempt_time, ready_to_send, unsent};
use crate::error::ingest::IngestError;
use crate::error::{BoxError, Error, ErrorKind};
use crate::message::refusal::{closed, ingest_refused, is_transient};
use crate::message::{BeginFailure, Outgoing, PublishFailure};

/// The maximum number of messages between two answers; the stream begins with at most 500 (`jetstream_batching.go`,
/// `fastBatchInit`).
const FLOW: u64 = 500;

/// The maximum number of outstanding answers; two, so that messages are in flight while one answer is.
const MAX_OUTSTANDING: u64 = 2;

/// The maximum wait for an answer that may follow the one that ends a batch.
const LAST_ANSWER: Duration = Duration::from_millis(500);

/// A batch that the stream has begun.
pub(crate) struct Ingest<'a> {
    connection: &'a Connection,
    /// The prefix of all reply subjects.
    inbox: String,
    answers: Subscriber,
    epoch: watch::Receiver<u64>,
    violations: broadcast::Receiver<Violation>,
    /// The subjects of the messages after the stored ones.
    unstored: VecDeque<Subject>,
    /// The subject of the first message, to which requests to the stream are sent.
    subject: Subject,
    sent: u64,
    /// The size of the last message.
    last_size: usize,
    /// The number of the message up to which the stream has stored all.
    stored: u64,
    /// The time at which a message was last sent or stored.
    progressed_at: Instant,
    /// `true` after the end of the batch was requested.
    ending: bool,
    /// The number of messages after which the stream answers.
    flow: u64,
    /// The reason that the batch ends early.
    problem: Option<Error>,
    /// The number of the message that did not arrive, until the reason is known.
    gap: Option<u64>,
    /// The error if only a stream of another domain ends the batch.
    elsewhere: Option<Error>,
    /// The ack with which the stream has ended the batch.
    ack: Option<PublishAck>,
}

/// The operation of a message, encoded in its reply subject.
#[derive(Debug, Clone, Copy)]
enum Operation {
    Start = 0,
    Append = 1,
    /// Ends the batch; it stores no message.
    End = 3,
    /// Requests an answer with the state of the batch.
    Ping = 4,
}

/// An answer of the stream.
enum Answer {
    /// All messages up to `stored` are stored, and the next answer follows after `flow` messages.
    Flow {
        stored: u64,
        flow: u64,
    },
    /// Messages from this one on did not arrive.
    Gap(u64),
    /// The message of this number and those after it are not stored.
    Refused(u64, jetstream::Error),
    /// The batch has ended.
    Ended(PublishAck),
    /// A stream of another domain has ended the batch.
    EndedElsewhere(PublishAck),
    /// No stream covers the subject of the message of this number.
    NoStream(u64),
    Malformed(BoxError),
    /// The user may not publish the message of this number, or not subscribe to the answers.
    Denied(u64, Error),
}

impl<'a> Ingest<'a> {
    /// Sends the first message, and waits until the stream begins the batch.
    pub(crate) async fn begin(
        connection: &'a Connection,
        first: Outgoing,
        deadline: Instant,
    ) -> Result<Self, BeginFailure> {
        let permanent = |error| BeginFailure::NotBegun(PublishFailure::Permanent(error));
        let ready = ready_to_send(connection, first.size(), deadline).await;
        ready.map_err(|error| BeginFailure::NotBegun(PublishFailure::Transient(error)))?;
        let mut batch = Self::open(connection, first.subject.clone()).await.map_err(permanent)?;
        let mut traced = connection.observe_traced(std::slice::from_ref(&first));
        batch.send(first, Operation::Start).await.map_err(permanent)?;
        // Nothing else may be sent before the first answer.
        match batch.receive(deadline).await {
            Some(Answer::Flow { flow, .. }) => {
                batch.flow = flow.max(1);
                Ok(batch)
            }
            Some(answer) => Err(batch.not_begun(answer)),
            None => Err(BeginFailure::Ended(batch.end_unbegun(traced.dropped()).await)),
        }
    }

    async fn open(connection: &'a Connection, subject: Subject) -> Result<Self, Error> {
        // The last token of the inbox is the id of the batch, so each attempt has an inbox of its own.
        let inbox = connection.client().new_inbox();
        let answers = connection.client().subscribe(format!("{inbox}.>")).await;
        let answers = answers.map_err(|error| unsent(connection, &subject, error))?;
        let mut epoch = connection.epoch();
        epoch.mark_unchanged();
        Ok(Self {
            connection,
            inbox,
            answers,
            epoch,
            violations: connection.violations.subscribe(),
            unstored: VecDeque::new(),
            subject,
            sent: 0,
            last_size: 0,
            stored: 0,
            progressed_at: Instant::now(),
            ending: false,
            flow: 1,
            problem: None,
            gap: None,
            elsewhere: None,
            ack: None,
        })
    }

    /// Returns the failure for an answer to the first message that does not begin the batch.
    fn not_begun(&mut self, answer: Answer) -> BeginFailure {
        let failure = match answer {
            Answer::NoStream(_) => PublishFailure::NoStream(Error::new(ErrorKind::Timeout, "no stream answers")),
            Answer::Refused(_, error) if is_transient_for_ingest(&error) => {
                PublishFailure::Transient(ingest_refused(1, error))
            }
            Answer::Refused(_, error) => {
                let what = format!("nothing of the batch on `{}` is stored", self.subject);
                PublishFailure::Permanent(ingest_refused(1, error).about(&what))
            }
            Answer::Denied(_, error) => {
                let what = format!("the batch on `{}` has not begun", self.subject);
                PublishFailure::Permanent(error.about(&what))
            }
            // The server has a version that supports batches, but stored the message like any other.
            Answer::Ended(ack) => {
                let text = format!(
                    "stream `{}` stored the first message of the batch alone: its server does not support fast-ingest batches",
                    ack.stream
                );
                return BeginFailure::Ended(IngestError::new(Error::new(ErrorKind::Server, text), 1));
            }
            answer => {
                self.on_answer(answer);
                return BeginFailure::Ended(self.ended(ErrorKind::Publish, ""));
            }
        };
        BeginFailure::NotBegun(failure)
    }

    /// Ends a batch whose first message had no answer; it may be stored, so it is not sent again.
    async fn end_unbegun(mut self, problem: Option<Error>) -> IngestError {
        let text = "the stream did not answer the first message";
        self.problem = problem.or_else(|| Some(Error::new(ErrorKind::Timeout, text)));
        match self.end().await {
            Ok(_) => self.ended(ErrorKind::Timeout, text),
            Err(error) => error,
        }
    }

    /// Returns `true` if the batch accepts no more messages.
    pub(crate) fn has_ended(&self) -> bool {
        self.ack.is_some() || self.problem.is_some()
    }

    /// Sends the next message as soon as the stream accepts it; a message that cannot be sent ends the batch.
    pub(crate) async fn add(&mut self, message: Result<Outgoing, Error>) -> Result<(), IngestError> {
        while self.ack.is_none()
            && let Some(answer) = next_answer(&mut self.answers, self.connection).now_or_never()
        {
            self.on_answer(answer);
        }
        while !self.has_ended() && self.sent >= self.stored + self.flow * MAX_OUTSTANDING {
            self.wait().await?;
        }
        if !self.has_ended() {
            self.problem = match message {
                Ok(message) => self.send(message, Operation::Append).await.err(),
                Err(error) => Some(error),
            };
        }
        Ok(())
    }

    /// Ends the batch, also an incomplete one: the stream then reports how many messages it has stored.
    pub(crate) async fn end(&mut self) -> Result<PublishAck, IngestError> {
        if self.ack.is_none() {
            self.ending = true;
            if let Err(error) = self.control(Operation::End).await {
                self.problem.get_or_insert(error);
            }
        }
        loop {
            if let Some(ack) = self.ack.take() {
                return self.result(ack).await;
            }
            self.wait().await?;
        }
    }

    /// Sends a message under the next number.
    async fn send(&mut self, message: Outgoing, operation: Operation) -> Result<(), Error> {
        self.progressed_at = Instant::now();
        self.ready_to_send(&message).await?;
        // Counted even if sending fails, because it may have been sent.
        self.sent += 1;
        self.last_size = message.size();
        self.unstored.push_back(message.subject.clone());
        self.send_as(message, self.sent, operation).await
    }

    /// Sends a request that is not a message of the batch.
    async fn control(&mut self, operation: Operation) -> Result<(), Error> {
        let number = match operation {
            Operation::End => self.sent + 1,
            _ => self.sent,
        };
        let nothing =
            Outgoing { subject: self.subject.clone(), pattern: None, payload: Bytes::new(), headers: HeaderMap::new() };
        self.ready_to_send(&nothing).await?;
        self.send_as(nothing, number, operation).await
    }

    /// Returns the time at which the batch has made no progress for too long.
    fn deadline(&self) -> Instant {
        self.progressed_at + self.connection.settings.publish_timeout
    }

    async fn ready_to_send(&self, message: &Outgoing) -> Result<(), Error> {
        let subject = &message.subject;
        tokio::select! {
            biased;
            ready = ready_to_send(self.connection, message.size(), self.deadline()) => ready.map_err(|error| {
                // A closed connection makes no other one, which may show first.
                if self.connection.is_closed() {
                    return closed(subject);
                }
                let limit = self.connection.settings.publish_timeout;
                error.about(&format!("could not publish to `{subject}` within {limit:?}"))
            }),
            () = self.connection.closed() => Err(closed(subject)),
        }
    }

    async fn send_as(&self, message: Outgoing, number: u64, operation: Operation) -> Result<(), Error> {
        // `fail` has the stream end the batch at the first message that is missing.
        let reply = Subject::from(format!("{}.{FLOW}.fail.{number}.{}.$FI", self.inbox, operation as u8));
        let Outgoing { subject, payload, headers, .. } = message;
        let client = self.connection.client();
        let publish = async {
            if headers.is_empty() {
                client.publish_with_reply(subject.clone(), reply, payload).await
            } else {
                client.publish_with_reply_and_headers(subject.clone(), reply, headers, payload).await
            }
        };
        tokio::select! {
            biased;
            sent = publish => sent.map_err(|error| unsent(self.connection, &subject, error)),
            // Sending waits for capacity in a queue; the timer is created only then.
            () = self.connection.closed() => Err(closed(&subject)),
            () = async { sleep_until(self.deadline()).await } => {
                let limit = self.connection.settings.publish_timeout;
                Err(Error::new(ErrorKind::Timeout, format!("could not publish to `{subject}` within {limit:?}")))
            }
        }
    }

    /// Waits for one answer, and requests one while none arrives.
    async fn wait(&mut self) -> Result<(), IngestError> {
        let deadline = self.deadline();
        loop {
            match self.receive(deadline).await {
                Some(Answer::Refused(_, error))
                    if self.ending && error.error_code() == ErrorCode::BATCH_PUBLISH_UNKNOWN_BATCH_ID =>
                {
                    return self.on_unknown_batch(error).await;
                }
                // Not even the end of the batch can be requested.
                Some(Answer::Denied(number, error)) if self.ending && number > self.sent => {
                    self.on_answer(Answer::Denied(number, error));
                    return Err(self.ended(ErrorKind::Authorization, ""));
                }
                Some(answer) => {
                    self.on_answer(answer);
                    return Ok(());
                }
                None if self.connection.is_closed() => {
                    return Err(self.ended(ErrorKind::Closed, "the broker is disconnected; connect a new one"));
                }
                None if Instant::now() >= deadline => {
                    return Err(self.ended(ErrorKind::Timeout, "the stream does not answer"));
                }
                None => {
                    // An answer was lost, or everything sent on a former connection or to a former leader was;
                    // the next answer reports how much is stored.
                    let operation = if self.ending { Operation::End } else { Operation::Ping };
                    if let Err(error) = self.control(operation).await {
                        self.problem.get_or_insert(error);
                    }
                }
            }
        }
    }

    /// Waits for the ack of a batch that the stream has already ended; returns an error if none arrives, because the
    /// stream then has lost the batch, for example in a restart.
    async fn on_unknown_batch(&mut self, error: jetstream::Error) -> Result<(), IngestError> {
        let deadline = Instant::now() + LAST_ANSWER;
        while let Ok(answer) = timeout_at(deadline, next_answer(&mut self.answers, self.connection)).await {
            if let Answer::Ended(ack) = answer {
                self.ack = Some(ack);
                return Ok(());
            }
        }
        self.on_answer(Answer::Refused(self.sent, error));
        Err(self.ended(ErrorKind::Publish, ""))
    }

    /// Returns the next answer; `None` if none arrives for a while, or the connection was closed or replaced.
    async fn receive(&mut self, deadline: Instant) -> Option<Answer> {
        let due = deadline.min(Instant::now() + attempt_time(self.last_size));
        tokio::select! {
            biased;
            answer = next_answer(&mut self.answers, self.connection) => Some(answer),
            () = self.connection.closed() => None,
            Some(denied) = denied(&mut self.violations, &self.unstored, self.stored, &self.subject) => Some(denied),
            Ok(()) = self.epoch.changed() => None,
            () = async { sleep_until(due).await } => None,
        }
    }

    fn on_answer(&mut self, answer: Answer) {
        let (number, problem) = match answer {
            Answer::Flow { stored, flow } => {
                if stored > self.stored {
                    let new = usize::try_from(stored - self.stored).unwrap_or(usize::MAX);
                    self.unstored.drain(..new.min(self.unstored.len()));
                    self.stored = stored;
                    self.progressed_at = Instant::now();
                }
                self.flow = flow.max(1);
                return;
            }
            Answer::Ended(ack) => {
                self.ack = Some(ack);
                return;
            }
            Answer::EndedElsewhere(ack) => {
                let domain = self.connection.domain().unwrap_or_default();
                self.elsewhere = Some(stored_elsewhere(domain, &ack.stream, &ack.domain));
                return;
            }
            Answer::Gap(number) => {
                if self.problem.is_none() {
                    self.gap = Some(number);
                }
                let text = format!("message {number} did not arrive at the stream");
                (None, Error::new(ErrorKind::Publish, text))
            }
            Answer::Refused(number, error) => (Some(number), ingest_refused(number, error)),
            Answer::Denied(number, error) => (Some(number), error),
            Answer::NoStream(number) => {
                let text = format!("no stream covers the subject of message {number} of the batch");
                (Some(number), Error::new(ErrorKind::Publish, text))
            }
            Answer::Malformed(error) => {
                let text = "an answer is not that of a stream; another subscriber answered";
                (None, Error::new(ErrorKind::Publish, text).with_source(error))
            }
        };
        if self.gap.is_some() && number == self.gap {
            self.gap = None;
            self.problem = None;
        }
        self.problem.get_or_insert(problem);
    }

    /// Returns the result of a batch that the stream has ended.
    async fn result(&mut self, ack: PublishAck) -> Result<PublishAck, IngestError> {
        // A message may be missing because another stream received it, or because the user may not publish it; the
        // reason follows.
        let deadline = Instant::now() + LAST_ANSWER;
        while self.gap.is_some()
            && Instant::now() < deadline
            && let Some(answer) = self.receive(deadline).await
        {
            self.on_answer(answer);
        }
        let count = ack.batch_size.unwrap_or(0).max(self.known_stored());
        if self.problem.is_none() && count == self.sent {
            return Ok(ack);
        }
        let problem = self.problem.take();
        let (kind, why) = match &problem {
            Some(error) => (error.kind(), error.to_string()),
            None => (
                ErrorKind::Publish,
                "the stream ended it, as it does when a message does not arrive; all messages of a batch must belong to one stream".to_owned(),
            ),
        };
        let text = format!(
            "the batch on `{}` ended early, and of its messages the first {count} are stored and no other: {why}",
            self.subject
        );
        Err(ingest_error(Error::new(kind, text), problem, count))
    }

    /// Returns the number of messages that are known to be stored without an ack.
    ///
    /// The other answers do not name their domain, so that they may be those of a stream that does not count.
    fn known_stored(&self) -> u64 {
        if self.connection.domain().is_some() { 0 } else { self.stored }
    }

    /// Returns the error of a batch without an ack from the stream.
    fn ended(&mut self, kind: ErrorKind, why: &str) -> IngestError {
        // A refusal may be that of the stream that has ended the batch.
        let problem = self.elsewhere.take().or_else(|| self.problem.take());
        let kind = problem.as_ref().map_or(kind, Error::kind);
        let why = problem.as_ref().map_or_else(|| why.to_owned(), ToString::to_string);
        let (subject, stored, sent) = (&self.subject, self.known_stored(), self.sent);
        let known = match stored {
            0 => "no message is known to be stored".to_owned(),
            stored => format!("the first {stored} messages are stored"),
        };
        let rest = match sent - stored.min(sent) {
            0 => "and no other".to_owned(),
            1 => format!("message {sent} may be stored or not, and no other is"),
            _ => format!("those up to {sent} may be stored or not, and no other is"),
        };
        let text = format!("the batch on `{subject}` ended early: {known}, {rest}: {why}");
        ingest_error(Error::new(kind, text), problem, stored)
    }
}

/// Returns the next answer; the ack of a stream of another domain does not end the batch.
async fn next_answer(answers: &mut Subscriber, connection: &Connection) -> Answer {
    let Some(answer) = answers.next().await else {
        // The client has ended, which shows elsewhere.
        return std::future::pending().await;
    };
    match read(&answer) {
        Answer::Ended(ack) if !connection.is_of_domain(&ack.domain) => Answer::EndedElsewhere(ack),
        answer => answer,
    }
}

/// Waits for a violation that concerns an unstored message of the batch; `None` if some were missed.
async fn denied(
    violations: &mut broadcast::Receiver<Violation>,
    unstored: &VecDeque<Subject>,
    stored: u64,
    batch: &Subject,
) -> Option<Answer> {
    loop {
        let violation = violations.recv().await.ok()?;
        // The requests that are not messages are sent to the subject of the batch.
        let subjects = unstored.iter().chain([batch]);
        let number = (stored + 1..).zip(subjects).find(|(_, subject)| violation.concerns(subject));
        if let Some((number, _)) = number {
            return Some(Answer::Denied(number, violation.into_error()));
        }
    }
}

fn ingest_error(error: Error, source: Option<Error>, stored: u64) -> IngestError {
    let error = match source {
        Some(source) => error.with_sequences(source.expected_sequence(), source.found_sequence()).with_source(source),
        None => error,
    };
    IngestError::new(error, stored)
}

/// Returns `true` if the stream may begin the batch at another attempt.
fn is_transient_for_ingest(error: &jetstream::Error) -> bool {
    error.error_code() == ErrorCode::BATCH_PUBLISH_TOO_MANY_INFLIGHT || is_transient(error)
}

/// Parses an answer.
fn read(answer: &async_nats::Message) -> Answer {
    #[derive(Deserialize)]
    struct Flow<'a> {
        #[serde(rename = "type", default)]
        kind: &'a str,
        #[serde(default)]
        seq: u64,
        #[serde(default)]
        last_seq: u64,
        #[serde(default)]
        msgs: u64,
        #[serde(default)]
        error: Option<jetstream::Error>,
    }
    // The number of the message is in the reply subject.
    let number = || answer.subject.rsplit('.').nth(2).and_then(|token| token.parse().ok()).unwrap_or_default();
    if answer.status == Some(StatusCode::NO_RESPONDERS) {
        return Answer::NoStream(number());
    }
    let flow: Flow<'_> = match serde_json::from_slice(&answer.payload) {
        Ok(flow) => flow,
        Err(error) => return Answer::Malformed(error.into()),
    };
    match (flow.kind, flow.error) {
        ("ack", _) => Answer::Flow { stored: flow.seq, flow: flow.msgs },
        ("gap", _) => Answer::Gap(flow.last_seq),
        ("err", Some(error)) => Answer::Refused(flow.seq, error),
        ("", Some(error)) => Answer::Refused(number(), error),
        ("", None) => match read_ack(&answer.payload) {
            Ok(Ok(ack)) => Answer::Ended(ack),
            Ok(Err(error)) => Answer::Refused(0, error),
            Err(error) => Answer::Malformed(error.into()),
        },
        (kind, _) => Answer::Malformed(format!("the answer has the unknown type `{kind}`").into()),
    }
}

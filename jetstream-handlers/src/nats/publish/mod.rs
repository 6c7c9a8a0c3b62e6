//! Publishing over a connection: one message, many at once, atomic batches, fast-ingest batches.
//!
//! Each function reports the result of one attempt; its caller decides whether to make another one.

mod answer;
mod atomic;
mod domain;
mod first_send;
mod ingest;
mod interruption;
mod pipeline;
mod write_limit;

pub(crate) use atomic::AtomicBatch;
pub(crate) use first_send::first_send;
pub(crate) use ingest::Ingest;
pub(crate) use pipeline::Pipeline;
pub(super) use write_limit::WriteLimit;

use std::time::Duration;

use async_nats::client::{RequestError, RequestErrorKind};
use async_nats::header;
use async_nats::jetstream::publish::PublishAck;
use tokio::time::{Instant, sleep, timeout_at};

use super::Connection;
use crate::error::{BoxError, Error, ErrorKind};
use crate::message::refusal::closed;
use crate::message::{Outgoing, PublishFailure};
use answer::read_answer;
use domain::{DomainAnswer, is_ack_of, stored_elsewhere};
use interruption::Interruption;

/// The maximum wait for the answer to one attempt, apart from the time that it takes to send it.
///
/// It is short, because after a change of leader the next attempt reaches the new one, and the message is stored once.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(2);

/// The number of bytes that a slow connection carries in a second, which the wait for an answer allows for.
const SLOW_RATE: usize = 128 * 1024;

/// The text for an attempt whose connection ended before the answer.
const RECONNECTED: &str = "the client reconnected before the answer";

/// Returns an error for a message, which has this size when it is sent, if the server would refuse it, or would ignore a
/// part of it.
pub(crate) fn check(connection: &Connection, message: &Outgoing, size: usize) -> Result<(), Error> {
    message.check_size_of(size, connection.present().max_payload())?;
    check_ttl(connection, message)
}

/// Sends a message once, and waits for the ack; fails if the connection is closed meanwhile.
pub(crate) async fn publish_once(
    connection: &Connection,
    message: &Outgoing,
    deadline: Instant,
) -> Result<PublishAck, PublishFailure> {
    let bytes = message.size();
    if connection.domain().is_none() && can_send_at_once(connection, bytes, deadline) {
        return request_ack(connection, message, bytes, deadline).await;
    }
    // Boxed, because it is rare, and every publish would hold its size.
    let published = Box::pin(publish_when_ready(connection, message, bytes, deadline));
    tokio::select! {
        biased;
        () = connection.closed() => Err(PublishFailure::Permanent(closed(&message.subject))),
        published = published => published,
    }
}

async fn publish_when_ready(
    connection: &Connection,
    message: &Outgoing,
    bytes: usize,
    deadline: Instant,
) -> Result<PublishAck, PublishFailure> {
    ready_to_send(connection, bytes, deadline).await.map_err(PublishFailure::Transient)?;
    match connection.domain() {
        Some(domain) => publish_to_domain(connection, domain, message, deadline).await,
        None => request_ack(connection, message, bytes, deadline).await,
    }
}

/// Sends a message of this size now, and waits for the ack.
///
/// A publish waits here nearly always, with one notification and one timer beside the answer.
async fn request_ack(
    connection: &Connection,
    message: &Outgoing,
    bytes: usize,
    deadline: Instant,
) -> Result<PublishAck, PublishFailure> {
    let client = connection.client();
    // The timer below replaces that of the client.
    let request =
        async_nats::Request::new().payload(message.payload.clone()).headers(message.headers.clone()).timeout(None);
    let mut interruption = Interruption::new(connection);
    let answer = tokio::select! {
        biased;
        failure = interruption.of(&message.subject) => return Err(failure),
        answer = client.send_request(message.subject.clone(), request) => answer,
        // It also covers sending, which waits for capacity in a queue.
        () = async { sleep(attempt_timeout(connection, bytes, deadline)).await } => {
            let dropped = interruption.dropped_with_trace(message);
            let silence = || no_stream_answers(RequestError::new(RequestErrorKind::TimedOut));
            return Err(PublishFailure::Unanswered(dropped.unwrap_or_else(silence)));
        }
    };
    match answer {
        Ok(answer) => read_answer(message, &answer.payload),
        Err(error) if error.kind() == RequestErrorKind::NoResponders => {
            Err(PublishFailure::NoStream(no_stream_answers(error)))
        }
        Err(error) => Err(PublishFailure::Permanent(unsent(connection, &message.subject, error))),
    }
}

/// Sends a message once, and waits for the ack of a stream of `domain`.
async fn publish_to_domain(
    connection: &Connection,
    domain: &str,
    message: &Outgoing,
    deadline: Instant,
) -> Result<PublishAck, PublishFailure> {
    let mut interruption = Interruption::new(connection);
    let due = Instant::now() + attempt_timeout(connection, message.size(), deadline);
    let accepts = |payload: &[u8]| is_ack_of(domain, payload);
    let answer = tokio::select! {
        biased;
        failure = interruption.of(&message.subject) => return Err(failure),
        answer = connection.request_of_domain(message.clone(), due, accepts) => answer,
    };
    match answer {
        Ok(DomainAnswer::Accepted(answer)) => read_answer(message, &answer),
        Ok(DomainAnswer::Other(answer)) => match read_answer(message, &answer) {
            Ok(ack) => Err(PublishFailure::Unanswered(stored_elsewhere(domain, &ack.stream, &ack.domain))),
            Err(failure) => Err(failure),
        },
        Ok(DomainAnswer::NoStream) => Err(PublishFailure::NoStream(no_stream_answers("no responders"))),
        Ok(DomainAnswer::Silence) => Err(unanswered("no stream answers")),
        Err(error) => Err(PublishFailure::Permanent(unsent(connection, &message.subject, error))),
    }
}

/// Waits until a message of this size can be sent at once; returns an error if that is not before the deadline.
///
/// The client queues what it is given while no server is connected, and sends it after the reconnect, when its publish
/// may have failed. So nothing is given to it then, and nothing after the deadline.
async fn ready_to_send(connection: &Connection, bytes: usize, deadline: Instant) -> Result<(), Error> {
    if can_send_at_once(connection, bytes, deadline) {
        return Ok(());
    }
    // Boxed, because it is rare, and every publish would hold its size.
    Box::pin(until_ready_to_send(connection, bytes, deadline)).await
}

fn can_send_at_once(connection: &Connection, bytes: usize, deadline: Instant) -> bool {
    Instant::now() < deadline && is_ready_to_send(connection, bytes)
}

async fn until_ready_to_send(connection: &Connection, bytes: usize, deadline: Instant) -> Result<(), Error> {
    let mut epoch = connection.epoch();
    loop {
        if Instant::now() >= deadline {
            return Err(Error::new(ErrorKind::Timeout, "the deadline passed before it could be sent"));
        }
        if is_ready_to_send(connection, bytes) {
            return Ok(());
        }
        if !connection.is_connected() {
            match timeout_at(deadline, epoch.changed()).await {
                Ok(Ok(())) => continue,
                _ => return Err(Error::new(ErrorKind::Timeout, "no server is connected")),
            }
        }
        let client = connection.client();
        let admitted = connection.write_limit.admit(&client, bytes);
        if timeout_at(deadline, admitted).await.is_err() {
            return Err(Error::new(ErrorKind::Timeout, "the server does not read what is sent to it"));
        }
        if connection.is_connected() {
            return Ok(());
        }
    }
}

/// Returns `true` if a message of this size can be sent at once, which is not waited for.
fn is_ready_to_send(connection: &Connection, bytes: usize) -> bool {
    let client = connection.present();
    connection.is_connected_by(&client) && connection.write_limit.try_admit(&client, bytes)
}

/// Returns the timeout of the answer to an attempt of this size that is made now.
///
/// A larger message may be on its way before it.
fn attempt_timeout(connection: &Connection, bytes: usize, deadline: Instant) -> Duration {
    let wait = attempt_time(bytes).max(ATTEMPT_TIMEOUT + connection.write_limit.time_left());
    wait.min(deadline.saturating_duration_since(Instant::now()))
}

/// Returns the maximum wait for the answer to what has this size, with the time in which a slow connection carries it.
///
/// Without that time, a large message would be sent again and again although each of them arrives.
fn attempt_time(bytes: usize) -> Duration {
    ATTEMPT_TIMEOUT + time_to_carry(bytes)
}

/// Returns the time in which a slow connection carries this number of bytes.
fn time_to_carry(bytes: usize) -> Duration {
    Duration::from_secs_f64(bytes as f64 / SLOW_RATE as f64)
}

fn unanswered(why: &str) -> PublishFailure {
    PublishFailure::Unanswered(Error::new(ErrorKind::Timeout, why))
}

fn no_stream_answers(error: impl Into<BoxError>) -> Error {
    Error::new(ErrorKind::Timeout, "no stream answers").with_source(error)
}

/// Returns the error of a message that the server does not permit.
fn denied(subject: &str, error: Error) -> Error {
    error.about(&format!("cannot publish to `{subject}`"))
}

/// Returns the error of a message that the client library did not accept.
fn unsent(connection: &Connection, subject: &str, error: impl Into<BoxError>) -> Error {
    if connection.is_closed() {
        return closed(subject);
    }
    Error::new(ErrorKind::Publish, format!("could not publish to `{subject}`")).with_source(error)
}

/// Returns an error for a time to live on a server before 2.11, which would ignore it and keep the message (ADR-43).
fn check_ttl(connection: &Connection, message: &Outgoing) -> Result<(), Error> {
    if message.headers.get(header::NATS_MESSAGE_TTL).is_none() {
        return Ok(());
    }
    let Some(version) = connection.version_before((2, 11, 0)) else { return Ok(()) };
    let subject = &message.subject;
    let text = format!(
        "the message for `{subject}` has a time to live, which the server {version} does not support; publish it without `ttl`, or use a server from 2.11"
    );
    Err(Error::new(ErrorKind::Config, text))
}

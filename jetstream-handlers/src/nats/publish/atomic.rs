//! An atomic batch: staged by the stream, and stored by its last message or not at all (ADR-50).

use std::sync::Arc;
use std::time::Duration;

use async_nats::client::RequestErrorKind;
use async_nats::jetstream::publish::PublishAck;
use async_nats::{HeaderMap, header, jetstream};
use tokio::time::{Instant, timeout_at};

use super::super::Connection;
use super::{ATTEMPT, Looked, ack_of_stored, check, is_transient, look_for_stream, read_ack, stream_of, unsent};
use crate::backoff::ExponentialBackoff;
use crate::error::{BoxError, Error, ErrorKind};
use crate::message::Outgoing;
use crate::publish::batch::{batch_refused, ensure_batch_stream};
use crate::publish::closed;
use crate::transport::Transport;

/// Among how many messages before the last one of its subject a batch is looked for whose ack was lost.
const RECALL: u64 = 64;

/// Publishes messages, all or none, or until the connection is closed.
pub(crate) async fn publish_atomic(connection: &Arc<Connection>, messages: &[Outgoing]) -> Result<PublishAck, Error> {
    connection.require_version((2, 12, 1), "atomic batches", "`publish_all`, which stores message by message")?;
    for (number, message) in (1..).zip(messages) {
        check(connection, message).map_err(|error| error.about(&format!("message {number} of the batch")))?;
    }
    let subject = messages.first().map_or("", |message| &message.subject);
    tokio::select! {
        biased;
        () = connection.closed() => Err(closed(subject)),
        result = store(connection, messages, subject) => result,
    }
}

/// Why an attempt did not store the batch.
enum Failure {
    /// What the stream said of the message of this number.
    Refused(usize, jetstream::Error),
    /// No stream takes the message of this number.
    NoStream(usize, BoxError),
    /// What became of the message of this number is not known.
    Unanswered(usize, BoxError),
    Other(Error),
}

async fn store(connection: &Arc<Connection>, messages: &[Outgoing], subject: &str) -> Result<PublishAck, Error> {
    let limit = connection.settings.publish_timeout;
    let deadline = Instant::now() + limit;
    let mut backoff = ExponentialBackoff::new(Duration::from_millis(50), Duration::from_secs(1));
    let transport = Transport::Nats(connection.clone());
    let ids = nuid::next().to_string();
    let (mut looked_for_stream, mut unanswered) = (false, false);
    // What a stream has against a message in the middle is only said if that one asks for an answer.
    let mut each = false;
    let mut missed = None;
    let mut attempt = 0_u32;
    loop {
        attempt += 1;
        // What is left of the attempt before is abandoned by the stream in ten seconds, under its own id.
        let failure = match send(connection, messages, &format!("{ids}.{attempt}"), each, deadline).await {
            Ok(ack) => return Ok(ack),
            Err(failure) => failure,
        };
        let (number, failure) = match failure {
            Failure::Other(error) => return Err(error),
            Failure::Refused(_, error) if error.error_code().0 == 10201 && unanswered => {
                return recall(connection, messages, &ids, error).await;
            }
            Failure::Refused(number, error) if is_passing(&error) => {
                (number, batch_refused(messages, Some(number), error))
            }
            Failure::Refused(number, error) => {
                // The conditions are judged by the last message, whichever they are of.
                let number = Some(number).filter(|number| *number < messages.len() || messages.len() == 1);
                return Err(batch_refused(messages, number, error));
            }
            Failure::NoStream(1, error) => {
                if !looked_for_stream && connection.is_connected() {
                    let ensuring = ensure_batch_stream(&transport, subject, "allow_atomic_publish");
                    match look_for_stream(deadline, ensuring).await? {
                        Looked::Made => {
                            looked_for_stream = true;
                            continue;
                        }
                        Looked::There => looked_for_stream = true,
                        Looked::Unanswered(_) => {}
                    }
                }
                (1, Error::new(ErrorKind::Timeout, "no stream answers").with_source(error))
            }
            Failure::NoStream(number, error) => {
                let subject = messages.get(number - 1).map_or("", |message| &message.subject);
                let text =
                    format!("no stream takes message {number} of the atomic batch, on `{subject}`; nothing is stored");
                (number, Error::new(ErrorKind::StreamNotFound, text).with_source(error))
            }
            Failure::Unanswered(number, error) => {
                unanswered |= number == messages.len();
                (number, Error::new(ErrorKind::Timeout, "the stream does not answer").with_source(error))
            }
        };
        if number > 1 && failure.kind() != ErrorKind::Timeout {
            // Twice at the same message, although each was answered, is no accident: it belongs to another stream, or to none.
            if each && missed.replace(number) == Some(number) && !unanswered {
                return Err(failure);
            }
            each = true;
        }
        if attempt == 1 {
            tracing::warn!(subject, "an atomic batch is repeated: {failure}");
        }
        let pause = backoff.next();
        if Instant::now() + pause >= deadline {
            let stored = match unanswered {
                true => "all of it may be stored, or nothing",
                false => "nothing is stored",
            };
            let text =
                format!("no stream stored the atomic batch on `{subject}` within {limit:?}, and {stored}: {failure}");
            return Err(Error::new(ErrorKind::Timeout, text).with_source(failure));
        }
        tokio::time::sleep(pause).await;
    }
}

/// Whether the stream may store the batch when asked again.
fn is_passing(error: &jetstream::Error) -> bool {
    matches!(error.error_code().0, 10176 | 10210) || is_transient(error.error_code())
}

/// Sends the batch once: the first message learns whether the stream takes it, the last one stores it.
async fn send(
    connection: &Connection,
    messages: &[Outgoing],
    id: &str,
    each: bool,
    deadline: Instant,
) -> Result<PublishAck, Failure> {
    let client = connection.client();
    let mut epoch = connection.epoch();
    epoch.mark_unchanged();
    for (number, message) in (1..).zip(messages) {
        let last = number == messages.len();
        let headers = headers(message, id, number, last);
        let (subject, payload) = (message.subject.clone(), message.payload.clone());
        if !each && number != 1 && !last {
            match timeout_at(deadline, client.publish_with_headers(subject, headers, payload)).await {
                Ok(Ok(())) => continue,
                Ok(Err(error)) => return Err(Failure::Other(unsent(connection, &message.subject, error))),
                Err(error) => return Err(Failure::Unanswered(number, error.into())),
            }
        }
        let wait = ATTEMPT.min(deadline.saturating_duration_since(Instant::now()));
        let request = async_nats::Request::new().payload(payload).headers(headers).timeout(Some(wait));
        let answer = tokio::select! {
            answer = timeout_at(deadline, client.send_request(subject, request)) => match answer {
                Ok(Ok(answer)) => answer,
                Ok(Err(error)) => return Err(match error.kind() {
                    RequestErrorKind::NoResponders => Failure::NoStream(number, error.into()),
                    RequestErrorKind::TimedOut => Failure::Unanswered(number, error.into()),
                    _ => Failure::Other(unsent(connection, &message.subject, error)),
                }),
                Err(error) => return Err(Failure::Unanswered(number, error.into())),
            },
            // What was asked on the former connection is not answered on this one.
            Ok(()) = epoch.changed() => return Err(Failure::Unanswered(number, "the connection was made anew".into())),
        };
        if !last && answer.payload.is_empty() {
            continue;
        }
        return match read_ack(&answer.payload) {
            Ok(Ok(ack)) if last && ack.batch_size.is_some() => Ok(ack),
            Ok(Ok(ack)) => {
                let text = format!(
                    "the stream `{}` stored message {number} of the atomic batch by itself: its server does not know atomic batches",
                    ack.stream
                );
                Err(Failure::Other(Error::new(ErrorKind::Server, text)))
            }
            Ok(Err(error)) => Err(Failure::Refused(number, error)),
            Err(error) => {
                let text = format!(
                    "the answer to message {number} of the atomic batch is not a stream's; another subscriber answered it"
                );
                Err(Failure::Other(Error::new(ErrorKind::Publish, text).with_source(error)))
            }
        };
    }
    Err(Failure::Other(crate::publish::batch::empty()))
}

fn headers(message: &Outgoing, id: &str, number: usize, last: bool) -> HeaderMap {
    let mut headers = message.headers.clone();
    headers.insert(header::NATS_BATCH_ID, id);
    headers.insert(header::NATS_BATCH_SEQUENCE, number.to_string());
    if last {
        headers.insert(header::NATS_BATCH_COMMIT, "1");
    }
    headers
}

/// The ack of a batch whose own was lost, if it is this batch that the stream knows the ids of.
///
/// What is stored is read, and nothing is published to find out (see `publish.rs`).
async fn recall(
    connection: &Connection,
    messages: &[Outgoing],
    ids: &str,
    error: jetstream::Error,
) -> Result<PublishAck, Error> {
    let text = "the answer to the atomic batch was lost, and the stream has one of its message ids now: either all of this batch is stored, or something else under that id and nothing of it";
    match stored_batch(connection, messages, ids).await {
        Ok(Some(ack)) => Ok(ack),
        Ok(None) => Err(Error::new(ErrorKind::Duplicate, text).with_source(error)),
        Err(error) => Err(Error::new(ErrorKind::Duplicate, text).with_source(error)),
    }
}

/// Looks for the last message of a batch among those that were stored last.
async fn stored_batch(connection: &Connection, messages: &[Outgoing], ids: &str) -> Result<Option<PublishAck>, Error> {
    let Some(message) = messages.last() else { return Ok(None) };
    let Some(stream) = stream_of(connection, message).await? else { return Ok(None) };
    let last = connection.last_sequence(&stream, &message.subject).await?;
    for sequence in (last.saturating_sub(RECALL) + 1..=last).rev() {
        let Some(stored) = connection.stored(&stream, sequence).await? else { continue };
        let header = |name: header::HeaderName| stored.headers.get(name).map(header::HeaderValue::as_str);
        let id = header(header::NATS_BATCH_ID).filter(|id| id.starts_with(ids));
        if let Some(id) = id
            && header(header::NATS_BATCH_SEQUENCE) == Some(&messages.len().to_string())
        {
            return Ok(Some(PublishAck {
                batch_id: Some(id.to_owned()),
                batch_size: Some(messages.len() as u64),
                ..ack_of_stored(connection, stream, sequence)
            }));
        }
    }
    Ok(None)
}

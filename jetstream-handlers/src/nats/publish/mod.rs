//! Publishing to a stream, repeated under one message id until it is stored or the time is over.

mod atomic;
mod ingest;
mod pipeline;

pub(crate) use atomic::publish_atomic;
pub(crate) use ingest::ingest;
pub(crate) use pipeline::publish_all;

use std::sync::Arc;
use std::time::Duration;

use async_nats::client::RequestErrorKind;
use async_nats::header::{self, HeaderValue};
use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::{self, ErrorCode, stream};
use serde::Deserialize;
use tokio::time::{Instant, timeout_at};

use super::Connection;
use crate::backoff::ExponentialBackoff;
use crate::error::{BoxError, Error, ErrorKind};
use crate::message::Outgoing;
use crate::provision::ensure_stream;
use crate::publish::{check_size, closed, refused};
use crate::transport::Transport;

/// How long one attempt waits for the stream's answer: short, because the next one goes to the new leader, and is stored once.
pub(super) const ATTEMPT: Duration = Duration::from_secs(2);

/// Publishes a message and waits until a stream has stored it, or the connection is closed.
pub(crate) async fn publish(connection: &Arc<Connection>, message: Outgoing) -> Result<PublishAck, Error> {
    let subject = message.subject.clone();
    tokio::select! {
        biased;
        () = connection.closed() => Err(closed(&subject)),
        result = async {
            check(connection, &message)?;
            store(connection, message, Instant::now() + connection.settings.publish_timeout, false).await
        } => result,
    }
}

/// Refuses what the server would refuse or misread, before it is sent.
pub(super) fn check(connection: &Connection, message: &Outgoing) -> Result<(), Error> {
    check_size(message, connection.client().max_payload())?;
    check_ttl(connection, message)
}

/// Sends a message until it is stored; `unanswered` says whether it was sent before, and may have been stored then.
pub(super) async fn store(
    connection: &Arc<Connection>,
    message: Outgoing,
    deadline: Instant,
    mut unanswered: bool,
) -> Result<PublishAck, Error> {
    let subject = message.subject.as_str();
    let mut backoff = ExponentialBackoff::new(Duration::from_millis(50), Duration::from_secs(1));
    let mut looked_for_stream = false;
    let mut repetitions = 0;
    let transport = Transport::Nats(connection.clone());
    let mut epoch = connection.epoch();
    epoch.mark_unchanged();
    loop {
        let wait = ATTEMPT.min(deadline.saturating_duration_since(Instant::now()));
        let request = async_nats::Request::new()
            .payload(message.payload.clone())
            .headers(message.headers.clone())
            .timeout(Some(wait));
        let attempt = connection.client().send_request(message.subject.clone(), request);
        let sent = tokio::select! {
            // The deadline is around the sending too: while there is no connection, it waits for room in a queue.
            sent = timeout_at(deadline, attempt) => sent.map_err(|_| "not connected"),
            // What was asked on the former connection is not answered on this one.
            Ok(()) = epoch.changed() => Err("the connection was made anew"),
        };
        let mut failure = match sent {
            Ok(Ok(answer)) => match read_answer(&message, &answer.payload) {
                Ok(ack) => return Ok(ack),
                Err(Failure::Passing(error)) => error,
                Err(Failure::Lasting(error)) if unanswered && error.kind() == ErrorKind::WrongLastSequence => {
                    return ack_of_first_send(connection, &message, deadline, error).await;
                }
                Err(Failure::Lasting(error)) => return Err(error),
            },
            Ok(Err(error)) if matches!(error.kind(), RequestErrorKind::NoResponders | RequestErrorKind::TimedOut) => {
                unanswered |= error.kind() == RequestErrorKind::TimedOut;
                Error::new(ErrorKind::Timeout, "no stream answers").with_source(error)
            }
            Ok(Err(error)) => {
                return Err(unsent(connection, subject, error));
            }
            Err(why) => {
                unanswered = true;
                Error::new(ErrorKind::Timeout, why)
            }
        };
        // No answer has two causes: there is no stream, which is mended once, or it is away for a moment.
        if !looked_for_stream && failure.kind() == ErrorKind::Timeout && connection.is_connected() {
            match look_for_stream(deadline, ensure_stream(&transport, subject)).await? {
                Looked::Made => {
                    looked_for_stream = true;
                    continue;
                }
                Looked::There => looked_for_stream = true,
                Looked::Unanswered(error) => failure = error.unwrap_or(failure),
            }
        }
        if repetitions == 0 {
            tracing::warn!(subject, "a publish is repeated: {failure}");
        }
        repetitions += 1;
        let pause = backoff.next();
        if Instant::now() + pause >= deadline {
            let limit = connection.settings.publish_timeout;
            // Where nothing ever answered, nothing was stored; where an answer was lost, nobody knows.
            let stored = match unanswered {
                true => "it may be stored or not",
                false => "it is not stored",
            };
            let message =
                format!("no stream stored the message on `{subject}` within {limit:?}, and {stored}: {failure}");
            return Err(Error::new(ErrorKind::Timeout, message).with_source(failure));
        }
        tokio::time::sleep(pause).await;
    }
}

/// The ack of a message that was sent before without an answer and whose condition fails now: perhaps because it was
/// stored the first time.
///
/// A server without a cluster judges the condition before the id (`stream.go`, `processJetStreamMsg`), so it does not
/// say that the message is a duplicate. What is stored is read, and nothing is published to find out: a cluster judges
/// some conditions only when it applies them, and a stream of several copies that fails there is broken for good.
async fn ack_of_first_send(
    connection: &Arc<Connection>,
    message: &Outgoing,
    deadline: Instant,
    refusal: Error,
) -> Result<PublishAck, Error> {
    let mut backoff = ExponentialBackoff::new(Duration::from_millis(50), Duration::from_secs(1));
    let why = loop {
        let why = match timeout_at(deadline, first_send(connection, message)).await {
            Ok(Ok(FirstSend::Stored(ack))) => return Ok(ack),
            Ok(Ok(FirstSend::NotStored)) => return Err(refusal),
            Ok(Ok(FirstSend::Gone)) => break refusal,
            Ok(Err(error)) => error,
            Err(_) => break refusal,
        };
        let pause = backoff.next();
        if Instant::now() + pause >= deadline {
            break why;
        }
        tokio::time::sleep(pause).await;
    };
    let subject = &message.subject;
    let text = format!(
        "the answer to the publish on `{subject}` was lost, and its condition does not hold any more: either it is stored, or another was faster; read the last message of the subject before it is published again"
    );
    Err(Error::new(ErrorKind::Timeout, text).with_source(why))
}

/// What became of a message that was sent before.
enum FirstSend {
    Stored(PublishAck),
    NotStored,
    /// Where it would be, nothing is stored any more that could tell.
    Gone,
}

/// Looks at the message behind the one that was expected to be the last: it is the one that was sent, or another.
async fn first_send(connection: &Arc<Connection>, message: &Outgoing) -> Result<FirstSend, Error> {
    let header = |name: header::HeaderName| message.headers.get(name).map(HeaderValue::as_str);
    let expected = |name| header(name).and_then(|value| value.parse::<u64>().ok());
    let of_stream = expected(header::NATS_EXPECTED_LAST_SEQUENCE);
    let of_subject = expected(header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE);
    let stream = stream_of(connection, message).await?;
    let (Some(stream), Some(last)) = (stream, of_stream.max(of_subject)) else { return Ok(FirstSend::Gone) };
    let stored = match of_stream {
        Some(_) => connection.stored(&stream, last + 1).await?,
        None => connection.next_stored_on(&stream, last + 1, &message.subject).await?,
    };
    let Some(stored) = stored else { return Ok(FirstSend::Gone) };
    let id = stored.headers.get(header::NATS_MESSAGE_ID);
    if id.is_some() && id == message.headers.get(header::NATS_MESSAGE_ID) {
        return Ok(FirstSend::Stored(ack_of_stored(connection, stream, stored.sequence)));
    }
    if of_stream.is_some() {
        return Ok(FirstSend::NotStored);
    }
    // Of a stream that drops a message for another reason than its age, what is there now tells nothing of what was.
    let config = connection.stream(&stream).await;
    let config = config.map_err(|error| error.into_error(&format!("looking at stream `{stream}`")))?;
    let keeps = config.is_some_and(|config| {
        config.retention == stream::RetentionPolicy::Limits && config.max_messages_per_subject <= 0
    });
    Ok(if keeps { FirstSend::NotStored } else { FirstSend::Gone })
}

/// The stream that a message goes to.
pub(super) async fn stream_of(connection: &Connection, message: &Outgoing) -> Result<Option<String>, Error> {
    if let Some(stream) = message.headers.get(header::NATS_EXPECTED_STREAM) {
        return Ok(Some(stream.as_str().to_owned()));
    }
    let names = connection.stream_names(&message.subject).await;
    let names = names.map_err(|error| error.into_error(&format!("looking for the stream of `{}`", message.subject)))?;
    Ok(names.into_iter().next())
}

/// What the stream would say to another publish of a message that it has stored.
pub(super) fn ack_of_stored(connection: &Connection, stream: String, sequence: u64) -> PublishAck {
    let domain = connection.settings.domain.clone().unwrap_or_default();
    PublishAck { stream, sequence, domain, duplicate: true, value: None, batch_id: None, batch_size: None }
}

/// What came of looking for a stream, because none had answered.
pub(super) enum Looked {
    /// There was none, and there is one now.
    Made,
    There,
    /// Nobody could say, perhaps with this error.
    Unanswered(Option<Error>),
}

/// Looks for a stream, or makes it, until the deadline; an error is one that does not pass.
pub(super) async fn look_for_stream(
    deadline: Instant,
    ensuring: impl Future<Output = Result<bool, Error>>,
) -> Result<Looked, Error> {
    match timeout_at(deadline, ensuring).await {
        Ok(Ok(true)) => Ok(Looked::Made),
        Ok(Ok(false)) => Ok(Looked::There),
        Ok(Err(error)) if matches!(error.kind(), ErrorKind::Timeout | ErrorKind::Server) => {
            Ok(Looked::Unanswered(Some(error)))
        }
        Ok(Err(error)) => Err(error),
        Err(_) => Ok(Looked::Unanswered(None)),
    }
}

/// The error of a message that the connection did not take.
pub(super) fn unsent(connection: &Connection, subject: &str, error: impl Into<BoxError>) -> Error {
    match connection.is_closed() {
        true => closed(subject),
        false => Error::new(ErrorKind::Publish, format!("could not publish to `{subject}`")).with_source(error),
    }
}

/// Why a message was not stored.
pub(super) enum Failure {
    /// It may be stored when it is sent again.
    Passing(Error),
    Lasting(Error),
}

/// What a stream said to a publish.
///
/// One flat structure: telling an ack from a refusal by trying both costs as much as all the rest of an answer.
#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    error: Option<jetstream::Error>,
    #[serde(default)]
    stream: String,
    #[serde(default)]
    seq: u64,
    #[serde(default)]
    domain: String,
    #[serde(default)]
    duplicate: bool,
    #[serde(default)]
    val: Option<String>,
    #[serde(default)]
    batch: Option<String>,
    #[serde(default)]
    count: Option<u64>,
}

/// Reads the answer to a publish of `message`.
pub(super) fn read_answer(message: &Outgoing, payload: &[u8]) -> Result<PublishAck, Failure> {
    match read_ack(payload) {
        Ok(Ok(ack)) => Ok(ack),
        Ok(Err(error)) if is_transient(error.error_code()) => {
            Err(Failure::Passing(Error::new(ErrorKind::Publish, "the stream cannot store now").with_source(error)))
        }
        Ok(Err(error)) => Err(Failure::Lasting(refused(message, error))),
        Err(error) => {
            let subject = &message.subject;
            let text =
                format!("the answer to the publish on `{subject}` is not a stream's; another subscriber answered it");
            Err(Failure::Lasting(Error::new(ErrorKind::Publish, text).with_source(error)))
        }
    }
}

/// Reads an ack, or the refusal in its place.
pub(super) fn read_ack(payload: &[u8]) -> Result<Result<PublishAck, jetstream::Error>, serde_json::Error> {
    let answer: Answer = serde_json::from_slice(payload)?;
    let Answer { error, stream, seq, domain, duplicate, val, batch, count } = answer;
    match error {
        Some(error) => Ok(Err(error)),
        None if stream.is_empty() => Err(serde::de::Error::missing_field("stream")),
        None => Ok(Ok(PublishAck {
            stream,
            sequence: seq,
            domain,
            duplicate,
            value: val,
            batch_id: batch,
            batch_size: count,
        })),
    }
}

/// A server before 2.11 would ignore the header, and keep the message for ever (ADR-43).
fn check_ttl(connection: &Connection, message: &Outgoing) -> Result<(), Error> {
    if message.headers.get(header::NATS_MESSAGE_TTL).is_none() {
        return Ok(());
    }
    let Some(version) = connection.version_before((2, 11, 0)) else { return Ok(()) };
    let subject = &message.subject;
    let message = format!(
        "the message for `{subject}` has a time to live, which the server {version} does not know; publish it without, or use a server from 2.11"
    );
    Err(Error::new(ErrorKind::Config, message))
}

/// Whether the stream may store the message when asked again.
pub(super) fn is_transient(code: ErrorCode) -> bool {
    // 10158: the same id is being stored at this moment; 10163 and 10167: "retry" in the server's own words;
    // 10008 comes and goes with the members of a cluster.
    matches!(code.0, 10158 | 10163 | 10167 | 10008)
}

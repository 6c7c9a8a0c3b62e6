//! Publishing to a stream, repeated under one message id until it is stored or the time is over.

use std::sync::Arc;
use std::time::Duration;

use async_nats::client::RequestErrorKind;
use async_nats::header;
use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::response::Response;
use tokio::time::{Instant, timeout_at};

use super::Connection;
use crate::backoff::Doubling;
use crate::error::{Error, ErrorKind};
use crate::provision::ensure_stream;
use crate::publish::{check_size, closed, refused};
use crate::transport::{Outgoing, Transport};

/// How long one attempt waits for the stream's answer: short, because the next one goes to the new leader, and is stored once.
const ATTEMPT: Duration = Duration::from_secs(2);

/// Publishes a message and waits until a stream has stored it, or the connection is closed.
pub(crate) async fn publish(connection: &Arc<Connection>, message: Outgoing) -> Result<PublishAck, Error> {
    let subject = message.subject.clone();
    tokio::select! {
        biased;
        () = connection.closed() => Err(closed(&subject)),
        result = store(connection, message) => result,
    }
}

async fn store(connection: &Arc<Connection>, message: Outgoing) -> Result<PublishAck, Error> {
    check_size(&message, connection.client().max_payload())?;
    check_ttl(connection, &message)?;
    let subject = message.subject.as_str();
    let deadline = Instant::now() + connection.settings.publish_timeout;
    let mut backoff = Doubling::new(Duration::from_millis(50), Duration::from_secs(1));
    let mut looked_for_stream = false;
    let (mut unanswered, mut repetitions) = (false, 0);
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
            Ok(Ok(answer)) => match serde_json::from_slice(&answer.payload) {
                Ok(Response::Ok(ack)) => return Ok(ack),
                Ok(Response::Err { error }) if is_transient(error.error_code()) => {
                    Error::new(ErrorKind::Publish, "the stream cannot store now").with_source(error)
                }
                Ok(Response::Err { error }) => return Err(refused(&message, error)),
                Err(error) => {
                    let message = format!(
                        "the answer to the publish on `{subject}` is not a stream's; another subscriber answered it"
                    );
                    return Err(Error::new(ErrorKind::Publish, message).with_source(error));
                }
            },
            Ok(Err(error)) if matches!(error.kind(), RequestErrorKind::NoResponders | RequestErrorKind::TimedOut) => {
                unanswered |= error.kind() == RequestErrorKind::TimedOut;
                Error::new(ErrorKind::Timeout, "no stream answers").with_source(error)
            }
            Ok(Err(error)) => {
                return Err(
                    Error::new(ErrorKind::Publish, format!("could not publish to `{subject}`")).with_source(error)
                );
            }
            Err(why) => {
                unanswered = true;
                Error::new(ErrorKind::Timeout, why)
            }
        };
        // No answer has two causes: there is no stream, which is mended once, or it is away for a moment.
        if !looked_for_stream && failure.kind() == ErrorKind::Timeout && connection.is_connected() {
            match timeout_at(deadline, ensure_stream(&transport, subject)).await {
                Ok(Ok(made)) => {
                    looked_for_stream = true;
                    if made {
                        continue;
                    }
                }
                Ok(Err(error)) if matches!(error.kind(), ErrorKind::Timeout | ErrorKind::Server) => failure = error,
                Ok(Err(error)) => return Err(error),
                Err(_) => {}
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

/// A server before 2.11 would ignore the header, and keep the message for ever (ADR-43).
fn check_ttl(connection: &Connection, message: &Outgoing) -> Result<(), Error> {
    if message.headers.get(header::NATS_MESSAGE_TTL).is_none() || connection.client().is_server_compatible(2, 11, 0) {
        return Ok(());
    }
    let (subject, version) = (&message.subject, connection.client().server_info().version);
    let message = format!(
        "the message for `{subject}` has a time to live, which the server {version} does not know; publish it without, or use a server from 2.11"
    );
    Err(Error::new(ErrorKind::Config, message))
}

/// Whether the stream may store the message when asked again.
fn is_transient(code: ErrorCode) -> bool {
    // 10158: the same id is being stored at this moment; 10163 and 10167: "retry" in the server's own words;
    // 10008 and 10074 come and go with the members of a cluster.
    matches!(code.0, 10158 | 10163 | 10167 | 10008)
}

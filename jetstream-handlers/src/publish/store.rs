//! The publish of one message, which is sent until it is stored.

use async_nats::jetstream::publish::PublishAck;
use tokio::time::{Instant, timeout_at};

use super::retry::{Pause, Retry, Unit};
use crate::error::{Error, ErrorKind};
use crate::message::refusal::closed;
use crate::message::{Attempt, FirstSend, Outgoing, PublishFailure};
use crate::observe::publishing::Publishing;
use crate::transport::Transport;

/// Publishes a message, and returns after the stream has stored it.
///
/// Fails if the broker is disconnected meanwhile.
pub(crate) async fn publish(transport: &Transport, mut message: Outgoing) -> Result<PublishAck, Error> {
    let publishing = Publishing::of_message(transport.settings(), &message);
    publishing.inject(&mut message, transport.max_payload());
    checked(transport, &message, MissingStream::Created, &publishing).await.map(Answer::into_ack)
}

/// Publishes a copy of a message, with exactly its headers.
pub(crate) async fn publish_copy(
    transport: &Transport,
    message: Outgoing,
    missing: MissingStream,
) -> Result<PublishAck, Error> {
    let publishing = Publishing::of_message(transport.settings(), &message);
    // Boxed, because dead letters are rare, and every slot of a worker would hold its size.
    Box::pin(checked(transport, &message, missing, &publishing)).await.map(Answer::into_ack)
}

/// Publishes a copy of a message whose id others can guess, so that the caller must compare a duplicate with the message.
///
/// The ack is that of the server: an id that was known is reported as a duplicate, even if an earlier attempt had no
/// answer, because that attempt is not known to have stored it.
pub(crate) async fn publish_guessable(
    transport: &Transport,
    message: Outgoing,
    missing: MissingStream,
) -> Result<PublishAck, Error> {
    let publishing = Publishing::of_message(transport.settings(), &message);
    // Boxed as above.
    Box::pin(checked(transport, &message, missing, &publishing)).await.map(|answer| answer.ack)
}

/// The action of a publish if no stream covers its subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MissingStream {
    Created,
    /// The publish is repeated until its timeout.
    Awaited,
}

/// The answer that ended a publish.
struct Answer {
    ack: PublishAck,
    /// `true` if an earlier attempt had no answer.
    is_repetition: bool,
}

impl Answer {
    /// Returns the ack of a message with an id of its own, which the stream knows from an attempt whose answer was
    /// lost.
    fn into_ack(self) -> PublishAck {
        PublishAck { duplicate: self.ack.duplicate && !self.is_repetition, ..self.ack }
    }
}

async fn checked(
    transport: &Transport,
    message: &Outgoing,
    missing: MissingStream,
    publishing: &Publishing,
) -> Result<Answer, Error> {
    let result = publishing.run(store(transport, message, missing)).await;
    publishing.ended(result.as_ref().map(|answer| &answer.ack));
    result
}

/// Sends a message that was not sent before, until it is stored.
async fn store(transport: &Transport, message: &Outgoing, missing: MissingStream) -> Result<Answer, Error> {
    transport.check(message)?;
    let deadline = Instant::now() + transport.settings().publish_timeout;
    match transport.publish_once(message, deadline).await {
        Ok(ack) => Ok(Answer { ack, is_repetition: false }),
        // Boxed, because most messages are stored by the first attempt, and every publish would hold its size.
        Err(failure) => Box::pin(store_after(transport, message, missing, deadline, failure)).await,
    }
}

/// Sends a message again after its first attempt has failed.
async fn store_after(
    transport: &Transport,
    message: &Outgoing,
    missing: MissingStream,
    deadline: Instant,
    failure: PublishFailure,
) -> Result<Answer, Error> {
    let mut retry = Retry::new(transport, &message.subject, Unit::Message, deadline);
    retry.stream_found = missing == MissingStream::Awaited;
    until_closed(transport, &message.subject, repeat(transport, message, retry, deadline, failure)).await
}

/// Publishes a message that was already checked, and may have been sent.
pub(super) async fn resend(transport: &Transport, attempt: Attempt) -> Result<PublishAck, Error> {
    let Attempt { message, begun, unanswered } = attempt;
    let deadline = begun + transport.settings().publish_timeout;
    let mut retry = Retry::new(transport, &message.subject, Unit::Message, deadline);
    retry.unanswered = unanswered;
    let stored = async {
        match transport.publish_once(&message, deadline).await {
            Ok(ack) => Ok(Answer { ack, is_repetition: unanswered }),
            Err(failure) => repeat(transport, &message, retry, deadline, failure).await,
        }
    };
    until_closed(transport, &message.subject, stored).await.map(Answer::into_ack)
}

/// Awaits a publish; fails if the broker is disconnected meanwhile.
pub(super) async fn until_closed<T>(
    transport: &Transport,
    subject: &str,
    publishing: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    tokio::select! {
        biased;
        () = transport.closed() => Err(closed(subject)),
        result = publishing => result,
    }
}

/// Repeats a publish whose last attempt has failed, until the message is stored.
async fn repeat(
    transport: &Transport,
    message: &Outgoing,
    mut retry: Retry<'_>,
    deadline: Instant,
    mut failure: PublishFailure,
) -> Result<Answer, Error> {
    loop {
        match failure {
            PublishFailure::Permanent(error) if retry.unanswered && error.kind() == ErrorKind::WrongLastSequence => {
                // Boxed, because it is rarer than another attempt.
                let ack = Box::pin(ack_of_first_send(transport, message, deadline, error)).await?;
                return Ok(Answer { ack, is_repetition: true });
            }
            failure => retry.after(failure).await?,
        }
        match transport.publish_once(message, deadline).await {
            Ok(ack) => return Ok(Answer { ack, is_repetition: retry.unanswered }),
            Err(next) => failure = next,
        }
    }
}

/// Returns the ack of a message whose answer was lost and whose condition no longer holds, possibly because the message
/// itself was stored.
///
/// A server without a cluster checks the condition before the message id (`stream.go`, `processJetStreamMsg`), so that
/// it does not report a duplicate.
/// The stream is read instead of publishing again, which could break a replicated stream: a cluster checks some
/// conditions only when it applies the message, and a stream in which that fails stays broken.
async fn ack_of_first_send(
    transport: &Transport,
    message: &Outgoing,
    deadline: Instant,
    refusal: Error,
) -> Result<PublishAck, Error> {
    let mut pause = Pause::new(deadline);
    let why = loop {
        let why = match timeout_at(deadline, transport.first_send(message)).await {
            Ok(Ok(FirstSend::Stored(ack))) => return Ok(ack),
            Ok(Ok(FirstSend::NotStored)) => return Err(refusal),
            Ok(Ok(FirstSend::Unknown)) | Err(_) => break refusal,
            Ok(Err(error)) => error,
        };
        if pause.wait().await.is_err() {
            break why;
        }
    };
    let text = format!(
        "the answer to the publish on `{}` was lost, and its condition no longer holds: either the message is stored, or another one was stored before it; read the last message of the subject before publishing again",
        message.subject
    );
    Err(Error::new(ErrorKind::Timeout, text).with_source(why))
}

#[cfg(test)]
mod tests {
    use std::mem::size_of_val;

    use super::*;
    use crate::memory::Memory;
    use crate::settings::Settings;

    #[test]
    fn first_attempt_holds_nothing_of_a_retry() {
        let transport = Transport::Memory(Memory::new(Settings::default()));
        let (subject, payload) = (async_nats::Subject::from("orders.created"), bytes::Bytes::new());
        let message = Outgoing { subject, pattern: None, payload, headers: async_nats::HeaderMap::new() };
        let failure = PublishFailure::Transient(Error::new(ErrorKind::Timeout, "no stream answers"));
        let first = size_of_val(&store(&transport, &message, MissingStream::Created));
        let later = store_after(&transport, &message, MissingStream::Created, Instant::now(), failure);
        let later = size_of_val(&later);
        assert!(first + size_of::<Retry<'_>>() < later, "the first attempt has {first} bytes, and a retry {later}");
    }
}

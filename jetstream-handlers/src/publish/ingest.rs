//! A fast-ingest batch: messages in order, at the rate at which the stream accepts them.

use std::time::Duration;

use async_nats::jetstream::publish::PublishAck;
use tokio::time::{Instant, sleep};

use super::batch::{about, check_member};
use super::retry::{Retry, Unit};
use super::{PublishMessage, Publisher};
use crate::error::Error;
use crate::error::ingest::IngestError;
use crate::message::refusal::empty_batch;
use crate::message::{BeginFailure, Outgoing};
use crate::observe::publishing::Publishing;
use crate::transport::{Ingest, Transport};

/// The oldest server version with fast-ingest batches (ADR-50).
const SERVER: (i64, i64, i64) = (2, 14, 0);

/// The time without an answer after which the stream is asked whether it answers at all.
const SILENCE: Duration = Duration::from_secs(1);

impl Publisher {
    /// Publishes many messages to one stream in order, as fast as the stream accepts them.
    ///
    /// The stream acknowledges hundreds of messages at once, and its acks limit the number of messages in flight to at
    /// most 1000.
    /// The iterator is read only as fast as messages are sent, so that a long one runs in bounded memory.
    /// The messages are stored in order and without a gap, but messages of other publishers may lie between them.
    /// The returned ack is that of the last message, and its `batch_size` is the number of messages.
    ///
    /// It is for bulk loads, for which it takes less CPU time of the client and the server than
    /// [`publish_all`](Self::publish_all), because the messages have neither ids nor acks of their own.
    ///
    /// It requires a server from 2.14 and a stream with `allow_batch_publish` (ADR-50, "fast ingest").
    /// A stream that the broker creates by default does not have it: declare the stream with
    /// [`Builder::stream`](crate::Builder::stream), or update it on the server.
    ///
    /// The batch ends at the first message that is refused or does not arrive, and no message is sent again;
    /// [`IngestError::stored`] returns the number of messages that are known to be stored.
    /// Messages receive no generated id. If each message has a [`message_id`](PublishMessage::message_id), the same
    /// batch can be published again, and messages that the stream already has count as stored.
    ///
    /// # Examples
    ///
    /// ```
    /// # async fn send(broker: jetstream_handlers::Broker) -> Result<(), jetstream_handlers::Error> {
    /// let readings = (0..50_000).map(|reading| broker.publish_message("readings.kitchen", &reading));
    /// match broker.publisher().ingest(readings).await {
    ///     Ok(ack) => println!("all {:?} are stored", ack.batch_size),
    ///     Err(error) => println!("the first {} are known to be stored: {error}", error.stored()),
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// | kind | reason |
    /// |---|---|
    /// | [`Config`](crate::ErrorKind::Config) | there is no message, a message belongs to another broker or cannot be published, or the server is too old |
    /// | [`StreamNotFound`](crate::ErrorKind::StreamNotFound) | no stream covers the subject of the first message |
    /// | [`StreamMismatch`](crate::ErrorKind::StreamMismatch) | the stream does not allow fast-ingest batches, or acknowledges no message (`no_ack`) |
    /// | [`Publish`](crate::ErrorKind::Publish) | the stream refused a message, or lost the batch: it was restarted, no message arrived for ten seconds, or a message belongs to another stream |
    /// | [`Timeout`](crate::ErrorKind::Timeout) | the stream did not answer within the publish timeout |
    ///
    /// The other errors are those of [`publish`](Self::publish).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the first messages of the batch are stored: those that were acknowledged, and up to
    /// 1000 more.
    pub async fn ingest<I>(&self, messages: I) -> Result<PublishAck, IngestError>
    where
        I: IntoIterator<Item = PublishMessage, IntoIter: Send>,
    {
        let transport = &*self.transport;
        transport
            .require_version(SERVER, "fast-ingest batches", "`publish_all`, which stores message by message")
            .map_err(none_stored)?;
        let mut messages = (1..).zip(messages).map(|(number, message): (usize, PublishMessage)| {
            (number, check_member(number, message.outgoing_of(self)))
        });
        let (number, first) = messages.next().unwrap_or_else(|| (1, Err(empty_batch())));
        let first = first.map_err(none_stored)?;
        let mut publishing = Publishing::of_batch(transport.settings(), &first, 1);
        let messages = std::iter::once((number, Ok(first))).chain(messages).map(|(number, message)| {
            let mut message = message?;
            publishing.inject(&mut message, transport.max_payload());
            transport.check(&message).map_err(|error| about(number, error))?;
            Ok(message)
        });
        let result = publishing.run(ingest(transport, messages)).await;
        match &result {
            Ok(ack) => publishing.set_messages(ack.batch_size.unwrap_or(1)),
            Err(error) => publishing.stored(error.stored()),
        }
        publishing.ended(result.as_ref().map_err(IngestError::error));
        result
    }
}

/// Sends all messages of a batch, of which there is at least one.
async fn ingest(
    transport: &Transport,
    mut messages: impl Iterator<Item = Result<Outgoing, Error>>,
) -> Result<PublishAck, IngestError> {
    let first = messages.next().unwrap_or_else(|| Err(empty_batch())).map_err(none_stored)?;
    let mut batch = begin(transport, first).await?;
    for message in messages {
        batch.add(message).await?;
        if batch.has_ended() {
            break;
        }
    }
    batch.end().await
}

/// Sends the first message until a stream begins the batch or refuses it.
async fn begin(transport: &Transport, first: Outgoing) -> Result<Ingest<'_>, IngestError> {
    let subject = first.subject.clone();
    let deadline = Instant::now() + transport.settings().publish_timeout;
    let mut retry = Retry::new(transport, &subject, Unit::Ingest, deadline);
    loop {
        let begun = tokio::select! {
            biased;
            begun = transport.begin_ingest(first.clone(), deadline) => begun,
            // The batch waits for its first answer until the deadline, because it cannot be sent again.
            error = silent_stream(&mut retry) => return Err(none_stored(error)),
        };
        match begun {
            Ok(batch) => return Ok(batch),
            Err(BeginFailure::Ended(error)) => return Err(error),
            Err(BeginFailure::NotBegun(failure)) => retry.after(failure).await.map_err(none_stored)?,
        }
    }
}

/// Waits until the stream has not answered for a while, and returns an error if it never does; never returns otherwise.
async fn silent_stream(retry: &mut Retry<'_>) -> Error {
    sleep(SILENCE).await;
    match Box::pin(retry.require_acks()).await {
        Ok(()) => std::future::pending().await,
        Err(error) => error,
    }
}

fn none_stored(error: Error) -> IngestError {
    IngestError::new(error, 0)
}

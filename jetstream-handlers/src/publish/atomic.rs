//! An atomic batch: all of its messages are stored, or none.

use std::collections::BTreeMap;

use async_nats::header;
use async_nats::jetstream::publish::PublishAck;
use tokio::time::Instant;

use super::batch::{about, check_member};
use super::retry::{Retry, Unit};
use super::store::until_closed;
use super::{PublishMessage, Publisher};
use crate::error::{Error, ErrorKind};
use crate::message::refusal::empty_batch;
use crate::message::{Outgoing, atomic_batch_id};
use crate::observe::publishing::Publishing;
use crate::transport::Transport;

/// The server's default limit for the messages of an atomic batch (ADR-50).
pub(super) const MAX_MESSAGES: usize = 1000;

/// The oldest server version whose atomic batches are used (ADR-50).
const SERVER: (i64, i64, i64) = (2, 12, 1);

impl Publisher {
    /// Publishes up to 1000 messages to one stream, all or none.
    ///
    /// They are stored one after another without other messages between them, and become visible together.
    /// The returned ack is that of the last message, and its `batch_size` is the number of messages.
    /// Conditions are checked when all messages have arrived: if one does not hold, nothing is stored.
    ///
    /// It requires a server from 2.12.1 and a stream with `allow_atomic_publish` (ADR-50).
    /// A stream that the broker creates by default does not have it: declare the stream with
    /// [`Builder::stream`](crate::Builder::stream), or update it on the server.
    ///
    /// Each message without a [`message_id`](PublishMessage::message_id) receives a generated id.
    /// While no server answers, the batch is sent again under the same ids until the [publish
    /// timeout](crate::Builder::publish_timeout).
    /// If the batch is already stored, its ack is returned.
    ///
    /// # Examples
    ///
    /// ```
    /// # async fn send(broker: jetstream_handlers::Broker) -> Result<(), jetstream_handlers::Error> {
    /// let ack = broker
    ///     .publisher()
    ///     .publish_atomic([
    ///         broker.publish_message("accounts.ada", &-10),
    ///         broker.publish_message("accounts.bob", &10).message_id("transfer-7"),
    ///     ])
    ///     .await?;
    /// println!("{:?} messages, the last one is message {}", ack.batch_size, ack.sequence);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// If an error is returned, nothing is stored.
    /// The exceptions are a [`Timeout`](ErrorKind::Timeout) and a [`Duplicate`](ErrorKind::Duplicate) after a lost
    /// answer, whose texts state that the batch may be stored.
    ///
    /// | kind | reason |
    /// |---|---|
    /// | [`Config`](ErrorKind::Config) | there is no message or there are more than 1000, two messages have the same id, a message belongs to another broker or cannot be published, a message other than the first has `expect_last_sequence`, or the server is too old |
    /// | [`StreamNotFound`](ErrorKind::StreamNotFound) | no stream covers a subject |
    /// | [`StreamMismatch`](ErrorKind::StreamMismatch) | the stream does not allow atomic batches |
    /// | [`WrongLastSequence`](ErrorKind::WrongLastSequence) | a condition does not hold |
    /// | [`Duplicate`](ErrorKind::Duplicate) | the stream has a message with one of the ids |
    /// | [`Publish`](ErrorKind::Publish) | the messages belong to several streams, or the stream refused one |
    ///
    /// The other errors are those of [`publish`](Self::publish).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, either the whole batch is stored or nothing.
    pub async fn publish_atomic<I>(&self, messages: I) -> Result<PublishAck, Error>
    where
        I: IntoIterator<Item = PublishMessage>,
    {
        let messages = messages.into_iter().take(MAX_MESSAGES + 1).map(|message| message.outgoing_of(self));
        let messages = atomic_batch(messages)?;
        require_version(&self.transport)?;
        store_batch(&self.transport, &messages).await
    }
}

/// Returns an error if the server is too old for atomic batches.
pub(super) fn require_version(transport: &Transport) -> Result<(), Error> {
    transport.require_version(SERVER, "atomic batches", "`publish_all`, which stores message by message")
}

/// Stores a batch of at most [`MAX_MESSAGES`] messages with different ids.
pub(super) async fn store_batch(transport: &Transport, messages: &[Outgoing]) -> Result<PublishAck, Error> {
    let Some(first) = messages.first() else { return Err(empty_batch()) };
    let publishing = Publishing::of_batch(transport.settings(), first, messages.len() as u64);
    let messages = publishing.injected(messages, transport.max_payload());
    let stored = async {
        check_batch(transport, &messages)?;
        until_closed(transport, &first.subject, store(transport, &first.subject, &messages)).await
    };
    let result = publishing.run(stored).await;
    publishing.ended(result.as_ref());
    result
}

fn check_batch(transport: &Transport, messages: &[Outgoing]) -> Result<(), Error> {
    let id = atomic_batch_id(&nuid::next(), 0);
    for (number, message) in (1..).zip(messages) {
        let sent = message.in_atomic_batch(&id, number, messages.len());
        transport.check(&sent).map_err(|error| about(number, error))?;
    }
    Ok(())
}

/// Returns the messages of an atomic batch, each with an id.
fn atomic_batch(messages: impl Iterator<Item = Result<Outgoing, Error>>) -> Result<Vec<Outgoing>, Error> {
    let wrong = |text: String| Err(Error::new(ErrorKind::Config, text));
    let mut batch = Vec::new();
    let mut numbers = BTreeMap::new();
    for (number, message) in (1..).zip(messages) {
        let message = check_member(number, message)?.with_id();
        if number > 1 && message.header(header::NATS_EXPECTED_LAST_SEQUENCE).is_some() {
            return wrong(format!(
                "message {number} of the batch expects a last sequence of the stream, which only the first message of an atomic batch may; expect it there, or expect a last sequence of its subject"
            ));
        }
        let id = message.header(header::NATS_MESSAGE_ID).unwrap_or_default();
        if let Some(other) = numbers.insert(id.to_owned(), number) {
            return wrong(format!("messages {other} and {number} of the batch have the same message id `{id}`"));
        }
        batch.push(message);
    }
    match batch.len() {
        0 => Err(empty_batch()),
        1..=MAX_MESSAGES => Ok(batch),
        _ => wrong(format!(
            "an atomic batch has at most {MAX_MESSAGES} messages, and this one has more; publish several batches, or use `publish_all`"
        )),
    }
}

async fn store(transport: &Transport, subject: &str, messages: &[Outgoing]) -> Result<PublishAck, Error> {
    let deadline = Instant::now() + transport.settings().publish_timeout;
    let mut retry = Retry::new(transport, subject, Unit::AtomicBatch, deadline);
    let mut batch = transport.atomic_batch(messages);
    loop {
        match batch.attempt(deadline).await {
            Ok(ack) => return Ok(ack),
            Err(failure) => retry.after(failure).await?,
        }
    }
}

//! Publishing a batch to one stream: all or none, or as fast as the stream takes it.

use std::collections::BTreeMap;

use async_nats::jetstream::publish::PublishAck;
use async_nats::{header, jetstream};

use crate::error::{Error, ErrorKind};
use crate::message::Outgoing;
use crate::provision::ensure_stream;
use crate::publish::{PublishMessage, Publisher, identified, why_refused};
use crate::subject::covers;
use crate::transport::Transport;

/// The most messages of an atomic batch, as the server has it unless configured (ADR-50).
const MAX_ATOMIC: usize = 1000;

impl Publisher {
    /// Publishes several messages to one stream, all or none.
    ///
    /// They are stored one behind the other, with nothing between, and become visible together; the ack is that of the last one, and its
    /// `batch_size` says how many there are.
    /// Conditions are judged when all are there: if one does not hold, nothing is stored.
    /// It needs a server from 2.12.1 and a stream with `allow_atomic_publish`, which the streams that the broker makes by itself do not have:
    /// give it to [`Builder::stream`](crate::Builder::stream), or update the stream (ADR-50).
    ///
    /// Each message without a [`message_id`](PublishMessage::message_id) gets an id of its own.
    /// While no server answers, the batch is repeated under these ids until the publish timeout of the builder, and where the stream has it
    /// already, that is the success it is.
    ///
    /// # Examples
    ///
    /// ```
    /// # async fn send(broker: jetstream_handlers::Broker) -> Result<(), jetstream_handlers::Error> {
    /// let ack = broker
    ///     .publish_atomic([
    ///         broker.publish_message("accounts.ada", &-10),
    ///         broker.publish_message("accounts.bob", &10).message_id("transfer-7"),
    ///     ])
    ///     .await?;
    /// println!("{:?} messages, the last one is number {}", ack.batch_size, ack.sequence);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// Before anything is sent: there is no message, or more than 1000; one of them cannot be published; two have the same id;
    /// `expect_last_sequence` on another than the first; the server is older.
    /// From the stream: it does not allow it ([`StreamMismatch`](ErrorKind::StreamMismatch)), a condition does not hold
    /// ([`WrongLastSequence`](ErrorKind::WrongLastSequence)), it has one of the ids already ([`Duplicate`](ErrorKind::Duplicate)),
    /// a subject belongs to another stream.
    /// With all of them nothing is stored; a [`Timeout`](ErrorKind::Timeout) says whether that is known.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future may leave all of the batch stored or nothing.
    pub async fn publish_atomic<'a, I>(&self, messages: I) -> Result<PublishAck, Error>
    where
        I: IntoIterator<Item = PublishMessage<'a>>,
    {
        let messages = messages.into_iter().take(MAX_ATOMIC + 1).map(PublishMessage::outgoing);
        let messages = atomic_batch(messages)?;
        self.transport.publish_atomic(messages).await
    }

    /// Publishes many messages to one stream in order, as fast as it takes them.
    ///
    /// The stream answers once for hundreds of messages, and says how far ahead of it this may run; 1000 messages at most.
    /// The iterator is taken no faster, so even a long one needs little memory.
    /// The messages are stored in order and without a gap, but those of others may lie between.
    /// The ack is that of the last one, and its `batch_size` says how many there are.
    /// It needs a server from 2.14 and a stream with `allow_batch_publish`, which the streams that the broker makes by itself do not have:
    /// give it to [`Builder::stream`](crate::Builder::stream), or update the stream (ADR-50, "fast ingest").
    ///
    /// The batch ends at the first message that is refused or does not arrive, and nothing is repeated;
    /// [`Error::stored`] says how many are known to be stored.
    /// A message gets no id of its own; with a [`message_id`](PublishMessage::message_id) for each, the same batch can be published
    /// again, and what the stream has already counts as stored.
    /// An iterator that needs ten seconds for one message loses its batch.
    ///
    /// # Examples
    ///
    /// ```
    /// # async fn send(broker: jetstream_handlers::Broker) -> Result<(), jetstream_handlers::Error> {
    /// let readings = (0..50_000).map(|reading| broker.publish_message("readings.kitchen", &reading));
    /// match broker.ingest(readings).await {
    ///     Ok(ack) => println!("all {:?} are stored", ack.batch_size),
    ///     Err(error) => println!("{:?} are known to be stored: {error}", error.stored()),
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// The server is older; the stream does not allow it ([`StreamMismatch`](ErrorKind::StreamMismatch)); there is no message;
    /// the first message that cannot be published or is refused, with the errors of [`publish`](Self::publish);
    /// the server was restarted or does not answer for the publish timeout of the builder.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves a beginning of the batch stored, up to 1000 messages more than were answered.
    pub async fn ingest<'a, I>(&self, messages: I) -> Result<PublishAck, Error>
    where
        I: IntoIterator<Item = PublishMessage<'a>, IntoIter: Send>,
    {
        self.transport.ingest(messages.into_iter().map(PublishMessage::outgoing)).await
    }
}

/// The messages of an atomic batch, each with an id, or what is wrong with them.
fn atomic_batch(messages: impl Iterator<Item = Result<Outgoing, Error>>) -> Result<Vec<Outgoing>, Error> {
    let wrong = |text: String| Err(Error::new(ErrorKind::Config, text));
    let mut batch = Vec::new();
    let mut numbers = BTreeMap::new();
    for (number, message) in (1..).zip(messages) {
        let message = identified(batch_member(number, message)?);
        if number > 1 && message.headers.get(header::NATS_EXPECTED_LAST_SEQUENCE).is_some() {
            return wrong(format!(
                "message {number} of the batch expects a last sequence of the stream, which only the first one of an atomic batch may; expect it there, or a last sequence of its subject"
            ));
        }
        let id = message.headers.get(header::NATS_MESSAGE_ID).map_or("", |id| id.as_str());
        if let Some(other) = numbers.insert(id.to_owned(), number) {
            return wrong(format!("messages {other} and {number} of the batch have the same message id `{id}`"));
        }
        batch.push(message);
    }
    match batch.len() {
        0 => Err(empty()),
        1..=MAX_ATOMIC => Ok(batch),
        _ => wrong(format!(
            "an atomic batch has at most {MAX_ATOMIC} messages, and this one has more; publish several batches, or `publish_all` message by message"
        )),
    }
}

/// One message of a batch, by its number from 1.
pub(crate) fn batch_member(number: usize, message: Result<Outgoing, Error>) -> Result<Outgoing, Error> {
    let message = message.map_err(|error| error.about(&format!("message {number} of the batch")))?;
    let ours = message.headers.iter().find(|(name, _)| AsRef::<str>::as_ref(*name).starts_with("Nats-Batch-"));
    match ours {
        None => Ok(message),
        Some((name, _)) => Err(Error::new(
            ErrorKind::Config,
            format!(
                "message {number} of the batch has the header `{name}`, which the batch sets by itself; leave it out"
            ),
        )),
    }
}

pub(crate) fn empty() -> Error {
    Error::new(ErrorKind::Config, "the batch has no message, so there is nothing that a stream could answer")
}

/// Makes the stream that the application declared for a batch; `true` if it was made now.
///
/// One that was not declared would be made without the permission for batches, and is left alone.
pub(crate) async fn ensure_batch_stream(transport: &Transport, subject: &str, setting: &str) -> Result<bool, Error> {
    let declared = &transport.settings().streams;
    if !declared.iter().any(|config| config.subjects.iter().any(|own| covers(own, subject)))
        && transport.stream_names(subject).await.is_ok_and(|names| names.is_empty())
    {
        let text = format!(
            "no stream covers `{subject}`, and one that the broker makes by itself takes no batches; give `Builder::stream` a config with `{setting}: true`"
        );
        return Err(Error::new(ErrorKind::StreamNotFound, text));
    }
    Box::pin(ensure_stream(transport, subject)).await
}

/// A stream's refusal of an atomic batch as an error of ours; `number` is the message that it was said of, if that is known.
pub(crate) fn batch_refused(messages: &[Outgoing], number: Option<usize>, error: jetstream::Error) -> Error {
    let subject = messages.first().map_or("", |message| &message.subject);
    let (kind, why) = match error.error_code().0 {
        10174 => (
            ErrorKind::StreamMismatch,
            "its stream takes no atomic batches; turn `allow_atomic` on in its configuration on the server (`allow_atomic_publish` in `stream::Config`); if the messages belong to several streams, make a batch for each; or use `publish_all`, which stores message by message".to_owned(),
        ),
        10201 => (
            ErrorKind::Duplicate,
            "the stream has a message with one of the ids already, so the batch or a part of it was stored before".to_owned(),
        ),
        10199 => (ErrorKind::Config, "it has more messages than the server takes (`max_batch_size`)".to_owned()),
        10210 => (ErrorKind::Publish, "the server has too many atomic batches in hand".to_owned()),
        10176 => (
            ErrorKind::Publish,
            "the stream did not get all of it; every message of a batch has to belong to the same stream".to_owned(),
        ),
        10177 => (ErrorKind::Config, "it has a header that an atomic batch cannot have".to_owned()),
        _ => why_refused(number.and_then(|number| messages.get(number - 1)), &error),
    };
    let of = number.map_or(String::new(), |number| format!(" for its message {number}"));
    let count = messages.len();
    Error::new(
        kind,
        format!("the atomic batch of {count} messages on `{subject}` was refused{of}, and nothing is stored: {why}"),
    )
    .with_source(error)
}

/// A stream's refusal of a message of a fast-ingest batch.
pub(crate) fn ingest_refused(number: u64, error: jetstream::Error) -> Error {
    let (kind, why) = match error.error_code().0 {
        10205 => (
            ErrorKind::StreamMismatch,
            "its stream takes no fast-ingest batches; turn `allow_batched` on in its configuration on the server (`allow_batch_publish` in `stream::Config`), or use `publish_all`".to_owned(),
        ),
        10208 => (
            ErrorKind::Publish,
            "its stream does not know the batch: the server was restarted, or no message came for ten seconds, or it is another stream than that of the first message".to_owned(),
        ),
        10211 => (ErrorKind::Publish, "the server has too many fast-ingest batches in hand".to_owned()),
        _ => why_refused(None, &error),
    };
    Error::new(kind, format!("message {number} of the batch was refused: {why}")).with_source(error)
}

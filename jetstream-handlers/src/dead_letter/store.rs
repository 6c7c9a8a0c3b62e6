//! What could not be handled: to look at, to replay, to throw away.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use async_nats::HeaderMap;
use async_nats::header;
use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::stream::RetentionPolicy;
use bytes::Bytes;

use crate::dead_letter::{OMITTED, ORIGINAL, PREFIX};
use crate::error::api::ApiError;
use crate::error::{Error, ErrorKind};
use crate::message::{Outgoing, Stored};
use crate::publish::publish;
use crate::subject::overlap;
use crate::transport::Transport;

/// The stream of dead letters unless a handler's `dead_letter` belongs to another one.
const DEFAULT_STREAM: &str = "DLQ";

/// The most letters that one [`list`](DeadLetters::list) gives.
const MAX_LIST: usize = 1000;

/// The dead letters in a stream, of all handlers or of one.
///
/// # Examples
///
/// ```no_run
/// # async fn look(broker: jetstream_handlers::Broker) -> Result<(), jetstream_handlers::Error> {
/// let letters = broker.dead_letters().of("process_order");
/// for letter in letters.list().await? {
///     println!("{letter}");
///     letters.replay(letter.sequence).await?;
/// }
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct DeadLetters {
    transport: Arc<Transport>,
    stream: String,
    handler: Option<String>,
    after: u64,
}

/// A message that could not be handled, as it lies in the stream of dead letters.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct DeadLetter {
    /// Its sequence in the stream of dead letters: the name by which it is shown and replayed.
    pub sequence: u64,
    /// When it was stored there.
    pub stored_at: SystemTime,
    /// Why it failed: `error`, `panic`, `timeout`, `undecodable` or `killed`.
    pub reason: String,
    /// The error of the last attempt with its causes, at most 1 KiB of it.
    pub error: String,
    /// The full name of the handler.
    pub handler: String,
    /// The stream that it came from.
    pub stream: String,
    /// Its sequence there.
    pub stream_sequence: u64,
    /// The subject on which it was published.
    pub subject: String,
    /// The durable consumer that delivered it.
    pub consumer: String,
    /// How often it was delivered.
    pub delivered: u64,
    /// The original bytes.
    pub payload: Bytes,
    headers: HeaderMap,
}

impl DeadLetter {
    /// The first value of a header of the original message.
    pub fn header(&self, name: &str) -> Option<&str> {
        let kept = self.headers.get(format!("{ORIGINAL}{name}").as_str());
        kept.or_else(|| self.headers.get(name)).map(|value| value.as_str())
    }

    /// Reads a letter; `None` for a message that is none.
    fn read(stored: Stored) -> Option<Self> {
        let text = |name: &str| Some(stored.headers.get(format!("{PREFIX}{name}").as_str())?.as_str().to_owned());
        Some(Self {
            reason: text("Reason")?,
            error: text("Error").unwrap_or_default(),
            handler: text("Handler")?,
            stream: text("Stream")?,
            stream_sequence: text("Sequence")?.parse().ok()?,
            subject: text("Subject")?,
            consumer: text("Consumer")?,
            delivered: text("Delivered")?.parse().ok()?,
            sequence: stored.sequence,
            stored_at: stored.time,
            payload: stored.payload,
            headers: stored.headers,
        })
    }

    /// Whether the handler has this name: the full path, or its end.
    fn is_of(&self, handler: &str) -> bool {
        let path = self.handler.strip_suffix(handler);
        path.is_some_and(|path| path.is_empty() || path.ends_with("::"))
    }
}

impl fmt::Display for DeadLetter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sequence, handler, subject, stream, stream_sequence, delivered, reason, error, .. } = self;
        write!(
            f,
            "#{sequence} {handler}: {subject} ({stream} {stream_sequence}), delivered {delivered} times, {reason}: {error}"
        )
    }
}

impl DeadLetters {
    pub(crate) fn new(transport: Arc<Transport>) -> Self {
        Self { transport, stream: DEFAULT_STREAM.to_owned(), handler: None, after: 0 }
    }

    /// Looks into another stream than `DLQ`, for handlers whose `dead_letter` goes elsewhere.
    pub fn stream(mut self, stream: &str) -> Self {
        self.stream = stream.to_owned();
        self
    }

    /// Only letters of this handler: its function's name, or as much of its path as tells it apart.
    pub fn of(mut self, handler: &str) -> Self {
        self.handler = Some(handler.to_owned());
        self
    }

    /// Only letters after this sequence, to go on where a list has ended.
    pub fn after(mut self, sequence: u64) -> Self {
        self.after = sequence;
        self
    }

    /// The letters, oldest first, at most 1000 of them; none if there is no such stream.
    ///
    /// # Errors
    ///
    /// The server does not answer, or its answer cannot be read.
    ///
    /// # Cancel safety
    ///
    /// It only reads.
    pub async fn list(&self) -> Result<Vec<DeadLetter>, Error> {
        let (mut letters, last) = (self.clone(), self.last().await?);
        let mut found = Vec::new();
        while found.len() < MAX_LIST
            && let Some(letter) = letters.next(last).await?
        {
            found.push(letter);
        }
        Ok(found)
    }

    /// One letter, by its sequence in the stream of dead letters.
    ///
    /// # Errors
    ///
    /// The server does not answer, or its answer cannot be read.
    ///
    /// # Cancel safety
    ///
    /// It only reads.
    pub async fn show(&self, sequence: u64) -> Result<Option<DeadLetter>, Error> {
        let stored = self.transport.stored(&self.stream, sequence, false).await?;
        Ok(stored.and_then(DeadLetter::read).filter(|letter| self.wants(letter)))
    }

    /// Publishes a letter to its original subject, with its original bytes and headers, and removes it when that is stored.
    ///
    /// The new message says where it comes from in its header `Dead-Letter-Replay-Of` (`<stream>:<sequence>` of the letter).
    /// Every queue on the subject gets it, not only the one that failed.
    /// Headers by which the server judged the original (`Nats-Msg-Id`, `Nats-Expected-..`) are not repeated;
    /// a replay that is repeated within the stream's `duplicate_window` is stored once.
    ///
    /// # Errors
    ///
    /// There is no such letter, or a stream did not store the message; then the letter stays.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future may leave the message published and the letter still there.
    pub async fn replay(&self, sequence: u64) -> Result<PublishAck, Error> {
        let Some(letter) = self.show(sequence).await? else {
            let message = format!("stream `{}` has no dead letter {sequence}{}", self.stream, self.whose());
            return Err(Error::new(ErrorKind::Config, message));
        };
        let mut message = self.again(&letter);
        if letter.headers.get(OMITTED).is_some() {
            let original = self.transport.stored(&letter.stream, letter.stream_sequence, false).await?;
            let Some(original) = original.filter(|original| original.subject.as_str() == letter.subject) else {
                let message = format!(
                    "dead letter {sequence} has no payload because it was too large, and its original (message {} of stream `{}`) is gone",
                    letter.stream_sequence, letter.stream
                );
                return Err(Error::new(ErrorKind::Config, message));
            };
            message.payload = original.payload;
        }
        self.check_interest(&letter).await?;
        let ack = publish(&self.transport, message).await?;
        self.transport.delete(&self.stream, sequence).await?;
        Ok(ack)
    }

    /// Replays every letter that there is now, oldest first; gives their number.
    ///
    /// # Errors
    ///
    /// The first letter that cannot be replayed ends it; those before it are replayed, the others stay.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves some letters replayed, and at most one of them still there.
    pub async fn replay_all(&self) -> Result<usize, Error> {
        let (mut letters, last) = (self.clone(), self.last().await?);
        let mut count = 0;
        while let Some(letter) = letters.next(last).await? {
            self.replay(letter.sequence).await?;
            count += 1;
        }
        Ok(count)
    }

    /// Deletes every letter that there is now; gives their number.
    ///
    /// # Errors
    ///
    /// The server does not answer; some letters may be deleted.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves some letters deleted.
    pub async fn purge(&self) -> Result<usize, Error> {
        let (mut letters, last) = (self.clone(), self.last().await?);
        let mut count = 0;
        while let Some(letter) = letters.next(last).await? {
            count += usize::from(self.transport.delete(&self.stream, letter.sequence).await?);
        }
        Ok(count)
    }

    /// A stream with interest retention acknowledges a message that nobody wants, and forgets it.
    async fn check_interest(&self, letter: &DeadLetter) -> Result<(), Error> {
        let failed = |error: ApiError| error.into_error(&format!("looking for who wants `{}`", letter.subject));
        for name in self.transport.stream_names(&letter.subject).await.map_err(failed)? {
            let config = self.transport.stream(&name).await.map_err(failed)?;
            if config.is_some_and(|config| config.retention == RetentionPolicy::Interest) {
                let consumers = self.transport.consumers(&name).await.map_err(failed)?;
                if !consumers.iter().any(|(_, filter)| overlap(filter, &letter.subject)) {
                    let message = format!(
                        "stream `{name}` has interest retention and no consumer for `{}`, so a replay would be forgotten; the letter stays",
                        letter.subject
                    );
                    return Err(Error::new(ErrorKind::Publish, message));
                }
            }
        }
        Ok(())
    }

    /// The sequence of the last message there is now, so that what comes back meanwhile is left alone.
    async fn last(&self) -> Result<u64, Error> {
        match self.transport.last_sequence(&self.stream, ">").await {
            Err(error) if error.kind() == ErrorKind::StreamNotFound => Ok(0),
            result => result,
        }
    }

    /// The next letter up to `last`, which `after` then names.
    async fn next(&mut self, last: u64) -> Result<Option<DeadLetter>, Error> {
        while self.after < last {
            let stored = match self.transport.stored(&self.stream, self.after + 1, true).await {
                Err(error) if error.kind() == ErrorKind::StreamNotFound => None,
                result => result?,
            };
            let Some(stored) = stored.filter(|stored| stored.sequence <= last) else { break };
            self.after = stored.sequence;
            if let Some(letter) = DeadLetter::read(stored).filter(|letter| self.wants(letter)) {
                return Ok(Some(letter));
            }
        }
        Ok(None)
    }

    /// The original message, on its way again.
    fn again(&self, letter: &DeadLetter) -> Outgoing {
        let mut headers = HeaderMap::new();
        for (name, values) in letter.headers.iter() {
            let name: &str = name.as_ref();
            if !name.starts_with(PREFIX) && !name.starts_with("Nats-") {
                values.iter().for_each(|value| headers.append(name, value.clone()));
            }
        }
        let origin = format!("{}:{}", self.stream, letter.sequence);
        let stored_at = letter.stored_at.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_nanos());
        headers.insert(header::NATS_MESSAGE_ID, format!("replay:{origin}:{stored_at}"));
        headers.insert(crate::dead_letter::REPLAY_OF, origin);
        Outgoing { subject: letter.subject.clone().into(), payload: letter.payload.clone(), headers }
    }

    fn wants(&self, letter: &DeadLetter) -> bool {
        self.handler.as_ref().is_none_or(|handler| letter.is_of(handler))
    }

    fn whose(&self) -> String {
        self.handler.as_ref().map_or(String::new(), |handler| format!(" of handler `{handler}`"))
    }
}

//! The dead letters in a stream: listed, replayed and deleted.

use std::sync::Arc;

use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::stream::RetentionPolicy;

use super::DeadLetter;
use crate::error::api::ApiError;
use crate::error::{Error, ErrorKind};
use crate::publish::publish;
use crate::subject::overlap;
use crate::transport::Transport;

/// The default stream of dead letters; the `dead_letter` subject of a handler may belong to another one.
const DEFAULT_STREAM: &str = "DLQ";

/// The dead letters in a stream, of all handlers or of one.
///
/// # Examples
///
/// ```no_run
/// # async fn replay(broker: jetstream_handlers::Broker) -> Result<(), jetstream_handlers::Error> {
/// let letters = broker.dead_letters().for_handler("process_order");
/// for letter in letters.list(100).await? {
///     println!("{letter}");
///     letters.replay(letter.sequence).await?;
/// }
/// # Ok(()) }
/// ```
///
/// [`after`](Self::after) pages through more dead letters than fit in memory:
///
/// ```no_run
/// # async fn count(broker: jetstream_handlers::Broker) -> Result<(), jetstream_handlers::Error> {
/// let mut letters = broker.dead_letters();
/// loop {
///     let page = letters.list(100).await?;
///     let Some(last) = page.last() else { break };
///     letters = letters.after(last.sequence);
///     println!("{} dead letters up to #{}", page.len(), last.sequence);
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

impl DeadLetters {
    pub(crate) fn new(transport: Arc<Transport>) -> Self {
        Self { transport, stream: DEFAULT_STREAM.to_owned(), handler: None, after: 0 }
    }

    /// Selects the stream, for handlers whose `dead_letter` subject belongs to another stream; defaults to `DLQ`.
    #[must_use]
    pub fn stream(mut self, stream: &str) -> Self {
        self.stream = stream.to_owned();
        self
    }

    /// Selects the dead letters of one handler, by the name of its function, the end of its full path, the
    /// [name](crate::Subscribe::name) of a closure, or its queue.
    #[must_use]
    pub fn for_handler(mut self, handler: &str) -> Self {
        self.handler = Some(handler.to_owned());
        self
    }

    /// Selects the dead letters after this sequence, to continue after the last one of a [`list`](Self::list).
    #[must_use]
    pub fn after(mut self, sequence: u64) -> Self {
        self.after = sequence;
        self
    }

    /// Returns the oldest dead letters, at most `limit`; the list is empty if the stream does not exist.
    ///
    /// # Errors
    ///
    /// Returns an error if the server does not answer, or its answer cannot be decoded.
    ///
    /// # Cancel safety
    ///
    /// This method is cancel safe: it only reads.
    pub async fn list(&self, limit: usize) -> Result<Vec<DeadLetter>, Error> {
        let (mut letters, end) = (self.clone(), self.end().await?);
        let mut found = Vec::new();
        while found.len() < limit
            && let Some(letter) = letters.next(end).await?
        {
            found.push(letter);
        }
        Ok(found)
    }

    /// Returns the dead letter with this sequence in the stream of dead letters; `None` if it does not exist.
    ///
    /// # Errors
    ///
    /// Returns an error if the server does not answer, or its answer cannot be decoded.
    ///
    /// # Cancel safety
    ///
    /// This method is cancel safe: it only reads.
    pub async fn get(&self, sequence: u64) -> Result<Option<DeadLetter>, Error> {
        let stored = self.transport.stored(&self.stream, sequence).await?;
        Ok(stored.and_then(DeadLetter::parse).filter(|letter| self.selects(letter)))
    }

    /// Publishes the original message of a dead letter to its original subject, then deletes the dead letter.
    ///
    /// The header `Dead-Letter-Replay-Of` of the new message identifies the dead letter, as `<stream>:<sequence>`.
    /// Every queue on the subject receives the new message, not only the one whose handler failed.
    /// Headers of the original that the server processes (`Nats-Msg-Id`, `Nats-Expected-..`) are not published again.
    /// A dead letter that is replayed twice within the stream's `duplicate_window` is stored once.
    ///
    /// # Errors
    ///
    /// Returns an error if the dead letter does not exist, or no stream stores the message; the dead letter is then
    /// kept.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the message may be published and the dead letter not deleted.
    pub async fn replay(&self, sequence: u64) -> Result<PublishAck, Error> {
        let Some(letter) = self.get(sequence).await? else {
            let handler = self.handler.as_ref().map_or(String::new(), |handler| format!(" of handler `{handler}`"));
            let message = format!("stream `{}` has no dead letter {sequence}{handler}", self.stream);
            return Err(Error::new(ErrorKind::Config, message));
        };
        let mut message = letter.to_original(&self.stream);
        if letter.is_payload_omitted() {
            let original = self.transport.stored(&letter.stream, letter.stream_sequence).await?;
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

    /// Replays all dead letters stored before the call, oldest first; returns their number.
    ///
    /// # Errors
    ///
    /// Stops at the first dead letter that cannot be replayed, and returns its error; those before it are replayed.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, some dead letters are replayed, and at most one of those is not deleted.
    pub async fn replay_all(&self) -> Result<usize, Error> {
        let (mut letters, end) = (self.clone(), self.end().await?);
        let mut count = 0;
        while let Some(letter) = letters.next(end).await? {
            self.replay(letter.sequence).await?;
            count += 1;
        }
        Ok(count)
    }

    /// Deletes all dead letters stored before the call; returns their number.
    ///
    /// # Errors
    ///
    /// Returns an error if the server does not answer; some dead letters may be deleted then.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, some dead letters are deleted.
    pub async fn purge(&self) -> Result<usize, Error> {
        let (mut letters, end) = (self.clone(), self.end().await?);
        let mut count = 0;
        while let Some(letter) = letters.next(end).await? {
            count += usize::from(self.transport.delete(&self.stream, letter.sequence).await?);
        }
        Ok(count)
    }

    /// Returns an error if a stream with interest retention would discard the replayed message.
    async fn check_interest(&self, letter: &DeadLetter) -> Result<(), Error> {
        let failed = |error: ApiError| error.into_error(&format!("looking up consumers of `{}`", letter.subject));
        for name in self.transport.stream_names(&letter.subject).await.map_err(failed)? {
            let config = self.transport.stream(&name).await.map_err(failed)?;
            if config.is_some_and(|config| config.retention == RetentionPolicy::Interest) {
                let consumers = self.transport.consumers(&name).await.map_err(failed)?;
                if !consumers.iter().any(|(_, filter)| overlap(filter, &letter.subject)) {
                    let message = format!(
                        "stream `{name}` has interest retention and no consumer for `{}`, so it would discard the replayed message; start a handler for the subject first",
                        letter.subject
                    );
                    return Err(Error::new(ErrorKind::Publish, message));
                }
            }
        }
        Ok(())
    }

    /// Returns the last sequence of the stream, beyond which dead letters are ignored.
    ///
    /// They were stored after the call began, for example by a replayed message that failed again.
    async fn end(&self) -> Result<u64, Error> {
        match self.transport.last_assigned_sequence(&self.stream).await {
            Err(error) if error.kind() == ErrorKind::StreamNotFound => Ok(0),
            result => result,
        }
    }

    /// Returns the next dead letter up to the sequence `end`, and advances `after` to it.
    async fn next(&mut self, end: u64) -> Result<Option<DeadLetter>, Error> {
        while self.after < end {
            let stored = match self.transport.next_stored(&self.stream, self.after + 1).await {
                Err(error) if error.kind() == ErrorKind::StreamNotFound => None,
                result => result?,
            };
            let Some(stored) = stored.filter(|stored| stored.sequence <= end) else { break };
            self.after = stored.sequence;
            if let Some(letter) = DeadLetter::parse(stored).filter(|letter| self.selects(letter)) {
                return Ok(Some(letter));
            }
        }
        Ok(None)
    }

    fn selects(&self, letter: &DeadLetter) -> bool {
        self.handler.as_ref().is_none_or(|handler| letter.is_of(handler))
    }
}

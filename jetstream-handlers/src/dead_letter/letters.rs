//! The dead letters in a stream: listed, replayed and deleted.

use std::sync::Arc;

use bytes::Bytes;

use super::DeadLetter;
use super::parts::{Content, MAX_CONTENT};
use super::replay::Receivers;
use crate::error::{Error, ErrorKind};
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
///     // Calls only the handler that failed.
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
    pub(super) transport: Arc<Transport>,
    pub(super) stream: String,
    pub(super) handler: Option<String>,
    after: u64,
    pub(super) receivers: Receivers,
}

impl DeadLetters {
    pub(crate) fn new(transport: Arc<Transport>) -> Self {
        Self {
            stream: transport.settings().stream(DEFAULT_STREAM).into_owned(),
            transport,
            handler: None,
            after: 0,
            receivers: Receivers::FailedQueue,
        }
    }

    /// Selects the stream, for handlers whose `dead_letter` subject belongs to another stream; defaults to `DLQ`.
    #[must_use]
    pub fn stream(mut self, stream: &str) -> Self {
        self.stream = self.transport.settings().known_stream(stream).into_owned();
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

    /// Replays messages to every queue on their subject, instead of only to the one whose handler failed.
    ///
    /// Use it for a queue that was renamed, or if the other handlers are idempotent; see [`replay`](Self::replay).
    #[must_use]
    pub fn to_every_queue(mut self) -> Self {
        self.receivers = Receivers::EveryQueue;
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
        match stored.and_then(DeadLetter::parse).filter(|letter| self.selects(letter)) {
            Some(letter) => Ok(Some(self.completed(letter).await?)),
            None => Ok(None),
        }
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
            count += usize::from(self.delete(&letter).await?);
        }
        Ok(count)
    }

    /// Deletes a dead letter with its parts; returns `false` if it did not exist.
    pub(super) async fn delete(&self, letter: &DeadLetter) -> Result<bool, Error> {
        // The parts last: without them the dead letter would be incomplete.
        let existed = self.transport.delete(&self.stream, letter.sequence).await?;
        for (content, sequences) in letter.parts() {
            for sequence in sequences {
                if self.part(letter, *content, *sequence).await?.is_some() {
                    self.transport.delete(&self.stream, *sequence).await?;
                }
            }
        }
        Ok(existed)
    }

    /// Returns a dead letter with the contents that are stored in messages of their own, unless one of those is gone.
    async fn completed(&self, mut letter: DeadLetter) -> Result<DeadLetter, Error> {
        let mut contents = Vec::new();
        for (content, sequences) in letter.parts() {
            let mut bytes = Vec::new();
            for sequence in sequences {
                match self.part(&letter, *content, *sequence).await? {
                    Some(part) if bytes.len() + part.len() <= MAX_CONTENT => bytes.extend_from_slice(&part),
                    _ => return Ok(letter),
                }
            }
            contents.push((*content, bytes.into()));
        }
        letter.complete(contents);
        Ok(letter)
    }

    /// Returns a part of a dead letter; `None` if it does not exist, or does not belong to this dead letter.
    async fn part(&self, letter: &DeadLetter, content: Content, sequence: u64) -> Result<Option<Bytes>, Error> {
        let stored = self.transport.stored(&self.stream, sequence).await?;
        Ok(stored.filter(|stored| letter.part(content).is(stored)).map(|stored| stored.payload))
    }

    /// Returns the last sequence of the stream, beyond which dead letters are ignored.
    ///
    /// They were stored after the call began, for example by a replayed message that failed again.
    pub(super) async fn end(&self) -> Result<u64, Error> {
        match self.transport.last_assigned_sequence(&self.stream).await {
            Err(error) if error.kind() == ErrorKind::StreamNotFound => Ok(0),
            result => result,
        }
    }

    /// Returns the next dead letter up to the sequence `end`, and advances `after` to it.
    pub(super) async fn next(&mut self, end: u64) -> Result<Option<DeadLetter>, Error> {
        while self.after < end {
            let stored = match self.transport.next_stored(&self.stream, self.after + 1).await {
                Err(error) if error.kind() == ErrorKind::StreamNotFound => None,
                result => result?,
            };
            let Some(stored) = stored.filter(|stored| stored.sequence <= end) else { break };
            self.after = stored.sequence;
            if let Some(letter) = DeadLetter::parse(stored).filter(|letter| self.selects(letter)) {
                return Ok(Some(self.completed(letter).await?));
            }
        }
        Ok(None)
    }

    fn selects(&self, letter: &DeadLetter) -> bool {
        self.handler.as_ref().is_none_or(|handler| letter.is_of(handler))
    }
}

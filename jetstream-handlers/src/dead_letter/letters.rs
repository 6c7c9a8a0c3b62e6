//! The dead letters in a stream: listed, replayed and deleted.

#[cfg(feature = "cli")]
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};

use super::filter::Filter;
use super::groups::Grouping;
use super::pace::Pace;
use super::parts::{Content, MAX_CONTENT};
use super::reading::Reading;
use super::targets::Receivers;
use super::{DeadLetter, DeadLetterGroups};
use crate::error::{Error, ErrorKind};
use crate::outcome::Reason;
use crate::transport::Transport;

/// The default stream of dead letters; the `dead_letter` subject of a handler may belong to another one.
const DEFAULT_STREAM: &str = "DLQ";

/// The subjects of the default stream.
const DEFAULT_SUBJECT: &str = "dlq.>";

/// The maximum number of handlers that are counted apart.
#[cfg(feature = "cli")]
const MAX_HANDLERS: usize = 1000;

/// The name under which those of further handlers are counted.
#[cfg(feature = "cli")]
const OTHER_HANDLERS: &str = "others";

/// The dead letters in a stream, or those of them that meet all conditions.
///
/// The conditions, such as [`for_handler`](Self::for_handler), [`reason`](Self::reason) and [`since`](Self::since), apply
/// to every method: what is listed, counted and grouped is what is replayed, deleted and exported.
/// Dead letters are read as a stream of pages, so that a million of them take no more memory than a few.
///
/// [`dead_letters`](mod@crate::dead_letters) describes the work with many of them.
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
    pub(super) filter: Filter,
    pub(super) after: u64,
    /// The last sequence, if it was determined before.
    pub(super) up_to: Option<u64>,
    pub(super) rate: Option<u32>,
    pub(super) receivers: Receivers,
}

impl DeadLetters {
    pub(crate) fn new(transport: Arc<Transport>) -> Self {
        Self {
            stream: transport.settings().stream(DEFAULT_STREAM).into_owned(),
            transport,
            filter: Filter::default(),
            after: 0,
            up_to: None,
            rate: None,
            receivers: Receivers::FailedQueue,
        }
    }

    /// Selects the stream, for handlers whose `dead_letter` subject belongs to another stream; defaults to `DLQ`.
    #[must_use]
    pub fn stream(mut self, stream: &str) -> Self {
        self.stream = self.transport.settings().known_stream(stream).into_owned();
        self
    }

    /// Returns an error if the selected stream does not exist, except for the default one, which is created with the first
    /// dead letter.
    #[cfg(feature = "cli")]
    pub(crate) async fn in_existing(self) -> Result<Self, Error> {
        let found = self.transport.stream(&self.stream).await;
        let found = found.map_err(|error| error.into_error(&format!("reading stream `{}`", self.stream)))?;
        if found.is_some() || self.is_default() { Ok(self) } else { Err(self.no_stream()) }
    }

    /// Returns `true` if the default stream is selected.
    pub(super) fn is_default(&self) -> bool {
        self.stream == self.transport.settings().stream(DEFAULT_STREAM)
    }

    /// Returns the error for a selected stream that does not exist.
    pub(super) fn no_stream(&self) -> Error {
        let text = format!("stream `{}` of dead letters does not exist; correct its name", self.stream);
        Error::new(ErrorKind::StreamNotFound, text)
    }

    /// Selects the dead letters of one handler, by the name of its function, the end of its full path, the
    /// [name](crate::Subscribe::name) of a closure, or its queue.
    #[must_use]
    pub fn for_handler(mut self, handler: &str) -> Self {
        self.filter.handler = Some(handler.to_owned());
        self
    }

    /// Selects the dead letters with this class of failure.
    #[must_use]
    pub fn reason(mut self, reason: Reason) -> Self {
        self.filter.reason = Some(reason);
        self
    }

    /// Selects the dead letters whose error contains this text.
    #[must_use]
    pub fn error_contains(mut self, text: &str) -> Self {
        self.filter.error = Some(text.to_owned());
        self
    }

    /// Selects the dead letters of a group, by its [`id`](crate::DeadLetterGroup::id).
    #[must_use]
    pub fn in_group(mut self, id: &str) -> Self {
        self.filter.group = Some(id.to_owned());
        self
    }

    /// Selects the dead letters that were stored at this time or later.
    ///
    /// Those before are not read, apart from a few that show where to begin.
    #[must_use]
    pub fn since(mut self, time: SystemTime) -> Self {
        self.filter.since = Some(time);
        self
    }

    /// Selects the dead letters that were stored before this time.
    #[must_use]
    pub fn until(mut self, time: SystemTime) -> Self {
        self.filter.until = Some(time);
        self
    }

    /// Selects the dead letters of messages on a subject, which may have the wildcards `*` and `>`; with the
    /// [prefix](crate::Builder::subject_prefix) of an environment, it is declared without.
    #[must_use]
    pub fn subject(mut self, subject: &str) -> Self {
        self.filter.subject = Some(self.transport.settings().subject(subject).into_owned());
        self
    }

    /// Limits [`replay_all`](Self::replay_all) and [`purge`](Self::purge) to this many dead letters per second, to spare the
    /// handlers, or the server; unlimited by default.
    ///
    /// Zero is refused by these methods.
    #[must_use]
    pub fn rate(mut self, per_second: u32) -> Self {
        self.rate = Some(per_second);
        self
    }

    /// Selects the dead letters after this sequence, to continue after the last one of a [`list`](Self::list).
    #[must_use]
    pub fn after(mut self, sequence: u64) -> Self {
        self.after = sequence;
        self
    }

    /// Selects the dead letters that are stored now, so that those stored between a [`count`](Self::count) and a
    /// [`replay_all`](Self::replay_all) or [`purge`](Self::purge) are not replayed or deleted uncounted.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # async fn delete(broker: jetstream_handlers::Broker) -> Result<(), jetstream_handlers::Error> {
    /// let letters = broker.dead_letters().for_handler("process_order").up_to_now().await?;
    /// println!("{} dead letters are deleted", letters.count().await?);
    /// letters.purge().await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns an error if the server does not answer.
    ///
    /// # Cancel safety
    ///
    /// This method is cancel safe: it only reads.
    pub async fn up_to_now(mut self) -> Result<Self, Error> {
        self.up_to = Some(self.end().await?);
        Ok(self)
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
        let mut reading = self.reading().await?;
        let mut found = Vec::new();
        while found.len() < limit
            && let Some(letter) = reading.next().await?
        {
            found.push(self.completed(letter).await?);
        }
        Ok(found)
    }

    /// Returns the number of dead letters.
    ///
    /// All of them are read, because parts of large ones do not count.
    ///
    /// # Errors
    ///
    /// Returns the errors of [`list`](Self::list).
    ///
    /// # Cancel safety
    ///
    /// This method is cancel safe: it only reads.
    pub async fn count(&self) -> Result<u64, Error> {
        let mut reading = self.reading().await?;
        let mut count = 0;
        while reading.next().await?.is_some() {
            count += 1;
        }
        Ok(count)
    }

    /// Returns the number of dead letters of each handler, by its full name.
    #[cfg(feature = "cli")]
    pub(crate) async fn count_by_handler(&self) -> Result<BTreeMap<String, u64>, Error> {
        let mut reading = self.reading().await?;
        let mut counts = BTreeMap::new();
        while let Some(letter) = reading.next().await? {
            // A forged dead letter can name any handler.
            let is_full = counts.len() >= MAX_HANDLERS && !counts.contains_key(&letter.handler);
            let handler = if is_full { OTHER_HANDLERS.to_owned() } else { letter.handler };
            *counts.entry(handler).or_default() += 1;
        }
        Ok(counts)
    }

    /// Returns the dead letters in groups of the same handler, reason and error, apart from the values in the error.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # async fn show(broker: jetstream_handlers::Broker) -> Result<(), jetstream_handlers::Error> {
    /// for group in broker.dead_letters().groups().await?.groups {
    ///     println!("{} times {}: {}", group.count, group.handler, group.error);
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns the errors of [`list`](Self::list).
    ///
    /// # Cancel safety
    ///
    /// This method is cancel safe: it only reads.
    pub async fn groups(&self) -> Result<DeadLetterGroups, Error> {
        let mut reading = self.reading().await?;
        let mut groups = Grouping::default();
        while let Some(letter) = reading.next().await? {
            groups.add(&letter);
        }
        Ok(groups.into_groups())
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
        match stored.and_then(DeadLetter::parse).filter(|letter| self.filter.selects(letter)) {
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
        let (mut reading, mut pace) = (self.reading().await?, Pace::new(self.rate)?);
        let mut count = 0;
        loop {
            let mut page = Vec::new();
            while page.len() < pace.at_once()
                && let Some(letter) = reading.next().await?
            {
                page.push(letter);
            }
            if page.is_empty() {
                return Ok(count);
            }
            pace.next().await;
            count += self.delete_page(&page).await?;
        }
    }

    /// Deletes these dead letters at the [`rate`](Self::rate); returns the number of those that existed.
    #[cfg(feature = "cli")]
    pub(crate) async fn delete_each(&self, letters: &[DeadLetter]) -> Result<usize, Error> {
        let mut pace = Pace::new(self.rate)?;
        let mut count = 0;
        for page in letters.chunks(pace.at_once()) {
            pace.next().await;
            count += self.delete_page(page).await?;
        }
        Ok(count)
    }

    /// Deletes dead letters at the same time; returns the number of those that existed.
    async fn delete_page(&self, page: &[DeadLetter]) -> Result<usize, Error> {
        let deleted = futures::stream::iter(page).map(|letter| self.delete_letter(letter)).buffer_unordered(page.len());
        let deleted: Vec<bool> = deleted.try_collect().await?;
        Ok(deleted.into_iter().filter(|existed| *existed).count())
    }

    /// Deletes the dead letter with this sequence; returns `false` if it did not exist.
    ///
    /// # Errors
    ///
    /// Returns an error if the server does not answer, or refuses it, as a stream with `deny_delete` does.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the dead letter is deleted or not.
    pub async fn delete(&self, sequence: u64) -> Result<bool, Error> {
        match self.get(sequence).await? {
            Some(letter) => self.delete_letter(&letter).await,
            None => Ok(false),
        }
    }

    /// Deletes a dead letter with its parts; returns `false` if it did not exist.
    pub(super) async fn delete_letter(&self, letter: &DeadLetter) -> Result<bool, Error> {
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
    pub(super) async fn completed(&self, mut letter: DeadLetter) -> Result<DeadLetter, Error> {
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
        if let Some(up_to) = self.up_to {
            return Ok(up_to);
        }
        match self.transport.last_assigned_sequence(&self.stream).await {
            Err(error) if error.kind() == ErrorKind::StreamNotFound => Ok(0),
            result => result,
        }
    }

    /// Begins to read the selected dead letters, from the oldest on.
    pub(super) async fn reading(&self) -> Result<Reading<'_>, Error> {
        Reading::begin(self).await
    }

    /// Returns the subjects of the stream, if it is created.
    pub(super) fn default_subject(&self) -> String {
        self.transport.settings().subject(DEFAULT_SUBJECT).into_owned()
    }
}

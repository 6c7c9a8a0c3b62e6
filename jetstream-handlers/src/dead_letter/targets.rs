//! The streams and queues of replayed messages, and the checks that a replay reaches them.

use std::collections::HashMap;
use std::time::Duration;

use async_nats::jetstream::stream::{self, RetentionPolicy};
use tokio::time::Instant;

use super::{DeadLetter, DeadLetters};
use crate::delivery::filters;
use crate::error::api::ApiError;
use crate::error::{Error, ErrorKind};
use crate::partition::{derived_stream, queue_of_partition};
use crate::spelling;
use crate::subject::{covers, overlap};

/// The queues that handle a replayed message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Receivers {
    /// Only the queue whose handler failed; other handlers of this crate acknowledge it without a call.
    FailedQueue,
    EveryQueue,
}

/// The time for which what was read from the server is taken as it was.
///
/// A second saves most requests of a fast replay, and a slow one notices changes.
pub(super) const MAX_AGE: Duration = Duration::from_secs(1);

/// The streams and queues that the replays of one call have read from the server.
///
/// A stream or a queue that does not exist is not kept, so that forged dead letters take no memory.
pub(super) struct Targets<'a> {
    letters: &'a DeadLetters,
    streams: HashMap<String, (Instant, stream::Config)>,
    /// The subjects of each queue, by its stream and its name.
    queues: HashMap<(String, String), (Instant, Vec<String>)>,
    /// `true` if a read value was used since the last [`forget`](Self::forget).
    has_reused: bool,
}

impl<'a> Targets<'a> {
    pub(super) fn new(letters: &'a DeadLetters) -> Self {
        Self { letters, streams: HashMap::new(), queues: HashMap::new(), has_reused: false }
    }

    /// Forgets what was read, if something of it was used again since the last call; returns `true` then.
    pub(super) fn forget(&mut self) -> bool {
        let has_reused = std::mem::take(&mut self.has_reused);
        if has_reused {
            self.streams.clear();
            self.queues.clear();
        }
        has_reused
    }

    /// Checks that a dead letter can be replayed, and returns the stream that will store the message.
    pub(super) async fn of(&mut self, letter: &DeadLetter) -> Result<stream::Config, Error> {
        let about = format!("dead letter {} cannot be replayed", letter.sequence);
        self.letters
            .check_contents(letter)
            .map_err(|problem| Error::new(ErrorKind::Config, format!("{about}: {problem}")))?;
        let target = self.target(letter).await.map_err(|error| error.about(&about))?;
        match self.letters.receivers {
            Receivers::FailedQueue => self.check_queue(letter).await,
            Receivers::EveryQueue => self.check_interest(&target, letter).await,
        }
        .map_err(|error| error.about(&about))?;
        Ok(target)
    }

    /// Returns the setting by which the stream of the dead letters denies deletes.
    pub(super) async fn denies_deletes(&mut self) -> Result<Option<&'static str>, Error> {
        let config = self.stream(&self.letters.stream).await?;
        Ok(config.and_then(|config| match config {
            stream::Config { sealed: true, .. } => Some("sealed"),
            stream::Config { deny_delete: true, .. } => Some("deny_delete"),
            _ => None,
        }))
    }

    /// Returns the stream that stores the subject of a dead letter: the one that the letter names, or one of which that
    /// is a mirror or an aggregate.
    async fn target(&mut self, letter: &DeadLetter) -> Result<stream::Config, Error> {
        let DeadLetter { stream: name, subject, .. } = letter;
        let Some(config) = self.stream(name).await? else {
            let text = format!("its stream `{name}` does not exist, and a replay does not create it");
            return Err(Error::new(ErrorKind::StreamNotFound, text));
        };
        if stores(&config, subject) {
            return Ok(config);
        }
        // Streams of another account or domain cannot be read here.
        let origins = config.mirror.iter().chain(config.sources.iter().flatten());
        for origin in origins.filter(|origin| origin.external.is_none() && origin.domain.is_none()) {
            if let Some(config) = self.stream(&origin.name).await?.filter(|config| stores(config, subject)) {
                return Ok(config);
            }
        }
        let text = format!("its stream `{name}` does not store subject `{subject}`, but {:?}", config.subjects);
        Err(Error::new(ErrorKind::StreamMismatch, text))
    }

    async fn stream(&mut self, name: &str) -> Result<Option<stream::Config>, Error> {
        if let Some((_, config)) = self.streams.get(name).filter(|(read, _)| read.elapsed() < MAX_AGE) {
            self.has_reused = true;
            return Ok(Some(config.clone()));
        }
        let read = Instant::now();
        let config = self.letters.transport.stream(name).await;
        let config = config.map_err(|error| error.into_error(&format!("reading stream `{name}`")))?;
        if let Some(config) = &config {
            self.streams.insert(name.to_owned(), (read, config.clone()));
        }
        Ok(config)
    }

    /// Returns the subjects of a queue; `None` if it does not exist.
    async fn queue(&mut self, stream: &str, queue: &str) -> Result<Option<Vec<String>>, Error> {
        let key = (stream.to_owned(), queue.to_owned());
        if let Some((_, subjects)) = self.queues.get(&key).filter(|(read, _)| read.elapsed() < MAX_AGE) {
            self.has_reused = true;
            return Ok(Some(subjects.clone()));
        }
        let read = Instant::now();
        let failed = |error: ApiError| error.into_error(&format!("reading consumer `{queue}` of stream `{stream}`"));
        let Some(found) = self.letters.transport.consumer(stream, queue).await.map_err(failed)? else {
            return Ok(None);
        };
        let subjects: Vec<_> = filters(&found.config).iter().map(|filter| (*filter).to_owned()).collect();
        self.queues.insert(key, (read, subjects.clone()));
        Ok(Some(subjects))
    }

    /// Returns an error if no handler would be called for the replayed message, which others acknowledge.
    async fn check_queue(&mut self, letter: &DeadLetter) -> Result<(), Error> {
        let DeadLetter { stream, consumer, subject, .. } = letter;
        let why = match self.queue(stream, consumer).await? {
            None if self.receives_copy(letter).await? => return Ok(()),
            None => "does not exist".to_owned(),
            Some(subjects) if subjects.iter().any(|filter| covers(filter, subject)) => return Ok(()),
            Some(_) => format!("does not receive subject `{subject}`"),
        };
        let text = format!(
            "the queue `{consumer}` on stream `{stream}` {why}, so nothing would handle it; start its handler first, or replay it with `to_every_queue`"
        );
        Err(Error::new(ErrorKind::ConsumerMismatch, text))
    }

    /// Returns `true` if the queue is a partition in a stream that is derived from that of the message.
    async fn receives_copy(
        &mut self,
        DeadLetter { stream, consumer, subject, .. }: &DeadLetter,
    ) -> Result<bool, Error> {
        let Some(queue) = queue_of_partition(consumer) else { return Ok(false) };
        let derived = derived_stream(stream, queue);
        let Some(config) = self.stream(&derived).await? else { return Ok(false) };
        let sources = config.sources.iter().flatten().filter(|source| source.name == *stream);
        let copies = sources.flat_map(|it| &it.subject_transforms).any(|it| covers(&it.source, subject));
        Ok(copies && self.queue(&derived, consumer).await?.is_some())
    }

    /// Returns an error if a stream with interest retention would discard the replayed message.
    async fn check_interest(&self, target: &stream::Config, letter: &DeadLetter) -> Result<(), Error> {
        if target.retention != RetentionPolicy::Interest {
            return Ok(());
        }
        let (name, subject) = (&target.name, &letter.subject);
        let failed = |error: ApiError| error.into_error(&format!("looking up consumers of `{subject}`"));
        let consumers = self.letters.transport.consumers(name).await.map_err(failed)?;
        if consumers.iter().any(|(_, filter)| overlap(filter, subject)) {
            return Ok(());
        }
        let text = format!(
            "stream `{name}` has interest retention and no consumer for `{subject}`, so it would discard the replayed message; start a handler for the subject first"
        );
        Err(Error::new(ErrorKind::ConsumerMismatch, text))
    }
}

impl DeadLetters {
    /// Checks that a dead letter is complete, and the names in it, which become part of subjects.
    fn check_contents(&self, letter: &DeadLetter) -> Result<(), String> {
        if !letter.is_complete() {
            let stream = &self.stream;
            return Err(format!("a message of stream `{stream}` with a part of its payload or headers is gone"));
        }
        let subject = &letter.subject;
        let problem = spelling::publish_subject_problem(subject).or_else(|| {
            // The messages of such a subject are the answers to requests of other clients.
            let is_inbox = subject.starts_with("_INBOX") || covers(&self.transport.inboxes(), subject);
            is_inbox.then(|| format!("subject `{subject}` is an inbox, to which nothing but an answer is published"))
        });
        let of_stream = || spelling::name_problem(&letter.stream).map(|problem| format!("its stream: {problem}"));
        let of_queue = || spelling::name_problem(&letter.consumer).map(|problem| format!("its queue: {problem}"));
        match problem.or_else(of_stream).or_else(of_queue) {
            Some(problem) => Err(problem),
            None => Ok(()),
        }
    }
}

/// Returns `true` if a stream stores what is published to `subject`.
fn stores(config: &stream::Config, subject: &str) -> bool {
    config.subjects.iter().any(|own| covers(own, subject))
}

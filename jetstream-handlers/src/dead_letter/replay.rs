//! Replaying dead letters: publishing their original messages again.
//!
//! A dead letter is input, because everyone who may publish to its subject can store one.
//! It therefore decides nothing that its reader could not do, and nothing about streams other than its own.

use std::collections::BTreeSet;
use std::time::UNIX_EPOCH;

use async_nats::HeaderMap;
use async_nats::header;
use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::stream;
use bytes::Bytes;
use serde::de::IgnoredAny;

use super::draft::PREFIX;
use super::pace::Pace;
use super::reading::Reading;
use super::store::is_same;
use super::targets::{MAX_AGE, Receivers, Targets};
use super::{DeadLetter, DeadLetters, ReplayReport};
use crate::error::{Error, ErrorKind};
use crate::message::replayed::{MESSAGE_ID, REPLAY_FOR, REPLAY_OF, replay_id, unguessable_replay_id};
use crate::message::reserved::MARKER_REASON;
use crate::message::{Outgoing, header_block};
use crate::publish::{MissingStream, publish_copy, publish_guessable};

/// The header with the format of a payload.
const CONTENT_TYPE: &str = "Content-Type";

/// The action on each dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Attempt {
    Replay,
    /// The check of everything but the publish.
    Check,
}

impl DeadLetters {
    /// Publishes the original message of a dead letter to its original subject again, then deletes the dead letter.
    ///
    /// Only the handler that failed is called: other queues on the subject have handled the message before, and a
    /// second call could book or ship it twice.
    /// Their handlers acknowledge the replayed message without a call, by its header `Dead-Letter-Replay-For`.
    /// Consumers that do not use this crate receive it, because it is stored in the same stream.
    /// [`to_every_queue`](Self::to_every_queue) replays it to all.
    ///
    /// The new message has these headers:
    ///
    /// | header | value |
    /// |---|---|
    /// | `Dead-Letter-Replay-Of` | the dead letter, as `<stream>:<sequence>` |
    /// | `Dead-Letter-Replay-For` | the only queue that handles it, as `<stream>.<queue>` |
    /// | `Dead-Letter-Message-Id` | the key of the original message, which [`Message::idempotency_key`](crate::Message::idempotency_key) returns |
    ///
    /// The first two are left out if the message is almost as large as its stream accepts.
    /// Headers of the original that the server processes (`Nats-Msg-Id`, `Nats-Expected-..`) are not published again.
    /// A delete marker (ADR-43) remains one: it keeps `Nats-Marker-Reason`, and expires after the
    /// `subject_delete_marker_ttl` of its stream.
    /// A dead letter that is replayed twice within the stream's `duplicate_window` is stored once, as after a crash
    /// between the publish and the deletion.
    /// The message id by which the stream knows it is no proof, because a client that can read the dead letter can publish
    /// another message with it: the message is compared, and if it is another one, the replay is stored under another
    /// id.
    ///
    /// A stream that denies deletes (`deny_delete`) keeps the dead letter, and a warning is logged.
    ///
    /// # Security
    ///
    /// Everyone who may publish to the subject of the dead letters (`dlq.>`) can store a dead letter with any content.
    /// A replay of it can only do this: store a message on a subject of an existing stream, which the dead letter
    /// names, and which [`publish`](crate::Publisher::publish) would accept.
    /// Restrict who may publish to `dlq.>` as you restrict who may publish to the original subjects.
    ///
    /// # Errors
    ///
    /// The dead letter is kept if any of these is returned, unless the text states that it was replayed:
    ///
    /// | kind | reason |
    /// |---|---|
    /// | [`Config`](ErrorKind::Config) | the dead letter does not exist or is incomplete, or its subject is not one to publish to |
    /// | [`StreamNotFound`](ErrorKind::StreamNotFound) | the stream of the original message does not exist; none is created |
    /// | [`StreamMismatch`](ErrorKind::StreamMismatch) | that stream does not store the subject |
    /// | [`ConsumerMismatch`](ErrorKind::ConsumerMismatch) | the queue does not exist or does not receive the subject, so nothing would handle the message |
    /// | [`PayloadTooLarge`](ErrorKind::PayloadTooLarge) | the original message leaves no space for the headers of a replay; raise the limit, or publish it by hand |
    /// | [`Duplicate`](ErrorKind::Duplicate) | the stream had a message with the id of the replay, and it is gone, as a handled one is from a work queue: either the dead letter was replayed before and handled, or it was another message |
    ///
    /// Other kinds are those of a [`publish`](crate::Publisher::publish).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the message may be published and the dead letter not deleted.
    pub async fn replay(&self, sequence: u64) -> Result<PublishAck, Error> {
        let letter = self.existing(sequence).await?;
        Ok(self.replay_letter(&letter, &mut Targets::new(self)).await?.0)
    }

    /// Replays a dead letter with another payload, as [`replay`](Self::replay) does.
    ///
    /// The message keeps its headers but for `Content-Encoding`, because the payload is taken as it is: a JSON text for a
    /// handler that takes JSON.
    /// It keeps the [idempotency key](DeadLetter::idempotency_key) too: a handler that stores the keys of what it has handled
    /// ignores the message if it handled it before.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # async fn replay(broker: jetstream_handlers::Broker) -> Result<(), jetstream_handlers::Error> {
    /// let letters = broker.dead_letters();
    /// letters.replay_with(7, r#"{"id": 7, "currency": "EUR"}"#).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns the errors of [`replay`](Self::replay), and [`Config`](ErrorKind::Config) if the header `Content-Type` of
    /// the message names JSON and the payload is not JSON. Whether the handler can decode it is not checked: if it
    /// cannot, the message becomes a dead letter again.
    ///
    /// # Cancel safety
    ///
    /// The same as for [`replay`](Self::replay).
    pub async fn replay_with(&self, sequence: u64, payload: impl Into<Bytes>) -> Result<PublishAck, Error> {
        let letter = self.existing(sequence).await?.with_payload(payload.into())?;
        Ok(self.replay_letter(&letter, &mut Targets::new(self)).await?.0)
    }

    /// Replays or checks these dead letters, which were just read, at the [`rate`](Self::rate).
    ///
    /// Unlike [`replay_all`](Self::replay_all), it replays those that their stream keeps.
    #[cfg(feature = "cli")]
    pub(crate) async fn replay_each(&self, letters: &[DeadLetter], attempt: Attempt) -> Result<ReplayReport, Error> {
        let (mut pace, mut targets) = (Pace::new(self.rate)?, Targets::new(self));
        let mut report = ReplayReport { is_dry_run: attempt == Attempt::Check, ..ReplayReport::default() };
        for letter in letters {
            let kept_by = match attempt {
                Attempt::Replay => {
                    pace.next().await;
                    self.replay_letter(letter, &mut targets).await.map(|(_, kept_by)| kept_by)
                }
                Attempt::Check => match self.check_letter(letter, &mut targets).await {
                    Ok(()) => targets.denies_deletes().await,
                    Err(error) => Err(error),
                },
            };
            match kept_by {
                Ok(kept_by) => {
                    report.replayed += 1;
                    report.undeleted += usize::from(kept_by.is_some());
                }
                Err(error) if error.kind() == ErrorKind::Closed => return Err(error),
                Err(error) => report.keep(letter.sequence, error),
            }
        }
        Ok(report)
    }

    async fn existing(&self, sequence: u64) -> Result<DeadLetter, Error> {
        self.get(sequence).await?.ok_or_else(|| self.missing(sequence))
    }

    /// Returns the error for a dead letter that does not exist.
    pub(crate) fn missing(&self, sequence: u64) -> Error {
        let text = format!("stream `{}` has no dead letter {sequence}{}", self.stream, self.filter);
        Error::new(ErrorKind::Config, text)
    }

    /// Replays a dead letter; also returns the setting by which its stream keeps it.
    async fn replay_letter(
        &self,
        letter: &DeadLetter,
        targets: &mut Targets<'_>,
    ) -> Result<(PublishAck, Option<&'static str>), Error> {
        let sequence = letter.sequence;
        let kept_by = targets.denies_deletes().await?;
        let ack = self.publish_original(letter, targets).await?;
        if let Some(setting) = kept_by {
            tracing::warn!(
                stream = self.stream,
                sequence,
                "the dead letter was replayed and is kept, because its stream denies deletes (`{setting}`)"
            );
            return Ok((ack, kept_by));
        }
        self.delete_letter(letter).await.map_err(|error| {
            let text = format!(
                "dead letter {sequence} was replayed as message {} of stream `{}`, but not deleted; delete it, because the next replay publishes it again",
                ack.sequence, ack.stream
            );
            Error::new(error.kind(), text).with_source(error)
        })?;
        Ok((ack, kept_by))
    }

    /// Replays all dead letters stored before the call, oldest first, as [`replay`](Self::replay) does.
    ///
    /// A dead letter that cannot be replayed is kept and reported, and those after it are replayed.
    /// If a stream does not answer, its other dead letters are kept without waiting for it again.
    /// The answers of the server about streams, queues and dead letters are used for at most one second, and read again
    /// if a replay fails.
    /// All dead letters of a stream that denies deletes are kept, because every call would replay them again; replay
    /// them one by one.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # async fn replay(broker: jetstream_handlers::Broker) -> Result<(), jetstream_handlers::Error> {
    /// let report = broker.dead_letters().for_handler("process_order").replay_all().await?;
    /// println!("{report}");
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns an error if the dead letters cannot be read, or the broker is disconnected; some are replayed then.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, some dead letters are replayed, and at most one of those is not deleted.
    pub async fn replay_all(&self) -> Result<ReplayReport, Error> {
        self.for_each_replay(Attempt::Replay).await
    }

    /// Finds out what [`replay_all`](Self::replay_all) would replay and what it would keep, and changes nothing.
    ///
    /// Everything is checked but the publish itself, which the stream of the original message may still refuse.
    ///
    /// # Errors
    ///
    /// Returns an error if the dead letters cannot be read.
    ///
    /// # Cancel safety
    ///
    /// This method is cancel safe: it only reads.
    pub async fn dry_run(&self) -> Result<ReplayReport, Error> {
        self.for_each_replay(Attempt::Check).await
    }

    async fn for_each_replay(&self, attempt: Attempt) -> Result<ReplayReport, Error> {
        let (mut reading, mut pace, mut targets) = (self.reading().await?, Pace::new(self.rate)?, Targets::new(self));
        let denied = if reading.is_empty() { None } else { targets.denies_deletes().await? };
        let mut report = ReplayReport { is_dry_run: attempt == Attempt::Check, ..ReplayReport::default() };
        let mut silent = BTreeSet::new();
        while let Some(letter) = reading.next().await? {
            let (sequence, stream) = (letter.sequence, letter.stream.clone());
            let result = if let Some(setting) = denied {
                Err(self.undeletable(setting))
            } else if silent.contains(&stream) {
                Err(Error::new(ErrorKind::Timeout, format!("its stream `{stream}` did not answer before")))
            } else {
                if attempt == Attempt::Replay {
                    pace.next().await;
                }
                let Some(letter) = self.current(&reading, letter).await? else { continue };
                match attempt {
                    Attempt::Replay => self.replay_letter(&letter, &mut targets).await.map(drop),
                    Attempt::Check => self.check_letter(&letter, &mut targets).await,
                }
            };
            match result {
                Ok(()) => report.replayed += 1,
                Err(error) if error.kind() == ErrorKind::Closed => return Err(error),
                Err(error) => {
                    if error.kind() == ErrorKind::Timeout {
                        silent.insert(stream);
                    }
                    report.keep(sequence, error);
                }
            }
        }
        Ok(report)
    }

    /// Returns a dead letter with all its contents; `None` if it was replayed or deleted since it was read.
    async fn current(&self, reading: &Reading<'_>, letter: DeadLetter) -> Result<Option<DeadLetter>, Error> {
        match reading.age() < MAX_AGE {
            true => self.completed(letter).await.map(Some),
            false => self.get(letter.sequence).await,
        }
    }

    fn undeletable(&self, setting: &str) -> Error {
        let text = format!(
            "stream `{}` denies deletes (`{setting}`), so every `replay_all` would replay it again; use `replay`",
            self.stream
        );
        Error::new(ErrorKind::Config, text)
    }

    /// Checks that a dead letter can be replayed; if it seems not, by what its stream and its queue are now.
    async fn check_letter(&self, letter: &DeadLetter, targets: &mut Targets<'_>) -> Result<(), Error> {
        match targets.of(letter).await {
            Err(error) if is_outdated(&error, targets) => targets.of(letter).await.map(drop),
            result => result.map(drop),
        }
    }

    /// Publishes the original message of a dead letter; if that fails, by what its stream and its queue are now.
    async fn publish_original(&self, letter: &DeadLetter, targets: &mut Targets<'_>) -> Result<PublishAck, Error> {
        match self.publish_once(letter, targets).await {
            // The message id is the same, so that it is stored once.
            Err(error) if is_outdated(&error, targets) => self.publish_once(letter, targets).await,
            result => result,
        }
    }

    async fn publish_once(&self, letter: &DeadLetter, targets: &mut Targets<'_>) -> Result<PublishAck, Error> {
        let about = format!("dead letter {} cannot be replayed", letter.sequence);
        let target = targets.of(letter).await?;
        let original = self.original(letter, &target);
        let ack = publish_guessable(&self.transport, original.clone(), MissingStream::Awaited).await?;
        if !ack.duplicate {
            return Ok(ack);
        }
        match self.compare(&ack, &original).await.map_err(|error| error.about(&about))? {
            KnownId::OfThisReplay => Ok(ack),
            KnownId::OfAnother => publish_copy(&self.transport, renamed(original), MissingStream::Awaited).await,
        }
    }

    /// Returns the original message, to be published again to the stream `target`.
    fn original(&self, letter: &DeadLetter, target: &stream::Config) -> Outgoing {
        let mut headers = HeaderMap::new();
        for (name, values) in letter.headers.iter().filter(|(name, _)| !AsRef::<str>::as_ref(*name).starts_with(PREFIX))
        {
            values.iter().for_each(|value| headers.append(name.clone(), value.clone()));
        }
        let only = match self.receivers {
            Receivers::FailedQueue => Some(format!("{}.{}", letter.stream, letter.consumer)),
            Receivers::EveryQueue => None,
        };
        let stored_at = letter.stored_at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
        let id = replay_id(&self.stream, letter.sequence, stored_at, only.as_deref());
        headers.insert(header::NATS_MESSAGE_ID, id);
        headers.insert(MESSAGE_ID, letter.idempotency_key());
        // Without this header, a handler would take the empty payload for a value.
        if let Some(reason) = letter.header(MARKER_REASON).filter(|_| letter.payload.is_empty()) {
            headers.insert(MARKER_REASON, reason);
            if let Some(ttl) = target.subject_delete_marker_ttl {
                headers.insert(header::NATS_MESSAGE_TTL, ttl.as_secs().max(1).to_string());
            }
        }
        let payload = letter.payload.clone();
        let smallest = Outgoing { subject: letter.subject.clone().into(), pattern: None, payload, headers };
        let mut message = smallest.clone();
        message.headers.insert(header::NATS_EXPECTED_STREAM, target.name.as_str());
        message.headers.insert(REPLAY_OF, format!("{}:{}", self.stream, letter.sequence));
        if let Some(only) = only {
            message.headers.insert(REPLAY_FOR, only);
        }
        // What the message id shows as well is left out of a message that is almost as large as its stream accepts.
        if self.fits(&message, target) { message } else { smallest }
    }

    /// Returns `true` if a message is within the limits of the server and of its stream.
    fn fits(&self, message: &Outgoing, target: &stream::Config) -> bool {
        let of_stream = usize::try_from(target.max_message_size).ok().filter(|limit| *limit > 0);
        message.header_size() <= header_block::MAX_SIZE
            && message.size() <= self.transport.max_payload().min(of_stream.unwrap_or(usize::MAX))
    }

    /// Compares the message for whose duplicate the stream took a replay.
    ///
    /// The id of a replay can be computed by a client that can read the dead letter, and the stream may have another message
    /// with it. Returns an error if the message is gone: it may have been the replay, which was handled, or another.
    async fn compare(&self, ack: &PublishAck, replay: &Outgoing) -> Result<KnownId, Error> {
        let PublishAck { stream, sequence, .. } = ack;
        match self.transport.stored(stream, *sequence).await? {
            // All headers count: one of the server, such as a TTL, could remove the message before it is handled.
            Some(stored) if stored.subject == replay.subject && is_same(&stored, replay, &[]) => {
                Ok(KnownId::OfThisReplay)
            }
            Some(_) => Ok(KnownId::OfAnother),
            None => {
                let text = format!(
                    "message {sequence} of stream `{stream}` had its message id and is gone: either the dead letter was replayed before and handled, or somebody published another message with this id; find out whether it was handled, then delete it, or replay it after the stream's `duplicate_window`"
                );
                Err(Error::new(ErrorKind::Duplicate, text))
            }
        }
    }
}

impl DeadLetter {
    /// Returns the dead letter with another payload, which must be JSON if its header `Content-Type` names that.
    pub(crate) fn with_payload(mut self, payload: Bytes) -> Result<Self, Error> {
        let content = self.header(CONTENT_TYPE).unwrap_or_default();
        let is_json = content.to_ascii_lowercase().contains("json");
        if is_json && let Err(error) = serde_json::from_slice::<IgnoredAny>(&payload) {
            let text = format!(
                "dead letter {} cannot be replayed: its `{CONTENT_TYPE}` is `{content}`, but the new payload is not JSON: {error}",
                self.sequence
            );
            return Err(Error::new(ErrorKind::Config, text));
        }
        self.set_payload(payload);
        Ok(self)
    }
}

/// Returns `true` if an error may be due to what was read before, which is forgotten.
fn is_outdated(error: &Error, targets: &mut Targets<'_>) -> bool {
    targets.forget() && !matches!(error.kind(), ErrorKind::Timeout | ErrorKind::Closed)
}

/// The message that has the id of a replay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum KnownId {
    OfThisReplay,
    OfAnother,
}

/// Returns a replay with a random id.
fn renamed(mut replay: Outgoing) -> Outgoing {
    let id = unguessable_replay_id(replay.header(header::NATS_MESSAGE_ID).unwrap_or_default());
    replay.headers.insert(header::NATS_MESSAGE_ID, id);
    replay
}

//! The in-memory server: its streams, and the requests that it answers.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::SystemTime;

use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::{ErrorCode, consumer as nats_consumer, stream as nats_stream};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::Faults;
use super::announcements::Board;
use super::consumer::Consumer;
use super::copies::{copy, has_unsupported_transform};
use super::refusal::{Refusal, refusal};
use super::stream::Stream;
use crate::delivery::{Binding, ConsumerCounts, FoundConsumer, Isolation, Record, StreamCopies, StreamSubjects};
use crate::error::{Error, ErrorKind};
use crate::message::refusal::{batch_refused, closed, ingest_refused, refused};
use crate::message::{Info, Outgoing, PublishFailure, Stored};
use crate::settings::Settings;
use crate::subject::overlap;
use crate::sync::lock;

/// The default `max_payload` of nats-server.
const MAX_PAYLOAD: usize = 1024 * 1024;

/// A connection of one broker to an in-memory JetStream server.
pub(crate) struct Memory {
    pub(crate) settings: Settings,
    state: Arc<Mutex<State>>,
    pub(super) changed: Arc<Notify>,
    closed: AtomicBool,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) streams: BTreeMap<String, Stream>,
    /// The number of readers of each consumer, by stream and name; a consumer without readers counts as idle.
    readers: BTreeMap<(String, String), usize>,
    pub(super) faults: Faults,
    /// The number of instances of handlers with partitions so far.
    pub(super) instances: u64,
    /// The announcements that the instances of handlers exchange, by subject.
    pub(super) boards: BTreeMap<String, Board>,
    /// A random number, which tells the server from others.
    id: Id,
}

#[derive(Debug)]
struct Id(u64);

impl Default for Id {
    fn default() -> Self {
        Self(fastrand::u64(..))
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Memory")
    }
}

impl Memory {
    pub(crate) fn new(settings: Settings) -> Arc<Self> {
        Self::connected(settings, Arc::default(), Arc::default())
    }

    /// Returns a server of its own for a comparison, which no handler uses.
    pub(crate) fn for_comparison(settings: Settings) -> Arc<Self> {
        Self::connected(settings, Arc::default(), Arc::default())
    }

    /// Returns a connection of another broker to the same server.
    pub(crate) fn second_connection(&self) -> Arc<Self> {
        Self::connected(self.settings.clone(), self.state.clone(), self.changed.clone())
    }

    fn connected(settings: Settings, state: Arc<Mutex<State>>, changed: Arc<Notify>) -> Arc<Self> {
        Arc::new(Self { settings, state, changed, closed: AtomicBool::new(false) })
    }

    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        self.changed.notify_waiters();
    }

    pub(crate) fn is_open(&self) -> bool {
        !self.closed.load(Ordering::Relaxed)
    }

    pub(crate) fn with_faults<T>(&self, change: impl FnOnce(&mut Faults) -> T) -> T {
        self.change(|state| change(&mut state.faults))
    }

    /// Waits until no message can be delivered and none is in flight: those left wait for their delay or `ack_wait`.
    pub(crate) async fn idle(&self) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.state().is_idle() {
                return;
            }
            changed.await;
        }
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.state());
        self.changed.notify_waiters();
        result
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        let mut state = lock(&self.state);
        let now = Instant::now();
        let marked = state.streams.values_mut().filter_map(|stream| stream.expire(now).then_some(())).count();
        if marked > 0 {
            self.changed.notify_waiters();
        }
        state
    }
}

/// Streams and consumers.
impl Memory {
    /// Returns the configuration of a stream, if it exists.
    pub(crate) fn stream(&self, name: &str) -> Option<nats_stream::Config> {
        self.state().streams.get(name).map(|stream| stream.config.clone())
    }

    /// Returns the names of the streams whose subjects overlap with `subject`.
    pub(crate) fn stream_names(&self, subject: &str) -> Vec<String> {
        let state = self.state();
        let matching =
            state.streams.values().filter(|stream| stream.config.subjects.iter().any(|own| overlap(own, subject)));
        matching.map(|stream| stream.config.name.clone()).collect()
    }

    /// Returns the configurations of all streams.
    pub(crate) fn streams(&self) -> Vec<nats_stream::Config> {
        self.state().streams.values().map(|stream| stream.config.clone()).collect()
    }

    pub(crate) fn create_stream(&self, config: &nats_stream::Config) -> Result<(), Refusal> {
        self.change(|state| {
            let mut config = config.clone();
            if has_unsupported_transform(&config) {
                let text = "stream transform: in memory, only `wildcard` and `partition` are supported";
                return Err(refusal(400, ErrorCode::STREAM_TRANSFORM_INVALID_DESTINATION, text));
            }
            let copies = config.mirror.is_some() || config.sources.is_some();
            if config.subjects.is_empty() && !copies {
                config.subjects.push(config.name.clone());
            }
            if let Some(known) = state.streams.get(&config.name) {
                let is_same = known.config.subjects == config.subjects && known.config.retention == config.retention;
                return if is_same {
                    Ok(())
                } else {
                    let text = "stream name already in use with a different configuration";
                    Err(refusal(400, ErrorCode::STREAM_NAME_EXIST, text))
                };
            }
            let is_taken = |subject: &String| {
                state.streams.values().any(|other| other.config.subjects.iter().any(|own| overlap(own, subject)))
            };
            if config.subjects.iter().any(is_taken) {
                let text = "subjects overlap with an existing stream";
                return Err(refusal(400, ErrorCode::STREAM_SUBJECT_OVERLAP, text));
            }
            state.streams.insert(config.name.clone(), Stream::new(config));
            copy(&mut state.streams);
            Ok(())
        })
    }

    /// Deletes a stream with its messages and consumers; returns `false` if it did not exist.
    pub(crate) fn delete_stream(&self, name: &str) -> bool {
        self.change(|state| state.streams.remove(name).is_some())
    }

    /// Deletes all messages of a stream; returns their number.
    pub(crate) fn purge(&self, name: &str) -> Result<usize, Refusal> {
        self.change(|state| Ok(state.stream(name)?.purge()))
    }

    /// Returns a consumer, if it exists.
    pub(crate) fn consumer(&self, stream: &str, name: &str) -> Result<Option<FoundConsumer>, Refusal> {
        let mut state = self.state();
        Ok(state.stream(stream)?.consumers.get(name).map(found))
    }

    /// Returns the consumers of a stream.
    pub(crate) fn consumers(&self, stream: &str) -> Result<Vec<FoundConsumer>, Refusal> {
        let mut state = self.state();
        Ok(state.stream(stream)?.consumers.values().map(found).collect())
    }

    /// Returns the name of the server, which is another one in each process.
    pub(crate) fn identity(&self) -> String {
        format!("in memory {:016x}", self.state().id.0)
    }

    /// Changes a stream.
    pub(crate) fn update_stream(&self, config: &nats_stream::Config) -> Result<(), Refusal> {
        self.change(|state| {
            let is_taken = |subject: &String| {
                let mut others = state.streams.values().filter(|other| other.config.name != config.name);
                others.any(|other| other.config.subjects.iter().any(|own| overlap(own, subject)))
            };
            if config.subjects.iter().any(is_taken) {
                let text = "subjects overlap with an existing stream";
                return Err(refusal(400, ErrorCode::STREAM_SUBJECT_OVERLAP, text));
            }
            state.stream(&config.name)?.update(config.clone())
        })
    }

    /// Changes a consumer.
    pub(crate) fn update_consumer(
        &self,
        stream: &str,
        config: &nats_consumer::Config,
    ) -> Result<FoundConsumer, Refusal> {
        self.change(|state| state.stream(stream)?.update_consumer(config.clone()).map(found))
    }

    /// Creates a consumer; fails if one of this name exists.
    pub(crate) fn create_consumer(
        &self,
        stream: &str,
        config: &nats_consumer::Config,
    ) -> Result<FoundConsumer, Refusal> {
        self.change(|state| state.stream(stream)?.create_consumer(config.clone()).map(found))
    }

    /// Pauses a consumer until this time; `None` ends its pause.
    pub(crate) fn pause_consumer(&self, stream: &str, name: &str, until: Option<SystemTime>) -> Result<(), Refusal> {
        self.change(|state| state.stream(stream)?.pause(name, until))
    }

    /// Moves a consumer to a sequence, or to one after its ack floor; returns the first sequence that it delivers.
    pub(crate) fn reset_consumer(&self, stream: &str, name: &str, sequence: Option<u64>) -> Result<u64, Refusal> {
        self.change(|state| state.stream(stream)?.reset(name, sequence))
    }

    /// Deletes a consumer; returns `false` if it did not exist.
    pub(crate) fn delete_consumer(&self, stream: &str, name: &str) -> bool {
        self.change(|state| state.stream(stream).is_ok_and(|stream| stream.consumers.remove(name).is_some()))
    }
}

/// Messages.
impl Memory {
    /// Returns the maximum size of a message with its headers.
    pub(crate) fn max_payload(&self) -> usize {
        MAX_PAYLOAD
    }

    /// Stores a message.
    pub(crate) async fn publish(&self, message: &Outgoing) -> Result<PublishAck, PublishFailure> {
        self.store(message).await?.map_err(|error| PublishFailure::Permanent(refused(message, error)))
    }

    /// Stores message `number` of a fast-ingest batch; every message must belong to `stream`, that of the first
    /// message.
    pub(super) async fn ingest(
        &self,
        message: &Outgoing,
        number: u64,
        stream: Option<&str>,
    ) -> Result<PublishAck, PublishFailure> {
        let permanent = |error| PublishFailure::Permanent(ingest_refused(number, error));
        let names = self.stream_names(&message.subject);
        let name = names.first().ok_or_else(no_stream)?;
        if self.stream(name).is_some_and(|config| !config.allow_batch_publish) {
            return Err(permanent(refusal(400, ErrorCode::BATCH_PUBLISH_DISABLED, "batch publish is disabled")));
        }
        if stream.is_some_and(|stream| stream != name) {
            let error = refusal(400, ErrorCode::BATCH_PUBLISH_UNKNOWN_BATCH_ID, "batch publish ID unknown");
            return Err(permanent(error));
        }
        self.store(message).await?.map_err(permanent)
    }

    /// Stores a message, or returns the refusal of its stream.
    async fn store(&self, message: &Outgoing) -> Result<Result<PublishAck, Refusal>, PublishFailure> {
        let delay = {
            let mut state = self.state();
            if !self.is_open() {
                return Err(PublishFailure::Permanent(closed(&message.subject)));
            }
            if state.faults.fails_publish(&message.subject) {
                return Ok(Err(injected_refusal(503)));
            }
            state.faults.publish_delay
        };
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        self.change(|state| {
            let stream = state.streams.values_mut().find(|stream| stream.takes(&message.subject));
            let stream = stream.ok_or_else(no_stream)?;
            let (stored, no_ack) = (stream.store(message), stream.config.no_ack);
            copy(&mut state.streams);
            if no_ack {
                return Err(PublishFailure::Unanswered(Error::new(ErrorKind::Timeout, "no stream answers")));
            }
            Ok(stored)
        })
    }

    /// Stores messages, all or none.
    pub(crate) fn publish_atomic(&self, messages: &[Outgoing]) -> Result<PublishAck, PublishFailure> {
        let first = messages.first().map_or("", |message| message.subject.as_str());
        let permanent = |number, error| PublishFailure::Permanent(batch_refused(messages, number, error));
        self.change(|state| {
            if !self.is_open() {
                return Err(PublishFailure::Permanent(closed(first)));
            }
            if messages.iter().any(|message| state.faults.fails_publish(&message.subject)) {
                return Err(permanent(None, injected_refusal(400)));
            }
            let stream = state.streams.values_mut().find(|stream| stream.takes(first));
            let stored = stream.ok_or_else(no_stream)?.store_all(messages);
            copy(&mut state.streams);
            stored.map_err(|(number, error)| permanent(number, error))
        })
    }

    /// Returns the message at this sequence.
    pub(crate) fn stored(&self, stream: &str, sequence: u64) -> Result<Option<Stored>, Refusal> {
        Ok(self.state().stream(stream)?.stored(sequence))
    }

    /// Returns the first message at or after this sequence.
    pub(crate) fn next_stored(&self, stream: &str, sequence: u64) -> Result<Option<Stored>, Refusal> {
        Ok(self.state().stream(stream)?.next_stored(sequence))
    }

    /// Returns the last sequence that a stream has assigned, even if that message was deleted.
    pub(crate) fn last_assigned_sequence(&self, stream: &str) -> Result<u64, Refusal> {
        Ok(self.state().stream(stream)?.last_sequence)
    }

    /// Deletes one message; returns `false` if it did not exist.
    pub(crate) fn delete(&self, stream: &str, sequence: u64) -> Result<bool, Refusal> {
        self.change(|state| {
            let stream = state.stream(stream)?;
            if stream.config.deny_delete {
                return Err(refusal(500, ErrorCode::STREAM_MESSAGE_DELETE_FAILED, "message delete not permitted"));
            }
            Ok(stream.remove(sequence))
        })
    }
}

/// The state of a handler's consumer.
impl Memory {
    /// Returns the number of messages that a handler's consumer has not delivered, or whose ack is pending.
    pub(crate) fn count_outstanding(&self, binding: &Binding) -> u64 {
        let state = self.state();
        state.streams.get(&binding.stream).map_or(0, |stream| stream.count_outstanding(&binding.consumer))
    }

    /// Returns what a handler's consumer counts.
    pub(crate) fn consumer_counts(&self, binding: &Binding) -> ConsumerCounts {
        self.state().consumer(binding).map(|consumer| consumer.counts()).unwrap_or_default()
    }

    /// Returns the number of messages of a stream on a subject; `None` if the stream does not exist.
    pub(crate) fn count_messages(&self, stream: &str, subject: &str) -> Option<u64> {
        self.state().streams.get(stream).map(|stream| stream.count_messages(subject))
    }

    /// Returns the subjects that a stream declares, and the number of those that its messages have, if it exists.
    pub(crate) fn stream_subjects(&self, stream: &str) -> Option<StreamSubjects> {
        let state = self.state();
        let stream = state.streams.get(stream)?;
        Some(StreamSubjects { declared: stream.config.subjects.clone(), count: stream.count_subjects(">") })
    }

    /// Returns the number of subjects of a stream that match a filter; `None` if the stream does not exist.
    pub(crate) fn count_subjects(&self, stream: &str, filter: &str) -> Option<u64> {
        self.state().streams.get(stream).map(|stream| stream.count_subjects(filter))
    }

    /// Returns the time at which a stream was created.
    pub(crate) fn copies(&self, name: &str) -> Option<StreamCopies> {
        let state = self.state();
        let stream = state.streams.get(name)?;
        Some(StreamCopies {
            config: stream.config.clone(),
            copied: stream.copied.first().copied().filter(|copied| *copied > 0),
            messages: stream.count_messages(">"),
            last_sequence: stream.last_sequence,
        })
    }

    pub(crate) fn stream_created(&self, name: &str) -> Option<SystemTime> {
        self.state().streams.get(name).map(|stream| stream.created)
    }

    /// Returns what was recorded about a message of a consumer.
    pub(crate) fn record(&self, binding: &Binding, sequence: u64) -> Record {
        let state = self.state();
        state.consumer(binding).and_then(|consumer| consumer.records.get(&sequence).copied()).unwrap_or_default()
    }

    /// Records that these messages were handed back.
    pub(crate) fn hand_back(&self, binding: &Binding, sequences: &[u64]) {
        self.change(|state| {
            if let Some(consumer) = state.consumer_mut(binding) {
                for sequence in sequences {
                    let record = consumer.records.entry(*sequence).or_default();
                    record.handed_back += 1;
                    // A message handed back did not complete its attempt in isolation.
                    record.tried_alone = 0;
                }
            }
        });
    }

    /// Records that a message is about to be tried in isolation; returns the sum of the weights before.
    pub(crate) fn mark_isolated(&self, binding: &Binding, sequence: u64, isolation: Isolation) -> u64 {
        self.change(|state| {
            let Some(consumer) = state.consumer_mut(binding) else { return 0 };
            let weights = &mut consumer.records.entry(sequence).or_default().tried_alone;
            std::mem::replace(weights, *weights + isolation.weight())
        })
    }

    /// Records that these messages have no attempts left.
    pub(crate) fn mark_exhausted(&self, binding: &Binding, sequences: &[u64]) {
        self.change(|state| {
            if let Some(consumer) = state.consumer_mut(binding) {
                for sequence in sequences {
                    consumer.records.entry(*sequence).or_default().exhausted = true;
                }
            }
        });
    }

    /// Adds a reader of a consumer.
    pub(super) fn add_reader(&self, binding: &Binding) {
        self.change(|state| *state.readers.entry((binding.stream.clone(), binding.consumer.clone())).or_default() += 1);
    }

    /// Removes a reader of a consumer.
    pub(super) fn remove_reader(&self, binding: &Binding) {
        self.change(|state| {
            let key = (binding.stream.clone(), binding.consumer.clone());
            if let Some(readers) = state.readers.get_mut(&key) {
                *readers -= 1;
                if *readers == 0 {
                    state.readers.remove(&key);
                }
            }
        });
    }

    /// Withdraws the request of a reader that has no capacity, or has stopped.
    pub(super) fn leave(&self, binding: &Binding, reader: u64) {
        self.change(|state| {
            if let Some(consumer) = state.consumer_mut(binding) {
                consumer.leave(reader);
            }
        });
    }

    /// Has everything delivered again that is unacknowledged.
    pub(super) fn redeliver_pending(&self, binding: &Binding) {
        self.change(|state| {
            if let Some(consumer) = state.consumer_mut(binding) {
                consumer.redeliver_pending();
            }
        });
    }

    /// Lets another reader of an ordered handler become the active one.
    pub(super) fn step_down(&self, binding: &Binding, reader: u64) {
        self.change(|state| {
            if let Some(consumer) = state.consumer_mut(binding) {
                consumer.step_down(reader);
            }
        });
    }

    /// Applies an acknowledgement to the stream of a handler, if the consumer that made the delivery still exists.
    pub(super) fn acknowledge(&self, binding: &Binding, delivery: &Info, apply: impl FnOnce(&mut Stream, &mut Faults)) {
        self.change(|state| {
            let State { streams, faults, .. } = state;
            let Some(stream) = streams.get_mut(&binding.stream) else { return };
            let consumer = stream.consumers.get(&binding.consumer);
            if consumer.is_some_and(|consumer| consumer.id == delivery.id().incarnation) {
                apply(stream, faults);
            }
        });
    }
}

impl State {
    fn stream(&mut self, name: &str) -> Result<&mut Stream, Refusal> {
        self.streams.get_mut(name).ok_or_else(|| refusal(404, ErrorCode::STREAM_NOT_FOUND, "stream not found"))
    }

    /// Returns `true` if every consumer with readers is idle; a missing stream delivers nothing.
    fn is_idle(&self) -> bool {
        let mut read = self.readers.keys().filter_map(|(stream, consumer)| Some((self.streams.get(stream)?, consumer)));
        read.all(|(stream, consumer)| stream.is_idle(consumer))
    }

    fn consumer(&self, binding: &Binding) -> Option<&Consumer> {
        self.streams.get(&binding.stream)?.consumers.get(&binding.consumer)
    }

    fn consumer_mut(&mut self, binding: &Binding) -> Option<&mut Consumer> {
        self.streams.get_mut(&binding.stream)?.consumers.get_mut(&binding.consumer)
    }
}

fn found(consumer: &Consumer) -> FoundConsumer {
    FoundConsumer {
        config: consumer.config.clone(),
        created: None,
        ack_floor: consumer.ack_floor(),
        delivered: consumer.delivered(),
        left: consumer.left(),
    }
}

fn no_stream() -> PublishFailure {
    PublishFailure::NoStream(Error::new(ErrorKind::Timeout, "no stream covers the subject"))
}

fn injected_refusal(status: u16) -> Refusal {
    refusal(status, ErrorCode::STREAM_STORE_FAILED, "the publish fails because the test requested it")
}

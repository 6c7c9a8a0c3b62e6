//! The in-process transport: streams and consumers as the server keeps them, in memory and on tokio's clock.
//!
//! It is for tests and demos, and stores nothing.
//! What a nats-server does is the truth: the contract suite runs the same tests on both.

mod consumer;
mod deliveries;
mod faults;
mod stream;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};

use async_nats::jetstream;
use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::{consumer as nats_consumer, stream as nats_stream};
use serde_json::json;
use tokio::sync::Notify;
use tokio::time::Instant;

pub(crate) use deliveries::Deliveries;
pub(crate) use faults::Faults;

use crate::delivery::Binding;
use crate::message::{Outgoing, Stored};
use crate::settings::Settings;
use crate::subject::overlap;
use crate::sync::lock;
use consumer::Consumer;
use stream::Stream;

/// The `max_payload` of a server that was not configured.
const MAX_PAYLOAD: usize = 1024 * 1024;

/// A refusal in the words of the server: its error code decides what is done about it.
pub(crate) type Refusal = jetstream::Error;

/// The server that is none.
pub(crate) struct Memory {
    pub(crate) settings: Settings,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    streams: BTreeMap<String, Stream>,
    /// How many workers read a consumer, by stream and name; one that nobody reads need not settle.
    readers: BTreeMap<(String, String), usize>,
    faults: Faults,
    closed: bool,
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Memory")
    }
}

impl Memory {
    pub(crate) fn new(settings: Settings) -> Arc<Self> {
        tracing::warn!("the broker is in memory: it stores nothing, and no other process sees its messages");
        Arc::new(Self { settings, state: Mutex::default(), changed: Notify::new() })
    }

    pub(crate) fn stream(&self, name: &str) -> Option<nats_stream::Config> {
        self.state().streams.get(name).map(|stream| stream.config.clone())
    }

    /// The names of the streams that have a part of `subject`.
    pub(crate) fn stream_names(&self, subject: &str) -> Vec<String> {
        let state = self.state();
        let matching =
            state.streams.values().filter(|stream| stream.config.subjects.iter().any(|own| overlap(own, subject)));
        matching.map(|stream| stream.config.name.clone()).collect()
    }

    pub(crate) fn create_stream(&self, config: &nats_stream::Config) -> Result<(), Refusal> {
        self.change(|state| {
            let mut config = config.clone();
            if config.subjects.is_empty() {
                config.subjects.push(config.name.clone());
            }
            if let Some(known) = state.streams.get(&config.name) {
                let same = known.config.subjects == config.subjects && known.config.retention == config.retention;
                return if same {
                    Ok(())
                } else {
                    Err(refusal(400, 10058, "stream name already in use with a different configuration"))
                };
            }
            let taken = |subject: &String| {
                state.streams.values().any(|other| other.config.subjects.iter().any(|own| overlap(own, subject)))
            };
            if config.subjects.iter().any(taken) {
                return Err(refusal(400, 10065, "subjects overlap with an existing stream"));
            }
            state.streams.insert(config.name.clone(), Stream::new(config));
            Ok(())
        })
    }

    /// Deletes a stream with its messages and consumers, as an operator would; `false` if there is none.
    pub(crate) fn delete_stream(&self, name: &str) -> bool {
        self.change(|state| state.streams.remove(name).is_some())
    }

    /// Deletes every message of a stream; gives their number.
    pub(crate) fn purge(&self, name: &str) -> Result<usize, Refusal> {
        self.change(|state| Ok(state.stream(name)?.purge()))
    }

    /// Deletes a consumer, as an operator would; `false` if there is none.
    pub(crate) fn delete_consumer(&self, stream: &str, name: &str) -> bool {
        self.change(|state| state.stream(stream).is_ok_and(|stream| stream.consumers.remove(name).is_some()))
    }

    pub(crate) fn consumer(&self, stream: &str, name: &str) -> Result<Option<nats_consumer::Config>, Refusal> {
        let mut state = self.state();
        Ok(state.stream(stream)?.consumers.get(name).map(|consumer| consumer.config.clone()))
    }

    /// The consumers of a stream with each of their filters.
    pub(crate) fn consumers(&self, stream: &str) -> Result<Vec<(String, String)>, Refusal> {
        let mut state = self.state();
        let consumers = state.stream(stream)?.consumers.iter();
        Ok(consumers.map(|(name, consumer)| (name.clone(), consumer.config.filter_subject.clone())).collect())
    }

    pub(crate) fn create_consumer(
        &self,
        stream: &str,
        config: &nats_consumer::Config,
    ) -> Result<nats_consumer::Config, Refusal> {
        self.change(|state| state.stream(stream)?.create_consumer(config.clone()))
    }

    /// The largest message that is taken, with its headers.
    pub(crate) fn max_payload(&self) -> usize {
        MAX_PAYLOAD
    }

    /// Stores a message.
    pub(crate) async fn publish(&self, message: &Outgoing) -> Result<PublishAck, PublishRefusal> {
        let slow = {
            let mut state = self.state();
            if state.closed {
                return Err(PublishRefusal::Closed);
            }
            if state.faults.fails_publish(&message.subject) {
                return Err(PublishRefusal::Refused(refusal(
                    503,
                    10077,
                    "the publish fails because a test asked for it",
                )));
            }
            state.faults.slow
        };
        if !slow.is_zero() {
            tokio::time::sleep(slow).await;
        }
        self.change(|state| {
            let stream = state
                .streams
                .values_mut()
                .find(|stream| stream.takes(&message.subject))
                .ok_or(PublishRefusal::NoStream)?;
            stream.store(message).map_err(PublishRefusal::Refused)
        })
    }

    /// Stores a message of a fast-ingest batch, which after its first goes to `stream`.
    pub(crate) async fn ingest(&self, message: &Outgoing, stream: Option<&str>) -> Result<PublishAck, PublishRefusal> {
        let names = self.stream_names(&message.subject);
        let name = names.first().ok_or(PublishRefusal::NoStream)?;
        if self.stream(name).is_some_and(|config| !config.allow_batch_publish) {
            return Err(PublishRefusal::Refused(refusal(400, 10205, "batch publish is disabled")));
        }
        if stream.is_some_and(|stream| stream != name) {
            return Err(PublishRefusal::Refused(refusal(400, 10208, "batch publish ID unknown")));
        }
        self.publish(message).await
    }

    /// Stores messages, all or none; a refusal has the number of the message that it is about, if the server would say it.
    pub(crate) fn publish_atomic(&self, messages: &[Outgoing]) -> Result<PublishAck, (Option<usize>, PublishRefusal)> {
        self.change(|state| {
            if state.closed {
                return Err((None, PublishRefusal::Closed));
            }
            let fault = messages.iter().any(|message| state.faults.fails_publish(&message.subject));
            let refused = |code, text| Err((None, PublishRefusal::Refused(refusal(400, code, text))));
            if fault {
                return refused(10077, "the publish fails because a test asked for it");
            }
            let first = messages.first().map_or("", |message| message.subject.as_str());
            let stream = state.streams.values_mut().find(|stream| stream.takes(first));
            let stream = stream.ok_or((None, PublishRefusal::NoStream))?;
            stream.store_all(messages).map_err(|(number, error)| (number, PublishRefusal::Refused(error)))
        })
    }

    /// The message at this sequence, or with `or_later` the next one there is; `Err` if there is no such stream.
    pub(crate) fn stored(&self, stream: &str, sequence: u64, or_later: bool) -> Result<Option<Stored>, Refusal> {
        let mut state = self.state();
        Ok(state.stream(stream)?.stored(sequence, or_later))
    }

    /// The sequence of the last message on a subject; 0 if there is none.
    pub(crate) fn last_sequence(&self, stream: &str, subject: &str) -> Result<u64, Refusal> {
        Ok(self.state().stream(stream)?.last_sequence(subject))
    }

    pub(crate) fn delete(&self, stream: &str, sequence: u64) -> Result<bool, Refusal> {
        self.change(|state| Ok(state.stream(stream)?.remove(sequence)))
    }

    /// How many messages of a consumer are not delivered yet, or not answered.
    pub(crate) fn unanswered(&self, source: &Binding) -> u64 {
        let state = self.state();
        state.streams.get(&source.stream).map_or(0, |stream| stream.unanswered(&source.consumer))
    }

    pub(crate) fn handed_back(&self, source: &Binding) -> BTreeMap<u64, u64> {
        let state = self.state();
        state.consumer(source).map(|consumer| consumer.handed_back.clone()).unwrap_or_default()
    }

    pub(crate) fn hand_back(&self, source: &Binding, sequences: &[u64]) {
        self.change(|state| {
            if let Some(consumer) = state.consumer_mut(source) {
                for sequence in sequences {
                    *consumer.handed_back.entry(*sequence).or_default() += 1;
                    // It was not tried to its end.
                    consumer.suspects.remove(sequence);
                }
            }
        });
    }

    /// Notes that a message is about to be tried alone; `true` if that was noted before.
    pub(crate) fn suspect(&self, source: &Binding, sequence: u64) -> bool {
        self.change(|state| state.consumer_mut(source).is_some_and(|consumer| !consumer.suspects.insert(sequence)))
    }

    pub(crate) fn with_faults<T>(&self, change: impl FnOnce(&mut Faults) -> T) -> T {
        self.change(|state| change(&mut state.faults))
    }

    pub(crate) fn close(&self) {
        self.change(|state| state.closed = true);
    }

    pub(crate) fn is_open(&self) -> bool {
        !self.state().closed
    }

    /// Waits until no message can be delivered now and none is in hand: all that is left waits for its delay.
    pub(crate) async fn settled(&self) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.state().is_settled() {
                return;
            }
            changed.await;
        }
    }

    /// A worker has no room for more.
    fn leave(&self, source: &Binding, reader: u64) {
        self.change(|state| {
            if let Some(consumer) = state.consumer_mut(source) {
                consumer.leave(reader);
            }
        });
    }

    /// A worker of an ordered handler lets another one become active.
    fn step_down(&self, source: &Binding, reader: u64) {
        self.change(|state| {
            if let Some(consumer) = state.consumer_mut(source) {
                consumer.step_down(reader);
            }
        });
    }

    /// A worker begins to read a consumer.
    fn begin(&self, source: &Binding) {
        self.change(|state| *state.readers.entry((source.stream.clone(), source.consumer.clone())).or_default() += 1);
    }

    /// A worker reads a consumer no more.
    fn end(&self, source: &Binding) {
        self.change(|state| {
            let key = (source.stream.clone(), source.consumer.clone());
            if let Some(readers) = state.readers.get_mut(&key) {
                *readers -= 1;
                if *readers == 0 {
                    state.readers.remove(&key);
                }
            }
        });
    }

    /// What a worker says about a delivery.
    fn answer(&self, source: &Binding, answer: impl FnOnce(&mut Stream, &mut Faults)) {
        self.change(|state| {
            let State { streams, faults, .. } = state;
            if let Some(stream) = streams.get_mut(&source.stream) {
                answer(stream, faults);
            }
        });
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        self.change_if(|state| (true, change(state)))
    }

    fn change_if<T>(&self, change: impl FnOnce(&mut State) -> (bool, T)) -> T {
        let (changed, result) = change(&mut self.state());
        if changed {
            self.changed.notify_waiters();
        }
        result
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No code of a user runs under the lock.
        let mut state = lock(&self.state);
        let now = Instant::now();
        state.streams.values_mut().for_each(|stream| stream.expire(now));
        state
    }
}

impl State {
    fn stream(&mut self, name: &str) -> Result<&mut Stream, Refusal> {
        self.streams.get_mut(name).ok_or_else(|| refusal(404, 10059, "stream not found"))
    }

    /// Whether every consumer that is read is at rest; where the stream is missing, nothing can come.
    fn is_settled(&self) -> bool {
        let mut read = self.readers.keys().filter_map(|(stream, consumer)| Some((self.streams.get(stream)?, consumer)));
        read.all(|(stream, consumer)| stream.is_settled(consumer))
    }

    fn consumer(&self, source: &Binding) -> Option<&Consumer> {
        self.streams.get(&source.stream)?.consumers.get(&source.consumer)
    }

    fn consumer_mut(&mut self, source: &Binding) -> Option<&mut Consumer> {
        self.streams.get_mut(&source.stream)?.consumers.get_mut(&source.consumer)
    }
}

/// Why a message was not stored.
#[derive(Debug)]
pub(crate) enum PublishRefusal {
    NoStream,
    Refused(Refusal),
    Closed,
}

/// An error as the server sends it.
fn refusal(code: u16, err_code: u64, description: &str) -> Refusal {
    let error = json!({ "code": code, "err_code": err_code, "description": description });
    serde_json::from_value(error).expect("these are the fields of the server's errors")
}

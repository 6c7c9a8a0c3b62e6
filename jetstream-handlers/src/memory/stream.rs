//! A stream: messages by sequence, limits, duplicates, and the consumers that read it.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::{Duration, SystemTime};

use async_nats::header::{self, HeaderMap, HeaderName};
use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy};
use async_nats::jetstream::{ErrorCode, consumer as nats_consumer};
use bytes::Bytes;
use tokio::time::Instant;

use super::consumer::{Consumer, Take};
use super::faults::Faults;
use super::message::Message;
use super::refusal::{Refusal, refusal};
use crate::delivery::filters;
use crate::message::reserved::MARKER_REASON;
use crate::message::{Outgoing, Stored, header_block};
use crate::subject::{covers, overlap, transformed};

/// The default `duplicate_window` of nats-server.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);

/// The default `ack_wait` of nats-server.
const ACK_WAIT: Duration = Duration::from_secs(30);

#[derive(Debug, Clone)]
pub(super) struct Stream {
    /// A random id, which distinguishes the stream from a later one of the same name.
    pub(super) id: u64,
    pub(super) created: SystemTime,
    pub(super) config: Config,
    pub(super) consumers: BTreeMap<String, Consumer>,
    messages: BTreeMap<u64, Message>,
    bytes: usize,
    pub(super) last_sequence: u64,
    /// The message ids within the `duplicate_window`, with the sequence of their message.
    ids: HashMap<String, u64>,
    ids_by_age: VecDeque<(Instant, String)>,
    /// The last sequence that was copied from each origin: the mirror, or the sources in order.
    pub(super) copied: Vec<u64>,
}

impl Stream {
    pub(super) fn new(config: Config) -> Self {
        Self {
            id: fastrand::u64(..),
            created: SystemTime::now(),
            config,
            consumers: BTreeMap::new(),
            messages: BTreeMap::new(),
            bytes: 0,
            last_sequence: 0,
            ids: HashMap::new(),
            ids_by_age: VecDeque::new(),
            copied: Vec::new(),
        }
    }

    pub(super) fn takes(&self, subject: &str) -> bool {
        self.config.subjects.iter().any(|own| covers(own, subject))
    }

    /// Stores a message, or refuses it with the server's error code (`stream.go`, `processJetStreamMsg`).
    pub(super) fn store(&mut self, message: &Outgoing) -> Result<PublishAck, Refusal> {
        let now = Instant::now();
        let header = |name: HeaderName| message.headers.get(name).map(|value| value.as_str());
        if header(header::NATS_EXPECTED_STREAM).is_some_and(|expected| expected != self.config.name) {
            return Err(refusal(400, ErrorCode::STREAM_NOT_MATCH, "expected stream does not match"));
        }
        if let Some(id) = header(header::NATS_MESSAGE_ID)
            && let Some(sequence) = self.ids.get(id)
        {
            return Ok(self.stored_as(*sequence, true));
        }
        if let Some(expected) = number(header(header::NATS_EXPECTED_LAST_SEQUENCE)) {
            let last = self.last_sequence;
            if expected != last {
                return Err(wrong_last_sequence(last));
            }
        }
        if let Some(expected) = number(header(header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE)) {
            let last = self
                .messages
                .iter()
                .rev()
                .find(|(_, other)| other.subject == message.subject)
                .map_or(0, |(last, _)| *last);
            if expected != last {
                return Err(wrong_last_sequence(last));
            }
        }
        // The server raises a shorter time to live to that of its delete markers.
        let min_ttl = self.config.subject_delete_marker_ttl.unwrap_or_default();
        let ttl = number(header(header::NATS_MESSAGE_TTL)).map(|ttl| Duration::from_secs(ttl).max(min_ttl));
        if ttl.is_some() && !self.allows_ttl() {
            return Err(refusal(400, ErrorCode::MESSAGE_TTL_DISABLED, "per-message TTL is disabled"));
        }
        if message.header_size() > header_block::MAX_SIZE {
            let text = "header size exceeds maximum allowed of 64k";
            return Err(refusal(400, ErrorCode::STREAM_HEADER_EXCEEDS_MAXIMUM, text));
        }
        let size = message.payload.len() + message.subject.len();
        if self.config.max_message_size > 0 && message.size() > self.config.max_message_size as usize {
            return Err(refusal(
                400,
                ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM,
                "message size exceeds maximum allowed",
            ));
        }
        if self.config.discard == DiscardPolicy::New
            && let Some(limit) = self.exceeded_limit(&message.subject, size)
        {
            return Err(refusal(503, ErrorCode::STREAM_STORE_FAILED, limit));
        }
        let mut headers = message.headers.clone();
        if let Some(ttl) = ttl {
            headers.insert(header::NATS_MESSAGE_TTL, ttl.as_secs().to_string());
        }
        let stored = Message {
            subject: self.stored_subject(&message.subject),
            payload: message.payload.clone(),
            headers,
            stored_at: SystemTime::now(),
            at: now,
            expires_at: ttl.and_then(|ttl| now.checked_add(ttl)),
            size,
        };
        let sequence = self.last_sequence + 1;
        if let Some(id) = header(header::NATS_MESSAGE_ID) {
            self.ids.insert(id.to_owned(), sequence);
            self.ids_by_age.push_back((now, id.to_owned()));
        }
        self.insert(sequence, stored);
        Ok(self.stored_as(sequence, false))
    }

    /// Stores messages, all or none.
    pub(super) fn store_all(&mut self, messages: &[Outgoing]) -> Result<PublishAck, (Option<usize>, Refusal)> {
        if !self.config.allow_atomic_publish {
            return Err((Some(1), refusal(400, ErrorCode::ATOMIC_PUBLISH_DISABLED, "atomic publish is disabled")));
        }
        for (number, message) in (1..).zip(messages) {
            if !self.takes(&message.subject) {
                return Err((
                    Some(number),
                    refusal(400, ErrorCode::ATOMIC_PUBLISH_INCOMPLETE_BATCH, "atomic publish batch is incomplete"),
                ));
            }
            let id = message.headers.get(header::NATS_MESSAGE_ID).map(|id| id.as_str());
            if id.is_some_and(|id| self.ids.contains_key(id)) {
                let text = "atomic publish batch contains duplicate message id";
                return Err((None, refusal(400, ErrorCode::ATOMIC_PUBLISH_CONTAINS_DUPLICATE_MESSAGE, text)));
            }
        }
        // The messages are stored in a copy first, because a refusal must undo the messages stored before it.
        let mut copy = self.clone();
        let mut ack = PublishAck::default();
        for (number, message) in (1..).zip(messages) {
            let number = Some(number).filter(|number| *number < messages.len());
            ack = copy.store(message).map_err(|error| (number, error))?;
        }
        *self = copy;
        ack.batch_size = Some(messages.len() as u64);
        Ok(ack)
    }

    /// Returns the subject under which a message is stored (`subject_transform`).
    fn stored_subject(&self, subject: &async_nats::Subject) -> async_nats::Subject {
        let transform = self.config.subject_transform.as_ref();
        let stored = transform.and_then(|it| transformed(subject, &it.source, &it.destination));
        stored.map_or_else(|| subject.clone(), Into::into)
    }

    /// Returns `true` if a copy fits into the limits of a stream that refuses what exceeds them.
    pub(super) fn accepts_copy(&self, subject: &str, message: &Message) -> bool {
        let limit = self.config.max_message_size;
        (limit <= 0 || message.size <= limit as usize)
            && (self.config.discard != DiscardPolicy::New || self.exceeded_limit(subject, message.size).is_none())
    }

    /// Stores a message of another stream; a mirror keeps the sequence.
    pub(super) fn insert_copy(&mut self, sequence: u64, subject: String, message: Message) {
        let subject = self.stored_subject(&subject.into());
        let sequence = if self.config.mirror.is_some() { sequence } else { self.last_sequence + 1 };
        self.insert(sequence, Message { subject, ..message });
    }

    fn insert(&mut self, sequence: u64, message: Message) {
        self.last_sequence = sequence;
        let is_kept = self.config.retention != RetentionPolicy::Interest
            || self.consumers.values().any(|consumer| consumer.matches(&message.subject));
        if is_kept {
            self.add(sequence, message);
            self.enforce_limits();
        }
    }

    fn add(&mut self, sequence: u64, message: Message) {
        self.bytes += message.size;
        self.consumers.values_mut().for_each(|consumer| consumer.stored(sequence, &message.subject));
        self.messages.insert(sequence, message);
    }

    /// Returns the messages behind a sequence.
    pub(super) fn messages_after(&self, sequence: u64) -> Vec<(u64, Message)> {
        self.messages.range(sequence + 1..).map(|(sequence, message)| (*sequence, message.clone())).collect()
    }

    fn stored_as(&self, sequence: u64, duplicate: bool) -> PublishAck {
        PublishAck { stream: self.config.name.clone(), sequence, duplicate, ..PublishAck::default() }
    }

    /// Returns the limit that another message on `subject` would exceed, as the server names it (`store.go`).
    fn exceeded_limit(&self, subject: &str, size: usize) -> Option<&'static str> {
        let over = |limit: i64, value: usize| limit > 0 && value as i64 > limit;
        let of_subject = || self.messages.values().filter(|message| &*message.subject == subject).count();
        let per_subject = self.config.max_messages_per_subject;
        if self.config.discard_new_per_subject && over(per_subject, of_subject() + 1) {
            Some("maximum messages per subject exceeded")
        } else if over(self.config.max_messages, self.messages.len() + 1) {
            Some("maximum messages exceeded")
        } else if over(self.config.max_bytes, self.bytes + size) {
            Some("maximum bytes exceeded")
        } else {
            None
        }
    }

    fn enforce_limits(&mut self) {
        if self.config.max_messages_per_subject > 0 {
            let subject = self.messages.last_key_value().map(|(_, message)| message.subject.clone());
            let of_subject: Vec<u64> = self
                .messages
                .iter()
                .filter(|(_, message)| Some(&message.subject) == subject.as_ref())
                .map(|(sequence, _)| *sequence)
                .collect();
            let extra = of_subject.len().saturating_sub(self.config.max_messages_per_subject as usize);
            of_subject[..extra].iter().for_each(|sequence| {
                self.remove(*sequence);
            });
        }
        while let Some((&oldest, _)) = self.messages.first_key_value() {
            let over = |limit: i64, value: usize| limit > 0 && value as i64 > limit;
            if !over(self.config.max_messages, self.messages.len()) && !over(self.config.max_bytes, self.bytes) {
                break;
            }
            self.remove(oldest);
        }
    }

    /// Removes expired messages and message ids; returns `true` if a delete marker was stored.
    pub(super) fn expire(&mut self, now: Instant) -> bool {
        let window =
            if self.config.duplicate_window.is_zero() { DUPLICATE_WINDOW } else { self.config.duplicate_window };
        while let Some((at, id)) = self.ids_by_age.front()
            && now - *at >= window
        {
            self.ids.remove(id);
            self.ids_by_age.pop_front();
        }
        if self.config.max_age.is_zero() && !self.allows_ttl() {
            return false;
        }
        let expired = self.messages.iter().filter(|(_, message)| self.expiry(message).is_some_and(|at| at <= now));
        let expired: Vec<u64> = expired.map(|(sequence, _)| *sequence).collect();
        let marked: Vec<_> = expired.iter().filter_map(|sequence| self.marker(*sequence, now)).collect();
        expired.into_iter().for_each(|sequence| {
            self.remove(sequence);
        });
        let is_marked = !marked.is_empty();
        for marker in marked {
            self.last_sequence += 1;
            self.add(self.last_sequence, marker);
        }
        is_marked
    }

    /// Returns `true` if messages may have a time to live; delete markers require it (`stream.go`, `checkStreamCfg`).
    fn allows_ttl(&self) -> bool {
        self.config.allow_message_ttl || self.config.subject_delete_marker_ttl.is_some()
    }

    /// Returns the time at which a message expires.
    fn expiry(&self, message: &Message) -> Option<Instant> {
        let by_age = (!self.config.max_age.is_zero()).then(|| message.at + self.config.max_age);
        by_age.into_iter().chain(message.expires_at).min()
    }

    /// Returns the delete marker of a message that expires, if it is the last one on its subject and no marker itself
    /// (ADR-43).
    fn marker(&self, sequence: u64, now: Instant) -> Option<Message> {
        let ttl = self.config.subject_delete_marker_ttl?;
        let message = self.messages.get(&sequence)?;
        let is_last = !self.messages.range(sequence + 1..).any(|(_, other)| other.subject == message.subject);
        if !is_last || message.headers.get(MARKER_REASON).is_some() {
            return None;
        }
        let mut headers = HeaderMap::new();
        headers.insert(MARKER_REASON, "MaxAge");
        headers.insert(header::NATS_MESSAGE_TTL, format!("{}s", ttl.as_secs()));
        headers.insert(header::NATS_ROLLUP, "sub");
        Some(Message {
            subject: message.subject.clone(),
            payload: Bytes::new(),
            headers,
            stored_at: SystemTime::now(),
            at: now,
            expires_at: Some(now + ttl),
            size: message.subject.len(),
        })
    }

    /// Returns the time at which the next delete marker may be stored.
    fn next_marker(&self) -> Option<Instant> {
        self.config.subject_delete_marker_ttl?;
        self.messages.values().filter_map(|message| self.expiry(message)).min()
    }

    /// Removes all messages; returns their number.
    pub(super) fn purge(&mut self) -> usize {
        let all: Vec<u64> = self.messages.keys().copied().collect();
        all.iter().for_each(|sequence| {
            self.remove(*sequence);
        });
        all.len()
    }

    /// Removes a message, including its state in the consumers; returns `false` if it did not exist.
    pub(super) fn remove(&mut self, sequence: u64) -> bool {
        let Some(message) = self.messages.remove(&sequence) else { return false };
        self.bytes -= message.size;
        self.consumers.values_mut().for_each(|consumer| consumer.forget(sequence));
        true
    }

    /// Returns the message at this sequence.
    pub(super) fn stored(&self, sequence: u64) -> Option<Stored> {
        self.next_stored(sequence).filter(|stored| stored.sequence == sequence)
    }

    /// Returns the first message at or after this sequence.
    pub(super) fn next_stored(&self, sequence: u64) -> Option<Stored> {
        let (sequence, message) = self.messages.range(sequence..).next()?;
        Some(Stored {
            sequence: *sequence,
            subject: message.subject.clone(),
            payload: message.payload.clone(),
            headers: message.headers.clone(),
            time: message.stored_at,
        })
    }

    /// Creates a consumer, under the rules of a work queue (`consumer.go`, `addConsumerWithAssignment`).
    pub(super) fn create_consumer(&mut self, mut config: nats_consumer::Config) -> Result<&Consumer, Refusal> {
        let name = config.durable_name.clone().unwrap_or_default();
        if self.consumers.contains_key(&name) {
            return Err(refusal(400, ErrorCode::CONSUMER_ALREADY_EXISTS, "consumer already exists"));
        }
        if self.config.retention == RetentionPolicy::WorkQueue
            && self.consumers.values().any(|other| {
                let others = filters(&other.config);
                filters(&config).iter().any(|own| others.iter().any(|other| overlap(own, other)))
            })
        {
            return Err(refusal(
                400,
                ErrorCode::CONSUMER_WQ_CONSUMER_NOT_UNIQUE,
                "filtered consumer not unique on workqueue stream",
            ));
        }
        if self.config.retention == RetentionPolicy::WorkQueue && config.deliver_policy != DeliverPolicy::All {
            return Err(refusal(
                400,
                ErrorCode::CONSUMER_WQ_CONSUMER_NOT_DELIVER_ALL,
                "consumer must be deliver all on workqueue stream",
            ));
        }
        if config.ack_wait.is_zero() {
            config.ack_wait = ACK_WAIT;
        }
        let consumer = Consumer::new(config, &self.messages, self.last_sequence);
        Ok(self.consumers.entry(name).or_insert(consumer))
    }

    /// Changes a consumer (`consumer.go`, `checkNewConsumerConfig`).
    pub(super) fn update_consumer(&mut self, config: nats_consumer::Config) -> Result<&Consumer, Refusal> {
        let name = config.durable_name.clone().unwrap_or_default();
        let Some(consumer) = self.consumers.get_mut(&name) else {
            return Err(refusal(404, ErrorCode::CONSUMER_DOES_NOT_EXIST, "consumer does not exist"));
        };
        let fixed = |config: &nats_consumer::Config| (config.deliver_policy, config.ack_policy, config.replay_policy);
        if fixed(&consumer.config) != fixed(&config) {
            let text = "deliver policy, ack policy and replay policy can not be updated";
            return Err(refusal(400, ErrorCode::CONSUMER_CREATE, text));
        }
        consumer.update(config, &self.messages);
        Ok(consumer)
    }

    /// Changes the configuration (`stream.go`, `configUpdateCheck`).
    pub(super) fn update(&mut self, config: Config) -> Result<(), Refusal> {
        let fixed = |config: &Config| (config.storage, config.retention, config.max_consumers, config.mirror.clone());
        if fixed(&self.config) != fixed(&config) {
            let text = "stream configuration update can not change storage, retention, mirror or max_consumers";
            return Err(refusal(500, ErrorCode::STREAM_INVALID_CONFIG, text));
        }
        self.config = config;
        self.enforce_limits();
        Ok(())
    }

    /// Moves a consumer to a sequence, or to one after its ack floor; returns the first sequence that it delivers.
    pub(super) fn reset(&mut self, consumer: &str, sequence: Option<u64>) -> Result<u64, Refusal> {
        let consumer = self.consumers.get_mut(consumer).ok_or_else(no_consumer)?;
        consumer
            .reset(sequence, &self.messages)
            .ok_or_else(|| refusal(400, ErrorCode::CONSUMER_INVALID_RESET, "invalid reset: not allowed"))
    }

    /// Pauses a consumer until this time; `None` ends its pause.
    pub(super) fn pause(&mut self, consumer: &str, until: Option<SystemTime>) -> Result<(), Refusal> {
        self.consumers.get_mut(consumer).ok_or_else(no_consumer)?.pause(until);
        Ok(())
    }

    /// Returns the next message of a consumer for a reader.
    pub(super) fn take(&mut self, consumer: &str, reader: u64, faults: &mut Faults) -> Take {
        let Some(consumer) = self.consumers.get_mut(consumer) else { return Take::NoConsumer };
        match consumer.take_in_turn(reader, &self.config.name, &self.messages, faults) {
            Take::Nothing(due) => Take::Nothing(due.into_iter().chain(self.next_marker()).min()),
            take => take,
        }
    }

    /// Acks the delivery of a message whose delivery count is `delivered`.
    pub(super) fn ack(&mut self, consumer: &str, sequence: u64, delivered: u64, faults: &mut Faults) {
        let Some(consumer) = self.consumers.get_mut(consumer) else { return };
        if consumer.ack(sequence, delivered, faults) {
            self.remove_if_handled(sequence);
        }
    }

    /// Terminates a message; injected faults do not affect it.
    pub(super) fn term(&mut self, consumer: &str, sequence: u64) {
        let Some(consumer) = self.consumers.get_mut(consumer) else { return };
        if consumer.is_pending(sequence) {
            consumer.forget(sequence);
            self.remove_if_handled(sequence);
        }
    }

    /// Removes a message that a consumer has finished, if the retention policy requires it.
    fn remove_if_handled(&mut self, sequence: u64) {
        let is_handled = match self.config.retention {
            RetentionPolicy::Limits => false,
            RetentionPolicy::WorkQueue => true,
            RetentionPolicy::Interest => {
                let Some(message) = self.messages.get(&sequence) else { return };
                self.consumers
                    .values()
                    .all(|consumer| !consumer.matches(&message.subject) || consumer.has_finished(sequence))
            }
        };
        if is_handled {
            self.remove(sequence);
        }
    }

    /// Returns the number of messages that a consumer has not delivered, or whose ack is pending.
    pub(super) fn count_outstanding(&self, consumer: &str) -> u64 {
        self.consumers.get(consumer).map_or(0, |consumer| consumer.count_outstanding())
    }

    /// Returns the number of messages on a subject.
    pub(super) fn count_messages(&self, subject: &str) -> u64 {
        self.messages.values().filter(|message| *message.subject == *subject).count() as u64
    }

    /// Returns the number of subjects of messages that match a filter.
    pub(super) fn count_subjects(&self, filter: &str) -> u64 {
        let subjects: BTreeSet<&str> = self.messages.values().map(|message| &*message.subject).collect();
        subjects.into_iter().filter(|subject| covers(filter, subject)).count() as u64
    }

    /// Returns `true` if a consumer has no message to deliver at the moment, and none in flight.
    ///
    /// A missing consumer is not idle: the worker that reads it is about to recreate it.
    pub(super) fn is_idle(&self, consumer: &str) -> bool {
        self.consumers.get(consumer).is_some_and(|consumer| consumer.is_idle())
    }
}

fn no_consumer() -> Refusal {
    refusal(404, ErrorCode::CONSUMER_NOT_FOUND, "consumer not found")
}

fn wrong_last_sequence(last: u64) -> Refusal {
    refusal(400, ErrorCode::STREAM_WRONG_LAST_SEQUENCE, &format!("wrong last sequence: {last}"))
}

fn number(text: Option<&str>) -> Option<u64> {
    text?.parse().ok()
}

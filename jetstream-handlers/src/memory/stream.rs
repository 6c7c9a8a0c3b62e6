//! A stream: messages by sequence, limits, duplicates, and the consumers that read it.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, SystemTime};

use async_nats::header::{self, HeaderName};
use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy};
use async_nats::jetstream::{ErrorCode, consumer as nats_consumer};
use tokio::time::Instant;

use super::consumer::{Consumer, Take};
use super::faults::Faults;
use super::message::Message;
use super::refusal::{Refusal, refusal};
use crate::message::{Outgoing, Stored, header_block};
use crate::subject::{covers, overlap};

/// The default `duplicate_window` of nats-server.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);

/// The default `ack_wait` of nats-server.
const ACK_WAIT: Duration = Duration::from_secs(30);

#[derive(Debug, Clone)]
pub(super) struct Stream {
    /// A random id, which distinguishes the stream from a later one of the same name.
    pub(super) id: u64,
    pub(super) config: Config,
    pub(super) consumers: BTreeMap<String, Consumer>,
    messages: BTreeMap<u64, Message>,
    bytes: usize,
    pub(super) last_sequence: u64,
    /// The message ids within the `duplicate_window`, with sequence and time of their message.
    ids: HashMap<String, (u64, Instant)>,
}

impl Stream {
    pub(super) fn new(config: Config) -> Self {
        Self {
            id: fastrand::u64(..),
            config,
            consumers: BTreeMap::new(),
            messages: BTreeMap::new(),
            bytes: 0,
            last_sequence: 0,
            ids: HashMap::new(),
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
            && let Some((sequence, _)) = self.ids.get(id)
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
        let ttl = number(header(header::NATS_MESSAGE_TTL)).map(Duration::from_secs);
        if ttl.is_some() && !self.config.allow_message_ttl {
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
        if self.config.discard == DiscardPolicy::New && self.is_full(size) {
            return Err(refusal(503, ErrorCode::STREAM_STORE_FAILED, "maximum messages or bytes exceeded"));
        }
        self.last_sequence += 1;
        let sequence = self.last_sequence;
        if let Some(id) = header(header::NATS_MESSAGE_ID) {
            self.ids.insert(id.to_owned(), (sequence, now));
        }
        let is_kept = self.config.retention != RetentionPolicy::Interest
            || self.consumers.values().any(|consumer| consumer.matches(&message.subject));
        if is_kept {
            let stored = Message {
                subject: message.subject.clone(),
                payload: message.payload.clone(),
                headers: message.headers.clone(),
                stored_at: SystemTime::now(),
                at: now,
                expires_at: ttl.map(|ttl| now + ttl),
                size,
            };
            self.messages.insert(sequence, stored);
            self.bytes += size;
            self.enforce_limits();
        }
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

    fn stored_as(&self, sequence: u64, duplicate: bool) -> PublishAck {
        PublishAck { stream: self.config.name.clone(), sequence, duplicate, ..PublishAck::default() }
    }

    fn is_full(&self, size: usize) -> bool {
        let over = |limit: i64, value: usize| limit > 0 && value as i64 > limit;
        over(self.config.max_messages, self.messages.len() + 1) || over(self.config.max_bytes, self.bytes + size)
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

    /// Removes expired messages and message ids.
    pub(super) fn expire(&mut self, now: Instant) {
        let window =
            if self.config.duplicate_window.is_zero() { DUPLICATE_WINDOW } else { self.config.duplicate_window };
        self.ids.retain(|_, (_, at)| now - *at < window);
        let max_age = self.config.max_age;
        if max_age.is_zero() && !self.config.allow_message_ttl {
            return;
        }
        let expired = self.messages.iter().filter(|(_, message)| {
            (!max_age.is_zero() && now - message.at >= max_age) || message.expires_at.is_some_and(|at| at <= now)
        });
        let expired: Vec<u64> = expired.map(|(sequence, _)| *sequence).collect();
        expired.into_iter().for_each(|sequence| {
            self.remove(sequence);
        });
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
    pub(super) fn create_consumer(
        &mut self,
        mut config: nats_consumer::Config,
    ) -> Result<nats_consumer::Config, Refusal> {
        let name = config.durable_name.clone().unwrap_or_default();
        if self.consumers.contains_key(&name) {
            return Err(refusal(400, ErrorCode::CONSUMER_ALREADY_EXISTS, "consumer already exists"));
        }
        if self.config.retention == RetentionPolicy::WorkQueue
            && self.consumers.values().any(|other| overlap(&other.config.filter_subject, &config.filter_subject))
        {
            return Err(refusal(
                400,
                ErrorCode::CONSUMER_WQ_CONSUMER_NOT_UNIQUE,
                "filtered consumer not unique on workqueue stream",
            ));
        }
        if config.ack_wait.is_zero() {
            config.ack_wait = ACK_WAIT;
        }
        self.consumers.insert(name, Consumer::new(config.clone()));
        Ok(config)
    }

    /// Returns the next message of a consumer for a reader.
    pub(super) fn take(&mut self, consumer: &str, reader: u64, faults: &mut Faults) -> Take {
        match self.consumers.get_mut(consumer) {
            Some(consumer) => consumer.take_in_turn(reader, &self.config.name, &self.messages, faults),
            None => Take::NoConsumer,
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
        self.consumers.get(consumer).map_or(0, |consumer| consumer.count_outstanding(&self.messages))
    }

    /// Returns `true` if a consumer has no message to deliver at the moment, and none in flight.
    ///
    /// A missing consumer is not idle: the worker that reads it is about to recreate it.
    pub(super) fn is_idle(&self, consumer: &str) -> bool {
        self.consumers.get(consumer).is_some_and(|consumer| consumer.is_idle(&self.messages))
    }
}

fn wrong_last_sequence(last: u64) -> Refusal {
    refusal(400, ErrorCode::STREAM_WRONG_LAST_SEQUENCE, &format!("wrong last sequence: {last}"))
}

fn number(text: Option<&str>) -> Option<u64> {
    text?.parse().ok()
}

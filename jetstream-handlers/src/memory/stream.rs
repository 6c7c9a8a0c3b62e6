//! A stream: messages by sequence, limits, duplicates, and the consumers that read it.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, SystemTime};

use async_nats::HeaderMap;
use async_nats::jetstream::consumer as nats_consumer;
use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy};
use bytes::Bytes;
use tokio::time::Instant;

use super::consumer::{Consumer, Taken};
use super::faults::Faults;
use super::{Refusal, refusal};
use crate::message::{Outgoing, Stored};
use crate::subject::{covers, overlap};

/// The `duplicate_window` of a stream that does not say.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);

#[derive(Debug, Clone)]
pub(super) struct Stream {
    /// Tells the stream from another one of the same name, which replaced it.
    pub(super) id: u64,
    pub(super) config: Config,
    pub(super) consumers: BTreeMap<String, Consumer>,
    messages: BTreeMap<u64, Message>,
    bytes: usize,
    last_sequence: u64,
    ids: HashMap<String, (u64, Instant)>,
}

#[derive(Debug, Clone)]
pub(super) struct Message {
    pub(super) subject: async_nats::Subject,
    pub(super) payload: Bytes,
    pub(super) headers: HeaderMap,
    pub(super) stored_at: SystemTime,
    at: Instant,
    /// When its own `Nats-TTL` ends it.
    ends: Option<Instant>,
    size: usize,
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

    /// Stores a message, or says in the server's codes why not (`stream.go`, `processJetStreamMsg`).
    pub(super) fn store(&mut self, message: &Outgoing) -> Result<PublishAck, Refusal> {
        let now = Instant::now();
        let header = |name: &str| message.headers.get(name).map(|value| value.as_str());
        if header("Nats-Expected-Stream").is_some_and(|expected| expected != self.config.name) {
            return Err(refusal(400, 10060, "expected stream does not match"));
        }
        if let Some(id) = header("Nats-Msg-Id")
            && let Some((sequence, _)) = self.ids.get(id)
        {
            return Ok(self.stored_as(*sequence, true));
        }
        if let Some(expected) = number(header("Nats-Expected-Last-Sequence")) {
            let last = self.last_sequence;
            if expected != last {
                return Err(refusal(400, 10071, &format!("wrong last sequence: {last}")));
            }
        }
        if let Some(expected) = number(header("Nats-Expected-Last-Subject-Sequence")) {
            let last = self
                .messages
                .iter()
                .rev()
                .find(|(_, other)| other.subject == message.subject)
                .map_or(0, |(last, _)| *last);
            if expected != last {
                return Err(refusal(400, 10071, &format!("wrong last sequence: {last}")));
            }
        }
        let ttl = number(header("Nats-TTL")).map(Duration::from_secs);
        if ttl.is_some() && !self.config.allow_message_ttl {
            return Err(refusal(400, 10166, "per-message TTL is disabled"));
        }
        let size = message.payload.len() + message.subject.len();
        if self.config.max_message_size > 0 && message.payload.len() > self.config.max_message_size as usize {
            return Err(refusal(400, 10054, "message size exceeds maximum allowed"));
        }
        if self.config.discard == DiscardPolicy::New && self.is_full(size) {
            return Err(refusal(503, 10077, "maximum messages or bytes exceeded"));
        }
        self.last_sequence += 1;
        let sequence = self.last_sequence;
        if let Some(id) = header("Nats-Msg-Id") {
            self.ids.insert(id.to_owned(), (sequence, now));
        }
        let wanted = self.config.retention != RetentionPolicy::Interest
            || self.consumers.values().any(|consumer| consumer.matches(&message.subject));
        if wanted {
            let stored = Message {
                subject: message.subject.clone(),
                payload: message.payload.clone(),
                headers: message.headers.clone(),
                stored_at: SystemTime::now(),
                at: now,
                ends: ttl.map(|ttl| now + ttl),
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
            return Err((Some(1), refusal(400, 10174, "atomic publish is disabled")));
        }
        for (number, message) in (1..).zip(messages) {
            if !self.takes(&message.subject) {
                return Err((Some(number), refusal(400, 10176, "atomic publish batch is incomplete")));
            }
            let id = message.headers.get("Nats-Msg-Id").map(|id| id.as_str());
            if id.is_some_and(|id| self.ids.contains_key(id)) {
                return Err((None, refusal(400, 10201, "atomic publish batch contains duplicate message id")));
            }
        }
        // Tried on a copy: what the last one fails by takes the first one back.
        let mut tried = self.clone();
        let mut ack = PublishAck::default();
        for (number, message) in (1..).zip(messages) {
            let number = Some(number).filter(|number| *number < messages.len());
            ack = tried.store(message).map_err(|error| (number, error))?;
        }
        *self = tried;
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

    /// Forgets what is too old.
    pub(super) fn expire(&mut self, now: Instant) {
        let window =
            if self.config.duplicate_window.is_zero() { DUPLICATE_WINDOW } else { self.config.duplicate_window };
        self.ids.retain(|_, (_, at)| now - *at < window);
        let max_age = self.config.max_age;
        if max_age.is_zero() && !self.config.allow_message_ttl {
            return;
        }
        let old = self.messages.iter().filter(|(_, message)| {
            (!max_age.is_zero() && now - message.at >= max_age) || message.ends.is_some_and(|ends| ends <= now)
        });
        let old: Vec<u64> = old.map(|(sequence, _)| *sequence).collect();
        old.into_iter().for_each(|sequence| {
            self.remove(sequence);
        });
    }

    pub(super) fn purge(&mut self) -> usize {
        let all: Vec<u64> = self.messages.keys().copied().collect();
        all.iter().for_each(|sequence| {
            self.remove(*sequence);
        });
        all.len()
    }

    /// Removes a message; consumers that hold it forget it.
    pub(super) fn remove(&mut self, sequence: u64) -> bool {
        let Some(message) = self.messages.remove(&sequence) else { return false };
        self.bytes -= message.size;
        self.consumers.values_mut().for_each(|consumer| consumer.forget(sequence));
        true
    }

    pub(super) fn stored(&self, sequence: u64, or_later: bool) -> Option<Stored> {
        let (sequence, message) =
            self.messages.range(sequence..).next().filter(|(found, _)| or_later || **found == sequence)?;
        Some(Stored {
            sequence: *sequence,
            subject: message.subject.clone(),
            payload: message.payload.clone(),
            headers: message.headers.clone(),
            time: message.stored_at,
        })
    }

    pub(super) fn last_sequence(&self, subject: &str) -> u64 {
        let last = self.messages.iter().rev().find(|(_, message)| covers(subject, &message.subject));
        last.map_or(0, |(sequence, _)| *sequence)
    }

    /// Makes a consumer, under the rules of a work queue (`consumer.go`, `addConsumerWithAssignment`).
    pub(super) fn create_consumer(
        &mut self,
        mut config: nats_consumer::Config,
    ) -> Result<nats_consumer::Config, Refusal> {
        let name = config.durable_name.clone().unwrap_or_default();
        if self.consumers.contains_key(&name) {
            return Err(refusal(400, 10148, "consumer already exists"));
        }
        if self.config.retention == RetentionPolicy::WorkQueue
            && self.consumers.values().any(|other| overlap(&other.config.filter_subject, &config.filter_subject))
        {
            return Err(refusal(400, 10100, "filtered consumer not unique on workqueue stream"));
        }
        if config.ack_wait.is_zero() {
            config.ack_wait = Duration::from_secs(30);
        }
        self.consumers.insert(name, Consumer::new(config.clone()));
        Ok(config)
    }

    /// The next message of a consumer.
    pub(super) fn take(&mut self, consumer: &str, reader: u64, faults: &mut Faults) -> Taken {
        match self.consumers.get_mut(consumer) {
            Some(consumer) => consumer.take_in_turn(reader, &self.config.name, &self.messages, faults),
            None => Taken::NoConsumer,
        }
    }

    /// A worker has done with a message, in the delivery of this number; a term is never lost, for nothing is handled by it.
    pub(super) fn ack(&mut self, consumer: &str, sequence: u64, delivered: u64, faults: &mut Faults) {
        let Some(consumer) = self.consumers.get_mut(consumer) else { return };
        if consumer.end(sequence, delivered, faults) {
            self.done(sequence);
        }
    }

    /// A worker wants never to see a message again.
    pub(super) fn term(&mut self, consumer: &str, sequence: u64) {
        let Some(consumer) = self.consumers.get_mut(consumer) else { return };
        if consumer.is_pending(sequence) {
            consumer.forget(sequence);
            self.done(sequence);
        }
    }

    /// Forgets a message that a consumer has done with, if the retention says so.
    fn done(&mut self, sequence: u64) {
        let done = match self.config.retention {
            RetentionPolicy::Limits => false,
            RetentionPolicy::WorkQueue => true,
            RetentionPolicy::Interest => {
                let Some(message) = self.messages.get(&sequence) else { return };
                self.consumers
                    .values()
                    .all(|consumer| !consumer.matches(&message.subject) || consumer.has_done(sequence))
            }
        };
        if done {
            self.remove(sequence);
        }
    }

    pub(super) fn unanswered(&self, consumer: &str) -> u64 {
        self.consumers.get(consumer).map_or(0, |consumer| consumer.unanswered(&self.messages))
    }

    /// Whether a consumer can deliver nothing at this moment, and nothing of it is in hand.
    ///
    /// One that is missing is about to be made again by the worker that reads it.
    pub(super) fn is_settled(&self, consumer: &str) -> bool {
        self.consumers.get(consumer).is_some_and(|consumer| consumer.is_settled(&self.messages))
    }
}

fn number(text: Option<&str>) -> Option<u64> {
    text?.parse().ok()
}

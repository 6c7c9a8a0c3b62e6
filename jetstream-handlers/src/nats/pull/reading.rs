//! Reading the messages of a consumer from its stream, to find those that the client library cannot read.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::try_join_all;

use super::Connection;
use crate::delivery::{Binding, filters};
use crate::error::Error;
use crate::message::{AckPrefix, Decompressed, DeliveryId, Info, Message, Stored, Unreadable, nanos, unreadable};

/// The maximum number of messages that are read at the same time.
const PARALLEL: usize = 16;

/// The maximum number of bytes in payloads that are read at the same time.
const MAX_BYTES: usize = 4 * 1024 * 1024;

/// The maximum number of sequences that one of the parallel readers reads in turn.
const MAX_PART: u64 = 64;

/// A header block without headers.
const NO_HEADERS: &[u8] = b"NATS/1.0\r\n\r\n";

/// Reads the messages of a handler's consumer.
pub(super) struct Reading<'a> {
    pub(super) connection: &'a Connection,
    pub(super) binding: &'a Binding,
    /// The consumer sequence of the last delivery.
    pub(super) consumer_sequence: u64,
}

/// The messages that were read.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Those that the client library cannot read.
    pub(super) unreadable: Vec<Message>,
    /// The stream sequences of the others.
    pub(super) readable: Vec<u64>,
    /// The sequence at which to continue, if the range had more messages than were to be read.
    pub(super) next: Option<u64>,
}

impl Found {
    fn len(&self) -> usize {
        self.unreadable.len() + self.readable.len()
    }

    pub(super) fn extend(&mut self, others: Self) {
        self.unreadable.extend(others.unreadable);
        self.readable.extend(others.readable);
        self.next = self.next.or(others.next);
    }
}

/// A message that was read.
struct ReadMessage {
    sequence: u64,
    bytes: usize,
    /// The message, if the client library cannot read it.
    unreadable: Option<Message>,
}

impl Reading<'_> {
    /// Reads the messages at these sequences.
    pub(super) async fn each(&self, sequences: &[u64]) -> Result<Found, Error> {
        let mut found = Found::default();
        for sequences in sequences.chunks(PARALLEL) {
            let parts = sequences.iter().map(|sequence| self.part(*sequence..*sequence + 1));
            add(&mut found, try_join_all(parts).await?.into_iter().flatten());
        }
        Ok(found)
    }

    /// Reads the messages of the consumer in this range from its begin: at least `count`, if there are as many.
    pub(super) async fn range(&self, range: Range<u64>, count: usize) -> Result<Found, Error> {
        let mut found = Found::default();
        let mut largest = 1;
        // The next message is read first, because there may be many others before it, and because its size is not known.
        let mut next = range.start;
        while let Some(first) = self.next(next..range.end).await? {
            if found.len() >= count {
                found.next = Some(first.sequence);
                break;
            }
            let begin = first.sequence + 1;
            largest = largest.max(first.bytes);
            let parallel = (MAX_BYTES / largest).clamp(1, PARALLEL) as u64;
            let length = (range.end - begin).div_ceil(parallel).clamp(1, MAX_PART);
            let starts = (0..parallel).map(|part| begin + part * length);
            let parts = starts.map(|start| self.part(start.min(range.end)..(start + length).min(range.end)));
            let messages: Vec<_> = try_join_all(parts).await?.into_iter().flatten().collect();
            largest = messages.iter().map(|message| message.bytes).max().unwrap_or_default().max(largest);
            add(&mut found, std::iter::once(first).chain(messages));
            next = begin + parallel * length;
        }
        Ok(found)
    }

    async fn part(&self, range: Range<u64>) -> Result<Vec<ReadMessage>, Error> {
        let mut messages = Vec::new();
        let mut next = range.start;
        while let Some(message) = self.next(next..range.end).await? {
            next = message.sequence + 1;
            messages.push(message);
        }
        Ok(messages)
    }

    /// Reads the first message in this range.
    async fn next(&self, range: Range<u64>) -> Result<Option<ReadMessage>, Error> {
        if range.is_empty() {
            return Ok(None);
        }
        let filters = filters(&self.binding.config).into_iter();
        let next = filters.map(|filter| self.connection.next_raw(&self.binding.stream, range.start, filter));
        let found = try_join_all(next).await?.into_iter().flatten();
        let found = found.filter(|(stored, _)| range.contains(&stored.sequence));
        let first = found.min_by_key(|(stored, _)| stored.sequence);
        Ok(first.map(|(stored, header_block)| self.check(stored, header_block)))
    }

    /// Checks whether the client library can read a message.
    fn check(&self, stored: Stored, header_block: Bytes) -> ReadMessage {
        // The server adds a header to each delivery to a pinned instance (ADR-42).
        let delivered_block = if header_block.is_empty() && self.binding.pinned() { NO_HEADERS } else { &header_block };
        let (sequence, bytes) = (stored.sequence, stored.payload.len());
        let unreadable = unreadable(&stored.subject, delivered_block).map(|reason| Message {
            info: info(self.binding, sequence, nanos(stored.time), self.consumer_sequence),
            subject: stored.subject,
            payload: stored.payload,
            headers: Some(Arc::new(stored.headers)),
            unreadable: Some(Arc::new(Unreadable { reason, header_block, is_complete: true })),
            origin: None,
            decompressed: Decompressed::default(),
        });
        ReadMessage { sequence, bytes, unreadable }
    }
}

fn add(found: &mut Found, messages: impl IntoIterator<Item = ReadMessage>) {
    for ReadMessage { sequence, unreadable, .. } in messages {
        match unreadable {
            Some(message) => found.unreadable.push(message),
            None => found.readable.push(sequence),
        }
    }
}

/// Returns an incomplete message for one at which the connection ends, and which the user may not read.
pub(super) fn unread(binding: &Binding, sequence: u64, consumer_sequence: u64) -> Message {
    let reason = "the connection ends whenever it is delivered".to_owned();
    let unreadable = Unreadable { reason, header_block: Bytes::new(), is_complete: false };
    let filter = filters(&binding.config)[0].to_owned();
    let mut message = Message::new(filter, Bytes::new());
    message.info = info(binding, sequence, 0, consumer_sequence);
    message.unreadable = Some(Arc::new(unreadable));
    message
}

/// Returns the info of a delivery that was lost; `stored_at` is 0 if the time is not known.
fn info(binding: &Binding, stream_sequence: u64, stored_at: u64, consumer_sequence: u64) -> Info {
    // More than one delivery, because the first one was lost.
    let id = DeliveryId {
        delivered: 2,
        stream_sequence,
        consumer_sequence,
        stored_at,
        incarnation: binding.incarnations.current(),
        arrived: binding.incarnations.now(),
    };
    AckPrefix::new(&binding.stream, &binding.consumer).delivery(id).into()
}

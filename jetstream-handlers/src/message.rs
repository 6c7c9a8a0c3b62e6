//! The data of a delivery.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_nats::HeaderMap;
use bytes::Bytes;

use crate::transport::Stored;

/// A message as the stream delivered it: the raw bytes and all that is known about them.
///
/// As a parameter of a handler it gives the undecoded message.
/// Cloning is cheap: the parts are shared.
///
/// # Examples
///
/// ```
/// use jetstream_handlers::prelude::*;
///
/// #[subscriber(subject = "scans.>", queue = "archive")]
/// async fn archive(message: Message) -> HandlerResult {
///     println!("{} bytes on {}", message.payload().len(), message.subject());
///     Ok(())
/// }
/// ```
#[derive(Debug, Clone)]
pub struct Message {
    pub(crate) subject: async_nats::Subject,
    pub(crate) payload: Bytes,
    pub(crate) headers: Option<Arc<HeaderMap>>,
    pub(crate) info: Info,
}

impl Message {
    /// A message that no stream delivered, to call a handler in a unit test.
    ///
    /// Its [`Info`] is all zero and empty.
    pub fn new(subject: impl Into<String>, payload: impl Into<Bytes>) -> Self {
        Self {
            subject: async_nats::Subject::from(subject.into()),
            payload: payload.into(),
            headers: None,
            info: Info::default(),
        }
    }

    /// The subject on which the message was published.
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// The bytes of the message.
    pub fn payload(&self) -> &Bytes {
        &self.payload
    }

    /// The first value of a header, if the message has it.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.as_ref()?.get(name).map(|value| value.as_str())
    }

    /// Where the message comes from, and how often it was delivered.
    pub fn info(&self) -> &Info {
        &self.info
    }
}

/// Where a message comes from and how often it was delivered, read from its ack subject (ADR-15).
#[derive(Debug, Clone)]
pub struct Info {
    // The names are slices of the ack subject, so that a delivery costs no allocation for them.
    ack_subject: async_nats::Subject,
    stream: Range<usize>,
    consumer: Range<usize>,
    stream_sequence: u64,
    consumer_sequence: u64,
    delivered: u64,
    stored_at_nanos: u64,
    pending: u64,
}

impl Default for Info {
    fn default() -> Self {
        Self {
            ack_subject: async_nats::Subject::from_static(""),
            stream: 0..0,
            consumer: 0..0,
            stream_sequence: 0,
            consumer_sequence: 0,
            delivered: 0,
            stored_at_nanos: 0,
            pending: 0,
        }
    }
}

impl Info {
    /// Reads an ack subject of version 1 (9 tokens) or 2 (11 or more).
    ///
    /// Source: ADR-15, and `consumer.go` of the server.
    pub(crate) fn parse(ack_subject: async_nats::Subject) -> Option<Self> {
        let text = ack_subject.as_str();
        let count = text.bytes().filter(|byte| *byte == b'.').count() + 1;
        let skipped = match count {
            9 => 2,
            11.. => 4,
            _ => return None,
        };
        let mut rest = text.strip_prefix("$JS.ACK.")?;
        let mut offset = text.len() - rest.len();
        let mut next = || -> Range<usize> {
            let length = rest.find('.').unwrap_or(rest.len());
            let token = offset..offset + length;
            rest = rest.get(length + 1..).unwrap_or("");
            offset = token.end + 1;
            token
        };
        for _ in 2..skipped {
            next();
        }
        let (stream, consumer) = (next(), next());
        let mut number = || text[next()].parse::<u64>().ok();
        Some(Self {
            delivered: number()?,
            stream_sequence: number()?,
            consumer_sequence: number()?,
            stored_at_nanos: number()?,
            pending: number()?,
            stream,
            consumer,
            ack_subject,
        })
    }

    /// What is known of a message that was read from its stream, not delivered.
    pub(crate) fn of_stored(stream: &str, consumer: &str, delivered: u64, stored: &Stored) -> Self {
        let nanos = stored.time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_nanos());
        let sequence = stored.sequence;
        Self::parse(format!("$JS.ACK.{stream}.{consumer}.{delivered}.{sequence}.0.{nanos}.0").into())
            .unwrap_or_default()
    }

    /// Where the answer goes.
    pub(crate) fn ack_subject(&self) -> &async_nats::Subject {
        &self.ack_subject
    }

    /// The ack subject up to its consumer.
    pub(crate) fn ack_prefix(&self) -> &str {
        &self.ack_subject[..self.consumer.end]
    }

    /// Stream and consumer with the dot between them.
    pub(crate) fn source(&self) -> &str {
        &self.ack_subject[self.stream.start..self.consumer.end]
    }

    /// The stream that stores the message.
    pub fn stream(&self) -> &str {
        &self.ack_subject[self.stream.clone()]
    }

    /// The durable consumer that delivered it: the handler's `queue`.
    pub fn consumer(&self) -> &str {
        &self.ack_subject[self.consumer.clone()]
    }

    /// The message's sequence in its stream.
    pub fn stream_sequence(&self) -> u64 {
        self.stream_sequence
    }

    /// The sequence of this delivery in its consumer.
    pub fn consumer_sequence(&self) -> u64 {
        self.consumer_sequence
    }

    /// How often the message was delivered, this time included: 1 for the first time.
    ///
    /// It counts every delivery of the server, also one that was handed back by a stopping process.
    pub fn delivered(&self) -> u64 {
        self.delivered
    }

    /// When the stream stored the message.
    pub fn stored_at(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_nanos(self.stored_at_nanos)
    }

    /// How many messages the consumer had not yet delivered after this one.
    pub fn pending(&self) -> u64 {
        self.pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_an_ack_subject_of_version_1() {
        let info = Info::parse("$JS.ACK.ORDERS.order-processor.2.7.9.1795328670472827938.4".into()).unwrap();
        assert_eq!((info.stream(), info.consumer()), ("ORDERS", "order-processor"));
        assert_eq!((info.delivered(), info.stream_sequence()), (2, 7));
        assert_eq!((info.consumer_sequence(), info.pending()), (9, 4));
        let stored = info.stored_at().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!(stored.as_nanos(), 1_795_328_670_472_827_938);
    }

    #[test]
    fn reads_an_ack_subject_of_version_2_with_and_without_a_tail() {
        for tail in ["", ".x7Gh"] {
            let subject = format!("$JS.ACK.hub.szMpdrwD.S.D.1.2.3.1795328670472827938.5{tail}");
            let info = Info::parse(subject.into()).unwrap();
            assert_eq!((info.stream(), info.consumer()), ("S", "D"));
            assert_eq!((info.delivered(), info.pending()), (1, 5));
        }
    }

    #[test]
    fn refuses_what_is_no_ack_subject() {
        for subject in ["", "orders.created", "$JS.ACK.S.D.1.2.3", "$JS.ACK.S.D.1.2.3.x.5", "$JS.ACK.a.S.D.1.2.3.4.5"] {
            assert!(Info::parse(subject.into()).is_none(), "{subject}");
        }
    }
}

//! The data of a delivery.

mod attempt;
mod outgoing;
pub(crate) mod refusal;
mod stored;

pub(crate) use async_nats::jetstream::publish::PublishAck;
pub(crate) use attempt::{Attempt, BeginFailure, FirstSend, Pipelined, PublishFailure};
pub(crate) use outgoing::Outgoing;
pub(crate) use stored::Stored;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_nats::HeaderMap;
use bytes::Bytes;

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
    // All else is read from it where it is asked for, so that a delivery costs neither allocations nor moves.
    ack_subject: async_nats::Subject,
    stream_start: u32,
    stream_end: u32,
    consumer_end: u32,
    numbers: DeliveryId,
}

/// What tells one delivery of a consumer from another.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct DeliveryId {
    delivered: u64,
    stream_sequence: u64,
    consumer_sequence: u64,
}

impl DeliveryId {
    /// Reads them as they stand behind the consumer, with the time and more behind them.
    fn read(mut text: &[u8]) -> Option<Self> {
        Some(Self {
            delivered: number_before_dot(&mut text)?,
            stream_sequence: number_before_dot(&mut text)?,
            consumer_sequence: number_before_dot(&mut text)?,
        })
    }

    /// The delivery again, of which nothing else was kept; the server looks at no more than this.
    pub(crate) fn delivery(self, prefix: &str) -> Info {
        let Self { delivered, stream_sequence, consumer_sequence } = self;
        Info::parse(format!("{prefix}.{delivered}.{stream_sequence}.{consumer_sequence}.0.0").into())
            .unwrap_or_default()
    }
}

impl Default for Info {
    fn default() -> Self {
        Self {
            ack_subject: async_nats::Subject::from_static(""),
            stream_start: 0,
            stream_end: 0,
            consumer_end: 0,
            numbers: DeliveryId::default(),
        }
    }
}

impl Info {
    /// Reads an ack subject of version 1 (9 tokens) or 2 (11 or more).
    ///
    /// Binding: ADR-15, and `consumer.go` of the server.
    pub(crate) fn parse(ack_subject: async_nats::Subject) -> Option<Self> {
        const PREFIX: &str = "$JS.ACK.";
        let text = ack_subject.as_bytes();
        if !text.starts_with(PREFIX.as_bytes()) {
            return None;
        }
        // Where each token ends, those of the prefix left out.
        let mut ends = [0; 9];
        let mut count = 0;
        for (index, byte) in text.iter().enumerate().skip(PREFIX.len()) {
            if *byte == b'.' {
                if let Some(end) = ends.get_mut(count) {
                    *end = index;
                }
                count += 1;
            }
        }
        if let Some(end) = ends.get_mut(count) {
            *end = text.len();
        }
        let first = match count {
            6 => 0,
            8.. => 2,
            _ => return None,
        };
        let start = |token: usize| if token == 0 { PREFIX.len() } else { ends[token - 1] + 1 };
        let numbers = &text[start(first + 2)..ends[first + 6]];
        if !numbers.iter().all(|byte| byte.is_ascii_digit() || *byte == b'.') {
            return None;
        }
        Some(Self {
            stream_start: u32::try_from(start(first)).ok()?,
            stream_end: u32::try_from(ends[first]).ok()?,
            consumer_end: u32::try_from(ends[first + 1]).ok()?,
            numbers: DeliveryId::read(numbers)?,
            ack_subject,
        })
    }

    /// Reads the ack subject of another delivery of the same consumer, which differs in its numbers alone.
    pub(crate) fn like(&self, ack_subject: async_nats::Subject) -> Result<Self, async_nats::Subject> {
        let before_numbers = ..=self.consumer_end as usize;
        let rest = match self.ack_subject.as_bytes().get(before_numbers) {
            Some(prefix) => ack_subject.as_bytes().strip_prefix(prefix),
            None => None,
        };
        match rest.and_then(DeliveryId::read) {
            Some(numbers) => Ok(Self { numbers, ack_subject, ..*self }),
            None => Err(ack_subject),
        }
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

    /// Counts an attempt that needed no delivery: the message was tried again in its place.
    pub(crate) fn again(&mut self) {
        self.numbers.delivered += 1;
    }

    /// Has the answer name another number of the consumer's deliveries.
    pub(crate) fn answer_as(&mut self, consumer_sequence: u64) {
        let DeliveryId { delivered, stream_sequence, .. } = self.numbers;
        let rest = self.ack_subject.get(self.consumer_end as usize + 1..).unwrap_or_default();
        let rest = rest.splitn(4, '.').nth(3).unwrap_or_default();
        let prefix = self.ack_prefix();
        self.ack_subject = format!("{prefix}.{delivered}.{stream_sequence}.{consumer_sequence}.{rest}").into();
    }

    /// Where the answer goes, of a delivery that is not needed any more.
    pub(crate) fn into_ack_subject(self) -> async_nats::Subject {
        self.ack_subject
    }

    pub(crate) fn numbers(&self) -> DeliveryId {
        self.numbers
    }

    /// The ack subject up to its consumer.
    pub(crate) fn ack_prefix(&self) -> &str {
        &self.ack_subject[..self.consumer_end as usize]
    }

    /// Stream and consumer with the dot between them.
    pub(crate) fn source(&self) -> &str {
        &self.ack_subject[self.stream_start as usize..self.consumer_end as usize]
    }

    /// The stream that stores the message.
    pub fn stream(&self) -> &str {
        &self.ack_subject[self.stream_start as usize..self.stream_end as usize]
    }

    /// The durable consumer that delivered it: the handler's `queue`.
    pub fn consumer(&self) -> &str {
        self.ack_subject.get(self.stream_end as usize + 1..self.consumer_end as usize).unwrap_or_default()
    }

    /// The message's sequence in its stream.
    pub fn stream_sequence(&self) -> u64 {
        self.numbers.stream_sequence
    }

    /// The sequence of this delivery in its consumer.
    pub fn consumer_sequence(&self) -> u64 {
        self.numbers.consumer_sequence
    }

    /// How often the message was delivered, this time included: 1 for the first time.
    ///
    /// It counts every delivery of the server, also one that was handed back by a stopping process;
    /// for an `ordered` handler, which tries a message again without another delivery, these attempts as well.
    pub fn delivered(&self) -> u64 {
        self.numbers.delivered
    }

    /// When the stream stored the message.
    pub fn stored_at(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_nanos(self.number(3))
    }

    /// How many messages the consumer had not yet delivered after this one.
    pub fn pending(&self) -> u64 {
        self.number(4)
    }

    /// The number at `index` behind the consumer.
    fn number(&self, index: usize) -> u64 {
        let numbers = self.ack_subject.as_bytes().get(self.consumer_end as usize + 1..).unwrap_or_default();
        numbers.split(|byte| *byte == b'.').nth(index).and_then(number).unwrap_or_default()
    }
}

/// Reads a number and the dot behind it, and leaves what follows; for every message, and thus in one go.
fn number_before_dot(text: &mut &[u8]) -> Option<u64> {
    /// So many digits are never too large.
    const DIGITS: usize = 19;
    let mut number = 0;
    for (index, byte) in text.iter().enumerate() {
        match byte {
            b'0'..=b'9' if index < DIGITS => number = number * 10 + u64::from(byte - b'0'),
            b'.' if index > 0 => {
                *text = &text[index + 1..];
                return Some(number);
            }
            _ => return None,
        }
    }
    None
}

/// A number in decimal digits.
fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |number, digit| {
        let digit = digit.checked_sub(b'0').filter(|digit| *digit < 10)?;
        number.checked_mul(10)?.checked_add(u64::from(digit))
    })
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
    fn reads_the_next_ack_subject_by_the_one_before() {
        for (first, next) in [
            ("$JS.ACK.S.D.1.2.3.4.5", "$JS.ACK.S.D.2.70.80.90.100"),
            ("$JS.ACK.hub.hash.S.D.1.2.3.4.5.tail", "$JS.ACK.hub.hash.S.D.2.70.80.90.100.other"),
        ] {
            let info = Info::parse(first.into()).unwrap().like(next.into()).unwrap();
            assert_eq!((info.stream(), info.consumer(), info.delivered()), ("S", "D", 2));
            assert_eq!((info.stream_sequence(), info.consumer_sequence(), info.pending()), (70, 80, 100));
        }
        let info = Info::parse("$JS.ACK.S.D.1.2.3.4.5".into()).unwrap();
        for other in ["$JS.ACK.S.DD.1.2.3.4.5", "$JS.ACK.S.E.1.2.3.4.5", "$JS.ACK.S.D", "$JS.ACK.S.D.x.2.3.4.5"] {
            assert!(info.like(other.into()).is_err(), "{other}");
        }
    }

    #[test]
    fn answers_under_another_number() {
        for (delivery, answer) in [
            ("$JS.ACK.S.D.2.7.9.4.5", "$JS.ACK.S.D.2.7.3.4.5"),
            ("$JS.ACK.hub.hash.S.D.2.7.9.4.5.tail", "$JS.ACK.hub.hash.S.D.2.7.3.4.5.tail"),
        ] {
            let mut info = Info::parse(delivery.into()).unwrap();
            info.answer_as(3);
            assert_eq!(info.ack_subject().as_str(), answer);
            assert_eq!((info.consumer_sequence(), info.pending()), (9, 5));
        }
    }

    #[test]
    fn refuses_what_is_no_ack_subject() {
        for subject in ["", "orders.created", "$JS.ACK.S.D.1.2.3", "$JS.ACK.S.D.1.2.3.x.5", "$JS.ACK.a.S.D.1.2.3.4.5"] {
            assert!(Info::parse(subject.into()).is_none(), "{subject}");
        }
    }
}

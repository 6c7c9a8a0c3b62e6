//! Ack subjects: the subject to which a delivery is acknowledged, and the payloads that are sent to it.
//!
//! Version 1 has 9 tokens, version 2 has 11 or more (ADR-15; `consumer.go`, `ackReplyInfo`):
//!
//! ```text
//! $JS.ACK.<stream>.<consumer>.<delivered>.<stream sequence>.<consumer sequence>.<time>.<pending>
//! $JS.ACK.<domain>.<account hash>.<stream>.<consumer>.<delivered>.<stream sequence>.<consumer sequence>.<time>.<pending>[.<token>]
//! ```

use std::time::{Duration, SystemTime};

use async_nats::Subject;
use bytes::Bytes;

const PREFIX: &str = "$JS.ACK.";

/// The payload that acknowledges a delivery (`consumer.go`, `processAck`, as for the payloads below).
pub(crate) const ACK: Bytes = Bytes::from_static(b"+ACK");

/// The payload that requests a redelivery without a delay.
pub(crate) const NAK: Bytes = Bytes::from_static(b"-NAK");

/// The payload that restarts the consumer's `ack_wait`.
pub(crate) const PROGRESS: Bytes = Bytes::from_static(b"+WPI");

/// Returns the payload that requests a redelivery after `delay`.
pub(crate) fn nak_payload(delay: Duration) -> Bytes {
    if delay.is_zero() { NAK } else { Bytes::from(format!("-NAK {{\"delay\":{}}}", delay.as_nanos())) }
}

/// Returns the payload that terminates a message, which is then never redelivered; the server copies `reason` into an
/// advisory.
pub(crate) fn term_payload(reason: &str) -> Bytes {
    Bytes::from(format!("+TERM {reason}"))
}

/// The numbers that identify one delivery of a consumer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct DeliveryId {
    pub(crate) delivered: u64,
    pub(crate) stream_sequence: u64,
    pub(crate) consumer_sequence: u64,
    /// The time at which the stream stored the message, in nanoseconds since 1970; 0 if that is unknown.
    pub(crate) stored_at: u64,
    /// The incarnation of the consumer; the ack subject does not contain it.
    pub(crate) incarnation: u32,
    /// The time at which the delivery arrived, in seconds on the clock of the handler's incarnations.
    pub(crate) arrived: u32,
}

impl DeliveryId {
    /// Parses the four tokens after the consumer, each of which ends with a dot.
    fn read(mut text: &[u8]) -> Option<Self> {
        Some(Self {
            delivered: number_before_dot(&mut text)?,
            stream_sequence: number_before_dot(&mut text)?,
            consumer_sequence: number_before_dot(&mut text)?,
            stored_at: number_before_dot(&mut text)?,
            incarnation: 0,
            arrived: 0,
        })
    }
}

/// A parsed ack subject.
///
/// Only the delivery's id is parsed immediately. The rest is parsed on request, so that a delivery needs no allocation,
/// and the struct stays small.
#[derive(Debug, Clone)]
pub(crate) struct AckSubject {
    subject: Subject,
    stream_start: u32,
    stream_end: u32,
    consumer_end: u32,
    id: DeliveryId,
}

/// The part of an ack subject that all deliveries of a consumer share.
#[derive(Debug, Clone)]
pub(crate) struct AckPrefix {
    /// The ack subject up to the consumer, without the dot after it.
    text: String,
    stream_start: u32,
    stream_end: u32,
}

impl Default for AckSubject {
    fn default() -> Self {
        Self {
            subject: Subject::from_static(""),
            stream_start: 0,
            stream_end: 0,
            consumer_end: 0,
            id: DeliveryId::default(),
        }
    }
}

impl AckSubject {
    /// Parses an ack subject of either version.
    pub(crate) fn parse(subject: Subject) -> Option<Self> {
        let text = subject.as_bytes();
        if !text.starts_with(PREFIX.as_bytes()) {
            return None;
        }
        // The end of each token after the prefix.
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
            id: DeliveryId::read(numbers)?,
            subject,
        })
    }

    /// Parses the ack subject of another delivery of the same consumer; returns the subject if it belongs to another
    /// consumer.
    ///
    /// The two differ only in their numbers, so this is faster than [`parse`](Self::parse).
    pub(crate) fn parse_same_consumer(&self, subject: Subject) -> Result<Self, Subject> {
        let before_numbers = ..=self.consumer_end as usize;
        let rest = match self.subject.as_bytes().get(before_numbers) {
            Some(prefix) => subject.as_bytes().strip_prefix(prefix),
            None => None,
        };
        match rest.and_then(DeliveryId::read) {
            Some(id) => Ok(Self { id, subject, ..*self }),
            None => Err(subject),
        }
    }

    pub(crate) fn subject(&self) -> &Subject {
        &self.subject
    }

    pub(crate) fn into_subject(self) -> Subject {
        self.subject
    }

    pub(crate) fn id(&self) -> DeliveryId {
        self.id
    }

    pub(crate) fn set_incarnation(&mut self, incarnation: u32) {
        self.id.incarnation = incarnation;
    }

    pub(crate) fn set_arrived(&mut self, arrived: u32) {
        self.id.arrived = arrived;
    }

    /// Returns `true` unless the server counts this delivery as the first one of its message.
    pub(crate) fn is_redelivered(&self) -> bool {
        !self.numbers().starts_with(b"1.")
    }

    /// Returns `true` if deliveries of the message were lost, which [`id`](Self::id) does not count.
    pub(crate) fn has_lost_deliveries(&self) -> bool {
        number_before_dot(&mut self.numbers()).is_some_and(|delivered| delivered > self.id.delivered)
    }

    fn numbers(&self) -> &[u8] {
        self.subject.as_bytes().get(self.consumer_end as usize + 1..).unwrap_or_default()
    }

    /// Increments the delivery count, for an attempt without a delivery.
    pub(crate) fn count_attempt(&mut self) {
        self.id.delivered += 1;
    }

    /// Subtracts deliveries that did not arrive from the delivery count.
    pub(crate) fn discount(&mut self, lost: u64) {
        self.id.delivered = self.id.delivered.saturating_sub(lost).max(1);
    }

    /// Replaces the consumer sequence in the ack subject; [`id`](Self::id) does not change.
    pub(crate) fn set_ack_sequence(&mut self, consumer_sequence: u64) {
        let DeliveryId { delivered, stream_sequence, .. } = self.id;
        let rest = self.subject.get(self.consumer_end as usize + 1..).unwrap_or_default();
        let rest = rest.splitn(4, '.').nth(3).unwrap_or_default();
        let prefix = &self.subject[..self.consumer_end as usize];
        self.subject = format!("{prefix}.{delivered}.{stream_sequence}.{consumer_sequence}.{rest}").into();
    }

    pub(crate) fn prefix(&self) -> AckPrefix {
        AckPrefix {
            text: self.subject[..self.consumer_end as usize].to_owned(),
            stream_start: self.stream_start,
            stream_end: self.stream_end,
        }
    }

    /// Returns `<stream>.<consumer>`.
    pub(crate) fn stream_and_consumer(&self) -> &str {
        &self.subject[self.stream_start as usize..self.consumer_end as usize]
    }

    /// Returns the subject with a wildcard that covers the acks of all deliveries of the consumer.
    pub(crate) fn wildcard(&self) -> String {
        format!("{}.>", &self.subject[..self.consumer_end as usize])
    }

    pub(crate) fn stream(&self) -> &str {
        &self.subject[self.stream_start as usize..self.stream_end as usize]
    }

    pub(crate) fn consumer(&self) -> &str {
        self.subject.get(self.stream_end as usize + 1..self.consumer_end as usize).unwrap_or_default()
    }

    pub(crate) fn stored_at(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_nanos(self.id.stored_at)
    }

    pub(crate) fn pending(&self) -> u64 {
        self.number(4)
    }

    /// Returns the number at `index` after the consumer.
    fn number(&self, index: usize) -> u64 {
        self.numbers().split(|byte| *byte == b'.').nth(index).and_then(number).unwrap_or_default()
    }
}

impl AckPrefix {
    /// Returns the prefix of version 1, which every server accepts.
    pub(crate) fn new(stream: &str, consumer: &str) -> Self {
        let stream_end = PREFIX.len() + stream.len();
        Self {
            text: format!("{PREFIX}{stream}.{consumer}"),
            stream_start: PREFIX.len() as u32,
            // NATS limits both names to 255 bytes.
            stream_end: u32::try_from(stream_end).unwrap_or(u32::MAX),
        }
    }

    /// Returns the ack subject of a delivery; the server reads no more than the id (`consumer.go`, `processAck`).
    pub(crate) fn delivery(&self, id: DeliveryId) -> AckSubject {
        self.delivery_with_pending(id, 0)
    }

    /// Returns the ack subject of a delivery, with `pending` undelivered messages after it.
    pub(crate) fn delivery_with_pending(&self, id: DeliveryId, pending: u64) -> AckSubject {
        let Self { text, stream_start, stream_end } = self;
        let DeliveryId { delivered, stream_sequence, consumer_sequence, stored_at, .. } = id;
        AckSubject {
            subject: format!("{text}.{delivered}.{stream_sequence}.{consumer_sequence}.{stored_at}.{pending}").into(),
            stream_start: *stream_start,
            stream_end: *stream_end,
            consumer_end: u32::try_from(text.len()).unwrap_or(u32::MAX),
            id,
        }
    }
}

/// Parses a number and the dot after it, and advances `text` past them.
///
/// It runs several times for every message, so it takes eight bytes at a time while there are so many.
fn number_before_dot(text: &mut &[u8]) -> Option<u64> {
    /// The maximum number of digits that always fit into a `u64`.
    const MAX_DIGITS: usize = 19;
    let (mut number, mut digits, mut rest) = (0_u64, 0, *text);
    while let Some((bytes, behind)) = rest.split_first_chunk::<EIGHT>() {
        let eight = Eight::of(*bytes);
        if eight.digits == EIGHT && digits < 2 * EIGHT {
            number = number * 100_000_000 + eight.value;
            digits += EIGHT;
            rest = behind;
            continue;
        }
        digits += eight.digits;
        if digits == 0 || digits > MAX_DIGITS || bytes[eight.digits] != b'.' {
            return None;
        }
        *text = &rest[eight.digits + 1..];
        return Some(number * POWERS[eight.digits] + eight.value);
    }
    for (index, byte) in rest.iter().enumerate() {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            *text = &rest[index + 1..];
            return (*byte == b'.' && digits > 0).then_some(number);
        }
        if digits == MAX_DIGITS {
            return None;
        }
        number = number * 10 + u64::from(digit);
        digits += 1;
    }
    None
}

const EIGHT: usize = 8;

/// The powers of ten, which cost a loop to compute.
const POWERS: [u64; EIGHT + 1] = [1, 10, 100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000];

/// The decimal digits at the beginning of eight bytes.
struct Eight {
    digits: usize,
    value: u64,
}

impl Eight {
    #[inline]
    fn of(bytes: [u8; EIGHT]) -> Self {
        let values = u64::from_le_bytes(bytes) ^ 0x3030_3030_3030_3030;
        // A byte above 9 has one of the upper four bits set, or has it after 6 is added; a carry changes only later bytes.
        let others = (values | values.wrapping_add(0x0606_0606_0606_0606)) & 0xf0f0_f0f0_f0f0_f0f0;
        let digits = others.trailing_zeros() as usize / EIGHT;
        // Zeros in front of the digits, in place of the bytes behind them.
        let values = values.checked_shl(64 - 8 * digits as u32).unwrap_or_default();
        // They are added in pairs, then in fours, then all.
        let pairs = (values * 10 + (values >> 8)) & 0x00ff_00ff_00ff_00ff;
        let fours = (pairs * 100 + (pairs >> 16)) & 0x0000_ffff_0000_ffff;
        Self { digits, value: (fours * 10_000 + (fours >> 32)) & 0xffff_ffff }
    }
}

/// Parses a number that consists of decimal digits only.
pub(crate) fn number(digits: &[u8]) -> Option<u64> {
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

    fn parse(subject: &str) -> AckSubject {
        AckSubject::parse(subject.into()).expect("it is an ack subject")
    }

    fn numbers(ack: &AckSubject) -> (u64, u64, u64) {
        let DeliveryId { delivered, stream_sequence, consumer_sequence, .. } = ack.id();
        (delivered, stream_sequence, consumer_sequence)
    }

    #[test]
    fn parses_version_1() {
        let ack = parse("$JS.ACK.ORDERS.order-processor.2.7.9.1795328670472827938.4");
        assert_eq!((ack.stream(), ack.consumer()), ("ORDERS", "order-processor"));
        assert_eq!(ack.stream_and_consumer(), "ORDERS.order-processor");
        assert_eq!(ack.wildcard(), "$JS.ACK.ORDERS.order-processor.>");
        assert_eq!((numbers(&ack), ack.pending()), ((2, 7, 9), 4));
        let stored = ack.stored_at().duration_since(SystemTime::UNIX_EPOCH).expect("it is after 1970");
        assert_eq!(stored.as_nanos(), 1_795_328_670_472_827_938);
    }

    #[test]
    fn parses_version_2_with_and_without_a_last_token() {
        for last in ["", ".x7Gh"] {
            let ack = parse(&format!("$JS.ACK.hub.szMpdrwD.S.D.1.2.3.1795328670472827938.5{last}"));
            assert_eq!((ack.stream(), ack.consumer()), ("S", "D"));
            assert_eq!((numbers(&ack), ack.pending()), ((1, 2, 3), 5));
        }
    }

    #[test]
    fn parses_the_next_delivery_of_the_same_consumer() {
        for (first, next) in [
            ("$JS.ACK.S.D.1.2.3.4.5", "$JS.ACK.S.D.2.70.80.90.100"),
            ("$JS.ACK.hub.hash.S.D.1.2.3.4.5.tail", "$JS.ACK.hub.hash.S.D.2.70.80.90.100.other"),
        ] {
            let ack = parse(first).parse_same_consumer(next.into()).expect("it is of the same consumer");
            assert_eq!((ack.stream(), ack.consumer()), ("S", "D"));
            assert_eq!((numbers(&ack), ack.pending()), ((2, 70, 80), 100));
        }
        let ack = parse("$JS.ACK.S.D.1.2.3.4.5");
        for other in ["$JS.ACK.S.DD.1.2.3.4.5", "$JS.ACK.S.E.1.2.3.4.5", "$JS.ACK.S.D", "$JS.ACK.S.D.x.2.3.4.5"] {
            assert!(ack.parse_same_consumer(other.into()).is_err(), "{other}");
        }
    }

    #[test]
    fn replaces_the_consumer_sequence() {
        for (delivery, answer) in [
            ("$JS.ACK.S.D.2.7.9.4.5", "$JS.ACK.S.D.2.7.3.4.5"),
            ("$JS.ACK.hub.hash.S.D.2.7.9.4.5.tail", "$JS.ACK.hub.hash.S.D.2.7.3.4.5.tail"),
        ] {
            let mut ack = parse(delivery);
            ack.set_ack_sequence(3);
            assert_eq!(ack.subject().as_str(), answer);
            assert_eq!((ack.id().consumer_sequence, ack.pending()), (9, 5));
        }
    }

    #[test]
    fn builds_what_it_parses() {
        let id = DeliveryId { delivered: 2, stream_sequence: 7, consumer_sequence: 9, ..DeliveryId::default() };
        let stored = DeliveryId { stored_at: 4, ..id };
        let v2 = parse("$JS.ACK.hub.hash.S.D.1.2.3.4.5.tail");
        for (built, subject) in [
            (AckPrefix::new("S", "D").delivery(id), "$JS.ACK.S.D.2.7.9.0.0"),
            (v2.prefix().delivery(id), "$JS.ACK.hub.hash.S.D.2.7.9.0.0"),
            (AckPrefix::new("S", "D").delivery_with_pending(stored, 5), "$JS.ACK.S.D.2.7.9.4.5"),
        ] {
            assert_eq!(built.subject().as_str(), subject);
            assert_eq!((built.stream(), built.consumer(), numbers(&built)), ("S", "D", (2, 7, 9)));
        }
    }

    #[test]
    fn parses_numbers_of_every_length() {
        for digits in 1..=19 {
            for number in
                [10_u64.pow(digits - 1), 9_876_543_210_123_456_789 % 10_u64.pow(digits), 10_u64.pow(digits) - 1]
            {
                let written = format!("{number}.rest");
                let mut text = written.as_bytes();
                assert_eq!((number_before_dot(&mut text), text), (Some(number), &b"rest"[..]), "{written}");
            }
        }
        let mut text = &b"00000000000000000007.1"[1..];
        assert_eq!(number_before_dot(&mut text), Some(7));
        // Neither a byte beside the digits in any place, nor more digits than fit, nor a number without its dot.
        for place in 0..19 {
            for byte in *b"/:x \x80\xff*" {
                let mut text = *b"1234567890123456789.";
                text[place] = byte;
                assert_eq!(number_before_dot(&mut &text[..]), None, "{byte} in place {place}");
            }
        }
        for text in ["", ".", "12345678", "12345678901234567890.", "99999999999999999999999999."] {
            assert_eq!(number_before_dot(&mut text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn refuses_other_subjects() {
        for subject in ["", "orders.created", "$JS.ACK.S.D.1.2.3", "$JS.ACK.S.D.1.2.3.x.5", "$JS.ACK.a.S.D.1.2.3.4.5"] {
            assert!(AckSubject::parse(subject.into()).is_none(), "{subject}");
        }
    }

    #[test]
    fn payloads_are_those_of_the_server() {
        assert_eq!(nak_payload(Duration::ZERO), "-NAK");
        assert_eq!(nak_payload(Duration::from_millis(2)), r#"-NAK {"delay":2000000}"#);
        assert_eq!(term_payload("invalid"), "+TERM invalid");
    }
}

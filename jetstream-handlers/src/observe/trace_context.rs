//! The trace of a message: the headers of W3C Trace Context and Baggage.

use std::fmt;

use async_nats::{HeaderMap, HeaderValue};

/// The header that names the trace and the span of the publisher.
pub(crate) const TRACEPARENT: &str = "traceparent";

/// The length of a `traceparent` of version 00.
const LENGTH: usize = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".len();

/// A valid `traceparent`.
///
/// <https://www.w3.org/TR/trace-context/#traceparent-header>
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TraceParent<'a> {
    /// 32 hexadecimal digits in lower case.
    pub(crate) trace_id: &'a str,
    /// 16 hexadecimal digits in lower case.
    pub(crate) span_id: &'a str,
    pub(crate) flags: u8,
}

impl<'a> TraceParent<'a> {
    /// Parses the value of the header; returns `None` if it must be ignored.
    pub(crate) fn parse(value: &'a str) -> Option<Self> {
        let value = value.trim();
        let mut fields = value.get(..LENGTH)?.split('-');
        let version = hex(fields.next()?, 2)?;
        let trace_id = hex(fields.next()?, 32).filter(is_not_zero)?;
        let span_id = hex(fields.next()?, 16).filter(is_not_zero)?;
        let flags = u8::from_str_radix(hex(fields.next()?, 2)?, 16).ok()?;
        let rest = &value[LENGTH..];
        // A later version may add fields.
        let ends = rest.is_empty() || version != "00" && rest.starts_with('-');
        (ends && version != "ff" && fields.next().is_none()).then_some(Self { trace_id, span_id, flags })
    }

    /// Returns `true` if the publisher has recorded its span.
    pub(crate) fn is_sampled(self) -> bool {
        self.flags & 1 == 1
    }

    /// Returns the trace context of a message.
    pub(crate) fn of(headers: &'a HeaderMap) -> Option<Self> {
        Self::parse(first(headers, TRACEPARENT)?)
    }
}

impl fmt::Display for TraceParent<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{}-{}-{:02x}", self.trace_id, self.span_id, self.flags)
    }
}

/// Returns a text if it has this length and only hexadecimal digits in lower case.
fn hex(text: &str, length: usize) -> Option<&str> {
    let is_hex = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    (text.len() == length && is_hex).then_some(text)
}

fn is_not_zero(digits: &&str) -> bool {
    digits.bytes().any(|digit| digit != b'0')
}

/// Returns the first value of a header with this name in any letter case.
pub(crate) fn first<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    values(headers, name).first().map(HeaderValue::as_str)
}

/// Returns the values of a header with this name in any letter case.
///
/// The map of the client library distinguishes upper and lower case, which these headers do not: publishers in Go write
/// `Traceparent`. Of several spellings, that in lower case is used, and otherwise the last one by its bytes.
pub(crate) fn values<'a>(headers: &'a HeaderMap, name: &str) -> &'a [HeaderValue] {
    let spellings = headers.iter().map(|(spelling, values)| (AsRef::<str>::as_ref(spelling), values));
    let same = spellings.filter(|(spelling, _)| spelling.eq_ignore_ascii_case(name));
    same.max_by_key(|(spelling, _)| *spelling).map(|(_, values)| &**values).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALUE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn valid_value_is_parsed_and_written() {
        let parsed = TraceParent::parse(VALUE).expect("it is valid");
        assert_eq!(parsed.trace_id, "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!((parsed.span_id, parsed.flags), ("00f067aa0ba902b7", 1));
        assert_eq!(parsed.to_string(), VALUE);
        assert_eq!(TraceParent::parse(&format!(" {VALUE} ")), Some(parsed));
        let later = format!("cc{}-what-comes-later", &VALUE[2..]);
        assert_eq!(TraceParent::parse(&later), Some(parsed));
    }

    #[test]
    fn invalid_values_are_ignored() {
        let invalid = [
            "",
            "00",
            &VALUE[1..],
            &VALUE[..LENGTH - 1],
            &format!("{VALUE}-more"),
            &format!("{VALUE}0"),
            &VALUE.to_uppercase(),
            &VALUE.replace("00-4", "ff-4"),
            &VALUE.replace("00-4", "0-04"),
            &VALUE.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            &VALUE.replace("00f067aa0ba902b7", &"0".repeat(16)),
            &VALUE.replace("-01", "-0x"),
            &VALUE.replace('-', "_"),
            &format!("{}é", &VALUE[..LENGTH - 1]),
            &"é".repeat(40),
        ];
        for value in invalid {
            assert_eq!(TraceParent::parse(value), None, "{value}");
        }
    }

    #[test]
    fn header_is_found_in_any_letter_case() {
        let other = VALUE.replace("-01", "-00");
        for name in ["traceparent", "Traceparent", "TRACEPARENT", "TraceParent"] {
            let mut headers = HeaderMap::new();
            headers.insert("Tenant", "eu");
            headers.insert(name, VALUE);
            assert_eq!(TraceParent::of(&headers).map(|found| found.flags), Some(1), "{name}");
        }
        let mut headers = HeaderMap::new();
        headers.insert("traceparent", VALUE);
        headers.insert("Traceparent", other.as_str());
        headers.insert("TRACEPARENT", other.as_str());
        assert_eq!(first(&headers, TRACEPARENT), Some(VALUE), "the name in lower case is the standard's");
        assert_eq!(TraceParent::of(&HeaderMap::new()), None);
    }
}

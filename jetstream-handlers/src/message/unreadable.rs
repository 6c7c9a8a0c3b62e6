//! Messages that the client library cannot read.

use std::str::FromStr as _;

use async_nats::StatusCode;
use async_nats::header::HeaderName;
use bytes::Bytes;

/// The parts of a message that the client library cannot read.
#[derive(Debug)]
pub(crate) struct Unreadable {
    /// The reason that it cannot be read.
    pub(crate) reason: String,
    /// The header block as its stream stores it.
    pub(crate) header_block: Bytes,
    /// `false` if the payload and the headers could not be read from the stream either.
    pub(crate) is_complete: bool,
}

/// Returns the reason that async-nats cannot read a delivery of this message, or `None` if it can.
///
/// async-nats ends the connection at such a message, and at some even its task (`connection.rs`, `try_read_op`).
/// The server accepts almost every byte in a subject or in headers.
pub(crate) fn unreadable(subject: &str, header_block: &[u8]) -> Option<String> {
    if subject.contains(char::REPLACEMENT_CHARACTER) {
        return Some("its subject is not UTF-8".to_owned());
    }
    if header_block.is_empty() {
        return None;
    }
    // The arguments of a message with headers are separated by any white space.
    if subject.contains(char::is_whitespace) {
        return Some(format!("its subject `{}` contains white space", subject.escape_debug()));
    }
    let Ok(text) = std::str::from_utf8(header_block) else {
        return Some("its headers are not UTF-8".to_owned());
    };
    let mut lines = text.lines().peekable();
    let Some(status) = lines.next().and_then(|line| line.strip_prefix("NATS/1.0")).map(str::trim) else {
        return Some("its headers do not begin with `NATS/1.0`".to_owned());
    };
    let status = status.split_once(' ').map_or(status, |(status, _)| status.trim());
    if !status.is_empty() && status.parse::<StatusCode>().is_err() {
        return Some(format!("its status `{}` is not a status code", status.escape_debug()));
    }
    while let Some(line) = lines.next() {
        if line.is_empty() {
            continue;
        }
        let Some((name, value)) = line.split_once(':') else {
            return Some(format!("its header line `{}` has no colon", line.escape_debug()));
        };
        if HeaderName::from_str(name).is_err() {
            return Some(format!("`{}` is not a header name", name.escape_debug()));
        }
        // A line that begins with white space continues the value.
        let mut value = value.trim_start().to_owned();
        while let Some(continuation) = lines.next_if(|line| line.starts_with(char::is_whitespace)) {
            value.push_str(continuation);
        }
        if value.trim_end().contains('\r') {
            return Some(format!("the value of its header `{name}` contains a carriage return"));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readable_messages_are_read() {
        for block in [
            "",
            "NATS/1.0\r\n\r\n",
            "NATS/1.0\r\nA: b\r\n\r\n",
            "NATS/1.0\r\nA: b\r\n c\r\n\r\n",
            "NATS/1.0 503\r\n\r\n",
            "NATS/1.0 100 Idle Heartbeat\r\nA:\r\n\r\n",
            "NATS/1.0\r\nA: ünï\r\n\r\n",
            "NATS/1.0\nA: b\n\n",
            "NATS/1.0\r\nA: b\r\r\n\r\n",
        ] {
            assert_eq!(unreadable("orders.created", block.as_bytes()), None, "{block:?}");
        }
        assert_eq!(unreadable("orders.\u{a0}", b""), None, "without headers, only a space separates arguments");
    }

    #[test]
    fn unreadable_messages_have_a_reason() {
        for (subject, block, reason) in [
            ("orders.\u{fffd}", &b""[..], "subject is not UTF-8"),
            ("orders.\u{a0}", b"NATS/1.0\r\n\r\n", "white space"),
            ("a", b"NATS/1.0\r\nCustomer: Zo\xeb\r\n\r\n", "not UTF-8"),
            ("a", b"NATS/2.0\r\nA: b\r\n\r\n", "NATS/1.0"),
            ("a", b"NATS/1.0 nine\r\n\r\n", "status"),
            ("a", b"NATS/1.0\r\nno colon\r\n\r\n", "no colon"),
            ("a", b"NATS/1.0\r\nno good: b\r\n\r\n", "not a header name"),
            ("a", b"NATS/1.0\r\nX: a\rb\r\n\r\n", "carriage return"),
            ("a", b"NATS/1.0\r\n leading: b\r\n\r\n", "not a header name"),
        ] {
            let found = unreadable(subject, block);
            assert!(found.as_ref().is_some_and(|found| found.contains(reason)), "{reason}: {found:?}");
        }
    }
}

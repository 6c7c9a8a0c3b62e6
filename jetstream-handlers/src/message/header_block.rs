//! The header block of a message as it is sent and stored.

use std::str::FromStr as _;

use async_nats::HeaderMap;
use async_nats::header::{HeaderName, HeaderValue};

const VERSION_LINE: &str = "NATS/1.0\r\n";

/// The largest header block that a stream stores, in bytes (`stream.go`, `processJetStreamMsg`).
pub(crate) const MAX_SIZE: usize = u16::MAX as usize;

/// Parses a header block.
///
/// The parser of async-nats keeps only one value of a header that a stored message repeats.
pub(crate) fn parse(block: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in String::from_utf8_lossy(block).split("\r\n").skip(1) {
        if let Some((name, value)) = line.split_once(':')
            && let (Ok(name), Ok(value)) = (HeaderName::from_str(name), HeaderValue::from_str(value.trim()))
        {
            headers.append(name, value);
        }
    }
    headers
}

/// Returns a header to be sent; `None` if its name has a space or a colon, or its value a line break.
pub(crate) fn header(name: &str, value: &str) -> Option<(HeaderName, HeaderValue)> {
    // The client library accepts an empty name, and sends a header line that cannot be parsed.
    let name = HeaderName::from_str(name).ok().filter(|_| !name.is_empty())?;
    Some((name, HeaderValue::from_str(value).ok()?))
}

/// Returns the header block with these headers, which is the same for the same headers.
pub(crate) fn write(headers: &HeaderMap) -> Vec<u8> {
    let mut block = VERSION_LINE.to_owned();
    let mut sorted: Vec<_> = headers.iter().collect();
    sorted.sort_by(|(one, _), (other, _)| AsRef::<str>::as_ref(*one).cmp(other.as_ref()));
    for (name, values) in sorted {
        for value in values {
            block.extend([name.as_ref(), ": ", value.as_str(), "\r\n"]);
        }
    }
    block.push_str("\r\n");
    block.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_block_is_parsed_with_all_values() {
        let mut headers = HeaderMap::new();
        for (name, value) in [("Tenant", "eu"), ("Tenant", "us"), ("Empty", ""), ("Text", "a: b")] {
            headers.append(name, value);
        }
        let block = write(&headers);
        assert_eq!(parse(&block), headers);
        assert!(block.starts_with(b"NATS/1.0\r\n") && block.ends_with(b"\r\n\r\n"));
        assert!(parse(b"").is_empty());
    }
}

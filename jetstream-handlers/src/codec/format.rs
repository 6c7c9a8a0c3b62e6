//! Payloads in another format than the expected one, recognized by how they begin.

use serde::de::IgnoredAny;
use serde_json::error::Category;

use super::content_type::JSON;
use crate::error::BoxError;

/// A byte order mark, which some editors and libraries write at the start of UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The number of bytes of a payload that an error shows.
const SHOWN: usize = 32;

#[cfg(feature = "compression")]
const GZIP: &str = "data that is compressed with gzip, without the header `Content-Encoding: gzip`";
#[cfg(feature = "compression")]
const ZSTD: &str = "data that is compressed with zstd, without the header `Content-Encoding: zstd`";
#[cfg(not(feature = "compression"))]
const GZIP: &str = "data that is compressed with gzip, which requires the feature `compression`";
#[cfg(not(feature = "compression"))]
const ZSTD: &str = "data that is compressed with zstd, which requires the feature `compression`";

/// Returns what a payload that cannot be decoded seems to be, if it is evidently not in the format of a codec.
pub(super) fn other_format(payload: &[u8], content_type: &str) -> Option<&'static str> {
    let other = if content_type == JSON { other_than_json(payload) } else { json(payload) };
    compressed(payload).or(other)
}

fn compressed(payload: &[u8]) -> Option<&'static str> {
    const KNOWN: [(&[u8], &str); 3] = [
        (b"\x1f\x8b", GZIP),
        (b"\x28\xb5\x2f\xfd", ZSTD),
        (b"\xff\x06\x00\x00sNaPpY", "data that is compressed with snappy"),
    ];
    KNOWN.iter().find(|(start, _)| payload.starts_with(start)).map(|(_, format)| *format)
}

fn json(payload: &[u8]) -> Option<&'static str> {
    // Numbers and words of JSON are numbers in MessagePack and CBOR too.
    let is_json = matches!(payload, [b'{' | b'[' | b'"', ..]) && serde_json::from_slice::<IgnoredAny>(payload).is_ok();
    is_json.then_some("JSON, without the header `Content-Type: application/json`")
}

fn other_than_json(payload: &[u8]) -> Option<&'static str> {
    match payload {
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => Some("UTF-16 text; JSON is UTF-8"),
        // The tag of CBOR that describes itself.
        [0xd9, 0xd9, 0xf7, ..] => Some("CBOR"),
        // A map or an array of MessagePack. CBOR has arrays there, and bytes that begin no JSON either.
        [0x80..=0x9f | 0xdc..=0xdf, ..] => Some("binary data, such as MessagePack"),
        [0xa0..=0xbf, ..] => Some("binary data, such as CBOR or MessagePack"),
        // No other control character begins JSON.
        [first, ..] if first.is_ascii_control() && !first.is_ascii_whitespace() => {
            Some("binary data, such as Protobuf")
        }
        _ => None,
    }
}

/// Returns the payload without the byte order mark at its start, if it has one.
pub(super) fn without_mark(payload: &[u8]) -> Option<&[u8]> {
    payload.strip_prefix(BYTE_ORDER_MARK)
}

/// Returns the first bytes of a payload that is not JSON from its beginning.
pub(super) fn beginning(payload: &[u8], error: &BoxError) -> Option<String> {
    let error = error.downcast_ref::<serde_json::Error>()?;
    // The category of an error is not kept where the payload is not UTF-8; its beginning shows the bytes that are not.
    let is_syntax =
        matches!(error.classify(), Category::Syntax | Category::Eof) || std::str::from_utf8(payload).is_err();
    if !is_syntax || error.line() > 1 || error.column() > SHOWN {
        return None;
    }
    let shown = payload[..payload.len().min(SHOWN)].escape_ascii();
    Some(format!("{shown}{}", if payload.len() > SHOWN { ".." } else { "" }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_recognized() {
        let named =
            |payload: &[u8], part: &str| other_format(payload, JSON).is_some_and(|format| format.contains(part));
        assert!(named(b"\xff\xfe{\0}\0", "UTF-16"));
        assert!(named(b"\x1f\x8b\x08\0", "gzip"));
        assert!(named(b"\x82\xa2id\x01", "MessagePack"));
        assert!(named(b"\xa2bid\x01", "CBOR"));
        assert!(named(b"\x08\x96\x01", "Protobuf"));
        for json in [&b"{}"[..], b" {}", b"\n[1]", b"\"\xc3\xbc\"", b"nul", b"", b"hello"] {
            assert_eq!(other_format(json, JSON), None, "{json:?}");
        }
        let cbor = |payload: &[u8]| other_format(payload, "application/cbor").unwrap_or_default();
        assert!(cbor(b"\x1f\x8b\x08\0").contains("gzip"));
        for json in [&b"{\"id\":7}"[..], b"[]", b"\"text\""] {
            assert!(cbor(json).starts_with("JSON"), "{json:?}");
        }
        for other in [&b"7"[..], b"{", b"\x82\xa2id\x01", b"null"] {
            assert_eq!(cbor(other), "", "{other:?}");
        }
    }
}

//! Payloads that are no JSON, recognized by how they begin.

/// Returns what a payload seems to be, if it is evidently not JSON.
pub(crate) fn other_format(payload: &[u8]) -> Option<&'static str> {
    const KNOWN: [(&[u8], &str); 7] = [
        (b"\xef\xbb\xbf", "text with a byte order mark, which JSON does not allow (RFC 8259); publish it without"),
        (b"\xff\xfe", "UTF-16 text; JSON is UTF-8"),
        (b"\xfe\xff", "UTF-16 text; JSON is UTF-8"),
        (b"\x1f\x8b", "data that is compressed with gzip"),
        (b"\x28\xb5\x2f\xfd", "data that is compressed with zstd"),
        (b"\xff\x06\x00\x00sNaPpY", "data that is compressed with snappy"),
        (b"\xd9\xd9\xf7", "CBOR"),
    ];
    if let Some((_, format)) = KNOWN.iter().find(|(start, _)| payload.starts_with(start)) {
        return Some(format);
    }
    match payload {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_recognized() {
        let named = |payload: &[u8], part: &str| other_format(payload).is_some_and(|format| format.contains(part));
        assert!(named(b"\xef\xbb\xbf{}", "byte order mark"));
        assert!(named(b"\xff\xfe{\0}\0", "UTF-16"));
        assert!(named(b"\x1f\x8b\x08\0", "gzip"));
        assert!(named(b"\x82\xa2id\x01", "MessagePack"));
        assert!(named(b"\xa2bid\x01", "CBOR"));
        assert!(named(b"\x08\x96\x01", "Protobuf"));
        for json in [&b"{}"[..], b" {}", b"\n[1]", b"\"\xc3\xbc\"", b"nul", b"", b"hello"] {
            assert_eq!(other_format(json), None, "{json:?}");
        }
    }
}

//! Compressed payloads.

use std::io::{self, Read, Write as _};

use async_nats::header::HeaderName;
use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use ruzstd::decoding::StreamingDecoder;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};

use super::Undecodable;
use crate::message::Message;

/// The header that names the compression of a payload.
pub(crate) const CONTENT_ENCODING: HeaderName = HeaderName::from_static("Content-Encoding");

/// The names of the header that are read.
const NAMES: [HeaderName; 3] =
    [CONTENT_ENCODING, HeaderName::from_static("content-encoding"), HeaderName::from_static("Nats-Encoding")];

/// The maximum size of a decompressed payload, in bytes: that of the largest message that a server accepts
/// (`MAX_PAYLOAD_MAX_SIZE` in its `const.go`).
const MAX_SIZE: u64 = 64 * 1024 * 1024;

/// The compression of a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    Gzip,
    Zstd,
}

impl Encoding {
    /// Returns the encoding with which a payload begins.
    fn of(payload: &[u8]) -> Option<Self> {
        match payload {
            [0x1f, 0x8b, ..] => Some(Self::Gzip),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Self::Zstd),
            _ => None,
        }
    }

    /// Returns the value of the header.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }

    pub(crate) fn compress(self, payload: &[u8]) -> io::Result<Vec<u8>> {
        match self {
            Self::Gzip => {
                let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::default());
                encoder.write_all(payload)?;
                encoder.finish()
            }
            Self::Zstd => Ok(compress_to_vec(payload, CompressionLevel::Fastest)),
        }
    }

    fn decompress(self, mut payload: &[u8], limit: u64) -> io::Result<Vec<u8>> {
        let mut decompressed = Vec::new();
        match self {
            Self::Gzip => {
                MultiGzDecoder::new(payload).take(limit + 1).read_to_end(&mut decompressed)?;
            }
            // A payload may consist of several frames (RFC 8878, section 3).
            Self::Zstd => {
                while !payload.is_empty() {
                    let decoder = StreamingDecoder::new_with_max_window_size(&mut payload, MAX_SIZE);
                    let left = (limit + 1).saturating_sub(decompressed.len() as u64);
                    decoder.map_err(io::Error::other)?.take(left).read_to_end(&mut decompressed)?;
                    if decompressed.len() as u64 > limit {
                        break;
                    }
                }
            }
        }
        if decompressed.len() as u64 > limit {
            return Err(io::Error::other(format!("it has more than {limit} bytes decompressed")));
        }
        Ok(decompressed)
    }
}

/// Returns the payload of a message, decompressed if its header and its beginning state that it is compressed.
///
/// A message with the header alone is left as it is: something between its publisher and the stream may have
/// decompressed it.
pub(super) fn body(message: &Message) -> Result<&Bytes, Undecodable> {
    let payload = &message.payload;
    let Some(encoding) = Encoding::of(payload).filter(|encoding| states(message, *encoding)) else {
        return Ok(payload);
    };
    if let Some(decompressed) = message.decompressed.0.get() {
        return Ok(decompressed);
    }
    let decompressed = encoding.decompress(payload, MAX_SIZE).map_err(|error| {
        Undecodable::new(format!("the payload cannot be decompressed with {}: {error}", encoding.name()))
    })?;
    Ok(message.decompressed.0.get_or_init(|| decompressed.into()))
}

fn states(message: &Message, encoding: Encoding) -> bool {
    let Some(headers) = &message.headers else { return false };
    let value = NAMES.into_iter().find_map(|name| headers.get(name));
    value.is_some_and(|value| value.as_str().trim().eq_ignore_ascii_case(encoding.name()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: [Encoding; 2] = [Encoding::Gzip, Encoding::Zstd];

    #[test]
    fn payload_is_read_as_it_was_compressed() {
        let text = b"one order, and the next order, ".repeat(1000);
        for encoding in BOTH {
            let compressed = encoding.compress(&text).unwrap();
            assert!(compressed.len() < text.len() / 10, "{encoding:?}: {}", compressed.len());
            assert_eq!(Encoding::of(&compressed), Some(encoding));
            assert_eq!(encoding.decompress(&compressed, 31_000).unwrap(), text);
            let twice = [compressed.clone(), compressed.clone()].concat();
            assert_eq!(encoding.decompress(&twice, 62_000).unwrap(), text.repeat(2));
            for end in 4..compressed.len() {
                assert!(encoding.decompress(&compressed[..end], 31_000).is_err(), "{encoding:?}, {end} bytes");
            }
            let rest = [&compressed[..], b"rest"].concat();
            assert!(encoding.decompress(&rest, 31_000).is_err());
        }
    }

    #[test]
    fn bomb_is_refused_at_the_limit() {
        for encoding in BOTH {
            let compressed = encoding.compress(&vec![0; 1_000_000]).unwrap();
            let error = encoding.decompress(&compressed, 999_999).unwrap_err().to_string();
            assert_eq!(error, "it has more than 999999 bytes decompressed", "{encoding:?}");
            let many = compressed.repeat(100);
            assert!(encoding.decompress(&many, 1_000_000).is_err(), "{encoding:?}");
        }
    }

    #[test]
    fn header_and_beginning_must_agree() {
        let compressed = Encoding::Gzip.compress(b"7").unwrap();
        let body_of = |payload: &[u8], name: &str, value: &str| {
            let message = Message::new("orders.created", payload.to_vec()).with_header(name, value);
            body(&message).unwrap().to_vec()
        };
        for name in ["Content-Encoding", "content-encoding", "Nats-Encoding"] {
            assert_eq!(body_of(&compressed, name, "GZIP"), b"7");
        }
        assert_eq!(body_of(&compressed, "Content-Encoding", "zstd"), compressed);
        assert_eq!(body_of(&compressed, "Accept-Encoding", "gzip"), compressed);
        assert_eq!(body_of(b"7", "Content-Encoding", "gzip"), b"7");
        assert_eq!(body_of(b"7", "Content-Encoding", "utf-8"), b"7");
    }

    /// Decompresses data that differs from valid data in some bytes; none of it may panic, or exceed the limit.
    #[test]
    fn damaged_data_is_an_error_or_within_the_limit() {
        let mut random = fastrand::Rng::with_seed(7);
        let text: Vec<u8> = (0..2_000).map(|_| random.u8(b'a'..b'f')).collect();
        for encoding in BOTH {
            let compressed = encoding.compress(&text).unwrap();
            let mut errors = 0;
            for _ in 0..500 {
                let mut damaged = compressed.clone();
                let place = random.usize(4..damaged.len());
                damaged[place] = random.u8(..);
                match encoding.decompress(&damaged, 3_000) {
                    Ok(decompressed) => assert!(decompressed.len() <= 3_000),
                    Err(_) => errors += 1,
                }
            }
            assert!(errors > 100, "{encoding:?}: {errors}");
        }
    }
}

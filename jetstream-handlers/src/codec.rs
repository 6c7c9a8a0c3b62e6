//! Encoding and decoding of payloads, as JSON.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// The error of encoding a value or decoding a payload.
pub(crate) type CodecError = serde_json::Error;

/// Encodes a value as a payload.
pub(crate) fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Bytes, CodecError> {
    serde_json::to_vec(value).map(Bytes::from)
}

/// Decodes a payload; the value may borrow from it.
pub(crate) fn decode<'a, T: Deserialize<'a>>(payload: &'a [u8]) -> Result<T, CodecError> {
    serde_json::from_slice(payload)
}

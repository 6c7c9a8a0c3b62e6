//! Encoding and decoding of payloads, as JSON.

use bytes::Bytes;
use serde::de::{Deserializer, Error as _, Visitor};
use serde::{Deserialize, Serialize, forward_to_deserialize_any};

/// The error of encoding a value or decoding a payload.
pub(crate) type CodecError = serde_json::Error;

/// Encodes a value as a payload.
pub(crate) fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Bytes, CodecError> {
    serde_json::to_vec(value).map(Bytes::from)
}

/// Decodes a payload; the value may borrow from it.
///
/// An empty payload is `None` for an `Option`, the value of a unit type, and an error for any other type.
pub(crate) fn decode<'a, T: Deserialize<'a>>(payload: &'a [u8]) -> Result<T, CodecError> {
    if payload.is_empty() { T::deserialize(Empty) } else { serde_json::from_slice(payload) }
}

/// The deserializer of an empty payload.
struct Empty;

impl<'de> Deserializer<'de> for Empty {
    type Error = CodecError;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, CodecError> {
        Err(CodecError::custom("the payload is empty"))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, CodecError> {
        visitor.visit_none()
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, CodecError> {
        visitor.visit_unit()
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, CodecError> {
        visitor.visit_unit()
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, CodecError> {
        visitor.visit_newtype_struct(self)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf seq tuple tuple_struct map
        struct enum identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::Value;

    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    struct Unit;

    #[derive(Debug, PartialEq, Deserialize)]
    struct Wrapper(Option<u64>);

    #[test]
    fn empty_payload_is_a_value_of_types_that_have_one_without_content() {
        assert_eq!(decode::<()>(b"").ok(), Some(()));
        assert_eq!(decode::<Unit>(b"").ok(), Some(Unit));
        assert_eq!(decode::<Option<String>>(b"").ok(), Some(None));
        assert_eq!(decode::<Wrapper>(b"").ok(), Some(Wrapper(None)));
        assert!(decode::<String>(b"").is_err());
        assert!(decode::<Value>(b"").is_err());
        assert!(decode::<Vec<u64>>(b"").is_err());
        assert!(decode::<BTreeMap<String, u64>>(b"").is_err());
        assert_eq!(decode::<Option<u64>>(b"7").ok(), Some(Some(7)));
        assert_eq!(decode::<Option<u64>>(b"null").ok(), Some(None));
    }
}

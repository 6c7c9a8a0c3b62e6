//! Decoding of an empty payload, which no format but Protobuf has.

use serde::Deserialize;
use serde::de::value::Error;
use serde::de::{Deserializer, Error as _, Visitor};
use serde::forward_to_deserialize_any;

/// Decodes an empty payload: `None` for an `Option`, the value of a unit type, and `None` here for any other type.
pub(super) fn decode<'a, T: Deserialize<'a>>() -> Option<T> {
    T::deserialize(Empty).ok()
}

/// Returns `true` if a type cannot be decoded from an empty payload.
pub(crate) fn needs_value<'a, T: Deserialize<'a>>() -> bool {
    decode::<T>().is_none()
}

/// The deserializer of an empty payload.
struct Empty;

impl<'de> Deserializer<'de> for Empty {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
        Err(Error::custom("the payload is empty"))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_none()
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
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
        assert_eq!(decode::<()>(), Some(()));
        assert_eq!(decode::<Unit>(), Some(Unit));
        assert_eq!(decode::<Option<String>>(), Some(None));
        assert_eq!(decode::<Wrapper>(), Some(Wrapper(None)));
        assert!(needs_value::<String>());
        assert!(needs_value::<Value>());
        assert!(needs_value::<Vec<u64>>());
        assert!(needs_value::<BTreeMap<String, u64>>());
    }
}

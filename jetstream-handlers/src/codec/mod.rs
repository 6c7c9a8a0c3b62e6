//! Encoding and decoding of payloads, as JSON.

mod empty;
mod finite;
mod format;

use std::io;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::ser::{CompactFormatter, Formatter, Serializer};

pub(crate) use format::other_format;

/// The error of encoding a value or decoding a payload.
pub(crate) type CodecError = serde_json::Error;

/// The initial capacity of a payload, in which most messages fit without another allocation.
const CAPACITY: usize = 256;

/// Encodes a value as a payload.
///
/// Fails for a number that JSON does not have, such as a NaN, for which `serde_json` alone writes `null`.
pub(crate) fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Bytes, CodecError> {
    let mut payload = Vec::with_capacity(CAPACITY);
    let mut has_null = false;
    let format = NoteNull { compact: CompactFormatter, has_null: &mut has_null };
    value.serialize(&mut Serializer::with_formatter(&mut payload, format))?;
    // Only a value with a `null` is looked through, so that others cost nothing.
    if has_null {
        finite::check(value)?;
    }
    Ok(payload.into())
}

/// Decodes a payload; the value may borrow from it.
///
/// An empty payload is `None` for an `Option`, the value of a unit type, and an error for any other type.
pub(crate) fn decode<'a, T: Deserialize<'a>>(payload: &'a [u8]) -> Result<T, CodecError> {
    if payload.is_empty() { T::deserialize(empty::Empty) } else { serde_json::from_slice(payload) }
}

/// Writes JSON without spaces, and notes whether it has a `null`.
struct NoteNull<'a> {
    compact: CompactFormatter,
    has_null: &'a mut bool,
}

impl Formatter for NoteNull<'_> {
    fn write_null<W: io::Write + ?Sized>(&mut self, writer: &mut W) -> io::Result<()> {
        *self.has_null = true;
        self.compact.write_null(writer)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Serialize;
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

    #[derive(Serialize)]
    struct Reading {
        sensor: Option<u8>,
        values: Vec<f64>,
        by_room: BTreeMap<&'static str, f32>,
    }

    fn reading(value: f64, in_room: f32) -> Reading {
        Reading { sensor: None, values: vec![1.0, value], by_room: BTreeMap::from([("kitchen", in_room)]) }
    }

    #[test]
    fn numbers_that_json_lacks_are_refused_with_their_place() {
        let told = |value: &Reading| encode(value).unwrap_err().to_string();
        assert!(told(&reading(f64::NAN, 0.0)).starts_with("`values[1]` is NaN"), "{}", told(&reading(f64::NAN, 0.0)));
        let infinite = told(&reading(0.0, f32::NEG_INFINITY));
        assert!(infinite.starts_with("`by_room.kitchen` is -inf"), "{infinite}");
        let alone = encode(&f64::INFINITY).unwrap_err().to_string();
        assert!(alone.starts_with("the value is inf"), "{alone}");
        #[derive(Serialize)]
        enum Shape {
            Circle(f64),
            Box { width: Option<f64> },
        }
        let shape = encode(&(Shape::Circle(f64::NAN), ())).unwrap_err().to_string();
        assert!(shape.starts_with("`[0].Circle` is NaN"), "{shape}");
        let shape = encode(&Shape::Box { width: Some(f64::NAN) }).unwrap_err().to_string();
        assert!(shape.starts_with("`Box.width` is NaN"), "{shape}");
    }

    #[test]
    fn other_values_are_encoded_as_by_serde_json() {
        let values = reading(f64::MAX, f32::MIN_POSITIVE);
        assert_eq!(encode(&values).unwrap(), serde_json::to_vec(&values).unwrap());
        let nulls = serde_json::json!({ "a": null, "b": [null, 1e300, "x", true, { "c": 'd' }] });
        assert_eq!(encode(&nulls).unwrap(), serde_json::to_vec(&nulls).unwrap());
        let map = BTreeMap::from([(1_u8, None), (2, Some("two"))]);
        assert_eq!(encode(&map).unwrap(), serde_json::to_vec(&map).unwrap());
        assert_eq!(encode("text").unwrap(), "\"text\"");
        assert!(encode(&BTreeMap::from([((1, 2), None::<u8>)])).is_err());
    }
}

//! JSON, the default format.

use std::io;

use serde::Serialize;
use serde::de::DeserializeSeed;
use serde_json::ser::{CompactFormatter, Formatter, Serializer};

use super::coded::wrapper;
use super::content_type::JSON;
use super::{Codec, finite};
use crate::error::BoxError;

/// The initial capacity of a payload, in which most messages fit without another allocation.
const CAPACITY: usize = 256;

/// JSON as a [`Codec`], which is the default of [`Builder::codec`](crate::Builder::codec).
///
/// Numbers that JSON does not have, such as a NaN, are refused instead of being written as `null`.
///
/// # Examples
///
/// ```
/// use jetstream_handlers::{Broker, JsonCodec};
///
/// let broker = Broker::builder().codec(JsonCodec).connect_in_memory();
/// # drop(broker);
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct JsonCodec;

impl Codec for JsonCodec {
    const CONTENT_TYPE: &'static str = JSON;

    fn encode<T: Serialize + ?Sized>(&self, value: &T) -> Result<Vec<u8>, BoxError> {
        let mut payload = Vec::with_capacity(CAPACITY);
        let mut has_null = false;
        let format = NoteNull { compact: CompactFormatter, has_null: &mut has_null };
        value.serialize(&mut Serializer::with_formatter(&mut payload, format))?;
        // Only a value with a `null` is looked through, so that others cost nothing.
        if has_null {
            finite::check(value)?;
        }
        Ok(payload)
    }

    fn decode<'de, S: DeserializeSeed<'de>>(&self, payload: &'de [u8], seed: S) -> Result<S::Value, BoxError> {
        let mut deserializer = serde_json::Deserializer::from_slice(payload);
        let value = seed.deserialize(&mut deserializer)?;
        deserializer.end()?;
        Ok(value)
    }
}

/// A payload in JSON, whatever the default format of the broker is.
///
/// # Examples
///
/// ```
/// use jetstream_handlers::{Json, prelude::*};
///
/// #[subscriber(subject = "orders.created", queue = "billing")]
/// async fn bill(Json(order): Json<u64>, publisher: Publisher) -> HandlerResult {
///     publisher.publish("orders.billed", &Json(order)).await?;
///     Ok(())
/// }
///
/// # async fn test(publisher: Publisher) {
/// // In a unit test:
/// assert!(bill(Json(7), publisher).await.is_ok());
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Json<T>(pub T);

wrapper!(Json, JsonCodec);

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

    use super::*;

    fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, BoxError> {
        JsonCodec.encode(value)
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
        assert_eq!(encode("text").unwrap(), b"\"text\"");
        assert!(encode(&BTreeMap::from([((1, 2), None::<u8>)])).is_err());
    }
}

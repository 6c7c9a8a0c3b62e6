//! JSON, the default format.

use std::io;

use serde::Serialize;
use serde::de::{DeserializeSeed, Error as _};
use serde_json::ser::{CompactFormatter, Formatter, Serializer};

use super::coded::wrapper;
use super::content_type::JSON;
use super::erased::deserialize_erased;
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
        // All bytes are checked at once, which is cheaper than each string by itself.
        let Ok(text) = std::str::from_utf8(payload) else { return decode_bytes(payload, seed) };
        let mut deserializer = serde_json::Deserializer::from_str(text);
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

/// Decodes a payload that is not UTF-8: an error states the place, and a string that the type ignores is skipped.
///
/// The deserializer is erased, so that a payload type is not compiled once more for payloads that are rare.
fn decode_bytes<'de, S: DeserializeSeed<'de>>(payload: &'de [u8], seed: S) -> Result<S::Value, BoxError> {
    let mut deserializer = serde_json::Deserializer::from_slice(payload);
    let value = deserialize_erased(&mut deserializer, seed).map_err(serde_json::Error::custom)?;
    deserializer.end()?;
    Ok(value)
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
    use std::borrow::Cow;
    use std::collections::BTreeMap;
    use std::fmt::Debug;
    use std::marker::PhantomData;

    use serde::Deserialize;
    use serde::de::{Deserializer, IgnoredAny};
    use serde_json::value::RawValue;

    use super::*;

    fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, BoxError> {
        JsonCodec.encode(value)
    }

    fn decode<'a, T: Deserialize<'a>>(payload: &'a [u8]) -> Result<T, String> {
        JsonCodec.decode(payload, PhantomData).map_err(|error| error.to_string())
    }

    /// The name of the deserializer that decoded a value.
    struct DecodedBy(&'static str);

    impl<'de> Deserialize<'de> for DecodedBy {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            IgnoredAny::deserialize(deserializer).map(|_| Self(std::any::type_name::<D>()))
        }
    }

    #[test]
    fn text_is_checked_once_and_other_payloads_are_decoded_by_an_erased_deserializer() {
        let decoded_by = |payload| decode::<DecodedBy>(payload).unwrap().0;
        assert!(decoded_by(b"\"\xc3\xbc\"").contains("StrRead"), "{}", decoded_by(b"\"\xc3\xbc\""));
        assert!(decoded_by(b"\"\xff\"").contains("dyn erased_serde"), "{}", decoded_by(b"\"\xff\""));
    }

    #[derive(Debug, Deserialize)]
    #[expect(dead_code, reason = "shown by `Debug`")]
    struct Note<'a> {
        id: u64,
        #[serde(borrow)]
        tags: Vec<&'a str>,
        text: Cow<'a, str>,
        kind: Kind,
        raw: Option<&'a RawValue>,
        limit: Option<i128>,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Kind {
        Plain,
        Signed { by: String },
    }

    /// Decodes a payload as the codec and as `serde_json::from_slice` do, which must agree in the value or the error,
    /// and returns `true` for a value.
    fn agrees<'a, T: Deserialize<'a> + Debug>(payload: &'a [u8]) -> bool {
        let shown = |decoded: Result<T, String>| format!("{decoded:?}");
        let expected = serde_json::from_slice::<T>(payload).map_err(|error| error.to_string());
        let is_value = expected.is_ok();
        let name = std::any::type_name::<T>();
        assert_eq!(shown(decode(payload)), shown(expected), "`{}` as `{name}`", payload.escape_ascii());
        is_value
    }

    #[test]
    fn values_and_errors_are_those_of_bytes() {
        let note = concat!(
            r#"{"id":7,"tags":["a","ü"],"text":"\"so\" \u00fc","kind":{"signed":{"by":"Ada"}},"junk":"long enough to"#,
            r#" be hit","raw":[1, "y"],"limit":170141183460469231731687303715884105727}"#
        );
        assert!(agrees::<Note<'_>>(note.as_bytes()));
        let mut random = fastrand::Rng::with_seed(7);
        let (mut text, mut bytes) = ([0; 2], [0; 2]);
        for _ in 0..5_000 {
            let mut payload = note.as_bytes().to_vec();
            for _ in 0..random.usize(..3) {
                let place = random.usize(..payload.len());
                payload[place] = random.u8(..);
            }
            let counts = if std::str::from_utf8(&payload).is_ok() { &mut text } else { &mut bytes };
            counts[usize::from(agrees::<Note<'_>>(&payload))] += 1;
            agrees::<serde_json::Value>(&payload);
            agrees::<BTreeMap<String, &RawValue>>(&payload);
            agrees::<Vec<u64>>(&payload);
        }
        let counts = [text, bytes];
        assert!(
            counts.iter().flatten().all(|count| *count > 50),
            "errors and values, of text and of bytes: {counts:?}"
        );
    }

    #[test]
    fn bytes_that_are_not_text_are_accepted_where_they_are_ignored() {
        #[derive(Debug, PartialEq, Deserialize)]
        struct Id {
            id: u64,
        }

        assert_eq!(decode(b"{\"junk\":\"\xff\",\"id\":7}"), Ok(Id { id: 7 }));
        let error = decode::<&str>(b"\"abc\xff\"").unwrap_err();
        assert_eq!(error, "invalid unicode code point at line 1 column 5");
        assert_eq!(decode::<u64>(b"7 \xff"), Err("trailing characters at line 1 column 3".to_owned()));
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

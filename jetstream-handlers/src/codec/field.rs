//! One field of a payload, found by its path without the type of the payload.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::content_type::{Kind, media_type};
use super::error::explain_as;
use super::format::without_mark;
use super::payload::{body, is_evident, refuse_other};
use super::{DefaultCodec, Undecodable};
use crate::error::BoxError;
use crate::message::Message;

/// The name under which `serde_json` passes on a number as it is written, if a crate of the application enables its
/// feature `arbitrary_precision`.
const NUMBER: &str = "$serde_json::private::Number";

/// The format of the payload that a handler takes.
#[derive(Debug, Clone, Default)]
pub enum PayloadFormat {
    /// The default of the broker.
    #[default]
    Default,
    /// The one that its type names.
    Named(DefaultCodec),
    /// One without the names of fields.
    Nameless(&'static str),
}

impl PayloadFormat {
    /// Returns what `key` makes of the text of the field with this path.
    ///
    /// If an object has the field several times, the last one counts, as in `serde_json::Value`.
    pub(crate) fn field(
        &self,
        message: &Message,
        default: &DefaultCodec,
        path: &str,
        key: fn(&str) -> u64,
    ) -> Result<u64, Undecodable> {
        let value = self.find(message, default, Field { path, start: 0, key })?;
        value.map_err(|Unfit { end, what }| Undecodable::new(unfit(path, end, what)))
    }

    /// Looks for a field in the format in which the payload is decoded for the handler.
    fn find(&self, message: &Message, default: &DefaultCodec, field: Field<'_>) -> Result<Value, Undecodable> {
        let codec = match self {
            Self::Default => default,
            Self::Named(codec) => codec,
            Self::Nameless(format) => return Err(nameless(format)),
        };
        let payload = body(message)?;
        if payload.is_empty() {
            return Err(Undecodable::new("the payload is empty"));
        }
        if codec.is_json()
            && is_evident(payload)
            && let Ok(value) = codec.decode_seed(payload, field)
        {
            return Ok(value);
        }
        let (other, stated) = match self {
            Self::Named(codec) => {
                refuse_other(codec.content_type(), message)?;
                (None, String::new())
            }
            _ if media_type(message).and_then(Kind::of) == Some(Kind::Protobuf) => {
                return Err(nameless(Kind::Protobuf.name()));
            }
            _ => codec.stated(message)?,
        };
        let codec = other.as_ref().unwrap_or(codec);
        let payload = without_mark(payload).filter(|_| codec.is_json()).unwrap_or(payload);
        let explained = |error: BoxError| explain_as("", String::new, codec.content_type(), payload, &stated, &error);
        codec.decode_seed(payload, field).map_err(explained)
    }
}

fn nameless(format: &str) -> Undecodable {
    Undecodable::new(format!(
        "the payload is {format}, which has no names of fields; take the key from a header or the subject"
    ))
}

/// The key in the field, or what is there instead.
type Value = Result<u64, Unfit>;

/// A place in a payload that is not the key, or does not lead to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Unfit {
    /// The end of the part of the path that leads to it.
    end: usize,
    what: &'static str,
}

const MISSING: &str = "missing";
const OBJECT: &str = "an object";
const ARRAY: &str = "an array";
const NULL: &str = "null";
const FLOAT: &str = "a number that is not an integer of at most 64 bits";

/// Returns the text for a place in a payload.
fn unfit(path: &str, end: usize, what: &str) -> String {
    let place = match &path[..end.min(path.len())] {
        "" => "the payload".to_owned(),
        existing => format!("`{existing}` in the payload"),
    };
    let Some(rest) = path.get(end..).map(|rest| rest.trim_start_matches('.')).filter(|rest| !rest.is_empty()) else {
        return format!("{place} is {what}; expected a text, an integer or a bool");
    };
    let field = rest.split('.').next().unwrap_or_default();
    match what {
        MISSING => format!("{place} has no `{field}`"),
        ARRAY => format!("{place} is an array; expected a position in place of `{field}`"),
        _ => format!("{place} is {what}, which has no `{field}`"),
    }
}

/// The search for a field in a value, which is at the part of the path before `start`.
#[derive(Clone, Copy)]
struct Field<'a> {
    path: &'a str,
    /// The beginning of the part that is still to be found; behind the end of the path, if the value is the field.
    start: usize,
    key: fn(&str) -> u64,
}

impl<'a> Field<'a> {
    /// Returns the name of the next field; `None` if the value is the field.
    fn next(&self) -> Option<&'a str> {
        self.path.get(self.start..)?.split('.').next()
    }

    /// Returns the search in the value of the next field.
    fn inside(self, name: &str) -> Self {
        // Behind the dot, or one behind the end.
        Self { start: self.start + name.len() + 1, ..self }
    }

    fn unfit(self, what: &'static str) -> Value {
        Err(Unfit { end: self.start.saturating_sub(1), what })
    }

    fn text(self, text: &str, what: &'static str) -> Value {
        if self.next().is_none() { Ok((self.key)(text)) } else { self.unfit(what) }
    }

    /// Returns the value of a number as it is written.
    fn number(self, number: &str) -> Value {
        let is_integer = number.parse::<i64>().is_ok() || number.parse::<u64>().is_ok();
        if is_integer { self.text(number, "a number") } else { self.unfit(FLOAT) }
    }
}

impl<'de> DeserializeSeed<'de> for Field<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

macro_rules! integers {
    ($($method:ident: $type:ty,)*) => {$(
        fn $method<E>(self, number: $type) -> Result<Value, E> {
            Ok(self.text(&number.to_string(), "a number"))
        }
    )*};
}

impl<'de> Visitor<'de> for Field<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    integers! {
        visit_i64: i64,
        visit_i128: i128,
        visit_u64: u64,
        visit_u128: u128,
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(self.text(if value { "true" } else { "false" }, "a bool"))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Value, E> {
        Ok(self.unfit(FLOAT))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(self.text(text, "a text"))
    }

    fn visit_bytes<E>(self, _: &[u8]) -> Result<Value, E> {
        Ok(self.unfit("binary data"))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(self.unfit(NULL))
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(self.unfit(NULL))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.deserialize(deserializer)
    }

    /// An extension type of MessagePack.
    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(IgnoredAny)?;
        Ok(self.unfit("a value of an extension type"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Value, A::Error> {
        let Some(name) = self.next() else {
            while elements.next_element::<IgnoredAny>()?.is_some() {}
            return Ok(self.unfit(ARRAY));
        };
        let position = name.parse::<usize>();
        let mut value = self.unfit(if position.is_ok() { MISSING } else { ARRAY });
        let mut index = 0;
        loop {
            if position == Ok(index) {
                match elements.next_element_seed(self.inside(name))? {
                    Some(element) => value = element,
                    None => return Ok(value),
                }
            } else if elements.next_element::<IgnoredAny>()?.is_none() {
                return Ok(value);
            }
            index += 1;
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let name = self.next();
        let mut value = self.unfit(if name.is_some() { MISSING } else { OBJECT });
        while let Some(is_found) = entries.next_key_seed(Is(name.unwrap_or(NUMBER)))? {
            match name {
                Some(name) if is_found => value = entries.next_value_seed(self.inside(name))?,
                None if is_found => value = self.number(&entries.next_value::<String>()?),
                _ => drop(entries.next_value::<IgnoredAny>()?),
            }
        }
        Ok(value)
    }
}

/// The comparison of an object's key with the name of a field.
struct Is<'a>(&'a str);

impl<'de> DeserializeSeed<'de> for Is<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Is<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a field")
    }

    fn visit_str<E>(self, text: &str) -> Result<bool, E> {
        Ok(text == self.0)
    }

    fn visit_bytes<E>(self, bytes: &[u8]) -> Result<bool, E> {
        Ok(bytes == self.0.as_bytes())
    }

    // The keys of a map in MessagePack and CBOR may be of any type.
    fn visit_i64<E>(self, number: i64) -> Result<bool, E> {
        Ok(number.to_string() == self.0)
    }

    fn visit_u64<E>(self, number: u64) -> Result<bool, E> {
        Ok(number.to_string() == self.0)
    }

    fn visit_i128<E>(self, _: i128) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_bool<E>(self, _: bool) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_f64<E>(self, _: f64) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_unit<E>(self) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_any(IgnoredAny)?;
        Ok(false)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<bool, A::Error> {
        while elements.next_element::<IgnoredAny>()?.is_some() {}
        Ok(false)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<bool, A::Error> {
        while entries.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use std::hash::{DefaultHasher, Hash as _, Hasher as _};

    use serde::Serialize;

    use super::*;
    use crate::codec::{Codec, JsonCodec};

    fn key(text: &str) -> u64 {
        let mut hasher = DefaultHasher::new();
        text.hash(&mut hasher);
        hasher.finish()
    }

    fn find(format: &PayloadFormat, path: &str, message: &Message) -> Result<u64, String> {
        format.field(message, &DefaultCodec::default(), path, key).map_err(|error| error.to_string())
    }

    fn field(path: &str, payload: impl AsRef<[u8]>) -> Result<u64, String> {
        find(&PayloadFormat::Default, path, &Message::new("orders.created", payload.as_ref().to_vec()))
    }

    #[track_caller]
    fn assert_unfit(path: &str, payload: impl AsRef<[u8]>, expected: &str) {
        assert_eq!(field(path, payload), Err(expected.to_owned()), "for `{path}`");
    }

    #[test]
    fn field_is_found_by_its_path() {
        let order =
            r#"{"note":{"id":1},"order":{"id":7,"customer":{"id":"c-1","active":true}},"items":[{"sku":"a"},["b"]]}"#;
        for (path, expected) in [
            ("order.customer.id", "c-1"),
            ("order.customer.active", "true"),
            ("order.id", "7"),
            ("items.0.sku", "a"),
            ("items.1.0", "b"),
        ] {
            assert_eq!(field(path, order), Ok(key(expected)), "{path}");
        }
        assert_eq!(field("0", "[-5]"), Ok(key("-5")));
        assert_eq!(field("a b", r#"{"a b":"\u00fc\""}"#), Ok(key("ü\"")));
    }

    #[test]
    fn values_with_the_same_text_are_the_same_key() {
        for (one, other) in [("7", "\"7\""), ("18446744073709551615", "\"18446744073709551615\""), ("true", "\"true\"")]
        {
            assert_eq!(field("id", format!("{{\"id\":{one}}}")), field("id", format!("{{\"id\":{other}}}")));
        }
        assert_ne!(field("id", r#"{"id":7}"#), field("id", r#"{"id":70}"#));
        assert_eq!(field("id", r#"{"id":""}"#), Ok(key("")));
    }

    #[test]
    fn last_of_several_fields_counts() {
        let payload = r#"{"id":1,"order":{"id":2},"id":3,"order":{"id":4}}"#;
        let value: serde_json::Value = serde_json::from_str(payload).unwrap();
        assert_eq!((&value["id"], &value["order"]["id"]), (&3.into(), &4.into()));
        assert_eq!(field("id", payload), Ok(key("3")));
        assert_eq!(field("order.id", payload), Ok(key("4")));
        assert_unfit(
            "order.id",
            r#"{"order":{"id":1},"order":null}"#,
            "`order` in the payload is null, which has no `id`",
        );
    }

    #[test]
    fn missing_field_is_named_with_the_part_that_exists() {
        assert_unfit("customer", "{}", "the payload has no `customer`");
        assert_unfit("order.id", r#"{"id":7}"#, "the payload has no `order`");
        assert_unfit(
            "order.customer.id",
            r#"{"order":{"customer":{}}}"#,
            "`order.customer` in the payload has no `id`",
        );
        assert_unfit("items.2.sku", r#"{"items":[1,2]}"#, "`items` in the payload has no `2`");
        assert_unfit("order.id", r#"{"order":7}"#, "`order` in the payload is a number, which has no `id`");
        assert_unfit("order.id", r#"{"order":"id"}"#, "`order` in the payload is a text, which has no `id`");
        assert_unfit("id", "7", "the payload is a number, which has no `id`");
        assert_unfit("id", "null", "the payload is null, which has no `id`");
        assert_unfit("id", "", "the payload is empty");
        let expected = "`items` in the payload is an array; expected a position in place of `sku`";
        assert_unfit("items.sku", r#"{"items":[{"sku":1}]}"#, expected);
    }

    #[test]
    fn value_that_is_no_key_is_named() {
        for (value, what) in [
            ("null", "null"),
            ("{}", "an object"),
            (r#"{"id":7}"#, "an object"),
            ("[7]", "an array"),
            ("1.5", FLOAT),
            ("7.0", FLOAT),
            ("1e3", FLOAT),
            ("18446744073709551616", FLOAT),
            ("-9223372036854775809", FLOAT),
        ] {
            let expected = format!("`a.id` in the payload is {what}; expected a text, an integer or a bool");
            assert_unfit("a.id", format!("{{\"a\":{{\"id\":{value}}}}}"), &expected);
        }
    }

    #[test]
    fn number_as_it_is_written_is_a_number() {
        let number = |text: &str| field("id", format!("{{\"id\":{{\"{NUMBER}\":\"{text}\"}}}}"));
        assert_eq!(number("7"), Ok(key("7")));
        assert_eq!(number("-7"), Ok(key("-7")));
        for text in ["7.0", "1e3", "18446744073709551616", "x", ""] {
            assert!(number(text).is_err_and(|error| error.contains(FLOAT)), "{text}");
        }
    }

    #[test]
    fn payload_that_is_not_of_the_format_is_described_as_for_the_handler() {
        for (payload, expected) in [
            ("hello", "the payload `hello` is not valid JSON: expected value at line 1 column 1"),
            (r#"{"id":"#, r#"the payload `{\"id\":` is not valid JSON: EOF while parsing a value at line 1 column 6"#),
            (
                r#"{"id":7} 8"#,
                r#"the payload `{\"id\":7} 8` is not valid JSON: trailing characters at line 1 column 10"#,
            ),
            ("\u{8}\u{7}", "the payload is not valid JSON: it seems to be binary data, such as Protobuf"),
        ] {
            assert_unfit("id", payload, expected);
        }
        assert!(field("id", b"{\"id\":\"\xff\"}").is_err_and(|error| error.contains("invalid unicode code point")));
        assert!(field("id", r#"{"id":"\ud800"}"#).is_err_and(|error| error.contains("is not valid JSON")));
        let message = Message::new("orders.created", "seven").with_header("Content-Type", "text/plain");
        let error = find(&PayloadFormat::Default, "id", &message).unwrap_err();
        assert!(error.starts_with("the payload `seven`, whose content type `text/plain` is not one of"), "{error}");
    }

    #[test]
    fn byte_order_mark_is_skipped() {
        assert_eq!(field("id", b"\xef\xbb\xbf{\"id\":7}"), Ok(key("7")));
        assert_unfit("id", b"\xef\xbb\xbf{}", "the payload has no `id`");
        assert!(field("id", b"\xef\xbb\xbf").is_err());
    }

    #[test]
    fn nesting_is_no_stack_overflow() {
        let deep = |open: &str, close: &str| open.repeat(200_000) + &close.repeat(200_000);
        assert_eq!(field("id", format!("{{\"x\":{},\"id\":7}}", deep("[", "]"))), Ok(key("7")));
        assert!(field("id", format!("{{\"id\":{}}}", deep("[", "]"))).is_err_and(|error| error.contains("an array")));
        let (path, open) = (["a"; 127].join("."), "{\"a\":");
        assert_eq!(field(&path, format!("{}7{}", open.repeat(127), "}".repeat(127))), Ok(key("7")));
        assert!(field(&path, deep(open, "}")).is_err());
        #[cfg(feature = "messagepack")]
        assert!(typed(crate::codec::MessagePackCodec, "0", &[0x91].repeat(100_000)).is_err());
        #[cfg(feature = "cbor")]
        assert!(typed(crate::codec::CborCodec, "0", &[0x81].repeat(100_000)).is_err());
    }

    /// Returns the field of a payload whose format is that of the parameter's type.
    fn typed(codec: impl Codec, path: &str, payload: &[u8]) -> Result<u64, String> {
        let format = PayloadFormat::Named(DefaultCodec::new(codec));
        find(&format, path, &Message::new("orders.created", payload.to_vec()))
    }

    #[derive(Serialize)]
    struct Order {
        items: Vec<Item>,
        id: i64,
        price: f64,
        none: Option<u64>,
    }

    #[derive(Serialize)]
    struct Item {
        sku: &'static str,
    }

    /// Checks that a field is found in a format, which the parameter or the message names.
    fn check(codec: impl Codec + Copy) {
        let order = Order { items: vec![Item { sku: "ü" }], id: -7, price: 1.5, none: None };
        let payload = codec.encode(&order).unwrap();
        let stated = Message::new("orders.created", payload.clone()).with_header("Content-Type", content_type(codec));
        for (path, expected) in [("items.0.sku", "ü"), ("id", "-7")] {
            assert_eq!(typed(codec, path, &payload), Ok(key(expected)), "{path}");
            assert_eq!(find(&PayloadFormat::Default, path, &stated), Ok(key(expected)), "{path}");
        }
        for (path, expected) in [("none", "is null; expected"), ("price", FLOAT), ("items.1", "has no `1`")] {
            assert!(typed(codec, path, &payload).is_err_and(|error| error.contains(expected)), "{path}");
        }
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..2_000 {
            let mut damaged = payload.clone();
            for _ in 0..random.usize(1..4) {
                let place = random.usize(..damaged.len());
                damaged[place] = random.u8(..);
            }
            damaged.truncate(random.usize(..damaged.len() * 2));
            if let Err(error) = typed(codec, "items.0.sku", &damaged) {
                assert!(!error.is_empty());
            }
        }
    }

    fn content_type<C: Codec>(_: C) -> &'static str {
        C::CONTENT_TYPE
    }

    #[test]
    fn field_is_found_in_every_format() {
        check(JsonCodec);
        #[cfg(feature = "messagepack")]
        check(crate::codec::MessagePackCodec);
        #[cfg(feature = "cbor")]
        check(crate::codec::CborCodec);
    }

    #[cfg(feature = "messagepack")]
    #[test]
    fn values_that_only_message_pack_has_are_no_key() {
        use crate::codec::MessagePackCodec;

        // Maps with the keys 7, [7], {7: 7}, nil, 1.5, false and an extension type, each before "id": 8.
        for other in
            [&b"\x07"[..], b"\x91\x07", b"\x81\x07\x07", b"\xc0", b"\xca\x3f\xc0\0\0", b"\xc2", b"\xd4\x01\x02"]
        {
            let payload = [&b"\x82"[..], other, b"\x01\xa2id\x08"].concat();
            assert_eq!(typed(MessagePackCodec, "id", &payload), Ok(key("8")), "{other:?}");
        }
        assert_eq!(typed(MessagePackCodec, "7", b"\x81\x07\x08"), Ok(key("8")));
        for (value, what) in [(&b"\xc4\x01\xff"[..], "binary data"), (b"\xd4\x01\x02", "an extension type")] {
            let payload = [b"\x81\xa2id", value].concat();
            assert!(typed(MessagePackCodec, "id", &payload).is_err_and(|error| error.contains(what)), "{what}");
        }
        let error = typed(MessagePackCodec, "id", b"\x93\x07\x08\x09").unwrap_err();
        assert_eq!(error, "the payload is an array; expected a position in place of `id`");
    }

    #[test]
    fn payload_without_names_has_no_field() {
        let expected =
            Err("the payload is Protobuf, which has no names of fields; take the key from a header or the subject"
                .to_owned());
        let message = Message::new("orders.created", &b"\x08\x07"[..]);
        assert_eq!(find(&PayloadFormat::Nameless("Protobuf"), "id", &message), expected);
        let message = message.with_header("Content-Type", "application/protobuf");
        assert_eq!(find(&PayloadFormat::Default, "id", &message), expected);
    }

    #[cfg(feature = "compression")]
    #[test]
    fn compressed_payload_is_decompressed() {
        let payload = crate::codec::compression::Encoding::Gzip.compress(br#"{"id":7}"#).unwrap();
        let message = Message::new("orders.created", payload).with_header("Content-Encoding", "gzip");
        assert_eq!(find(&PayloadFormat::Default, "id", &message), Ok(key("7")));
    }
}

//! The default format of a broker, in which values without a format of their own are encoded and decoded.

use std::any::TypeId;
use std::fmt;
use std::marker::PhantomData;

use serde::de::DeserializeSeed;
use serde::{Deserialize, Serialize};

use super::content_type::{Kind, media_type};
use super::erased::Other;
use super::error::format_name;
use super::payload::{body, is_evident, recover, stated};
use super::{Codec, EncodeError, Encoded, JsonCodec, Undecodable, empty};
use crate::error::BoxError;
use crate::message::Message;

/// The default format of a broker.
#[derive(Clone)]
pub struct DefaultCodec(Format);

/// A format, of which those of this crate are called without indirection.
#[derive(Clone)]
enum Format {
    Json,
    #[cfg(feature = "messagepack")]
    MessagePack,
    #[cfg(feature = "cbor")]
    Cbor,
    Other(Other),
}

impl Default for DefaultCodec {
    fn default() -> Self {
        Self(Format::Json)
    }
}

/// Two formats are equal if they have the same content type.
impl PartialEq for DefaultCodec {
    fn eq(&self, other: &Self) -> bool {
        self.content_type() == other.content_type()
    }
}

impl fmt::Debug for DefaultCodec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DefaultCodec({})", self.content_type())
    }
}

/// Evaluates an expression with the codec of a format.
macro_rules! with_codec {
    ($format:expr, $codec:ident => $use:expr) => {
        match $format {
            Format::Json => {
                let $codec = &JsonCodec;
                $use
            }
            #[cfg(feature = "messagepack")]
            Format::MessagePack => {
                let $codec = &super::MessagePackCodec;
                $use
            }
            #[cfg(feature = "cbor")]
            Format::Cbor => {
                let $codec = &super::CborCodec;
                $use
            }
            Format::Other($codec) => $use,
        }
    };
}

impl DefaultCodec {
    pub(crate) fn new<C: Codec>(codec: C) -> Self {
        let is = |other: TypeId| TypeId::of::<C>() == other;
        if is(TypeId::of::<JsonCodec>()) {
            return Self(Format::Json);
        }
        #[cfg(feature = "messagepack")]
        if is(TypeId::of::<super::MessagePackCodec>()) {
            return Self(Format::MessagePack);
        }
        #[cfg(feature = "cbor")]
        if is(TypeId::of::<super::CborCodec>()) {
            return Self(Format::Cbor);
        }
        Self(Format::Other(Other::new(codec)))
    }

    pub(crate) fn is_json(&self) -> bool {
        matches!(self.0, Format::Json)
    }

    pub(crate) fn content_type(&self) -> &'static str {
        match &self.0 {
            Format::Json => JsonCodec::CONTENT_TYPE,
            #[cfg(feature = "messagepack")]
            Format::MessagePack => super::MessagePackCodec::CONTENT_TYPE,
            #[cfg(feature = "cbor")]
            Format::Cbor => super::CborCodec::CONTENT_TYPE,
            Format::Other(codec) => codec.content_type(),
        }
    }

    pub(super) fn encode<T: Serialize + ?Sized>(&self, value: &T) -> Result<Encoded, EncodeError> {
        self.encode_beside(value, self)
    }

    /// Encodes a value for a broker with another default.
    pub(crate) fn encode_beside<T: Serialize + ?Sized>(
        &self,
        value: &T,
        default: &Self,
    ) -> Result<Encoded, EncodeError> {
        let payload = with_codec!(&self.0, codec => codec.encode(value));
        let payload =
            payload.map_err(|source| EncodeError { format: format_name(self.content_type()), source })?.into();
        Ok(Encoded { payload, content_type: stated(self.content_type(), default) })
    }

    /// Decodes the payload of a message; the value may borrow from it.
    ///
    /// An empty payload is `None` for an `Option`, the value of a unit type, and an error for any other type.
    pub(crate) fn decode<'m, T: Deserialize<'m>>(&self, message: &'m Message) -> Result<T, Undecodable> {
        let payload = body(message)?;
        if payload.is_empty() {
            return empty::decode().ok_or_else(|| Undecodable::empty::<T>(self.content_type()));
        }
        // A content type is looked at only for other payloads, so that JSON costs nothing more, and a wrong content
        // type of a foreign publisher does not make it a dead letter.
        if self.is_json()
            && is_evident(payload)
            && let Ok(value) = JsonCodec.decode(payload, PhantomData)
        {
            return Ok(value);
        }
        self.decode_as_stated(message, payload)
    }

    /// Decodes a payload in the format that its message states, if it states one.
    fn decode_as_stated<'m, T: Deserialize<'m>>(&self, message: &Message, payload: &'m [u8]) -> Result<T, Undecodable> {
        let (other, stated) = self.stated(message)?;
        other.as_ref().unwrap_or(self).run(payload, &stated)
    }

    /// Returns the format that a message states, if it is another one, and what an error says about its content type.
    pub(super) fn stated(&self, message: &Message) -> Result<(Option<Self>, String), Undecodable> {
        let Some(media_type) = media_type(message).filter(|it| !it.eq_ignore_ascii_case(self.content_type())) else {
            return Ok((None, String::new()));
        };
        match Kind::of(media_type) {
            Some(kind) => match Format::of(kind) {
                Some(format) => Ok((Some(Self(format)), String::new())),
                None => Err(not_decoded(media_type, kind)),
            },
            None if self.is_json() => {
                Ok((None, format!(", whose content type `{media_type}` is not one of {},", self.known())))
            }
            // Binary data decodes as something in many formats, so that nothing is guessed.
            None => Err(Undecodable::new(format!(
                "the message has the content type `{media_type}`, and the ones that are decoded are {}",
                self.known()
            ))),
        }
    }

    fn run<'m, T: Deserialize<'m>>(&self, payload: &'m [u8], stated: &str) -> Result<T, Undecodable> {
        with_codec!(&self.0, codec => {
            codec.decode(payload, PhantomData).or_else(|error| recover(codec, self.content_type(), payload, stated, error))
        })
    }

    /// Decodes a payload, whatever its message states.
    pub(super) fn decode_seed<'m, S: DeserializeSeed<'m>>(
        &self,
        payload: &'m [u8],
        seed: S,
    ) -> Result<S::Value, BoxError> {
        with_codec!(&self.0, codec => codec.decode(payload, seed))
    }

    /// Returns the content types that are decoded.
    fn known(&self) -> String {
        let own = [Kind::Json, Kind::MessagePack, Kind::Cbor].into_iter().filter_map(Format::of);
        let mut known: Vec<_> = own.map(|format| Self(format).content_type()).collect();
        if !known.contains(&self.content_type()) {
            known.push(self.content_type());
        }
        known.iter().map(|it| format!("`{it}`")).collect::<Vec<_>>().join(", ")
    }
}

impl Format {
    /// Returns the format of this crate, if it is compiled in and decodes any type.
    fn of(kind: Kind) -> Option<Self> {
        match kind {
            Kind::Json => Some(Self::Json),
            #[cfg(feature = "messagepack")]
            Kind::MessagePack => Some(Self::MessagePack),
            #[cfg(feature = "cbor")]
            Kind::Cbor => Some(Self::Cbor),
            _ => None,
        }
    }
}

/// Returns the error of a format that is not compiled in, or does not decode any type.
fn not_decoded(media_type: &str, kind: Kind) -> Undecodable {
    let name = kind.name();
    let how = match kind {
        Kind::Protobuf => "take `Protobuf<T>`, with the feature `protobuf`".to_owned(),
        _ => format!("enable the feature `{}`", name.to_lowercase()),
    };
    Undecodable::new(format!("the message has the content type `{media_type}`, which is {name}; to decode it, {how}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Deserialize, Serialize)]
    struct Item {
        price: f64,
    }

    #[derive(Debug, PartialEq, Deserialize, Serialize)]
    struct Order {
        items: Vec<Item>,
    }

    fn message(payload: &[u8], content_type: &str) -> Message {
        let message = Message::new("orders.created", payload.to_vec());
        if content_type.is_empty() { message } else { message.with_header("Content-Type", content_type) }
    }

    fn json<T: for<'m> Deserialize<'m>>(payload: &[u8], content_type: &str) -> Result<T, String> {
        DefaultCodec::default().decode(&message(payload, content_type)).map_err(|error| error.to_string())
    }

    #[test]
    fn error_names_the_path_inside_the_payload() {
        let error = json::<Order>(br#"{"items":[{"price":1},{"price":"free"}]}"#, "").unwrap_err();
        assert!(error.starts_with("the payload is not valid JSON for `"), "{error}");
        assert!(
            error.ends_with("Order`: items[1].price: invalid type: string \"free\", expected f64 at line 1 column 37"),
            "{error}"
        );
        let error = json::<Order>(b"7", "").unwrap_err();
        assert!(
            error.ends_with("Order`: invalid type: integer `7`, expected struct Order at line 1 column 1"),
            "{error}"
        );
    }

    #[test]
    fn error_shows_how_a_payload_begins_that_is_not_json() {
        let error = json::<u64>(b"hello \xff\r\n, this is a long text without JSON", "").unwrap_err();
        let text = r"the payload `hello \xff\r\n, this is a long text w..` is not valid JSON for `u64`: expected value at line 1 column 1";
        assert_eq!(error, text);
        let error = json::<Vec<u64>>(b"[1,", "").unwrap_err();
        assert!(error.starts_with("the payload `[1,` is not valid JSON"), "{error}");
        let late = [&b"[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12"[..], b"x"].concat();
        let error = json::<Vec<u64>>(&late, "").unwrap_err();
        assert!(error.starts_with("the payload is not valid JSON"), "{error}");
        let error = json::<u64>(b"\x82\xa2id\x01", "").unwrap_err();
        assert_eq!(error, "the payload is not valid JSON for `u64`: it seems to be binary data, such as MessagePack");
    }

    #[test]
    fn byte_order_mark_is_skipped() {
        assert_eq!(json::<u64>(b"\xef\xbb\xbf77", ""), Ok(77));
        assert_eq!(json::<u64>(b"\xef\xbb\xbf7", "application/json"), Ok(7));
        let error = json::<Order>(b"\xef\xbb\xbf{\"items\":7}", "").unwrap_err();
        assert!(error.contains("items: invalid type: integer `7`"), "{error}");
        assert!(json::<u64>(b"\xef\xbb\xbf", "").is_err());
    }

    #[test]
    fn empty_payload_is_a_value_of_some_types() {
        assert_eq!(json::<Option<u64>>(b"", ""), Ok(None));
        assert_eq!(json::<Option<u64>>(b"7", ""), Ok(Some(7)));
        assert_eq!(json::<Option<u64>>(b"null", ""), Ok(None));
        let error = json::<u64>(b"", "").unwrap_err();
        assert_eq!(error, "the payload is empty, which is not valid JSON for `u64`; `Option<u64>` accepts it");
    }

    #[test]
    fn json_is_decoded_whatever_its_content_type_is() {
        for content_type in [
            "application/json; charset=utf-8",
            "application/cloudevents+json",
            "text/json",
            "text/plain",
            "application/octet-stream",
            "application/x-www-form-urlencoded",
            "application/protobuf",
        ] {
            assert_eq!(json::<u64>(b"77", content_type), Ok(77), "{content_type}");
        }
        for content_type in ["application/json", "text/plain", "binary/octet-stream"] {
            assert_eq!(json::<u64>(b"7", content_type), Ok(7), "{content_type}");
        }
    }

    #[test]
    fn error_names_an_unknown_content_type() {
        let error = json::<u64>(b"seven", "text/plain; charset=utf-8").unwrap_err();
        assert!(
            error.starts_with("the payload `seven`, whose content type `text/plain` is not one of `application/json`"),
            "{error}"
        );
        assert!(error.ends_with(", is not valid JSON for `u64`: expected value at line 1 column 1"), "{error}");
        let error = json::<u64>(b"\x08\x07", "application/x-protobuf").unwrap_err();
        assert!(error.ends_with("which is Protobuf; to decode it, take `Protobuf<T>`, with the feature `protobuf`"));
    }

    #[test]
    fn error_names_the_feature_of_a_content_type() {
        for (content_type, feature, payload, is_on) in [
            ("application/msgpack", "messagepack", b"\xcd\x01\x00", cfg!(feature = "messagepack")),
            ("application/cbor", "cbor", b"\x19\x01\x00", cfg!(feature = "cbor")),
        ] {
            match json::<u64>(payload, content_type) {
                Ok(value) => assert!(is_on && value == 256, "{value}"),
                Err(error) => assert!(!is_on && error.ends_with(&format!("enable the feature `{feature}`")), "{error}"),
            }
            // The digit 5 is 53 in MessagePack, and -22 in CBOR, so that JSON must not be assumed.
            assert_ne!(json::<i64>(b"5", content_type), Ok(5));
        }
    }

    /// JSON behind one byte.
    struct Marked;

    impl Codec for Marked {
        const CONTENT_TYPE: &'static str = "application/vnd.acme.marked+json";

        fn encode<T: Serialize + ?Sized>(&self, value: &T) -> Result<Vec<u8>, BoxError> {
            Ok([b"\x01".to_vec(), JsonCodec.encode(value)?].concat())
        }

        fn decode<'de, S: DeserializeSeed<'de>>(&self, payload: &'de [u8], seed: S) -> Result<S::Value, BoxError> {
            JsonCodec.decode(payload.strip_prefix(b"\x01").ok_or("no mark")?, seed)
        }
    }

    #[test]
    fn codec_of_the_application_is_a_default() {
        let codec = DefaultCodec::new(Marked);
        let order = Order { items: vec![Item { price: 1.5 }] };
        let encoded = codec.encode(&order).unwrap();
        assert_eq!(encoded.content_type, Some(Marked::CONTENT_TYPE));
        assert_eq!(&encoded.payload[..], b"\x01{\"items\":[{\"price\":1.5}]}");
        for content_type in ["", Marked::CONTENT_TYPE] {
            assert_eq!(codec.decode::<Order>(&message(&encoded.payload, content_type)).unwrap(), order);
        }
        // Borrowed from the payload, through two layers of types that are erased.
        assert_eq!(codec.decode::<&str>(&message(b"\x01\"text\"", "")).unwrap(), "text");
        assert_eq!(codec.decode::<u64>(&message(b"77", "application/json")).unwrap(), 77);
        let error = codec.decode::<u64>(&message(b"\x0177", "text/plain")).unwrap_err().to_string();
        assert!(error.starts_with("the message has the content type `text/plain`, and the ones"), "{error}");
        assert!(error.ends_with("`application/vnd.acme.marked+json`"), "{error}");
        let error = codec.decode::<Order>(&message(b"\x01{\"items\":[7]}", "")).unwrap_err().to_string();
        assert!(error.contains("is not valid application/vnd.acme.marked+json for"), "{error}");
        assert!(error.contains("items[0]: invalid type: integer `7`"), "{error}");
        let error = codec.encode(&f64::NAN).unwrap_err();
        assert_eq!(error.format, Marked::CONTENT_TYPE);
    }

    #[test]
    fn codecs_of_this_crate_are_not_erased() {
        assert!(matches!(DefaultCodec::new(JsonCodec).0, Format::Json));
        #[cfg(feature = "messagepack")]
        assert!(matches!(DefaultCodec::new(crate::codec::MessagePackCodec).0, Format::MessagePack));
        #[cfg(feature = "cbor")]
        assert!(matches!(DefaultCodec::new(crate::codec::CborCodec).0, Format::Cbor));
    }

    #[cfg(feature = "messagepack")]
    #[test]
    fn binary_default_guesses_nothing() {
        let codec = DefaultCodec::new(crate::codec::MessagePackCodec);
        assert_eq!(codec.decode::<u64>(&message(b"5", "")).unwrap(), 53);
        assert_eq!(codec.decode::<u64>(&message(b"5", "application/x-msgpack")).unwrap(), 53);
        assert_eq!(codec.decode::<u64>(&message(b"5", "application/json")).unwrap(), 5);
        let error = codec.decode::<u64>(&message(b"5", "text/plain")).unwrap_err().to_string();
        assert!(error.starts_with("the message has the content type `text/plain`"), "{error}");
        assert_eq!(codec.decode::<Option<u64>>(&message(b"", "text/plain")).unwrap(), None);
    }

    /// Decodes payloads that differ from valid ones in some bytes; none of them may panic.
    #[test]
    fn damaged_payload_is_a_value_or_an_error() {
        let mut random = fastrand::Rng::with_seed(7);
        let order = Order { items: (0..5).map(|number| Item { price: number.into() }).collect() };
        let formats = [Kind::Json, Kind::MessagePack, Kind::Cbor].into_iter().filter_map(Format::of);
        for codec in formats.map(DefaultCodec).chain([DefaultCodec::new(Marked)]) {
            let payload = codec.encode(&order).unwrap().payload;
            let (mut values, mut errors) = (0, 0);
            for _ in 0..2_000 {
                let mut payload = payload.to_vec();
                for _ in 0..random.usize(1..4) {
                    let place = random.usize(..payload.len());
                    payload[place] = random.u8(..);
                }
                payload.truncate(random.usize(..payload.len() * 2));
                let message = Message::new("orders.created", payload);
                let decoded = [
                    codec.decode::<Order>(&message).err(),
                    codec.decode::<serde_json::Value>(&message).err(),
                    codec.decode::<Option<&str>>(&message).err(),
                ];
                values += decoded.iter().filter(|error| error.is_none()).count();
                errors += decoded.iter().flatten().filter(|error| !error.to_string().is_empty()).count();
            }
            assert!(values > 0 && errors > 2_000 && values + errors == 6_000, "{codec:?}: {values} and {errors}");
        }
    }
}

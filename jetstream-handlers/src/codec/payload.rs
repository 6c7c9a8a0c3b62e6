//! Values that are published, and parameters that are made from a payload.

use std::marker::PhantomData;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::content_type::{JSON, Kind, media_type};
use super::error::{explain, format_name};
use super::format::without_mark;
use super::{Codec, DefaultCodec, EncodeError, PayloadFormat, Undecodable, empty};
use crate::error::BoxError;
use crate::message::Message;

/// A value that can be published.
///
/// Any type that implements `serde::Serialize` is one, in the default format of the broker, which
/// [`Builder::codec`](crate::Builder::codec) sets.
/// [`Json<T>`](crate::Json), `MessagePack<T>`, `Cbor<T>`, `Protobuf<T>` and [`Coded<C, T>`](crate::Coded) are values in
/// a format of their own, and [`Raw<T>`](crate::Raw) is published as it is.
/// The trait cannot be implemented for other types; implement [`Codec`](crate::Codec) for another format.
///
/// # Examples
///
/// ```
/// use jetstream_handlers::{Payload, prelude::*};
///
/// async fn publish_twice<T: Payload>(publisher: &Publisher, value: &T) -> HandlerResult {
///     publisher.publish("orders.created", value).await?;
///     publisher.publish("orders.archived", value).await?;
///     Ok(())
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be published",
    label = "not a payload",
    note = "a value to publish implements `serde::Serialize`, or is a `Json<T>`, `MessagePack<T>`, `Cbor<T>`, `Protobuf<T>`, `Coded<C, T>` or `Raw<T>`"
)]
pub trait Payload {
    /// Encodes the value; one without a format of its own is encoded by `default`.
    #[doc(hidden)]
    fn encode_payload(&self, default: &DefaultCodec) -> Result<Encoded, EncodeError>;

    /// Returns `true` for a value that is published as it is.
    #[doc(hidden)]
    fn is_raw(&self) -> bool {
        false
    }
}

#[diagnostic::do_not_recommend]
impl<T: Serialize + ?Sized> Payload for T {
    fn encode_payload(&self, default: &DefaultCodec) -> Result<Encoded, EncodeError> {
        default.encode(self)
    }
}

/// An encoded value.
#[derive(Debug)]
pub struct Encoded {
    pub(crate) payload: Bytes,
    /// The value of the header `Content-Type`, if the message needs one.
    pub(crate) content_type: Option<&'static str>,
}

/// A parameter that is made from a payload, and names its format.
pub trait FromPayload<'m>: Sized {
    /// Makes the parameter from the payload of a message.
    fn from_payload(message: &'m Message, default: &DefaultCodec) -> Result<Self, Undecodable>;

    /// Returns `true` if a message that only marks a deletion is no value of the type.
    fn needs_value() -> bool;

    /// Returns the format of the payload.
    fn format() -> PayloadFormat;
}

/// `None` is a message with an empty payload.
impl<'m, T: FromPayload<'m>> FromPayload<'m> for Option<T> {
    fn from_payload(message: &'m Message, default: &DefaultCodec) -> Result<Self, Undecodable> {
        if message.payload.is_empty() { Ok(None) } else { T::from_payload(message, default).map(Some) }
    }

    fn needs_value() -> bool {
        false
    }

    fn format() -> PayloadFormat {
        T::format()
    }
}

/// Encodes a value with the codec that its type names.
pub(super) fn encode_as<C: Codec, T: Serialize>(
    codec: &C,
    value: &T,
    default: &DefaultCodec,
) -> Result<Encoded, EncodeError> {
    let failed = |source| EncodeError { format: format_name(C::CONTENT_TYPE), source };
    let payload = codec.encode(value).map_err(failed)?.into();
    Ok(Encoded { payload, content_type: stated(C::CONTENT_TYPE, default) })
}

/// Returns the content type that a message must state; only JSON that is the default needs none.
pub(super) fn stated(content_type: &'static str, default: &DefaultCodec) -> Option<&'static str> {
    (content_type != JSON || !default.is_json()).then_some(content_type)
}

/// Decodes a payload with the codec that a parameter's type names.
pub(super) fn decode_as<'m, C: Codec, T: Deserialize<'m>>(codec: &C, message: &'m Message) -> Result<T, Undecodable> {
    let payload = body(message)?;
    if payload.is_empty() {
        return empty::decode().ok_or_else(|| Undecodable::empty::<T>(C::CONTENT_TYPE));
    }
    if C::CONTENT_TYPE == JSON
        && is_evident(payload)
        && let Ok(value) = codec.decode(payload, PhantomData)
    {
        return Ok(value);
    }
    refuse_other(C::CONTENT_TYPE, message)?;
    codec.decode(payload, PhantomData).or_else(|error| recover(codec, C::CONTENT_TYPE, payload, "", error))
}

/// Returns `true` if a payload that decodes as JSON is JSON for certain, whatever its content type is.
///
/// No other format begins as JSON does, except for a number of one digit, which is another number in MessagePack and
/// CBOR.
pub(super) fn is_evident(payload: &[u8]) -> bool {
    payload.len() > 1
}

/// Decodes JSON behind a byte order mark, or returns why a payload cannot be decoded.
pub(super) fn recover<'m, C: Codec, T: Deserialize<'m>>(
    codec: &C,
    content_type: &'static str,
    payload: &'m [u8],
    stated: &str,
    error: BoxError,
) -> Result<T, Undecodable> {
    let (payload, error) = match without_mark(payload).filter(|_| content_type == JSON) {
        None => (payload, error),
        Some(payload) => match codec.decode(payload, PhantomData) {
            Ok(value) => return Ok(value),
            Err(error) => (payload, error),
        },
    };
    Err(explain::<T>(codec, content_type, payload, stated, &error))
}

/// Refuses a message whose content type is that of another format than its parameter's.
///
/// One that is not known says nothing: the type of the parameter states the format.
pub(super) fn refuse_other(content_type: &str, message: &Message) -> Result<(), Undecodable> {
    let Some(stated) = media_type(message).filter(|stated| !stated.eq_ignore_ascii_case(content_type)) else {
        return Ok(());
    };
    let Some(other) = Kind::of(stated).filter(|kind| Kind::of(content_type) != Some(*kind)) else { return Ok(()) };
    Err(Undecodable::new(format!(
        "the message has the content type `{stated}`, which is {}, and the handler takes `{content_type}`",
        other.name()
    )))
}

/// Returns the payload of a message, decompressed if the message states that it is compressed.
pub(super) fn body(message: &Message) -> Result<&Bytes, Undecodable> {
    #[cfg(feature = "compression")]
    return super::compression::body(message);
    #[cfg(not(feature = "compression"))]
    Ok(&message.payload)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{Json, JsonCodec, Raw};

    fn message(payload: &'static [u8], content_type: &str) -> Message {
        Message::new("orders.created", payload).with_header("Content-Type", content_type)
    }

    fn from_payload<'m, T: FromPayload<'m>>(message: &'m Message) -> Result<T, String> {
        T::from_payload(message, &DefaultCodec::default()).map_err(|error| error.to_string())
    }

    #[test]
    fn content_type_of_another_format_is_refused() {
        for content_type in ["application/json", "application/vnd.acme+json", "text/plain", "application/octet-stream"]
        {
            assert_eq!(from_payload(&message(b"7", content_type)), Ok(Json(7)), "{content_type}");
        }
        let error = from_payload::<Json<u64>>(&message(b"7", "application/msgpack")).unwrap_err();
        assert_eq!(
            error,
            "the message has the content type `application/msgpack`, which is MessagePack, and the handler takes `application/json`"
        );
    }

    #[test]
    fn optional_format_is_none_for_an_empty_payload_only() {
        let empty = Message::new("orders.created", "");
        assert_eq!(from_payload::<Option<Json<u64>>>(&empty), Ok(None));
        assert_eq!(from_payload::<Json<Option<u64>>>(&empty), Ok(Json(None)));
        assert_eq!(from_payload::<Option<Raw<&str>>>(&empty), Ok(None));
        assert_eq!(from_payload::<Raw<&str>>(&empty), Ok(Raw("")));
        assert!(from_payload::<Json<u64>>(&empty).is_err());
        assert!(from_payload::<Option<Json<u64>>>(&message(b"x", "text/plain")).is_err());
    }

    #[test]
    fn raw_payload_is_as_it_is() {
        let text = Message::new("notes.written", "\"a\"\n");
        assert_eq!(from_payload(&text), Ok(Raw("\"a\"\n")));
        assert_eq!(from_payload(&text), Ok(Raw("\"a\"\n".to_owned())));
        assert_eq!(from_payload(&text), Ok(Raw(b"\"a\"\n".to_vec())));
        assert_eq!(from_payload(&text), Ok(Raw(&b"\"a\"\n"[..])));
        assert_eq!(from_payload(&text), Ok(Raw(Bytes::from("\"a\"\n"))));
        let error = from_payload::<Raw<String>>(&message(b"a\xff", "text/plain")).unwrap_err();
        assert!(error.starts_with("the payload is not text: invalid utf-8 sequence"), "{error}");
        let encoded = |encoded: Result<Encoded, EncodeError>| encoded.unwrap().payload;
        let default = DefaultCodec::default();
        assert_eq!(encoded(Raw("a\"").encode_payload(&default)), "a\"");
        assert_eq!(encoded(Raw(vec![0, 255]).encode_payload(&default)), &b"\0\xff"[..]);
    }

    #[test]
    fn only_the_default_json_states_no_content_type() {
        let stated = |value: &dyn Payload, default| value.encode_payload(&default).unwrap().content_type;
        assert_eq!(stated(&7, DefaultCodec::default()), None);
        assert_eq!(stated(&Json(7), DefaultCodec::new(JsonCodec)), None);
        assert_eq!(stated(&Raw("7"), DefaultCodec::default()), None);
        #[cfg(feature = "messagepack")]
        {
            use crate::codec::{MessagePack, MessagePackCodec};

            let message_pack = Some("application/msgpack");
            assert_eq!(stated(&MessagePack(7), DefaultCodec::default()), message_pack);
            assert_eq!(stated(&7, DefaultCodec::new(MessagePackCodec)), message_pack);
            assert_eq!(stated(&Json(7), DefaultCodec::new(MessagePackCodec)), Some("application/json"));
        }
    }
}

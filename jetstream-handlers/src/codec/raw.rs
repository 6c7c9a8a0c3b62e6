//! A payload as it is.

use std::ops::Deref;

use bytes::Bytes;

use super::payload::body;
use super::{DefaultCodec, EncodeError, Encoded, FromPayload, Payload, PayloadFormat, Undecodable};
use crate::message::Message;

/// A payload as it is, without a format: `Raw<Bytes>`, `Raw<Vec<u8>>` and `Raw<&[u8]>` for bytes, `Raw<String>` and
/// `Raw<&str>` for text in UTF-8.
///
/// Without it, a `String` is a string in the format of the message, in JSON with quotes and escapes, and a `Vec<u8>` is
/// an array of numbers.
/// An empty payload is an empty value, but a message that only marks a deletion is acknowledged without a call;
/// `Option<Raw<T>>` is `None` for both.
///
/// # Examples
///
/// ```
/// use jetstream_handlers::{Raw, prelude::*};
///
/// #[subscriber(subject = "notes.written", queue = "archive")]
/// async fn archive(Raw(text): Raw<String>, publisher: Publisher) -> HandlerResult {
///     println!("{} lines", text.lines().count());
///     publisher.publish("notes.archived", &Raw(text)).await?; // the text alone, without quotes
///     Ok(())
/// }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Raw<T>(pub T);

impl<T> Deref for Raw<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// Implements the conversions between a type and a payload.
macro_rules! raw {
    ($($type:ty: $from:expr, $into:expr;)*) => {
        $(impl<'m> FromPayload<'m> for Raw<$type> {
            fn from_payload(message: &'m Message, _: &DefaultCodec) -> Result<Self, Undecodable> {
                let from: fn(&'m Bytes) -> Result<$type, Undecodable> = $from;
                body(message).and_then(from).map(Self)
            }

            fn needs_value() -> bool {
                true
            }

            fn format() -> PayloadFormat {
                PayloadFormat::Default
            }
        }

        impl<'m> Payload for Raw<$type> {
            fn encode_payload(&self, _: &DefaultCodec) -> Result<Encoded, EncodeError> {
                let into: fn(&$type) -> Bytes = $into;
                Ok(Encoded { payload: into(&self.0), content_type: None })
            }

            fn is_raw(&self) -> bool {
                true
            }
        })*
    };
}

raw! {
    Bytes: |payload| Ok(payload.clone()), Bytes::clone;
    Vec<u8>: |payload| Ok(payload.to_vec()), |bytes| Bytes::copy_from_slice(bytes);
    &'m [u8]: |payload| Ok(payload), |bytes| Bytes::copy_from_slice(bytes);
    String: |payload| text(payload).map(str::to_owned), |text| Bytes::copy_from_slice(text.as_bytes());
    &'m str: |payload| text(payload), |text| Bytes::copy_from_slice(text.as_bytes());
}

fn text(payload: &[u8]) -> Result<&str, Undecodable> {
    std::str::from_utf8(payload).map_err(|error| Undecodable::new(format!("the payload is not text: {error}")))
}

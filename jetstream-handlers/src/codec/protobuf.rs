//! Protobuf.

use std::ops::Deref;

use super::content_type::Kind;
use super::payload::{body, refuse_other};
use super::{DefaultCodec, EncodeError, Encoded, FromPayload, Payload, PayloadFormat, Undecodable};
use crate::message::Message;

const CONTENT_TYPE: &str = "application/protobuf";

/// A payload in Protobuf, of a type that implements `prost::Message`; behind the feature `protobuf`.
///
/// Published, it has the header `Content-Type: application/protobuf`.
/// An empty payload is a message whose fields have their defaults, as Protobuf encodes it.
///
/// The version of `prost` must be that of this crate, 0.14.
///
/// # Examples
///
/// ```
/// use jetstream_handlers::{Protobuf, prelude::*};
///
/// #[derive(Clone, PartialEq, prost::Message)]
/// struct Order {
///     #[prost(uint64, tag = "1")]
///     id: u64,
/// }
///
/// #[subscriber(subject = "orders.created", queue = "billing")]
/// async fn bill(Protobuf(order): Protobuf<Order>, publisher: Publisher) -> HandlerResult {
///     publisher.publish("orders.billed", &Protobuf(order)).await?;
///     Ok(())
/// }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Protobuf<T>(pub T);

impl<T> Deref for Protobuf<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: prost::Message + Default> FromPayload<'_> for Protobuf<T> {
    fn from_payload(message: &Message, _: &DefaultCodec) -> Result<Self, Undecodable> {
        let payload = body(message)?;
        refuse_other(CONTENT_TYPE, message)?;
        // Clones share the payload, which fields of the type `Bytes` refer to.
        T::decode(payload.clone()).map(Self).map_err(|error| {
            let name = std::any::type_name::<T>();
            Undecodable::new(format!("the payload is not valid {} for `{name}`: {error}", Kind::Protobuf.name()))
        })
    }

    fn needs_value() -> bool {
        true
    }

    fn format() -> PayloadFormat {
        PayloadFormat::Nameless(Kind::Protobuf.name())
    }
}

impl<T: prost::Message> Payload for Protobuf<T> {
    fn encode_payload(&self, _: &DefaultCodec) -> Result<Encoded, EncodeError> {
        Ok(Encoded { payload: self.0.encode_to_vec().into(), content_type: Some(CONTENT_TYPE) })
    }
}

//! Encoding and decoding of payloads.

#[cfg(feature = "cbor")]
mod cbor;
mod coded;
#[cfg(feature = "compression")]
pub(crate) mod compression;
mod content_type;
mod default;
mod empty;
mod erased;
mod error;
mod field;
mod finite;
mod format;
mod json;
#[cfg(feature = "messagepack")]
mod message_pack;
mod payload;
#[cfg(feature = "protobuf")]
mod protobuf;
mod raw;

use std::error::Error;

use serde::Serialize;
use serde::de::DeserializeSeed;

#[cfg(feature = "cbor")]
pub use cbor::{Cbor, CborCodec};
pub use coded::Coded;
pub(crate) use content_type::CONTENT_TYPE;
pub use default::DefaultCodec;
pub(crate) use empty::needs_value;
pub(crate) use error::{EncodeError, Undecodable};
pub(crate) use field::PayloadFormat;
pub use json::{Json, JsonCodec};
#[cfg(feature = "messagepack")]
pub use message_pack::{MessagePack, MessagePackCodec};
pub use payload::Payload;
pub(crate) use payload::{Encoded, FromPayload};
#[cfg(feature = "protobuf")]
pub use protobuf::Protobuf;
pub use raw::Raw;

/// A payload format, for one that this crate does not have.
///
/// [`Builder::codec`](crate::Builder::codec) makes it the format of every payload without a wrapper, and
/// [`Coded<C, T>`](crate::Coded) is a parameter or a published value in it.
/// [`JsonCodec`](crate::JsonCodec), and behind features `MessagePackCodec` and `CborCodec`, are the formats of this
/// crate.
///
/// `#[event(codec = ..)]` makes it the format of an [`Event`](crate::Event).
///
/// Decoding must not panic for any payload, because others publish them.
///
/// # Examples
///
/// JSON with a version in front, as some schema registries require:
///
/// ```
/// use jetstream_handlers::prelude::*;
/// use jetstream_handlers::{Coded, Codec};
/// use serde::{Deserialize, Serialize, de::DeserializeSeed};
/// use std::error::Error;
///
/// #[derive(Default)]
/// struct VersionedJson;
///
/// impl Codec for VersionedJson {
///     const CONTENT_TYPE: &'static str = "application/vnd.acme.versioned";
///
///     fn encode<T: Serialize + ?Sized>(&self, value: &T) -> Result<Vec<u8>, Box<dyn Error + Send + Sync>> {
///         let mut payload = vec![1];
///         serde_json::to_writer(&mut payload, value)?;
///         Ok(payload)
///     }
///
///     fn decode<'de, S: DeserializeSeed<'de>>(&self, payload: &'de [u8], seed: S) -> Result<S::Value, Box<dyn Error + Send + Sync>> {
///         let json = payload.strip_prefix(&[1]).ok_or("it is not of version 1")?;
///         let mut deserializer = serde_json::Deserializer::from_slice(json);
///         let value = seed.deserialize(&mut deserializer)?;
///         deserializer.end()?;
///         Ok(value)
///     }
/// }
///
/// #[derive(Debug, Serialize, Deserialize)]
/// struct Order {
///     id: u64,
/// }
///
/// // Every payload of the broker in this format:
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), jetstream_handlers::Error> {
/// let broker = Broker::builder().codec(VersionedJson).connect_in_memory();
/// broker.publish("orders.created", &Order { id: 7 }).await?;
/// # broker.disconnect().await?;
///
/// // Or one parameter and one published value:
/// #[subscriber(subject = "orders.created", queue = "billing")]
/// async fn bill(order: Coded<VersionedJson, Order>, publisher: Publisher) -> HandlerResult {
///     println!("order {}", order.id);
///     publisher.publish("orders.billed", &Coded::<VersionedJson, _>::new(order.id)).await?;
///     Ok(())
/// }
/// # Ok(()) }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a codec",
    label = "not a codec",
    note = "a codec implements `jetstream_handlers::Codec`, as `JsonCodec` does, and with features `MessagePackCodec` and `CborCodec`"
)]
pub trait Codec: Send + Sync + 'static {
    /// The media type of the format, which published messages carry in the header `Content-Type`.
    const CONTENT_TYPE: &'static str;

    /// Encodes a value.
    ///
    /// # Errors
    ///
    /// Returns an error if the format does not have the value; the publish then fails with
    /// [`Encode`](crate::ErrorKind::Encode).
    fn encode<T: Serialize + ?Sized>(&self, value: &T) -> Result<Vec<u8>, Box<dyn Error + Send + Sync>>;

    /// Decodes a payload, which is never empty, by calling `seed.deserialize` with the deserializer of the format.
    ///
    /// # Errors
    ///
    /// Returns an error if the payload is not the whole encoding of a value; the message then becomes a dead letter.
    fn decode<'de, S: DeserializeSeed<'de>>(
        &self,
        payload: &'de [u8],
        seed: S,
    ) -> Result<S::Value, Box<dyn Error + Send + Sync>>;
}

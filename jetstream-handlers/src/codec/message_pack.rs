//! MessagePack.

use serde::Serialize;
use serde::de::{DeserializeSeed, Deserializer as _, IgnoredAny};

use super::Codec;
use super::coded::wrapper;
use crate::error::BoxError;

/// The depth to which arrays and maps may be nested, which is that of JSON.
const MAX_DEPTH: usize = 128;

/// MessagePack as a [`Codec`], for [`Builder::codec`](crate::Builder::codec).
///
/// Structs are written as maps with the names of their fields, so that fields can be added, and other languages read
/// them; arrays are read as well.
/// Its content type is `application/msgpack`.
///
/// # Examples
///
/// ```
/// use jetstream_handlers::{Broker, MessagePackCodec};
///
/// let broker = Broker::builder().codec(MessagePackCodec).connect_in_memory();
/// # drop(broker);
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct MessagePackCodec;

impl Codec for MessagePackCodec {
    const CONTENT_TYPE: &'static str = "application/msgpack";

    fn encode<T: Serialize + ?Sized>(&self, value: &T) -> Result<Vec<u8>, BoxError> {
        Ok(rmp_serde::to_vec_named(value)?)
    }

    fn decode<'de, S: DeserializeSeed<'de>>(&self, payload: &'de [u8], seed: S) -> Result<S::Value, BoxError> {
        let mut deserializer = rmp_serde::Deserializer::from_read_ref(payload);
        deserializer.set_max_depth(MAX_DEPTH);
        let value = seed.deserialize(&mut deserializer)?;
        // The deserializer does not tell its position, only that nothing more can be read.
        match deserializer.deserialize_ignored_any(IgnoredAny) {
            Err(rmp_serde::decode::Error::InvalidMarkerRead(_)) => Ok(value),
            _ => Err("other bytes follow the value".into()),
        }
    }
}

/// A payload in MessagePack, whatever the default format of the broker is; behind the feature `messagepack`.
///
/// Published, it has the header `Content-Type: application/msgpack`.
///
/// # Examples
///
/// ```
/// use jetstream_handlers::{MessagePack, prelude::*};
///
/// #[subscriber(subject = "orders.created", queue = "billing")]
/// async fn bill(MessagePack(order): MessagePack<u64>, publisher: Publisher) -> HandlerResult {
///     publisher.publish("orders.billed", &MessagePack(order)).await?;
///     Ok(())
/// }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MessagePack<T>(pub T);

wrapper!(MessagePack, MessagePackCodec);

#[cfg(test)]
mod tests {
    use std::marker::PhantomData;

    use serde::Deserialize;

    use super::*;

    fn decode<'a, T: Deserialize<'a>>(payload: &'a [u8]) -> Result<T, String> {
        MessagePackCodec.decode(payload, PhantomData).map_err(|error| error.to_string())
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Order<'a> {
        id: u64,
        customer: &'a str,
        price: f64,
    }

    #[test]
    fn value_is_read_as_it_was_written() {
        let order = Order { id: 7, customer: "Ada", price: 1.5 };
        let payload = MessagePackCodec.encode(&order).unwrap();
        assert_eq!(payload[0], 0x83, "a map");
        assert_eq!(decode(&payload), Ok(order));
        assert_eq!(decode(b"\x93\x07\xa3Ada\x02"), Ok(Order { id: 7, customer: "Ada", price: 2.0 }));
        assert!(decode::<f64>(&MessagePackCodec.encode(&f64::NAN).unwrap()).unwrap().is_nan());
    }

    #[test]
    fn rest_and_depth_are_refused() {
        assert_eq!(decode::<u64>(b"5"), Ok(53));
        for rest in [&b"55"[..], b"5\xc1", b"5\xcd"] {
            assert_eq!(decode::<u64>(rest), Err("other bytes follow the value".to_owned()), "{rest:?}");
        }
        let deep = [0x91].repeat(100_000);
        assert!(decode::<serde_json::Value>(&deep).unwrap_err().contains("depth"));
    }
}

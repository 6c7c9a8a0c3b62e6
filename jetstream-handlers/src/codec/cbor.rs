//! CBOR.

use serde::Serialize;
use serde::de::DeserializeSeed;

use super::Codec;
use super::coded::wrapper;
use crate::error::BoxError;

/// CBOR (RFC 8949) as a [`Codec`], for [`Builder::codec`](crate::Builder::codec).
///
/// Structs are written as maps with the names of their fields. Tags are skipped.
/// Its content type is `application/cbor`.
///
/// # Examples
///
/// ```
/// use jetstream_handlers::{Broker, CborCodec};
///
/// let broker = Broker::builder().codec(CborCodec).connect_in_memory();
/// # drop(broker);
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct CborCodec;

impl Codec for CborCodec {
    const CONTENT_TYPE: &'static str = "application/cbor";

    fn encode<T: Serialize + ?Sized>(&self, value: &T) -> Result<Vec<u8>, BoxError> {
        // A reference, because the library takes only sized values.
        Ok(serde_cbor_2::to_vec(&value)?)
    }

    fn decode<'de, S: DeserializeSeed<'de>>(&self, payload: &'de [u8], seed: S) -> Result<S::Value, BoxError> {
        let mut deserializer = serde_cbor_2::Deserializer::from_slice(payload);
        let value = seed.deserialize(&mut deserializer)?;
        deserializer.end()?;
        Ok(value)
    }
}

/// A payload in CBOR (RFC 8949), whatever the default format of the broker is; behind the feature `cbor`.
///
/// Published, it has the header `Content-Type: application/cbor`.
///
/// # Examples
///
/// ```
/// use jetstream_handlers::{Cbor, prelude::*};
///
/// #[subscriber(subject = "orders.created", queue = "billing")]
/// async fn bill(Cbor(order): Cbor<u64>, publisher: Publisher) -> HandlerResult {
///     publisher.publish("orders.billed", &Cbor(order)).await?;
///     Ok(())
/// }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cbor<T>(pub T);

wrapper!(Cbor, CborCodec);

#[cfg(test)]
mod tests {
    use std::marker::PhantomData;

    use serde::Deserialize;

    use super::*;

    fn decode<'a, T: Deserialize<'a>>(payload: &'a [u8]) -> Result<T, String> {
        CborCodec.decode(payload, PhantomData).map_err(|error| error.to_string())
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Order<'a> {
        id: u64,
        customer: &'a str,
        price: f64,
    }

    #[test]
    fn value_is_read_as_it_was_written() {
        let order = Order { id: 7, customer: "Ada", price: 0.1 };
        let payload = CborCodec.encode(&order).unwrap();
        assert_eq!(payload[0], 0xa3, "a map");
        assert_eq!(decode(&payload), Ok(order));
        assert!(decode::<f64>(&CborCodec.encode(&f64::NAN).unwrap()).unwrap().is_nan());
    }

    #[test]
    fn values_of_other_encoders_are_read() {
        // RFC 8949, appendix A: half and single precision, an integer, a tag, and the tag of self-described CBOR.
        assert_eq!(decode::<f64>(b"\xf9\x3e\x00"), Ok(1.5));
        assert_eq!(decode::<f64>(b"\xfa\x47\xc3\x50\x00"), Ok(100_000.0));
        assert_eq!(decode::<f64>(b"\x0a"), Ok(10.0));
        assert_eq!(decode::<u64>(b"\xc1\x1a\x51\x4b\x67\xb0"), Ok(1_363_896_240));
        assert_eq!(decode::<u64>(b"\xd9\xd9\xf7\x07"), Ok(7));
        assert_eq!(decode::<Vec<u64>>(b"\x9f\x01\x02\xff"), Ok(vec![1, 2]));
    }

    #[test]
    fn rest_and_depth_are_refused() {
        assert!(decode::<u64>(b"\x07\x07").is_err());
        assert!(decode::<serde_json::Value>(&[0x81].repeat(100_000)).is_err());
        assert!(decode::<Vec<u64>>(b"\x9b\xff\xff\xff\xff\xff\xff\xff\xff").is_err());
    }
}

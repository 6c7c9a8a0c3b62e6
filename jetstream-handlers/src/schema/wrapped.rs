//! The value in a type that names its format, such as `Json<T>`.
#![allow(missing_docs, missing_debug_implementations)] // used only by the expansion

use bytes::Bytes;

use super::PayloadType;
use crate::codec::{Codec, Coded, Json, JsonCodec, Raw};

pub trait Wrapped<T> {
    fn __jetstream_handlers_wrapped(&self) -> PayloadType<T>;
}

macro_rules! wrapped {
    ($([$($generic:tt)*] $type:ty => $value:ty: $payload:expr;)*) => {$(
        impl<$($generic)*> Wrapped<$value> for &PayloadType<$type> {
            fn __jetstream_handlers_wrapped(&self) -> PayloadType<$value> {
                $payload
            }
        }
        impl<$($generic)*> Wrapped<$value> for &PayloadType<Option<$type>> {
            fn __jetstream_handlers_wrapped(&self) -> PayloadType<$value> {
                $payload
            }
        }
    )*};
}

const BYTES: &str = "application/octet-stream";
const TEXT: &str = "text/plain";

wrapped! {
    [T] Json<T> => T: PayloadType::in_format(JsonCodec::CONTENT_TYPE);
    [C: Codec, T] Coded<C, T> => T: PayloadType::in_format(C::CONTENT_TYPE);
    [] Raw<Bytes> => Raw<Bytes>: PayloadType::in_other_format(BYTES);
    [] Raw<Vec<u8>> => Raw<Vec<u8>>: PayloadType::in_other_format(BYTES);
    ['m] Raw<&'m [u8]> => Raw<&'m [u8]>: PayloadType::in_other_format(BYTES);
    [] Raw<String> => Raw<String>: PayloadType::in_other_format(TEXT);
    ['m] Raw<&'m str> => Raw<&'m str>: PayloadType::in_other_format(TEXT);
}
#[cfg(feature = "messagepack")]
wrapped!([T] crate::codec::MessagePack<T> => T: PayloadType::in_format(crate::codec::MessagePackCodec::CONTENT_TYPE););
#[cfg(feature = "cbor")]
wrapped!([T] crate::codec::Cbor<T> => T: PayloadType::in_format(crate::codec::CborCodec::CONTENT_TYPE););
#[cfg(feature = "protobuf")]
wrapped! {
    [T] crate::codec::Protobuf<T> => crate::codec::Protobuf<T>: PayloadType::in_other_format("application/protobuf");
}

pub trait Plain<T> {
    fn __jetstream_handlers_wrapped(&self) -> PayloadType<T>;
}
impl<T> Plain<T> for PayloadType<T> {
    fn __jetstream_handlers_wrapped(&self) -> PayloadType<T> {
        PayloadType::NEW
    }
}

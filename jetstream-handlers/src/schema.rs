//! The types of payloads, with their JSON Schemas.
//!
//! A schema is optional: whether a type implements `JsonSchema` is found by method lookup, in the expansion of the
//! attribute and of `#[derive(Event)]`, because only code that names a concrete type can find it out.

use std::any::type_name;
use std::fmt;
use std::marker::PhantomData;

use schemars::{Schema, SchemaGenerator};

/// The type of a payload.
#[derive(Debug, Clone, Copy)]
pub struct Described {
    /// The full path of the type.
    pub(crate) type_name: &'static str,
    /// The content type that the type names; `None` for the default of the broker.
    pub(crate) content_type: Option<&'static str>,
    pub(crate) schema: PayloadSchema,
}

/// The schema of a payload.
#[derive(Debug, Clone, Copy)]
pub(crate) enum PayloadSchema {
    /// The one that this function returns.
    Known(fn(&mut SchemaGenerator) -> Schema),
    /// The type does not implement `JsonSchema`.
    Missing,
    /// The format has none, such as bytes and Protobuf.
    OtherFormat,
}

impl Described {
    /// Describes a type without a schema.
    pub(crate) fn of<T>() -> Self {
        Self::named(type_name::<T>())
    }

    /// Describes a type of this name without a schema.
    pub(crate) fn named(type_name: &'static str) -> Self {
        Self { type_name, content_type: None, schema: PayloadSchema::Missing }
    }
}

/// The types of the payloads of a handler.
#[derive(Debug, Clone, Default)]
pub(crate) struct Signature {
    /// The type that the handler takes; `None` if it does not decode the payload.
    pub(crate) received: Option<Described>,
    /// The type that a handler with `publish` returns.
    pub(crate) published: Option<Described>,
}

/// The type of a payload, as the expansion names it.
pub struct PayloadType<T> {
    content_type: Option<&'static str>,
    is_other_format: bool,
    of: PhantomData<fn() -> T>,
}

impl<T> PayloadType<T> {
    /// The type, without a format.
    pub const NEW: Self = Self { content_type: None, is_other_format: false, of: PhantomData };

    fn in_format(content_type: &'static str) -> Self {
        Self { content_type: Some(content_type), ..Self::NEW }
    }

    fn in_other_format(content_type: &'static str) -> Self {
        Self { content_type: Some(content_type), is_other_format: true, of: PhantomData }
    }

    fn described(&self, schema: PayloadSchema) -> Described {
        let schema = if self.is_other_format { PayloadSchema::OtherFormat } else { schema };
        Described { type_name: type_name::<T>(), content_type: self.content_type, schema }
    }
}

impl<T> fmt::Debug for PayloadType<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PayloadType<{}>", type_name::<T>())
    }
}

/// The schema of a type: that of its `JsonSchema`, if it implements that.
pub mod described {
    #![allow(missing_docs, missing_debug_implementations)] // used only by the expansion

    use schemars::JsonSchema;

    use super::{Described, PayloadSchema, PayloadType};

    pub trait WithSchema {
        fn __jetstream_handlers_described(&self) -> Described;
    }
    impl<T: JsonSchema> WithSchema for &PayloadType<T> {
        fn __jetstream_handlers_described(&self) -> Described {
            self.described(PayloadSchema::Known(|generator| generator.subschema_for::<T>()))
        }
    }

    pub trait WithoutSchema {
        fn __jetstream_handlers_described(&self) -> Described;
    }
    impl<T> WithoutSchema for PayloadType<T> {
        fn __jetstream_handlers_described(&self) -> Described {
            self.described(PayloadSchema::Missing)
        }
    }
}

/// The value in a type that names its format, such as `Json<T>`.
pub mod wrapped {
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
}

/// The value in the return type of a handler with `publish`.
pub mod returned {
    #![allow(missing_docs, missing_debug_implementations)] // used only by the expansion

    use super::PayloadType;

    pub trait ReturnedValues<T> {
        fn __jetstream_handlers_returned(&self) -> PayloadType<T> {
            PayloadType::NEW
        }
    }
    impl<T> ReturnedValues<T> for &&PayloadType<Option<T>> {}
    impl<T> ReturnedValues<T> for &&PayloadType<Vec<T>> {}
    impl<T, E> ReturnedValues<T> for &&PayloadType<Result<Option<T>, E>> {}
    impl<T, E> ReturnedValues<T> for &&PayloadType<Result<Vec<T>, E>> {}

    pub trait ReturnedResult<T> {
        fn __jetstream_handlers_returned(&self) -> PayloadType<T> {
            PayloadType::NEW
        }
    }
    impl<T, E> ReturnedResult<T> for &PayloadType<Result<T, E>> {}

    pub trait ReturnedValue<T> {
        fn __jetstream_handlers_returned(&self) -> PayloadType<T> {
            PayloadType::NEW
        }
    }
    impl<T> ReturnedValue<T> for PayloadType<T> {}
}

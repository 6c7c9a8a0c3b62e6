//! A payload in the format that its type names.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;

use serde::{Deserialize, Serialize};

use super::payload::{decode_as, encode_as};
use super::{Codec, DefaultCodec, EncodeError, Encoded, FromPayload, Payload, PayloadFormat, Undecodable, needs_value};
use crate::message::Message;

/// Makes a tuple struct a parameter and a value to publish, in the format of a codec.
macro_rules! wrapper {
    ($name:ident, $codec:ident) => {
        impl<T> std::ops::Deref for $name<T> {
            type Target = T;

            fn deref(&self) -> &T {
                &self.0
            }
        }

        impl<'m, T: serde::Deserialize<'m>> super::FromPayload<'m> for $name<T> {
            fn from_payload(
                message: &'m crate::message::Message,
                _: &super::DefaultCodec,
            ) -> Result<Self, super::Undecodable> {
                super::payload::decode_as(&$codec, message).map(Self)
            }

            fn needs_value() -> bool {
                super::needs_value::<T>()
            }

            fn format() -> super::PayloadFormat {
                super::PayloadFormat::Named(super::DefaultCodec::new($codec))
            }
        }

        impl<T: serde::Serialize> super::Payload for $name<T> {
            fn encode_payload(&self, default: &super::DefaultCodec) -> Result<super::Encoded, super::EncodeError> {
                super::payload::encode_as(&$codec, &self.0, default)
            }
        }
    };
}

pub(super) use wrapper;

/// A payload in the format of a [`Codec`] of the application.
///
/// Published, it has the `Content-Type` of the codec.
/// The codec is made by its `Default` for each payload; one that is made otherwise can be the default of a broker.
///
/// # Examples
///
/// [`Codec`] has an example.
pub struct Coded<C, T> {
    value: T,
    codec: PhantomData<fn() -> C>,
}

impl<C, T> Coded<C, T> {
    /// Returns a value to publish in the format, or to call a handler with in a unit test.
    pub fn new(value: T) -> Self {
        Self { value, codec: PhantomData }
    }

    /// Returns the value.
    pub fn into_inner(self) -> T {
        self.value
    }
}

impl<C, T: fmt::Debug> fmt::Debug for Coded<C, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Coded").field(&self.value).finish()
    }
}

impl<C, T> Deref for Coded<C, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<'m, C: Codec + Default, T: Deserialize<'m>> FromPayload<'m> for Coded<C, T> {
    fn from_payload(message: &'m Message, _: &DefaultCodec) -> Result<Self, Undecodable> {
        decode_as(&C::default(), message).map(Self::new)
    }

    fn needs_value() -> bool {
        needs_value::<T>()
    }

    fn format() -> PayloadFormat {
        PayloadFormat::Named(DefaultCodec::new(C::default()))
    }
}

impl<C: Codec + Default, T: Serialize> Payload for Coded<C, T> {
    fn encode_payload(&self, default: &DefaultCodec) -> Result<Encoded, EncodeError> {
        encode_as(&C::default(), &self.value, default)
    }
}

//! Codecs whose type is not known where values are encoded and decoded.

use std::sync::Arc;

use serde::Serialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _};

use super::Codec;
use crate::error::BoxError;

/// A codec whose type is not known where values are encoded and decoded.
pub(super) trait Erased: Send + Sync {
    fn content_type_erased(&self) -> &'static str;

    fn encode_erased(&self, value: &dyn erased_serde::Serialize) -> Result<Vec<u8>, BoxError>;

    fn decode_erased<'de>(&self, payload: &'de [u8], visit: Visit<'_, 'de>) -> Result<(), BoxError>;
}

/// A function that decodes a value, and keeps it.
pub(super) type Visit<'a, 'de> =
    &'a mut dyn FnMut(&mut dyn erased_serde::Deserializer<'de>) -> Result<(), erased_serde::Error>;

impl<C: Codec> Erased for C {
    fn content_type_erased(&self) -> &'static str {
        C::CONTENT_TYPE
    }

    fn encode_erased(&self, value: &dyn erased_serde::Serialize) -> Result<Vec<u8>, BoxError> {
        self.encode(value)
    }

    fn decode_erased<'de>(&self, payload: &'de [u8], visit: Visit<'_, 'de>) -> Result<(), BoxError> {
        self.decode(payload, Visiting(visit))
    }
}

struct Visiting<'a, 'de>(Visit<'a, 'de>);

impl<'de> DeserializeSeed<'de> for Visiting<'_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        (self.0)(&mut <dyn erased_serde::Deserializer<'de>>::erase(deserializer)).map_err(D::Error::custom)
    }
}

/// Decodes a value with a deserializer whose type is erased, as the codecs of the application are.
pub(super) fn deserialize_erased<'de, S: DeserializeSeed<'de>>(
    deserializer: impl Deserializer<'de>,
    seed: S,
) -> Result<S::Value, erased_serde::Error> {
    let deserializer: &mut dyn erased_serde::Deserializer<'de> =
        &mut <dyn erased_serde::Deserializer<'de>>::erase(deserializer);
    seed.deserialize(deserializer)
}

/// A codec of the application, as a [`Codec`] again.
#[derive(Clone)]
pub(super) struct Other(Arc<dyn Erased>);

impl Other {
    pub(super) fn new(codec: impl Codec) -> Self {
        Self(Arc::new(codec))
    }

    /// Returns the content type, which the constant of the trait cannot be.
    pub(super) fn content_type(&self) -> &'static str {
        self.0.content_type_erased()
    }
}

impl Codec for Other {
    /// Never read.
    const CONTENT_TYPE: &'static str = "";

    fn encode<T: Serialize + ?Sized>(&self, value: &T) -> Result<Vec<u8>, BoxError> {
        self.0.encode_erased(&value)
    }

    fn decode<'de, S: DeserializeSeed<'de>>(&self, payload: &'de [u8], seed: S) -> Result<S::Value, BoxError> {
        let (mut seed, mut value) = (Some(seed), None);
        self.0.decode_erased(payload, &mut |deserializer| {
            let seed = seed.take().ok_or_else(|| erased_serde::Error::custom("the codec decodes a value twice"))?;
            value = Some(seed.deserialize(deserializer)?);
            Ok(())
        })?;
        value.ok_or_else(|| "the codec returned without a value".into())
    }
}

//! The errors of encoding and decoding.

use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer};
use serde_path_to_error::Track;

use super::Codec;
use super::content_type::JSON;
use super::format::{beginning, other_format};
use crate::error::BoxError;

/// The error of a value that cannot be encoded.
#[derive(Debug)]
pub struct EncodeError {
    /// The name of the format.
    pub(crate) format: &'static str,
    pub(crate) source: BoxError,
}

/// The reason why a payload cannot be decoded.
///
/// A position in the payload is at the end of its text, where `Builder::redact_errors` looks for it.
#[derive(Debug)]
pub struct Undecodable(String);

impl Undecodable {
    pub(super) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Returns the error of an empty payload.
    pub(super) fn empty<T>(content_type: &'static str) -> Self {
        let (name, format) = (std::any::type_name::<T>(), format_name(content_type));
        Self(format!("the payload is empty, which is not valid {format} for `{name}`; `Option<{name}>` accepts it"))
    }
}

impl fmt::Display for Undecodable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Undecodable {}

/// Returns the name of a codec's format, as an error shows it.
pub(super) fn format_name(content_type: &'static str) -> &'static str {
    match content_type {
        JSON => "JSON",
        "application/msgpack" => "MessagePack",
        "application/cbor" => "CBOR",
        other => other,
    }
}

/// Returns why a payload cannot be decoded, with the path of the place inside it.
///
/// The payload is decoded again, because only errors need the path.
/// `stated` is what the message states about its format, as a part of the text.
pub(super) fn explain<'m, C: Codec, T: Deserialize<'m>>(
    codec: &C,
    content_type: &'static str,
    payload: &'m [u8],
    stated: &str,
) -> Undecodable {
    let (name, format) = (std::any::type_name::<T>(), format_name(content_type));
    let mut track = Track::new();
    let tracked = Tracked::<T> { track: &mut track, value: PhantomData };
    let Err(error) = codec.decode(payload, tracked) else {
        // Only a type that decodes differently each time comes here.
        return Undecodable(format!("the payload{stated} is not valid {format} for `{name}`"));
    };
    let is_json = content_type == JSON;
    if let Some(other) = other_format(payload).filter(|_| is_json) {
        return Undecodable(format!("the payload{stated} is not valid {format} for `{name}`: it seems to be {other}"));
    }
    let begins = beginning(payload, &error).map(|text| format!(" `{text}`")).unwrap_or_default();
    let path = match track.path().to_string().as_str() {
        "." => String::new(),
        path => format!("{path}: "),
    };
    Undecodable(format!("the payload{begins}{stated} is not valid {format} for `{name}`: {path}{error}"))
}

/// Decodes a value and notes the path to the place at which it fails.
struct Tracked<'a, T> {
    track: &'a mut Track,
    value: PhantomData<T>,
}

impl<'de, T: Deserialize<'de>> DeserializeSeed<'de> for Tracked<'_, T> {
    type Value = T;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<T, D::Error> {
        T::deserialize(serde_path_to_error::Deserializer::new(deserializer, self.track))
    }
}

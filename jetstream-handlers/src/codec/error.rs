//! The errors of encoding and decoding.

use std::fmt;

use serde::Deserialize;
use serde_path_to_error::Track;

use super::content_type::JSON;
use super::erased::Erased;
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
/// `stated` is what the message states about its format, as a part of the text.
pub(super) fn explain<'m, T: Deserialize<'m>>(
    codec: &dyn Erased,
    content_type: &'static str,
    payload: &'m [u8],
    stated: &str,
    error: &BoxError,
) -> Undecodable {
    let name = format!(" for `{}`", std::any::type_name::<T>());
    explain_as(&name, || path::<T>(codec, payload), content_type, payload, stated, error)
}

/// Returns why a payload cannot be decoded as what `name` states, with the path of the place inside it.
pub(super) fn explain_as(
    name: &str,
    path: impl FnOnce() -> String,
    content_type: &'static str,
    payload: &[u8],
    stated: &str,
    error: &BoxError,
) -> Undecodable {
    let format = format_name(content_type);
    if let Some(other) = other_format(payload, content_type) {
        return Undecodable(format!("the payload{stated} is not valid {format}{name}: it seems to be {other}"));
    }
    let begins = beginning(payload, error).map(|text| format!(" `{text}`")).unwrap_or_default();
    Undecodable(format!("the payload{begins}{stated} is not valid {format}{name}: {}{error}", path()))
}

/// Returns the path to the place at which a payload cannot be decoded, as the beginning of an error.
///
/// The payload is decoded again, because only errors need the path, and with an erased codec, so that a payload type is
/// compiled with paths only once.
fn path<'m, T: Deserialize<'m>>(codec: &dyn Erased, payload: &'m [u8]) -> String {
    let mut track = Track::new();
    let decoded = codec.decode_erased(payload, &mut |deserializer| {
        T::deserialize(serde_path_to_error::Deserializer::new(deserializer, &mut track)).map(drop)
    });
    match (decoded, track.path().to_string().as_str()) {
        (Ok(()), _) | (_, ".") => String::new(),
        (Err(_), path) => format!("{path}: "),
    }
}

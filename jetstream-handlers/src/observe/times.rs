//! Times as text, as in RFC 3339.

use std::time::SystemTime;

use serde::Serializer;
use serde::ser::Error as _;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Serializes a time with milliseconds, which are precise enough and make the text short.
pub(crate) fn rfc3339<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    let time = OffsetDateTime::from(*time);
    let time = time.replace_millisecond(time.millisecond()).map_err(S::Error::custom)?;
    serializer.serialize_str(&time.format(&Rfc3339).map_err(S::Error::custom)?)
}

/// Serializes a time as [`rfc3339`] does, and a missing one as `null`.
pub(crate) fn optional_rfc3339<S: Serializer>(time: &Option<SystemTime>, serializer: S) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => rfc3339(time, serializer),
        None => serializer.serialize_none(),
    }
}

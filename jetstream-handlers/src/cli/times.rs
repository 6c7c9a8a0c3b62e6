//! Times and durations as arguments.

use std::time::{Duration, SystemTime};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::duration::parse;

/// Parses a time in the past: as in `2026-11-03T22:04:05Z`, or the duration since it, as in `2h`.
pub(super) fn past(text: &str) -> Result<SystemTime, String> {
    if let Ok(ago) = parse(text) {
        return SystemTime::now().checked_sub(ago).ok_or_else(|| format!("{text} ago is no time"));
    }
    time(text).map_err(|problem| format!("{problem}, or the time since, as in `2h`"))
}

/// Parses a time, as in `2026-11-03T22:04:05Z`.
pub(super) fn time(text: &str) -> Result<SystemTime, String> {
    let time = OffsetDateTime::parse(text, &Rfc3339);
    time.map(SystemTime::from).map_err(|_| "expected a time as in `2026-11-03T22:04:05Z`".to_owned())
}

/// Parses a duration, as in `10m`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    parse(text)
}

/// Returns a time as text, to the second.
pub(super) fn shown(time: SystemTime) -> String {
    let time = OffsetDateTime::from(time);
    time.replace_nanosecond(0).unwrap_or(time).format(&Rfc3339).unwrap_or_default()
}

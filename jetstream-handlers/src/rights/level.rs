//! The levels of use for which rights are derived.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

use crate::error::printable::printable;
use crate::error::{Error, ErrorKind};

/// The use for which rights are derived.
///
/// `Display` and `FromStr` use the names `run`, `run+info`, `provision`, `operate` or `publish`.
///
/// # Examples
///
/// ```
/// use jetstream_handlers::PermissionLevel;
///
/// assert_eq!("run+info".parse::<PermissionLevel>()?, PermissionLevel::RunInfo);
/// # Ok::<_, jetstream_handlers::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PermissionLevel {
    /// Running handlers on streams and consumers that exist: without any of these rights, a start fails, or a handler does
    /// not work. What the handlers do beyond that is denied, and logged as a warning.
    Run,
    /// Running handlers with all that they do: deleted consumers are restored, unreadable messages become dead letters, and
    /// deleted streams are noticed at once.
    RunInfo,
    /// Running handlers that create their streams and consumers.
    Provision,
    /// Operating a service without running it: its dead letters, pauses, resets, plans and their application.
    Operate,
    /// Publishing the events and the outputs of the program, to streams that exist.
    Publish,
}

impl PermissionLevel {
    /// All levels.
    pub const ALL: [Self; 5] = [Self::Run, Self::RunInfo, Self::Provision, Self::Operate, Self::Publish];

    fn as_str(self) -> &'static str {
        match self {
            Self::Run => "run",
            Self::RunInfo => "run+info",
            Self::Provision => "provision",
            Self::Operate => "operate",
            Self::Publish => "publish",
        }
    }
}

impl fmt::Display for PermissionLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for PermissionLevel {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::ALL.into_iter().find(|level| level.as_str() == text).ok_or_else(|| {
            let known = Self::ALL.map(|level| format!("`{level}`")).join(", ");
            Error::new(ErrorKind::Config, format!("`{}` is no level of permissions; use {known}", printable(text)))
        })
    }
}

impl Serialize for PermissionLevel {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

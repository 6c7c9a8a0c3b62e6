//! A change between two documents.

use std::fmt;

use serde::Serialize;

/// A change from an earlier document to the present one, found by [`diff`](super::diff).
///
/// `Display` writes one line for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Change {
    /// The severity of the change.
    pub severity: Severity,
    /// The operation or the channel, as in `` `bill` receives `orders.created` ``.
    pub place: String,
    /// The change, with its consequence.
    pub text: String,
}

/// The severity of a [`Change`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// No other service is affected.
    Info,
    /// Others may be affected, which the documents do not tell.
    Dangerous,
    /// Earlier producers, consumers or messages are affected.
    Breaking,
}

impl Severity {
    /// Returns the name, as it is serialized.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Dangerous => "dangerous",
            Self::Breaking => "breaking",
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.severity, self.place, self.text)
    }
}

//! The state of a handler, as a word.

use std::fmt;

use serde::Serialize;

/// The state of a handler that is linked into the program or was started.
///
/// `Display` and `Serialize` write the name in lower case, as in `not_started`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[non_exhaustive]
#[serde(rename_all = "snake_case")]
pub enum HandlerState {
    /// The handler is linked into the program for this broker, and does not run.
    NotStarted,
    /// The handler is linked into the program for a broker of another name, whose state this broker does not know.
    OtherBroker,
    /// [`Status::Running`](crate::Status::Running).
    Running,
    /// [`Status::Degraded`](crate::Status::Degraded).
    Degraded,
    /// [`Status::Recovering`](crate::Status::Recovering).
    Recovering,
    /// [`Status::Stopping`](crate::Status::Stopping).
    Stopping,
    /// [`Status::Stopped`](crate::Status::Stopped).
    Stopped,
    /// [`Status::Failed`](crate::Status::Failed).
    Failed,
}

impl HandlerState {
    /// Returns the name of the state, as in `not_started`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotStarted => "not_started",
            Self::OtherBroker => "other_broker",
            Self::Running => "running",
            Self::Degraded => "degraded",
            Self::Recovering => "recovering",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
        }
    }
}

impl fmt::Display for HandlerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

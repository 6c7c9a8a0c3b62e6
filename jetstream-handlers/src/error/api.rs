//! Failures of requests to the JetStream API.

use std::error::Error as StdError;
use std::fmt;

use async_nats::client::{RequestError, RequestErrorKind};
use async_nats::jetstream::{self, ErrorCode};

use crate::error::{Error, ErrorKind};

/// The failure of a request to the JetStream API.
#[derive(Debug)]
pub(crate) enum ApiError {
    /// The server refused it.
    Refused(jetstream::Error),
    /// The server does not permit the request, or its answer.
    Denied(Error),
    /// The request on this subject was not answered.
    Unanswered { subject: String, error: RequestError },
    /// The answer does not follow the protocol.
    Unreadable(serde_json::Error),
}

impl ApiError {
    pub(crate) fn is(&self, code: ErrorCode) -> bool {
        matches!(self, Self::Refused(error) if error.error_code() == code)
    }

    /// Returns an error whose text begins with `doing`, the operation that failed.
    pub(crate) fn into_error(self, doing: &str) -> Error {
        let new = |kind, why: &str| Error::new(kind, format!("{doing}: {why}"));
        match self {
            Self::Refused(error) => match error.error_code() {
                ErrorCode::STREAM_NOT_FOUND => new(ErrorKind::StreamNotFound, "there is no such stream"),
                ErrorCode::STREAM_SUBJECT_OVERLAP => {
                    new(ErrorKind::StreamOverlap, "its subjects overlap those of another stream")
                }
                _ => new(ErrorKind::Server, &format!("the server refused it: {error}")),
            }
            .with_source(error),
            Self::Denied(error) => error.about(doing),
            Self::Unanswered { subject, error } => match error.kind() {
                RequestErrorKind::NoResponders => new(
                    ErrorKind::Server,
                    "JetStream does not answer; is it enabled on the server (`nats-server -js`) and for this account, or is a cluster electing its leader?",
                ),
                RequestErrorKind::TimedOut => new(
                    ErrorKind::Timeout,
                    &format!("no answer in time; the server is unreachable, or the user may not publish to `{subject}`"),
                )
                .with_missing_permission(subject),
                _ => new(ErrorKind::Server, "the request failed"),
            }
            .with_source(error),
            Self::Unreadable(error) => new(ErrorKind::Server, "the answer cannot be read").with_source(error),
        }
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(error) => error.fmt(f),
            Self::Denied(error) => error.fmt(f),
            Self::Unanswered { error, .. } => error.fmt(f),
            Self::Unreadable(error) => error.fmt(f),
        }
    }
}

impl StdError for ApiError {}

//! Why a request about streams and consumers failed.

use std::error::Error as StdError;
use std::fmt;

use async_nats::client::{RequestError, RequestErrorKind};
use async_nats::jetstream::{self, ErrorCode};

use crate::error::{Error, ErrorKind};

/// Why a request to the API failed.
#[derive(Debug)]
pub(crate) enum ApiError {
    /// The server refused it.
    Refused(jetstream::Error),
    /// There was no answer.
    Unanswered(RequestError),
    /// The answer is not what the protocol says.
    Unreadable(serde_json::Error),
}

impl ApiError {
    pub(crate) fn is(&self, code: ErrorCode) -> bool {
        matches!(self, Self::Refused(error) if error.error_code() == code)
    }

    /// An error of ours that says what was being done.
    pub(crate) fn into_error(self, doing: &str) -> Error {
        match self {
            Self::Refused(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND => {
                Error::new(ErrorKind::StreamNotFound, format!("{doing}: there is no such stream")).with_source(error)
            }
            Self::Refused(error) => {
                Error::new(ErrorKind::Server, format!("{doing}: the server refused it")).with_source(error)
            }
            Self::Unanswered(error) => {
                let (kind, why) = match error.kind() {
                    RequestErrorKind::NoResponders => (
                        ErrorKind::Server,
                        "JetStream does not answer; is it enabled on the server (`nats-server -js`) and for this account, or is a cluster electing its leader?",
                    ),
                    RequestErrorKind::TimedOut => (
                        ErrorKind::Timeout,
                        "no answer in time; the server is away, or the user may not publish to the JetStream API (`$JS.API.>`)",
                    ),
                    _ => (ErrorKind::Server, "the request failed"),
                };
                Error::new(kind, format!("{doing}: {why}")).with_source(error)
            }
            Self::Unreadable(error) => {
                Error::new(ErrorKind::Server, format!("{doing}: the answer cannot be read")).with_source(error)
            }
        }
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(error) => error.fmt(f),
            Self::Unanswered(error) => error.fmt(f),
            Self::Unreadable(error) => error.fmt(f),
        }
    }
}

impl StdError for ApiError {}

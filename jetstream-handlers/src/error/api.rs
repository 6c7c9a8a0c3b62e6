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

    /// Returns an error about a consumer that is paused or reset.
    pub(crate) fn into_consumer_error(self, doing: &str) -> Error {
        let why = match &self {
            Self::Refused(error) if error.error_code() == ErrorCode::CONSUMER_NOT_FOUND => {
                "there is no such consumer; start its handler first".to_owned()
            }
            Self::Refused(error) if error.error_code() == ErrorCode::CONSUMER_INVALID_RESET => format!(
                "it cannot be moved there, because its handler begins at a later message, by its `deliver` or because its consumer was deleted and recreated: {error}"
            ),
            _ => return self.into_error(doing),
        };
        Error::new(ErrorKind::ConsumerMismatch, format!("{doing}: {why}")).with_source(self)
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
                ErrorCode::STREAM_REPLICAS_NOT_SUPPORTED => new(
                    ErrorKind::Server,
                    &format!(
                        "the server belongs to no cluster, so set `num_replicas` to 1, or connect to a cluster: {error}"
                    ),
                ),
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

/// Returns `true` if the cause of an error is a refusal that the server would repeat, until somebody changes the request or
/// the server.
pub(crate) fn is_final(error: &(dyn StdError + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.downcast_ref().is_some_and(is_final_refusal) {
            return true;
        }
        cause = error.source();
    }
    false
}

/// See `errors.json` of nats-server: a status of 400 stands for a wrong request, but a few of these pass, and a few with
/// other statuses do not.
fn is_final_refusal(error: &jetstream::Error) -> bool {
    /// No suitable peers, a name in use, a move, a change of members or another reconfiguration in progress.
    const PASSING: [u64; 5] = [10005, 10058, 10124, 10202, 10226];
    /// An invalid configuration, limits of the account, and replicas without a cluster.
    const FINAL: [u64; 3] = [10052, 10053, 10074];
    let code = error.error_code().0;
    FINAL.contains(&code) || (matches!(error.code(), 400 | 412) && !PASSING.contains(&code))
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

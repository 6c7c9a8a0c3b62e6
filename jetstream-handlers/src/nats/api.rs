//! Requests to the JetStream API, with errors that a caller can act on.

use std::error::Error as StdError;
use std::fmt;

use async_nats::client::{RequestError, RequestErrorKind};
use async_nats::jetstream::response::Response;
use async_nats::jetstream::{self, ErrorCode};
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Connection;
use crate::error::{Error, ErrorKind};

/// Why a request to the API failed.
#[derive(Debug)]
pub(super) enum ApiError {
    /// The server refused it.
    Refused(jetstream::Error),
    /// There was no answer.
    Unanswered(RequestError),
    /// The answer is not what the protocol says.
    Unreadable(serde_json::Error),
}

impl ApiError {
    pub(super) fn is(&self, code: ErrorCode) -> bool {
        matches!(self, Self::Refused(error) if error.error_code() == code)
    }

    /// An error of ours that says what was being done.
    pub(super) fn into_error(self, doing: &str) -> Error {
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

impl Connection {
    /// Asks for something that needs no words but the subject; some requests are refused with any (error 10038).
    pub(super) async fn ask<T: DeserializeOwned>(&self, subject: &str) -> Result<T, ApiError> {
        self.send(subject, Bytes::new()).await
    }

    /// Sends `payload` to `subject` below the API prefix, and reads the answer.
    pub(super) async fn api<T: DeserializeOwned>(
        &self,
        subject: &str,
        payload: &impl Serialize,
    ) -> Result<T, ApiError> {
        let payload = serde_json::to_vec(payload).expect("a request has no map with keys other than strings");
        self.send(subject, payload.into()).await
    }

    async fn send<T: DeserializeOwned>(&self, subject: &str, payload: Bytes) -> Result<T, ApiError> {
        let request = async_nats::Request::new().payload(payload).timeout(Some(self.settings.request_timeout));
        let subject = format!("{}.{subject}", self.api_prefix);
        let answer = self.client.send_request(subject, request).await.map_err(ApiError::Unanswered)?;
        match serde_json::from_slice(&answer.payload) {
            Ok(Response::Ok(answer)) => Ok(answer),
            Ok(Response::Err { error }) => Err(ApiError::Refused(error)),
            Err(error) => Err(ApiError::Unreadable(error)),
        }
    }
}

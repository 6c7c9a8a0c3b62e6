//! The error of a fast-ingest batch.

use std::error::Error as StdError;
use std::fmt;

use super::{Error, ErrorKind};

/// The error of [`Publisher::ingest`](crate::Publisher::ingest), with the number of messages that are stored.
///
/// `?` converts it into an [`Error`], without the number.
///
/// # Examples
///
/// ```
/// # async fn send(broker: jetstream_handlers::Broker) {
/// let readings = (0..50_000).map(|reading| broker.publish_message("readings.kitchen", &reading));
/// if let Err(error) = broker.publisher().ingest(readings).await {
///     println!("the first {} are stored: {error}", error.stored());
/// }
/// # }
/// ```
pub struct IngestError {
    error: Error,
    stored: u64,
}

impl IngestError {
    pub(crate) fn new(error: Error, stored: u64) -> Self {
        Self { error, stored }
    }

    /// Returns the number of messages that are known to be stored, counted from the first of the batch.
    ///
    /// The text of the error states whether more of them may be stored.
    pub fn stored(&self) -> u64 {
        self.stored
    }

    pub(crate) fn error(&self) -> &Error {
        &self.error
    }

    /// Returns the kind of the error.
    pub fn kind(&self) -> ErrorKind {
        self.error.kind()
    }

    /// Returns the error without the number of stored messages.
    pub fn into_error(self) -> Error {
        self.error
    }
}

impl fmt::Debug for IngestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}\n    messages stored: {}", self.error, self.stored)
    }
}

impl fmt::Display for IngestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl StdError for IngestError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.error.source()
    }
}

impl From<IngestError> for Error {
    fn from(error: IngestError) -> Self {
        error.into_error()
    }
}

//! A batch of messages for one stream.

use crate::error::{Error, ErrorKind};
use crate::message::Outgoing;

/// The prefix of the headers with which an atomic batch is sent (ADR-50).
const BATCH_HEADERS: &str = "Nats-Batch-";

/// Checks one message of a batch; `number` counts from 1.
pub(super) fn check_member(number: usize, message: Result<Outgoing, Error>) -> Result<Outgoing, Error> {
    let message = message.map_err(|error| about(number, error))?;
    let reserved = message.headers.iter().find(|(name, _)| AsRef::<str>::as_ref(*name).starts_with(BATCH_HEADERS));
    match reserved {
        None => Ok(message),
        Some((name, _)) => Err(Error::new(
            ErrorKind::Config,
            format!("message {number} of the batch has the header `{name}`, which the batch itself sets; remove it"),
        )),
    }
}

/// Returns the error with the number of its message as a prefix.
pub(super) fn about(number: usize, error: Error) -> Error {
    error.about(&format!("message {number} of the batch"))
}

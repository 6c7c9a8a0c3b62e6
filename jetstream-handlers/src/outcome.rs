//! How a message ends.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use crate::error::{BoxError, chain};

/// How a message ends.
///
/// A handler that returns `()` or `Result<(), E>` never needs it; one that wants to say more returns it.
/// Adding a way to settle is a breaking change on purpose: every match should then be looked at.
///
/// # Examples
///
/// ```
/// use jetstream_handlers::prelude::*;
/// use std::time::Duration;
///
/// #[subscriber(subject = "meters.read", queue = "meters")]
/// async fn read_meter(reading: u64) -> Settle {
///     match reading {
///         0 => Settle::RetryAfter(Duration::from_secs(60)),
///         _ => Settle::Ack,
///     }
/// }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settle {
    /// Done: the message will not come again.
    Ack,
    /// Failed: the message comes again after the handler's `backoff`, at most `max_deliver` times, then it is a dead letter.
    Retry,
    /// Failed: as [`Settle::Retry`], but after this delay in place of the `backoff`.
    RetryAfter(Duration),
    /// Failed for good: the message is a dead letter at once.
    Terminate,
}

/// Why a handler failed, and whether to try again.
///
/// The `?` operator makes one of any error, and means [`retry`](HandlerError::retry).
/// Like the error of `anyhow` it does not implement [`std::error::Error`] itself, so that this conversion can exist.
///
/// # Examples
///
/// ```
/// use jetstream_handlers::prelude::*;
///
/// fn parse(amount: &str) -> HandlerResult<u64> {
///     // A number that does not parse today will not parse tomorrow.
///     amount.parse().map_err(HandlerError::terminate)
/// }
/// # assert!(parse("x").is_err());
/// ```
pub struct HandlerError {
    settle: Settle,
    source: BoxError,
}

impl HandlerError {
    /// Try again after the handler's `backoff`.
    pub fn retry(error: impl Into<BoxError>) -> Self {
        Self { settle: Settle::Retry, source: error.into() }
    }

    /// Try again after `delay`.
    pub fn retry_after(delay: Duration, error: impl Into<BoxError>) -> Self {
        Self { settle: Settle::RetryAfter(delay), source: error.into() }
    }

    /// Do not try again: make the message a dead letter now.
    pub fn terminate(error: impl Into<BoxError>) -> Self {
        Self { settle: Settle::Terminate, source: error.into() }
    }

    /// How the message will end.
    pub fn settle(&self) -> Settle {
        self.settle
    }

    /// The error itself.
    pub fn error(&self) -> &(dyn StdError + Send + Sync + 'static) {
        &*self.source
    }
}

impl fmt::Display for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.source, f)
    }
}

impl fmt::Debug for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.settle, chain(&*self.source))
    }
}

impl<E: Into<BoxError>> From<E> for HandlerError {
    fn from(error: E) -> Self {
        Self::retry(error)
    }
}

/// What a handler returns: `Ok(())` acks, an error is retried or terminated as it says.
pub type HandlerResult<T = ()> = Result<T, HandlerError>;

/// What became of one call of a handler: how the message ends, and the error if there was one.
#[derive(Debug)]
pub struct Outcome {
    pub(crate) settle: Settle,
    pub(crate) failure: Option<Failure>,
}

/// Why a call did not end in an ack, for the log and for the dead letter.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) reason: Reason,
    pub(crate) error: String,
}

/// The class of a failure; it becomes the `Dead-Letter-Reason` header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    Error,
    Panic,
    Timeout,
    Undecodable,
    Killed,
}

impl Reason {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Reason::Error => "error",
            Reason::Panic => "panic",
            Reason::Timeout => "timeout",
            Reason::Undecodable => "undecodable",
            Reason::Killed => "killed",
        }
    }
}

impl Outcome {
    pub(crate) fn failed(settle: Settle, reason: Reason, error: impl Into<String>) -> Self {
        Self { settle, failure: Some(Failure { reason, error: error.into() }) }
    }

    /// Why it failed, which an outcome that is no ack has.
    pub(crate) fn into_failure(self) -> Failure {
        self.failure.unwrap_or(Failure { reason: Reason::Error, error: String::new() })
    }
}

/// A return type of a handler: `()`, `Result<(), E>` for any error type, or [`Settle`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a return type of a handler",
    label = "a handler returns `()`, `Result<(), E>` or `Settle`",
    note = "a handler that returns a value in `Ok` must return `Ok(())` instead, because nothing receives the value",
    note = "the error of a `Result<(), E>` must implement `std::error::Error`, or convert into `HandlerError` or a `Box<dyn Error + Send + Sync>`"
)]
pub trait IntoSettle: Sealed {
    /// Converts the result of a call.
    #[doc(hidden)]
    fn into_outcome(self) -> Outcome;
}

/// The bound that keeps [`IntoSettle`] closed to other types.
pub trait Sealed {}

impl Sealed for () {}
impl Sealed for Settle {}
#[diagnostic::do_not_recommend]
impl<E: Into<HandlerError>> Sealed for Result<(), E> {}

impl IntoSettle for () {
    fn into_outcome(self) -> Outcome {
        Outcome { settle: Settle::Ack, failure: None }
    }
}

impl IntoSettle for Settle {
    fn into_outcome(self) -> Outcome {
        let failure = match self {
            Settle::Ack => None,
            other => Some(Failure { reason: Reason::Error, error: format!("the handler returned {other:?}") }),
        };
        Outcome { settle: self, failure }
    }
}

// Otherwise a wrong error type is reported through the chain of conversions that it lacks.
#[diagnostic::do_not_recommend]
impl<E: Into<HandlerError>> IntoSettle for Result<(), E> {
    fn into_outcome(self) -> Outcome {
        match self {
            Ok(()) => ().into_outcome(),
            Err(error) => {
                let error = error.into();
                Outcome::failed(error.settle, Reason::Error, chain(&*error.source))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settled(value: impl IntoSettle) -> (Settle, Option<String>) {
        let outcome = value.into_outcome();
        (outcome.settle, outcome.failure.map(|failure| failure.error))
    }

    #[test]
    fn every_error_type_of_a_user_settles() {
        let io = || std::io::Error::other("disk full");
        assert_eq!(settled(()), (Settle::Ack, None));
        assert_eq!(settled(Ok::<(), std::io::Error>(())), (Settle::Ack, None));
        assert_eq!(settled(Err::<(), _>(io())), (Settle::Retry, Some("disk full".into())));
        assert_eq!(settled(Err::<(), BoxError>(io().into())), (Settle::Retry, Some("disk full".into())));
        assert_eq!(settled(Err::<(), _>("plain text")), (Settle::Retry, Some("plain text".into())));
        assert_eq!(settled(Err::<(), _>(HandlerError::terminate("no"))), (Settle::Terminate, Some("no".into())));
        let later = HandlerError::retry_after(Duration::from_secs(3), io());
        assert_eq!(
            settled(Err::<(), _>(later)),
            (Settle::RetryAfter(Duration::from_secs(3)), Some("disk full".into()))
        );
    }

    #[test]
    fn an_anyhow_error_keeps_its_chain() {
        use anyhow::Context as _;
        let error = Err::<(), _>(std::io::Error::other("disk full")).context("storing the order");
        assert_eq!(settled(error), (Settle::Retry, Some("storing the order: disk full".into())));
    }
}

//! The outcome of a call: the settlement of its message, the failure, and the messages to publish.

mod batch;
mod elements;
mod output;
mod returned;

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::printable::{printable, truncate};
use crate::error::{BoxError, chain};

pub use batch::{IntoElements, IntoSettles, published_elements};
pub use elements::Elements;
pub use output::{Output, Outputs};
pub use returned::{DeclaredOutputs, IntoOutputs, IntoPublished, IntoSettle, Returned, published, via};

/// The maximum length of the text of a failure, in bytes.
const MAX_ERROR: usize = 8 * 1024;

/// The way in which a message is settled.
///
/// A handler returns it to choose between acknowledgement, retry and termination itself; a handler that returns `()` or
/// `Result<(), E>` does not need it.
/// A new variant is deliberately a breaking change, so that every `match` is reviewed.
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
    /// Acknowledges the message, which is then not redelivered.
    Ack,
    /// Redelivers the message after the handler's `backoff`; after `max_deliver` attempts it becomes a dead letter.
    Retry,
    /// Redelivers the message as [`Settle::Retry`] does, but after this delay instead of the `backoff`.
    RetryAfter(Duration),
    /// Turns the message into a dead letter without another attempt.
    Terminate,
    /// Returns the message to the server during a graceful shutdown, for a handler that ends early at the
    /// [`Shutdown`](crate::Shutdown) signal: it is redelivered immediately, and the call does not count as an attempt.
    ///
    /// Without a shutdown it is the same as [`Settle::Retry`], because the message would otherwise be delivered to this
    /// handler again, immediately and without end.
    HandBack,
}

/// The error of a handler, with the way in which its message is settled.
///
/// The `?` operator converts any error into it, as [`retry`](HandlerError::retry) does.
/// Like `anyhow::Error`, it does not implement [`std::error::Error`], because that would rule out this conversion.
///
/// # Examples
///
/// ```
/// use jetstream_handlers::prelude::*;
///
/// fn parse(amount: &str) -> HandlerResult<u64> {
///     // Another attempt cannot parse it either.
///     amount.parse().map_err(HandlerError::terminate)
/// }
/// # assert!(parse("x").is_err());
/// ```
pub struct HandlerError {
    settle: Settle,
    source: BoxError,
}

impl HandlerError {
    /// Creates an error that retries the message after the handler's `backoff`.
    pub fn retry(error: impl Into<BoxError>) -> Self {
        Self { settle: Settle::Retry, source: error.into() }
    }

    /// Creates an error that retries the message after `delay`.
    pub fn retry_after(delay: Duration, error: impl Into<BoxError>) -> Self {
        Self { settle: Settle::RetryAfter(delay), source: error.into() }
    }

    /// Creates an error that turns the message into a dead letter without another attempt.
    pub fn terminate(error: impl Into<BoxError>) -> Self {
        Self { settle: Settle::Terminate, source: error.into() }
    }

    /// Creates an error that returns the message to the server during a graceful shutdown, without counting an attempt.
    ///
    /// See [`Settle::HandBack`]; [`Shutdown`](crate::Shutdown) has an example.
    pub fn hand_back(error: impl Into<BoxError>) -> Self {
        Self { settle: Settle::HandBack, source: error.into() }
    }

    /// Returns the way in which the message is settled.
    pub fn settle(&self) -> Settle {
        self.settle
    }

    /// Returns the underlying error.
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

/// The result of a handler: `Ok` acknowledges the message, after its [`outputs`](crate::outputs) are stored, and an error
/// is settled as [`HandlerError`] describes.
pub type HandlerResult<T = ()> = Result<T, HandlerError>;

/// The outcome of one call of a handler, or of one message of a batch.
#[derive(Debug, Clone)]
pub struct Outcome {
    pub(crate) settle: Settle,
    /// The failure; `None` if the message is acknowledged.
    pub(crate) failure: Option<Failure>,
    /// The messages to publish before the delivery is acknowledged.
    pub(crate) outputs: Vec<Output>,
}

/// The failure of a call, for the log and for the dead letter.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    pub(crate) reason: Reason,
    pub(crate) error: String,
}

impl Failure {
    fn redact(&mut self) {
        let what = match self.reason {
            Reason::Error => "the handler returned an error",
            Reason::Panic => "the handler panicked",
            Reason::Undecodable => "a parameter could not be extracted",
            Reason::Output => "an output could not be published",
            // Their texts are those of this crate.
            Reason::Timeout | Reason::Killed | Reason::Exhausted | Reason::Unknown => return,
        };
        let position = self.error.rfind(" at line ").map(|at| &self.error[at..]);
        let position = position.filter(|position| {
            let words: Vec<_> = position.split(' ').collect();
            let is_number = |word: &&str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
            matches!(&words[..], ["", "at", "line", line, "column", column] if is_number(line) && is_number(column))
        });
        self.error = format!("{what}{} (redacted)", position.unwrap_or_default());
    }
}

/// Returns the text of an error as it is shown: on one line, and truncated.
///
/// It may contain values of the payload, which its sender chooses.
fn shown(error: &str) -> String {
    let mut text = printable(error).into_owned();
    if text.len() > MAX_ERROR {
        truncate(&mut text, MAX_ERROR);
        text.push_str("..");
    }
    text
}

/// The class of a failure, as in the header `Dead-Letter-Reason` of a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Reason {
    /// The handler returned an error.
    Error,
    /// The handler panicked.
    Panic,
    /// The handler exceeded its `timeout`.
    Timeout,
    /// A parameter of the handler could not be extracted, such as a payload that cannot be decoded.
    Undecodable,
    /// What the handler returned could not be encoded, or could not be published.
    Output,
    /// Attempts ended without a result, because the process ended or the server reached the consumer's `max_deliver`.
    Killed,
    /// All attempts were used up, and the failure is not known any more, because the dead letter could not be stored
    /// for a while.
    Exhausted,
    /// A reason that this version of the crate does not know.
    #[serde(other)]
    Unknown,
}

impl Reason {
    /// All reasons but `Unknown`.
    pub(crate) const KNOWN: [Self; 7] =
        [Self::Error, Self::Panic, Self::Timeout, Self::Undecodable, Self::Output, Self::Killed, Self::Exhausted];

    /// Returns the value of the header: the name of the variant in lower case.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Error => "error",
            Reason::Panic => "panic",
            Reason::Timeout => "timeout",
            Reason::Undecodable => "undecodable",
            Reason::Output => "output",
            Reason::Killed => "killed",
            Reason::Exhausted => "exhausted",
            Reason::Unknown => "unknown",
        }
    }

    /// Parses the value of the header.
    pub(crate) fn parse(text: &str) -> Self {
        Self::KNOWN.into_iter().find(|reason| reason.as_str() == text).unwrap_or(Reason::Unknown)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Outcome {
    pub(crate) fn ack() -> Self {
        Self { settle: Settle::Ack, failure: None, outputs: Vec::new() }
    }

    /// Returns the outcome of a call that has returned these outputs; one that cannot be published is a failure, which
    /// another attempt would repeat.
    pub(crate) fn publishing(outputs: Vec<Output>) -> Self {
        match outputs.iter().find_map(Output::problem) {
            None => Self { settle: Settle::Ack, failure: None, outputs },
            Some(problem) => Self::failed(Settle::Terminate, Reason::Output, problem),
        }
    }

    pub(crate) fn failed(settle: Settle, reason: Reason, error: impl AsRef<str>) -> Self {
        Self { settle, failure: Some(Failure { reason, error: shown(error.as_ref()) }), outputs: Vec::new() }
    }

    /// Replaces the text of the failure, which may contain values of the payload, by one that does not.
    pub(crate) fn redact(&mut self) {
        if let Some(failure) = &mut self.failure {
            failure.redact();
        }
    }

    pub(crate) fn dead_letter(failure: Failure) -> Self {
        Self { settle: Settle::Terminate, failure: Some(failure), outputs: Vec::new() }
    }

    /// Returns the failure, which every outcome but an ack has.
    pub(crate) fn into_failure(self) -> Failure {
        self.failure.unwrap_or(Failure { reason: Reason::Error, error: String::new() })
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
    fn any_error_type_converts() {
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
    fn text_of_an_error_is_one_printable_line() {
        let (_, text) = settled(Err::<(), _>("no `a\u{1b}[2J`\r\nERROR forged"));
        assert_eq!(text.as_deref(), Some("no `a\\u{1b}[2J`\\r\\nERROR forged"));
        let (_, text) = settled(Err::<(), _>("é".repeat(MAX_ERROR)));
        assert_eq!(text.map(|text| text.len()), Some(MAX_ERROR + 2));
    }

    #[test]
    fn redacted_text_shows_only_the_position() {
        for (reason, text, redacted) in [
            (Reason::Error, "no card 4242", "the handler returned an error (redacted)"),
            (Reason::Panic, "panicked: 4242 at line 1", "the handler panicked (redacted)"),
            (
                Reason::Undecodable,
                "invalid type: string \"4242\", expected u64 at line 1 column 12",
                "a parameter could not be extracted at line 1 column 12 (redacted)",
            ),
            (Reason::Undecodable, "4242 at line 1 column x", "a parameter could not be extracted (redacted)"),
            (Reason::Timeout, "cancelled after its timeout of 1s", "cancelled after its timeout of 1s"),
        ] {
            let mut outcome = Outcome::failed(Settle::Retry, reason, text);
            outcome.redact();
            assert_eq!(outcome.into_failure().error, redacted);
        }
    }

    #[test]
    fn anyhow_error_keeps_its_chain() {
        use anyhow::Context as _;
        let error = Err::<(), _>(std::io::Error::other("disk full")).context("storing the order");
        assert_eq!(settled(error), (Settle::Retry, Some("storing the order: disk full".into())));
    }
}

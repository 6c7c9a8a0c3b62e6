//! What can go wrong, in kinds that a caller can act on.

pub(crate) mod api;

use std::error::Error as StdError;
use std::fmt;

pub(crate) type BoxError = Box<dyn StdError + Send + Sync + 'static>;

/// What went wrong, for a caller that wants to act on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A setting in the code or in the environment is wrong.
    Config,
    /// No server could be reached.
    Connect,
    /// The server refused the credentials, or a permission is missing.
    Authorization,
    /// The server did not answer in time.
    Timeout,
    /// Several things are wrong with the handlers; see [`Error::problems`].
    Startup,
    /// There is no handler to start.
    NoHandlers,
    /// No stream covers a subject.
    StreamNotFound,
    /// A stream on the server differs from what the code asks for.
    StreamMismatch,
    /// A subject belongs to a stream other than the one asked for.
    StreamOverlap,
    /// A consumer on the server differs from what the code asks for.
    ConsumerMismatch,
    /// A handler asks for a state that nobody gave.
    MissingState,
    /// A value could not be encoded.
    Encode,
    /// A message is larger than the server accepts.
    PayloadTooLarge,
    /// The stream did not store a message.
    Publish,
    /// The stream's last sequence was not the expected one.
    WrongLastSequence,
    /// The stream has a message of an atomic batch already.
    Duplicate,
    /// The broker is disconnected.
    Closed,
    /// Handlers were still running when the grace period of a stop ended.
    GracePeriod,
    /// The server answered with an error, or not as the protocol says.
    Server,
}

/// Everything that this crate reports.
///
/// `Display` says what was found, where, and the way out; [`source`](StdError::source) is the cause;
/// `Debug` prints both in full, because that is what `fn main() -> Result<(), Error>` shows.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    message: String,
    source: Option<BoxError>,
    problems: Vec<Error>,
    stored: Option<u64>,
    expected_sequence: Option<u64>,
    found_sequence: Option<u64>,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            message: message.into(),
            source: None,
            problems: Vec::new(),
            stored: None,
            expected_sequence: None,
            found_sequence: None,
        }))
    }

    /// Returns the error of a publish whose condition on the last sequence does not hold.
    #[allow(dead_code, reason = "publish calls it soon")]
    pub(crate) fn wrong_last_sequence(message: impl Into<String>, expected: Option<u64>, found: Option<u64>) -> Self {
        let mut error = Self::new(ErrorKind::WrongLastSequence, message);
        (error.0.expected_sequence, error.0.found_sequence) = (expected, found);
        error
    }

    pub(crate) fn with_source(mut self, source: impl Into<BoxError>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// The same error, with what it is about in front.
    pub(crate) fn about(mut self, what: &str) -> Self {
        self.0.message = format!("{what}: {}", self.0.message);
        self
    }

    pub(crate) fn with_stored(mut self, count: u64) -> Self {
        self.0.stored = Some(count);
        self
    }

    /// Nothing, or the problems as one error.
    pub(crate) fn all(problems: Vec<Error>) -> Result<(), Self> {
        match problems.is_empty() {
            true => Ok(()),
            false => Err(Self::of(problems)),
        }
    }

    /// Several problems as one error; a single one stays itself, and several stops that took too long stay what they are.
    pub(crate) fn of(mut problems: Vec<Error>) -> Self {
        if problems.len() == 1 {
            return problems.remove(0);
        }
        let first = problems.first().map_or(ErrorKind::Startup, Error::kind);
        let kind = match problems.iter().all(|problem| problem.kind() == first) && first == ErrorKind::GracePeriod {
            true => ErrorKind::GracePeriod,
            false => ErrorKind::Startup,
        };
        let message = format!("{} problems with the handlers", problems.len());
        let mut error = Self::new(kind, message);
        error.0.problems = problems;
        error
    }

    /// What went wrong, to act on.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// How many messages of an ingest are known to be stored, counted from its first; `None` of any other error.
    ///
    /// The text says whether more of them may be.
    pub fn stored(&self) -> Option<u64> {
        self.0.stored
    }

    /// Returns the last sequence that a publish expected, if this is a [`WrongLastSequence`](ErrorKind::WrongLastSequence).
    pub fn expected_sequence(&self) -> Option<u64> {
        self.0.expected_sequence
    }

    /// Returns the last sequence that the stream had, if this is a [`WrongLastSequence`](ErrorKind::WrongLastSequence)
    /// and the server named it.
    pub fn found_sequence(&self) -> Option<u64> {
        self.0.found_sequence
    }

    /// The problems where there are several, as at a start or at the stop of several handlers; else empty.
    pub fn problems(&self) -> &[Error] {
        &self.0.problems
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)?;
        for problem in &self.0.problems {
            write!(f, "\n  - {problem}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:?})", self.0.message, self.0.kind)?;
        for problem in &self.0.problems {
            write!(f, "\n  - {problem:?}")?;
        }
        let mut cause = self.source();
        while let Some(error) = cause {
            write!(f, "\n    caused by: {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

/// An error with all its causes, in one line for a log or a header.
pub(crate) fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        // Many libraries repeat the cause in their own text; once is enough.
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}

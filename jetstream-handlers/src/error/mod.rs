//! Errors and their kinds.

pub(crate) mod api;
pub(crate) mod difference;
pub(crate) mod ingest;
pub(crate) mod permission;
pub(crate) mod printable;
pub(crate) mod problem;

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

use difference::Difference;
use problem::Problem;

pub(crate) type BoxError = Box<dyn StdError + Send + Sync + 'static>;

/// The kind of an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A setting in the code or in the environment is invalid.
    Config,
    /// No server could be reached.
    Connect,
    /// The server refused the credentials, or a permission is missing.
    Authorization,
    /// The server did not answer in time.
    Timeout,
    /// There are several problems; see [`Error::problems`].
    Startup,
    /// There is no handler to start.
    NoHandlers,
    /// No stream covers a subject.
    StreamNotFound,
    /// A stream on the server differs from what the code requires.
    StreamMismatch,
    /// A subject belongs to a stream other than the required one.
    StreamOverlap,
    /// A consumer on the server differs from what the code requires.
    ConsumerMismatch,
    /// A requirement of a handler's parameter is missing, usually a state that was not registered.
    MissingState,
    /// A value could not be encoded.
    Encode,
    /// A message is larger than the server accepts.
    PayloadTooLarge,
    /// The stream did not store a message.
    Publish,
    /// The last sequence of the stream is not the expected one; see [`Error::expected_sequence`] and [`Error::found_sequence`].
    WrongLastSequence,
    /// The stream already has a message of an atomic batch.
    Duplicate,
    /// The broker is disconnected.
    Closed,
    /// Handlers were still running when the grace period of a stop ended.
    GracePeriod,
    /// A plan cannot be applied: it is unreadable, of another version or another server, or the server has changed since.
    Plan,
    /// The server returned an error, or violated the protocol.
    Server,
}

/// The error of the fallible functions of this crate.
///
/// `Display` states what was found, where, and how to fix it; [`source`](StdError::source) is the cause.
/// `Debug` prints both, because `fn main() -> Result<(), Error>` reports its error with `Debug`.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    message: String,
    source: Option<BoxError>,
    problems: Vec<Problem>,
    permission: Option<String>,
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
            permission: None,
            expected_sequence: None,
            found_sequence: None,
        }))
    }

    /// Adds the expected and the found last sequence of a publish, where they are known.
    pub(crate) fn with_sequences(mut self, expected: Option<u64>, found: Option<u64>) -> Self {
        (self.0.expected_sequence, self.0.found_sequence) = (expected, found);
        self
    }

    pub(crate) fn with_source(mut self, source: impl Into<BoxError>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Adds the subject to which the user may lack the permission to publish.
    pub(crate) fn with_missing_permission(mut self, subject: String) -> Self {
        self.0.permission = Some(subject);
        self
    }

    /// Prefixes the text with `what` and a colon.
    pub(crate) fn about(mut self, what: &str) -> Self {
        self.0.message = format!("{what}: {}", self.0.message);
        self
    }

    /// Combines problems into one error.
    pub(crate) fn of(problems: Vec<Problem>) -> Self {
        let (kind, message) = match &*problems {
            [problem] => (problem.kind(), problem.to_string()),
            problems => {
                let is_late = |problem: &Problem| problem.kind() == ErrorKind::GracePeriod;
                let kind = if problems.iter().all(is_late) { ErrorKind::GracePeriod } else { ErrorKind::Startup };
                (kind, format!("{} problems", problems.len()))
            }
        };
        let mut error = Self::new(kind, message);
        error.0.problems = problems;
        error
    }

    /// Returns an error with all problems, if there are any.
    pub(crate) fn all(problems: Vec<Problem>) -> Result<(), Self> {
        if problems.is_empty() { Ok(()) } else { Err(Self::of(problems)) }
    }

    /// Combines the errors of several stops into one.
    pub(crate) fn joined(mut errors: Vec<Self>) -> Result<(), Self> {
        match errors.len() {
            0 => Ok(()),
            1 => Err(errors.remove(0)),
            _ => Err(Self::of(errors.into_iter().flat_map(Self::into_problems).collect())),
        }
    }

    fn into_problems(mut self) -> Vec<Problem> {
        if self.0.problems.is_empty() {
            return vec![Problem::Failed { handler: None, error: Arc::new(self) }];
        }
        std::mem::take(&mut self.0.problems)
    }

    /// Returns the kind of the error.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Returns every problem that was found, to act on: those of a start, of a stop, or of the stream of a publish.
    ///
    /// It is empty for other errors.
    /// A single problem is the error itself, with the same text and [`kind`](Self::kind).
    /// With several, the text lists them, and the kind is [`Startup`](ErrorKind::Startup), or
    /// [`GracePeriod`](ErrorKind::GracePeriod) if all of them are handlers that did not stop in time.
    /// A start reports the problems of all handlers and streams at once, and starts no handler then.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use jetstream_handlers::{Broker, Problem};
    ///
    /// # async fn start(broker: Broker) {
    /// if let Err(error) = broker.start_all().await {
    ///     for problem in error.problems() {
    ///         match problem {
    ///             Problem::ConsumerDiffers { consumer, differences, .. } => {
    ///                 for it in differences {
    ///                     println!("{consumer}: {} is {}, wanted {}", it.field(), it.found(), it.wanted());
    ///                 }
    ///             }
    ///             other => println!("{other}"),
    ///         }
    ///     }
    /// }
    /// # }
    /// ```
    pub fn problems(&self) -> &[Problem] {
        &self.0.problems
    }

    /// Returns every field in which a stream or a consumer differs from what the code requires.
    pub fn differences(&self) -> impl Iterator<Item = &Difference> {
        self.0.problems.iter().flat_map(Problem::differences)
    }

    /// Returns the subject to which the user lacks the permission to publish, or may lack it.
    ///
    /// The server has reported it if the kind is [`Authorization`](ErrorKind::Authorization).
    /// It is also set if a request to the JetStream API timed out, because a server does not answer a request that it
    /// does not permit; an overloaded server causes the same timeout.
    pub fn missing_permission(&self) -> Option<&str> {
        self.0.permission.as_deref().or_else(|| self.0.problems.iter().find_map(Problem::missing_permission))
    }

    /// Returns the last sequence that a publish expected, if the kind is
    /// [`WrongLastSequence`](ErrorKind::WrongLastSequence) and the condition is known.
    pub fn expected_sequence(&self) -> Option<u64> {
        self.0.expected_sequence
    }

    /// Returns the last sequence that the stream had, if the kind is
    /// [`WrongLastSequence`](ErrorKind::WrongLastSequence) and the server reported it.
    pub fn found_sequence(&self) -> Option<u64> {
        self.0.found_sequence
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)?;
        if let several @ [_, _, ..] = &*self.0.problems {
            for problem in several {
                write!(f, "\n  - {problem}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:?})", self.0.message, self.0.kind)?;
        if let several @ [_, _, ..] = &*self.0.problems {
            for problem in several {
                write!(f, "\n  - {problem} ({:?})", problem.kind())?;
                write_causes(f, problem)?;
            }
        }
        write_causes(f, self)
    }
}

fn write_causes(f: &mut fmt::Formatter<'_>, error: &dyn StdError) -> fmt::Result {
    let mut cause = error.source();
    while let Some(error) = cause {
        write!(f, "\n    caused by: {error}")?;
        cause = error.source();
    }
    Ok(())
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match (&self.0.source, &*self.0.problems) {
            (Some(source), _) => Some(&**source),
            (None, [problem]) => problem.source(),
            (None, _) => None,
        }
    }
}

/// Returns the text of an error with all its causes, in one line for a log or a header.
pub(crate) fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        // Many libraries repeat the cause in their own text.
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use async_nats::client::RequestErrorKind;

    use super::api::ApiError;
    use super::*;

    fn running(handler: &str) -> Problem {
        Problem::NeverYields { handler: handler.to_owned() }
    }

    #[test]
    fn single_problem_is_the_error_itself() {
        let error = Error::of(vec![running("one")]);
        assert_eq!((error.kind(), error.to_string()), (ErrorKind::GracePeriod, running("one").to_string()));
        assert_eq!(error.problems().len(), 1);
        assert!(Error::all(Vec::new()).is_ok());
    }

    #[test]
    fn several_problems_are_listed_with_their_causes() {
        let cause = Error::new(ErrorKind::Server, "reading stream `SHOP`").with_source("out of memory");
        let failed = Problem::failed(&problem::Purpose::Handler("two".to_owned()), cause);
        let error = Error::of(vec![running("one"), failed]);
        assert_eq!(error.kind(), ErrorKind::Startup);
        let (text, debug) = (error.to_string(), format!("{error:?}"));
        assert!(text.starts_with("2 problems\n  - `one` does not stop"), "{text}");
        assert!(text.ends_with("\n  - reading stream `SHOP`"), "{text}");
        assert!(debug.ends_with("\n  - reading stream `SHOP` (Server)\n    caused by: out of memory"), "{debug}");
        assert_eq!(error.problems()[1].handler(), Some("two"));
    }

    #[test]
    fn stops_that_took_too_long_stay_one_kind() {
        let late = |handler| Error::of(vec![running(handler)]);
        let joined = Error::joined(vec![late("one"), late("two")]).unwrap_err();
        assert_eq!((joined.kind(), joined.problems().len()), (ErrorKind::GracePeriod, 2));
        let panicked = Error::new(ErrorKind::Server, "the worker of `two` panicked");
        let joined = Error::joined(vec![late("one"), panicked]).unwrap_err();
        assert_eq!((joined.kind(), joined.problems()[1].kind()), (ErrorKind::Startup, ErrorKind::Server));
    }

    #[test]
    fn refusal_that_can_pass_is_told_from_one_that_cannot() {
        let refused = |status: u16, code: u64| {
            let error = serde_json::json!({ "code": status, "err_code": code, "description": "no" });
            let error = ApiError::Refused(serde_json::from_value(error).unwrap()).into_error("creating stream `SHOP`");
            Error::of(vec![Problem::failed(&problem::Purpose::Declared, error)])
        };
        for (status, code) in [(500, 10074), (500, 10052), (400, 10027), (400, 10156), (412, 10185)] {
            assert!(api::is_final(&refused(status, code)), "{code}");
        }
        for (status, code) in [(503, 10008), (503, 10023), (400, 10005), (500, 10047), (429, 10167), (503, 10077)] {
            assert!(!api::is_final(&refused(status, code)), "{code}");
        }
        assert!(!api::is_final(&Error::new(ErrorKind::Server, "no answer")));
    }

    #[test]
    fn timed_out_request_names_the_permission_that_may_be_missing() {
        let subject = "$JS.API.STREAM.INFO.SHOP".to_owned();
        let unanswered = |kind: RequestErrorKind| ApiError::Unanswered { subject: subject.clone(), error: kind.into() };
        let error = unanswered(RequestErrorKind::TimedOut).into_error("reading stream `SHOP`");
        assert_eq!((error.kind(), error.missing_permission()), (ErrorKind::Timeout, Some(&*subject)));
        assert!(error.to_string().contains("may not publish to `$JS.API.STREAM.INFO.SHOP`"), "{error}");
        let problem = Problem::failed(&problem::Purpose::Declared, error);
        assert_eq!(Error::of(vec![problem.clone(), problem]).missing_permission(), Some(&*subject));
        let error = unanswered(RequestErrorKind::NoResponders).into_error("reading stream `SHOP`");
        assert_eq!(error.missing_permission(), None);
    }
}

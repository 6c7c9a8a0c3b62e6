//! Assertions on errors.

use std::fmt::Debug;

use jetstream_handlers::{Error, ErrorKind, IngestError};

/// Something that should hold an [`Error`]: the error itself, or a result.
pub trait Failed {
    /// Returns the kind of the error and what `main` prints for it, or `None` for a success.
    fn error(&self) -> Option<(ErrorKind, String)>;
}

impl<T, E> Failed for Result<T, E>
where
    for<'a> &'a E: Failed,
{
    fn error(&self) -> Option<(ErrorKind, String)> {
        self.as_ref().err()?.error()
    }
}

impl Failed for &Error {
    fn error(&self) -> Option<(ErrorKind, String)> {
        Some(told(self.kind(), self))
    }
}

impl Failed for &IngestError {
    fn error(&self) -> Option<(ErrorKind, String)> {
        Some(told(self.kind(), self))
    }
}

fn told(kind: ErrorKind, error: impl Debug) -> (ErrorKind, String) {
    (kind, format!("{error:?}"))
}

/// Checks the kind of an error, and that its text contains each of `parts`.
///
/// The text is what `main` prints: the message, the kind and the causes.
///
/// # Panics
///
/// On a success, on another kind and on a missing part.
#[track_caller]
#[expect(clippy::needless_pass_by_value, reason = "callers pass the result of a call")]
pub fn assert_error(failed: impl Failed, kind: ErrorKind, parts: &[&str]) {
    let Some((found, text)) = failed.error() else { panic!("success instead of {kind:?} with {parts:?}") };
    assert_eq!(found, kind, "{text}");
    for part in parts {
        assert!(text.contains(part), "no {part:?} in {text:?}");
    }
}

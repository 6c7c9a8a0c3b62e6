//! Assertions on errors.

use jetstream_handlers::{Error, ErrorKind};

/// Something that should hold an [`Error`]: the error itself, or a result.
pub trait Failed {
    /// Returns the error, or `None` for a success.
    fn error(&self) -> Option<&Error>;
}

impl<T> Failed for Result<T, Error> {
    fn error(&self) -> Option<&Error> {
        self.as_ref().err()
    }
}

impl Failed for &Error {
    fn error(&self) -> Option<&Error> {
        Some(self)
    }
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
    let Some(error) = failed.error() else { panic!("success instead of {kind:?} with {parts:?}") };
    let text = format!("{error:?}");
    assert_eq!(error.kind(), kind, "{text}");
    for part in parts {
        assert!(text.contains(part), "no {part:?} in {text:?}");
    }
}

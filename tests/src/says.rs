//! An assertion on what an error says.

use jetstream_handlers::{Error, ErrorKind};

/// Checks the kind of an error, and that it says all of `parts`, with its causes as `main` would show it.
#[track_caller]
pub fn assert_says<T>(result: Result<T, Error>, kind: ErrorKind, parts: &[&str]) {
    let Err(error) = result else { panic!("no error, instead of {kind:?} with {parts:?}") };
    let text = format!("{error:?}");
    assert_eq!(error.kind(), kind, "{text}");
    for part in parts {
        assert!(text.contains(part), "no {part:?} in {text:?}");
    }
}

//! Dead letters: copies of messages that could not be handled.

mod headers;
mod letter;
mod store;

pub(crate) use headers::{copy, without_payload};
pub use letter::DeadLetter;
pub use store::DeadLetters;

//! Dead letters: copies of messages that could not be handled.

mod headers;
mod letter;
mod letters;
mod store;

pub use letter::DeadLetter;
pub use letters::DeadLetters;
pub(crate) use store::store;

//! Dead letters: copies of messages that could not be handled.

mod draft;
mod letter;
mod letters;
mod parts;
mod replay;
mod report;
mod store;

pub use letter::DeadLetter;
pub use letters::DeadLetters;
pub use report::ReplayReport;
pub(crate) use store::store;

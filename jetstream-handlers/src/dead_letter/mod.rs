//! Dead letters: copies of messages that could not be handled.

mod draft;
mod filter;
mod groups;
mod json;
mod letter;
mod letters;
mod pace;
mod parts;
mod reading;
mod replay;
mod report;
mod store;
mod targets;
mod transfer;

pub use groups::{DeadLetterGroup, DeadLetterGroups};
pub use letter::DeadLetter;
pub use letters::DeadLetters;
pub(crate) use parts::is_part;
#[cfg(feature = "cli")]
pub(crate) use replay::Attempt;
pub use report::ReplayReport;
pub(crate) use store::store;
pub use transfer::ImportReport;

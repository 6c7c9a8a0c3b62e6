//! Typed publishing, acknowledged by the stream.

mod all;
mod atomic;
mod batch;
mod ingest;
mod message;
mod publisher;
mod retry;
mod store;

pub use all::PublishAll;
pub use message::PublishMessage;
pub use publisher::Publisher;
pub(crate) use store::{MissingStream, publish, publish_guessable, publish_to_existing};

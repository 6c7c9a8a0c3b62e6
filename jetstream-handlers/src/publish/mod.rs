//! Typed publishing, acknowledged by the stream.

mod all;
mod atomic;
mod batch;
mod ingest;
mod message;
mod outputs;
mod publisher;
mod retry;
mod store;

pub use all::PublishAll;
pub use message::PublishMessage;
pub(crate) use outputs::{NotStored, OutputStreams, publish_outputs};
pub use publisher::Publisher;
pub(crate) use store::{MissingStream, publish, publish_copy, publish_guessable};

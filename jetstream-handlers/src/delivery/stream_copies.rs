//! The state of a stream that has copies of the messages of another one.

use async_nats::jetstream::stream;

/// The configuration and the state of a stream, with the position of its first source.
#[derive(Debug)]
pub(crate) struct StreamCopies {
    pub(crate) config: stream::Config,
    /// The last sequence that was copied from the first source; `None` if the server does not tell, or has copied nothing.
    pub(crate) copied: Option<u64>,
    /// The number of messages in the stream.
    pub(crate) messages: u64,
    /// The last sequence that the stream has assigned.
    pub(crate) last_sequence: u64,
}

//! A consumer as a transport finds it.

use std::time::SystemTime;

use async_nats::jetstream::consumer;

/// A consumer that exists.
#[derive(Debug, Clone)]
pub(crate) struct FoundConsumer {
    pub(crate) config: consumer::Config,
    /// The time of its creation, by which it differs from a later consumer of the same name.
    pub(crate) created: Option<SystemTime>,
}

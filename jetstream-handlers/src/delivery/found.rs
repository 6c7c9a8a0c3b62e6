//! A consumer as a transport finds it.

use std::time::SystemTime;

use async_nats::jetstream::consumer;

/// A consumer that exists.
#[derive(Debug, Clone)]
pub(crate) struct FoundConsumer {
    pub(crate) config: consumer::Config,
    /// The time of its creation, by which it differs from a later consumer of the same name.
    pub(crate) created: Option<SystemTime>,
    /// The stream sequence up to which every message has ended.
    pub(crate) ack_floor: u64,
    /// The stream sequence of the last message that was delivered.
    pub(crate) delivered: u64,
    /// The number of messages that were not delivered, or are not acknowledged.
    pub(crate) left: u64,
}

impl FoundConsumer {
    pub(crate) fn name(&self) -> &str {
        self.config.durable_name.as_deref().or(self.config.name.as_deref()).unwrap_or_default()
    }
}

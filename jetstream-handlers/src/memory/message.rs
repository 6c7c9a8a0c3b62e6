//! A message in an in-memory stream.

use std::time::SystemTime;

use async_nats::HeaderMap;
use bytes::Bytes;
use tokio::time::Instant;

/// A stored message.
#[derive(Debug, Clone)]
pub(super) struct Message {
    pub(super) subject: async_nats::Subject,
    pub(super) payload: Bytes,
    pub(super) headers: HeaderMap,
    pub(super) stored_at: SystemTime,
    /// The time of storing on tokio's clock, from which `max_age` counts.
    pub(super) at: Instant,
    /// The time at which the message expires because of its `Nats-TTL` header.
    pub(super) expires_at: Option<Instant>,
    pub(super) size: usize,
}

//! A message in a stream.

use std::time::SystemTime;

use async_nats::HeaderMap;
use bytes::Bytes;

/// A message as its stream stores it.
#[derive(Debug, Clone)]
pub(crate) struct Stored {
    pub(crate) sequence: u64,
    pub(crate) subject: async_nats::Subject,
    pub(crate) payload: Bytes,
    pub(crate) headers: HeaderMap,
    pub(crate) time: SystemTime,
}

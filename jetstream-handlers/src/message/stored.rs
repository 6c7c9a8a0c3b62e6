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

/// Returns a time in nanoseconds since 1970, as the server writes it into ack subjects; one before 1970 becomes 1970.
pub(crate) fn nanos(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

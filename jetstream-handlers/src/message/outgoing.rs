//! A message to be published.

use async_nats::HeaderMap;
use bytes::Bytes;

/// A message on its way to a stream.
#[derive(Debug, Clone)]
pub(crate) struct Outgoing {
    pub(crate) subject: async_nats::Subject,
    pub(crate) payload: Bytes,
    pub(crate) headers: HeaderMap,
}

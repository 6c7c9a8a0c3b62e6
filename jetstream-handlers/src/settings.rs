//! Application settings for streams and publishing.

use std::time::Duration;

use async_nats::jetstream::stream;

/// What the application said about streams and publishing.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) auto_create: bool,
    pub(crate) streams: Vec<stream::Config>,
    /// How long one publish may take, with all its repetitions.
    pub(crate) publish_timeout: Duration,
    /// How long one request to the JetStream API may take.
    pub(crate) request_timeout: Duration,
    pub(crate) domain: Option<String>,
    pub(crate) api_prefix: Option<String>,
}

//! Application settings for streams and publishing.

use std::time::Duration;

use async_nats::jetstream::stream;

/// The settings of a broker for streams and publishing.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) auto_create: bool,
    pub(crate) streams: Vec<stream::Config>,
    /// How long one publish may take, including its retries.
    pub(crate) publish_timeout: Duration,
    /// How long one request to the JetStream API may take.
    pub(crate) request_timeout: Duration,
    pub(crate) domain: Option<String>,
    pub(crate) api_prefix: Option<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            auto_create: true,
            streams: Vec::new(),
            publish_timeout: Duration::from_secs(20),
            request_timeout: Duration::from_secs(5),
            domain: None,
            api_prefix: None,
        }
    }
}

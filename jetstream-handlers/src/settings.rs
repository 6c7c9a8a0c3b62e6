//! The settings of a broker for streams and publishing.

use std::time::Duration;

use async_nats::jetstream::stream;

use crate::codec::DefaultCodec;

/// Settings for streams and publishing, with their defaults.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) auto_create: bool,
    pub(crate) streams: Vec<stream::Config>,
    /// The timeout of one publish, including its retries.
    pub(crate) publish_timeout: Duration,
    /// The timeout of one request to the JetStream API.
    pub(crate) request_timeout: Duration,
    /// `true` if texts of errors must not show values of a payload.
    pub(crate) redact_errors: bool,
    /// The format of payloads that name none.
    pub(crate) codec: DefaultCodec,
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
            redact_errors: false,
            codec: DefaultCodec::default(),
            domain: None,
            api_prefix: None,
        }
    }
}

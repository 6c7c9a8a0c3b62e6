//! The settings of a broker for streams and publishing.

use std::borrow::Cow;
use std::time::Duration;

use async_nats::jetstream::stream;

use crate::codec::DefaultCodec;
use crate::plan::Manage;
use crate::prefix::Prefix;

/// The first tokens of the subjects of requests to the JetStream API of the server itself.
pub(crate) const DEFAULT_API_PREFIX: &str = "$JS.API";

/// Settings for streams and publishing, with their defaults.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) auto_create: bool,
    pub(crate) manage: Manage,
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
    /// The first tokens of the subjects on which answers arrive; `None` for the default of the client.
    pub(crate) inbox_prefix: Option<String>,
    /// The prefix of all subjects and streams.
    pub(crate) prefix: Option<Prefix>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            auto_create: true,
            manage: Manage::default(),
            streams: Vec::new(),
            publish_timeout: Duration::from_secs(20),
            request_timeout: Duration::from_secs(5),
            redact_errors: false,
            codec: DefaultCodec::default(),
            domain: None,
            api_prefix: None,
            inbox_prefix: None,
            prefix: None,
        }
    }
}

impl Settings {
    /// Adds the prefix of the environment to the declared streams.
    pub(crate) fn add_prefix(&mut self) {
        let Some(prefix) = &self.prefix else { return };
        self.streams.iter_mut().for_each(|config| prefix.declared(config));
    }

    /// Returns the first tokens of the subjects of requests to the JetStream API.
    pub(crate) fn api(&self) -> String {
        match (&self.api_prefix, &self.domain) {
            (Some(prefix), _) => prefix.clone(),
            (None, Some(domain)) => format!("$JS.{domain}.API"),
            (None, None) => DEFAULT_API_PREFIX.to_owned(),
        }
    }

    /// Returns a subject in the environment of this broker.
    pub(crate) fn subject<'a>(&self, subject: &'a str) -> Cow<'a, str> {
        self.prefix.as_ref().map_or(Cow::Borrowed(subject), |prefix| prefix.subject(subject))
    }

    /// Returns the subject on which the instances of a handler with this stream and `queue` announce the partitions that
    /// they claim.
    pub(crate) fn announcements(&self, stream: &str, queue: &str) -> String {
        self.subject(&format!("jetstream-handlers.partitions.{stream}.{queue}")).into_owned()
    }

    /// Returns the name of a stream in the environment of this broker.
    pub(crate) fn stream<'a>(&self, name: &'a str) -> Cow<'a, str> {
        self.prefix.as_ref().map_or(Cow::Borrowed(name), |prefix| prefix.stream(name))
    }

    /// Returns the name of a stream in the environment of this broker, which may have the prefix already.
    pub(crate) fn known_stream<'a>(&self, name: &'a str) -> Cow<'a, str> {
        self.prefix.as_ref().map_or(Cow::Borrowed(name), |prefix| prefix.known_stream(name))
    }

    /// Returns a subject as it is declared, without the prefix of the environment.
    pub(crate) fn declared<'a>(&self, subject: &'a str) -> &'a str {
        self.prefix.as_ref().map_or(subject, |prefix| prefix.without(subject))
    }
}

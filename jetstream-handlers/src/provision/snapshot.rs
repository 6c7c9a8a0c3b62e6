//! The snapshot of a server in a file, with which a program is compared without a server.

use async_nats::jetstream::{consumer, stream};
use serde::{Deserialize, Serialize};

use super::plan::version_of;
use crate::error::{Error, ErrorKind};
use crate::memory::Memory;
use crate::settings::Settings;
use crate::transport::Transport;

/// The version of the form.
const VERSION: u32 = 1;

/// The configurations of streams and consumers, as the JetStream API takes them.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Snapshot {
    version: u32,
    pub(super) streams: Vec<stream::Config>,
    pub(super) consumers: Vec<ConsumerOf>,
}

/// A consumer, and the stream that it reads.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ConsumerOf {
    pub(super) stream_name: String,
    pub(super) config: consumer::Config,
}

impl Snapshot {
    pub(super) fn new(streams: Vec<stream::Config>, consumers: Vec<ConsumerOf>) -> Self {
        Self { version: VERSION, streams, consumers }
    }

    /// Reads a snapshot from JSON.
    fn read(json: &str) -> Result<Self, Error> {
        let unreadable = |error: &dyn std::fmt::Display| {
            Error::new(
                ErrorKind::Plan,
                format!("the snapshot cannot be read: {error}; write it with `export --format json`"),
            )
        };
        let version = version_of(json).map_err(|error| unreadable(&error))?;
        if version != u64::from(VERSION) {
            return Err(unreadable(&format!("it has version {version}, and this program reads version {VERSION}")));
        }
        let mut json = serde_json::Deserializer::from_str(json);
        serde_path_to_error::deserialize(&mut json).map_err(|error| unreadable(&error))
    }
}

/// Returns an in-memory server that has what a snapshot says.
pub(crate) async fn loaded(settings: &Settings, snapshot: &str) -> Result<Transport, Error> {
    let Snapshot { streams, consumers, .. } = Snapshot::read(snapshot)?;
    let transport = Transport::Memory(Memory::for_comparison(settings.clone()));
    let refused = |what: String, error: crate::error::api::ApiError| {
        let error = error.into_error(&format!("the snapshot cannot be loaded: {what}"));
        Error::new(ErrorKind::Plan, error.to_string())
    };
    for config in &streams {
        let created = transport.create_stream(config).await;
        created.map_err(|error| refused(format!("stream `{}`", config.name), error))?;
    }
    for ConsumerOf { stream_name, config } in &consumers {
        let name = config.durable_name.as_deref().unwrap_or_default();
        let created = transport.create_consumer(stream_name, config).await;
        created.map_err(|error| refused(format!("consumer `{name}` of stream `{stream_name}`"), error))?;
    }
    Ok(transport)
}

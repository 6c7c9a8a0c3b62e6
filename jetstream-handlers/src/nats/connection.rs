//! The connection of a broker, and its state.

use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_nats::Client;
use async_nats::client::RequestErrorKind;
use async_nats::connection::State;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::inbox::Routes;
use super::watchdog::watch;
use crate::delivery::ProcessClock;
use crate::error::{BoxError, Error, ErrorKind};
use crate::settings::Settings;
use crate::sync::lock;

/// One connection, shared by all handlers and publishers of a broker.
pub(crate) struct Connection {
    client: Client,
    pub(super) api_prefix: String,
    pub(crate) settings: Settings,
    epoch: watch::Receiver<u64>,
    pub(super) routes: Arc<Routes>,
    closed: CancellationToken,
    pub(crate) clock: ProcessClock,
    /// The time of the disconnect, while no server is connected.
    lost_at: Mutex<Option<Instant>>,
    _watchdog: AbortOnDropHandle<()>,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("state", &self.client.connection_state()).finish_non_exhaustive()
    }
}

impl Connection {
    pub(crate) fn new(client: Client, settings: Settings) -> Arc<Self> {
        let api_prefix = match (&settings.api_prefix, &settings.domain) {
            (Some(prefix), _) => prefix.clone(),
            (None, Some(domain)) => format!("$JS.{domain}.API"),
            (None, None) => "$JS.API".to_owned(),
        };
        let (sender, epoch) = watch::channel(connects(&client));
        Arc::new_cyclic(|connection| Self {
            client,
            api_prefix,
            settings,
            epoch,
            routes: Arc::default(),
            closed: CancellationToken::new(),
            clock: ProcessClock::new(),
            lost_at: Mutex::default(),
            _watchdog: AbortOnDropHandle::new(tokio::spawn(watch(connection.clone(), sender))),
        })
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// Returns a JetStream context of the client library with the same API prefix.
    pub(crate) fn jetstream(&self) -> async_nats::jetstream::Context {
        async_nats::jetstream::with_prefix(self.client.clone(), &self.api_prefix)
    }

    /// Returns the version of the server if it is older than the given one.
    pub(crate) fn version_before(&self, (major, minor, patch): (i64, i64, i64)) -> Option<String> {
        let is_older = !self.client.is_server_compatible(major, minor, patch);
        is_older.then(|| self.client.server_info().version)
    }

    /// Returns an error if the server is older than the version that introduced `feature`.
    pub(crate) fn require_version(
        &self,
        since: (i64, i64, i64),
        feature: &str,
        alternative: &str,
    ) -> Result<(), Error> {
        let Some(version) = self.version_before(since) else { return Ok(()) };
        let (major, minor, patch) = since;
        let text = format!(
            "the server {version} does not support {feature}; use a server from {major}.{minor}.{patch}, or {alternative}"
        );
        Err(Error::new(ErrorKind::Config, text))
    }

    pub(crate) fn is_connected(&self) -> bool {
        !self.is_closed() && self.client.connection_state() == State::Connected
    }

    /// Returns the time of the disconnect, if no server is connected.
    pub(crate) fn lost_since(&self) -> Option<Instant> {
        let lost_at = *lock(&self.lost_at);
        (!self.is_connected()).then(|| lost_at.unwrap_or_else(Instant::now))
    }

    /// Records and logs a disconnect or a reconnect since the last call.
    pub(super) fn record_state(&self, reconnected: bool) {
        let mut lost_at = lock(&self.lost_at);
        match (self.is_connected(), *lost_at) {
            (false, None) if !self.is_closed() => {
                *lost_at = Some(Instant::now());
                tracing::warn!("lost the connection to the server; handlers and publishes wait for a reconnect");
            }
            (true, Some(since)) => {
                *lost_at = None;
                tracing::info!("reconnected after {:.1?}", since.elapsed());
            }
            (true, None) if reconnected => tracing::info!("reconnected"),
            _ => {}
        }
    }

    /// Returns `true` if [`close`](Self::close) was called, which the state of the client does not show.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.is_cancelled()
    }

    /// Waits until the connection is closed.
    pub(crate) async fn closed(&self) {
        self.closed.cancelled().await;
    }

    /// Returns a receiver of the epoch: the number of connections made so far, which changes with every reconnect.
    pub(super) fn epoch(&self) -> watch::Receiver<u64> {
        self.epoch.clone()
    }

    /// Returns the current epoch; `None` while no server is connected.
    pub(crate) fn epoch_now(&self) -> Option<u64> {
        self.is_connected().then(|| self.connects())
    }

    pub(super) fn connects(&self) -> u64 {
        connects(&self.client)
    }

    pub(super) fn bytes_received(&self) -> u64 {
        self.client.statistics().in_bytes.load(Ordering::Relaxed)
    }

    /// Sends a request to a subject without subscribers, which the server answers immediately with "no responders".
    pub(crate) async fn round_trip(&self, limit: Duration) -> Result<(), Error> {
        let request = async_nats::Request::new().timeout(Some(limit));
        match self.client.send_request(self.client.new_inbox(), request).await {
            Err(error) if error.kind() == RequestErrorKind::NoResponders => Ok(()),
            Ok(_) => Ok(()),
            Err(error) => Err(Error::new(ErrorKind::Timeout, "the server did not answer").with_source(error)),
        }
    }

    /// Sends what is queued, then closes the connection.
    pub(crate) async fn close(&self) -> Result<(), Error> {
        if self.is_closed() {
            return Ok(());
        }
        let connected = self.is_connected();
        self.closed.cancel();
        if !connected {
            // Without a server a flush would only delay the stop until the timeout.
            self.client.drain().await.ok();
            return Ok(());
        }
        let closing = async {
            self.client.flush().await.map_err(|error| Box::new(error) as BoxError)?;
            self.client.drain().await.map_err(|error| Box::new(error) as BoxError)
        };
        match tokio::time::timeout(self.settings.request_timeout, closing).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => {
                Err(Error::new(ErrorKind::Closed, "the connection was not closed cleanly").with_source(error))
            }
            Err(_) => Err(Error::new(
                ErrorKind::Timeout,
                "the connection was not closed cleanly: the server did not answer in time",
            )),
        }
    }
}

fn connects(client: &Client) -> u64 {
    client.statistics().connects.load(Ordering::Relaxed)
}

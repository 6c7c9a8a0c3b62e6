//! The real transport: a connection to nats-server, and what is done over it.

mod ack;
mod api;
mod connect;
mod inbox;
mod messages;
mod publish;
mod pull;

use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use async_nats::Client;
use async_nats::client::RequestErrorKind;
use async_nats::connection::State;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

pub(crate) use connect::{Environment, connect, credentials_file, options};
pub(crate) use publish::{AtomicBatch, Ingest, Pipeline, check, first_send, publish_once};
pub(crate) use pull::Pull;

use crate::error::{BoxError, Error, ErrorKind};
use crate::settings::Settings;
use crate::sync::lock;

/// How often the connection is looked at for a reconnect.
///
/// The client library has no way to be told on a client that exists; one look for all handlers costs next to nothing.
const WATCH_PERIOD: Duration = Duration::from_millis(100);

/// How long a server may take to answer before it is left.
const PROBE: Duration = Duration::from_secs(1);

/// After how long without a word a server is asked whether it is there, and how long a new connection is given.
const SILENCE: Duration = Duration::from_millis(2500);

/// One connection, shared by all handlers and publishers of a broker.
pub(crate) struct Connection {
    client: Client,
    api_prefix: String,
    pub(crate) settings: Settings,
    epoch: watch::Receiver<u64>,
    routes: Arc<inbox::Routes>,
    closed: CancellationToken,
    /// Since when no server is connected.
    lost: Mutex<Option<std::time::Instant>>,
    _watcher: AbortOnDropHandle<()>,
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
            lost: Mutex::default(),
            _watcher: AbortOnDropHandle::new(tokio::spawn(watch(connection.clone(), sender))),
        })
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// The version of the server, if it is below this one.
    pub(crate) fn version_before(&self, (major, minor, patch): (i64, i64, i64)) -> Option<String> {
        let is_older = !self.client.is_server_compatible(major, minor, patch);
        is_older.then(|| self.client.server_info().version)
    }

    /// Returns an error if the server is older than `feature` requires.
    pub(crate) fn require_version(&self, since: (i64, i64, i64), feature: &str, instead: &str) -> Result<(), Error> {
        let Some(version) = self.version_before(since) else { return Ok(()) };
        let (major, minor, patch) = since;
        let text = format!(
            "the server {version} does not support {feature}; use a server from {major}.{minor}.{patch}, or {instead}"
        );
        Err(Error::new(ErrorKind::Config, text))
    }

    pub(crate) fn is_connected(&self) -> bool {
        !self.is_closed() && self.client.connection_state() == State::Connected
    }

    /// Since when no server is connected, if none is.
    pub(crate) fn lost_since(&self) -> Option<std::time::Instant> {
        let lost = *lock(&self.lost);
        (!self.is_connected()).then(|| lost.unwrap_or_else(std::time::Instant::now))
    }

    /// Notes since when no server is connected, and logs each change.
    fn note_state(&self, anew: bool) {
        let mut lost = lock(&self.lost);
        match (self.is_connected(), *lost) {
            (false, None) if !self.is_closed() => {
                *lost = Some(std::time::Instant::now());
                tracing::warn!("the connection to the server is lost; handlers and publishes wait for another one");
            }
            (true, Some(since)) => {
                *lost = None;
                tracing::info!("connected again after {:.1?}", since.elapsed());
            }
            (true, None) if anew => tracing::info!("connected anew"),
            _ => {}
        }
    }

    /// Whether it was closed by [`close`](Self::close); the library's own state does not tell.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.is_cancelled()
    }

    /// Returns when the connection is closed.
    pub(crate) async fn closed(&self) {
        self.closed.cancelled().await;
    }

    /// Counts the connections made so far; it changes with every reconnect.
    fn epoch(&self) -> watch::Receiver<u64> {
        self.epoch.clone()
    }

    /// The count at this moment; `None` while no server is connected.
    pub(crate) fn epoch_now(&self) -> Option<u64> {
        self.is_connected().then(|| connects(&self.client))
    }

    /// How much the server has sent so far.
    fn heard(&self) -> u64 {
        self.client.statistics().in_bytes.load(Ordering::Relaxed)
    }

    /// Asks an inbox that nobody reads, which the server answers at once: that there is nobody.
    pub(crate) async fn round_trip(&self, limit: Duration) -> Result<(), Error> {
        let request = async_nats::Request::new().timeout(Some(limit));
        match self.client.send_request(self.client.new_inbox(), request).await {
            Err(error) if error.kind() == RequestErrorKind::NoResponders => Ok(()),
            Ok(_) => Ok(()),
            Err(error) => Err(Error::new(ErrorKind::Timeout, "the server did not answer").with_source(error)),
        }
    }

    /// Sends what is queued, then ends the connection.
    pub(crate) async fn close(&self) -> Result<(), Error> {
        if self.is_closed() {
            return Ok(());
        }
        let connected = self.is_connected();
        self.closed.cancel();
        if !connected {
            // Nobody takes what is queued, and waiting for that would only delay the stop.
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
                Err(Error::new(ErrorKind::Closed, "the connection did not close in order").with_source(error))
            }
            Err(_) => {
                Err(Error::new(ErrorKind::Timeout, "the connection did not close in order: the server does not answer"))
            }
        }
    }
}

fn connects(client: &Client) -> u64 {
    client.statistics().connects.load(Ordering::Relaxed)
}

/// Says when a connection was made anew, and leaves a server that has fallen silent for one that has not.
///
/// The library would notice that only after two pings without an answer.
async fn watch(connection: Weak<Connection>, epoch: watch::Sender<u64>) {
    let (mut heard, mut heard_at) = (0, Instant::now());
    loop {
        tokio::time::sleep(WATCH_PERIOD).await;
        let Some(connection) = connection.upgrade() else { return };
        let connects = connects(&connection.client);
        let anew = epoch.send_if_modified(|epoch| std::mem::replace(epoch, connects) != connects);
        connection.note_state(anew);
        if connection.heard() != heard || anew || !connection.is_connected() {
            (heard, heard_at) = (connection.heard(), Instant::now());
        }
        if heard_at.elapsed() < SILENCE {
            continue;
        }
        // A request that nobody answers is refused at once by a server that is alive, whatever the user may do.
        connection.round_trip(PROBE).await.ok();
        if connection.heard() == heard && connection.is_connected() {
            tracing::warn!("the server is silent; connecting anew");
            connection.client.force_reconnect().await.ok();
        }
        heard_at = Instant::now();
    }
}

//! The connection of a broker, and its state.

use std::fmt;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use async_nats::connection::State;
use async_nats::{Client, ConnectOptions};
use bytes::Bytes;
use futures::StreamExt as _;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::client_errors::ClientErrors;
use super::connect::{Servers, connect};
use super::inbox::Routes;
use super::publish::WriteLimit;
use super::pull::LargeRequests;
use super::violations::Violations;
use super::watchdog::watch;
use crate::delivery::ProcessClock;
use crate::error::{BoxError, Error, ErrorKind};
use crate::settings::Settings;
use crate::sync::lock;

/// One connection, shared by all handlers and publishers of a broker.
pub(crate) struct Connection {
    client: RwLock<Arc<CurrentClient>>,
    /// `true` while the task of the client has ended, and no other client is connected yet.
    client_ended: AtomicBool,
    servers: Servers,
    options: ConnectOptions,
    pub(super) api_prefix: String,
    pub(crate) settings: Settings,
    epoch: watch::Receiver<u64>,
    pub(super) routes: Arc<Routes>,
    pub(super) violations: Arc<Violations>,
    pub(crate) errors: Arc<ClientErrors>,
    pub(super) write_limit: Arc<WriteLimit>,
    pub(super) large_requests: LargeRequests,
    /// The messages that are read from streams, which are bounded like the large requests.
    pub(super) reads: LargeRequests,
    closed: CancellationToken,
    /// `true` if `closed` is cancelled; read for every message, without the lock of the token.
    is_closed: AtomicBool,
    /// `true` if this process has ended the present connection, or is about to.
    forced: AtomicBool,
    /// The last epoch that began although this process had not ended the connection before.
    broken_epoch: AtomicU64,
    /// The last of these that began with another server, or with one that was restarted.
    other_server_epoch: AtomicU64,
    pub(crate) clock: ProcessClock,
    /// The time of the disconnect, while no server is connected.
    lost_at: Mutex<Option<Instant>>,
    watchdog: OnceLock<AbortOnDropHandle<()>>,
}

/// The client in use.
///
/// async-nats reconnects by itself; another client is made only if its task has ended, as after a panic.
pub(crate) struct CurrentClient {
    client: Client,
    /// The number of connections that the former clients have made.
    connects_before: u64,
}

impl Deref for CurrentClient {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl CurrentClient {
    fn connects(&self) -> u64 {
        self.connects_before + self.client.statistics().connects.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("state", &self.client().connection_state()).finish_non_exhaustive()
    }
}

impl Connection {
    /// Connects; retries until `wait` has passed while no server can be reached.
    pub(crate) async fn connect(
        servers: Servers,
        options: ConnectOptions,
        wait: Duration,
        settings: Settings,
        violations: Arc<Violations>,
        errors: Arc<ClientErrors>,
    ) -> Result<Arc<Self>, Error> {
        let client = connect(&servers, options.clone(), wait).await?;
        let api_prefix = settings.api();
        if let Some((prefix, _)) = client.new_inbox().rsplit_once('.') {
            violations.set_inbox_prefix(prefix);
        }
        let client = CurrentClient { client, connects_before: 0 };
        let (sender, epoch) = watch::channel(client.connects());
        let connection = Arc::new(Self {
            client: RwLock::new(Arc::new(client)),
            client_ended: AtomicBool::new(false),
            servers,
            options,
            api_prefix,
            settings,
            epoch,
            routes: Arc::default(),
            violations,
            errors,
            write_limit: Arc::default(),
            large_requests: LargeRequests::default(),
            reads: LargeRequests::default(),
            closed: CancellationToken::new(),
            is_closed: AtomicBool::new(false),
            forced: AtomicBool::new(false),
            broken_epoch: AtomicU64::new(0),
            other_server_epoch: AtomicU64::new(0),
            clock: ProcessClock::new(),
            lost_at: Mutex::default(),
            watchdog: OnceLock::new(),
        });
        let watchdog = tokio::spawn(watch(Arc::downgrade(&connection), sender));
        connection.watchdog.get_or_init(|| AbortOnDropHandle::new(watchdog));
        Ok(connection)
    }

    /// Returns the client in use.
    pub(crate) fn client(&self) -> Arc<CurrentClient> {
        self.present().clone()
    }

    /// Returns the client in use, which is not replaced while the guard is held; never hold it across an await.
    pub(super) fn present(&self) -> RwLockReadGuard<'_, Arc<CurrentClient>> {
        self.client.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Connects another client, because the task of the present one has ended.
    pub(super) async fn replace_client(&self) -> Result<(), Error> {
        self.client_ended.store(true, Ordering::Relaxed);
        let client = connect(&self.servers, self.options.clone(), Duration::ZERO).await?;
        // One more than the connections before, so that the epoch changes.
        let client = CurrentClient { client, connects_before: self.connects() + 1 };
        *self.client.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(client);
        self.client_ended.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// Records that the task of the client has ended, so that nothing is sent until another client is connected.
    pub(super) fn client_has_ended(&self) {
        self.client_ended.store(true, Ordering::Relaxed);
    }

    /// Returns a JetStream context of the client library with the same API prefix.
    pub(crate) fn jetstream(&self) -> async_nats::jetstream::Context {
        async_nats::jetstream::with_prefix(self.client().client.clone(), &self.api_prefix)
    }

    /// Returns the connected server, for the log: its version, its name and the addresses that were given.
    pub(crate) fn server(&self) -> String {
        let info = self.client().server_info();
        // A server without a name has its id as the name.
        let name = if info.server_name == info.server_id { String::new() } else { format!(" `{}`", info.server_name) };
        format!("nats-server {}{name} at {}", info.version, self.servers.shown())
    }

    /// Returns the addresses that were given, without credentials.
    pub(crate) fn addresses(&self) -> &[String] {
        &self.servers.addresses
    }

    /// Returns the version of the server if it is older than the given one.
    pub(crate) fn version_before(&self, (major, minor, patch): (i64, i64, i64)) -> Option<String> {
        let client = self.client();
        let is_older = !client.is_server_compatible(major, minor, patch);
        is_older.then(|| client.server_info().version)
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

    /// Ends the present connection, and makes another one.
    pub(super) async fn force_reconnect(&self) {
        self.forced.store(true, Ordering::Relaxed);
        self.client().force_reconnect().await.ok();
    }

    /// Returns the id of the server, which it generates when it starts.
    pub(super) fn server_id(&self) -> String {
        self.client().server_info().server_id
    }

    /// Records a new connection; `same_server` is `true` if it is to the same server process as the former one.
    pub(super) fn record_break(&self, epoch: u64, same_server: bool) {
        if self.forced.swap(false, Ordering::Relaxed) {
            return;
        }
        self.broken_epoch.store(epoch, Ordering::Relaxed);
        if !same_server {
            self.other_server_epoch.store(epoch, Ordering::Relaxed);
        }
    }

    /// Returns `true` if the connection before this epoch ended without this process, as it does when the client reads
    /// a message that it cannot parse.
    pub(super) fn may_be_unreadable(&self, epoch: u64) -> bool {
        self.broken_epoch.load(Ordering::Relaxed) >= epoch
    }

    /// Returns `true` if the connection before this epoch was to another server, or to one that was restarted: a server
    /// may be down.
    pub(super) fn is_other_server(&self, epoch: u64) -> bool {
        self.other_server_epoch.load(Ordering::Relaxed) >= epoch
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.is_connected_by(&self.present())
    }

    /// Returns `true` if the client in use is connected.
    pub(super) fn is_connected_by(&self, client: &CurrentClient) -> bool {
        !self.is_closed() && !self.client_ended.load(Ordering::Relaxed) && client.connection_state() == State::Connected
    }

    /// Returns the time of the disconnect, if no server is connected.
    pub(crate) fn lost_since(&self) -> Option<Instant> {
        let lost_at = *lock(&self.lost_at);
        (!self.is_connected() || self.is_abandoned()).then(|| lost_at.unwrap_or_else(Instant::now))
    }

    /// Returns `true` if the connection cannot be made again, because the runtime on which it was made was shut down.
    pub(crate) fn is_abandoned(&self) -> bool {
        !self.is_closed() && self.watchdog.get().is_some_and(|watchdog| watchdog.is_finished())
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
        self.is_closed.load(Ordering::Acquire)
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
        self.epoch_of(&self.present())
    }

    /// Returns the current epoch, which is that of the client in use; `None` while no server is connected.
    pub(super) fn epoch_of(&self, client: &CurrentClient) -> Option<u64> {
        self.is_connected_by(client).then(|| client.connects())
    }

    pub(super) fn connects(&self) -> u64 {
        self.present().connects()
    }

    pub(super) fn bytes_received(&self) -> u64 {
        self.present().statistics().in_bytes.load(Ordering::Relaxed)
    }

    /// Waits until the server has processed everything sent before.
    ///
    /// The message goes to a subscription of this connection, so that the answer does not depend on who else listens:
    /// if the connection has no echo, the server reports "no responders" instead, to the same subscription.
    pub(crate) async fn round_trip(&self, limit: Duration) -> Result<(), Error> {
        let client = self.client();
        let inbox = client.new_inbox();
        let echo = async {
            let mut echo = client.subscribe(inbox.clone()).await.ok()?;
            client.publish_with_reply(inbox.clone(), inbox, Bytes::new()).await.ok()?;
            echo.next().await
        };
        match timeout(limit, echo).await {
            Ok(Some(_)) => Ok(()),
            Ok(None) => Err(Error::new(ErrorKind::Closed, "the connection was lost")),
            Err(_) => Err(Error::new(ErrorKind::Timeout, "the server did not answer")),
        }
    }

    /// Waits until everything has arrived that the server has sent before; does not end if the connection does.
    pub(super) async fn caught_up(&self) {
        let client = self.client();
        let inbox = client.new_inbox();
        // A report of the server also arrives after what it has sent before.
        let denied = self.denied(&inbox);
        let echo = async {
            let mut echo = client.subscribe(inbox.clone()).await.ok()?;
            client.publish_with_reply(inbox.clone(), inbox.clone(), Bytes::new()).await.ok()?;
            echo.next().await
        };
        tokio::select! {
            _ = denied => {}
            Some(_) = echo => {}
            else => std::future::pending().await,
        }
    }

    /// Sends what is queued, then closes the connection.
    pub(crate) async fn close(&self) -> Result<(), Error> {
        if self.is_closed() {
            return Ok(());
        }
        let (connected, client) = (self.is_connected(), self.client());
        self.is_closed.store(true, Ordering::Release);
        self.closed.cancel();
        self.violations.interrupted.notify_waiters();
        if !connected {
            // Without a server a flush would only delay the stop until the timeout.
            client.drain().await.ok();
            return Ok(());
        }
        let closing = async {
            client.flush().await.map_err(|error| Box::new(error) as BoxError)?;
            client.drain().await.map_err(|error| Box::new(error) as BoxError)
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

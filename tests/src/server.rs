//! A single server.

use crate::{SOON, binary, eventually, process, target};
use async_nats::jetstream::consumer::{Config, Info};
use async_nats::{Client, ConnectOptions, jetstream};
use jetstream_handlers::testing::{NatsServer, NatsServerBuilder};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// The timeout for the start and the stop of a server, which take about 30 ms on an idle machine.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(3);

/// The first lines of every configuration; the lines of a test follow and override them.
///
/// Lame duck mode is as short as the server allows.
const BASE: &str = "lame_duck_duration: 30s\nlame_duck_grace_period: 2s\n";

/// A `nats-server` on the loopback interface, with JetStream and a store of its own.
///
/// It is killed, and its folder removed, when this value is dropped and when the test process is killed.
#[derive(Debug)]
pub struct Server {
    server: NatsServer,
    frozen: bool,
    user: Option<(String, String)>,
}

/// The settings of a [`Server`].
#[derive(Clone, Debug)]
pub struct Builder {
    server: NatsServerBuilder,
    user: Option<(String, String)>,
}

impl Builder {
    /// Adds lines to the configuration file.
    #[must_use]
    pub fn config(mut self, text: &str) -> Self {
        self.server = self.server.config(text);
        self
    }

    /// Sets the port; defaults to a free one.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.server = self.server.port(port);
        self
    }

    /// Sets the credentials in [`Server::url`] and [`Server::client`].
    ///
    /// The configuration must contain the user.
    #[must_use]
    pub fn user(mut self, name: &str, password: &str) -> Self {
        self.user = Some((name.to_owned(), password.to_owned()));
        self
    }

    /// Disables JetStream.
    #[must_use]
    pub fn without_jetstream(mut self) -> Self {
        self.server = self.server.without_jetstream();
        self
    }

    /// Starts the server and waits until it accepts connections.
    ///
    /// # Panics
    ///
    /// When the server does not start; the message contains its log.
    pub async fn start(self) -> Server {
        self.try_start().await.unwrap_or_else(|why| panic!("{why}"))
    }

    /// Starts the server like [`Builder::start`], without the panic.
    ///
    /// # Errors
    ///
    /// When the server exits, and when it is not ready in time; the error contains its log.
    pub async fn try_start(self) -> Result<Server, String> {
        let Self { server, user } = self;
        let server = server.try_start().await.map_err(|error| error.to_string())?;
        Ok(Server { server, frozen: false, user })
    }
}

impl Server {
    /// Starts a server with JetStream on a free port.
    pub async fn start() -> Self {
        Self::builder().start().await
    }

    /// Returns the settings of a server, to be changed.
    pub fn builder() -> Builder {
        let server = NatsServer::builder().program(binary::path()).directory(target::temporary_folder());
        Builder { server: server.config(BASE), user: None }
    }

    /// Returns the address, such as `nats://127.0.0.1:4222`, with the credentials of [`Builder::user`].
    pub fn url(&self) -> String {
        let url = self.server.url();
        match (&self.user, url.split_once("://")) {
            (Some((name, password)), Some((scheme, rest))) => {
                format!("{scheme}://{name}:{password}@{rest}")
            }
            _ => url.to_owned(),
        }
    }

    /// Returns the address, for a [`Proxy`](crate::Proxy).
    pub fn address(&self) -> SocketAddr {
        let address = self.server.url().split_once("://").and_then(|(_, address)| address.parse().ok());
        address.expect("the address of a server is an IP address and a port")
    }

    /// Connects a client that reconnects quickly.
    pub async fn client(&self) -> Client {
        self.client_with(self.options()).await
    }

    /// Connects a client with these options, which must contain the credentials.
    pub async fn client_with(&self, options: ConnectOptions) -> Client {
        let url = self.url();
        options.connect(&url).await.unwrap_or_else(|error| panic!("cannot connect to {url}: {error}\n{}", self.log()))
    }

    /// Returns the options of the clients of the tests.
    ///
    /// async-nats 0.51 does not read credentials from the URL, so they are set here as well.
    pub(crate) fn options(&self) -> ConnectOptions {
        let options = ConnectOptions::new().reconnect_delay_callback(|_| Duration::from_millis(50));
        match self.user.clone() {
            Some((name, password)) => options.user_and_password(name, password),
            None => options,
        }
    }

    /// Returns a JetStream context on a new connection.
    pub async fn jetstream(&self) -> jetstream::Context {
        jetstream::new(self.client().await)
    }

    /// Returns what the server reports about a consumer.
    ///
    /// # Panics
    ///
    /// When the stream or the consumer does not exist.
    pub async fn consumer_info(&self, stream: &str, consumer: &str) -> Info {
        let stream = self.jetstream().await.get_stream(stream).await.expect("the stream exists");
        stream.consumer_info(consumer).await.expect("the consumer exists")
    }

    /// Waits until this many messages of a consumer are delivered and not acknowledged.
    pub async fn ack_pending(&self, stream: &str, consumer: &str, count: usize) {
        let stream = self.jetstream().await.get_stream(stream).await.expect("the stream exists");
        eventually(&format!("{count} unacknowledged messages of {consumer}"), SOON, async || {
            let info = stream.consumer_info(consumer).await.ok()?;
            (info.num_ack_pending == count).then_some(())
        })
        .await;
    }

    /// Waits until a consumer has delivered all messages, and all of them have ended.
    pub async fn all_acked(&self, stream: &str, consumer: &str) {
        let stream = self.jetstream().await.get_stream(stream).await.expect("the stream exists");
        eventually(&format!("all messages of {consumer} are acknowledged"), SOON, async || {
            let info = stream.consumer_info(consumer).await.ok()?;
            let delivered = info.delivered.stream_sequence > 0;
            (delivered && info.num_ack_pending == 0 && info.num_pending == 0).then_some(())
        })
        .await;
    }

    /// Changes the configuration of a consumer, as an operator does.
    ///
    /// # Panics
    ///
    /// When the consumer does not exist, and when the server refuses the change.
    pub async fn change_consumer(&self, stream: &str, consumer: &str, change: impl FnOnce(&mut Config)) {
        let mut config = self.consumer_info(stream, consumer).await.config;
        change(&mut config);
        let stream = self.jetstream().await.get_stream(stream).await.expect("the stream exists");
        stream.update_consumer(config).await.expect("the server accepts the change");
    }

    /// Returns the process id of the server.
    ///
    /// # Panics
    ///
    /// When the server does not run.
    pub fn pid(&self) -> u32 {
        self.server.pid().expect("the server runs")
    }

    /// Returns the folder of the store, the log and the configuration.
    pub fn folder(&self) -> &Path {
        self.server.folder()
    }

    /// Returns the log, including that before a restart.
    pub fn log(&self) -> String {
        self.server.log()
    }

    /// Returns `true` if the server runs and is not frozen.
    pub fn is_up(&mut self) -> bool {
        !self.frozen && self.server.is_running()
    }

    /// Kills the server and waits for its end; its store is kept.
    pub fn kill(&mut self) {
        self.frozen = false;
        self.server.kill();
    }

    /// Shuts the server down and waits for its end.
    pub async fn terminate(&mut self) {
        self.signal("TERM");
        self.ended().await;
    }

    /// Waits for the end of a server, for example after [`Server::lame_duck`].
    pub async fn ended(&mut self) {
        let end = Instant::now() + TIMEOUT + Duration::from_secs(30);
        while self.server.is_running() {
            assert!(Instant::now() < end, "the server does not end\n{}", self.log());
            sleep(PAUSE).await;
        }
        self.server.kill();
    }

    /// Starts the server again, with the same port and store.
    ///
    /// A server that still runs is killed first.
    pub async fn restart(&mut self) {
        self.frozen = false;
        self.server.restart().await;
    }

    /// Begins lame duck mode, which ends the server within 30 seconds, or at once without clients.
    pub fn lame_duck(&mut self) {
        self.signal("USR2");
    }

    /// Stops the process with a signal: its connections stay open, and it does not reply.
    pub fn freeze(&mut self) {
        self.signal("STOP");
        self.frozen = true;
    }

    /// Continues a frozen server.
    pub fn thaw(&mut self) {
        self.signal("CONT");
        self.frozen = false;
    }

    /// Replaces the lines of [`Builder::config`], and signals the server to reload its configuration.
    ///
    /// The server logs when it has done so.
    pub fn reload(&mut self, config: &str) {
        self.server.reload(&format!("{BASE}{config}"));
    }

    fn signal(&self, name: &str) {
        process::signal(self.pid(), name);
    }
}

//! A single server.

use crate::process::Process;
use crate::{SOON, binary, eventually, port, target};
use async_nats::jetstream::consumer::{Config, Info};
use async_nats::{Client, ConnectOptions, jetstream};
use serde_json::Value;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

/// The timeout for the start and the stop of a server, which take about 30 ms on an idle machine.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(3);
const PORTS_TRIED: u32 = 10;

/// The first lines of every configuration; the lines of a test follow and override them.
///
/// Lame duck mode is as short as the server allows.
const BASE: &str = "lame_duck_duration: 30s\nlame_duck_grace_period: 2s\n";

/// A `nats-server` on the loopback interface, with JetStream and a store of its own.
///
/// It is killed, and its folder removed, when this value is dropped and when the test process is killed.
#[derive(Debug)]
pub struct Server {
    // Dropped before the folder, so that the process has ended when the folder is removed.
    process: Option<Process>,
    frozen: bool,
    builder: Builder,
    port: u16,
    /// The address that the server reports, such as `tls://127.0.0.1:4222`.
    listens: String,
    folder: TempDir,
}

/// The settings of a [`Server`].
#[derive(Clone, Debug, Default)]
pub struct Builder {
    config: String,
    port: Option<u16>,
    user: Option<(String, String)>,
    plain: bool,
}

impl Builder {
    /// Adds lines to the configuration file.
    #[must_use]
    pub fn config(mut self, text: &str) -> Self {
        self.config.push_str(text);
        self.config.push('\n');
        self
    }

    /// Sets the port; defaults to a free one.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.port = Some(port);
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
        self.plain = true;
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
        let tries = if self.port.is_some() { 1 } else { PORTS_TRIED };
        let mut server = Server {
            process: None,
            frozen: false,
            port: 0,
            listens: String::new(),
            folder: target::temporary("server-"),
            builder: self,
        };
        let mut tried = 0;
        loop {
            tried += 1;
            server.port = server.builder.port.unwrap_or_else(port::free);
            match server.launch().await {
                Ok(()) => return Ok(server),
                Err(Failure::PortTaken(_)) if tried < tries => {}
                Err(Failure::PortTaken(why) | Failure::Other(why)) => return Err(why),
            }
        }
    }
}

/// The reason why a server did not start.
enum Failure {
    PortTaken(String),
    Other(String),
}

impl Server {
    /// Starts a server with JetStream on a free port.
    pub async fn start() -> Self {
        Self::builder().start().await
    }

    /// Returns the settings of a server, to be changed.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Returns the address, such as `nats://127.0.0.1:4222`, with the credentials of [`Builder::user`].
    pub fn url(&self) -> String {
        match (&self.builder.user, self.listens.split_once("://")) {
            (Some((name, password)), Some((scheme, rest))) => {
                format!("{scheme}://{name}:{password}@{rest}")
            }
            _ => self.listens.clone(),
        }
    }

    /// Returns the address, for a [`Proxy`](crate::Proxy).
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
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
        match self.builder.user.clone() {
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
        self.running().pid()
    }

    /// Returns the folder of the store, the log and the configuration.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Returns the log, including that before a restart.
    pub fn log(&self) -> String {
        let read = |name| fs::read_to_string(self.path(name)).unwrap_or_default();
        read("output") + &read("log")
    }

    /// Returns `true` if the server runs and is not frozen.
    pub fn is_up(&mut self) -> bool {
        !self.frozen && self.process.as_mut().is_some_and(|process| process.ended().is_none())
    }

    /// Kills the server and waits for its end; its store is kept.
    pub fn kill(&mut self) {
        self.frozen = false;
        self.process = None;
    }

    /// Shuts the server down and waits for its end.
    pub async fn terminate(&mut self) {
        self.signal("TERM");
        self.ended().await;
    }

    /// Waits for the end of a server, for example after [`Server::lame_duck`].
    pub async fn ended(&mut self) {
        let end = Instant::now() + TIMEOUT + Duration::from_secs(30);
        while let Some(process) = &mut self.process {
            if process.ended().is_some() {
                self.process = None;
            } else if Instant::now() < end {
                sleep(PAUSE).await;
            } else {
                panic!("the server does not end\n{}", self.log());
            }
        }
    }

    /// Starts the server again, with the same port and store.
    ///
    /// A server that still runs is killed first.
    pub async fn restart(&mut self) {
        self.kill();
        let end = Instant::now() + TIMEOUT;
        loop {
            match self.launch().await {
                Ok(()) => return,
                // Another process has taken the port; it may release it soon.
                Err(Failure::PortTaken(_)) if Instant::now() < end => sleep(PAUSE).await,
                Err(Failure::PortTaken(why) | Failure::Other(why)) => panic!("{why}"),
            }
        }
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
        config.clone_into(&mut self.builder.config);
        self.configure();
        self.signal("HUP");
    }

    fn signal(&self, name: &str) {
        self.running().signal(name);
    }

    fn running(&self) -> &Process {
        self.process.as_ref().expect("the server runs")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn configure(&self) {
        let text = format!("{BASE}{}", self.builder.config);
        fs::write(self.path("server.conf"), text).expect("the folder of the server is writable");
    }

    /// Starts the process and waits until it is ready.
    async fn launch(&mut self) -> Result<(), Failure> {
        self.configure();
        // A killed server does not remove its ports file.
        let _ = fs::remove_dir_all(self.path("ports"));
        fs::create_dir(self.path("ports")).expect("the folder of the server is writable");
        let output = fs::File::options()
            .create(true)
            .append(true)
            .open(self.path("output"))
            .expect("the folder of the server is writable");
        let process = Process::start(binary::path(), &self.arguments(), self.folder.path(), output)
            .map_err(|error| Failure::Other(format!("cannot start the server: {error}")))?;
        self.process = Some(process);
        let ready = self.ready().await;
        if ready.is_err() {
            self.kill();
        }
        ready
    }

    fn arguments(&self) -> Vec<String> {
        let path = |name| self.path(name).to_string_lossy().into_owned();
        let mut arguments = vec![
            "--config".to_owned(),
            path("server.conf"),
            "--addr".to_owned(),
            Ipv4Addr::LOCALHOST.to_string(),
            "--port".to_owned(),
            self.port.to_string(),
            "--ports_file_dir".to_owned(),
            path("ports"),
            "--log".to_owned(),
            path("log"),
        ];
        if !self.builder.plain {
            arguments.extend(["--jetstream".to_owned(), "--store_dir".to_owned(), path("store")]);
        }
        arguments
    }

    /// Waits for the ports file, which the server writes when it accepts connections.
    async fn ready(&mut self) -> Result<(), Failure> {
        let end = Instant::now() + TIMEOUT;
        loop {
            if let Some(listens) = self.read_ports() {
                self.listens = listens;
                return Ok(());
            }
            let process = self.process.as_mut().expect("the process was started before");
            let ended = process.ended();
            if let Some(status) = ended {
                let log = self.log();
                let why = format!("the server ended at its start, {status}\n{log}");
                return Err(if log.contains("address already in use") {
                    Failure::PortTaken(why)
                } else {
                    Failure::Other(why)
                });
            }
            if Instant::now() > end {
                let log = self.log();
                let why = format!("the server is not ready after {TIMEOUT:?}\n{log}");
                return Err(Failure::Other(why));
            }
            sleep(PAUSE).await;
        }
    }

    /// Returns the address of the server, or `None` until its ports file is complete.
    fn read_ports(&self) -> Option<String> {
        let file = fs::read_dir(self.path("ports")).ok()?.next()?.ok()?;
        let ports: Value = serde_json::from_slice(&fs::read(file.path()).ok()?).ok()?;
        Some(ports["nats"][0].as_str()?.to_owned())
    }
}

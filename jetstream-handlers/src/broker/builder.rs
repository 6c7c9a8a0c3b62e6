//! The configuration of a broker, and connecting.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_nats::ConnectOptions;
use async_nats::jetstream::stream;

use super::{Broker, Defaults};
use crate::backoff::MAX_DURATION;
use crate::codec::{Codec, DefaultCodec};
use crate::error::{Error, ErrorKind};
use crate::extract::States;
use crate::handler::{Handler, Subscriber};
#[cfg(feature = "tower")]
use crate::layer::LayerOfHandlers;
use crate::memory::Memory;
use crate::nats;
use crate::observe::hooks::Hooks;
use crate::observe::settled::SettledEvent;
use crate::plan::Manage;
use crate::prefix::Prefix;
use crate::rules;
use crate::settings::Settings;
use crate::spelling;
use crate::transport::Transport;

type Adjust = Box<dyn FnOnce(ConnectOptions) -> ConnectOptions + Send>;

/// The configuration of a [`Broker`].
///
/// Building does no I/O; [`connect`](Builder::connect) connects.
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
///     .state(String::from("shared by all handlers"))
///     .connect()
///     .await?;
/// # Ok(()) }
/// ```
#[must_use = "a builder does nothing until `connect` is called"]
pub struct Builder {
    name: Option<String>,
    servers: Option<Vec<String>>,
    client_name: Option<String>,
    from_environment: bool,
    adjust: Vec<Adjust>,
    events: nats::ClientEvents,
    credentials_file: Option<std::path::PathBuf>,
    wait_for_server: Duration,
    states: States,
    defaults: Defaults,
    settings: Settings,
    included: Vec<Handler>,
    expected: Vec<Handler>,
    version: Option<String>,
    context: Option<String>,
    /// `true` if the declared streams have the prefix of the environment already.
    has_prefix: bool,
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("servers", &self.servers.as_deref().map(nats::without_credentials))
            .field("client_name", &self.client_name)
            .field("defaults", &self.defaults)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl Builder {
    pub(crate) fn new(from_environment: bool) -> Self {
        Self {
            name: None,
            servers: None,
            client_name: None,
            from_environment,
            adjust: Vec::new(),
            events: nats::ClientEvents::default(),
            credentials_file: None,
            wait_for_server: Duration::ZERO,
            states: States::default(),
            defaults: Defaults {
                batch_size: None,
                fetch_wait: None,
                shutdown_grace: Duration::from_secs(30),
                hooks: Hooks::default(),
                #[cfg(feature = "tower")]
                wrappers: Vec::new(),
                #[cfg(feature = "tower")]
                group_wrappers: Vec::new(),
            },
            settings: Settings::default(),
            included: Vec::new(),
            expected: Vec::new(),
            version: None,
            context: None,
            has_prefix: false,
        }
    }

    /// Takes servers and credentials from the environment, as [`Broker::from_env`] does.
    pub(crate) fn with_environment(mut self) -> Self {
        self.from_environment = true;
        self
    }

    /// Replaces the settings for streams and publishing by those of another broker.
    pub(crate) fn with_settings(mut self, settings: Settings) -> Self {
        (self.settings, self.has_prefix) = (settings, true);
        self
    }

    /// Sets the name by which handlers choose this broker, if a program has several; none by default.
    ///
    /// [`Broker::start_all`], [`Broker::run_all`] and the groups start the handlers with the same `broker`; those of a
    /// broker without a name start the handlers without one.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use jetstream_handlers::prelude::*;
    ///
    /// #[subscriber(subject = "orders.created", queue = "mirror", broker = "eu")]
    /// async fn mirror(order: serde_json::Value, State(us): State<Broker>) -> HandlerResult {
    ///     us.publish("orders.mirrored", &order).await?;
    ///     Ok(())
    /// }
    ///
    /// #[subscriber(subject = "orders.mirrored", queue = "report", broker = "us")]
    /// async fn report(order: serde_json::Value) {
    ///     println!("{order}");
    /// }
    ///
    /// # async fn start() -> Result<(), jetstream_handlers::Error> {
    /// let us = Broker::builder().name("us").servers(["nats://us:4222"]).connect().await?;
    /// let eu = Broker::builder().name("eu").servers(["nats://eu:4222"]).state(us.clone()).connect().await?;
    /// tokio::try_join!(us.run_all(), eu.run_all())?;
    /// # Ok(()) }
    /// ```
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Sets the servers of the cluster to connect to; defaults to `nats://localhost:4222`.
    ///
    /// An address may contain credentials, as in `nats://user:password@host:4222` or `nats://token@host:4222`; they are
    /// shown neither in errors nor in the log.
    /// Each item may be a list of addresses that is separated by commas.
    /// A comma, `@` or `:` in a password is percent-encoded, as in any URL.
    pub fn servers<S: Into<String>>(mut self, servers: impl IntoIterator<Item = S>) -> Self {
        self.servers = Some(servers.into_iter().map(Into::into).collect());
        self
    }

    /// Sets the name that the server shows for the connection; defaults to `<program>-<hostname>`.
    pub fn client_name(mut self, name: impl Into<String>) -> Self {
        self.client_name = Some(name.into());
        self
    }

    /// Adjusts the options of the client library: TLS, user and password, nkey, token, inbox prefix, and all others.
    ///
    /// The function is called after this builder has applied its own settings.
    /// Keep `subscription_capacity` at its default or above: the client library drops messages beyond it, and they are
    /// redelivered only after `ack_wait`.
    /// Leave `event_callback` alone, and use [`on_client_event`](Self::on_client_event) instead: through it the broker
    /// learns which permission the user lacks; without it, a message that the server does not permit only times out.
    /// Without its `reconnect_to_server_callback`, the [health](crate::Health) lacks the server's reason for refusing a
    /// connection, such as its limit of connections.
    pub fn connect_options(mut self, adjust: impl FnOnce(ConnectOptions) -> ConnectOptions + Send + 'static) -> Self {
        self.adjust.push(Box::new(adjust));
        self
    }

    /// Calls a function with every event of the client library: a lost connection, lame duck mode, a permissions
    /// violation or a slow consumer that the server reports, and all others.
    ///
    /// Several functions are called in the order in which they were added.
    /// They must not block, because the client reports its events one after another, and drops those that do not fit
    /// its queue.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use jetstream_handlers::async_nats::Event;
    /// use jetstream_handlers::prelude::*;
    ///
    /// # async fn start() -> Result<(), jetstream_handlers::Error> {
    /// let broker = Broker::builder()
    ///     .on_client_event(|event| {
    ///         if let Event::LameDuckMode = event {
    ///             println!("the server is about to stop");
    ///         }
    ///     })
    ///     .connect()
    ///     .await?;
    /// # Ok(()) }
    /// ```
    pub fn on_client_event(mut self, on_event: impl Fn(&async_nats::Event) + Send + Sync + 'static) -> Self {
        self.events.add(on_event);
        self
    }

    /// Calls a function at the end of every attempt at a message: successful, failed, undecodable, panicked, timed out,
    /// or handed back.
    ///
    /// It is called in the task of the handler's worker and in the span of the attempt, after the answer to the delivery
    /// was sent; for an `ordered` handler, whose acks cover several messages, and for a call that a stop cancels, it is
    /// called before.
    /// It is also called for a delivery that ends without a call, whose `elapsed` is `None`: a message that was
    /// acknowledged before, or whose attempts are used up.
    /// It is not called for messages that no attempt was made at, which a stop hands back.
    ///
    /// It must not block, because the worker handles no other message meanwhile; a panic in it is logged.
    /// Several functions are called in the order in which they were added.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use jetstream_handlers::Settlement;
    /// use jetstream_handlers::prelude::*;
    ///
    /// # async fn start() -> Result<(), jetstream_handlers::Error> {
    /// let broker = Broker::builder()
    ///     .on_settled(|event| {
    ///         if event.outcome == Settlement::DeadLetter {
    ///             let reason = event.reason.map_or("unknown", |reason| reason.as_str());
    ///             println!("{}: message {} of {} failed: {reason}", event.handler, event.sequence, event.stream);
    ///         }
    ///     })
    ///     .connect()
    ///     .await?;
    /// # Ok(()) }
    /// ```
    pub fn on_settled(mut self, on_settled: impl for<'a> Fn(&SettledEvent<'a>) + Send + Sync + 'static) -> Self {
        self.defaults.hooks.add(on_settled);
        self
    }

    /// Sets the version of the service, which its command line shows; usually `env!("CARGO_PKG_VERSION")`.
    pub fn version(mut self, version: impl Into<String>) -> Self {
        self.version = Some(version.into());
        self
    }

    /// Takes servers and credentials from a context of the `nats` command line tool, instead of the environment.
    ///
    /// A context that does not exist is an error of [`connect`](Self::connect).
    pub fn context(mut self, name: impl Into<String>) -> Self {
        self.context = Some(name.into());
        self
    }

    #[cfg(feature = "cli")]
    pub(crate) fn version_text(&self) -> Option<&str> {
        self.version.as_deref()
    }

    /// Restricts [`Broker::start_all`] to this handler and all others that are included, as [`Broker::include`] does.
    pub fn include<H: Subscriber>(mut self) -> Self {
        self.included.push(Handler::registered(H::registration()));
        self
    }

    /// Requires that a handler is started, as [`Broker::expect`] does.
    pub fn expect<H: Subscriber>(mut self) -> Self {
        self.expected.push(Handler::registered(H::registration()));
        self
    }

    /// Authenticates with a `.creds` file, which is read by [`connect`](Self::connect).
    pub fn credentials_file(mut self, path: impl Into<std::path::PathBuf>) -> Self {
        self.credentials_file = Some(path.into());
        self
    }

    /// Sets for how long [`connect`](Self::connect) retries, with exponential backoff, while no server can be reached;
    /// defaults to zero, which does not retry.
    ///
    /// After the first connection, the client always reconnects.
    pub fn wait_for_server(mut self, wait: Duration) -> Self {
        self.wait_for_server = wait.min(MAX_DURATION);
        self
    }

    /// Adds a value that handlers take as [`State<T>`](crate::State).
    ///
    /// There is one value per type; a second value of the same type replaces the first.
    pub fn state<T: Clone + Send + Sync + 'static>(mut self, value: T) -> Self {
        self.states.insert(value);
        self
    }

    /// Puts a [layer](crate::layer) around all handlers.
    ///
    /// # Examples
    ///
    /// ```
    /// use jetstream_handlers::prelude::*;
    /// use tower::limit::RateLimitLayer;
    ///
    /// # async fn start() -> Result<(), jetstream_handlers::Error> {
    /// let broker = Broker::builder().layer(RateLimitLayer::new(100, secs(1))).connect().await?;
    /// # Ok(()) }
    /// ```
    #[cfg(feature = "tower")]
    pub fn layer(mut self, layer: impl LayerOfHandlers) -> Self {
        self.defaults.wrappers.push(layer.into_wrapper());
        self
    }

    /// Puts a [layer](crate::layer) around the handlers of a group, inside of those for all handlers.
    #[cfg(feature = "tower")]
    pub fn layer_group(mut self, group: &str, layer: impl LayerOfHandlers) -> Self {
        self.defaults.group_wrappers.push((group.to_owned(), layer.into_wrapper()));
        self
    }

    /// Sets how many messages each handler requests beyond those that can start immediately.
    ///
    /// By default the number adapts: it starts at 10 and doubles up to 1000 while the handler uses the messages up, but
    /// a handler never holds more than it can start within a sixth of its `ack_wait`, and within one second.
    /// The `batch_size` of a handler takes precedence.
    /// Zero is refused when handlers are started.
    pub fn batch_size(mut self, messages: usize) -> Self {
        self.defaults.batch_size = Some(messages);
        self
    }

    /// Sets how long one pull request stays open on the server; at least 200 ms.
    ///
    /// Defaults to 5 s, and while a handler is idle to 30 s, 2 min and then 10 min.
    /// Messages arrive as soon as they are available; this setting determines how often an idle handler polls, and how
    /// soon it notices that its consumer is not served: after this time or 30 s, whichever is less, and at once if the
    /// server reports that the consumer was deleted or has another leader (`$JS.EVENT.ADVISORY.>`).
    /// The client always reconnects from a server that has been silent for about 4 s.
    /// A shorter time is refused when handlers are started.
    pub fn fetch_wait(mut self, wait: Duration) -> Self {
        self.defaults.fetch_wait = Some(wait);
        self
    }

    /// Sets how long running calls may take to finish when the broker stops; defaults to 30 s.
    pub fn shutdown_grace(mut self, grace: Duration) -> Self {
        self.defaults.shutdown_grace = grace.min(MAX_DURATION);
        self
    }

    /// Sets how long one publish may take, including its retries; defaults to 20 s.
    ///
    /// Keep it below the stream's `duplicate_window` (2 minutes by default), within which the stream recognizes retries
    /// as duplicates.
    /// A time that is not between 1 ms and a year is refused by [`connect`](Self::connect).
    pub fn publish_timeout(mut self, timeout: Duration) -> Self {
        self.settings.publish_timeout = timeout;
        self
    }

    /// Sets how long one request to the JetStream API may take, for streams and consumers; defaults to 5 s.
    ///
    /// A time that is not between 1 ms and a year is refused by [`connect`](Self::connect).
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.settings.request_timeout = timeout;
        self
    }

    /// Sets whether missing streams are created, for handlers and for publishing; defaults to `true`.
    ///
    /// Consumers belong to the handlers and are always created.
    pub fn auto_create(mut self, create: bool) -> Self {
        self.settings.auto_create = create;
        self
    }

    /// Keeps the texts of handlers' errors, panics and rejected payloads out of the log, the dead letters and the
    /// advisories of the server, because they may quote values of the payload.
    ///
    /// They state the class of the failure instead, and the position in the payload of a decoding error.
    /// Log the error in the handler if a part of it is needed.
    /// Rust's panic hook still prints the message of a panic to the standard error.
    pub fn redact_errors(mut self) -> Self {
        self.settings.redact_errors = true;
        self
    }

    /// Sets the format of payloads whose type names none, for handlers and for publishing; defaults to
    /// [`JsonCodec`](crate::JsonCodec).
    ///
    /// A message whose header `Content-Type` names another format of this crate is decoded in that one, if its feature
    /// is enabled.
    /// Messages in another format than JSON are published with that header.
    ///
    /// With JSON as the default, a payload that is valid JSON is decoded as such, whatever its content type is.
    /// With another default, a message with an unknown content type becomes a dead letter, because binary data could
    /// be decoded to something that it is not.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[cfg(not(feature = "messagepack"))]
    /// # fn main() {}
    /// # #[cfg(feature = "messagepack")]
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), jetstream_handlers::Error> {
    /// use jetstream_handlers::{Broker, MessagePackCodec};
    ///
    /// let broker = Broker::builder().codec(MessagePackCodec).connect_in_memory();
    /// broker.publish("orders.created", &7).await?;
    /// # broker.disconnect().await?;
    /// # Ok(()) }
    /// ```
    pub fn codec(mut self, codec: impl Codec) -> Self {
        self.settings.codec = DefaultCodec::new(codec);
        self
    }

    /// Declares a stream: it is created if it is missing, and compared at the start if it exists.
    ///
    /// A difference is an error, and nothing on the server is changed, unless [`manage`](Self::manage) is
    /// [`Update`](Manage::Update).
    pub fn stream(mut self, config: stream::Config) -> Self {
        self.settings.streams.push(config);
        self
    }

    /// Sets which streams and consumers the broker may create and change; defaults to [`Manage::Create`].
    ///
    /// The key `manage` of a handler takes precedence for its consumer, and for missing streams that it needs. Declared
    /// streams are created and changed as the broker's value says.
    /// [`deployment`](mod@crate::deployment) describes how a changed setting is deployed.
    pub fn manage(mut self, manage: Manage) -> Self {
        self.settings.manage = manage;
        self
    }

    /// Sets a prefix of all subjects and streams, to keep several environments apart in one account; none by default.
    ///
    /// With `staging`, a handler of `orders.created` subscribes to `staging.orders.created`, a publish to `orders.created`
    /// goes there, the default stream is `STAGING_ORDERS`, and the default one of dead letters `STAGING_DLQ`.
    /// The names of streams in the attribute and in [`stream`](Self::stream) have the prefix as well, and a handler's
    /// [`Subject`](crate::Subject) and [`Path`](crate::Path) do not contain it; that of a [`Message`](crate::Message) does.
    /// Subjects of the server, such as `$KV.sessions.>`, and their streams are the same in all environments: their handlers
    /// need a queue for each.
    /// The names of queues stay, because a durable consumer belongs to its stream.
    ///
    /// It is one token or several, as in `acme.staging`. An invalid one is refused when handlers are started.
    ///
    /// # Examples
    ///
    /// ```
    /// use jetstream_handlers::prelude::*;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), jetstream_handlers::Error> {
    /// let broker = Broker::builder().subject_prefix("staging").connect_in_memory();
    /// let ack = broker.publish("orders.created", &7).await?;
    /// assert_eq!(ack.stream, "STAGING_ORDERS");
    /// # Ok(()) }
    /// ```
    pub fn subject_prefix(mut self, prefix: &str) -> Self {
        self.settings.prefix = Some(Prefix::new(prefix));
        self
    }

    /// Sets the JetStream domain, such as that of a leaf node; requests then go to `$JS.<domain>.API`.
    ///
    /// A publish succeeds only with the ack of a stream of this domain. A stream of another domain that covers the
    /// subject, as on the leaf node that the broker is connected to, stores the message too; its ack does not count.
    pub fn domain(mut self, domain: impl Into<String>) -> Self {
        self.settings.domain = Some(domain.into());
        self
    }

    /// Sets the prefix of the JetStream API, for an account that imports it under a prefix other than `$JS.API`.
    ///
    /// It takes precedence over [`domain`](Self::domain).
    pub fn api_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.settings.api_prefix = Some(prefix.into());
        self
    }

    /// Sets the first tokens of the subjects on which answers arrive, such as `_INBOX_orders`; defaults to `_INBOX`.
    ///
    /// With a prefix of its own, a user may be allowed to subscribe to `_INBOX_orders.>` alone, and cannot read the answers
    /// to other services; [`Broker::permissions`] has this right.
    /// It takes precedence over `NATS_INBOX_PREFIX` and the `inbox_prefix` of a context.
    /// A prefix with wildcards, white space or empty tokens is refused by [`connect`](Self::connect).
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # async fn start() -> Result<(), jetstream_handlers::Error> {
    /// let broker = jetstream_handlers::Broker::from_env().inbox_prefix("_INBOX_orders").connect().await?;
    /// # Ok(()) }
    /// ```
    pub fn inbox_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.settings.inbox_prefix = Some(prefix.into());
        self
    }

    /// Creates a broker without a server, whose streams and consumers are kept in this process.
    ///
    /// It is for tests and demos: it stores nothing, and no other process sees its messages.
    /// All its timers are tokio's, so `tokio::time::pause` and `advance` control retries and `ack_wait`.
    /// Settings for servers, credentials and the environment are ignored.
    pub fn connect_in_memory(self) -> Broker {
        tracing::warn!(
            target: "jetstream_handlers::memory",
            "the broker is in memory: messages are not persisted, and other processes do not see them"
        );
        self.connect_offline()
    }

    /// Takes the settings that concern subjects from the environment or the context, as [`connect`](Self::connect) does, and
    /// connects to nothing.
    #[cfg(feature = "cli")]
    pub(crate) fn with_settings_of_environment(mut self) -> Result<Self, Error> {
        let environment = self.environment()?;
        complete(&mut self.settings, &environment)?;
        Ok(self)
    }

    /// Returns the addresses that the builder, the environment or the context names, without credentials.
    #[cfg(all(feature = "cli", feature = "asyncapi"))]
    pub(crate) fn addresses(&self) -> Result<Vec<String>, Error> {
        let named = match &self.servers {
            Some(servers) => servers.clone(),
            None => self.environment()?.urls().into_iter().collect(),
        };
        Ok(nats::without_credentials(&named))
    }

    /// Reads the context, or else the environment if the builder takes its settings from it.
    fn environment(&self) -> Result<nats::Environment, Error> {
        match &self.context {
            Some(context) => nats::Environment::of_context(context),
            None if self.from_environment => nats::Environment::read(),
            None => Ok(nats::Environment::default()),
        }
    }

    /// Creates a broker in memory to learn what the handlers need from an empty account, not to handle messages.
    pub(crate) fn connect_offline(self) -> Broker {
        // No request waits in memory, and a publish only while a test delays it.
        let publish_timeout = self.settings.publish_timeout.min(MAX_DURATION);
        let mut settings = Settings { publish_timeout, ..self.settings };
        settings.add_prefix();
        let memory = Memory::new(settings);
        let transport = Arc::new(Transport::Memory(memory));
        let broker = Broker::new(self.name, transport, Arc::new(self.states), self.defaults);
        broker.with_handlers(self.included, self.expected)
    }

    /// Connects to the server.
    ///
    /// # Errors
    ///
    /// - [`Config`](crate::ErrorKind::Config): a setting or an environment variable is invalid.
    /// - [`Connect`](crate::ErrorKind::Connect): no server could be reached.
    /// - [`Authorization`](crate::ErrorKind::Authorization): the server refused the credentials.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends the attempt. Nothing was changed on the server.
    pub async fn connect(self) -> Result<Broker, Error> {
        let environment = self.environment();
        let Self {
            name,
            servers,
            client_name,
            from_environment: _,
            adjust,
            events,
            credentials_file,
            wait_for_server,
            states,
            defaults,
            mut settings,
            included,
            expected,
            version: _,
            context: _,
            has_prefix,
        } = self;
        let limits = [("publish_timeout", settings.publish_timeout), ("request_timeout", settings.request_timeout)];
        if let Some(problem) = limits.into_iter().find_map(|(name, limit)| rules::timeout_problem(name, limit)) {
            return Err(Error::new(ErrorKind::Config, problem));
        }
        let environment = environment?;
        if !has_prefix {
            settings.add_prefix();
        }
        complete(&mut settings, &environment)?;
        let urls = servers.or_else(|| Some(vec![environment.urls()?]));
        let servers = nats::Servers::parse(&urls.unwrap_or_else(|| vec!["nats://localhost:4222".to_owned()]))?;
        let client_name = client_name.unwrap_or_else(default_client_name);
        let (violations, errors) = (nats::Violations::new(), Arc::<nats::ClientErrors>::default());
        let mut options = nats::options(&client_name, &servers, violations.clone(), errors.clone(), events)?;
        options = environment.apply(options).await?;
        if let Some(prefix) = &settings.inbox_prefix {
            options = options.custom_inbox_prefix(prefix);
        }
        if let Some(path) = credentials_file {
            options = nats::credentials_file(options, &path).await?;
        }
        for adjust in adjust {
            options = adjust(options);
        }
        let connection =
            nats::Connection::connect(servers, options, wait_for_server, settings, violations, errors).await?;
        let transport = Transport::Nats(connection);
        let broker = Broker::new(name, Arc::new(transport), Arc::new(states), defaults);
        Ok(broker.with_handlers(included, expected))
    }
}

/// Takes the settings that the builder leaves open from the environment; returns an error if no subject can begin with the
/// prefix of inboxes.
fn complete(settings: &mut Settings, environment: &nats::Environment) -> Result<(), Error> {
    let Settings { domain, api_prefix, inbox_prefix, .. } = settings;
    *domain = domain.take().or_else(|| environment.domain());
    *api_prefix = api_prefix.take().or_else(|| environment.api_prefix());
    *inbox_prefix = inbox_prefix.take().or_else(|| environment.inbox_prefix());
    match inbox_prefix.as_deref().and_then(spelling::publish_subject_problem) {
        Some(problem) => Err(Error::new(
            ErrorKind::Config,
            format!("`inbox_prefix`: {problem}; use a token of the service, such as `_INBOX_orders`"),
        )),
        None => Ok(()),
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

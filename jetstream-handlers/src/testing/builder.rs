//! The settings of a test broker.

use async_nats::jetstream::stream;

use super::TestBroker;
use crate::broker::Broker;
use crate::codec::Codec;
use crate::error::{Error, chain};
use crate::handler::{Handler, Subscriber, all_of, chosen};
#[cfg(feature = "tower")]
use crate::layer::LayerOfHandlers;
use crate::observe::settled::SettledEvent;

/// The settings of a [`TestBroker`].
#[derive(Debug)]
#[must_use = "nothing happens before `start`"]
pub struct Builder {
    builder: crate::broker::Builder,
    handlers: Vec<Handler>,
    groups: Vec<String>,
    replicas: usize,
}

impl Builder {
    pub(super) fn new() -> Self {
        Self { builder: Broker::builder(), handlers: Vec::new(), groups: Vec::new(), replicas: 1 }
    }

    /// Adds a value that handlers take as [`State<T>`](crate::State); there is one value per type.
    pub fn state<T: Clone + Send + Sync + 'static>(mut self, value: T) -> Self {
        self.builder = self.builder.state(value);
        self
    }

    /// Sets the format of payloads whose type names none, as [`Builder::codec`](crate::Builder::codec) does.
    pub fn codec(mut self, codec: impl Codec) -> Self {
        self.builder = self.builder.codec(codec);
        self
    }

    /// Sets the name of the broker, as [`Builder::name`](crate::Builder::name) does: only handlers with this `broker` are
    /// started, and another one is refused.
    ///
    /// Without a name, the handlers of all brokers are started.
    pub fn name(mut self, name: &str) -> Self {
        self.builder = self.builder.name(name);
        self
    }

    /// Sets a prefix of all subjects and streams, as [`Builder::subject_prefix`](crate::Builder::subject_prefix) does.
    ///
    /// The methods of [`TestBroker`] take subjects without it.
    pub fn subject_prefix(mut self, prefix: &str) -> Self {
        self.builder = self.builder.subject_prefix(prefix);
        self
    }

    /// Puts a [layer](crate::layer) around all handlers, as [`Builder::layer`](crate::Builder::layer) does.
    #[cfg(feature = "tower")]
    pub fn layer(mut self, layer: impl LayerOfHandlers) -> Self {
        self.builder = self.builder.layer(layer);
        self
    }

    /// Calls a function at the end of every attempt, as [`Builder::on_settled`](crate::Builder::on_settled) does.
    pub fn on_settled(mut self, on_settled: impl for<'a> Fn(&SettledEvent<'a>) + Send + Sync + 'static) -> Self {
        self.builder = self.builder.on_settled(on_settled);
        self
    }

    /// Declares a stream that is created with this configuration instead of the default one.
    pub fn stream(mut self, config: stream::Config) -> Self {
        self.builder = self.builder.stream(config);
        self
    }

    /// Sets whether missing streams are created; defaults to `true`.
    pub fn auto_create(mut self, create: bool) -> Self {
        self.builder = self.builder.auto_create(create);
        self
    }

    /// Adds a handler to those that are started; by default, all handlers are started.
    pub fn include<H: Subscriber>(mut self) -> Self {
        self.handlers.push(Handler::registered(H::registration()));
        self
    }

    /// Adds the handlers of a group to those that are started; by default, all handlers are started.
    pub fn group(mut self, group: &str) -> Self {
        self.groups.push(group.to_owned());
        self
    }

    /// Sets the number of replicas of the service that run the handlers; defaults to 1.
    ///
    /// They start one after the other, and share one recorder of calls.
    pub fn replicas(mut self, replicas: usize) -> Self {
        self.replicas = replicas;
        self
    }

    /// Starts the handlers on an in-memory broker.
    ///
    /// # Panics
    ///
    /// Panics if the handlers cannot be started, with all their problems.
    pub async fn start(self) -> TestBroker {
        self.try_start().await.unwrap_or_else(|error| panic!("{}", chain(&error)))
    }

    /// Starts the handlers on an in-memory broker, for a test that expects them not to start.
    ///
    /// # Errors
    ///
    /// Returns the errors of [`Broker::start_all`].
    pub async fn try_start(self) -> Result<TestBroker, Error> {
        let Self { builder, handlers, groups, replicas } = self;
        start(builder.connect_in_memory(), handlers, groups, None, replicas).await
    }

    /// Starts the handlers on the server and with the credentials of the environment, as
    /// [`Broker::from_env`] reads them: `NATS_URL`, which defaults to `nats://localhost:4222`, `NATS_CREDS`,
    /// `NATS_USER` and so on.
    ///
    /// # Panics
    ///
    /// Panics as [`start_live`](Self::start_live) does, and if a variable is invalid.
    pub async fn start_from_env(self) -> TestBroker {
        self.start_on(Server::Environment).await
    }

    /// Starts the handlers on a live server, to run the same test there; the address may contain credentials.
    ///
    /// Each test needs a server or an account of its own, because messages that are already in a stream are handled too.
    ///
    /// # Panics
    ///
    /// Panics if the server cannot be reached, or the handlers cannot be started, with all their problems.
    pub async fn start_live(self, server: &str) -> TestBroker {
        self.start_on(Server::Url(server.to_owned())).await
    }

    async fn start_on(self, server: Server) -> TestBroker {
        let Self { builder, handlers, groups, replicas } = self;
        let broker = server.connect(builder).await;
        start(broker, handlers, groups, Some(server), replicas)
            .await
            .unwrap_or_else(|error| panic!("{}", chain(&error)))
    }
}

/// The live server of a test broker.
#[derive(Debug)]
pub(super) enum Server {
    Url(String),
    /// The server that the environment variables name.
    Environment,
}

impl Server {
    pub(super) async fn connect(&self, builder: crate::broker::Builder) -> Broker {
        let builder = match self {
            Self::Url(url) => builder.servers([url]),
            Self::Environment => builder.with_environment(),
        };
        builder.connect().await.unwrap_or_else(|error| panic!("{}", chain(&error)))
    }
}

async fn start(
    broker: Broker,
    handlers: Vec<Handler>,
    groups: Vec<String>,
    server: Option<Server>,
    replicas: usize,
) -> Result<TestBroker, Error> {
    let all = || if broker.name().is_some() { all_of(broker.name()) } else { Ok(Handler::all()) };
    let handlers = match (&*handlers, &*groups) {
        ([], []) => all()?,
        (_, []) => chosen(&[], handlers, [])?,
        _ => chosen(&all()?, handlers, groups.iter().map(String::as_str))?,
    };
    if broker.name().is_some() {
        broker.refuse_others(&handlers)?;
    }
    TestBroker::with_handlers(broker, handlers, server, replicas).await
}

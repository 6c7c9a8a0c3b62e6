//! The broker: connecting, publishing, starting and stopping handlers.

#[cfg(feature = "asyncapi")]
mod asyncapi;
mod builder;
mod check;
mod choose;
mod copies;
mod doctor;
mod filters;
#[cfg(feature = "metrics")]
mod gauges;
mod handlers;
mod letters;
mod names;
mod operate;
mod permissions;
mod plan;
mod running;
mod signals;
mod start;
mod status;
mod subscribe;

use std::fmt;
use std::panic::Location;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_nats::jetstream::publish::PublishAck;
use tokio_util::sync::CancellationToken;

pub use builder::Builder;
#[cfg(feature = "cli")]
pub(crate) use operate::ResetEffect;
pub use operate::{HandlerConsumer, Position};
pub use running::Running;
use running::{Disconnect, StopOnDrop, WorkerHandle, stop_all};
use signals::Signals;
pub use subscribe::{Subscribe, Subscription};

use crate::codec::Payload;
use crate::dead_letter::DeadLetters;
use crate::error::problem::Problem;
use crate::error::{Error, ErrorKind};
use crate::event::Event;
use crate::extract::States;
use crate::handler::{Closure, Handler, Subscriber, all_of, chosen};
use crate::observe::health::Health;
use crate::observe::hooks::Hooks;
use crate::observe::recorder::Recorder;
use crate::plan::{Plan, Subjects};
use crate::publish::{PublishMessage, Publisher};
use crate::sync::lock;
use crate::transport::Transport;

/// The settings of handlers that do not have their own.
#[derive(Debug, Clone)]
pub(crate) struct Defaults {
    pub(crate) batch_size: Option<usize>,
    pub(crate) fetch_wait: Option<Duration>,
    pub(crate) shutdown_grace: Duration,
    pub(crate) hooks: Hooks,
    /// The layers around all handlers.
    #[cfg(feature = "tower")]
    pub(crate) wrappers: Vec<crate::handler::Wrapper>,
    /// The layers around the handlers of a group.
    #[cfg(feature = "tower")]
    pub(crate) group_wrappers: Vec<(String, crate::handler::Wrapper)>,
}

/// A connection to NATS JetStream, and the handlers that run on it.
///
/// Cloning is cheap; all clones share one connection and its handlers.
///
/// # Examples
///
/// ```no_run
/// use jetstream_handlers::prelude::*;
///
/// #[subscriber(subject = "orders.created", queue = "order-processor")]
/// async fn process_order(id: u64) -> HandlerResult {
///     println!("order {id}");
///     Ok(())
/// }
///
/// #[tokio::main]
/// async fn main() -> Result<(), jetstream_handlers::Error> {
///     let broker = Broker::connect("nats://localhost:4222").await?;
///     broker.publish("orders.created", &7).await?;
///     broker.run_all().await
/// }
/// ```
#[derive(Clone)]
pub struct Broker {
    inner: Arc<Inner>,
}

struct Inner {
    /// The name by which handlers name this broker; `None` for the only broker of a program.
    name: Option<String>,
    transport: Arc<Transport>,
    publisher: Publisher,
    states: Arc<States>,
    defaults: Defaults,
    included: Mutex<Vec<Handler>>,
    /// The handlers without which no start succeeds.
    expected: Mutex<Vec<Handler>>,
    workers: Mutex<Vec<Arc<WorkerHandle>>>,
    closing: CancellationToken,
}

/// Returns the problem of a handler that was included in a broker to which it does not belong.
fn of_another_broker(handler: &Handler, name: Option<&str>) -> Problem {
    let this = name.map_or("has no name".to_owned(), |name| format!("has the name `{name}`"));
    let problem = match handler.broker() {
        Some(broker) => format!(
            "`broker` is `{broker}`, but the broker that includes the handler {this}; include it in the other one"
        ),
        None => format!(
            "`broker` is missing, but the broker that includes the handler {this}; add `broker = \"{}\"`",
            name.unwrap_or_default()
        ),
    };
    Problem::setting(&handler.declaration.name, "broker", &problem)
}

impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Broker").field("transport", &self.inner.transport).finish_non_exhaustive()
    }
}

impl Broker {
    /// Connects to a server with the default settings.
    ///
    /// Several servers of a cluster are separated by commas, as in `nats://one:4222,nats://two:4222`, or passed to
    /// [`Builder::servers`].
    ///
    /// # Errors
    ///
    /// Returns the errors of [`Builder::connect`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends the attempt. Nothing was changed on the server.
    pub async fn connect(server: impl Into<String>) -> Result<Self, Error> {
        Self::builder().servers([server]).connect().await
    }

    /// Creates a broker without a server, for tests and demos.
    ///
    /// [`Builder::connect_in_memory`] does the same with settings and state.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), jetstream_handlers::Error> {
    /// use jetstream_handlers::prelude::*;
    ///
    /// let broker = Broker::in_memory();
    /// let subscription = broker.subscribe("orders.created", "printer", |id: u64| async move { println!("{id}") }).await?;
    /// broker.publish("orders.created", &7).await?;
    /// broker.disconnect().await?;
    /// # drop(subscription);
    /// # Ok(()) }
    /// ```
    pub fn in_memory() -> Self {
        Self::builder().connect_in_memory()
    }

    /// Returns a builder with the default settings; [`Builder::connect`] connects.
    pub fn builder() -> Builder {
        Builder::new(false)
    }

    /// Returns a builder that takes servers and credentials from the environment, which [`Builder::connect`] reads.
    ///
    /// | variable | value |
    /// |---|---|
    /// | `NATS_URL` | servers, separated by commas |
    /// | `NATS_CREDS` | path of a credentials file |
    /// | `NATS_NKEY` | an nkey seed, or the path of a file with one |
    /// | `NATS_USER`, `NATS_PASSWORD` | user and password |
    /// | `NATS_TOKEN` | token |
    /// | `NATS_CA` | path of the certificate authority's PEM file |
    /// | `NATS_CERT`, `NATS_KEY` | paths of the client certificate's PEM files |
    /// | `NATS_INBOX_PREFIX` | first tokens of the subjects on which answers arrive, as [`Builder::inbox_prefix`] sets them |
    /// | `NATS_CONTEXT` | name of a context of the `nats` command-line tool; the variables above take precedence over it |
    ///
    /// If several authentication methods are set, the first one in the table is used.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # async fn start() -> Result<(), jetstream_handlers::Error> {
    /// let broker = jetstream_handlers::Broker::from_env().connect().await?;
    /// # Ok(()) }
    /// ```
    pub fn from_env() -> Builder {
        Builder::new(true)
    }

    pub(crate) fn new(
        name: Option<String>,
        transport: Arc<Transport>,
        states: Arc<States>,
        defaults: Defaults,
    ) -> Self {
        if let Some(name) = &name {
            names::note(name);
        }
        Self {
            inner: Arc::new(Inner {
                name,
                publisher: Publisher::new(transport.clone()),
                transport,
                states,
                defaults,
                included: Mutex::default(),
                expected: Mutex::default(),
                workers: Mutex::default(),
                closing: CancellationToken::new(),
            }),
        }
    }

    /// Publishes a value, and returns after the stream has stored it.
    ///
    /// # Errors
    ///
    /// Returns the errors of [`Publisher::publish`].
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the message may be stored or not.
    pub async fn publish<T: Payload + ?Sized>(&self, subject: &str, value: &T) -> Result<PublishAck, Error> {
        self.publish_message(subject, value).await
    }

    /// Returns a message with an event, its subject and its message id; it is sent when awaited.
    ///
    /// It is [`Publisher::send`], which describes errors and cancel safety.
    pub fn send<E: Event + ?Sized>(&self, event: &E) -> PublishMessage {
        self.inner.publisher.send(event)
    }

    /// Returns a message to which headers and conditions can be added; it is sent when awaited.
    ///
    /// # Errors
    ///
    /// Awaiting the message returns the errors of [`Publisher::publish_message`].
    pub fn publish_message<T: Payload + ?Sized>(&self, subject: &str, value: &T) -> PublishMessage {
        self.inner.publisher.publish_message(subject, value)
    }

    /// Returns the publisher of this broker, which also publishes many messages at once; clone it to pass it to other code.
    pub fn publisher(&self) -> &Publisher {
        &self.inner.publisher
    }

    /// Restricts [`start_all`](Self::start_all) and [`run_all`](Self::run_all) to this handler and all others that are
    /// included.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use jetstream_handlers::prelude::*;
    ///
    /// #[subscriber(subject = "orders.created", queue = "order-processor")]
    /// async fn process_order(id: u64) {}
    ///
    /// # async fn start(broker: Broker) -> Result<(), jetstream_handlers::Error> {
    /// broker.include::<process_order>();
    /// let running = broker.start_all().await?; // starts `process_order` alone
    /// # Ok(()) }
    /// ```
    pub fn include<H: Subscriber>(&self) -> &Self {
        self.include_handler(Handler::registered(H::registration()));
        self
    }

    fn include_handler(&self, handler: Handler) {
        let mut included = lock(&self.inner.included);
        if !included.iter().any(|known| known.is(&handler)) {
            included.push(handler);
        }
    }

    /// Includes and expects the handlers that were passed to the builder.
    fn with_handlers(self, included: Vec<Handler>, expected: Vec<Handler>) -> Self {
        included.into_iter().for_each(|handler| self.include_handler(handler));
        lock(&self.inner.expected).extend(expected);
        self
    }

    /// Starts every handler that is linked into the program for this broker, or only the [included](Self::include) ones.
    ///
    /// The handlers of a broker with a [name](Builder::name) are those with the same `broker`, and those of a broker
    /// without one have none.
    /// The log names the handlers of a broker that the process has not built, as a warning if the name resembles that of
    /// one that it has; so build all brokers before the first start.
    ///
    /// First the configuration is validated: streams and consumers are found, compared or created, and the state that
    /// handlers require is checked.
    /// Returns when every handler accepts messages.
    /// Dropping the returned value does not stop the handlers; [`Running::shutdown`] and
    /// [`disconnect`](Self::disconnect) do.
    ///
    /// # Errors
    ///
    /// Returns all problems of the handlers together, as [`Error::problems`]; no handler is started then.
    /// It is a problem if an [expected](Self::expect) handler is not among them.
    /// A handler that already runs on this broker is a problem too.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, streams and consumers may have been created, but no handler runs: those that were
    /// started already are stopped and hand their messages back.
    pub async fn start_all(&self) -> Result<Running, Error> {
        let handlers = self.selected()?;
        names::log_unknown();
        let running = self.start(handlers).await?;
        self.log_summary(&running);
        Ok(running)
    }

    /// Starts the handlers of these groups, as [`start_all`](Self::start_all) does.
    ///
    /// # Errors
    ///
    /// Returns the errors of `start_all`, and [`NoHandlers`](ErrorKind::NoHandlers) for a group that no handler has.
    ///
    /// # Cancel safety
    ///
    /// The same as for `start_all`.
    pub async fn start_groups<'a>(&self, groups: impl IntoIterator<Item = &'a str>) -> Result<Running, Error> {
        let groups: Vec<_> = groups.into_iter().collect();
        let handlers = chosen(&all_of(self.inner.name.as_deref())?, Vec::new(), groups.iter().copied())?;
        self.require_expected(&handlers, Some(&groups))?;
        names::log_unknown();
        let running = self.start(handlers).await?;
        self.log_summary(&running);
        Ok(running)
    }

    /// Starts every handler, runs until SIGINT or SIGTERM, then stops gracefully and disconnects.
    ///
    /// On a second signal it returns immediately, without waiting for running calls.
    ///
    /// # Errors
    ///
    /// Returns the errors of [`start_all`](Self::start_all), and [`GracePeriod`](ErrorKind::GracePeriod) for calls that
    /// did not finish within the grace period.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future stops the handlers: the stop continues detached, and its result is lost. The connection
    /// stays open until [`disconnect`](Self::disconnect), which waits for them.
    pub async fn run_all(&self) -> Result<(), Error> {
        self.run(self.start_all()).await
    }

    /// Runs the handlers of these groups, as [`run_all`](Self::run_all) does.
    ///
    /// # Errors
    ///
    /// Returns the errors of `run_all`, and [`NoHandlers`](ErrorKind::NoHandlers) for a group that no handler has.
    ///
    /// # Cancel safety
    ///
    /// The same as for `run_all`.
    pub async fn run_groups<'a>(&self, groups: impl IntoIterator<Item = &'a str>) -> Result<(), Error> {
        self.run(self.start_groups(groups)).await
    }

    /// Returns a builder that handles a subject, or several, with a closure; awaiting it starts the closure.
    ///
    /// `queue` is the name of the durable consumer: instances with the same queue share the messages.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # use jetstream_handlers::prelude::*;
    /// # async fn start(broker: Broker) -> Result<(), jetstream_handlers::Error> {
    /// let subscription = broker
    ///     .subscribe("orders.created", "order-processor", |id: u64| async move {
    ///         println!("order {id}");
    ///         Ok(())
    ///     })
    ///     .await?;
    /// subscription.unsubscribe().await?;
    /// # Ok(()) }
    /// ```
    #[track_caller]
    pub fn subscribe<A: 'static, C: Closure<A>>(
        &self,
        subject: impl Into<Subjects>,
        queue: &str,
        closure: C,
    ) -> Subscribe<'_> {
        let location = Location::caller().to_string();
        let plan = Plan::new(subject, queue.to_owned());
        Subscribe { broker: self, handler: Handler::closure(plan, location, closure) }
    }

    /// Returns the current state of the connection and of every handler.
    pub fn health(&self) -> Health {
        let transport = &self.inner.transport;
        let disconnect = Disconnect::of(transport);
        let handlers = self.workers().iter().map(|worker| worker.health(disconnect.as_ref())).collect();
        Health {
            connected: disconnect.is_none(),
            last_error: transport.last_error(),
            handlers,
            disconnected: disconnect.and_then(|disconnect| disconnect.error),
            abandoned: transport.is_abandoned(),
        }
    }

    /// Returns the client of the connection, for what this crate does not cover; `None` in memory.
    ///
    /// It is the client that the handlers use: draining it, or forcing it to reconnect, affects them.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # async fn start(broker: jetstream_handlers::Broker) -> Result<(), Box<dyn std::error::Error>> {
    /// if let Some(client) = broker.client() {
    ///     client.publish("metrics.started", "1".into()).await?;
    /// }
    /// # Ok(()) }
    /// ```
    pub fn client(&self) -> Option<async_nats::Client> {
        self.inner.transport.client()
    }

    /// Returns a JetStream context with the domain or the API prefix of this broker, for what this crate does not
    /// cover; `None` in memory.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # async fn start(broker: jetstream_handlers::Broker) -> Result<(), Box<dyn std::error::Error>> {
    /// if let Some(jetstream) = broker.jetstream() {
    ///     jetstream.get_stream("ORDERS").await?.purge().filter("orders.test").await?;
    /// }
    /// # Ok(()) }
    /// ```
    pub fn jetstream(&self) -> Option<async_nats::jetstream::Context> {
        self.inner.transport.jetstream()
    }

    /// Returns the dead letters of the account, to list, read, replay and purge them.
    pub fn dead_letters(&self) -> DeadLetters {
        DeadLetters::new(self.inner.transport.clone())
    }

    /// Stops every handler gracefully, then closes the connection.
    ///
    /// # Errors
    ///
    /// Returns [`GracePeriod`](ErrorKind::GracePeriod) for calls that did not finish within the grace period, and an
    /// error if the server did not confirm the close.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the stop of the handlers continues detached, its result is lost, and the connection
    /// stays open.
    pub async fn disconnect(&self) -> Result<(), Error> {
        self.inner.closing.cancel();
        let workers: Vec<_> = self.workers().clone();
        let stopped = stop_all(&workers).await;
        let closed = self.inner.transport.close().await;
        #[cfg(feature = "metrics")]
        self.report_disconnected();
        stopped.and(closed)
    }

    /// Refuses handlers that belong to a broker of another name.
    pub(crate) fn refuse_others(&self, handlers: &[Handler]) -> Result<(), Error> {
        let name = self.inner.name.as_deref();
        let of_others = handlers.iter().filter(|handler| handler.broker() != name);
        Error::all(of_others.map(|handler| of_another_broker(handler, name)).collect())
    }

    /// Returns the name by which handlers choose the broker.
    pub(crate) fn name(&self) -> Option<&str> {
        self.inner.name.as_deref()
    }

    /// Starts handlers whose calls are recorded.
    pub(crate) async fn start_recorded(&self, handlers: Vec<Handler>, recorder: Recorder) -> Result<Running, Error> {
        self.start_with(handlers, Some(recorder)).await
    }

    /// Waits until the broker is disconnected.
    #[cfg(feature = "pcgroups")]
    pub(crate) async fn disconnected(&self) {
        self.inner.closing.cancelled().await;
    }

    pub(crate) fn transport(&self) -> &Transport {
        &self.inner.transport
    }

    /// Returns a broker with the settings and the state of this one on the same in-memory server, or on the connection
    /// of `other`.
    pub(crate) fn second(&self, other: Option<&Self>) -> Self {
        let transport = match (other, self.transport()) {
            (Some(other), _) => other.inner.transport.clone(),
            (None, Transport::Memory(memory)) => Arc::new(Transport::Memory(memory.second_connection())),
            (None, Transport::Nats(_)) => self.inner.transport.clone(),
        };
        Self::new(self.inner.name.clone(), transport, self.inner.states.clone(), self.inner.defaults.clone())
    }

    /// Returns the handlers that [`start_all`](Self::start_all) starts.
    fn selected(&self) -> Result<Vec<Handler>, Error> {
        let included = lock(&self.inner.included).clone();
        let handlers = match included.is_empty() {
            true => all_of(self.inner.name.as_deref())?,
            false => included,
        };
        self.refuse_others(&handlers)?;
        self.require_expected(&handlers, None)?;
        Ok(handlers)
    }

    async fn run(&self, start: impl Future<Output = Result<Running, Error>>) -> Result<(), Error> {
        // A signal also ends a start that waits for a server.
        let mut signals = Signals::new()?;
        let running = tokio::select! {
            running = start => running?,
            () = signals.next() => return self.disconnect().await,
        };
        let _cancelled = StopOnDrop::new(&running.workers);
        tokio::select! {
            () = signals.next() => tracing::info!("shutting down; a second signal exits immediately"),
            () = self.inner.closing.cancelled() => {}
            () = running.ended() => {}
        }
        tokio::select! {
            biased;
            result = async { running.shutdown().await.and(self.disconnect().await) } => result,
            () = signals.next() => Err(Error::new(ErrorKind::GracePeriod, "stopped by a second signal while calls were running; their messages are redelivered")),
        }
    }

    fn workers(&self) -> MutexGuard<'_, Vec<Arc<WorkerHandle>>> {
        let mut workers = lock(&self.inner.workers);
        workers.retain(|worker| worker.is_known());
        workers
    }

    fn forget(&self, gone: &[Arc<WorkerHandle>]) {
        self.workers().retain(|worker| !gone.iter().any(|gone| Arc::ptr_eq(gone, worker)));
    }
}

//! The door: connect, publish, start handlers, stop.

mod builder;
mod running;
mod signals;
mod subscribe;

use std::fmt;
use std::panic::Location;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_nats::jetstream::publish::PublishAck;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

pub use builder::Builder;
pub use running::Running;
use running::{WorkerHandle, stop_all};
use signals::Signals;
pub use subscribe::{Subscribe, Subscription};

use crate::dead_letter::store::DeadLetters;
use crate::delivery::Binding;
use crate::error::{Error, ErrorKind};
use crate::extract::{Context, Problems, States};
use crate::handler::{Closure, Handler, Subscriber, chosen, clashes};
use crate::observe::health::{HandlerHealth, Health, Status, StatusCell};
use crate::observe::recorder::Recorder;
use crate::plan::Plan;
use crate::provision::provision;
use crate::publish::all::PublishAll;
use crate::publish::{PublishMessage, Publisher};
use crate::sync::lock;
use crate::transport::{Deliveries, Transport};
use crate::worker::{Delayed, Worker};

/// What holds for every handler that does not say otherwise.
#[derive(Debug, Clone)]
pub(crate) struct Defaults {
    pub(crate) batch_size: Option<usize>,
    pub(crate) fetch_wait: Option<Duration>,
    pub(crate) shutdown_grace: Duration,
}

/// A connection to NATS JetStream, and the handlers that run on it.
///
/// Cloning is cheap, and every clone is the same broker.
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
    transport: Arc<Transport>,
    publisher: Publisher,
    states: Arc<States>,
    defaults: Defaults,
    included: Mutex<Vec<Handler>>,
    workers: Mutex<Vec<Arc<WorkerHandle>>>,
    closing: CancellationToken,
}

impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Broker").field("transport", &self.inner.transport).finish_non_exhaustive()
    }
}

/// What a worker is made of.
type Parts = (Arc<Handler>, Arc<Binding>, Context, CancellationToken, Deliveries);

impl Broker {
    /// Connects to one server with all defaults.
    ///
    /// # Errors
    ///
    /// Those of [`Builder::connect`].
    pub async fn connect(server: impl Into<String>) -> Result<Self, Error> {
        Self::builder().servers([server]).connect().await
    }

    /// A broker without a server, for tests and demos; [`Builder::in_memory`] takes settings and state.
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
        Self::builder().in_memory()
    }

    /// Begins with the settings; nothing happens before [`Builder::connect`].
    pub fn builder() -> Builder {
        Builder::new(false)
    }

    /// Begins with what the environment says, read by [`Builder::connect`].
    ///
    /// | variable | meaning |
    /// |---|---|
    /// | `NATS_URL` | servers, separated by commas |
    /// | `NATS_CREDS` | path of a credentials file |
    /// | `NATS_NKEY` | an nkey seed, or the path of a file with one |
    /// | `NATS_USER`, `NATS_PASSWORD` | user and password |
    /// | `NATS_TOKEN` | token |
    /// | `NATS_CA` | path of the certificate authority's PEM file |
    /// | `NATS_CERT`, `NATS_KEY` | paths of the client certificate's PEM files |
    /// | `NATS_CONTEXT` | name of a context of the `nats` command-line tool; the variables above go before what it says |
    ///
    /// Of several ways to authenticate the first in this order is used.
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

    pub(crate) fn new(transport: Arc<Transport>, states: Arc<States>, defaults: Defaults) -> Self {
        Self {
            inner: Arc::new(Inner {
                publisher: Publisher::new(transport.clone()),
                transport,
                states,
                defaults,
                included: Mutex::default(),
                workers: Mutex::default(),
                closing: CancellationToken::new(),
            }),
        }
    }

    /// Publishes a value as JSON, and returns after the stream stored it.
    ///
    /// # Errors
    ///
    /// Those of [`Publisher::publish`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future may leave the message stored or not.
    pub async fn publish<T: Serialize + ?Sized>(&self, subject: &str, value: &T) -> Result<PublishAck, Error> {
        self.publish_message(subject, value).await
    }

    /// Begins a publish with headers or conditions; it is sent when awaited.
    ///
    /// # Errors
    ///
    /// Awaiting gives the errors of [`Publisher::publish_message`].
    pub fn publish_message<T: Serialize + ?Sized>(&self, subject: &str, value: &T) -> PublishMessage<'_> {
        self.inner.publisher.publish_message(subject, value)
    }

    /// Publishes many messages, up to 256 at once, and gives the result of each in order.
    ///
    /// [`Publisher::publish_all`] says what holds for order, memory and repetition.
    ///
    /// # Examples
    ///
    /// ```
    /// # async fn send(broker: jetstream_handlers::Broker) -> Result<(), jetstream_handlers::Error> {
    /// let orders = [7, 8, 9];
    /// for result in broker.publish_all(orders.iter().map(|order| broker.publish_message("orders.created", order))).await {
    ///     result?;
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// Each result has the errors of [`Publisher::publish`] for its own message.
    ///
    /// # Cancel safety
    ///
    /// Dropping it leaves the messages whose result was not taken, 256 at most, stored or not.
    pub fn publish_all<'a, I>(&self, messages: I) -> PublishAll<'a>
    where
        I: IntoIterator<Item = PublishMessage<'a>, IntoIter: Send + 'a>,
    {
        self.inner.publisher.publish_all(messages)
    }

    /// Publishes several messages to one stream, all or none.
    ///
    /// [`Publisher::publish_atomic`] says what it needs, with an example.
    ///
    /// # Errors
    ///
    /// Those of [`Publisher::publish_atomic`]; with all but a time-out nothing is stored.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future may leave all of the batch stored or nothing.
    pub async fn publish_atomic<'a, I>(&self, messages: I) -> Result<PublishAck, Error>
    where
        I: IntoIterator<Item = PublishMessage<'a>>,
    {
        self.inner.publisher.publish_atomic(messages).await
    }

    /// Publishes many messages to one stream in order, as fast as it takes them.
    ///
    /// [`Publisher::ingest`] says what it needs, with an example.
    ///
    /// # Errors
    ///
    /// Those of [`Publisher::ingest`]; [`Error::stored`] says how many are known to be stored.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves a beginning of the batch stored.
    pub async fn ingest<'a, I>(&self, messages: I) -> Result<PublishAck, Error>
    where
        I: IntoIterator<Item = PublishMessage<'a>, IntoIter: Send>,
    {
        self.inner.publisher.ingest(messages).await
    }

    /// A publisher to hand to other code.
    pub fn publisher(&self) -> Publisher {
        self.inner.publisher.clone()
    }

    /// Starts this handler with [`start_all`](Self::start_all) and [`run_all`](Self::run_all), and no longer every one.
    ///
    /// It may be called for several.
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
        let handler = Handler::registered(H::registration());
        let mut included = lock(&self.inner.included);
        if !included.iter().any(|known| known.is(&handler)) {
            included.push(handler);
        }
        drop(included);
        self
    }

    /// Starts every handler that the program was linked with, or those [included](Self::include).
    ///
    /// First the wiring is proved: streams found or made, consumers compared, state present.
    /// It returns when every handler takes messages.
    /// The handlers go on when the returned value is dropped; [`Running::shutdown`] or [`disconnect`](Self::disconnect) stops them.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with the handlers, together, and each that runs on this broker already; then none is started.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future may leave streams and consumers made, but no handler started.
    pub async fn start_all(&self) -> Result<Running, Error> {
        let included = lock(&self.inner.included).clone();
        let handlers = match included.is_empty() {
            true => Handler::all(),
            false => included,
        };
        self.start(handlers).await
    }

    /// Starts the handlers of these groups, as [`start_all`](Self::start_all) does.
    ///
    /// # Errors
    ///
    /// Those of `start_all`, and a group without a handler.
    ///
    /// # Cancel safety
    ///
    /// As for `start_all`.
    pub async fn start_groups<'a>(&self, groups: impl IntoIterator<Item = &'a str>) -> Result<Running, Error> {
        let handlers = chosen(Vec::new(), groups)?;
        self.start(handlers).await
    }

    /// Starts every handler, works until SIGINT or SIGTERM, then stops gracefully and disconnects.
    ///
    /// A second signal ends at once, without waiting for running handlers.
    ///
    /// # Errors
    ///
    /// Those of [`start_all`](Self::start_all), and handlers that did not end within the grace period.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the handlers running; [`disconnect`](Self::disconnect) stops them.
    pub async fn run_all(&self) -> Result<(), Error> {
        self.run(self.start_all()).await
    }

    /// Runs the handlers of these groups, as [`run_all`](Self::run_all) does.
    ///
    /// # Errors
    ///
    /// Those of `run_all`, and a group without a handler.
    ///
    /// # Cancel safety
    ///
    /// As for `run_all`.
    pub async fn run_groups<'a>(&self, groups: impl IntoIterator<Item = &'a str>) -> Result<(), Error> {
        self.run(self.start_groups(groups)).await
    }

    /// Begins to handle a subject with a closure; it starts when awaited.
    ///
    /// `queue` is the durable consumer's name: processes that share it share the messages.
    /// Dropping what it returns before the await has ended starts nothing.
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
    pub fn subscribe<A: 'static, C: Closure<A>>(&self, subject: &str, queue: &str, closure: C) -> Subscribe<'_> {
        let location = Location::caller().to_string();
        let plan = Plan::of_closure(subject, queue);
        Subscribe { broker: self, handler: Handler::closure(plan, location, closure) }
    }

    /// What is true of the connection and the handlers at this moment.
    pub fn health(&self) -> Health {
        let lost = self.inner.transport.lost_since();
        let status = |worker: &WorkerHandle| match (worker.beat.status(), lost) {
            // One that has nothing to do has not noticed yet.
            (Status::Running, Some(since)) => Status::Recovering { reason: "not connected".to_owned(), since },
            (status, _) => status,
        };
        let handlers = self
            .workers()
            .iter()
            .map(|worker| HandlerHealth { handler: worker.handler.declaration.name.clone(), status: status(worker) })
            .collect();
        Health { connected: lost.is_none(), handlers }
    }

    /// What could not be handled: to list, show, replay and purge.
    pub fn dead_letters(&self) -> DeadLetters {
        DeadLetters::new(self.inner.transport.clone())
    }

    /// Stops every handler gracefully, then closes the connection.
    ///
    /// # Errors
    ///
    /// Handlers that did not end within the grace period, or a server that did not answer the last word.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the stop of the handlers to go on by itself, without anyone to hear its result, and the connection open.
    pub async fn disconnect(&self) -> Result<(), Error> {
        self.inner.closing.cancel();
        let workers: Vec<_> = self.workers().clone();
        let stopped = stop_all(&workers).await;
        let closed = self.inner.transport.close().await;
        stopped.and(closed)
    }

    /// Starts handlers whose calls are noted.
    pub(crate) async fn start_recorded(&self, handlers: Vec<Handler>, recorder: Recorder) -> Result<Running, Error> {
        self.start_with(handlers, Some(recorder)).await
    }

    pub(crate) fn transport(&self) -> &Transport {
        &self.inner.transport
    }

    async fn start(&self, handlers: Vec<Handler>) -> Result<Running, Error> {
        self.start_with(handlers, None).await
    }

    /// Checks everything, makes what is missing, starts the workers.
    async fn start_with(&self, handlers: Vec<Handler>, recorder: Option<Recorder>) -> Result<Running, Error> {
        let Inner { transport, publisher, states, defaults, closing, .. } = &*self.inner;
        if closing.is_cancelled() {
            return Err(Error::new(ErrorKind::Closed, "the broker is disconnected; connect a new one"));
        }
        if handlers.is_empty() {
            return Err(Error::new(
                ErrorKind::NoHandlers,
                "no handlers to start; annotate an async fn with `#[subscriber(subject = \"..\", queue = \"..\")]`, and if it is in another crate, link that with `use the_crate as _;`",
            ));
        }
        let stops: Vec<_> = handlers.iter().map(|_| CancellationToken::new()).collect();
        let contexts: Vec<_> = handlers
            .iter()
            .zip(&stops)
            .map(|(handler, stop)| {
                Context::new(handler.declaration.name.clone(), states.clone(), publisher.clone(), stop.clone())
            })
            .collect();
        let mut problems: Vec<_> = handlers.iter().flat_map(Handler::problems).collect();
        if !problems.is_empty() {
            // Names that cannot be used cannot be asked for either.
            return Err(Error::of(problems));
        }
        problems.extend(clashes(&handlers));
        for (handler, context) in handlers.iter().zip(&contexts) {
            problems.extend(Problems::of(context, |context, problems| (handler.check)(context, problems)));
        }
        let sources = match provision(transport, &handlers, problems).await {
            Ok(sources) => sources,
            Err(problems) => return Err(Error::of(problems)),
        };
        let mut parts = Vec::new();
        for (((handler, source), context), stop) in handlers.into_iter().zip(sources).zip(contexts).zip(stops) {
            let (handler, source) = (Arc::new(handler), Arc::new(source));
            let deliveries = transport.deliveries(&handler, &source, defaults.fetch_wait).await?;
            parts.push((handler, source, context, stop, deliveries));
        }
        let workers = self.spawn(parts, recorder.as_ref())?;
        // Let each worker ask for its first messages before anybody publishes.
        tokio::task::yield_now().await;
        Ok(Running { broker: self.clone(), workers })
    }

    /// Starts the workers, under the lock of all workers: a `disconnect` stops all of these or none is started.
    fn spawn(&self, parts: Vec<Parts>, recorder: Option<&Recorder>) -> Result<Vec<Arc<WorkerHandle>>, Error> {
        let Inner { transport, defaults, closing, .. } = &*self.inner;
        let mut all = self.workers();
        if closing.is_cancelled() {
            return Err(Error::new(ErrorKind::Closed, "the broker is disconnected; connect a new one"));
        }
        let handlers = parts.iter().map(|(handler, ..)| handler);
        let again = handlers.filter(|handler| all.iter().any(|worker| worker.runs(handler))).map(|handler| {
            let text = format!(
                "`{}` runs on this broker already; start it once, or stop it with `Running::shutdown` before it is started again",
                handler.declaration.name
            );
            Error::new(ErrorKind::Config, text)
        });
        Error::all(again.collect())?;
        let grace = defaults.shutdown_grace;
        let mut workers = Vec::new();
        for (handler, source, context, stop, deliveries) in parts {
            let (beat, ended, delayed) = (StatusCell::new(), CancellationToken::new(), Arc::new(Delayed::default()));
            let worker = Worker::new(
                handler.clone(),
                source.clone(),
                transport.clone(),
                context,
                beat.clone(),
                delayed.clone(),
                recorder.cloned(),
                defaults.batch_size,
            );
            // Also when the worker panics, so that health does not speak of a handler that is gone.
            let guards = (ended.clone().drop_guard(), beat.stopped_on_drop());
            let stopping = stop.clone();
            let task = tokio::spawn(async move {
                let _guards = guards;
                worker.run(deliveries, stopping, grace).await
            });
            let task = Mutex::new(Some(task));
            workers.push(Arc::new(WorkerHandle { handler, source, delayed, beat, grace, stop, ended, task }));
        }
        all.extend(workers.iter().cloned());
        Ok(workers)
    }

    async fn run(&self, start: impl Future<Output = Result<Running, Error>>) -> Result<(), Error> {
        // A signal counts from the first moment on, also while the start waits for a server.
        let mut signals = Signals::new()?;
        let running = tokio::select! {
            running = start => running?,
            () = signals.next() => return self.disconnect().await,
        };
        tokio::select! {
            () = signals.next() => tracing::info!("stopping; a second signal ends at once"),
            () = self.inner.closing.cancelled() => {}
            () = running.ended() => {}
        }
        tokio::select! {
            result = async { running.shutdown().await.and(self.disconnect().await) } => result,
            () = signals.next() => Err(Error::new(ErrorKind::GracePeriod, "ended by a second signal while handlers were running; their messages come again")),
        }
    }

    fn workers(&self) -> MutexGuard<'_, Vec<Arc<WorkerHandle>>> {
        lock(&self.inner.workers)
    }

    fn forget(&self, gone: &[Arc<WorkerHandle>]) {
        self.workers().retain(|worker| !gone.iter().any(|gone| Arc::ptr_eq(gone, worker)));
    }
}

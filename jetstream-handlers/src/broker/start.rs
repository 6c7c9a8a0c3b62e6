//! Starting handlers: validation, then one worker for each handler.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use tokio_util::sync::CancellationToken;

use super::running::{Running, StopOnDrop, WorkerHandle};
use super::{Broker, Defaults, Inner};
use crate::declaration::Declaration;
use crate::delivery::{Binding, Partition};
use crate::error::problem::Problem;
use crate::error::{Error, ErrorKind};
use crate::event::DeclaredEvent;
use crate::extract::{Context, Problems};
use crate::handler::Handler;
use crate::observe::observer::Observer;
use crate::observe::recorder::Recorder;
use crate::observe::status_cell::StatusCell;
use crate::pattern::filter;
use crate::prefix::Prefix;
use crate::provision::{provision, shared_durable};
use crate::rules;
use crate::settings::Settings;
use crate::shares::Share;
use crate::spelling;
use crate::subject::{declares, overlap};
use crate::transport::{Deliveries, Transport};
use crate::worker::{Delayed, Parts, Worker};

/// The name under which a problem reports the broker's own settings.
const DEFAULTS: &str = "Builder";

/// A handler that is ready to start.
struct Prepared {
    handler: Arc<Handler>,
    binding: Arc<Binding>,
    context: Context,
    stop: CancellationToken,
    deliveries: Deliveries,
    observer: Arc<Observer>,
}

/// The handlers of a start, with what their signatures tell about them.
#[derive(Default)]
pub(super) struct Checked {
    pub(super) handlers: Vec<Handler>,
    pub(super) contexts: Vec<Context>,
    stops: Vec<CancellationToken>,
    /// The problems that do not prevent an inspection of the server.
    pub(super) problems: Vec<Problem>,
}

impl Checked {
    /// Returns the handlers of all consumers: of each partition of a handler that has several.
    pub(super) fn for_consumers(self) -> Self {
        let Self { handlers, contexts, stops, problems } = self;
        let mut all = Self { problems, ..Self::default() };
        for ((handler, context), stop) in handlers.into_iter().zip(contexts).zip(stops) {
            if handler.declaration.plan.partitions.is_none() && handler.declaration.member.is_none() {
                all.add(handler, context, stop);
                continue;
            }
            for handler in handler.for_consumers() {
                let stop = CancellationToken::new();
                all.add(handler, context.with_shutdown(stop.clone()), stop);
            }
        }
        all
    }

    fn add(&mut self, handler: Handler, context: Context, stop: CancellationToken) {
        self.handlers.push(handler);
        self.contexts.push(context);
        self.stops.push(stop);
    }
}

/// The shares of the handlers with partitions that are started together, each with the signal that ends it.
#[derive(Default)]
struct Shares(Vec<(Share, CancellationToken)>);

impl Shares {
    /// Adds a handler; returns its partition if it has several.
    fn add(
        &mut self,
        transport: &Arc<Transport>,
        handler: &Declaration,
        stream: &str,
        stop: &CancellationToken,
    ) -> Option<Arc<Partition>> {
        let number = handler.partition.as_ref().filter(|_| handler.member.is_none())?.number;
        // They follow one another.
        if number == 0 {
            let share = Share::new(&handler.name, transport.clone(), stream, handler.queue());
            self.0.push((share, stop.clone()));
        }
        let (share, _) = self.0.last_mut()?;
        Some(share.add(number))
    }

    fn spawn(self) {
        for (share, stop) in self.0 {
            tokio::spawn(share.run(stop));
        }
    }
}

impl Broker {
    pub(crate) async fn start(&self, handlers: Vec<Handler>) -> Result<Running, Error> {
        self.start_with(handlers, None).await
    }

    /// Validates the settings and the handlers, creates missing streams and consumers, and starts the workers.
    pub(super) async fn start_with(
        &self,
        handlers: Vec<Handler>,
        recorder: Option<Recorder>,
    ) -> Result<Running, Error> {
        let Inner { transport, defaults, .. } = &*self.inner;
        let settings = transport.settings();
        let Checked { handlers, contexts, stops, problems } = self.checked(handlers)?.for_consumers();
        let declarations: Vec<_> = handlers.iter().map(|handler| &handler.declaration).collect();
        let bindings = provision(transport, &declarations, problems, |declaration, binding| {
            self.workers().iter().find_map(|worker| worker.conflict(declaration, binding))
        })
        .await?;
        let (mut prepared, mut shares) = (Vec::new(), Shares::default());
        for (((handler, mut binding), context), stop) in handlers.into_iter().zip(bindings).zip(contexts).zip(stops) {
            binding.partition = shares.add(transport, &handler.declaration, &binding.stream, &stop);
            let (handler, binding) = (Arc::new(handler), Arc::new(binding));
            let deliveries = transport.deliveries(&handler.declaration.name, &binding, defaults.fetch_wait).await?;
            let observer =
                Observer::new(&handler.declaration, &binding, settings, defaults.hooks.clone(), recorder.clone());
            prepared.push(Prepared { handler, binding, context, stop, deliveries, observer: Arc::new(observer) });
        }
        let workers = self.spawn(prepared)?;
        let cancelled = StopOnDrop::new(&workers);
        shares.spawn();
        workers.iter().filter(|worker| worker.is_first()).for_each(|worker| worker.log_start());
        self.spawn_filter_check(&workers);
        self.spawn_copy_check(&workers);
        #[cfg(feature = "metrics")]
        self.spawn_gauges(&workers);
        // Lets each worker send its first request before the caller publishes.
        tokio::task::yield_now().await;
        cancelled.keep_running();
        Ok(Running { broker: self.clone(), workers })
    }

    /// Validates the handlers that [`start_all`](Self::start_all) starts; without any, succeeds: a service may only
    /// publish.
    pub(super) fn checked_selected(&self) -> Result<Checked, Error> {
        let selected = self.selected()?;
        if selected.is_empty() { Ok(Checked::default()) } else { self.checked(selected) }
    }

    /// Validates the settings and the signatures of handlers, without the server.
    ///
    /// # Errors
    ///
    /// Returns an error if the server must not be contacted: a request cannot contain invalid names.
    pub(super) fn checked(&self, mut handlers: Vec<Handler>) -> Result<Checked, Error> {
        let Inner { transport, publisher, states, defaults, closing, .. } = &*self.inner;
        if closing.is_cancelled() {
            return Err(Error::new(ErrorKind::Closed, "the broker is disconnected; connect a new one"));
        }
        if handlers.is_empty() {
            return Err(Error::new(
                ErrorKind::NoHandlers,
                "no handlers to start; annotate an async fn with `#[subscriber(subject = \"..\", queue = \"..\")]`, and if it is in another crate, link that with `use the_crate as _;` or `broker.expect::<the_crate::handler>()`",
            ));
        }
        if let Some(prefix) = &transport.settings().prefix {
            handlers.iter_mut().for_each(|handler| handler.declaration.plan.add_prefix(prefix));
        }
        #[cfg(feature = "tower")]
        handlers.iter_mut().for_each(|handler| defaults.wrap(handler));
        let stops: Vec<_> = handlers.iter().map(|_| CancellationToken::new()).collect();
        let contexts: Vec<_> = handlers
            .iter()
            .zip(&stops)
            .map(|(handler, stop)| {
                let Declaration { name, plan, .. } = &handler.declaration;
                let context = Context::new(name.clone(), plan, states.clone(), publisher.clone(), stop.clone());
                #[cfg(feature = "tower")]
                let context = if handler.wrappers.is_empty() { context } else { context.with_layers() };
                context
            })
            .collect();
        let settings = transport.settings();
        let mut problems = defaults.problems();
        problems.extend(settings.prefix.as_ref().and_then(prefix_problem));
        #[cfg(feature = "tower")]
        problems.extend(defaults.unknown_groups());
        problems.extend(handlers.iter().flat_map(Handler::problems));
        let has_invalid_settings = !problems.is_empty();
        for (handler, context) in handlers.iter_mut().zip(&contexts) {
            let checked = Problems::of(context, &*handler.check);
            problems.extend(handler.problems_of_signature(&checked));
            #[cfg(feature = "asyncapi")]
            {
                handler.signature = checked.signature.clone();
            }
            problems.extend(other_partitions(&handler.declaration, settings));
            let Problems { found, needs_content, takes_dead_letters, payload, format, outputs, .. } = checked;
            problems.extend(found);
            if let Some(payload) = payload {
                warn_of_other_type(&handler.declaration, payload, settings);
            }
            (handler.needs_content, handler.payload) = (needs_content, format);
            handler.takes_dead_letters = takes_dead_letters;
            handler.declaration.events =
                outputs.events.iter().map(|pattern| settings.subject(&filter(pattern)).into_owned()).collect();
        }
        if has_invalid_settings {
            return Err(Error::of(problems));
        }
        Ok(Checked { handlers, contexts, stops, problems })
    }

    /// Starts the workers while it holds the lock of all workers, so that a concurrent `disconnect` either stops all of
    /// them or prevents the start.
    fn spawn(&self, prepared: Vec<Prepared>) -> Result<Vec<Arc<WorkerHandle>>, Error> {
        let Inner { transport, defaults, closing, .. } = &*self.inner;
        let mut all = self.workers();
        if closing.is_cancelled() {
            return Err(Error::new(ErrorKind::Closed, "the broker is disconnected; connect a new one"));
        }
        // Another start may have come first since the server was inspected.
        let problems = prepared
            .iter()
            .filter_map(|new| all.iter().find_map(|worker| worker.conflict(&new.handler.declaration, &new.binding)));
        Error::all(problems.collect())?;
        let grace = defaults.shutdown_grace;
        let mut workers = Vec::new();
        for Prepared { handler, binding, context, stop, deliveries, observer } in prepared {
            let (status, ended, delayed) = (StatusCell::new(), CancellationToken::new(), Arc::new(Delayed::default()));
            let worker = Worker::new(Parts {
                handler: handler.clone(),
                binding: binding.clone(),
                transport: transport.clone(),
                context,
                status: status.clone(),
                delayed: delayed.clone(),
                observer: observer.clone(),
                batch_size: defaults.batch_size,
            });
            // Also run when the worker panics, so that health does not report a handler as running.
            let guards = (ended.clone().drop_guard(), status.ended_on_drop());
            let (stopping, slots, buffered) = (stop.clone(), worker.slots(), worker.buffered());
            let task = tokio::spawn(async move {
                let _guards = guards;
                worker.run(deliveries, stopping, grace).await
            });
            let task = Mutex::new(Some(task));
            let abandoned = AtomicBool::new(false);
            workers.push(Arc::new(WorkerHandle {
                handler,
                binding,
                delayed,
                status,
                observer,
                slots,
                buffered,
                grace,
                stop,
                ended,
                task,
                abandoned,
            }));
        }
        all.extend(workers.iter().cloned());
        Ok(workers)
    }
}

/// Logs a warning if every message of a handler is an event of another type than its payload.
///
/// It is no problem, because a handler may need only a part of an event.
fn warn_of_other_type(handler: &Declaration, payload: &'static str, settings: &Settings) {
    let is_any = ["serde_json::value::Value", "serde_json::raw::RawValue"].iter().any(|any| payload.contains(any));
    let events: Vec<_> = inventory::iter::<DeclaredEvent>().collect();
    for subject in handler.plan.subject.filters() {
        let of_subject = |event: &&&DeclaredEvent| {
            event.patterns.iter().any(|pattern| declares(pattern, settings.declared(&subject)))
        };
        let mut declaring = events.iter().filter(of_subject).peekable();
        let Some(first) = declaring.peek().map(|event| (event.type_name)()).filter(|_| !is_any) else { continue };
        // Also in an `Option` or a `Result`.
        let is_part = |name: &str| payload.split(['<', '>', ',', ' ']).any(|part| part == name);
        if !declaring.any(|event| is_part((event.type_name)())) {
            let handler = &*handler.name;
            tracing::warn!(handler, "takes a `{payload}`, but the messages on `{subject}` are the event `{first}`");
        }
    }
}

/// Returns the problem of a handler whose number of partitions is not that of an event which it receives.
fn other_partitions(Declaration { name, plan, .. }: &Declaration, settings: &Settings) -> Option<Problem> {
    // The server computes the number for copies, whatever the publisher has computed.
    let partitions = plan.partitions.filter(|_| !plan.is_derived())?;
    let events = inventory::iter::<DeclaredEvent>().filter_map(|event| Some((event, event.partitions?)));
    let of_handler = |event: &DeclaredEvent| {
        let filters: Vec<_> = plan.subject.filters().collect();
        let patterns = event.patterns.iter().map(|pattern| filter(pattern));
        patterns.into_iter().any(|pattern| filters.iter().any(|own| overlap(settings.declared(own), &pattern)))
    };
    let (event, of_event) =
        events.filter(|(_, of_event)| *of_event != partitions).find(|(event, _)| of_handler(event))?;
    let text = format!(
        "is {partitions}, but the event `{}` has {of_event} partitions, so that messages would be in partitions without a handler, or one key in several; use the same number",
        (event.type_name)()
    );
    Some(Problem::setting(name, "partitions", &text))
}

/// Returns the problem of the prefix of an environment.
fn prefix_problem(prefix: &Prefix) -> Option<Problem> {
    let of_subjects = spelling::publish_subject_problem(prefix.as_str());
    // The streams have it in their names.
    let problem = of_subjects.or_else(|| prefix.as_str().split('.').find_map(spelling::name_problem))?;
    Some(Problem::setting(DEFAULTS, "subject_prefix", &problem))
}

impl Defaults {
    /// Returns the problems of layers for groups that no handler has.
    #[cfg(feature = "tower")]
    fn unknown_groups(&self) -> Vec<Problem> {
        let all = if self.group_wrappers.is_empty() { Vec::new() } else { Handler::all() };
        let is_known = |group: &str| all.iter().any(|it| it.declaration.plan.group.as_deref() == Some(group));
        let unknown = self.group_wrappers.iter().map(|(group, _)| group).filter(|group| !is_known(group));
        let problem =
            |group| Problem::setting(DEFAULTS, "layer_group", &format!("no handler has `group = \"{group}\"`"));
        unknown.map(problem).collect()
    }

    /// Puts the layers around a handler, from the inside out.
    #[cfg(feature = "tower")]
    fn wrap(&self, handler: &mut Handler) {
        let own = std::mem::take(&mut handler.wrappers);
        let group = handler.declaration.plan.group.clone();
        let of_group = self.group_wrappers.iter().filter(|(name, _)| Some(&**name) == group.as_deref());
        let of_group = of_group.map(|(_, wrapper)| wrapper);
        let all: Vec<_> = self.wrappers.iter().chain(of_group).chain(&own).cloned().collect();
        for wrapper in all.iter().rev() {
            wrapper.apply(handler);
        }
        handler.wrappers = all;
    }

    fn problems(&self) -> Vec<Problem> {
        let batch_size = self.batch_size.and_then(rules::batch_size_problem);
        let fetch_wait = self.fetch_wait.and_then(rules::fetch_wait_problem);
        [("batch_size", batch_size), ("fetch_wait", fetch_wait)]
            .into_iter()
            .filter_map(|(key, problem)| Some(Problem::setting(DEFAULTS, key, &problem?)))
            .collect()
    }
}

impl WorkerHandle {
    /// Returns the problem of a handler that cannot run beside this one: the same function, or the same durable consumer.
    fn conflict(&self, starting: &Declaration, binding: &Binding) -> Option<Problem> {
        if self.ended.is_cancelled() {
            return None;
        }
        let running = &self.handler.declaration;
        // Two closures that are created at one place in the source are different handlers.
        if !starting.is_closure && running.is_same(starting) {
            return Some(Problem::AlreadyRunning { handler: starting.name.clone() });
        }
        let is_shared = self.binding.stream == binding.stream && self.binding.consumer == binding.consumer;
        is_shared.then(|| shared_durable(running, starting))
    }
}

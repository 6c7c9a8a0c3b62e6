//! The handlers of a broker: those that run, those that are linked into the program, and those that are expected.

#[cfg(feature = "cli")]
use super::choose::choose;
use super::running::{Disconnect, Running, WorkerHandle};
use super::{Broker, Inner};
use crate::error::Error;
use crate::error::problem::{Few, Problem};
use crate::handler::{Handler, Subscriber};
use crate::observe::handler_info::HandlerInfo;
use crate::observe::handler_state::HandlerState;
use crate::settings::Settings;
use crate::sync::lock;

impl Broker {
    /// Returns the handlers that run on this broker, and all others that are linked into the program, sorted by name.
    ///
    /// A handler that is linked for this broker and does not run is [`NotStarted`](HandlerState::NotStarted), and one
    /// that belongs to a broker of another name is [`OtherBroker`](HandlerState::OtherBroker). A closure is listed while
    /// it runs.
    /// A crate of handlers that the program depends on and never names is not linked, and its handlers are in no list;
    /// [`expect`](Self::expect) prevents that.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # fn show(broker: jetstream_handlers::Broker) {
    /// for handler in broker.handlers() {
    ///     println!("{handler}");
    /// }
    /// # }
    /// ```
    pub fn handlers(&self) -> Vec<HandlerInfo> {
        let Inner { transport, name, .. } = &*self.inner;
        let disconnect = Disconnect::of(transport);
        let (mut infos, running): (Vec<_>, Vec<_>) = {
            let workers = self.workers();
            workers
                .iter()
                .filter(|worker| worker.is_first())
                .map(|worker| {
                    let of_handler = workers.iter().filter(|other| worker.has_partition_beside(other));
                    let mut states = of_handler.map(|other| other.state(disconnect.as_ref()));
                    // One partition that does not run is what there is to see.
                    let other = states.find(|state| *state != HandlerState::Running);
                    let state = other.unwrap_or_else(|| worker.state(disconnect.as_ref()));
                    (worker.info(state, transport.settings()), worker.handler.clone())
                })
                .unzip()
        };
        let idle = Handler::all().into_iter().filter(|handler| !running.iter().any(|other| other.is(handler)));
        infos.extend(idle.map(|mut handler| {
            let is_own = handler.broker() == name.as_deref();
            if let (true, Some(prefix)) = (is_own, &transport.settings().prefix) {
                handler.declaration.plan.add_prefix(prefix);
            }
            let state = if is_own { HandlerState::NotStarted } else { HandlerState::OtherBroker };
            HandlerInfo::new(&handler.declaration, None, state, transport.settings())
        }));
        infos.sort_by(|one, other| one.name.cmp(&other.name));
        infos
    }

    /// Returns the handler that a text names: its function, the end of its path, or its queue.
    ///
    /// # Errors
    ///
    /// Returns an error that lists the handlers, if the text names none or several.
    #[cfg(feature = "cli")]
    pub(crate) fn described(&self, text: &str) -> Result<HandlerInfo, Error> {
        let mut handlers = self.handlers();
        let index = choose(handlers.iter().map(|handler| (&*handler.name, &*handler.queue)), text)?;
        Ok(handlers.swap_remove(index))
    }

    /// Requires that a handler is started: a start of all handlers or of groups fails if this handler is not among them,
    /// and does not run on this broker yet.
    ///
    /// Naming the handler also links its crate into the program, which depending on the crate does not. Without that, its
    /// handlers are missing silently, as no handler is known that could be reported.
    ///
    /// Unlike [`include`](Self::include), it does not restrict what is started. Handlers that are started later by
    /// [`start_groups`](Self::start_groups) are expected before the last start. To link a crate whose handlers a process
    /// may leave out, write `use the_crate as _;`.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use jetstream_handlers::prelude::*;
    ///
    /// mod billing {
    ///     // Usually another crate.
    ///     use jetstream_handlers::prelude::*;
    ///
    ///     #[subscriber(subject = "orders.created", queue = "billing")]
    ///     pub async fn bill(order: u64) {}
    /// }
    ///
    /// # async fn start(broker: Broker) -> Result<(), jetstream_handlers::Error> {
    /// broker.expect::<billing::bill>();
    /// broker.run_all().await // fails if `bill` belongs to another broker
    /// # }
    /// ```
    pub fn expect<H: Subscriber>(&self) -> &Self {
        let handler = Handler::registered(H::registration());
        lock(&self.inner.expected).push(handler);
        self
    }

    /// Refuses a start of these handlers if an expected one is not among them; `groups` are those that were chosen.
    pub(super) fn require_expected(&self, starting: &[Handler], groups: Option<&[&str]>) -> Result<(), Error> {
        let expected = lock(&self.inner.expected).clone();
        let mut problems: Vec<Problem> = Vec::new();
        for handler in expected {
            let runs = starting.iter().any(|other| other.is(&handler))
                || self.workers().iter().any(|worker| worker.runs(&handler));
            let is_known = problems.iter().any(|it| it.handler() == Some(&*handler.declaration.name));
            if !runs && !is_known {
                problems.push(self.left_out(&handler, groups));
            }
        }
        Error::all(problems)
    }

    /// Returns the problem of an expected handler that a start leaves out.
    fn left_out(&self, handler: &Handler, groups: Option<&[&str]>) -> Problem {
        let name = self.inner.name.as_deref();
        let reason = match (handler.broker(), &handler.declaration.plan.group, groups) {
            (broker, ..) if broker != name => {
                let of = broker.map_or("has no `broker`".to_owned(), |broker| format!("has `broker = \"{broker}\"`"));
                let this = name.map_or("has no name".to_owned(), |name| format!("has the name `{name}`"));
                format!("it {of}, and this broker {this}; expect it on its own broker")
            }
            (_, group, Some(groups)) => {
                let groups: Vec<_> = groups.iter().map(|group| (*group).to_owned()).collect();
                let of = group.as_deref().map_or("no `group`".to_owned(), |group| format!("`group = \"{group}\"`"));
                format!("it has {of}, and the groups {} are started; start its group too", Few(&groups))
            }
            (_, _, None) => "`include` restricts the start to other handlers; include it too".to_owned(),
        };
        Problem::NotStarted { handler: handler.declaration.name.clone(), reason }
    }

    /// Logs that handlers were started together, and which others are linked for this broker.
    pub(super) fn log_summary(&self, running: &Running) {
        let Inner { transport, name, .. } = &*self.inner;
        let not_started = self.handlers().into_iter().filter(|it| it.state == HandlerState::NotStarted);
        let not_started: Vec<_> = not_started.map(|it| it.name).collect();
        let handlers = running.workers.iter().filter(|worker| worker.is_first()).count();
        let (server, broker) = (transport.server(), name.as_deref());
        match &*not_started {
            [] => tracing::info!(broker, handlers, server, "all handlers are started"),
            others => tracing::info!(
                broker,
                handlers,
                server,
                "the handlers are started, without {}, which are linked into the program for this broker",
                Few(others)
            ),
        }
    }
}

impl WorkerHandle {
    fn state(&self, disconnect: Option<&Disconnect>) -> HandlerState {
        HandlerState::from(&self.health(disconnect).status)
    }

    fn info(&self, state: HandlerState, settings: &Settings) -> HandlerInfo {
        HandlerInfo::new(&self.handler.declaration.whole(), Some(&self.binding), state, settings)
    }

    /// Returns `true` if both are workers of different partitions of one handler.
    fn has_partition_beside(&self, other: &Self) -> bool {
        let (own, other) = (&self.handler.declaration, &other.handler.declaration);
        own.is_same(other) && own.queue() == other.queue() && own.plan.queue != other.plan.queue
    }

    fn runs(&self, handler: &Handler) -> bool {
        self.handler.is(handler) && !self.ended.is_cancelled()
    }

    /// Logs that the handler was started.
    pub(super) fn log_start(&self) {
        let (declaration, binding) = (&self.handler.declaration, &self.binding);
        tracing::info!(
            handler = declaration.name,
            subject = %declaration.subjects(),
            stream = binding.stream,
            queue = declaration.queue(),
            partitions = declaration.plan.partitions,
            concurrency = declaration.plan.concurrency(),
            "started a handler: stream {}, consumer {}",
            binding.stream_origin.as_str(),
            binding.consumer_origin.as_str()
        );
    }
}

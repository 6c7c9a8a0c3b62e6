//! Handlers: their declarations, and the code to call.

mod call;
mod closure;
mod key;
mod registration;
#[cfg(feature = "tower")]
mod wrapper;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use crate::codec::PayloadFormat;
use crate::dead_letter::is_part;
use crate::declaration::Declaration;
use crate::error::problem::Problem;
use crate::error::{Error, ErrorKind};
use crate::extract::{Context, Delivery, Problems, Results};
use crate::key::{Key, Place};
use crate::message::Message;
use crate::plan::Plan;
use crate::rules;
#[cfg(feature = "asyncapi")]
use crate::schema::Signature;
use crate::spelling;

pub(crate) use call::Call;
pub use call::CallFuture;
pub use closure::Closure;
pub use registration::{Entry, Registration, Subscriber};
#[cfg(feature = "tower")]
pub use wrapper::Wrapper;

type Check = dyn Fn(&Context, &mut Problems) + Send + Sync;

/// A handler: its declaration, and the functions that call and check it.
#[derive(Clone)]
pub(crate) struct Handler {
    pub(crate) declaration: Declaration,
    pub(crate) call: Arc<dyn Call>,
    pub(crate) check: Arc<Check>,
    /// `true` if a message that only marks a deletion is no value of its payload, which a start finds out from its
    /// parameters.
    pub(crate) needs_content: bool,
    /// `true` if it takes dead letters, which a start finds out from its parameters.
    pub(crate) takes_dead_letters: bool,
    /// The format of the payload, which a start finds out from its parameters.
    pub(crate) payload: PayloadFormat,
    /// The types of its payloads, which a start finds out from its parameters and its return type.
    #[cfg(feature = "asyncapi")]
    pub(crate) signature: Signature,
    /// The layers around the call, which a start completes and applies; the first is the outermost.
    #[cfg(feature = "tower")]
    pub(crate) wrappers: Vec<Wrapper>,
}

impl fmt::Debug for Handler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handler")
            .field("name", &self.declaration.name)
            .field("plan", &self.declaration.plan)
            .finish_non_exhaustive()
    }
}

impl Handler {
    pub(crate) fn registered(registration: &'static Registration) -> Self {
        Self {
            declaration: Declaration {
                name: registration.name.to_owned(),
                is_closure: false,
                location: registration.location.to_owned(),
                description: registration.description,
                plan: (registration.plan)(),
                partition: None,
                member: None,
                events: Vec::new(),
            },
            call: Arc::new(registration.call),
            check: Arc::new(registration.check),
            needs_content: false,
            takes_dead_letters: false,
            payload: PayloadFormat::Default,
            #[cfg(feature = "asyncapi")]
            signature: Signature::default(),
            #[cfg(feature = "tower")]
            wrappers: registration.layer.map(|layer| layer()).into_iter().collect(),
        }
    }

    pub(crate) fn closure<H, Arguments: 'static>(plan: Plan, location: String, handler: H) -> Self
    where
        H: Closure<Arguments>,
    {
        Self {
            declaration: Declaration {
                name: format!("closure on {}", plan.subject),
                is_closure: true,
                location,
                description: "",
                plan,
                partition: None,
                member: None,
                events: Vec::new(),
            },
            call: Arc::new(move |future: &mut CallFuture, delivery: Delivery<'_>, context: &Context| {
                handler.call(future, delivery, context);
            }),
            check: Arc::new(H::check),
            needs_content: false,
            takes_dead_letters: false,
            payload: PayloadFormat::Default,
            #[cfg(feature = "asyncapi")]
            signature: Signature::default(),
            #[cfg(feature = "tower")]
            wrappers: Vec::new(),
        }
    }

    /// Returns one handler for each consumer: for each partition, or itself.
    pub(crate) fn for_consumers(&self) -> Vec<Self> {
        let declarations = self.declaration.consumers().into_iter();
        declarations.map(|declaration| Self { declaration, ..self.clone() }).collect()
    }

    /// Returns the whole handler, of which this may be one partition.
    #[cfg(feature = "asyncapi")]
    pub(crate) fn whole(&self) -> Self {
        Self { declaration: self.declaration.whole(), ..self.clone() }
    }

    /// Returns `true` if a message is nothing that the handler takes: it only marks a deletion, and the handler needs a
    /// value, or it is a part of a large dead letter.
    pub(crate) fn skips(&self, message: &Message) -> bool {
        (self.needs_content && message.is_marker()) || (self.takes_dead_letters && is_part(message))
    }

    /// Returns what contradicts the keys in the parameters and the results.
    ///
    /// Mostly a closure has these problems, because the attribute refuses such a function at compile time.
    pub(crate) fn problems_of_signature(&self, found: &Problems) -> Vec<Problem> {
        let Declaration { name, plan, .. } = &self.declaration;
        let mut problems = Vec::new();
        let mut add = |key, problem: &str| problems.push(Problem::setting(name, key, problem));
        if let (Some(subject), Some(Results::One)) = (plan.publish.as_deref(), found.results) {
            let problem = format!(
                "is `\"{subject}\"`, but the closure returns nothing to publish; return `Ok(Output::new(&value))`, or remove `publish`"
            );
            add("publish", &problem);
        }
        if let (Some(subject), [event, ..], false) =
            (plan.publish.as_deref(), &*found.outputs.events, found.outputs.has_others)
        {
            let problem = format!(
                "is `\"{subject}\"`, but the handler returns events, which are published to subjects of their own, such as `{event}`; remove `publish`, or return a value that is no event"
            );
            add("publish", &problem);
        }
        match (plan.batch, found.takes_batch) {
            (None, true) => {
                add("batch", "is not set, but the handler takes a `Batch`; set the maximum number of messages");
            }
            (Some(_), false) => {
                add("batch", "is set, but the handler takes no `Batch`; take a `Batch<T>`, or remove `batch`");
            }
            _ => {}
        }
        if let (Some(Key(Place::Field(path))), PayloadFormat::Nameless(format)) = (&plan.key, &found.format) {
            let problem = format!(
                "is the field `{path}`, but the handler takes {format}, which has no names of fields; take the key from a header or the subject, as in `key = header(\"Tenant\")`"
            );
            add("key", &problem);
        }
        if found.results == Some(Results::OfElements) && !found.takes_batch {
            add("batch", "is not set, but the closure returns a `Vec` of results, one for each element of a `Batch`");
        }
        if found.results == Some(Results::OneWithOutputs) && found.takes_batch {
            add(
                "batch",
                "is set, but the closure returns outputs of the whole batch, which would be published twice after a redelivery; return a `Vec` with one result for each element, as in `vec![Ok(Output::new(&value))]`",
            );
        }
        if let (Some(of_one), true) = (found.of_one_message, found.takes_batch) {
            let problem = format!(
                "is set, but the handler takes a `{of_one}`, which describes one message; remove it, and read `messages()` of the batch"
            );
            add("batch", &problem);
        }
        problems
    }

    /// Returns `true` if both are the same function.
    ///
    /// The location is compared too, because functions in different function bodies may have the same name.
    pub(crate) fn is(&self, other: &Self) -> bool {
        self.declaration.is_same(&other.declaration)
    }

    /// Returns `true` if the value of a key comes from the environment and cannot be used.
    fn is_unreadable(&self, key: &str) -> bool {
        self.declaration.plan.unreadable.iter().any(|(unreadable, _)| *unreadable == key)
    }

    /// Returns the name of the broker to which the handler belongs.
    pub(crate) fn broker(&self) -> Option<&str> {
        self.declaration.plan.broker.as_deref()
    }

    /// Returns every handler that is linked into the program, sorted by name.
    pub(crate) fn all() -> Vec<Self> {
        let mut all: Vec<_> = inventory::iter::<Entry>().map(|entry| Self::registered(entry.0)).collect();
        all.sort_by(|one, other| one.declaration.name.cmp(&other.declaration.name));
        all
    }

    /// Returns the problems of the settings.
    ///
    /// The attribute refuses those of literals at compile time, so that these are of closures, constants and the
    /// environment.
    pub(crate) fn problems(&self) -> Vec<Problem> {
        let Declaration { name, plan, .. } = &self.declaration;
        let name_problem = spelling::handler_name_problem(name).filter(|_| self.declaration.is_closure);
        let name_problem = name_problem.map(|problem| ("name", problem));
        let unreadable = plan.unreadable.iter().cloned();
        let problems = name_problem.into_iter().chain(unreadable).chain(rules::problems(&plan.settings()));
        problems.map(|(key, problem)| Problem::setting(name, key, &problem)).collect()
    }
}

/// Returns the handlers that are linked into the program for the broker of this name, sorted by name.
pub(crate) fn all_of(broker: Option<&str>) -> Result<Vec<Handler>, Error> {
    let all = Handler::all();
    // The start reports a value in the environment that cannot be used.
    let is_own = |handler: &Handler| handler.broker() == broker || handler.is_unreadable("broker");
    let (own, others): (Vec<_>, Vec<_>) = all.into_iter().partition(is_own);
    if !own.is_empty() || others.is_empty() {
        return Ok(own);
    }
    let known: BTreeSet<_> = others.iter().filter_map(Handler::broker).collect();
    let message = match broker {
        Some(broker) if known.is_empty() => {
            format!("no handler has `broker = \"{broker}\"`, and no handler has a broker")
        }
        Some(broker) => format!("no handler has `broker = \"{broker}\"`; the existing names are: {known:?}"),
        None => format!(
            "every handler belongs to a named broker; start them on brokers with these names (`Builder::name`): {known:?}"
        ),
    };
    Err(Error::new(ErrorKind::NoHandlers, message))
}

/// Returns the handlers in `named` and those of the groups in `all`, each once.
pub(crate) fn chosen<'a>(
    all: &[Handler],
    named: Vec<Handler>,
    groups: impl IntoIterator<Item = &'a str>,
) -> Result<Vec<Handler>, Error> {
    let mut candidates = named;
    for group in groups {
        let before = candidates.len();
        let is_in_group = |handler: &&Handler| {
            handler.declaration.plan.group.as_deref() == Some(group) || handler.is_unreadable("group")
        };
        candidates.extend(all.iter().filter(is_in_group).cloned());
        if candidates.len() == before {
            let known: BTreeSet<_> =
                all.iter().filter_map(|handler| handler.declaration.plan.group.as_deref()).collect();
            let message = if known.is_empty() {
                format!("no handler has `group = \"{group}\"`, and no handler has a group")
            } else {
                format!("no handler has `group = \"{group}\"`; the existing groups are: {known:?}")
            };
            return Err(Error::new(ErrorKind::NoHandlers, message));
        }
    }
    let mut chosen: Vec<Handler> = Vec::new();
    for handler in candidates {
        if !chosen.iter().any(|known| known.is(&handler)) {
            chosen.push(handler);
        }
    }
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::plan::{Ack, Backoff, DeadLetter};

    #[test]
    fn marker_is_skipped_by_a_handler_that_needs_a_value() {
        let mut handler = Handler::closure(Plan::new("orders.created", "billing"), "here".to_owned(), || async {});
        let message = |payload: &'static str| Message::new("orders.created", payload);
        let cases = [
            (message("").with_header("Nats-Marker-Reason", "MaxAge"), true),
            (message("").with_header("KV-Operation", "DEL"), true),
            (message("").with_header("Tenant", "eu").with_header("KV-Operation", "PURGE"), true),
            (message("").with_header("KV-Operation", "PUT"), false),
            (message("7").with_header("KV-Operation", "DEL"), false),
            (message("7").with_header("Nats-Marker-Reason", "MaxAge"), false),
            (message(""), false),
        ];
        for (message, skipped) in cases {
            handler.needs_content = true;
            assert_eq!(handler.skips(&message), skipped, "{message:?}");
            handler.needs_content = false;
            assert!(!handler.skips(&message), "{message:?}");
        }
    }

    type Change = fn(&mut Plan);

    fn problems(change: Change) -> Vec<String> {
        let mut plan = Plan::new("orders.created", "billing");
        change(&mut plan);
        let handler = Handler::closure(plan, "here".to_owned(), || async {});
        handler.problems().iter().map(Problem::to_string).collect()
    }

    #[test]
    fn closure_is_refused_with_the_text_of_the_attribute() {
        let one = "but an `ordered` handler handles one message at a time";
        let cases: [(Change, &str); 26] = [
            (|p| p.concurrency = Some(0), "concurrency: is 0; expected 1 to 10000"),
            (|p| p.concurrency = Some(20_000), "concurrency: is 20000; expected 1 to 10000"),
            (|p| p.threads = Some(0), "threads: is 0; expected 1 to 512"),
            (|p| p.batch_size = Some(0), "batch_size: is 0; expected 1 to 10000"),
            (|p| p.batch_size = Some(usize::MAX), "batch_size: is 18446744073709551615; expected 1 to 10000"),
            (|p| p.max_deliver = Some(0), "max_deliver: is 0; expected 1 to 1000000"),
            (|p| p.ack_wait = Some(Duration::from_millis(99)), "ack_wait: is 99ms; expected 100ms to 8760h"),
            (|p| p.timeout = Some(Duration::ZERO), "timeout: is 0s; expected 1ms to 8760h"),
            (|p| p.timeout = Some(Duration::MAX), "timeout: is 18446744073709551615.999999999s; expected 1ms to 8760h"),
            (|p| p.backoff = Some(Backoff::Steps(vec![].into())), "backoff: has no delays; add at least one"),
            (
                |p| p.backoff = Some(Backoff::Steps(vec![Duration::ZERO].into())),
                "backoff: has a delay of 0s; expected 1ms to 8760h",
            ),
            (
                |p| {
                    let (initial, max) = (Duration::from_secs(1), Duration::from_secs(2));
                    p.backoff = Some(Backoff::Exponential { initial, factor: f64::NAN, max });
                },
                "backoff: `factor` is NaN; expected a finite number of at least 1",
            ),
            (
                |p| p.dead_letter = Some(DeadLetter::Subject("dlq.*".into())),
                "dead_letter: subject `dlq.*` has the wildcard `*`",
            ),
            (|p| p.publish = Some("orders.*".into()), "publish: subject `orders.*` has the wildcard `*`"),
            (|p| p.group = Some("a.b".into()), "group: name `a.b` contains `.`"),
            (|p| (p.ordered, p.concurrency) = (true, Some(4)), &format!("concurrency: is 4, {one}")),
            (|p| (p.ordered, p.threads) = (true, Some(4)), &format!("threads: is 4, {one}")),
            (
                |p| (p.ordered, p.ack) = (true, Ack::Confirmed),
                "ack: is `\"confirmed\"`, but an `ordered` handler sends one",
            ),
            (|p| p.ack_every = Some(10), "ack_every: requires an `ordered` handler; add `ordered`"),
            (|p| p.single_instance = true, "single_instance: requires an `ordered` handler or a `key`, because"),
            (
                |p| (p.ordered, p.key) = (true, Some("a".into())),
                "key: excludes `ordered`, because an `ordered` handler",
            ),
            (|p| p.key = Some("a..b".into()), "key: is `a..b`, which has an empty field"),
            (|p| p.key = Some(Key::header("")), "key: is a header without a name"),
            (
                |p| p.key = Some(Key::placeholder("id")),
                "key: is the placeholder `id`, but the subject `orders.created` has no placeholders",
            ),
            (|p| (p.threads, p.concurrency) = (Some(2), Some(2)), "concurrency: excludes `threads`"),
            (|p| (p.blocking, p.concurrency) = (true, Some(513)), "concurrency: is 513, but a `blocking` handler uses"),
        ];
        for (change, expected) in cases {
            let found = problems(change);
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(found[0].starts_with(&format!("`closure on orders.created`: {expected}")), "{found:?}");
        }
    }

    #[test]
    fn all_problems_of_a_closure_are_reported_together() {
        let found = problems(|p| (p.concurrency, p.max_deliver, p.ack_every) = (Some(0), Some(0), Some(10)));
        assert_eq!(found.len(), 3, "{found:?}");
    }

    #[test]
    fn compatible_settings_are_accepted() {
        let fine: [Change; 6] = [
            |p| (p.ordered, p.concurrency, p.ack_every, p.single_instance) = (true, Some(1), Some(1000), true),
            |p| (p.ordered, p.blocking) = (true, true),
            |p| (p.ordered, p.threads) = (true, Some(1)),
            |p| (p.blocking, p.concurrency) = (true, Some(512)),
            |p| (p.key, p.concurrency, p.batch) = (Some("customer".into()), Some(32), Some(100)),
            |p| (p.key, p.threads, p.single_instance) = (Some(Key::header("Tenant")), Some(4), true),
        ];
        for change in fine {
            assert_eq!(problems(change), Vec::<String>::new());
        }
    }

    #[test]
    fn name_of_a_closure_must_fit_a_header() {
        for (name, expected) in
            [("", "``: name: the name is empty"), ("a\nb", "`a\\nb`: name: name `a\\nb` contains a line break")]
        {
            let mut handler = Handler::closure(Plan::new("a", "b"), "here".to_owned(), || async {});
            handler.declaration.name = name.to_owned();
            let found: Vec<_> = handler.problems().iter().map(Problem::to_string).collect();
            assert!(found.len() == 1 && found[0].starts_with(expected), "{found:?}");
        }
    }
}

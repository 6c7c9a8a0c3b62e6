//! Handlers: a declaration, and the code to call.

mod call;
mod closure;
mod registration;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::error::problem::Problem;
use crate::error::{Error, ErrorKind};
use crate::extract::{Context, Problems};
use crate::message::Message;
use crate::plan::{Backoff, DeadLetter, Declaration, Plan, SHORTEST_ACK_WAIT};
use crate::rules;

pub use call::CallFuture;
pub(crate) use call::{Call, Delivery};
pub use closure::Closure;
pub use registration::{Entry, Registration, Subscriber};

type Check = dyn Fn(&Context, &mut Problems) + Send + Sync;

/// A handler: what it was declared with, and how to call it.
#[derive(Clone)]
pub(crate) struct Handler {
    pub(crate) declaration: Declaration,
    pub(crate) call: Arc<dyn Call>,
    pub(crate) check: Arc<Check>,
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
                plan: registration.plan.to_owned(),
            },
            call: Arc::new(registration.call),
            check: Arc::new(registration.check),
        }
    }

    pub(crate) fn closure<H, Arguments: 'static>(plan: Plan<String>, location: String, handler: H) -> Self
    where
        H: Closure<Arguments>,
    {
        Self {
            declaration: Declaration { name: format!("closure on {}", plan.subject), is_closure: true, location, plan },
            call: Arc::new(move |future: &mut CallFuture, message: &Message, context: &Context| {
                handler.call(future, message, context);
            }),
            check: Arc::new(H::check),
        }
    }

    /// Whether it is the same function; two in different function bodies may have one name.
    pub(crate) fn is(&self, other: &Self) -> bool {
        self.declaration.name == other.declaration.name && self.declaration.location == other.declaration.location
    }

    /// Every handler that the program was linked with, by name.
    pub(crate) fn all() -> Vec<Self> {
        let mut all: Vec<_> = inventory::iter::<Entry>().map(|entry| Self::registered(entry.0)).collect();
        all.sort_by(|one, other| one.declaration.name.cmp(&other.declaration.name));
        all
    }

    /// What is wrong with the settings; the attribute has checked its own, a closure's come here first.
    pub(crate) fn problems(&self) -> Vec<Problem> {
        let plan = &self.declaration.plan;
        let mut found = Vec::new();
        let mut check = |key: &'static str, problem: Option<String>| {
            found.extend(problem.map(|problem| Problem::Setting {
                handler: self.declaration.name.clone(),
                key,
                problem,
            }));
        };
        check("subject", rules::subject_problem(&plan.subject));
        check("queue", rules::name_problem(&plan.queue));
        check("stream", plan.stream.as_deref().and_then(rules::name_problem));
        if let Some(DeadLetter::Subject(subject)) = &plan.dead_letter {
            check("dead_letter", rules::publish_subject_problem(subject));
        }
        let too_short = |value: Option<Duration>, least: Duration| {
            let value = value.filter(|value| *value < least)?;
            Some(format!("{value:?} is too short; it is at least {least:?}"))
        };
        check("ack_wait", too_short(plan.ack_wait, SHORTEST_ACK_WAIT));
        check("timeout", too_short(plan.timeout, Duration::from_nanos(1)));
        if let Some(Backoff::Steps(steps)) = &plan.backoff {
            check("backoff", steps.is_empty().then(|| "it has no delay; give at least one".to_owned()));
            check("backoff", too_short(steps.iter().min().copied(), Duration::from_nanos(1)));
        }
        for (field, problem) in plan.contradictions() {
            check(field, Some(problem));
        }
        found
    }
}

/// The handlers named one by one and those of groups, each once.
pub(crate) fn chosen<'a>(
    named: Vec<Handler>,
    groups: impl IntoIterator<Item = &'a str>,
) -> Result<Vec<Handler>, Error> {
    let all = Handler::all();
    let mut candidates = named;
    for group in groups {
        let before = candidates.len();
        candidates
            .extend(all.iter().filter(|handler| handler.declaration.plan.group.as_deref() == Some(group)).cloned());
        if candidates.len() == before {
            let known: BTreeSet<_> =
                all.iter().filter_map(|handler| handler.declaration.plan.group.as_deref()).collect();
            let message = match known.is_empty() {
                true => format!("no handler has `group = \"{group}\"`, and none has any group"),
                false => format!("no handler has `group = \"{group}\"`; the groups there are: {known:?}"),
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
    use super::*;
    use crate::plan::Ack;

    #[test]
    fn the_last_step_of_a_backoff_repeats() {
        let plan = Plan::new("a", "b");
        let delays: Vec<_> = (1..=6).map(|attempt| plan.delay_after(attempt).as_secs()).collect();
        assert_eq!(delays, [1, 5, 30, 120, 120, 120]);
    }

    fn problems(change: impl FnOnce(&mut Plan<String>)) -> Vec<String> {
        let mut plan = Plan::new("orders.created", "billing");
        change(&mut plan);
        let handler = Handler::closure(plan, "here".to_owned(), || async {});
        handler.problems().iter().map(Problem::to_string).collect()
    }

    #[test]
    fn a_handler_in_order_has_one_message_at_a_time() {
        let mut plan = Plan::new("a", "b");
        (plan.ordered, plan.replicas) = (true, Some(1));
        assert_eq!((plan.concurrency(), plan.ack_every(), plan.max_ack_pending()), (1, 100, 1000));
        assert!(!plan.is_pinned(), "one process needs nobody to choose it");
        (plan.replicas, plan.ack_every) = (None, Some(7));
        assert!(plan.is_pinned());
        assert_eq!(plan.ack_every(), 7);
    }

    #[test]
    fn threads_are_the_concurrency_of_a_handler_that_blocks() {
        let mut plan = Plan::new("a", "b");
        assert!(!plan.is_blocking());
        plan.threads = Some(8);
        assert!(plan.is_blocking());
        assert_eq!(plan.concurrency(), 8);
        let blocking = Plan { blocking: true, concurrency: Some(3), ..Plan::new("a", "b") };
        assert!(blocking.is_blocking());
        assert_eq!(blocking.concurrency(), 3);
    }

    #[test]
    fn what_a_closure_cannot_be_is_told_with_the_way_out() {
        type Change = fn(&mut Plan<String>);
        let cases: [(Change, &str); 11] = [
            (|p| (p.ordered, p.concurrency) = (true, Some(4)), "concurrency: an ordered handler has one message"),
            (|p| (p.ordered, p.threads) = (true, Some(4)), "threads: an ordered handler has one message"),
            (|p| (p.ordered, p.ack) = (true, Ack::Confirmed), "ack: an ordered handler sends one ack for many"),
            (|p| (p.ordered, p.key) = (true, Some("id".to_owned())), "key: it keeps messages of one key in order"),
            (|p| p.ack_every = Some(10), "ack_every: it is for an ordered handler; add `ordered`"),
            (|p| p.replicas = Some(1), "replicas: it is for an ordered handler; add `ordered`"),
            (|p| (p.ordered, p.ack_every) = (true, Some(1001)), "ack_every: it is 1001; accepted are 1 to 1000"),
            (|p| (p.ordered, p.ack_every) = (true, Some(0)), "ack_every: it is 0; accepted are 1 to 1000"),
            (|p| (p.ordered, p.replicas) = (true, Some(2)), "replicas: accepted is 1"),
            (|p| (p.threads, p.concurrency) = (Some(2), Some(2)), "concurrency: `threads` is the concurrency"),
            (|p| (p.blocking, p.concurrency) = (true, Some(513)), "concurrency: it is 513, and a blocking handler"),
        ];
        for (change, told) in cases {
            let found = problems(change);
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(found[0].starts_with(&format!("`closure on orders.created`: {told}")), "{found:?}");
        }
        let fine: [Change; 4] = [
            |p| (p.ordered, p.concurrency, p.ack_every, p.replicas) = (true, Some(1), Some(1000), Some(1)),
            |p| (p.ordered, p.blocking) = (true, true),
            |p| (p.ordered, p.threads) = (true, Some(1)),
            |p| (p.blocking, p.concurrency) = (true, Some(512)),
        ];
        for change in fine {
            assert_eq!(problems(change), Vec::<String>::new());
        }
    }

    #[test]
    fn an_exponential_backoff_ends_at_its_maximum() {
        let (initial, max) = (Duration::from_secs(1), Duration::from_secs(120));
        let backoff = Backoff::Exponential { initial, factor: 2.0, max };
        let delays: Vec<_> =
            [1, 2, 3, 7, 8, 9, u64::MAX].into_iter().map(|attempt| backoff.after(attempt).as_secs()).collect();
        assert_eq!(delays, [1, 2, 4, 64, 120, 120, 120]);
    }
}

//! What the attribute registers, and the plan of one handler.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures::FutureExt as _;
use tokio_util::sync::ReusableBoxFuture;

use crate::backoff::LONGEST;
use crate::error::{Error, ErrorKind};
use crate::extract::{Argument, Context, Problems};
use crate::message::Message;
use crate::names;
use crate::pattern;
use crate::settle::{HandlerResult, IntoSettle, Outcome, Settle};

/// What a handler was declared with: the keys of the attribute, none of them defaulted yet.
///
/// `S` is `&'static str` in the attribute's expansion and `String` for a closure.
#[derive(Debug, Clone)]
#[allow(missing_docs)] // the fields are the keys of the attribute, described there
pub struct Plan<S> {
    pub subject: S,
    pub queue: S,
    pub stream: Option<S>,
    pub concurrency: Option<usize>,
    pub blocking: bool,
    pub threads: Option<usize>,
    pub batch_size: Option<usize>,
    pub ack_wait: Option<Duration>,
    pub timeout: Option<Duration>,
    pub max_deliver: Option<u32>,
    pub backoff: Option<Backoff>,
    pub dead_letter: Option<DeadLetter<S>>,
    pub key: Option<S>,
    pub ordered: bool,
    pub ack_every: Option<usize>,
    pub replicas: Option<u32>,
    pub publish: Option<S>,
    pub codec: Option<S>,
    pub ack: Ack,
    pub group: Option<S>,
}

/// The plan in the attribute's expansion.
pub type StaticPlan = Plan<&'static str>;

/// The delays between the attempts of a message.
#[derive(Debug, Clone, PartialEq)]
pub enum Backoff {
    /// These delays; the last one repeats.
    Steps(Cow<'static, [Duration]>),
    /// `initial`, then times `factor` each time, never above `max`.
    #[allow(missing_docs)]
    Exponential { initial: Duration, factor: f64, max: Duration },
}

impl Backoff {
    fn after(&self, attempt: u64) -> Duration {
        let index = attempt.saturating_sub(1);
        match self {
            Self::Steps(steps) => {
                let index = usize::try_from(index).unwrap_or(usize::MAX).min(steps.len().saturating_sub(1));
                steps.get(index).copied().unwrap_or_default()
            }
            Self::Exponential { initial, factor, max } => {
                let factor = factor.powi(i32::try_from(index).unwrap_or(i32::MAX));
                // A product beyond a `Duration` is far beyond `max` too.
                Duration::try_from_secs_f64(initial.as_secs_f64() * factor).map_or(*max, |delay| delay.min(*max))
            }
        }
    }
}

/// Where the dead letters of a handler go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeadLetter<S> {
    /// To this subject.
    Subject(S),
    /// Nowhere: the message is terminated.
    Off,
}

/// How an ack is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ack {
    /// Written to the connection; a lost one leads to a redelivery.
    Sent,
    /// Answered by the server before the message counts as done.
    Confirmed,
}

/// The shortest `ack_wait`, of which a third is still enough for a signal to arrive; the attribute refuses a shorter one.
const SHORTEST_ACK_WAIT: Duration = Duration::from_millis(100);

/// How many deliveries the server grants, whatever the handler's own `max_deliver`.
///
/// Ours decides; the server's is the net under it for messages that cannot even be received,
/// and so large because what it ends is never delivered again: it must not be used up by deliveries that are no
/// attempts, those handed back by stopping processes and those at which a dead letter could not be stored.
const SERVER_MAX_DELIVER: u32 = 10_000;

/// How many messages of an ordered handler may be unacked; the attribute refuses an `ack_every` above it.
///
/// The one active worker holds them all, so what it may hold is what may be handled again after a crash.
/// None of them waits for a next attempt beside others, because in strict order what is behind a failed message waits.
const ORDERED_PENDING: usize = 1000;

/// The most threads of one handler; the attribute refuses more.
const MAX_THREADS: usize = 512;

impl Plan<String> {
    /// How many messages this process handles at the same time.
    pub(crate) fn concurrency(&self) -> usize {
        match self.ordered {
            true => 1,
            false => self.threads.or(self.concurrency).unwrap_or(1),
        }
    }

    /// How many messages of an ordered handler one ack is for.
    pub(crate) fn ack_every(&self) -> usize {
        self.ack_every.unwrap_or(100)
    }

    /// Whether each call has a thread of its own, beside those of the runtime.
    pub(crate) fn is_blocking(&self) -> bool {
        self.blocking || self.threads.is_some()
    }

    /// Whether the server chooses the one replica that gets the messages.
    pub(crate) fn is_pinned(&self) -> bool {
        self.ordered && self.replicas != Some(1)
    }

    pub(crate) fn ack_wait(&self) -> Duration {
        self.ack_wait.unwrap_or(Duration::from_secs(30)).clamp(SHORTEST_ACK_WAIT, LONGEST)
    }

    /// How long one call may take; without a limit a handler that hangs would hold its message for ever.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout.unwrap_or(Duration::from_secs(30 * 60)).min(LONGEST)
    }

    pub(crate) fn max_deliver(&self) -> u32 {
        self.max_deliver.unwrap_or(5)
    }

    pub(crate) fn server_max_deliver(&self) -> i64 {
        // The same number for most handlers, so that another `max_deliver` in the code is no difference on the server.
        i64::from(SERVER_MAX_DELIVER.max(self.max_deliver().saturating_mul(2)))
    }

    /// How many messages may be unanswered over all replicas.
    ///
    /// Messages that wait for their next attempt count too (nats-server issue 6093), so the server's 1000 would let
    /// a thousand failing messages stop the healthy ones; what a worker holds is bounded by its own requests.
    pub(crate) fn max_ack_pending(&self) -> i64 {
        const DELAYED: i64 = 10_000;
        const REPLICAS: i64 = 16;
        if self.ordered {
            return ORDERED_PENDING as i64;
        }
        DELAYED.max(self.concurrency() as i64 * REPLICAS)
    }

    /// Which settings do not go together.
    fn contradictions(&self) -> Vec<(&'static str, String)> {
        let mut found = Vec::new();
        let mut check = |is_wrong: bool, field, problem: &str| {
            if is_wrong {
                found.push((field, problem.to_owned()));
            }
        };
        let numbers = [("concurrency", self.concurrency), ("threads", self.threads), ("batch_size", self.batch_size)];
        for (field, number) in numbers {
            check(number == Some(0), field, "it is 0; accepted are numbers from 1");
        }
        let several = |number: Option<usize>| number.is_some_and(|number| number > 1);
        if self.ordered {
            let one = "an ordered handler has one message at a time over all replicas";
            let drop_one = |other| format!("{one}; drop `{other}`, or `ordered`");
            check(several(self.concurrency), "concurrency", &drop_one("concurrency"));
            check(several(self.threads), "threads", &drop_one("threads"));
            check(
                self.ack == Ack::Confirmed,
                "ack",
                "an ordered handler sends one ack for many messages, so that none of them has its own to confirm; drop `ack`, or `ordered`",
            );
            check(
                self.key.is_some(),
                "key",
                "it keeps messages of one key in order and `ordered` keeps all of them; drop one of the two",
            );
        } else {
            let of_ordered = |field| format!("it is for an ordered handler; add `ordered`, or drop `{field}`");
            check(self.ack_every.is_some(), "ack_every", &of_ordered("ack_every"));
            check(self.replicas.is_some(), "replicas", &of_ordered("replicas"));
        }
        let ack_every = self.ack_every();
        check(
            !(1..=ORDERED_PENDING).contains(&ack_every),
            "ack_every",
            &format!("it is {ack_every}; accepted are 1 to {ORDERED_PENDING}, as many as a worker may hold unacked"),
        );
        check(
            self.replicas.is_some_and(|replicas| replicas != 1),
            "replicas",
            "accepted is 1, which says that there is never more than one process; leave it out where there may be more",
        );
        check(
            self.threads.is_some() && self.concurrency.is_some(),
            "concurrency",
            "`threads` is the concurrency of a blocking handler; drop one of the two",
        );
        let threads = self.concurrency();
        check(
            self.is_blocking() && threads > MAX_THREADS,
            "concurrency",
            &format!(
                "it is {threads}, and a blocking handler has a thread for each call; accepted are 1 to {MAX_THREADS}"
            ),
        );
        found
    }

    /// The delay before the next attempt, when `attempt` (from 1) has failed.
    pub(crate) fn delay_after(&self, attempt: u64) -> Duration {
        const DEFAULT: Backoff = Backoff::Steps(Cow::Borrowed(&[
            Duration::from_secs(1),
            Duration::from_secs(5),
            Duration::from_secs(30),
            Duration::from_secs(120),
        ]));
        self.backoff.as_ref().unwrap_or(&DEFAULT).after(attempt)
    }

    /// The plan of a closure: every key but these two at its default.
    pub(crate) fn new(subject: &str, queue: &str) -> Self {
        Plan {
            subject: subject.to_owned(),
            queue: queue.to_owned(),
            stream: None,
            concurrency: None,
            blocking: false,
            threads: None,
            batch_size: None,
            ack_wait: None,
            timeout: None,
            max_deliver: None,
            backoff: None,
            dead_letter: None,
            key: None,
            ordered: false,
            ack_every: None,
            replicas: None,
            publish: None,
            codec: None,
            ack: Ack::Sent,
            group: None,
        }
    }
}

impl StaticPlan {
    fn to_owned(&self) -> Plan<String> {
        let owned = |text: Option<&'static str>| text.map(str::to_owned);
        Plan {
            subject: self.subject.to_owned(),
            queue: self.queue.to_owned(),
            stream: owned(self.stream),
            concurrency: self.concurrency,
            blocking: self.blocking,
            threads: self.threads,
            batch_size: self.batch_size,
            ack_wait: self.ack_wait,
            timeout: self.timeout,
            max_deliver: self.max_deliver,
            backoff: self.backoff.clone(),
            dead_letter: self.dead_letter.as_ref().map(|target| match target {
                DeadLetter::Subject(subject) => DeadLetter::Subject((*subject).to_owned()),
                DeadLetter::Off => DeadLetter::Off,
            }),
            key: owned(self.key),
            ordered: self.ordered,
            ack_every: self.ack_every,
            replicas: self.replicas,
            publish: owned(self.publish),
            codec: owned(self.codec),
            ack: self.ack,
            group: owned(self.group),
        }
    }
}

/// One annotated function, as the attribute registers it at link time.
#[derive(Debug)]
#[allow(missing_docs)] // written by the attribute alone
pub struct Registration {
    pub name: &'static str,
    pub location: &'static str,
    pub plan: StaticPlan,
    pub call: fn(&mut Slot, &Message, &Context),
    pub check: fn(&Context, &mut Problems),
}

/// The entry of the link-time collection.
#[derive(Debug)]
pub struct Entry(pub &'static Registration);

inventory::collect!(Entry);

/// A name that stands for an annotated function, in [`Broker::include`](crate::Broker::include).
///
/// The attribute implements it for the type that it puts beside the function.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a handler",
    label = "has no `#[subscriber(..)]`",
    note = "name a function that is annotated with `#[subscriber(subject = \"..\", queue = \"..\")]`"
)]
pub trait Subscriber {
    #[doc(hidden)]
    fn registration() -> &'static Registration;
}

/// The room in which a handler's future runs, used again for each message so that a call allocates nothing.
pub struct Slot(ReusableBoxFuture<'static, Outcome>);

impl Slot {
    pub(crate) fn new() -> Self {
        Self(ReusableBoxFuture::new(std::future::pending()))
    }

    /// Puts the future of one call into the slot.
    pub fn run(&mut self, call: impl Future<Output = Outcome> + Send + 'static) {
        self.0.set(call);
    }

    /// Drops the future of a call that will not be awaited to its end.
    pub(crate) fn clear(&mut self) {
        self.0.set(std::future::pending());
    }

    /// Polls the call; after its outcome it is over.
    pub(crate) fn poll(&mut self, task: &mut std::task::Context<'_>) -> Poll<Outcome> {
        self.0.poll(task)
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Slot")
    }
}

type Call = dyn Fn(&mut Slot, &Message, &Context) + Send + Sync;
type Check = dyn Fn(&Context, &mut Problems) + Send + Sync;

/// A handler: what it was declared with, and how to call it.
#[derive(Clone)]
pub(crate) struct Handler {
    pub(crate) name: String,
    pub(crate) closure: bool,
    pub(crate) location: String,
    pub(crate) plan: Plan<String>,
    pub(crate) call: Arc<Call>,
    pub(crate) check: Arc<Check>,
}

impl fmt::Debug for Handler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handler").field("name", &self.name).field("plan", &self.plan).finish_non_exhaustive()
    }
}

impl Handler {
    pub(crate) fn registered(registration: &'static Registration) -> Self {
        Self {
            name: registration.name.to_owned(),
            closure: false,
            location: registration.location.to_owned(),
            plan: registration.plan.to_owned(),
            call: Arc::new(registration.call),
            check: Arc::new(registration.check),
        }
    }

    pub(crate) fn closure<H, Arguments: 'static>(plan: Plan<String>, location: String, handler: H) -> Self
    where
        H: Closure<Arguments>,
    {
        Self {
            name: format!("closure on {}", plan.subject),
            closure: true,
            location,
            plan,
            call: Arc::new(move |slot, message, context| handler.call(slot, message, context)),
            check: Arc::new(H::check),
        }
    }

    /// Whether it is the same function; two in different function bodies may have one name.
    pub(crate) fn is(&self, other: &Self) -> bool {
        self.name == other.name && self.location == other.location
    }

    /// Every handler that the program was linked with, by name.
    pub(crate) fn all() -> Vec<Self> {
        let mut all: Vec<_> = inventory::iter::<Entry>().map(|entry| Self::registered(entry.0)).collect();
        all.sort_by(|one, other| one.name.cmp(&other.name));
        all
    }

    /// What is wrong with the settings; the attribute has checked its own, a closure's come here first.
    pub(crate) fn problems(&self) -> Vec<Error> {
        let plan = &self.plan;
        let mut found = Vec::new();
        let mut check = |field: &str, problem: Option<String>| {
            if let Some(problem) = problem {
                found.push(Error::new(ErrorKind::Config, format!("`{}`: {field}: {problem}", self.name)));
            }
        };
        check("subject", names::subject_problem(&plan.subject));
        check("queue", names::name_problem(&plan.queue));
        check("stream", plan.stream.as_deref().and_then(names::name_problem));
        if let Some(DeadLetter::Subject(subject)) = &plan.dead_letter {
            check("dead_letter", names::publish_subject_problem(subject));
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
        candidates.extend(all.iter().filter(|handler| handler.plan.group.as_deref() == Some(group)).cloned());
        if candidates.len() == before {
            let known: BTreeSet<_> = all.iter().filter_map(|handler| handler.plan.group.as_deref()).collect();
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

/// What is wrong with handlers as a set: two of them on one durable consumer.
pub(crate) fn clashes(subscriptions: &[Handler]) -> Vec<Error> {
    let mut found = Vec::new();
    for (index, one) in subscriptions.iter().enumerate() {
        for other in &subscriptions[index + 1..] {
            // Durables belong to a stream; where a handler names none, the subject decides, and provisioning checks again.
            let same_stream = match (&one.plan.stream, &other.plan.stream) {
                (Some(one), Some(other)) => one == other,
                _ => pattern::overlap(&one.plan.subject, &other.plan.subject),
            };
            if one.plan.queue == other.plan.queue && same_stream {
                found.push(clash(one, other));
            }
        }
    }
    found
}

pub(crate) fn clash(one: &Handler, other: &Handler) -> Error {
    let queue = &one.plan.queue;
    let differing: BTreeSet<_> = [
        ("subject", one.plan.subject != other.plan.subject),
        ("concurrency", one.plan.concurrency() != other.plan.concurrency()),
        ("ordered", one.plan.ordered != other.plan.ordered),
        ("ack_wait", one.plan.ack_wait != other.plan.ack_wait),
        ("max_deliver", one.plan.max_deliver != other.plan.max_deliver),
    ]
    .into_iter()
    .filter_map(|(field, differs)| differs.then_some(field))
    .collect();
    let how = match differing.is_empty() {
        true => "each message would reach only one of them".to_owned(),
        false => format!("and with a different {}", differing.into_iter().collect::<Vec<_>>().join(", ")),
    };
    Error::new(
        ErrorKind::Config,
        format!(
            "`{}` ({}) and `{}` ({}) both read the durable consumer `{queue}`, {how}; give each a `queue` of its own",
            one.name, one.location, other.name, other.location
        ),
    )
}

/// A closure that [`Broker::subscribe`](crate::Broker::subscribe) takes as a handler.
///
/// It is implemented for every closure of up to eight parameters that an annotated function could have as well,
/// as long as none of them borrows from the message.
/// It returns `()`, [`Settle`] or a [`HandlerResult`], and no other `Result`:
/// so the compiler knows the error of a plain `Ok(())` and of every `?`.
#[diagnostic::on_unimplemented(
    message = "this closure is not a handler",
    label = "not a handler",
    note = "write `|order: OrderCreated| async move {{ Ok(()) }}`: each parameter a payload or something to extract, the result `()`, `HandlerResult` or `Settle`"
)]
pub trait Closure<Arguments>: Send + Sync + 'static {
    #[doc(hidden)]
    fn call(&self, slot: &mut Slot, message: &Message, context: &Context);

    #[doc(hidden)]
    fn check(context: &Context, problems: &mut Problems);
}

/// What a closure returns; that there is one `Result` among them lets its error be inferred.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not say how a message ends",
    label = "not a result of a closure",
    note = "return `()`, `Settle` or a `HandlerResult`; the `?` operator makes a `HandlerError` of any error"
)]
pub trait ClosureResult: IntoSettle {}

impl ClosureResult for () {}
impl ClosureResult for Settle {}
impl ClosureResult for HandlerResult {}

macro_rules! closure {
    ($($argument:ident $via:ident),*) => {
        #[allow(non_snake_case, unused_variables)]
        impl<F, Answer, $($argument, $via),*> Closure<($(($argument, $via),)*)> for F
        where
            F: Fn($($argument),*) -> Answer + Send + Sync + 'static,
            Answer: Future<Output: ClosureResult> + Send + 'static,
            $($argument: for<'m> Argument<'m, $via> + Send + 'static,)*
        {
            fn call(&self, slot: &mut Slot, message: &Message, context: &Context) {
                $(
                    let $argument = match $argument::extract(message, context) {
                        Ok(argument) => argument,
                        Err(rejection) => return slot.run(std::future::ready(crate::__private::rejected(rejection))),
                    };
                )*
                slot.run(self($($argument),*).map(IntoSettle::into_outcome));
            }

            fn check(context: &Context, problems: &mut Problems) {
                $(crate::__private::check::<$argument, $via>(context, problems);)*
            }
        }
    };
}

closure!();
closure!(A ViaA);
closure!(A ViaA, B ViaB);
closure!(A ViaA, B ViaB, C ViaC);
closure!(A ViaA, B ViaB, C ViaC, D ViaD);
closure!(A ViaA, B ViaB, C ViaC, D ViaD, E ViaE);
closure!(A ViaA, B ViaB, C ViaC, D ViaD, E ViaE, G ViaG);
closure!(A ViaA, B ViaB, C ViaC, D ViaD, E ViaE, G ViaG, H ViaH);
closure!(A ViaA, B ViaB, C ViaC, D ViaD, E ViaE, G ViaG, H ViaH, I ViaI);

#[cfg(test)]
mod tests {
    use super::*;

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
        handler.problems().iter().map(Error::to_string).collect()
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

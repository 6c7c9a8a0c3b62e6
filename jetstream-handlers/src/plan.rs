//! The declaration of a handler: the keys of the attribute, and their defaults.

use std::borrow::Cow;
use std::time::Duration;

use crate::backoff::MAX_DURATION;

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
    pub(crate) fn after(&self, attempt: u64) -> Duration {
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
pub(crate) const SHORTEST_ACK_WAIT: Duration = Duration::from_millis(100);

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
        self.ack_wait.unwrap_or(Duration::from_secs(30)).clamp(SHORTEST_ACK_WAIT, MAX_DURATION)
    }

    /// How long one call may take; without a limit a handler that hangs would hold its message for ever.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout.unwrap_or(Duration::from_secs(30 * 60)).min(MAX_DURATION)
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
    pub(crate) fn contradictions(&self) -> Vec<(&'static str, String)> {
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
    pub(crate) fn to_owned(&self) -> Plan<String> {
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

/// A handler as it was declared: its name, its place in the source, and its settings.
#[derive(Debug, Clone)]
pub(crate) struct Declaration {
    /// The full path of the function, or the name of the closure.
    pub(crate) name: String,
    pub(crate) is_closure: bool,
    /// File, line and column of the declaration.
    pub(crate) location: String,
    pub(crate) plan: Plan<String>,
}

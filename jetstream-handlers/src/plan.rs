//! The declaration of a handler: the keys of the attribute, and their defaults.

use std::borrow::Cow;
use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::backoff::max_jittered;
use crate::codec::DefaultCodec;
use crate::key::Key;
use crate::pattern::{filter, has_token, is_token_of, tokens};
use crate::prefix::Prefix;
use crate::rules::{self, MAX_DURATION, Setting};
use crate::variable::{self, Variable};

/// The settings of a handler: the keys of the attribute, without defaults.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)] // the fields are the keys of the attribute, documented there
pub struct Plan {
    pub subject: Subjects,
    pub queue: Cow<'static, str>,
    pub stream: Option<Cow<'static, str>>,
    pub concurrency: Option<usize>,
    pub blocking: bool,
    pub threads: Option<usize>,
    pub batch_size: Option<usize>,
    pub ack_wait: Option<Duration>,
    pub timeout: Option<Duration>,
    pub max_deliver: Option<u32>,
    pub backoff: Option<Backoff>,
    pub dead_letter: Option<DeadLetter>,
    pub ordered: bool,
    pub ack_every: Option<usize>,
    pub single_instance: bool,
    pub key: Option<Key>,
    pub partitions: Option<u32>,
    pub ack: Ack,
    pub group: Option<Cow<'static, str>>,
    pub broker: Option<Cow<'static, str>>,
    pub deliver: Deliver,
    pub manage: Option<Manage>,
    pub publish: Option<Cow<'static, str>>,
    pub batch: Option<usize>,
    pub batch_wait: Option<Duration>,
    pub batch_bytes: Option<usize>,
    pub on_batch_error: OnBatchError,
    /// The format of the event that the key `event` names.
    pub event_codec: Option<DefaultCodec>,
    /// The keys whose value in the environment cannot be used, each with its problem.
    pub unreadable: Vec<(&'static str, String)>,
}

/// The subjects of a handler, which may have wildcards and placeholders; usually one.
///
/// # Examples
///
/// ```
/// use jetstream_handlers::prelude::*;
///
/// # async fn start(broker: Broker) -> Result<(), jetstream_handlers::Error> {
/// let handler = |id: u64, subject: Subject| async move { println!("{subject}: {id}") };
/// let subscription = broker.subscribe(["orders.created", "orders.paid"], "audit", handler).await?;
/// # drop(subscription);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subjects(Vec<Cow<'static, str>>);

impl Subjects {
    /// Returns the subjects as they were declared.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &str> + Clone {
        self.0.iter().map(|subject| &**subject)
    }

    /// Returns the patterns by which the server selects messages: the subjects with wildcards in place of placeholders.
    pub(crate) fn filters(&self) -> impl Iterator<Item = Cow<'_, str>> + Clone {
        self.iter().map(filter)
    }

    /// Returns `true` if a subject has a place for the number of a partition.
    fn have_partition(&self) -> bool {
        self.iter().any(|subject| has_token(subject, rules::PARTITION))
    }

    /// Returns the subjects with the number of a partition in place of `{partition}`.
    pub(crate) fn in_partition(&self, number: u32) -> Self {
        let number = number.to_string();
        let of = |subject: &str| {
            let is_place = |token| is_token_of(token, rules::PARTITION);
            let tokens = tokens(subject).map(|token| if is_place(token) { &*number } else { token });
            Cow::Owned(tokens.collect::<Vec<_>>().join("."))
        };
        Self(self.iter().map(of).collect())
    }

    fn setting(&self) -> Setting<'_> {
        match &*self.0 {
            [subject] => text(subject),
            subjects => Setting::Texts(subjects.iter().map(|subject| Cow::Borrowed(&**subject)).collect()),
        }
    }
}

impl fmt::Display for Subjects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(", "))
    }
}

impl From<&str> for Subjects {
    fn from(subject: &str) -> Self {
        subject.to_owned().into()
    }
}

impl From<&String> for Subjects {
    fn from(subject: &String) -> Self {
        subject.clone().into()
    }
}

impl From<&[&str]> for Subjects {
    fn from(subjects: &[&str]) -> Self {
        Self(subjects.iter().map(|subject| (*subject).to_owned().into()).collect())
    }
}

impl From<String> for Subjects {
    fn from(subject: String) -> Self {
        Self(vec![subject.into()])
    }
}

impl<S: Into<String>, const N: usize> From<[S; N]> for Subjects {
    fn from(subjects: [S; N]) -> Self {
        Self(subjects.into_iter().map(|subject| subject.into().into()).collect())
    }
}

impl<S: Into<String>> From<Vec<S>> for Subjects {
    fn from(subjects: Vec<S>) -> Self {
        Self(subjects.into_iter().map(|subject| subject.into().into()).collect())
    }
}

/// The delays between the attempts of a message.
#[derive(Debug, Clone, PartialEq)]
pub enum Backoff {
    /// These delays in order; the last one repeats.
    Steps(Cow<'static, [Duration]>),
    /// A delay that starts at `initial` and is multiplied by `factor` after each attempt, up to `max`.
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
                // A product that is too large for a `Duration` is above `max` as well.
                Duration::try_from_secs_f64(initial.as_secs_f64() * factor).map_or(*max, |delay| delay.min(*max))
            }
        }
    }
}

/// The destination of the dead letters of a handler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeadLetter {
    /// This subject.
    Subject(Cow<'static, str>),
    /// None: the message is terminated without a copy.
    Off,
}

/// The treatment of a batch whose call has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnBatchError {
    /// All of them have failed.
    Fail,
    /// The handler is called with each half, until the element that fails is alone.
    Split,
}

/// The way in which an ack is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ack {
    /// Written to the connection; a lost ack leads to a redelivery.
    Sent,
    /// Confirmed by the server before the message counts as done.
    Confirmed,
}

/// The first message that a consumer delivers, which matters only when the consumer is created.
///
/// An existing consumer keeps its position, whatever it was created with.
///
/// # Examples
///
/// ```no_run
/// use std::time::{Duration, SystemTime};
///
/// use jetstream_handlers::{Deliver, prelude::*};
///
/// # async fn start(broker: Broker) -> Result<(), jetstream_handlers::Error> {
/// let an_hour_ago = SystemTime::now() - Duration::from_secs(3600);
/// let subscription = broker
///     .subscribe("orders.created", "statistics", |id: u64| async move { println!("order {id}") })
///     .deliver(Deliver::FromTime(an_hour_ago))
///     .await?;
/// # drop(subscription);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Deliver {
    /// The first message in the stream.
    #[default]
    All,
    /// The first message that is stored after the consumer was created.
    New,
    /// The last message with the handler's subject that is in the stream.
    Last,
    /// The last message of each subject that the handler's subject matches, as for a key-value bucket; then what is
    /// stored after them.
    LastPerSubject,
    /// The first message with this sequence or a later one, from 1.
    FromSequence(u64),
    /// The first message that was stored at this time or later; the time must be before the year 2262.
    FromTime(SystemTime),
}

impl fmt::Display for Deliver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::New => f.write_str("new"),
            Self::Last => f.write_str("last"),
            Self::LastPerSubject => f.write_str("last_per_subject"),
            Self::FromSequence(sequence) => write!(f, "from sequence {sequence}"),
            Self::FromTime(time) => {
                let time = OffsetDateTime::from((*time).max(UNIX_EPOCH)).format(&Rfc3339);
                write!(f, "from {}", time.unwrap_or_default())
            }
        }
    }
}

impl Deliver {
    /// Returns the setting, for the rules; `None` for the default.
    fn setting(self) -> Option<Setting<'static>> {
        Some(match self {
            Self::All => return None,
            Self::New => text("new"),
            Self::Last => text("last"),
            Self::LastPerSubject => text("last_per_subject"),
            Self::FromSequence(sequence) => Setting::Number(sequence),
            Self::FromTime(time) => Setting::Duration(time.duration_since(UNIX_EPOCH).unwrap_or_default()),
        })
    }
}

/// The streams and consumers that a start may create and change.
///
/// # Examples
///
/// ```
/// use jetstream_handlers::{Broker, Manage};
///
/// // Terraform owns the streams and consumers, and the service has no right to create any.
/// let builder = Broker::builder().manage(Manage::Bind);
/// # drop(builder);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Manage {
    /// Creates what is missing, and refuses to start if something differs from the code.
    #[default]
    Create,
    /// Creates and changes nothing: what is missing is a problem, whose text has the command that creates it.
    ///
    /// A consumer that is deleted while its handler runs is not created again either.
    Bind,
    /// Creates what is missing, and updates the fields that the server can change in the consumers of handlers and in
    /// the declared streams.
    ///
    /// A start never deletes a consumer to create it with other settings; [`Broker::apply`](crate::Broker::apply) does.
    Update,
}

impl Manage {
    /// Returns the value of the key `manage`.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Bind => "bind",
            Self::Update => "update",
        }
    }
}

/// The minimum `max_deliver` of a consumer on the server.
///
/// The worker applies the handler's `max_deliver`; that of the server is a backstop for messages that cannot even be
/// received. It is large because the server never redelivers a message that has reached it, and because it also counts
/// deliveries that are not attempts: those handed back by stopping processes, and those whose dead letter could not be
/// stored.
const SERVER_MAX_DELIVER: u32 = 10_000;

impl Plan {
    /// Returns a plan with every key but these two at its default.
    pub fn new(subject: impl Into<Subjects>, queue: impl Into<Cow<'static, str>>) -> Self {
        Self {
            subject: subject.into(),
            queue: queue.into(),
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
            ordered: false,
            ack_every: None,
            single_instance: false,
            key: None,
            partitions: None,
            ack: Ack::Sent,
            group: None,
            broker: None,
            deliver: Deliver::All,
            manage: None,
            publish: None,
            batch: None,
            batch_wait: None,
            batch_bytes: None,
            on_batch_error: OnBatchError::Fail,
            event_codec: None,
            unreadable: Vec::new(),
        }
    }

    /// Sets a key to the value of an environment variable, or to `default` if it is not set.
    #[must_use]
    pub fn with_variable(mut self, key: &'static str, variable: &'static str, default: Option<&'static str>) -> Self {
        if let Err(problem) =
            variable::read(Variable { key, variable, default }).and_then(|setting| self.set(key, setting))
        {
            self.unreadable.push((key, problem));
        }
        self
    }

    /// Sets a key that may come from the environment: a text, a number, a duration or a list of durations.
    fn set(&mut self, key: &str, setting: Setting<'static>) -> Result<(), String> {
        match (key, setting) {
            ("subject", Setting::Text(subject)) => self.subject = Subjects::from(subject.into_owned()),
            ("queue", Setting::Text(queue)) => self.queue = queue,
            ("stream", Setting::Text(stream)) => self.stream = Some(stream),
            ("group", Setting::Text(group)) => self.group = Some(group),
            ("broker", Setting::Text(broker)) => self.broker = Some(broker),
            ("publish", Setting::Text(subject)) => self.publish = Some(subject),
            ("concurrency", Setting::Number(calls)) => self.concurrency = Some(calls as usize),
            ("threads", Setting::Number(threads)) => self.threads = Some(threads as usize),
            ("batch_size", Setting::Number(messages)) => self.batch_size = Some(messages as usize),
            ("batch", Setting::Number(messages)) => self.batch = Some(messages as usize),
            ("batch_bytes", Setting::Number(bytes)) => self.batch_bytes = Some(bytes as usize),
            ("batch_wait", Setting::Duration(wait)) => self.batch_wait = Some(wait),
            ("max_deliver", Setting::Number(attempts)) => self.max_deliver = Some(attempts as u32),
            ("ack_every", Setting::Number(messages)) => self.ack_every = Some(messages as usize),
            ("ack_wait", Setting::Duration(wait)) => self.ack_wait = Some(wait),
            ("backoff", Setting::Steps(steps)) => self.backoff = Some(Backoff::Steps(steps)),
            ("timeout", Setting::Duration(timeout)) => self.timeout = Some(timeout),
            _ => return Err(format!("`{key}` cannot be read from the environment")),
        }
        Ok(())
    }

    /// Adds the prefix of an environment to the subjects and the streams.
    pub(crate) fn add_prefix(&mut self, prefix: &Prefix) {
        for subject in &mut self.subject.0 {
            *subject = Cow::Owned(prefix.subject(subject).into_owned());
        }
        self.stream = self.stream.as_deref().map(|stream| Cow::Owned(prefix.stream(stream).into_owned()));
        self.publish = self.publish.as_deref().map(|subject| Cow::Owned(prefix.subject(subject).into_owned()));
        if let Some(DeadLetter::Subject(subject)) = &mut self.dead_letter {
            *subject = Cow::Owned(prefix.subject(subject).into_owned());
        }
    }

    /// Returns the keys that are set, for the rules.
    pub(crate) fn settings(&self) -> Vec<(&'static str, Setting<'_>)> {
        // Without `..`, so that a new field cannot be left out.
        let Self {
            subject,
            queue,
            stream,
            concurrency,
            blocking,
            threads,
            batch_size,
            ack_wait,
            timeout,
            max_deliver,
            backoff,
            dead_letter,
            ordered,
            ack_every,
            single_instance,
            key,
            partitions,
            ack,
            group,
            broker,
            deliver,
            manage,
            publish,
            batch,
            batch_wait,
            batch_bytes,
            on_batch_error,
            event_codec: _,
            unreadable,
        } = self;
        let settings = [
            ("subject", Some(subject.setting())),
            ("queue", Some(text(queue))),
            ("stream", stream.as_deref().map(text)),
            ("concurrency", concurrency.map(number)),
            ("blocking", flag(*blocking)),
            ("threads", threads.map(number)),
            ("batch_size", batch_size.map(number)),
            ("ack_wait", ack_wait.map(Setting::Duration)),
            ("timeout", timeout.map(Setting::Duration)),
            ("max_deliver", max_deliver.map(|attempts| Setting::Number(attempts.into()))),
            ("backoff", backoff.as_ref().map(delays)),
            ("dead_letter", dead_letter.as_ref().map(destination)),
            ("ordered", flag(*ordered)),
            ("ack_every", ack_every.map(number)),
            ("single_instance", flag(*single_instance)),
            ("key", key.as_ref().map(Key::setting)),
            ("partitions", partitions.map(|partitions| Setting::Number(partitions.into()))),
            ("ack", (*ack == Ack::Confirmed).then(|| text("confirmed"))),
            ("group", group.as_deref().map(text)),
            ("broker", broker.as_deref().map(text)),
            ("deliver", deliver.setting()),
            ("manage", manage.map(|manage| text(manage.as_str()))),
            ("publish", publish.as_deref().map(text)),
            ("batch", batch.map(number)),
            ("batch_wait", batch_wait.map(Setting::Duration)),
            ("batch_bytes", batch_bytes.map(number)),
            ("on_batch_error", (*on_batch_error == OnBatchError::Split).then(|| text("split"))),
        ];
        let is_readable = |key: &str| !unreadable.iter().any(|(unreadable, _)| *unreadable == key);
        let set = settings.into_iter().filter_map(|(key, setting)| Some((key, setting?)));
        set.filter(|(key, _)| is_readable(key)).collect()
    }

    /// Returns the maximum number of calls that run at the same time in this process.
    pub(crate) fn concurrency(&self) -> usize {
        if self.ordered { 1 } else { self.threads.or(self.concurrency).unwrap_or(1) }
    }

    /// Returns the maximum number of messages of one call.
    pub(crate) fn messages_per_call(&self) -> usize {
        self.batch.unwrap_or(1)
    }

    /// Returns the maximum number of messages that this process handles at the same time.
    pub(crate) fn in_flight(&self) -> usize {
        self.concurrency() * self.messages_per_call()
    }

    /// Returns the time for which a batch is filled after its first message has arrived.
    pub(crate) fn batch_wait(&self) -> Duration {
        let longest = self.ack_wait() / rules::BATCH_WAITS_PER_ACK_WAIT;
        self.batch_wait.unwrap_or(Duration::from_millis(500)).min(longest)
    }

    /// Returns the maximum number of messages of an ordered handler that one ack covers.
    pub(crate) fn ack_every(&self) -> usize {
        self.ack_every.unwrap_or(100)
    }

    /// Returns `true` if each call runs on a thread outside of the runtime.
    pub(crate) fn is_blocking(&self) -> bool {
        self.blocking || self.threads.is_some()
    }

    /// Returns `true` if the server adds the number of the partition in a derived stream, because the subjects have no place
    /// for it.
    pub(crate) fn is_derived(&self) -> bool {
        self.partitions.is_some() && !self.subject.have_partition()
    }

    /// Returns `true` if the server chooses the one instance that receives the messages.
    pub(crate) fn is_pinned(&self) -> bool {
        (self.ordered || self.key.is_some()) && !self.single_instance
    }

    pub(crate) fn ack_wait(&self) -> Duration {
        self.ack_wait.unwrap_or(rules::DEFAULT_ACK_WAIT).min(MAX_DURATION)
    }

    /// Returns the timeout of one call; there is always one, because a handler that hangs would keep its message
    /// forever.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout.unwrap_or(Duration::from_secs(30 * 60)).min(MAX_DURATION)
    }

    pub(crate) fn max_deliver(&self) -> u32 {
        self.max_deliver.unwrap_or(5)
    }

    pub(crate) fn server_max_deliver(&self) -> i64 {
        // Equal for most handlers, so that a consumer does not differ after the handler's `max_deliver` was changed.
        i64::from(SERVER_MAX_DELIVER.max(self.max_deliver().saturating_mul(2)))
    }

    /// Returns the maximum number of unacknowledged messages across all instances.
    ///
    /// Messages that wait for their next attempt count as well (nats-server issue 6093), so with the server's default
    /// of 1000, a thousand failing messages would block all others.
    /// The limit of an ordered handler is lower: it retries a message before it handles the next one, and after a crash
    /// of its active instance every unacknowledged message is handled again.
    pub(crate) fn max_ack_pending(&self) -> i64 {
        const DELAYED: i64 = 10_000;
        const INSTANCES: i64 = 16;
        if self.ordered {
            return rules::MAX_ACK_EVERY as i64;
        }
        DELAYED.max(self.in_flight() as i64 * INSTANCES)
    }

    /// Returns the longest time from the first attempt of a message to its last one, if each fails as soon as possible:
    /// the delays between them, and one `ack_wait`, after which a crashed process is noticed.
    pub(crate) fn retry_span(&self) -> Duration {
        // Beyond that, one more attempt makes no difference.
        const MAX_ATTEMPTS: u64 = 1000;
        let attempts = u64::from(self.max_deliver()).min(MAX_ATTEMPTS);
        let delays = (1..attempts).map(|attempt| max_jittered(self.delay_after(attempt).min(MAX_DURATION)));
        delays.fold(self.ack_wait(), Duration::saturating_add).min(MAX_DURATION)
    }

    /// Returns the delay before the next attempt after `attempt`, counted from 1, has failed.
    pub(crate) fn delay_after(&self, attempt: u64) -> Duration {
        const DEFAULT: Backoff = Backoff::Steps(Cow::Borrowed(&[
            Duration::from_secs(1),
            Duration::from_secs(5),
            Duration::from_secs(30),
            Duration::from_secs(120),
        ]));
        self.backoff.as_ref().unwrap_or(&DEFAULT).after(attempt)
    }
}

fn text(text: &str) -> Setting<'_> {
    Setting::Text(text.into())
}

fn number(number: usize) -> Setting<'static> {
    Setting::Number(number as u64)
}

fn flag(is_on: bool) -> Option<Setting<'static>> {
    is_on.then_some(Setting::Flag(true))
}

fn delays(backoff: &Backoff) -> Setting<'_> {
    match backoff {
        Backoff::Steps(steps) => Setting::Steps(Cow::Borrowed(steps)),
        Backoff::Exponential { initial, factor, max } => {
            Setting::Exponential { initial: *initial, factor: *factor, max: *max }
        }
    }
}

fn destination(dead_letter: &DeadLetter) -> Setting<'_> {
    match dead_letter {
        DeadLetter::Subject(subject) => text(subject),
        DeadLetter::Off => Setting::Off,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_name_every_key() {
        let plan = Plan {
            stream: Some("ORDERS".into()),
            concurrency: Some(1),
            blocking: true,
            threads: Some(1),
            batch_size: Some(1),
            ack_wait: Some(Duration::from_secs(1)),
            timeout: Some(Duration::from_secs(1)),
            max_deliver: Some(1),
            backoff: Some(Backoff::Steps(Cow::Borrowed(&[]))),
            dead_letter: Some(DeadLetter::Off),
            ordered: true,
            ack_every: Some(1),
            single_instance: true,
            key: Some(Key::field("customer")),
            partitions: Some(12),
            ack: Ack::Confirmed,
            group: Some("billing".into()),
            broker: Some("eu".into()),
            deliver: Deliver::LastPerSubject,
            manage: Some(Manage::Bind),
            publish: Some("orders.billed".into()),
            batch: Some(1),
            batch_wait: Some(Duration::from_millis(1)),
            batch_bytes: Some(1),
            on_batch_error: OnBatchError::Split,
            ..Plan::new("orders.created", "billing")
        };
        let set: Vec<_> = plan.settings().into_iter().map(|(key, _)| key).collect();
        // The subjects of an event are those of the plan, and a layer is part of the registration.
        let keys = rules::KEYS.iter().map(|key| key.name).filter(|key| !["event", "layer"].contains(key));
        let keys: Vec<_> = keys.collect();
        assert_eq!(set, keys);
    }

    #[test]
    fn last_step_of_backoff_repeats() {
        let plan = Plan::new("a", "b");
        let delays: Vec<_> = (1..=6).map(|attempt| plan.delay_after(attempt).as_secs()).collect();
        assert_eq!(delays, [1, 5, 30, 120, 120, 120]);
    }

    #[test]
    fn retry_span_has_every_delay_with_its_jitter() {
        let mut plan = Plan::new("a", "b");
        assert_eq!(plan.retry_span(), Duration::from_millis(156_000 * 12 / 10) + Duration::from_secs(30));
        (plan.max_deliver, plan.ack_wait) = (Some(1), Some(Duration::from_secs(2)));
        assert_eq!(plan.retry_span(), Duration::from_secs(2));
        plan.max_deliver = Some(1_000_000);
        assert!(plan.retry_span() <= MAX_DURATION);
    }

    #[test]
    fn exponential_backoff_stops_at_its_maximum() {
        let (initial, max) = (Duration::from_secs(1), Duration::from_secs(120));
        let backoff = Backoff::Exponential { initial, factor: 2.0, max };
        let delays: Vec<_> =
            [1, 2, 3, 7, 8, 9, u64::MAX].into_iter().map(|attempt| backoff.after(attempt).as_secs()).collect();
        assert_eq!(delays, [1, 2, 4, 64, 120, 120, 120]);
    }

    #[test]
    fn ordered_handler_has_one_message_at_a_time() {
        let mut plan = Plan { ordered: true, single_instance: true, ..Plan::new("a", "b") };
        assert_eq!((plan.concurrency(), plan.ack_every(), plan.max_ack_pending()), (1, 100, 1000));
        assert!(!plan.is_pinned());
        (plan.single_instance, plan.ack_every) = (false, Some(7));
        assert!(plan.is_pinned());
        assert_eq!(plan.ack_every(), 7);
    }

    #[test]
    fn keyed_handler_has_one_active_instance_and_calls_at_the_same_time() {
        let key = Some(Key::header("Tenant"));
        let mut plan = Plan { key, concurrency: Some(8), ..Plan::new("a", "b") };
        assert_eq!((plan.concurrency(), plan.max_ack_pending()), (8, 10_000));
        assert!(plan.is_pinned());
        plan.single_instance = true;
        assert!(!plan.is_pinned());
    }

    #[test]
    fn threads_are_the_concurrency_of_a_blocking_handler() {
        assert!(!Plan::new("a", "b").is_blocking());
        let plan = Plan { threads: Some(8), ..Plan::new("a", "b") };
        assert!(plan.is_blocking());
        assert_eq!(plan.concurrency(), 8);
        let plan = Plan { blocking: true, concurrency: Some(3), ..Plan::new("a", "b") };
        assert!(plan.is_blocking());
        assert_eq!(plan.concurrency(), 3);
    }
}

//! Rules for the settings of a handler: the keys, the values that each accepts, and the keys that exclude one another.
//!
//! The library and its macro crate each contain this file, `spelling.rs`, `pattern.rs` and `duration.rs`, byte for byte:
//! the library depends on the macro crate, which therefore cannot import them, and both must accept the same settings and
//! refuse all others with the same text.
//! They use only `std`.

#![allow(dead_code)] // neither crate uses all of it

use std::borrow::Cow;
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::pattern::{Placeholder, has_token, placeholders};
use crate::spelling::{
    header_problem, key_problem, name_problem, publish_subject_problem, subject_problem, subjects_problem, visible,
};

/// One key of the attribute, which is also a setter of the closure builder and a field of the plan.
#[derive(Debug)]
pub(crate) struct Key {
    pub(crate) name: &'static str,
    /// An example for error texts, in the syntax of the attribute; empty for a flag.
    pub(crate) example: &'static str,
    pub(crate) accepts: Accepts,
}

/// The values that a key accepts.
#[derive(Debug)]
pub(crate) enum Accepts {
    /// Text for which this function returns no problem.
    Text(fn(&str) -> Option<String>),
    /// A subject to subscribe to, or a list of them.
    Subjects,
    /// The type of an event, which has the subjects.
    Event,
    /// A function that returns a layer.
    Layer,
    /// A whole number in this range.
    Number(RangeInclusive<u64>),
    /// A duration in this range.
    Duration(RangeInclusive<Duration>),
    /// A finite number of at least 1.
    Factor,
    /// `true`, `false`, or the key alone.
    Flag,
    /// One of these texts, each with the corresponding variant of the enum `of`.
    Choice { of: &'static str, variants: &'static [(&'static str, &'static str)] },
    /// A subject to publish to, or `false`.
    SubjectOrOff,
    /// A list of delays, or an exponential backoff.
    Delays,
    /// The place of the key in a message: a field of the payload, a placeholder of the subject, or a header.
    Key,
}

/// The value of one key.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Setting<'a> {
    Text(Cow<'a, str>),
    /// The name of a header.
    Header(Cow<'a, str>),
    Texts(Vec<Cow<'a, str>>),
    Number(u64),
    Duration(Duration),
    Factor(f64),
    Flag(bool),
    Off,
    Steps(Cow<'a, [Duration]>),
    Exponential {
        initial: Duration,
        factor: f64,
        max: Duration,
    },
}

/// The maximum duration: an `Instant` can be advanced by it, and its nanoseconds fit into an integer of the server.
pub(crate) const MAX_DURATION: Duration = Duration::from_secs(365 * 24 * 3600);

/// The maximum time since 1970: the server compares times as nanoseconds in 64 bits.
const MAX_TIME: Duration = Duration::from_nanos(i64::MAX as u64);

/// The minimum timeout, and the minimum delay between attempts.
const MIN_DURATION: Duration = Duration::from_millis(1);

/// The minimum `ack_wait`: a third of it must be long enough for an in-progress signal to arrive.
pub(crate) const MIN_ACK_WAIT: Duration = Duration::from_millis(100);

/// The minimum `fetch_wait`.
const MIN_FETCH_WAIT: Duration = Duration::from_millis(200);

/// The maximum number of concurrent calls of one handler in one process.
const MAX_CONCURRENCY: u64 = 10_000;

/// The maximum number of threads of one blocking handler.
const MAX_THREADS: u64 = 512;

/// The maximum number of messages that a handler requests in advance, all of which are held in memory.
const MAX_BATCH_SIZE: u64 = 10_000;

/// The maximum number of messages that a handler of batches handles at the same time.
const MAX_BATCHED: u64 = 10_000;

/// The maximum number of bytes of one batch.
const MAX_BATCH_BYTES: u64 = 1 << 30;

/// A batch is filled for at most this fraction of `ack_wait`.
pub(crate) const BATCH_WAITS_PER_ACK_WAIT: u32 = 3;

/// The `ack_wait` of a handler that does not set it.
pub(crate) const DEFAULT_ACK_WAIT: Duration = Duration::from_secs(30);

/// The maximum number of attempts of one message.
const MAX_DELIVER: u64 = 1_000_000;

/// The maximum number of messages that one ack covers, which is also the `max_ack_pending` of an ordered handler.
pub(crate) const MAX_ACK_EVERY: u64 = 1000;

/// The maximum number of partitions, each of which has a subject of its own.
const MAX_PARTITIONS: u64 = 1000;

/// The placeholder of a subject for the number of a partition.
pub(crate) const PARTITION: &str = "partition";

/// Every key of the attribute.
pub(crate) static KEYS: [Key; 29] = [
    Key { name: "subject", example: "\"orders.created\"", accepts: Accepts::Subjects },
    Key { name: "event", example: "OrderCreated", accepts: Accepts::Event },
    Key { name: "queue", example: "\"order-processor\"", accepts: Accepts::Text(name_problem) },
    Key { name: "stream", example: "\"ORDERS\"", accepts: Accepts::Text(name_problem) },
    Key { name: "concurrency", example: "4", accepts: Accepts::Number(1..=MAX_CONCURRENCY) },
    Key { name: "blocking", example: "", accepts: Accepts::Flag },
    Key { name: "threads", example: "4", accepts: Accepts::Number(1..=MAX_THREADS) },
    Key { name: "batch_size", example: "100", accepts: Accepts::Number(1..=MAX_BATCH_SIZE) },
    Key { name: "ack_wait", example: "\"30s\"", accepts: Accepts::Duration(MIN_ACK_WAIT..=MAX_DURATION) },
    Key { name: "timeout", example: "\"5m\"", accepts: Accepts::Duration(MIN_DURATION..=MAX_DURATION) },
    Key { name: "max_deliver", example: "5", accepts: Accepts::Number(1..=MAX_DELIVER) },
    Key { name: "backoff", example: "[\"1s\", \"5s\", \"30s\"]", accepts: Accepts::Delays },
    Key { name: "dead_letter", example: "\"dlq.orders\"", accepts: Accepts::SubjectOrOff },
    Key { name: "ordered", example: "", accepts: Accepts::Flag },
    Key { name: "ack_every", example: "100", accepts: Accepts::Number(1..=MAX_ACK_EVERY) },
    Key { name: "single_instance", example: "", accepts: Accepts::Flag },
    Key { name: "key", example: "\"customer\"", accepts: Accepts::Key },
    Key { name: "partitions", example: "12", accepts: Accepts::Number(1..=MAX_PARTITIONS) },
    Key { name: "ack", example: "\"confirmed\"", accepts: ACK },
    Key { name: "group", example: "\"billing\"", accepts: Accepts::Text(name_problem) },
    Key { name: "broker", example: "\"eu\"", accepts: Accepts::Text(name_problem) },
    Key { name: "layer", example: "limits::billing", accepts: Accepts::Layer },
    Key { name: "deliver", example: "\"new\"", accepts: DELIVER },
    Key { name: "manage", example: "\"bind\"", accepts: MANAGE },
    Key { name: "publish", example: "\"orders.confirmed\"", accepts: Accepts::Text(publish_subject_problem) },
    Key { name: "batch", example: "100", accepts: Accepts::Number(1..=MAX_BATCHED) },
    Key { name: "batch_wait", example: "\"500ms\"", accepts: Accepts::Duration(MIN_DURATION..=MAX_DURATION) },
    Key { name: "batch_bytes", example: "1_000_000", accepts: Accepts::Number(1..=MAX_BATCH_BYTES) },
    Key { name: "on_batch_error", example: "\"split\"", accepts: ON_BATCH_ERROR },
];

const ACK: Accepts = Accepts::Choice { of: "Ack", variants: &[("sent", "Sent"), ("confirmed", "Confirmed")] };

const DELIVER: Accepts = Accepts::Choice {
    of: "Deliver",
    variants: &[("all", "All"), ("new", "New"), ("last", "Last"), ("last_per_subject", "LastPerSubject")],
};

const MANAGE: Accepts =
    Accepts::Choice { of: "Manage", variants: &[("create", "Create"), ("bind", "Bind"), ("update", "Update")] };

const ON_BATCH_ERROR: Accepts =
    Accepts::Choice { of: "OnBatchError", variants: &[("fail", "Fail"), ("split", "Split")] };

/// The keys of an exponential backoff, `backoff = { … }`.
pub(crate) static BACKOFF_KEYS: [Key; 3] = [
    Key { name: "initial", example: "\"1s\"", accepts: Accepts::Duration(MIN_DURATION..=MAX_DURATION) },
    Key { name: "factor", example: "2", accepts: Accepts::Factor },
    Key { name: "max", example: "\"2m\"", accepts: Accepts::Duration(MIN_DURATION..=MAX_DURATION) },
];

/// The `factor` of an exponential backoff that does not set it.
pub(crate) const DEFAULT_FACTOR: f64 = 2.0;

/// Returns every problem of the settings of one handler, each with its key.
pub(crate) fn problems<'a>(settings: &[(&'static str, Setting<'a>)]) -> Vec<(&'static str, String)> {
    let mut problems = Vec::new();
    let mut valid = Vec::new();
    for (name, setting) in settings {
        let key = KEYS.iter().find(|key| key.name == *name);
        match key.and_then(|key| value_problem(key, setting)) {
            Some(problem) => problems.push((*name, problem)),
            None => valid.push((*name, setting.clone())),
        }
    }
    problems.extend(contradictions(&valid));
    problems
}

/// Returns the problem of the value of one key.
pub(crate) fn value_problem(key: &Key, setting: &Setting<'_>) -> Option<String> {
    match (&key.accepts, setting) {
        (Accepts::Text(problem), Setting::Text(text)) => problem(text),
        (Accepts::Subjects, Setting::Text(subject)) => subject_problem(subject),
        (Accepts::Subjects, Setting::Texts(subjects)) => subjects_problem(subjects),
        (Accepts::Key, Setting::Text(text)) => key_problem(text),
        (Accepts::Key, Setting::Header(name)) => header_problem(name),
        (Accepts::SubjectOrOff, Setting::Text(subject)) => publish_subject_problem(subject),
        (Accepts::Choice { variants, .. }, Setting::Text(text)) => choice_problem(key.name, variants, text),
        // A closure may also start at a sequence, or at a time since 1970.
        (Accepts::Choice { .. }, Setting::Number(0)) => {
            Some(format!("`{}` starts at sequence 0; expected at least 1, the first sequence of a stream", key.name))
        }
        (Accepts::Choice { .. }, Setting::Duration(time)) if *time > MAX_TIME => Some(format!(
            "`{}` starts at a time that the server cannot represent; expected one before the year 2262",
            key.name
        )),
        (Accepts::Number(range), Setting::Number(number)) => {
            (!range.contains(number)).then(|| out_of_range(key.name, number, range))
        }
        (Accepts::Duration(range), Setting::Duration(duration)) => duration_problem(key.name, *duration, range),
        (Accepts::Factor, Setting::Factor(factor)) => factor_problem(key.name, *factor),
        (Accepts::Delays, Setting::Steps(steps)) if steps.is_empty() => Some(format!(
            "`{0}` has no delays; add at least one, as in `{0} = {1}`, or remove it to use the default",
            key.name, key.example
        )),
        (Accepts::Delays, Setting::Steps(steps)) => steps.iter().find_map(|delay| step_problem(*delay)),
        (Accepts::Delays, Setting::Exponential { initial, factor, max }) => {
            let settings = [Setting::Duration(*initial), Setting::Factor(*factor), Setting::Duration(*max)];
            let problem = BACKOFF_KEYS.iter().zip(&settings).find_map(|(key, setting)| value_problem(key, setting));
            problem.or_else(|| exponential_problem(*initial, *max))
        }
        _ => None,
    }
}

/// Returns the problem of one delay in a list of delays.
pub(crate) fn step_problem(delay: Duration) -> Option<String> {
    let [shown, min, max] = [delay, MIN_DURATION, MAX_DURATION].map(written);
    let is_valid = (MIN_DURATION..=MAX_DURATION).contains(&delay);
    (!is_valid).then(|| format!("`backoff` has a delay of {shown}; expected {min} to {max}"))
}

/// Returns the problem of an exponential backoff whose values are valid individually.
pub(crate) fn exponential_problem(initial: Duration, max: Duration) -> Option<String> {
    (initial > max).then(|| format!("`max` is {}, shorter than `initial` ({})", written(max), written(initial)))
}

/// Returns the text for a number that is not in the range of its key.
pub(crate) fn out_of_range(name: &str, number: impl std::fmt::Display, range: &RangeInclusive<u64>) -> String {
    format!("`{name}` is {number}; expected {} to {}", range.start(), range.end())
}

/// Returns the problem of a `batch_size` for all handlers of a broker.
pub(crate) fn batch_size_problem(messages: usize) -> Option<String> {
    let range = 1..=MAX_BATCH_SIZE;
    (!range.contains(&(messages as u64))).then(|| out_of_range("batch_size", messages, &range))
}

/// Returns the problem of the number of partitions of an event.
pub(crate) fn partitions_problem(partitions: u64) -> Option<String> {
    let range = 1..=MAX_PARTITIONS;
    (!range.contains(&partitions)).then(|| out_of_range("partitions", partitions, &range))
}

/// Returns the problem of a `fetch_wait` for all handlers of a broker.
pub(crate) fn fetch_wait_problem(wait: Duration) -> Option<String> {
    duration_problem("fetch_wait", wait, &(MIN_FETCH_WAIT..=MAX_DURATION))
}

/// Returns the problem of a time limit of a broker.
pub(crate) fn timeout_problem(name: &str, timeout: Duration) -> Option<String> {
    duration_problem(name, timeout, &(MIN_DURATION..=MAX_DURATION))
}

fn duration_problem(name: &str, duration: Duration, range: &RangeInclusive<Duration>) -> Option<String> {
    (!range.contains(&duration)).then(|| {
        let [duration, min, max] = [duration, *range.start(), *range.end()].map(written);
        format!("`{name}` is {duration}; expected {min} to {max}")
    })
}

fn factor_problem(name: &str, factor: f64) -> Option<String> {
    let is_valid = factor.is_finite() && factor >= 1.0;
    (!is_valid).then(|| format!("`{name}` is {factor}; expected a finite number of at least 1"))
}

fn choice_problem(name: &str, variants: &[(&str, &str)], text: &str) -> Option<String> {
    let accepted: Vec<String> = variants.iter().map(|(text, _)| format!("`\"{text}\"`")).collect();
    let is_known = variants.iter().any(|(known, _)| *known == text);
    (!is_known).then(|| format!("`{name}` is `\"{}\"`; expected {}", visible(text), accepted.join(" or ")))
}

/// The settings of one handler, by key.
struct Settings<'s, 'a>(&'s [(&'static str, Setting<'a>)]);

impl<'s, 'a> Settings<'s, 'a> {
    fn find(&self, name: &str) -> Option<&'s Setting<'a>> {
        self.0.iter().find(|(key, _)| *key == name).map(|(_, setting)| setting)
    }

    fn number(&self, name: &str) -> Option<u64> {
        match self.find(name) {
            Some(Setting::Number(number)) => Some(*number),
            _ => None,
        }
    }

    fn duration(&self, name: &str) -> Option<Duration> {
        match self.find(name) {
            Some(Setting::Duration(duration)) => Some(*duration),
            _ => None,
        }
    }

    fn subjects(&self) -> &'s [Cow<'a, str>] {
        match self.find("subject") {
            Some(Setting::Text(subject)) => std::slice::from_ref(subject),
            Some(Setting::Texts(subjects)) => subjects,
            _ => &[],
        }
    }

    fn flag(&self, name: &str) -> Option<bool> {
        match self.find(name) {
            Some(Setting::Flag(is_on)) => Some(*is_on),
            _ => None,
        }
    }
}

/// Returns the problems of settings that exclude one another, each with the key that is easier to remove.
pub(crate) fn contradictions(settings: &[(&'static str, Setting<'_>)]) -> Vec<(&'static str, String)> {
    let settings = Settings(settings);
    let mut found = order_problems(&settings);
    found.extend(key_problems(&settings));
    found.extend(partition_problems(&settings));
    let has_threads = settings.find("threads").is_some();
    if has_threads && settings.find("concurrency").is_some() {
        let text = "`concurrency` excludes `threads`, which is the concurrency of a blocking handler; remove `concurrency`, or replace `threads` with `blocking`";
        found.push(("concurrency", text.to_owned()));
    }
    if has_threads && settings.flag("blocking") == Some(false) {
        let text = "`blocking` is `false`, but `threads` makes a handler blocking; remove one of them";
        found.push(("blocking", text.to_owned()));
    }
    if settings.flag("blocking") == Some(true)
        && let Some(concurrency) = settings.number("concurrency").filter(|concurrency| *concurrency > MAX_THREADS)
    {
        let text = format!(
            "`concurrency` is {concurrency}, but a `blocking` handler uses one thread per call; expected 1 to {MAX_THREADS}"
        );
        found.push(("concurrency", text));
    }
    found.extend(batch_problems(&settings));
    found
}

/// Returns the problems of the settings of an ordered handler, or of those that require one.
fn order_problems(settings: &Settings<'_, '_>) -> Vec<(&'static str, String)> {
    const ONE: &str = "an `ordered` handler handles one message at a time across all instances";
    let mut found = Vec::new();
    if settings.flag("ordered") != Some(true) {
        if settings.find("ack_every").is_some() {
            let text = "`ack_every` requires an `ordered` handler; add `ordered`, or remove `ack_every`";
            found.push(("ack_every", text.to_owned()));
        }
        if settings.flag("single_instance") == Some(true) && settings.find("key").is_none() {
            let text = "`single_instance` requires an `ordered` handler or a `key`, because any other shares its messages among instances; add `ordered` or `key`, or remove `single_instance`";
            found.push(("single_instance", text.to_owned()));
        }
        return found;
    }
    if let Some(concurrency) = settings.number("concurrency").filter(|concurrency| *concurrency > 1) {
        let text = format!("`concurrency` is {concurrency}, but {ONE}; remove `concurrency` or `ordered`");
        found.push(("concurrency", text));
    }
    if let Some(threads) = settings.number("threads").filter(|threads| *threads > 1) {
        let text = format!("`threads` is {threads}, but {ONE}; replace `threads` with `blocking`, or remove `ordered`");
        found.push(("threads", text));
    }
    if settings.find("key").is_some() {
        let text = "`key` excludes `ordered`, because an `ordered` handler already keeps the order of all messages; remove `key` or `ordered`";
        found.push(("key", text.to_owned()));
    }
    if settings.find("ack") == Some(&Setting::Text("confirmed".into())) {
        let text = "`ack` is `\"confirmed\"`, but an `ordered` handler sends one ack for many messages; remove `ack` or `ordered`";
        found.push(("ack", text.to_owned()));
    }
    found
}

/// Returns the problem of a key that is a placeholder which one of the subjects lacks.
fn key_problems(settings: &Settings<'_, '_>) -> Option<(&'static str, String)> {
    let Some(Setting::Text(key)) = settings.find("key") else { return None };
    let name = Placeholder::parse(key)?.name;
    let subject =
        settings.subjects().iter().find(|subject| placeholders(subject).all(|placeholder| placeholder.name != name))?;
    let others: Vec<&str> = placeholders(subject).map(|placeholder| placeholder.name).collect();
    let has = match others.len() {
        0 => "no placeholders".to_owned(),
        1 => format!("the placeholder `{}`", others[0]),
        _ => format!("the placeholders `{}`", others.join("`, `")),
    };
    let text = format!(
        "`key` is the placeholder `{name}`, but the subject `{subject}` has {has}; write `{{{name}}}` for one of its tokens, or change `key`"
    );
    Some(("key", text))
}

/// Returns the problems of the settings of a handler with partitions.
fn partition_problems(settings: &Settings<'_, '_>) -> Vec<(&'static str, String)> {
    let mut found = Vec::new();
    let Some(partitions) = settings.number("partitions") else { return found };
    let mut add = |key, text: String| found.push((key, text));
    if settings.find("key").is_none() && settings.flag("ordered") != Some(true) {
        let text = "`partitions` requires an order, that of each `key` or that of each partition; add `key = \"customer\"` or `ordered`, or remove `partitions`";
        add("partitions", text.to_owned());
    }
    if settings.flag("single_instance") == Some(true) {
        let text = "`single_instance` excludes `partitions`, which several instances share; remove one of them";
        add("single_instance", text.to_owned());
    }
    let without: Vec<_> = settings.subjects().iter().filter(|subject| !has_token(subject, PARTITION)).collect();
    let Some(subject) = without.first() else { return found };
    let example = format!("write `{{{PARTITION}}}` for one of its tokens, as in `orders.{{{PARTITION}}}.created`");
    // The server can compute the number only from tokens of the subject.
    let key = match settings.find("key") {
        Some(Setting::Text(key)) => Placeholder::parse(key).map(|it| it.name),
        _ => None,
    };
    let is_token = |subject: &&&Cow<'_, str>| key.is_some_and(|key| has_token(subject, key));
    if without.len() < settings.subjects().len() {
        add(
            "partitions",
            format!(
                "`partitions` is {partitions}, but the subject `{subject}` has no place for the number of a partition, and another one has; {example}"
            ),
        );
    } else if key.is_none() {
        add(
            "partitions",
            format!(
                "`partitions` is {partitions}, but the subject `{subject}` has no place for the number of a partition, which what publishes the message would compute; {example}, or make the key a token of the subject, as in `orders.{{customer}}.created` with `key = \"{{customer}}\"`, so that the server computes it"
            ),
        );
    } else if let Some(subject) = without.iter().find(|subject| !is_token(subject))
        && key_problems(settings).is_none()
    {
        add(
            "partitions",
            format!(
                "`partitions` is {partitions}, but the key is more than one token of the subject `{subject}`, from which the server cannot compute the number of a partition; make it one token, or {example}"
            ),
        );
    }
    found
}

/// Returns the problems of the settings of batches.
fn batch_problems(settings: &Settings<'_, '_>) -> Vec<(&'static str, String)> {
    let mut found = Vec::new();
    if settings.find("batch").is_none() {
        let keys = ["batch_wait", "batch_bytes", "on_batch_error"];
        for key in keys.into_iter().filter(|key| settings.find(key).is_some()) {
            let text = format!("`{key}` requires a handler of batches; add `batch = 100`, or remove `{key}`");
            found.push((key, text));
        }
        return found;
    }
    if settings.flag("ordered") == Some(true) {
        let text = "`batch` excludes `ordered`, because an `ordered` handler retries a message before it handles the next one; remove `batch` or `ordered`";
        found.push(("batch", text.to_owned()));
    }
    let calls = settings.number("threads").or(settings.number("concurrency")).unwrap_or(1);
    if let Some(batch) = settings.number("batch").filter(|batch| calls > 1 && batch * calls > MAX_BATCHED) {
        let text = format!(
            "`batch` is {batch}, which is {} messages at the same time in {calls} calls; expected at most {MAX_BATCHED}, so lower one of them",
            batch * calls
        );
        found.push(("batch", text));
    }
    let ack_wait = settings.duration("ack_wait").unwrap_or(DEFAULT_ACK_WAIT).as_millis() as u64;
    let longest = Duration::from_millis(ack_wait / u64::from(BATCH_WAITS_PER_ACK_WAIT));
    if let Some(wait) = settings.duration("batch_wait").filter(|wait| *wait > longest) {
        let [wait, longest] = [wait, longest].map(written);
        let text = format!(
            "`batch_wait` is {wait}, but its messages would be redelivered before long; expected at most a third of `ack_wait`, {longest}"
        );
        found.push(("batch_wait", text));
    }
    found
}

/// Returns the duration in the syntax of the attribute, as in `1m30s`.
fn written(duration: Duration) -> String {
    if duration.is_zero() {
        return "0s".to_owned();
    }
    if !duration.subsec_nanos().is_multiple_of(1_000_000) {
        return format!("{duration:?}");
    }
    let mut rest = duration.as_millis();
    let mut text = String::new();
    for (unit, length) in [("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)] {
        if rest >= length {
            text.push_str(&format!("{}{unit}", rest / length));
            rest %= length;
        }
    }
    text
}

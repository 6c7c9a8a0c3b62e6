//! Judges the entries of the attribute: what comes out can be expanded as it is.

use std::collections::HashSet;
use std::time::Duration;

use proc_macro2::Span;
use syn::Lit;
use syn::ext::IdentExt;

use crate::attribute::{Entry, Value};
use crate::errors::Errors;
use crate::keys::{self, Keys};
use crate::rules::{name_problem, publish_subject_problem, subject_problem};
use crate::signature::Function;
use crate::value::Reader;

/// More handlers of one kind at a time than a process can use; what is above is a typing error.
const MAX_CONCURRENCY: u32 = 10_000;

/// The runtime has as many threads for work that blocks, so the calls above it would only wait for each other.
const MAX_THREADS: u32 = 512;

/// So many messages a worker may hold unacked, so an ack for more would never be sent.
const MAX_ACK_EVERY: u32 = 1000;

/// A batch waits in memory, so it has a bound too.
const MAX_BATCH_SIZE: u32 = 10_000;

/// So many attempts are as good as no bound at all.
const MAX_DELIVER: u32 = 1_000_000;

/// Below it, a signal that a message is still worked on cannot reach the server in time.
const MIN_ACK_WAIT: Duration = Duration::from_millis(100);

/// What `factor` is when `backoff = { … }` does not say.
const DEFAULT_FACTOR: f64 = 2.0;

/// The settings of one handler.
#[derive(Default)]
pub(crate) struct Plan {
    pub(crate) subject: String,
    pub(crate) queue: String,
    pub(crate) stream: Option<String>,
    pub(crate) concurrency: Option<u32>,
    pub(crate) blocking: bool,
    pub(crate) threads: Option<u32>,
    pub(crate) batch_size: Option<u32>,
    pub(crate) ack_wait: Option<Duration>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) max_deliver: Option<u32>,
    pub(crate) backoff: Option<Backoff>,
    pub(crate) dead_letter: Option<DeadLetter>,
    pub(crate) key: Option<String>,
    pub(crate) ordered: bool,
    pub(crate) ack_every: Option<u32>,
    pub(crate) replicas: Option<u32>,
    pub(crate) publish: Option<String>,
    pub(crate) codec: Option<String>,
    pub(crate) ack: Ack,
    pub(crate) group: Option<String>,
}

pub(crate) enum Backoff {
    Steps(Vec<Duration>),
    Exponential { initial: Duration, factor: f64, max: Duration },
}

pub(crate) enum DeadLetter {
    Subject(String),
    Off,
}

#[derive(Default)]
pub(crate) enum Ack {
    #[default]
    Sent,
    Confirmed,
}

/// Makes the plan of a handler. Only when there are no errors does it hold what the user wrote.
pub(crate) fn plan(entries: &[Entry], function: Option<&Function>, errors: &mut Errors) -> Plan {
    require(&["subject", "queue"], entries, function, errors);
    let mut plan = Plan::default();
    let known = known_once(entries, keys::OF_ATTRIBUTE, errors);
    for &entry in &known {
        let key = entry.key.unraw().to_string();
        if keys::is_not_supported_yet(&key) {
            errors.push(entry.key.span(), format!("`{key}` is not supported yet"));
        }
        let mut reader = Reader { keys: keys::OF_ATTRIBUTE, errors };
        match key.as_str() {
            "subject" => plan.subject = reader.text(entry, subject_problem).unwrap_or_default(),
            "queue" => plan.queue = reader.text(entry, name_problem).unwrap_or_default(),
            "stream" => plan.stream = reader.text(entry, name_problem),
            "concurrency" => plan.concurrency = reader.number(entry, 1..=MAX_CONCURRENCY),
            "blocking" => plan.blocking = reader.switch(entry),
            "threads" => plan.threads = reader.number(entry, 1..=MAX_THREADS),
            "batch_size" => plan.batch_size = reader.number(entry, 1..=MAX_BATCH_SIZE),
            "ack_wait" => plan.ack_wait = reader.duration(entry, MIN_ACK_WAIT),
            "timeout" => plan.timeout = reader.duration(entry, Duration::ZERO),
            "max_deliver" => plan.max_deliver = reader.number(entry, 1..=MAX_DELIVER),
            "backoff" => plan.backoff = backoff(entry, &mut reader),
            "dead_letter" => plan.dead_letter = dead_letter(entry, &mut reader),
            "key" => plan.key = reader.text(entry, field_problem),
            "ordered" => plan.ordered = reader.switch(entry),
            "ack_every" => plan.ack_every = reader.number(entry, 1..=MAX_ACK_EVERY),
            "replicas" => plan.replicas = replicas(entry, &mut reader),
            "publish" => plan.publish = reader.text(entry, publish_subject_problem),
            "codec" => plan.codec = reader.text(entry, name_problem),
            "ack" => plan.ack = ack(entry, &mut reader).unwrap_or_default(),
            "group" => plan.group = reader.text(entry, name_problem),
            key => unreachable!("`{key}` is among the keys, and here it is not"),
        }
    }
    contradictions(&plan, entries, &known, errors);
    check_async(&plan, entries, function, errors);
    plan
}

/// Says which keys do not go together, at the one that is easier to drop.
fn contradictions(plan: &Plan, entries: &[Entry], known: &[&Entry], errors: &mut Errors) {
    let mut refuse = |key: &str, message: &str| {
        for entry in known.iter().filter(|entry| entry.key.unraw() == key) {
            errors.push(entry.key.span(), message);
        }
    };
    if plan.ordered {
        if plan.concurrency.is_some_and(|lanes| lanes > 1) {
            refuse(
                "concurrency",
                "an `ordered` handler has one message at a time over all replicas; drop `concurrency`, or `ordered`",
            );
        }
        if plan.threads.is_some_and(|threads| threads > 1) {
            refuse(
                "threads",
                "an `ordered` handler has one message at a time over all replicas; write `blocking` in place of `threads`, or drop `ordered`",
            );
        }
        if matches!(plan.ack, Ack::Confirmed) {
            refuse(
                "ack",
                "an `ordered` handler sends one ack for many messages, so that none of them has its own to confirm; drop `ack`, or `ordered`",
            );
        }
        if plan.key.is_some() {
            refuse(
                "key",
                "`key` keeps messages of one key in order and `ordered` keeps all of them; drop one of the two",
            );
        }
    } else if !is_meant("ordered", entries) || known.iter().any(|entry| entry.key.unraw() == "ordered") {
        if plan.ack_every.is_some() {
            refuse("ack_every", "`ack_every` is for an `ordered` handler; add `ordered`, or drop `ack_every`");
        }
        if plan.replicas.is_some() {
            refuse(
                "replicas",
                "`replicas` is for an `ordered` handler, any other shares its messages among replicas; add `ordered`, or drop `replicas`",
            );
        }
    }
    if plan.threads.is_some() && plan.concurrency.is_some() {
        refuse(
            "concurrency",
            "`threads` is the concurrency of a blocking handler; drop `concurrency`, or write `blocking` in place of `threads`",
        );
    }
    if plan.threads.is_some() && !plan.blocking {
        refuse(
            "blocking",
            "`threads` makes a handler blocking, and `blocking = false` says that it is none; drop one of the two",
        );
    }
    if let Some(threads) = plan.concurrency.filter(|threads| plan.blocking && *threads > MAX_THREADS) {
        let message = format!(
            "`concurrency` is {threads}, and a `blocking` handler has a thread for each call; accepted are 1 to {MAX_THREADS}"
        );
        refuse("concurrency", &message);
    }
}

/// A call without an `await` in it holds up its thread, so that must be one that has nothing else to do.
fn check_async(plan: &Plan, entries: &[Entry], function: Option<&Function>, errors: &mut Errors) {
    let Some(function) = function else { return };
    let said_off = !plan.blocking && entries.iter().any(|entry| entry.key.unraw() == "blocking");
    let has_threads = is_meant("threads", entries) || (is_meant("blocking", entries) && !said_off);
    if !function.is_async() && !has_threads {
        let name = function.plain_name();
        errors.push(
            function.keyword(),
            format!(
                "handler `{name}` is not async; write `async fn {name}`, or say `blocking = true` for one that computes or blocks"
            ),
        );
    }
}

/// Whether the key is given, be it misspelt.
fn is_meant(key: &str, entries: &[Entry]) -> bool {
    entries.iter().any(|entry| keys::OF_ATTRIBUTE.mean(&entry.key.unraw().to_string(), key))
}

/// Says which keys are missing, unless a misspelt one stands in for them.
fn require(required: &[&str], entries: &[Entry], function: Option<&Function>, errors: &mut Errors) {
    let handler = function.map_or("the handler".to_owned(), |function| format!("handler `{}`", function.plain_name()));
    for &key in required {
        if !is_meant(key, entries) {
            let example = keys::OF_ATTRIBUTE.example(key);
            errors.push(Span::call_site(), format!("{handler} has no `{key}`; add for example `{example}`"));
        }
    }
}

/// The entries that exist among `keys`, each once. All others are mistakes.
fn known_once<'e>(entries: &'e [Entry], keys: Keys, errors: &mut Errors) -> Vec<&'e Entry> {
    let mut seen = HashSet::new();
    let mut known = Vec::new();
    for entry in entries {
        let key = entry.key.unraw().to_string();
        if !keys.contain(&key) {
            errors.push(entry.key.span(), keys.unknown(&key));
        } else if seen.contains(&key) {
            errors.push(entry.key.span(), format!("`{key}` is given twice; keep one of them"));
        } else {
            seen.insert(key);
            known.push(entry);
        }
    }
    known
}

fn backoff(entry: &Entry, reader: &mut Reader<'_>) -> Option<Backoff> {
    match reader.given(entry)? {
        Value::List(values, span) if values.is_empty() => reader.refuse(
            *span,
            "`backoff` has no steps; write for example `backoff = [\"1s\", \"5s\", \"30s\"]`, or leave it out",
        ),
        Value::List(values, _) => {
            let steps: Vec<Option<Duration>> =
                values.iter().map(|value| Some(reader.duration_in(entry, value)?.1)).collect();
            let steps: Option<Vec<Duration>> = steps.into_iter().collect();
            Some(Backoff::Steps(steps?))
        }
        Value::Table(entries, span) => exponential(entries, *span, reader.errors),
        _ => reader.wrong_kind(entry, "a list of durations or `{ initial = \"1s\", factor = 2, max = \"2m\" }`"),
    }
}

fn exponential(entries: &[Entry], span: Span, errors: &mut Errors) -> Option<Backoff> {
    let (mut initial, mut factor, mut max) = (None, Some(DEFAULT_FACTOR), None);
    let mut end = span;
    let known = known_once(entries, keys::OF_BACKOFF, errors);
    let mut reader = Reader { keys: keys::OF_BACKOFF, errors };
    for entry in &known {
        match entry.key.unraw().to_string().as_str() {
            "initial" => initial = reader.duration(entry, Duration::ZERO),
            "factor" => factor = reader.factor(entry),
            _ => {
                max = reader.duration(entry, Duration::ZERO);
                end = entry.key.span();
            }
        }
    }
    for key in ["initial", "max"] {
        if !known.iter().any(|entry| entry.key == key) {
            let example = keys::OF_BACKOFF.example(key);
            reader.refuse::<()>(span, format!("`backoff` has no `{key}`; add for example `{example}`"));
        }
    }
    let (initial, factor, max) = (initial?, factor?, max?);
    if initial > max {
        return reader.refuse(end, "`max` is shorter than `initial`; accepted is the same or longer");
    }
    Some(Backoff::Exponential { initial, factor, max })
}

/// Only one process is worth a word: it can do without the server's help.
fn replicas(entry: &Entry, reader: &mut Reader<'_>) -> Option<u32> {
    match reader.given(entry)? {
        Value::Literal(Lit::Int(number)) if !number.suffix().is_empty() => reader.wrong_kind(entry, "the number 1"),
        Value::Literal(Lit::Int(number)) if number.base10_digits() == "1" => Some(1),
        Value::Literal(Lit::Int(number)) => reader.refuse(
            number.span(),
            format!(
                "`replicas` is {number}; accepted is 1, which says that there is never more than one process, so that a server before 2.11 will do; leave the key out where there may be more"
            ),
        ),
        _ => reader.wrong_kind(entry, "the number 1"),
    }
}

fn dead_letter(entry: &Entry, reader: &mut Reader<'_>) -> Option<DeadLetter> {
    match reader.given(entry)? {
        Value::Literal(Lit::Bool(on)) if on.value => {
            reader.refuse(on.span, "`dead_letter` is on already; name a subject, or leave the key out")
        }
        Value::Literal(Lit::Bool(_)) => Some(DeadLetter::Off),
        Value::Literal(Lit::Str(_)) => {
            let subject = reader.text(entry, publish_subject_problem)?;
            Some(DeadLetter::Subject(subject))
        }
        _ => reader.wrong_kind(entry, "a subject or `false`"),
    }
}

fn ack(entry: &Entry, reader: &mut Reader<'_>) -> Option<Ack> {
    let text = reader.text(entry, |text| {
        let is_known = matches!(text, "sent" | "confirmed");
        (!is_known).then(|| format!("unknown ack `{text}`; accepted are `\"sent\"`, the default, and `\"confirmed\"`"))
    })?;
    Some(match text.as_str() {
        "confirmed" => Ack::Confirmed,
        _ => Ack::Sent,
    })
}

/// What is wrong with `field` as the name of a payload's field.
fn field_problem(field: &str) -> Option<String> {
    let is_named = !field.is_empty() && !field.contains(|c: char| c.is_whitespace() || c.is_control());
    (!is_named).then(|| {
        "the key is no field's name; write the name of a field of the payload, as in `key = \"customer\"`".to_owned()
    })
}

//! Rules for the settings of a handler: the keys, the values that each accepts, and the keys that exclude one another.
//!
//! The library and its macro crate each contain this file, `pattern.rs` and `duration.rs`, byte for byte: the library
//! depends on the macro crate, which therefore cannot import them, and both must accept the same settings and refuse all
//! others with the same text.
//! They use only `std`.

#![allow(dead_code)] // neither crate uses all of it

use std::borrow::Cow;
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::pattern::{Placeholder, filter, overlap, tokens};

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
}

/// The value of one key.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Setting<'a> {
    Text(Cow<'a, str>),
    Texts(Vec<Cow<'a, str>>),
    Number(u64),
    Duration(Duration),
    Factor(f64),
    Flag(bool),
    Off,
    Steps(Cow<'a, [Duration]>),
    Exponential { initial: Duration, factor: f64, max: Duration },
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

/// Every key of the attribute.
pub(crate) static KEYS: [Key; 26] = [
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
    Key { name: "ack", example: "\"confirmed\"", accepts: ACK },
    Key { name: "group", example: "\"billing\"", accepts: Accepts::Text(name_problem) },
    Key { name: "broker", example: "\"eu\"", accepts: Accepts::Text(name_problem) },
    Key { name: "layer", example: "limits::billing", accepts: Accepts::Layer },
    Key { name: "deliver", example: "\"new\"", accepts: DELIVER },
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

/// Returns the problems of settings that exclude one another, each with the key that is easier to remove.
pub(crate) fn contradictions(settings: &[(&'static str, Setting<'_>)]) -> Vec<(&'static str, String)> {
    let find = |name: &str| settings.iter().find(|(key, _)| *key == name).map(|(_, setting)| setting);
    let number = |name: &str| match find(name) {
        Some(Setting::Number(number)) => Some(*number),
        _ => None,
    };
    let flag = |name: &str| match find(name) {
        Some(Setting::Flag(is_on)) => Some(*is_on),
        _ => None,
    };
    let mut found = Vec::new();
    if flag("ordered") == Some(true) {
        const ONE: &str = "an `ordered` handler handles one message at a time across all instances";
        if let Some(concurrency) = number("concurrency").filter(|concurrency| *concurrency > 1) {
            let text = format!("`concurrency` is {concurrency}, but {ONE}; remove `concurrency` or `ordered`");
            found.push(("concurrency", text));
        }
        if let Some(threads) = number("threads").filter(|threads| *threads > 1) {
            let text =
                format!("`threads` is {threads}, but {ONE}; replace `threads` with `blocking`, or remove `ordered`");
            found.push(("threads", text));
        }
        if find("ack") == Some(&Setting::Text("confirmed".into())) {
            let text = "`ack` is `\"confirmed\"`, but an `ordered` handler sends one ack for many messages; remove `ack` or `ordered`";
            found.push(("ack", text.to_owned()));
        }
    } else {
        if find("ack_every").is_some() {
            let text = "`ack_every` requires an `ordered` handler; add `ordered`, or remove `ack_every`";
            found.push(("ack_every", text.to_owned()));
        }
        if flag("single_instance") == Some(true) {
            let text = "`single_instance` requires an `ordered` handler, because any other shares its messages among instances; add `ordered`, or remove `single_instance`";
            found.push(("single_instance", text.to_owned()));
        }
    }
    let has_threads = find("threads").is_some();
    if has_threads && find("concurrency").is_some() {
        let text = "`concurrency` excludes `threads`, which is the concurrency of a blocking handler; remove `concurrency`, or replace `threads` with `blocking`";
        found.push(("concurrency", text.to_owned()));
    }
    if has_threads && flag("blocking") == Some(false) {
        let text = "`blocking` is `false`, but `threads` makes a handler blocking; remove one of them";
        found.push(("blocking", text.to_owned()));
    }
    if flag("blocking") == Some(true)
        && let Some(concurrency) = number("concurrency").filter(|concurrency| *concurrency > MAX_THREADS)
    {
        let text = format!(
            "`concurrency` is {concurrency}, but a `blocking` handler uses one thread per call; expected 1 to {MAX_THREADS}"
        );
        found.push(("concurrency", text));
    }
    found.extend(batch_problems(settings));
    found
}

/// Returns the problems of the settings of batches.
fn batch_problems(settings: &[(&'static str, Setting<'_>)]) -> Vec<(&'static str, String)> {
    let find = |name: &str| settings.iter().find(|(key, _)| *key == name).map(|(_, setting)| setting);
    let number = |name: &str| match find(name) {
        Some(Setting::Number(number)) => Some(*number),
        _ => None,
    };
    let duration = |name: &str| match find(name) {
        Some(Setting::Duration(duration)) => Some(*duration),
        _ => None,
    };
    let mut found = Vec::new();
    if find("batch").is_none() {
        for key in ["batch_wait", "batch_bytes", "on_batch_error"].into_iter().filter(|key| find(key).is_some()) {
            let text = format!("`{key}` requires a handler of batches; add `batch = 100`, or remove `{key}`");
            found.push((key, text));
        }
        return found;
    }
    if find("ordered") == Some(&Setting::Flag(true)) {
        let text = "`batch` excludes `ordered`, because an `ordered` handler retries a message before it handles the next one; remove `batch` or `ordered`";
        found.push(("batch", text.to_owned()));
    }
    let calls = number("threads").or(number("concurrency")).unwrap_or(1);
    if let Some(batch) = number("batch").filter(|batch| calls > 1 && batch * calls > MAX_BATCHED) {
        let text = format!(
            "`batch` is {batch}, which is {} messages at the same time in {calls} calls; expected at most {MAX_BATCHED}, so lower one of them",
            batch * calls
        );
        found.push(("batch", text));
    }
    let ack_wait = duration("ack_wait").unwrap_or(DEFAULT_ACK_WAIT).as_millis() as u64;
    let longest = Duration::from_millis(ack_wait / u64::from(BATCH_WAITS_PER_ACK_WAIT));
    if let Some(wait) = duration("batch_wait").filter(|wait| *wait > longest) {
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

/// The maximum length of a subject and of a name, in bytes.
///
/// The server stores a consumer in a directory named after it, and most file systems limit a name to 255 bytes.
const MAX_LENGTH: usize = 255;

/// Returns the problem of `name` as the name of a closure, which appears in logs, health and dead letters.
pub(crate) fn handler_name_problem(name: &str) -> Option<String> {
    if name.is_empty() {
        return Some("the name is empty; write for example `order-processor`".to_owned());
    }
    if name.len() > MAX_LENGTH {
        return Some(format!("the name is {} bytes long; the maximum is {MAX_LENGTH}", name.len()));
    }
    let wrong = name.chars().find(|character| character.is_control())?;
    Some(format!("name `{}` contains {}, which a header cannot hold", visible(name), in_words(wrong)))
}

/// Returns the problem of a list of subjects to subscribe to.
fn subjects_problem(subjects: &[Cow<'_, str>]) -> Option<String> {
    if subjects.is_empty() {
        return Some(
            "the list of subjects is empty; write for example `[\"orders.created\", \"orders.paid\"]`".to_owned(),
        );
    }
    let problem = subjects.iter().find_map(|subject| subject_problem(subject));
    problem.or_else(|| {
        subjects.iter().enumerate().find_map(|(index, one)| {
            // The server refuses such a consumer (`CONSUMER_OVERLAPPING_SUBJECT_FILTERS`).
            let other = subjects[..index].iter().find(|other| overlap(&filter(one), &filter(other)))?;
            Some(format!(
                "the subjects `{other}` and `{one}` have messages in common; remove one of them, or write a handler for each"
            ))
        })
    })
}

/// Returns the problem of `subject` as a subject to subscribe to, which may have wildcards and placeholders.
pub(crate) fn subject_problem(subject: &str) -> Option<String> {
    let tokens: Vec<&str> = tokens(subject).collect();
    let last = tokens.len() - 1;
    spelling_problem(subject).or_else(|| {
        if subject.starts_with('$') && !is_readable(&tokens) {
            return Some(format!(
                "subject `{subject}` begins with `$`, which is reserved for the server; choose another first token, or read `$KV.<bucket>.>`, `$O.<bucket>.>` or `$JS.EVENT.>` from a stream that stores it"
            ));
        }
        tokens
            .iter()
            .enumerate()
            .find_map(|(position, token)| match *token {
                "*" => None,
                ">" if position == last => None,
                ">" => Some(format!(
                    "subject `{subject}` has `>` before its end; use `*` for a single token, and `>` only as the last token"
                )),
                token => match Placeholder::parse(token) {
                    Some(placeholder) => placeholder_problem(subject, &tokens[..position], placeholder, position == last),
                    None => token_problem(subject, token),
                },
            })
    })
}

/// Returns the problem of a placeholder, which comes after the tokens in `before`.
fn placeholder_problem(
    subject: &str,
    before: &[&str],
    Placeholder { name, is_rest }: Placeholder<'_>,
    is_last: bool,
) -> Option<String> {
    let mut characters = name.chars();
    let is_name = characters.next().is_some_and(|first| first.is_ascii_alphabetic() || first == '_')
        && characters.all(|character| character.is_ascii_alphanumeric() || character == '_');
    if !is_name {
        return Some(format!(
            "subject `{subject}` has a placeholder with the name `{name}`; write a name of letters, digits and `_`, as in `{{region}}`"
        ));
    }
    if before.iter().filter_map(|token| Placeholder::parse(token)).any(|other| other.name == name) {
        return Some(format!("subject `{subject}` has the placeholder `{name}` twice; give each a name of its own"));
    }
    (is_rest && !is_last).then(|| {
        format!(
            "subject `{subject}` has `{{{name}..}}` before its end; write `{{{name}}}` for a single token, and `{{{name}..}}` only as the last token"
        )
    })
}

/// Returns the problem of a token that is neither a wildcard nor a placeholder.
fn token_problem(subject: &str, token: &str) -> Option<String> {
    if token.contains(['{', '}']) {
        return Some(format!(
            "subject `{subject}` has a brace within the token `{token}`; a placeholder must be a whole token, as in `orders.{{region}}`"
        ));
    }
    let wildcard = token.chars().find(is_wildcard)?;
    Some(format!(
        "subject `{subject}` has `{wildcard}` within the token `{token}`; a wildcard must be a whole token, as in `orders.{wildcard}`"
    ))
}

/// Returns the problem of `subject` as a subject to publish to.
pub(crate) fn publish_subject_problem(subject: &str) -> Option<String> {
    // This function runs for every published message, and most subjects are plain.
    if is_plain(subject) {
        return None;
    }
    spelling_problem(subject).or_else(|| {
        if subject.starts_with('$') {
            return Some(format!(
                "subject `{subject}` begins with `$`, which is reserved for the server; choose another first token"
            ));
        }
        if let Some(placeholder) = tokens(subject).find(|token| Placeholder::parse(token).is_some()) {
            return Some(format!(
                "subject `{subject}` has the placeholder `{placeholder}`; a message is published to one subject, so write out every token"
            ));
        }
        let wildcard = subject.chars().find(is_wildcard)?;
        Some(format!(
            "subject `{subject}` has the wildcard `{wildcard}`; a message is published to one subject, so write out every token"
        ))
    })
}

/// Returns `true` if these are the tokens of a subject of the server that streams store: key-value buckets, object
/// stores, and advisories.
fn is_readable(tokens: &[&str]) -> bool {
    matches!(tokens, ["$KV" | "$O", bucket, ..] if *bucket != ">") || matches!(tokens, ["$JS", "EVENT", _, ..])
}

/// Returns `true` if a subject needs no further check: it has only letters, digits, `-` and `_` between single dots.
fn is_plain(subject: &str) -> bool {
    let mut before = b'.';
    for byte in subject.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => {}
            b'.' if before != b'.' => {}
            _ => return false,
        }
        before = byte;
    }
    before != b'.' && subject.len() <= MAX_LENGTH
}

/// Returns the problem of `name` as the name of a consumer, a stream, a group or a broker.
pub(crate) fn name_problem(name: &str) -> Option<String> {
    if name.is_empty() {
        return Some("the name is empty; write for example `order-processor`".to_owned());
    }
    if name.len() > MAX_LENGTH {
        return Some(format!("the name is {} bytes long; the maximum is {MAX_LENGTH}", name.len()));
    }
    let wrong =
        name.chars().find(|character| is_blank(character) || matches!(character, '.' | '*' | '>' | '/' | '\\'))?;
    Some(format!("name `{}` contains {}; use letters, digits, `-` and `_`", visible(name), in_words(wrong)))
}

/// Returns the problem that makes a subject invalid both with and without wildcards.
fn spelling_problem(subject: &str) -> Option<String> {
    if subject.is_empty() {
        return Some("the subject is empty; write for example `orders.created`".to_owned());
    }
    if subject.len() > MAX_LENGTH {
        return Some(format!("the subject is {} bytes long; the maximum is {MAX_LENGTH}", subject.len()));
    }
    if let Some(wrong) = subject.chars().find(is_blank) {
        return Some(format!(
            "subject `{}` contains {}; separate tokens with `.` only",
            visible(subject),
            in_words(wrong)
        ));
    }
    if tokens(subject).any(str::is_empty) {
        return Some(format!("subject `{subject}` has an empty token; put a token on both sides of every `.`"));
    }
    None
}

/// Returns `true` if a character is white space or a control character.
fn is_blank(character: &char) -> bool {
    character.is_whitespace() || character.is_control()
}

fn is_wildcard(character: &char) -> bool {
    matches!(character, '*' | '>')
}

/// Returns the text with its invisible characters escaped, except for spaces.
fn visible(text: &str) -> String {
    let mut shown = String::new();
    for character in text.chars() {
        if character != ' ' && is_blank(&character) {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    shown
}

/// Returns the name of a character for an error text.
fn in_words(character: char) -> String {
    match character {
        ' ' => "a space".to_owned(),
        '\t' => "a tab".to_owned(),
        '\n' | '\r' => "a line break".to_owned(),
        other if is_blank(&other) => format!("the invisible character U+{:04X}", u32::from(other)),
        other => format!("`{other}`"),
    }
}

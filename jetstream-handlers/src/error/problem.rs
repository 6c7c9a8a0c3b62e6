//! Problems that a start or a stop of handlers reports, as values.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::difference::{Difference, Listed};
use super::{Error, ErrorKind};

/// The fix for a stream that an ordered handler cannot read, at the end of each such text.
const ORDERED_FIX: &str = "for example one that has this stream as its source and subjects of its own, or drop `ordered` and keep `concurrency` at 1";

/// The purpose for which a stream is needed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Purpose {
    /// Messages of the handler of this name.
    Handler(String),
    /// Dead letters of the handler of this name.
    DeadLetters(String),
    /// Outputs of the handler of this name.
    Outputs(String),
    /// A publish to this subject.
    Publish(String),
    /// A stream that was passed to [`Builder::stream`](crate::Builder::stream).
    Declared,
}

impl Purpose {
    fn handler(&self) -> Option<&str> {
        match self {
            Self::Handler(name) | Self::DeadLetters(name) | Self::Outputs(name) => Some(name),
            Self::Publish(_) | Self::Declared => None,
        }
    }
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Handler(name) => write!(f, "`{name}`"),
            Self::DeadLetters(name) => write!(f, "the dead letters of `{name}`"),
            Self::Outputs(name) => write!(f, "the outputs of `{name}`"),
            Self::Publish(subject) => write!(f, "publish to `{subject}`"),
            Self::Declared => f.write_str("the stream given to the builder"),
        }
    }
}

/// A problem that prevents handlers from starting, or from stopping in time.
///
/// `Display` states the handler, the value found, the value required, and how to fix it.
#[derive(Debug, Clone)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the fields are named for what they hold, and every variant is documented")]
pub enum Problem {
    /// A setting of a handler is invalid, or contradicts another one.
    Setting { handler: String, key: &'static str, problem: String },
    /// Two handlers read one durable consumer; `differing` lists the settings in which they differ.
    SharedDurable {
        handler: String,
        location: String,
        other: String,
        other_location: String,
        consumer: String,
        differing: Vec<&'static str>,
    },
    /// A handler has a parameter `State<T>` of a type for which no value was registered.
    MissingState { handler: String, type_name: &'static str },
    /// [`FromMessage::check`](crate::FromMessage::check) of a parameter failed.
    Parameter { handler: String, problem: String },
    /// A handler has more than one payload parameter.
    SeveralPayloads { handler: String, payloads: usize },
    /// The handler already runs on this broker.
    AlreadyRunning { handler: String },
    /// A start leaves out a handler that [`Broker::expect`](crate::Broker::expect) requires.
    NotStarted { handler: String, reason: String },
    /// The stream does not exist, and the broker must not create it.
    ///
    /// `stream` is the name that the handler sets, `default_name` the one that the broker would choose, and `command` the
    /// one that creates it, if [`Manage::Bind`](crate::Manage::Bind) forbids the broker to create any.
    StreamMissing {
        purpose: Purpose,
        subject: String,
        stream: Option<String>,
        default_name: Option<String>,
        command: Option<String>,
    },
    /// The consumer of a handler does not exist, and [`Manage::Bind`](crate::Manage::Bind) forbids to create it;
    /// `command` does.
    ConsumerMissing { handler: String, stream: String, consumer: String, command: String },
    /// The stream exists, and its subjects do not cover the one that is needed.
    ///
    /// `subjects` are those of the messages that it stores, or, for a publish, those that it listens to; `fix` states what
    /// to change.
    SubjectNotCovered { purpose: Purpose, subject: String, stream: String, subjects: Vec<String>, fix: String },
    /// A handler's subject is one to which messages are published, and the stream stores them as `stored`, because it has
    /// a `subject_transform`.
    SubjectTransformed { purpose: Purpose, subject: String, stream: String, stored: Vec<String> },
    /// Several streams overlap the subject, and none covers it.
    AmbiguousStream { purpose: Purpose, subject: String, streams: Vec<String> },
    /// The subjects of a handler are in several streams, each of which is the second of a pair.
    SeveralStreams { handler: String, streams: Vec<(String, String)> },
    /// The subject belongs to the stream `owner`, not to the one that the handler names.
    WrongStream { purpose: Purpose, subject: String, stream: String, exists: bool, owner: String },
    /// No stream covers the subject, and none can be created because it begins with a wildcard.
    NoDefaultName { purpose: Purpose, subject: String },
    /// No stream covers the subject, and none is created, because the subject belongs to the server or to replies.
    ReservedSubject { purpose: Purpose, subject: String },
    /// A stream cannot be created because its `subject` overlaps `other_subject` of the stream `other`.
    StreamOverlap { purpose: Purpose, stream: String, subject: String, other: String, other_subject: String },
    /// A stream exists with a configuration other than the one passed to [`Builder::stream`](crate::Builder::stream).
    StreamDiffers { stream: String, differences: Vec<Difference> },
    /// A consumer exists with a configuration other than the one that its handler needs.
    ConsumerDiffers { handler: String, stream: String, consumer: String, differences: Vec<Difference> },
    /// Two consumers of a work-queue stream have overlapping filters.
    WorkQueueOverlap {
        handler: String,
        stream: String,
        consumer: String,
        subject: String,
        other: String,
        other_subject: String,
    },
    /// The dead letters of a handler would be delivered to the handler itself.
    DeadLetterLoop { handler: String, subject: String, dead_letter: String },
    /// The stream of a handler's dead letters does not keep every message that it acknowledges.
    DeadLetterStream { handler: String, stream: String },
    /// The outputs of a handler would be delivered to the handler itself.
    OutputLoop { handler: String, subject: String, output: String },
    /// The stream of a handler's outputs acknowledges no message (`no_ack`).
    OutputStream { handler: String, stream: String },
    /// An ordered handler reads a work-queue stream, which accepts no ack for several messages.
    OrderedWorkQueue { handler: String, stream: String },
    /// An ordered handler reads a stream from which, because of `field`, a message can leave before older ones.
    OrderedStream { handler: String, stream: String, field: &'static str },
    /// The server cannot pin an ordered handler's consumer to one client.
    ///
    /// `version` is the version of the connected server; `None` if another server of the cluster created the consumer
    /// without the pin.
    ServerTooOld { handler: String, consumer: String, version: Option<String> },
    /// A stream, or a consumer of it, was deleted while the start was using it.
    Deleted { purpose: Purpose, stream: String, consumer: Option<String> },
    /// An operation failed, usually a request to the server.
    Failed { handler: Option<String>, error: Arc<Error> },
    /// A call of the handler was still running when the grace period ended.
    ///
    /// A call on a thread of its own cannot be cancelled, and continues.
    StillRunning { handler: String, grace: Duration, cancelled: bool },
    /// The handler never yields, so that it can neither be stopped nor cancelled.
    NeverYields { handler: String },
}

impl Problem {
    /// Returns the problem of one key, without the key at the beginning of `problem`: `Display` adds it.
    pub(crate) fn setting(handler: &str, key: &'static str, problem: &str) -> Self {
        let problem = problem.strip_prefix(&format!("`{key}` ")).unwrap_or(problem).to_owned();
        Self::Setting { handler: handler.to_owned(), key, problem }
    }

    pub(crate) fn failed(purpose: &Purpose, error: Error) -> Self {
        Self::Failed { handler: purpose.handler().map(str::to_owned), error: Arc::new(error) }
    }

    /// Returns the kind of the problem.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Setting { .. }
            | Self::SharedDurable { .. }
            | Self::SeveralPayloads { .. }
            | Self::AlreadyRunning { .. }
            | Self::DeadLetterLoop { .. }
            | Self::OutputLoop { .. }
            | Self::ServerTooOld { .. } => ErrorKind::Config,
            Self::MissingState { .. } | Self::Parameter { .. } => ErrorKind::MissingState,
            Self::StreamMissing { .. }
            | Self::SubjectNotCovered { .. }
            | Self::SubjectTransformed { .. }
            | Self::AmbiguousStream { .. }
            | Self::ReservedSubject { .. }
            | Self::NoDefaultName { .. } => ErrorKind::StreamNotFound,
            Self::SeveralStreams { .. } => ErrorKind::Config,
            Self::WrongStream { .. } | Self::StreamOverlap { .. } | Self::WorkQueueOverlap { .. } => {
                ErrorKind::StreamOverlap
            }
            Self::StreamDiffers { .. }
            | Self::DeadLetterStream { .. }
            | Self::OutputStream { .. }
            | Self::OrderedWorkQueue { .. }
            | Self::OrderedStream { .. } => ErrorKind::StreamMismatch,
            Self::ConsumerDiffers { .. } | Self::ConsumerMissing { .. } => ErrorKind::ConsumerMismatch,
            Self::Deleted { .. } => ErrorKind::Server,
            Self::NotStarted { .. } => ErrorKind::NoHandlers,
            Self::Failed { error, .. } => error.kind(),
            Self::StillRunning { .. } | Self::NeverYields { .. } => ErrorKind::GracePeriod,
        }
    }

    /// Returns the name of the handler that has the problem, if it is the problem of a handler.
    pub fn handler(&self) -> Option<&str> {
        match self {
            Self::Setting { handler, .. }
            | Self::SharedDurable { handler, .. }
            | Self::MissingState { handler, .. }
            | Self::Parameter { handler, .. }
            | Self::SeveralPayloads { handler, .. }
            | Self::AlreadyRunning { handler }
            | Self::NotStarted { handler, .. }
            | Self::ConsumerDiffers { handler, .. }
            | Self::ConsumerMissing { handler, .. }
            | Self::WorkQueueOverlap { handler, .. }
            | Self::DeadLetterLoop { handler, .. }
            | Self::DeadLetterStream { handler, .. }
            | Self::OutputLoop { handler, .. }
            | Self::OutputStream { handler, .. }
            | Self::OrderedWorkQueue { handler, .. }
            | Self::OrderedStream { handler, .. }
            | Self::ServerTooOld { handler, .. }
            | Self::StillRunning { handler, .. }
            | Self::SeveralStreams { handler, .. }
            | Self::NeverYields { handler } => Some(handler),
            Self::StreamMissing { purpose, .. }
            | Self::SubjectNotCovered { purpose, .. }
            | Self::SubjectTransformed { purpose, .. }
            | Self::ReservedSubject { purpose, .. }
            | Self::AmbiguousStream { purpose, .. }
            | Self::WrongStream { purpose, .. }
            | Self::NoDefaultName { purpose, .. }
            | Self::StreamOverlap { purpose, .. }
            | Self::Deleted { purpose, .. } => purpose.handler(),
            Self::StreamDiffers { .. } => None,
            Self::Failed { handler, .. } => handler.as_deref(),
        }
    }

    /// Returns the fields that differ; empty for every other problem.
    pub fn differences(&self) -> &[Difference] {
        match self {
            Self::StreamDiffers { differences, .. } | Self::ConsumerDiffers { differences, .. } => differences,
            _ => &[],
        }
    }

    /// Returns the subject to which the user may lack the permission to publish, if that can be the cause.
    pub fn missing_permission(&self) -> Option<&str> {
        match self {
            Self::Failed { error, .. } => error.missing_permission(),
            _ => None,
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Setting { handler, key, problem } => write!(f, "`{}`: {key}: {problem}", handler.escape_debug()),
            Self::SharedDurable { handler, location, other, other_location, consumer, differing } => {
                let differing = match &**differing {
                    [] => String::new(),
                    keys => format!(" with a different {}", keys.join(", ")),
                };
                write!(
                    f,
                    "`{handler}` ({location}) and `{other}` ({other_location}) use the same consumer `{consumer}`{differing}, so each message would reach only one of them; give each its own `queue`"
                )
            }
            Self::MissingState { handler, type_name } => write!(f, "`{handler}` {}", MissingState { type_name }),
            Self::Parameter { handler, problem } => write!(f, "`{handler}` {problem}"),
            Self::SeveralPayloads { handler, payloads } => write!(
                f,
                "`{handler}` takes {payloads} payloads, but a message has one body; declare one type with all fields, or take a `Message` and decode its `payload()` in the handler"
            ),
            Self::AlreadyRunning { handler } => write!(
                f,
                "`{handler}` runs on this broker already; start it once, or stop it with `Running::shutdown` before it is started again"
            ),
            Self::NotStarted { handler, reason } => {
                write!(f, "`{handler}` is expected, and this start leaves it out: {reason}")
            }
            Self::StreamMissing { purpose, subject, stream, default_name, command } => {
                match stream {
                    Some(stream) => write!(f, "{purpose}: stream `{stream}` does not exist")?,
                    None => write!(f, "{purpose}: no stream covers `{subject}`")?,
                }
                if let Some(command) = command {
                    return write!(f, ", and `manage` is `bind`, so that none is created; create it (`{command}`)");
                }
                let name = stream.as_deref().or(default_name.as_deref()).unwrap_or("NAME");
                write!(
                    f,
                    ", and `auto_create(false)` disables stream creation, as commands do that only read or publish; create it with the command `apply` or `nats stream add {name} --subjects '{subject}'`, or remove `auto_create(false)`"
                )
            }
            Self::SubjectNotCovered { purpose, subject, stream, subjects, fix } => {
                let subjects = Few(subjects);
                write!(
                    f,
                    "{purpose}: stream `{stream}` has the subjects {subjects}, which do not cover `{subject}`; {fix}"
                )
            }
            Self::SubjectTransformed { purpose, subject, stream, stored } => {
                let stores = Few(stored);
                write!(
                    f,
                    "{purpose}: stream `{stream}` stores what is published to `{subject}` as {stores} (`subject_transform`), so that none of its messages has the subject `{subject}`"
                )?;
                match &**stored {
                    [stored] => write!(f, "; set `subject = \"{stored}\"`"),
                    _ => f.write_str("; set `subject` to one of these"),
                }
            }
            Self::AmbiguousStream { purpose, subject, streams } => {
                let streams = Few(streams);
                write!(
                    f,
                    "{purpose}: no single stream covers `{subject}`, which overlaps the streams {streams}; narrow the subject, or set `stream` to one of them to receive its part"
                )
            }
            Self::SeveralStreams { handler, streams } => {
                let pairs: Vec<String> =
                    streams.iter().map(|(subject, stream)| format!("`{subject}` in `{stream}`")).collect();
                let pairs = pairs.join(", ");
                write!(
                    f,
                    "`{handler}`: its subjects are in several streams ({pairs}), but a consumer reads one; write a handler for each stream, or set `stream` to one that has them all"
                )
            }
            Self::WrongStream { purpose, subject, stream, exists, owner } => {
                let found = if *exists { "does not cover it" } else { "does not exist" };
                write!(
                    f,
                    "{purpose}: stream `{stream}` {found}, and `{subject}` belongs to stream `{owner}`; set `stream = \"{owner}\"` or leave it out"
                )
            }
            Self::NoDefaultName { purpose, subject } => write!(
                f,
                "{purpose}: no stream covers `{subject}`, and none can be created for a subject that begins with a wildcard; begin with a literal token, as in `orders.*`, or create a stream that covers it"
            ),
            Self::ReservedSubject { purpose, subject } => {
                write!(f, "{purpose}: no stream covers `{subject}`, and none is created for it, because ")?;
                match subject.split_once('.') {
                    Some(("$KV", _)) => {
                        f.write_str("it belongs to a key-value bucket; create the bucket (`nats kv add BUCKET`)")
                    }
                    Some(("$O", _)) => {
                        f.write_str("it belongs to an object store; create the store (`nats object add BUCKET`)")
                    }
                    _ if subject.starts_with('$') => write!(
                        f,
                        "it belongs to the server; create a stream for it (`nats stream add NAME --subjects '{subject}'`)"
                    ),
                    _ => f.write_str(
                        "subjects of its kind are those of replies, all of which the stream would store; publish a reply with the client (`Broker::client`), or create a stream for it",
                    ),
                }
            }
            Self::StreamOverlap { purpose, stream, subject, other, other_subject } => write!(
                f,
                "{purpose}: stream `{stream}` cannot be created: its subject `{subject}` overlaps `{other_subject}` of stream `{other}`; pass a `stream::Config` without overlapping subjects to `Builder::stream`"
            ),
            Self::StreamDiffers { stream, differences } => {
                write!(f, "stream `{stream}` exists and differs: {}; nothing was changed; ", Listed(differences))?;
                let fixed: Vec<_> = differences.iter().filter(|it| !it.changeable).map(Difference::field).collect();
                if fixed.is_empty() {
                    return write!(
                        f,
                        "change the code, or the stream with the command `apply` or `nats stream edit {stream}`"
                    );
                }
                let fixed = fixed.join(", ");
                write!(
                    f,
                    "the server does not let {fixed} of a stream be changed, so name another stream or move its messages"
                )
            }
            Self::ConsumerDiffers { handler, stream, consumer, differences } => {
                let listed = Listed(differences);
                write!(
                    f,
                    "`{handler}`: consumer `{consumer}` of stream `{stream}` exists and differs: {listed}; nothing was changed; "
                )?;
                if differences.iter().any(|it| it.field == "partitions") {
                    f.write_str("set the same number, or change it with the commands `plan` and `apply`")?;
                } else if differences.iter().all(Difference::is_changeable) {
                    write!(
                        f,
                        "change the handler's settings, or the consumer with `manage = \"update\"`, the command `apply` or `nats consumer edit {stream} {consumer}`"
                    )?;
                } else {
                    write!(
                        f,
                        "give the handler another `queue`, recreate the consumer at its position with the command `apply`, or delete it if its progress may be lost (`nats consumer rm {stream} {consumer}`)"
                    )?;
                }
                for difference in differences {
                    match (difference.field, &*difference.found, &*difference.wanted) {
                        ("partitions", ..) => f.write_str("; a key may be in another partition then, so that only `apply` changes the number, after all earlier messages have been handled")?,
                        ("max_deliver", ..) => f.write_str("; the server's `max_deliver` is a backstop for the handler's own, and a message that reaches it is never delivered again")?,
                        ("ack_policy", _, "all") => f.write_str("; an `ordered` handler acks many messages at once, and the ack policy of a consumer cannot be changed")?,
                        ("ack_policy", "all", _) => f.write_str("; the consumer was made for an `ordered` handler, and the ack policy of a consumer cannot be changed")?,
                        _ => {}
                    }
                }
                Ok(())
            }
            Self::ConsumerMissing { handler, stream, consumer, command } => write!(
                f,
                "`{handler}`: stream `{stream}` has no consumer `{consumer}`, and `manage` is `bind`, so that none is created; create it (`{command}`)"
            ),
            Self::WorkQueueOverlap { handler, stream, consumer, subject, other, other_subject } => write!(
                f,
                "`{handler}`: stream `{stream}` is a work queue, where a subject has one consumer, but `{subject}` of consumer `{consumer}` overlaps `{other_subject}` of consumer `{other}`; use one `queue`, subjects that do not overlap, or a stream with limits retention"
            ),
            Self::DeadLetterLoop { handler, subject, dead_letter } => write!(
                f,
                "`{handler}`: its dead letters go to `{dead_letter}`, which its own subject `{subject}` covers, so each would be delivered to it again; set `dead_letter` to another subject or to `false`"
            ),
            Self::DeadLetterStream { handler, stream } => write!(
                f,
                "`{handler}`: its dead letters would go to stream `{stream}`, which may not keep them (it has interest or work-queue retention, or `no_ack`); set `dead_letter` to a subject of a stream with limits retention, or to `false`"
            ),
            Self::OutputLoop { handler, subject, output } => write!(
                f,
                "`{handler}`: publish: its outputs go to `{output}`, which its own subject `{subject}` covers, so each would be delivered to it again, without end; publish to another subject, or narrow `subject`"
            ),
            Self::OutputStream { handler, stream } => write!(
                f,
                "`{handler}`: its outputs would go to stream `{stream}`, which acknowledges no message (`no_ack`), so that it is never known whether they are stored; turn `no_ack` off on the server"
            ),
            Self::OrderedWorkQueue { handler, stream } => write!(
                f,
                "`{handler}`: ordered: stream `{stream}` is a work queue (`retention` is workqueue), which accepts no ack for several messages; read a stream with limits or interest retention, {ORDERED_FIX}"
            ),
            Self::OrderedStream { handler, stream, field } => write!(
                f,
                "`{handler}`: ordered: stream `{stream}` has `{field}`, by which a message can leave it before older ones, and the server then counts those as acked too; read a stream without it, {ORDERED_FIX}"
            ),
            Self::ServerTooOld { handler, consumer, version } => {
                write!(f, "`{handler}`: one instance at a time receives its messages, but the server")?;
                match version {
                    Some(version) => write!(f, ", {version},")?,
                    None => write!(f, " that made consumer `{consumer}`")?,
                }
                f.write_str(" cannot pin a consumer to one client, which needs 2.11; use a newer server, or set `single_instance` if there is never more than one process")
            }
            Self::Deleted { purpose, stream, consumer: None } => {
                write!(f, "{purpose}: stream `{stream}` was deleted concurrently; start again")
            }
            Self::Deleted { purpose, stream, consumer: Some(consumer) } => {
                write!(f, "{purpose}: consumer `{consumer}` of stream `{stream}` was deleted concurrently; start again")
            }
            Self::Failed { error, .. } => error.fmt(f),
            Self::StillRunning { handler, grace, cancelled } => {
                let end =
                    if *cancelled { "it was cancelled" } else { "it blocks and cannot be cancelled, so it continues" };
                write!(
                    f,
                    "`{handler}` was still running when the grace period of {grace:?} ended; {end}, and its message was handed back"
                )
            }
            Self::NeverYields { handler } => write!(
                f,
                "`{handler}` does not stop: its handler computes without an await; set `blocking = true`, which runs it on a thread of its own"
            ),
        }
    }
}

impl StdError for Problem {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Failed { error, .. } => error.source(),
            _ => None,
        }
    }
}

/// The first of several names or subjects, with the number of the others.
pub(crate) struct Few<'a>(pub(crate) &'a [String]);

impl fmt::Display for Few<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 5;
        let (shown, others) = self.0.split_at(self.0.len().min(SHOWN));
        write!(f, "{shown:?}")?;
        if others.is_empty() { Ok(()) } else { write!(f, " and {} more", others.len()) }
    }
}

/// A state for which no value was registered; the cause of a rejection, and of [`Problem::MissingState`].
#[derive(Debug)]
pub(crate) struct MissingState {
    pub(crate) type_name: &'static str,
}

impl fmt::Display for MissingState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.type_name;
        write!(
            f,
            "asks for `State<{name}>`, but none was registered; call `.state(..)` on the broker's builder with a `{name}`"
        )
    }
}

impl StdError for MissingState {}

#[cfg(test)]
mod tests {
    use super::*;

    fn differs(fields: &[(&'static str, &str, &str, bool)]) -> Problem {
        let difference = |&(field, found, wanted, changeable): &(&'static str, &str, &str, bool)| Difference {
            field,
            found: found.to_owned(),
            wanted: wanted.to_owned(),
            changeable,
        };
        Problem::ConsumerDiffers {
            handler: "app::bill".to_owned(),
            stream: "SHOP".to_owned(),
            consumer: "billing".to_owned(),
            differences: fields.iter().map(difference).collect(),
        }
    }

    #[test]
    fn text_of_a_consumer_names_each_field_and_one_fix() {
        let problem = differs(&[("ack_wait", "60s", "30s", true), ("headers_only", "true", "false", true)]);
        assert_eq!(
            problem.to_string(),
            "`app::bill`: consumer `billing` of stream `SHOP` exists and differs: ack_wait is 60s on the server, 30s here; \
             headers_only is true on the server, false here; nothing was changed; \
             change the handler's settings, or the consumer with `manage = \"update\"`, the command `apply` or `nats consumer edit SHOP billing`"
        );
        let unchangeable = differs(&[("ack_wait", "60s", "30s", true), ("ack_policy", "all", "explicit", false)]);
        let text = unchangeable.to_string();
        assert!(text.contains("give the handler another `queue`"), "{text}");
        assert!(
            text.ends_with("made for an `ordered` handler, and the ack policy of a consumer cannot be changed"),
            "{text}"
        );
        assert!(!text.contains("consumer edit"), "{text}");
    }

    #[test]
    fn text_of_a_shared_consumer_says_what_would_happen() {
        let shared = |differing: &[&'static str]| {
            Problem::SharedDurable {
                handler: "app::bill".to_owned(),
                location: "src/a.rs:1".to_owned(),
                other: "app::mail".to_owned(),
                other_location: "src/b.rs:2".to_owned(),
                consumer: "billing".to_owned(),
                differing: differing.to_vec(),
            }
            .to_string()
        };
        let start = "`app::bill` (src/a.rs:1) and `app::mail` (src/b.rs:2) use the same consumer `billing`";
        let end = ", so each message would reach only one of them; give each its own `queue`";
        assert_eq!(shared(&[]), format!("{start}{end}"));
        assert_eq!(shared(&["subject", "ack_wait"]), format!("{start} with a different subject, ack_wait{end}"));
    }

    #[test]
    fn text_of_a_missing_stream_has_the_command_that_creates_it() {
        let missing = |stream: Option<&str>, default_name: Option<&str>| {
            Problem::StreamMissing {
                purpose: Purpose::DeadLetters("app::bill".to_owned()),
                subject: "dlq.SHOP.billing".to_owned(),
                stream: stream.map(str::to_owned),
                default_name: default_name.map(str::to_owned),
                command: None,
            }
            .to_string()
        };
        assert!(
            missing(Some("SHOP"), Some("DLQ")).starts_with("the dead letters of `app::bill`: stream `SHOP` does not")
        );
        for (text, name) in [
            (missing(Some("SHOP"), Some("DLQ")), "SHOP"),
            (missing(None, Some("DLQ")), "DLQ"),
            (missing(None, None), "NAME"),
        ] {
            assert!(text.contains(&format!("`nats stream add {name} --subjects 'dlq.SHOP.billing'`")), "{text}");
        }
    }

    #[test]
    fn handler_is_known_where_a_stream_is_needed_for_it() {
        let deleted = |purpose| Problem::Deleted { purpose, stream: "SHOP".to_owned(), consumer: None };
        let name = || "app::bill".to_owned();
        assert_eq!(deleted(Purpose::Handler(name())).handler(), Some("app::bill"));
        assert_eq!(deleted(Purpose::DeadLetters(name())).handler(), Some("app::bill"));
        assert_eq!(deleted(Purpose::Publish("orders.created".to_owned())).handler(), None);
        assert_eq!(deleted(Purpose::Declared).handler(), None);
    }
}

//! The stream that the server derives from another one, to add the number of the partition to each message.
//!
//! It is a work queue of copies: the server removes a copy once it was handled. Each copy has the subject
//! `partition.<number>`, because a consumer whose filter has a wildcard is slower, and names its original in a header.

use std::time::{Duration, SystemTime};

use async_nats::jetstream::stream::{self, DiscardPolicy, RetentionPolicy, Source, SubjectTransform};

use super::drift;
use super::streams::{Aim, Streams};
use super::unfit;
use crate::declaration::Declaration;
use crate::error::api::ApiError;
use crate::error::problem::{Problem, Purpose};
use crate::error::{Error, ErrorKind};
use crate::key::Place;
use crate::partition::{DERIVED, derived_stream};
use crate::pattern::{Placeholder, filter, tokens};
use crate::plan::{Deliver, Manage, Plan};
use crate::transport::Transport;

/// The maximum number of copies that are not handled; the server copies no more until some are.
const MAX_MESSAGES: i64 = 100_000;

/// The shortest `duplicate_window` that the server accepts.
const DUPLICATE_WINDOW: Duration = Duration::from_millis(100);

/// The `max_msg_size` of a stream that copies nothing while its number of partitions is changed.
///
/// Each copy has a header that is longer, so that the server refuses it, and tries it again later.
const HALTED: i32 = 1;

/// Returns `true` if a handler has partitions in this stream, which the server derives from another one.
pub(super) fn is_derived(config: &stream::Config) -> bool {
    config.metadata.contains_key(drift::PARTITIONS_ENTRY)
}

/// Returns `true` if an update changes what is copied, or ends a halt; without a start position, the server would copy from
/// the beginning.
pub(super) fn changes_copies(found: &stream::Config, wanted: &stream::Config) -> bool {
    is_derived(wanted) && (found.sources != wanted.sources || found.max_message_size == HALTED)
}

/// Returns the configuration without `max_msg_size`, which changes while the number of partitions is changed.
pub(super) fn without_limit(mut config: stream::Config) -> stream::Config {
    if is_derived(&config) {
        config.max_message_size = -1;
    }
    config
}

/// Returns the configuration without what only lasts while the number of partitions is changed.
pub(super) fn unhalted(mut config: stream::Config) -> stream::Config {
    if is_derived(&config) && config.max_message_size == HALTED {
        config.max_message_size = -1;
    }
    config
}

/// Stops the copying, so that the messages of the former partitions end.
pub(super) async fn halt(transport: &Transport, found: &stream::Config) -> Result<(), ApiError> {
    let halted = stream::Config { max_message_size: HALTED, ..found.clone() };
    if halted == *found { Ok(()) } else { transport.update_stream(found, &halted).await }
}

/// Continues the copying with the former number of partitions.
pub(super) async fn resume(transport: &Transport, found: &stream::Config) -> Result<(), ApiError> {
    let halted = stream::Config { max_message_size: HALTED, ..found.clone() };
    transport.update_stream(&halted, &unhalted(found.clone())).await
}

/// Sets the position from which the server continues to copy after an update; without it, it would copy from the beginning.
///
/// A time is preferred to a sequence: if the origin is deleted and created again, its sequences restart at 1, and messages
/// below a start sequence would not be copied.
pub(super) async fn continue_copying(transport: &Transport, wanted: &mut stream::Config) -> Result<(), Error> {
    let name = &wanted.name;
    let copied = transport.copied_sequence(name).await;
    let copied = copied.map_err(|error| error.into_error(&format!("reading the last copy of stream `{name}`")))?;
    let Some(copied) = copied else {
        if transport.last_assigned_sequence(name).await? == 0 {
            return Ok(());
        }
        let text = format!(
            "the server does not tell which message stream `{name}` has copied last, so that it would copy all again; all its servers need nats-server 2.15"
        );
        return Err(Error::new(ErrorKind::Plan, text));
    };
    for source in wanted.sources.iter_mut().flatten() {
        (source.start_sequence, source.start_time) = match transport.time_of(&source.name, copied + 1).await {
            Ok(Some(time)) => (None, Some(time.into())),
            Ok(None) | Err(_) => (Some(copied + 1), None),
        };
    }
    Ok(())
}

/// A message of an origin that a stream is to copy, and has not copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Uncopied {
    pub(crate) origin: String,
    pub(crate) sequence: u64,
    /// `true` if the stream copies nothing, because a change of its partitions was interrupted.
    pub(crate) is_halted: bool,
    /// `true` if the stream has as many copies as it may have.
    pub(crate) is_full: bool,
}

/// Returns the first message that a stream has not copied yet; `None` if there is none, or if it is not known.
pub(crate) async fn next_uncopied(transport: &Transport, stream: &str) -> Result<Option<Uncopied>, Error> {
    let failed = |error: ApiError| error.into_error(&format!("reading stream `{stream}`"));
    let Some(config) = transport.stream(stream).await.map_err(failed)? else { return Ok(None) };
    let copied = transport.copied_sequence(stream).await.map_err(failed)?;
    let Some(source) = config.sources.iter().flatten().next() else { return Ok(None) };
    // What was stored before the start is never copied.
    if copied.is_none() && source.start_time.is_some() {
        return Ok(None);
    }
    let begin = (copied.unwrap_or_default() + 1).max(source.start_sequence.unwrap_or_default());
    let mut next: Option<u64> = None;
    for transform in &source.subject_transforms {
        let found = transport.next_stored_on(&source.name, begin, &transform.source).await?;
        next = next.into_iter().chain(found.map(|stored| stored.sequence)).min();
    }
    let Some(sequence) = next else { return Ok(None) };
    let count = transport.count_messages(stream, ">").await?.unwrap_or_default();
    let is_full = config.max_messages > 0 && count >= config.max_messages as u64;
    let is_halted = config.max_message_size == HALTED;
    Ok(Some(Uncopied { origin: source.name.clone(), sequence, is_halted, is_full }))
}

/// Returns the number of the wildcard that stands for the key in the pattern of a subject, from 1; `None` if the key is not one
/// of its tokens.
pub(super) fn key_token(plan: &Plan, subject: &str) -> Option<usize> {
    let Place::Placeholder(name) = &plan.key.as_ref()?.0 else { return None };
    let is_key = |token: &&str| Placeholder::parse(token).is_some_and(|it| it.name == name && !it.is_rest);
    tokens(subject).find(is_key)?;
    let before = tokens(subject).take_while(|token| !is_key(token));
    Some(1 + before.filter(|token| filter(token) == "*").count())
}

/// Returns the transforms by which the server computes the number of the partition.
fn transforms(handler: &Declaration) -> Vec<SubjectTransform> {
    let plan = &handler.plan;
    let partitions = plan.partitions.unwrap_or(1);
    let of_subject = |subject: &str| {
        // The rules require that it is a token.
        let key = key_token(plan, subject).unwrap_or(1);
        let destination = format!("{DERIVED}.{{{{partition({partitions},{key})}}}}");
        SubjectTransform { source: filter(subject).into_owned(), destination }
    };
    handler.subjects().iter().map(of_subject).collect()
}

/// Returns the configuration of the derived stream of a handler; `last` is the last sequence of the origin.
fn config(handler: &Declaration, origin: &stream::Config, last: u64) -> Result<stream::Config, Problem> {
    let plan = handler.whole().plan;
    let mut source = Source { name: origin.name.clone(), subject_transforms: transforms(handler), ..Source::default() };
    match plan.deliver {
        Deliver::All => {}
        // By the sequence, because the clock of the server may differ.
        Deliver::New => source.start_sequence = Some(last + 1),
        Deliver::FromTime(time) => source.start_time = Some(time.max(SystemTime::UNIX_EPOCH).into()),
        Deliver::FromSequence(sequence) => source.start_sequence = Some(sequence),
        Deliver::Last | Deliver::LastPerSubject => {
            let problem = "begins with the last message, which the server cannot begin to copy with; use `all` or `new`, or write `{partition}` for a token of the subject";
            return Err(Problem::setting(&handler.name, "deliver", problem));
        }
    }
    let partitions = plan.partitions.unwrap_or(1).to_string();
    Ok(stream::Config {
        name: derived_stream(&origin.name, handler.queue()),
        retention: RetentionPolicy::WorkQueue,
        discard: DiscardPolicy::New,
        max_messages: MAX_MESSAGES,
        max_message_size: -1,
        storage: origin.storage,
        num_replicas: origin.num_replicas,
        // The server leaves out a message whose id it knows from another one, and that may be older in the origin.
        duplicate_window: DUPLICATE_WINDOW,
        allow_direct: true,
        sources: Some(vec![source]),
        metadata: [(drift::PARTITIONS_ENTRY.to_owned(), partitions)].into(),
        ..stream::Config::default()
    })
}

/// Returns the configuration on the server with what a handler needs; the limits are those of the operator.
fn merged(found: &stream::Config, wanted: &stream::Config) -> stream::Config {
    let begins = found.sources.iter().flatten().next();
    let source = |source: &Source| Source {
        start_sequence: begins.and_then(|it| it.start_sequence),
        start_time: begins.and_then(|it| it.start_time),
        ..source.clone()
    };
    let mut merged = unhalted(found.clone());
    merged.retention = wanted.retention;
    merged.sources = wanted.sources.as_ref().map(|sources| sources.iter().map(source).collect());
    merged.metadata.extend(wanted.metadata.clone());
    merged
}

impl Streams<'_> {
    /// Finds or plans the derived stream of a handler whose messages are in the stream `origin`.
    pub(super) async fn find_derived(&mut self, handler: &Declaration, origin: &str) -> Result<String, Problem> {
        let purpose = Purpose::Handler(handler.name.clone());
        let Some(config_of_origin) = self.config(origin).await else {
            return Err(Problem::Deleted { purpose, stream: origin.to_owned(), consumer: None });
        };
        if config_of_origin.retention != RetentionPolicy::Limits {
            let problem = format!(
                "has no place in the subject, so that the server would copy the messages of stream `{origin}` to add the number of the partition, but only those of a stream with `retention` limits can be copied; write `{{partition}}` for a token of the subject"
            );
            return Err(Problem::setting(&handler.name, "partitions", &problem));
        }
        if let Some(version) = self.transport.too_old_to_derive() {
            let problem = format!(
                "has no place in the subject, so that the server would copy the messages of stream `{origin}` to add the number of the partition, for which {version} is too old: it leaves messages out if it is started again while no copy is left; use nats-server 2.15 or later, or write `{{partition}}` for a token of the subject"
            );
            return Err(Problem::setting(&handler.name, "partitions", &problem));
        }
        let exists = self.known.get(origin).is_none_or(|known| known.exists);
        let last = match handler.whole().plan.deliver {
            Deliver::New if exists => {
                let last = self.transport.last_assigned_sequence(origin).await;
                last.map_err(|error| Problem::failed(&purpose, error))?
            }
            _ => 0,
        };
        let wanted = config(handler, &config_of_origin, last)?;
        let name = wanted.name.clone();
        if self.known.contains_key(&name) || self.load(&purpose, &name).await? {
            self.compare_derived(handler, &wanted)?;
        } else if self.creates() {
            self.plan(&purpose, wanted);
        } else {
            return Err(unfit::unbound(&purpose, &handler.subjects().to_string(), &wanted));
        }
        Ok(name)
    }

    /// Compares the derived stream of a handler with the one on the server; a start never changes it.
    fn compare_derived(&mut self, handler: &Declaration, wanted: &stream::Config) -> Result<(), Problem> {
        let Some(known) = self.known.get_mut(&wanted.name) else { return Ok(()) };
        let origins = |config: &stream::Config| -> Vec<String> {
            config.sources.iter().flatten().map(|source| source.name.clone()).collect()
        };
        if !is_derived(&known.config) || origins(&known.config) != origins(wanted) || !known.config.subjects.is_empty()
        {
            let problem = format!(
                "needs the stream `{}` for the copies, but one of this name exists that has something else; set another `queue`, or write `{{partition}}` for a token of the subject",
                wanted.name
            );
            return Err(Problem::setting(&handler.name, "partitions", &problem));
        }
        let merged = merged(&known.config, wanted);
        let differences = drift::stream(&known.config, &merged);
        let is_only_halted = differences.iter().all(|difference| difference.field == "max_msg_size");
        if differences.is_empty() || (is_only_halted && self.aim == Aim::Start) {
            if is_only_halted && !differences.is_empty() && handler.is_first() {
                tracing::warn!(
                    handler = handler.name,
                    stream = wanted.name,
                    "the stream copies nothing (`max_msg_size` is 1), because a change of its partitions was interrupted; continue it with the commands `plan` and `apply`"
                );
            }
            return Ok(());
        }
        let changes = match self.aim {
            Aim::Start => false,
            Aim::Plan => self.manage != Manage::Bind && differences.iter().all(|it| it.changeable),
            Aim::Export => true,
        };
        if changes {
            known.replaces = Some(std::mem::replace(&mut known.config, merged));
            return Ok(());
        }
        let [found, needed] = [&known.config, wanted].map(described);
        let problem = format!(
            "needs that stream `{}` {needed}, but it {found}; nothing was changed; set the same, or change the stream with the commands `plan` and `apply`, which do not copy anything twice",
            wanted.name
        );
        Err(Problem::setting(&handler.name, "partitions", &problem))
    }
}

/// Returns what a derived stream does, for a text.
fn described(config: &stream::Config) -> String {
    let number = config.metadata.get(drift::PARTITIONS_ENTRY).map_or("unknown", String::as_str);
    let transforms = config.sources.iter().flatten().flat_map(|source| &source.subject_transforms);
    let copied: Vec<_> = transforms.map(|it| format!("`{}`", it.source)).collect();
    let retention = if config.retention == RetentionPolicy::WorkQueue { "" } else { ", and is no work queue" };
    format!("copies {} in {number} partitions{retention}", copied.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn number_is_that_of_the_token_of_the_key() {
        let mut plan = Plan::new(["orders.*.{customer}.created", "refunds.{customer}.{id}"], "billing");
        (plan.key, plan.partitions) = (Some("{customer}".into()), Some(12));
        let name = "app::bill".to_owned();
        let whole = Declaration {
            name,
            is_closure: false,
            location: String::new(),
            description: "",
            plan,
            partition: None,
            member: None,
            events: Vec::new(),
        };
        let partitions = whole.consumers();
        let [.., last] = &*partitions else { panic!() };
        assert!(last.is_derived());
        assert_eq!((last.plan.subject.to_string().as_str(), &*last.plan.queue), ("partition.11", "billing-11"));
        let transforms = transforms(last);
        let pairs: Vec<_> = transforms.iter().map(|it| (it.source.as_str(), it.destination.as_str())).collect();
        let expected =
            [("orders.*.*.created", "partition.{{partition(12,2)}}"), ("refunds.*.*", "partition.{{partition(12,1)}}")];
        assert_eq!(pairs, expected);
    }
}

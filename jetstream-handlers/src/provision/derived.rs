//! The stream that the server derives from another one, to add the number of the partition to each message.
//!
//! It is a work queue of copies: the server removes a copy once it was handled. Each copy has the subject
//! `partition.<number>`, because a consumer whose filter has a wildcard is slower, and names its original in a header.

use std::time::{Duration, SystemTime};

use async_nats::jetstream::stream::{self, DiscardPolicy, RetentionPolicy, Source, SubjectTransform};

use super::halt::unhalted;
use super::streams::{Aim, Streams};
use super::{drift, unfit};
use crate::declaration::Declaration;
use crate::error::problem::{Problem, Purpose};
use crate::key::Place;
use crate::partition::{DERIVED, derived_stream};
use crate::pattern::{filter, is_token_of, tokens};
use crate::plan::{Deliver, Manage, Plan};

/// The maximum number of copies that are not handled; the server copies no more until some are.
const MAX_MESSAGES: i64 = 100_000;

/// The shortest `duplicate_window` that the server accepts.
const DUPLICATE_WINDOW: Duration = Duration::from_millis(100);

/// Returns the number of the wildcard that stands for the key in the pattern of a subject, from 1; `None` if the key is not one
/// of its tokens.
pub(super) fn key_token(plan: &Plan, subject: &str) -> Option<usize> {
    let Place::Placeholder(name) = &plan.key.as_ref()?.0 else { return None };
    let key = tokens(subject).position(|token| is_token_of(token, name))?;
    Some(1 + tokens(subject).take(key).filter(|token| filter(token) == "*").count())
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

/// Returns the configuration of the derived stream of a handler, which copies from the beginning.
fn config(handler: &Declaration, origin: &stream::Config) -> stream::Config {
    let plan = handler.whole_plan();
    let source = Source { name: origin.name.clone(), subject_transforms: transforms(handler), ..Source::default() };
    let partitions = plan.partitions.unwrap_or(1).to_string();
    stream::Config {
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
    }
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
        if matches!(handler.whole_plan().deliver, Deliver::Last | Deliver::LastPerSubject) {
            let problem = "begins with the last message, which the server cannot begin to copy with; use `all` or `new`, or write `{partition}` for a token of the subject";
            return Err(Problem::setting(&handler.name, "deliver", problem));
        }
        let mut wanted = config(handler, &config_of_origin);
        let name = wanted.name.clone();
        if self.known.contains_key(&name) || self.load(&purpose, &name).await? {
            self.compare_derived(handler, &wanted)?;
        } else if self.creates() {
            for source in wanted.sources.iter_mut().flatten() {
                self.begin_copying(handler, source).await?;
            }
            self.plan(&purpose, wanted);
        } else {
            return Err(unfit::unbound(&purpose, &handler.subjects().to_string(), &wanted));
        }
        Ok(name)
    }

    /// Sets the position in the origin from which a new stream copies.
    async fn begin_copying(&self, handler: &Declaration, source: &mut Source) -> Result<(), Problem> {
        match handler.whole_plan().deliver {
            Deliver::All | Deliver::Last | Deliver::LastPerSubject => {}
            Deliver::FromTime(time) => source.start_time = Some(time.max(SystemTime::UNIX_EPOCH).into()),
            Deliver::FromSequence(sequence) => source.start_sequence = Some(sequence),
            // By the sequence, because the clock of the server may differ.
            Deliver::New => {
                let last = match self.known.get(&source.name) {
                    Some(origin) if !origin.exists => Ok(0),
                    _ => self.transport.last_assigned_sequence(&source.name).await,
                };
                let failed = |error| Problem::failed(&Purpose::Handler(handler.name.clone()), error);
                source.start_sequence = Some(last.map_err(failed)? + 1);
            }
        }
        Ok(())
    }

    /// Compares the derived stream of a handler with the one on the server; a start never changes it.
    fn compare_derived(&mut self, handler: &Declaration, wanted: &stream::Config) -> Result<(), Problem> {
        let Some(known) = self.known.get_mut(&wanted.name) else { return Ok(()) };
        let origins = |config: &stream::Config| -> Vec<String> {
            config.sources.iter().flatten().map(|source| source.name.clone()).collect()
        };
        if !drift::is_derived(&known.config)
            || origins(&known.config) != origins(wanted)
            || !known.config.subjects.is_empty()
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
        let whole = Declaration::for_test("app::bill", plan);
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

//! The making of a plan from an inspection of the server.

use std::collections::BTreeSet;

use async_nats::jetstream::consumer;
use async_nats::jetstream::stream::{self, RetentionPolicy};
use serde::Serialize;
use serde_json::Value;

use super::consumers::{Compared, consumer_config};
use super::inspect::{Inspection, inspect};
use super::plan::{Change, ChangeAction, ChangeField, ChangeObject, ProvisionPlan, Risk};
use super::streams::{Aim, KnownStream};
use super::{drift, halt, ownership, preflight, risk};
use crate::declaration::Declaration;
use crate::delivery::{Binding, FoundConsumer};
use crate::error::difference::Difference;
use crate::error::problem::{Problem, Purpose};
use crate::error::{Error, ErrorKind};
use crate::partition::queue_of_partition;
use crate::plan::{Deliver, Manage};
use crate::text::fingerprint;
use crate::transport::Transport;

/// The handlers of the program, by which a consumer without a handler is known.
#[derive(Debug, Default)]
pub(crate) struct Program {
    /// The crates of the handlers that are linked into the program.
    pub(crate) crates: BTreeSet<String>,
    /// The queues of all handlers that are linked or run.
    pub(crate) queues: BTreeSet<String>,
}

/// Returns what has to change on the server; `problems` are those that were found without it.
pub(crate) async fn plan(
    transport: &Transport,
    handlers: &[&Declaration],
    problems: Vec<Problem>,
    program: &Program,
) -> Result<ProvisionPlan, Error> {
    let inspection = inspect(transport, handlers, Aim::Plan).await;
    let mut warnings = Vec::new();
    let created: Vec<_> = inspection.missing_streams().map(|known| &known.config).collect();
    if !created.is_empty()
        && let Some(account) = transport.account().await
    {
        warnings.extend(preflight::warnings(&account, &created));
    }
    let mut changes = stream_changes(transport, &inspection).await?;
    changes.extend(consumer_changes(transport, &inspection));
    changes.extend(orphans(transport, &inspection, program, &mut warnings).await);
    let blocked: Vec<_> = problems.iter().chain(&inspection.problems).map(blocked).collect();
    changes.retain(|change| !blocked.iter().any(|other| other.is_same(change)));
    changes.extend(blocked);
    changes.sort_by_key(rank);
    Ok(ProvisionPlan { warnings, ..ProvisionPlan::new(transport.identity().await, changes) })
}

/// Returns the place of a change in the order of all.
pub(super) fn rank(change: &Change) -> usize {
    match (change.action, change.object) {
        (ChangeAction::Create, ChangeObject::Stream) => 0,
        (ChangeAction::Update, ChangeObject::Stream) => 1,
        (ChangeAction::Create, _) => 2,
        (ChangeAction::Update, _) => 3,
        (ChangeAction::Recreate, _) => 4,
        (ChangeAction::Delete, _) => 5,
        (ChangeAction::Blocked, _) => 6,
        (ChangeAction::Orphan, _) => 7,
        (ChangeAction::Unchanged, _) => 8,
    }
}

async fn stream_changes(transport: &Transport, inspection: &Inspection<'_>) -> Result<Vec<Change>, Error> {
    let mut known: Vec<_> = inspection.streams.values().collect();
    // A stream is created after those that it copies.
    known.sort_by_key(|known| (known.config.mirror.is_some() || known.config.sources.is_some(), &known.config.name));
    let mut changes = Vec::new();
    for KnownStream { config, exists, purpose, replaces, .. } in known {
        let mut change = Change::new(ChangeObject::Stream, ChangeAction::Unchanged);
        change.stream = Some(config.name.clone());
        change.handler = match purpose {
            Purpose::Handler(name) | Purpose::DeadLetters(name) | Purpose::Outputs(name) => Some(name.clone()),
            Purpose::Publish(_) | Purpose::Declared => None,
        };
        if !exists {
            change.action = ChangeAction::Create;
            change.risk = Some(Risk::Safe);
            change.consequence = Some(stored_by(config));
            change.config = Some(json(config));
        } else if let Some(found) = replaces {
            change.action = ChangeAction::Update;
            let differences = drift::stream(found, config);
            change.fields = differences.iter().map(|it| risk::of_stream(it, found, config)).collect();
            change.risk = change.fields.iter().map(|field| field.risk).max();
            change.found = fingerprint_of_stream(transport, found).await?;
            let metadata = ownership::lasting(&config.metadata);
            change.config = Some(json(&stream::Config { metadata, ..config.clone() }));
        }
        changes.push(change);
    }
    Ok(changes)
}

fn consumer_changes(transport: &Transport, inspection: &Inspection<'_>) -> Vec<Change> {
    let mut changes = Vec::new();
    for index in &inspection.missing_consumers {
        let (handler, binding) = &inspection.bindings[*index];
        let mut change = of_consumer(ChangeAction::Create, handler, binding);
        change.risk = Some(Risk::Safe);
        change.consequence = Some(format!("it begins with {}", beginning(handler.plan.deliver)));
        change.config = Some(json(&consumer_config(handler)));
        changes.push(change);
    }
    for (index, compared) in &inspection.found {
        let (handler, binding) = &inspection.bindings[*index];
        let manage = handler.plan.manage.unwrap_or(transport.settings().manage);
        changes.push(match manage {
            // A difference is a problem.
            Manage::Bind => of_consumer(ChangeAction::Unchanged, handler, binding),
            Manage::Create | Manage::Update => {
                let retention = inspection.streams.get(&binding.stream).map(|known| known.config.retention);
                let has_owner = transport.has_metadata() && !handler.is_closure;
                let owner = has_owner.then(|| owner(&compared.consumer.config, &handler.name)).flatten();
                changed_consumer(handler, binding, compared, retention.unwrap_or(RetentionPolicy::Limits), owner)
            }
        });
    }
    changes
}

fn of_consumer(action: ChangeAction, handler: &Declaration, binding: &Binding) -> Change {
    let mut change = Change::new(ChangeObject::Consumer, action);
    change.stream = Some(binding.stream.clone());
    change.consumer = Some(binding.consumer.clone());
    change.handler = Some(handler.name.clone());
    change
}

fn changed_consumer(
    handler: &Declaration,
    binding: &Binding,
    Compared { consumer, differences }: &Compared,
    retention: RetentionPolicy,
    owner: Option<ChangeField>,
) -> Change {
    let (found, wanted) = (&consumer.config, consumer_config(handler));
    let mut change = of_consumer(ChangeAction::Unchanged, handler, binding);
    change.fields = differences.iter().map(|it| risk::of_consumer(it, found, &wanted, consumer.delivered)).collect();
    for field in change.fields.iter_mut().filter(|field| field.field == drift::PARTITIONS && handler.is_derived()) {
        field.consequence = format!(
            "the copies that follow are in {} partitions; keep this handler running with {} partitions while the plan is applied, and start the next version then",
            field.wanted, field.found
        );
    }
    change.fields.extend(owner);
    if change.fields.is_empty() {
        return change;
    }
    change.found = Some(fingerprint_of_consumer(consumer));
    change.risk = change.fields.iter().map(|field| field.risk).max();
    let mut config = drift::changed_consumer(found, &wanted, differences);
    if differences.iter().all(Difference::is_changeable) {
        change.action = ChangeAction::Update;
    } else if retention == RetentionPolicy::Interest {
        change.action = ChangeAction::Blocked;
        change.problem = Some(format!(
            "the consumer cannot be changed, and its stream has interest retention, so that its messages would be removed with it; set another `queue` for `{}`, and delete the consumer once it has handled its messages",
            handler.name
        ));
        return change;
    } else {
        change.action = ChangeAction::Recreate;
        change.risk = Some(Risk::Destructive);
        change.consequence = Some(repeated(consumer));
        config = recreated(found, wanted);
    }
    config.metadata.extend(consumer_config(handler).metadata);
    config.metadata = ownership::lasting(&config.metadata);
    change.config = Some(json(&config));
    change
}

/// Returns the configuration with which a consumer is created again: that of the handler, and what operators have set.
fn recreated(found: &consumer::Config, wanted: consumer::Config) -> consumer::Config {
    let is_pull = found.deliver_subject.is_none();
    let metadata = found.metadata.iter().filter(|(key, _)| ownership::survives(key));
    consumer::Config {
        description: found.description.clone(),
        metadata: metadata.map(|(key, value)| (key.clone(), value.clone())).collect(),
        sample_frequency: found.sample_frequency,
        num_replicas: found.num_replicas,
        memory_storage: found.memory_storage,
        inactive_threshold: found.inactive_threshold,
        pause_until: found.pause_until,
        max_waiting: if is_pull { found.max_waiting } else { 0 },
        ..wanted
    }
}

/// Returns which messages a consumer that is created again delivers again.
fn repeated(consumer: &FoundConsumer) -> String {
    let (first, last) = (consumer.ack_floor + 1, consumer.delivered);
    let stop = "stop the replicas of the former version before";
    if last < first {
        return format!(
            "it is deleted, and created again from stream sequence {first} on; no message that was handled so far is handled again, if you {stop}"
        );
    }
    format!(
        "it is deleted, and created again from stream sequence {first} on; of the messages {first} to {last}, those that were handled already are handled again; {stop}"
    )
}

/// Returns the change of the entry that names the handler of a consumer.
fn owner(found: &consumer::Config, handler: &str) -> Option<ChangeField> {
    let owner = found.metadata.get(ownership::HANDLER);
    (owner.map(String::as_str) != Some(handler)).then(|| ChangeField {
        field: "metadata".to_owned(),
        found: owner.map_or("none".to_owned(), |owner| format!("{}={owner}", ownership::HANDLER)),
        wanted: format!("{}={handler}", ownership::HANDLER),
        risk: Risk::Safe,
        consequence: "the consumer is known as that of this handler".to_owned(),
    })
}

/// Returns the consumers on the streams of this program that belong to a handler which it does not have any more.
async fn orphans(
    transport: &Transport,
    inspection: &Inspection<'_>,
    program: &Program,
    warnings: &mut Vec<String>,
) -> Vec<Change> {
    let mut orphans = Vec::new();
    for known in inspection.streams.values().filter(|known| known.exists) {
        let stream = &known.config.name;
        let consumers = match transport.found_consumers(stream).await {
            Ok(consumers) => consumers,
            Err(error) => {
                let error = error.into_error(&format!("listing the consumers of stream `{stream}`"));
                warnings.push(format!("consumers without a handler are not known: {error}"));
                continue;
            }
        };
        for consumer in consumers {
            let Some(owner) = consumer.config.metadata.get(ownership::HANDLER) else { continue };
            let krate = owner.split("::").next().unwrap_or_default();
            let is_bound = inspection
                .bindings
                .iter()
                .any(|(_, binding)| binding.stream == *stream && binding.consumer == consumer.name());
            let is_partition = consumer.config.metadata.contains_key(drift::PARTITIONS_ENTRY);
            let is_surplus = is_partition && has_partitions(inspection, stream, consumer.name());
            let is_needed = program.queues.contains(consumer.name()) && !is_surplus;
            if is_bound || is_needed || !program.crates.contains(krate) {
                continue;
            }
            let mut change = Change::new(ChangeObject::Consumer, ChangeAction::Orphan);
            change.stream = Some(stream.clone());
            change.consumer = Some(consumer.name().to_owned());
            change.handler = Some(owner.clone());
            change.risk = Some(Risk::Destructive);
            change.consequence = Some(if is_partition {
                format!(
                    "no handler of this program has the partition any more, and {} of its messages are left, which nothing handles if it is deleted; only `prune` deletes it",
                    consumer.left
                )
            } else {
                format!(
                    "no handler of this program has the queue any more; its position, stream sequence {}, is lost if it is deleted, which only `prune` does",
                    consumer.ack_floor
                )
            });
            change.found = Some(fingerprint_of_consumer(&consumer));
            orphans.push(change);
        }
    }
    orphans
}

/// Returns `true` if a handler on a stream has partitions, and the name of a consumer is that of one of them, whatever its
/// number is.
fn has_partitions(inspection: &Inspection<'_>, stream: &str, consumer: &str) -> bool {
    let of = queue_of_partition(consumer);
    inspection.bindings.iter().any(|(handler, binding)| {
        binding.stream == stream && handler.partition.is_some() && Some(handler.queue()) == of
    })
}

fn blocked(problem: &Problem) -> Change {
    let (object, stream, consumer) = match problem {
        Problem::StreamDiffers { stream, .. } => (ChangeObject::Stream, Some(stream), None),
        Problem::StreamMissing { stream: Some(stream), .. } => (ChangeObject::Stream, Some(stream), None),
        Problem::ConsumerDiffers { stream, consumer, .. } | Problem::ConsumerMissing { stream, consumer, .. } => {
            (ChangeObject::Consumer, Some(stream), Some(consumer))
        }
        _ => (ChangeObject::Handler, None, None),
    };
    let mut change = Change::new(object, ChangeAction::Blocked);
    change.stream = stream.cloned();
    change.consumer = consumer.cloned();
    change.handler = problem.handler().map(str::to_owned);
    change.problem = Some(problem.to_string());
    change
}

fn beginning(deliver: Deliver) -> String {
    match deliver {
        Deliver::All => "the first message of the stream".to_owned(),
        Deliver::New => "the first message that is stored from now on".to_owned(),
        Deliver::Last => "the last message of the stream".to_owned(),
        Deliver::LastPerSubject => "the last message of each subject".to_owned(),
        Deliver::FromSequence(sequence) => format!("stream sequence {sequence}"),
        Deliver::FromTime(_) => "the first message since the time that the handler sets".to_owned(),
    }
}

/// Returns what a stream that is created stores.
fn stored_by(config: &stream::Config) -> String {
    let sources = config.sources.iter().flatten();
    let copied: Vec<_> = sources
        .map(|source| {
            let filters: Vec<_> = source.subject_transforms.iter().map(|it| it.source.clone()).collect();
            format!("copies {} of stream `{}`", listed(&filters), source.name)
        })
        .collect();
    let listens = (!config.subjects.is_empty()).then(|| format!("stores {}", listed(&config.subjects)));
    let does: Vec<_> = listens.into_iter().chain(copied).collect();
    let mut text = format!("it {}", does.join(" and "));
    if drift::is_derived(config) {
        text.push_str(", each with the number of its partition, until it was handled");
    }
    text
}

fn listed(subjects: &[String]) -> String {
    subjects.iter().map(|subject| format!("`{subject}`")).collect::<Vec<_>>().join(", ")
}

/// Returns a fingerprint of a consumer on the server, which stays the same while handlers run.
pub(super) fn fingerprint_of_consumer(consumer: &FoundConsumer) -> String {
    let metadata = ownership::lasting(&consumer.config.metadata);
    let config = json(&consumer::Config { metadata, ..consumer.config.clone() });
    fingerprint(&format!("{}\n{:?}", canonical(&config), consumer.created))
}

/// Returns a fingerprint of a stream on the server; `None` if it does not exist any more.
pub(super) async fn fingerprint_of_stream(
    transport: &Transport,
    config: &stream::Config,
) -> Result<Option<String>, Error> {
    let created = match transport.stream_created(&config.name).await {
        Ok(Some(created)) => created,
        Ok(None) => return Ok(None),
        Err(error) if error.kind() == ErrorKind::StreamNotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let metadata = ownership::lasting(&config.metadata);
    let config = json(&stream::Config { metadata, ..halt::without_limit(config.clone()) });
    Ok(Some(fingerprint(&format!("{}\n{created:?}", canonical(&config)))))
}

pub(super) fn json(value: &impl Serialize) -> Value {
    serde_json::to_value(value).unwrap_or_default()
}

/// Returns a text with sorted keys, which another program may not have.
fn canonical(value: &Value) -> String {
    match value {
        Value::Object(fields) => {
            let fields: std::collections::BTreeMap<_, _> = fields.iter().collect();
            let fields: Vec<_> =
                fields.into_iter().map(|(key, value)| format!("{key:?}:{}", canonical(value))).collect();
            format!("{{{}}}", fields.join(","))
        }
        Value::Array(values) => values.iter().map(canonical).collect::<Vec<_>>().join(","),
        value => value.to_string(),
    }
}

//! The durable consumers of handlers: their configuration, their comparison and their creation.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_nats::jetstream::{ErrorCode, consumer};
use tokio::time::timeout;

use super::{commands, drift, ownership};
use crate::declaration::Declaration;
use crate::delivery::{Binding, FoundConsumer, Incarnations, Origin};
use crate::error::api::ApiError;
use crate::error::difference::{Difference, Listed};
use crate::error::problem::{Problem, Purpose};
use crate::error::{Error, ErrorKind};
use crate::plan::{Deliver, Manage};
use crate::transport::Transport;

/// The priority group of the consumer of an ordered handler, or of one with a key; each pull request names it.
const GROUP: &str = "ordered";

/// The priority group of a member of a group of the format `pcgroups`.
const GROUP_OF_MEMBERS: &str = "PCG";

/// The minimum `priority_timeout` of a member.
const MIN_PIN_TIMEOUT: Duration = Duration::from_secs(1);

/// The time without a pull request after which the server pins another worker instead of the active one.
///
/// Each pull request of the active worker restarts it, so it must be longer than the time between two requests.
/// With the server's default, no worker would receive messages for two minutes after the active one has crashed.
const PIN_TIMEOUT: Duration = Duration::from_secs(5);

impl Binding {
    /// Adopts the consumer on the server.
    pub(super) fn adopt(&mut self, FoundConsumer { config: found, created, .. }: FoundConsumer) {
        self.incarnations = Incarnations::of(created);
        self.ack_wait.set(found.ack_wait);
        self.max_ack_pending =
            usize::try_from(found.max_ack_pending).ok().filter(|bound| *bound > 0).unwrap_or(usize::MAX);
        self.config = Arc::new(found);
    }
}

/// Returns the configuration of a handler's consumer.
pub(crate) fn consumer_config(handler: &Declaration) -> consumer::Config {
    let plan = &handler.plan;
    let (priority_policy, priority_groups, priority_timeout) = if plan.is_pinned() {
        let (group, timeout) = match &handler.member {
            // The format of the groups has these values.
            Some(_) => (GROUP_OF_MEMBERS, plan.ack_wait().max(MIN_PIN_TIMEOUT)),
            None => (GROUP, PIN_TIMEOUT),
        };
        (consumer::PriorityPolicy::PinnedClient, vec![group.to_owned()], timeout)
    } else {
        Default::default()
    };
    let mut filters: Vec<String> = plan.subject.filters().map(Cow::into_owned).collect();
    let filter_subject = if filters.len() == 1 { filters.remove(0) } else { String::new() };
    consumer::Config {
        durable_name: Some(plan.queue.to_string()),
        filter_subject,
        filter_subjects: filters,
        ack_policy: if plan.ordered { consumer::AckPolicy::All } else { consumer::AckPolicy::Explicit },
        priority_policy,
        priority_groups,
        priority_timeout,
        ack_wait: plan.ack_wait(),
        // The others wait until the consumer of a member that has gone is deleted.
        inactive_threshold: handler.member.as_ref().map(|_| plan.ack_wait()).unwrap_or_default(),
        max_deliver: plan.server_max_deliver(),
        max_ack_pending: plan.max_ack_pending(),
        deliver_policy: deliver_policy(plan.deliver),
        // A closure may be temporary, and has no name that the next program knows.
        metadata: (!handler.is_closure)
            .then(|| (ownership::HANDLER.to_owned(), handler.name.clone()))
            .into_iter()
            .chain(plan.partitions.map(|partitions| (drift::PARTITIONS_ENTRY.to_owned(), partitions.to_string())))
            .collect(),
        // `backoff` stays empty: the server applies it to missed acks alone and adds it to the delay of a nak
        // (`consumer.go`, `processNak` and `checkPending`).
        ..consumer::Config::default()
    }
}

fn deliver_policy(deliver: Deliver) -> consumer::DeliverPolicy {
    match deliver {
        Deliver::All => consumer::DeliverPolicy::All,
        Deliver::New => consumer::DeliverPolicy::New,
        Deliver::Last => consumer::DeliverPolicy::Last,
        Deliver::LastPerSubject => consumer::DeliverPolicy::LastPerSubject,
        Deliver::FromSequence(start_sequence) => consumer::DeliverPolicy::ByStartSequence { start_sequence },
        Deliver::FromTime(time) => {
            // The rules accept no time that is too late to convert; an earlier time is before every message.
            consumer::DeliverPolicy::ByStartTime { start_time: time.max(SystemTime::UNIX_EPOCH).into() }
        }
    }
}

/// A consumer that exists, in comparison with what its handler needs.
pub(super) struct Compared {
    pub(super) consumer: FoundConsumer,
    pub(super) differences: Vec<Difference>,
}

impl Compared {
    /// Returns the problem of a consumer that differs.
    pub(super) fn problem(&self, handler: &Declaration, binding: &Binding) -> Problem {
        differs(&handler.name, binding, self.differences.clone())
    }

    /// Returns `true` if the server can change every field that differs.
    pub(super) fn is_changeable(&self) -> bool {
        self.differences.iter().all(Difference::is_changeable)
    }

    /// Returns `true` if the handler has another number of partitions than the one that created the consumer.
    pub(super) fn has_other_partitions(&self) -> bool {
        self.differences.iter().any(|difference| difference.field == drift::PARTITIONS)
    }

    /// Returns the time at which another version of the program replaced the configuration that the handler needs, if it
    /// did so lately.
    pub(super) fn replaced_since(&self, handler: &Declaration) -> Option<SystemTime> {
        let wanted = ownership::of_consumer(&consumer_config(handler));
        ownership::replaced_since(&self.consumer.config.metadata, &wanted).filter(|_| self.is_changeable())
    }
}

/// Reads the consumer of a handler, and compares it with what the handler needs; returns `None` if it does not exist.
pub(super) async fn find_consumer(
    transport: &Transport,
    handler: &Declaration,
    binding: &Binding,
) -> Result<Option<Compared>, Problem> {
    Need::of(handler, binding).compare(transport).await
}

/// Changes the consumer of a handler in the fields that differ, and records that it has replaced the former ones.
pub(super) async fn update_consumer(
    transport: &Transport,
    handler: &Declaration,
    binding: &Binding,
    compared: &Compared,
) -> Result<FoundConsumer, Problem> {
    let Binding { stream, consumer, .. } = binding;
    let found = &compared.consumer.config;
    let mut changed = drift::changed_consumer(found, &consumer_config(handler), &compared.differences);
    let after = ownership::of_consumer(&changed);
    ownership::record(&mut changed.metadata, &ownership::of_consumer(found), &after);
    let updated = transport.update_consumer(stream, found, &changed).await.map_err(|error| {
        let doing = format!("`{}`: updating consumer `{consumer}` of stream `{stream}`", handler.name);
        Problem::failed(&Purpose::Handler(handler.name.clone()), error.into_error(&doing))
    })?;
    let changes = Listed(&compared.differences).to_string();
    tracing::info!(handler = handler.name, stream, queue = consumer, "updated the consumer: {changes}");
    Ok(updated)
}

fn differs(handler: &str, binding: &Binding, differences: Vec<Difference>) -> Problem {
    Problem::ConsumerDiffers {
        handler: handler.to_owned(),
        stream: binding.stream.clone(),
        consumer: binding.consumer.clone(),
        differences,
    }
}

/// Creates the consumer of a handler, or finds the one that another process created meanwhile.
pub(super) async fn create_consumer(
    transport: &Transport,
    handler: &Declaration,
    binding: &Binding,
) -> Result<(FoundConsumer, Origin), Problem> {
    let need = Need::of(handler, binding);
    need.create(transport, &need.config).await
}

/// The timeout of reading the time of a message; the server does not answer a user without the permission.
const TIME_TIMEOUT: Duration = Duration::from_secs(1);

/// A consumer that was restored, or found to exist.
#[derive(Debug)]
pub(crate) struct RestoredConsumer {
    /// The time at which it was created.
    pub(crate) created: Option<SystemTime>,
    /// The sequence from which it delivers, if a process restored it from one.
    pub(crate) start: Option<u64>,
}

/// Creates the deleted consumer of a handler again, or finds the one that another process created meanwhile.
///
/// The consumer delivers the stream from the sequence `start` on, or the whole stream if `start` is `None`.
pub(crate) async fn restore_consumer(
    transport: &Transport,
    handler: &str,
    binding: &Binding,
    start: Option<u64>,
    manage: Manage,
) -> Result<RestoredConsumer, Error> {
    if manage == Manage::Bind {
        return find_restored(transport, binding).await;
    }
    // The configuration that the deleted consumer had, because an operator may have changed it.
    let mut config = (*binding.config).clone();
    config.metadata.retain(|key, _| ownership::survives(key));
    config.deliver_policy = consumer::DeliverPolicy::All;
    let mut restored = config.clone();
    if let Some(start_sequence) = start {
        restored.deliver_policy = restored_position(transport, &binding.stream, start_sequence).await;
    }
    restored.metadata.insert(drift::RESTORED.to_owned(), start.unwrap_or(1).to_string());
    let need = Need { handler, binding, config, concurrency: 1 };
    // To create a consumer that exists with the same configuration is no error, and must not be logged.
    let found = match transport.consumer(&binding.stream, &binding.consumer).await {
        Ok(Some(found)) => found,
        _ => {
            let created = need.create(transport, &restored).await;
            let (found, origin) = created.map_err(|problem| Error::of(vec![problem]))?;
            if origin == Origin::Created {
                let Binding { stream, consumer, .. } = binding;
                tracing::info!(handler, stream, queue = consumer, "created the deleted consumer again");
            }
            found
        }
    };
    let start = found.config.metadata.get(drift::RESTORED).and_then(|start| start.parse().ok());
    Ok(RestoredConsumer { created: found.created, start })
}

/// Finds the consumer that an operator has created again.
async fn find_restored(transport: &Transport, binding: &Binding) -> Result<RestoredConsumer, Error> {
    let Binding { stream, consumer, config, .. } = binding;
    let found = transport.consumer(stream, consumer).await;
    let found = found.map_err(|error| error.into_error(&format!("reading consumer `{consumer}`")))?;
    let Some(found) = found else {
        let mut config = (**config).clone();
        config.metadata.retain(|key, _| ownership::survives(key));
        let command = commands::add_consumer(stream, &config);
        let text = format!(
            "stream `{stream}` has no consumer `{consumer}`, and `manage` is `bind`, so that it is not created again; create it (`{command}`)"
        );
        return Err(Error::new(ErrorKind::ConsumerMismatch, text));
    };
    Ok(RestoredConsumer { created: found.created, start: None })
}

/// Returns the deliver policy of a restored consumer that starts at this sequence.
///
/// It is a time if possible: if a server loses the messages of the stream later, it makes the consumer anew from its
/// configuration, and the messages below a start sequence would never be delivered.
pub(super) async fn restored_position(
    transport: &Transport,
    stream: &str,
    start_sequence: u64,
) -> consumer::DeliverPolicy {
    match timeout(TIME_TIMEOUT, transport.time_of(stream, start_sequence)).await {
        Ok(Ok(Some(time))) => consumer::DeliverPolicy::ByStartTime { start_time: time.into() },
        Ok(Ok(None) | Err(_)) | Err(_) => consumer::DeliverPolicy::ByStartSequence { start_sequence },
    }
}

/// The consumer that a handler needs.
struct Need<'a> {
    handler: &'a str,
    binding: &'a Binding,
    config: consumer::Config,
    concurrency: usize,
}

impl<'a> Need<'a> {
    fn of(handler: &'a Declaration, binding: &'a Binding) -> Self {
        let (config, concurrency) = (consumer_config(handler), handler.plan.in_flight());
        Self { handler: &handler.name, binding, config, concurrency }
    }

    async fn find(&self, transport: &Transport) -> Result<Option<FoundConsumer>, Problem> {
        match self.compare(transport).await? {
            Some(compared) if !compared.differences.is_empty() => {
                Err(differs(self.handler, self.binding, compared.differences))
            }
            compared => Ok(compared.map(|compared| compared.consumer)),
        }
    }

    async fn compare(&self, transport: &Transport) -> Result<Option<Compared>, Problem> {
        let Binding { stream, consumer, .. } = self.binding;
        let found = transport.consumer(stream, consumer).await;
        let found =
            found.map_err(|error| self.failed(error, &format!("`{}`: reading consumer `{consumer}`", self.handler)))?;
        Ok(found.map(|consumer| {
            let differences = drift::consumer(&consumer.config, &self.config, self.concurrency);
            Compared { consumer, differences }
        }))
    }

    async fn create(
        &self,
        transport: &Transport,
        config: &consumer::Config,
    ) -> Result<(FoundConsumer, Origin), Problem> {
        let Self { handler, binding: Binding { stream, consumer, .. }, .. } = self;
        match transport.create_consumer(stream, config).await {
            Ok(created) => {
                // An older server ignores fields that it does not know, and it may be another server of the cluster
                // than the connected one.
                if created.config.priority_policy != config.priority_policy {
                    let (handler, consumer) = ((*handler).to_owned(), consumer.clone());
                    return Err(Problem::ServerTooOld { handler, consumer, version: None });
                }
                Ok((created, Origin::Created))
            }
            Err(error) if error.is(ErrorCode::CONSUMER_ALREADY_EXISTS) || error.is(ErrorCode::CONSUMER_NAME_EXIST) => {
                let purpose = Purpose::Handler((*handler).to_owned());
                let (stream, consumer) = (stream.clone(), Some(consumer.clone()));
                let found = self.find(transport).await?.ok_or(Problem::Deleted { purpose, stream, consumer })?;
                Ok((found, Origin::Found))
            }
            Err(error) => {
                let hint = if matches!(error, ApiError::Refused(_)) {
                    "; if it is a limit of the stream or the account (`consumer_limits`, `max_consumers`), raise that, or create the consumer yourself"
                } else {
                    ""
                };
                let doing = format!("`{handler}`: creating consumer `{consumer}` on stream `{stream}`{hint}");
                Err(self.failed(error, &doing))
            }
        }
    }

    fn failed(&self, error: ApiError, doing: &str) -> Problem {
        Problem::failed(&Purpose::Handler(self.handler.to_owned()), error.into_error(doing))
    }
}

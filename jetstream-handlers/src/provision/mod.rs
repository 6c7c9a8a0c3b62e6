//! Streams and consumers: found, or made where missing, never changed.
//!
//! First everything is looked at and every problem collected; only without a problem is anything made.

mod drift;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::{ErrorCode, consumer, stream};
use futures::StreamExt as _;

use crate::delivery::Binding;
use crate::error::api::ApiError;
use crate::error::{Error, ErrorKind};
use crate::handler::{Handler, clash};
use crate::plan::DeadLetter;
use crate::subject::{covers, overlap};
use crate::transport::Transport;
use drift::Difference;

/// How many requests of a start are under way at once.
const REQUESTS: usize = 16;

/// The priority group of an ordered handler's consumer; each of its pulls names it.
const GROUP: &str = "ordered";

/// After which silence the server puts another worker in the place of the active one.
///
/// Each new pull of the active worker begins it anew, so that it has to be longer than the time between two pulls.
/// The server knows no least one; its own two minutes would stop the handler for as long as that after a crash.
const PIN_TIMEOUT: Duration = Duration::from_secs(5);

/// What was wrong on the way to one source of messages.
type Problem = Error;

/// Finds or makes the stream and the consumer of every handler.
pub(crate) async fn provision(
    transport: &Transport,
    handlers: &[Handler],
    mut problems: Vec<Problem>,
) -> Result<Vec<Binding>, Vec<Problem>> {
    let mut streams = Streams::new(transport);
    problems.extend(streams.declared(|_| true).await);
    let mut planned = Vec::new();
    for handler in handlers {
        match plan(&mut streams, handler).await {
            Ok(source) => planned.push((handler, source)),
            Err(problem) => problems.push(problem),
        }
    }
    for clash in same_durable(&planned) {
        // Some were seen without asking the server.
        if !problems.iter().any(|problem| problem.to_string() == clash.to_string()) {
            problems.push(clash);
        }
    }
    problems.extend(work_queue_overlaps(&streams, &planned));
    problems.extend(out_of_order(&streams, &planned));
    problems.extend(streams.overlaps().await);

    let comparisons: Vec<_> =
        planned.iter().map(|(handler, source)| compare(transport, &streams, handler, source)).collect();
    let compared: Vec<_> = futures::stream::iter(comparisons).buffered(REQUESTS).collect().await;
    let mut missing = Vec::new();
    for (index, (result, (handler, source))) in compared.into_iter().zip(&mut planned).enumerate() {
        match result {
            Ok(Some(found)) => {
                source.existed = true;
                source.take_over(&found);
            }
            Ok(None) => missing.push(((*handler, source.clone()), index)),
            Err(problem) => problems.push(problem),
        }
    }
    if !problems.is_empty() {
        return Err(problems);
    }

    streams.create_missing().await.map_err(|problem| vec![problem])?;
    let creations: Vec<_> =
        missing.iter().map(|((handler, source), _)| ensure_consumer(transport, handler, source)).collect();
    let created: Vec<_> = futures::stream::iter(creations).buffered(REQUESTS).collect().await;
    for (result, (_, index)) in created.into_iter().zip(&missing) {
        match result {
            Ok(made) => planned[*index].1.take_over(&made),
            Err(problem) => problems.push(problem),
        }
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    Ok(planned.into_iter().map(|(_, source)| source).collect())
}

/// Makes the consumer of a handler again that was deleted, or finds the one that another replica has made.
///
/// With a start, what was before it is not delivered again; without, everything in the stream is.
pub(crate) async fn restore_consumer(
    transport: &Transport,
    handler: &Handler,
    source: &Binding,
    start: Option<u64>,
) -> Result<(), Error> {
    // As it was, with what the operator had changed.
    let mut wanted = (*source.config).clone();
    wanted.metadata.retain(|key, _| !key.starts_with("_nats.") && !key.starts_with(drift::OURS));
    wanted.deliver_policy = consumer::DeliverPolicy::All;
    if let Some(start_sequence) = start {
        wanted.deliver_policy = consumer::DeliverPolicy::ByStartSequence { start_sequence };
        wanted.metadata.insert(drift::RESTORED.to_owned(), start_sequence.to_string());
    }
    make_consumer(transport, handler, source, &wanted).await.map(drop)
}

/// Finds the consumer of a handler as the handler needs it, or makes it; gives its configuration.
pub(crate) async fn ensure_consumer(
    transport: &Transport,
    handler: &Handler,
    source: &Binding,
) -> Result<consumer::Config, Error> {
    make_consumer(transport, handler, source, &consumer_config(handler)).await
}

async fn make_consumer(
    transport: &Transport,
    handler: &Handler,
    source: &Binding,
    wanted: &consumer::Config,
) -> Result<consumer::Config, Error> {
    match transport.create_consumer(&source.stream, wanted).await {
        Ok(config) => {
            tracing::info!(
                handler = handler.declaration.name,
                stream = source.stream,
                consumer = source.consumer,
                "created the durable consumer"
            );
            match config.priority_policy == wanted.priority_policy {
                true => Ok(config),
                // Older servers leave out what they do not know, and not every server is the one that we talk to.
                false => Err(too_old(handler, &format!("the server that made consumer `{}`", source.consumer))),
            }
        }
        // Another replica was faster, and may have asked for something else.
        Err(error) if error.is(ErrorCode::CONSUMER_ALREADY_EXISTS) || error.is(ErrorCode::CONSUMER_NAME_EXIST) => {
            let found = transport.consumer(&source.stream, &source.consumer).await;
            let found = found.map_err(|error| {
                error.into_error(&format!("`{}`: reading consumer `{}`", handler.declaration.name, source.consumer))
            })?;
            match found {
                Some(config) => agree(handler, source, &config).map(|()| config),
                None => Err(Error::new(
                    ErrorKind::Server,
                    format!("consumer `{}` of stream `{}` comes and goes", source.consumer, source.stream),
                )),
            }
        }
        Err(error) => {
            let doing = format!(
                "`{}`: creating consumer `{}` on stream `{}`",
                handler.declaration.name, source.consumer, source.stream
            );
            let hint = match &error {
                ApiError::Refused(_) => {
                    "; if it is a limit of the stream or the account (`consumer_limits`, `max_consumers`), raise that, or make the consumer yourself"
                }
                _ => "",
            };
            Err(error.into_error(&format!("{doing}{hint}")))
        }
    }
}

/// Finds or makes the stream that covers a subject to publish to; `true` if it was made now.
pub(crate) async fn ensure_stream(transport: &Transport, subject: &str) -> Result<bool, Error> {
    let mut streams = Streams::new(transport);
    Error::all(streams.declared(|config| covered(config, subject)).await)?;
    streams.find(&format!("publish to `{subject}`"), subject, None).await?;
    let missing = streams.known.values().any(|known| !known.exists);
    streams.create_missing().await?;
    Ok(missing)
}

impl Binding {
    /// Takes over what the consumer on the server says.
    fn take_over(&mut self, found: &consumer::Config) {
        self.config = Arc::new(found.clone());
        self.ack_wait = found.ack_wait;
        self.max_ack_pending =
            usize::try_from(found.max_ack_pending).ok().filter(|bound| *bound > 0).unwrap_or(usize::MAX);
    }
}

/// The configuration of a handler's consumer.
pub(crate) fn consumer_config(handler: &Handler) -> consumer::Config {
    let plan = &handler.declaration.plan;
    let (priority_policy, priority_groups, priority_timeout) = match plan.is_pinned() {
        true => (consumer::PriorityPolicy::PinnedClient, vec![GROUP.to_owned()], PIN_TIMEOUT),
        false => Default::default(),
    };
    consumer::Config {
        durable_name: Some(plan.queue.to_string()),
        filter_subject: plan.subject.to_string(),
        ack_policy: match plan.ordered {
            true => consumer::AckPolicy::All,
            false => consumer::AckPolicy::Explicit,
        },
        priority_policy,
        priority_groups,
        priority_timeout,
        ack_wait: plan.ack_wait(),
        max_deliver: plan.server_max_deliver(),
        max_ack_pending: plan.max_ack_pending(),
        // `backoff` stays empty: the server applies it to missed acks alone and adds it to the delay of a nak
        // (`consumer.go`, `processNak` and `checkPending`).
        ..consumer::Config::default()
    }
}

async fn plan(streams: &mut Streams<'_>, handler: &Handler) -> Result<Binding, Problem> {
    let plan = &handler.declaration.plan;
    let stream =
        streams.find(&format!("`{}`", handler.declaration.name), &plan.subject, plan.stream.as_deref()).await?;
    let dead_letter = match &plan.dead_letter {
        Some(DeadLetter::Off) => None,
        Some(DeadLetter::Subject(subject)) => Some(subject.to_string()),
        None => Some(format!("dlq.{stream}.{}", plan.queue)),
    };
    if let Some(subject) = &dead_letter {
        if covers(&plan.subject, subject) {
            let message = format!(
                "`{}`: its dead letters go to `{subject}`, which its own subject `{}` covers, so each would come back; set `dead_letter` to another subject or to `false`",
                handler.declaration.name, plan.subject
            );
            return Err(Error::new(ErrorKind::Config, message));
        }
        let letters =
            streams.find(&format!("the dead letters of `{}`", handler.declaration.name), subject, None).await?;
        check_letters(streams, handler, &stream, &letters)?;
    }
    let retention = streams.known.get(&stream).map_or(stream::RetentionPolicy::Limits, |known| known.config.retention);
    Ok(Binding {
        config: Arc::new(consumer_config(handler)),
        existed: false,
        acked: Arc::default(),
        keeps_handled: retention == stream::RetentionPolicy::Limits,
        work_queue: retention == stream::RetentionPolicy::WorkQueue,
        stream,
        consumer: plan.queue.to_string(),
        ack_wait: plan.ack_wait(),
        max_ack_pending: plan.max_ack_pending() as usize,
        dead_letter,
    })
}

/// A dead letter is lost in a stream that acknowledges what it does not keep; one that is made now is replicated like the origin.
fn check_letters(streams: &mut Streams<'_>, handler: &Handler, stream: &str, letters: &str) -> Result<(), Problem> {
    let replicas = streams.known.get(stream).map_or(1, |known| known.config.num_replicas);
    let Some(known) = streams.known.get_mut(letters) else { return Ok(()) };
    if !known.exists && !streams.transport.settings().streams.iter().any(|declared| declared.name == letters) {
        known.config.num_replicas = known.config.num_replicas.max(replicas);
    }
    if known.config.retention == stream::RetentionPolicy::Limits && !known.config.no_ack {
        return Ok(());
    }
    let message = format!(
        "`{}`: its dead letters would go to stream `{letters}`, which does not keep them for sure (it has interest or work-queue retention, or `no_ack`); set `dead_letter` to a subject of a stream with limits retention, or to `false`",
        handler.declaration.name
    );
    Err(Error::new(ErrorKind::StreamMismatch, message))
}

/// Compares the consumer on the server, if there is one, with what the handler needs.
async fn compare(
    transport: &Transport,
    streams: &Streams<'_>,
    handler: &Handler,
    source: &Binding,
) -> Result<Option<consumer::Config>, Problem> {
    if streams.known.get(&source.stream).is_some_and(|known| !known.exists) {
        return Ok(None);
    }
    let found = transport.consumer(&source.stream, &source.consumer).await;
    let found = found.map_err(|error| {
        error.into_error(&format!("`{}`: reading consumer `{}`", handler.declaration.name, source.consumer))
    })?;
    match found {
        Some(config) => agree(handler, source, &config).map(|()| Some(config)),
        None => Ok(None),
    }
}

fn agree(handler: &Handler, source: &Binding, found: &consumer::Config) -> Result<(), Problem> {
    let differences = drift::consumer(found, &consumer_config(handler), handler.declaration.plan.concurrency());
    if differences.is_empty() {
        return Ok(());
    }
    let Binding { stream, consumer, .. } = source;
    let way_out = match differences.iter().all(|difference| difference.mutable) {
        true => format!(
            "bring the attribute in line with the server, or the server with the attribute (`nats consumer edit {stream} {consumer}`)"
        ),
        false => format!(
            "give the handler another `queue`, or delete the consumer if its progress may be lost (`nats consumer rm {stream} {consumer}`)"
        ),
    };
    let differs = |field: &str| differences.iter().any(|difference| difference.field == field);
    let net = match differs("max_deliver") {
        true => {
            "; the server's `max_deliver` is the net under the handler's own, and what it ends is never delivered again"
        }
        false => "",
    };
    let order =
        match (differs("ack_policy"), handler.declaration.plan.ordered, found.ack_policy == consumer::AckPolicy::All) {
            (true, true, _) => {
                "; an `ordered` handler acks many messages at once, and how a consumer is acked never changes"
            }
            (true, false, true) => {
                "; the consumer was made for an `ordered` handler, and how a consumer is acked never changes"
            }
            _ => "",
        };
    Err(Error::new(
        ErrorKind::ConsumerMismatch,
        format!(
            "`{}`: consumer `{consumer}` of stream `{stream}` exists and differs: {}; nothing was changed; {way_out}{net}{order}",
            handler.declaration.name,
            in_words(&differences)
        ),
    ))
}

/// What keeps handlers from having their messages in strict order.
fn out_of_order(streams: &Streams<'_>, planned: &[(&Handler, Binding)]) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (handler, source) in planned.iter().filter(|(handler, _)| handler.declaration.plan.ordered) {
        // The server's own refusal (10098) names neither the handler nor the stream.
        if source.work_queue {
            let message = format!(
                "`{}`: ordered: stream `{}` is a work queue (`retention` is workqueue), which takes no ack for several messages; read a stream with limits or interest retention, one that takes the other as its source under subjects of its own for example, or drop `ordered` and keep `concurrency` at 1",
                handler.declaration.name, source.stream
            );
            problems.push(Error::new(ErrorKind::StreamMismatch, message));
        }
        // When an unanswered message leaves the stream, the server terminates it, and with it what lies before it
        // (`consumer.go`, `decStreamPending` and `processTerm`).
        let config = streams.known.get(&source.stream).map(|known| &known.config);
        let removes = config.and_then(|config| {
            [
                ("max_msgs_per_subject", config.max_messages_per_subject > 0),
                ("allow_msg_ttl", config.allow_message_ttl || config.subject_delete_marker_ttl.is_some()),
                ("allow_rollup_hdrs", config.allow_rollup),
            ]
            .into_iter()
            .find_map(|(field, set)| set.then_some(field))
        });
        if let Some(field) = removes {
            let message = format!(
                "`{}`: ordered: stream `{}` has `{field}`, by which a message can leave it before those in front of it, and then the server counts those as acked too; read a stream without, one that takes the other as its source under subjects of its own for example, or drop `ordered` and keep `concurrency` at 1",
                handler.declaration.name, source.stream
            );
            problems.push(Error::new(ErrorKind::StreamMismatch, message));
        }
        if handler.declaration.plan.is_pinned()
            && let Some(version) = streams.transport.too_old_to_pin()
        {
            problems.push(too_old(handler, &format!("the server, {version},")));
        }
    }
    problems
}

fn too_old(handler: &Handler, who: &str) -> Problem {
    let message = format!(
        "`{}`: ordered: {who} cannot choose one worker of many, which needs 2.11 (pinned clients); use a newer server, or set `single_instance` if there is never more than one process",
        handler.declaration.name
    );
    Error::new(ErrorKind::Config, message)
}

fn in_words(differences: &[Difference]) -> String {
    let each: Vec<_> = differences
        .iter()
        .map(|Difference { field, found, wanted, .. }| format!("{field} is {found} on the server, {wanted} here"))
        .collect();
    each.join("; ")
}

/// Handlers on one durable, found now that the streams are known.
fn same_durable(planned: &[(&Handler, Binding)]) -> Vec<Problem> {
    let mut owners: BTreeMap<(&str, &str), &Handler> = BTreeMap::new();
    let mut problems = Vec::new();
    for (handler, source) in planned {
        match owners.get(&(source.stream.as_str(), source.consumer.as_str())) {
            Some(owner) => problems.push(clash(owner, handler)),
            None => drop(owners.insert((&source.stream, &source.consumer), handler)),
        }
    }
    problems
}

/// On a work-queue stream each subject has one consumer (error 10100 of the server, which names none).
fn work_queue_overlaps(streams: &Streams<'_>, planned: &[(&Handler, Binding)]) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (index, (handler, source)) in planned.iter().enumerate() {
        let Some(known) = streams.known.get(&source.stream) else { continue };
        if known.config.retention != stream::RetentionPolicy::WorkQueue {
            continue;
        }
        let same_start = planned[index + 1..].iter().filter(|(_, other)| other.stream == source.stream);
        let same_start = same_start
            .map(|(other, _)| (other.declaration.plan.queue.to_string(), other.declaration.plan.subject.to_string()));
        let on_server = known.consumers.iter().cloned();
        for (queue, subject) in same_start.chain(on_server) {
            if queue != handler.declaration.plan.queue && overlap(&subject, &handler.declaration.plan.subject) {
                problems.push(Error::new(
                    ErrorKind::StreamOverlap,
                    format!(
                        "`{}`: stream `{}` is a work queue, where a subject has one consumer, but `{}` of consumer `{}` overlaps `{subject}` of consumer `{queue}`; use one `queue`, subjects apart, or a stream with limits retention",
                        handler.declaration.name, source.stream, handler.declaration.plan.subject, handler.declaration.plan.queue
                    ),
                ));
            }
        }
    }
    problems
}

/// A stream that exists, or is to be made.
struct Known {
    config: stream::Config,
    exists: bool,
    /// Who needed it first, to begin an error.
    who: String,
    /// The consumers with their filters, of a work queue alone.
    consumers: Vec<(String, String)>,
}

/// The streams looked at so far.
struct Streams<'a> {
    transport: &'a Transport,
    known: BTreeMap<String, Known>,
}

impl<'a> Streams<'a> {
    fn new(transport: &'a Transport) -> Self {
        Self { transport, known: BTreeMap::new() }
    }

    /// Compares the application's own streams with the server's, those that `count`.
    async fn declared(&mut self, count: impl Fn(&stream::Config) -> bool) -> Vec<Problem> {
        let mut problems = Vec::new();
        for wanted in self.transport.settings().streams.iter().filter(|config| count(config)) {
            match self.load("the stream given to the builder", &wanted.name).await {
                Ok(true) => problems.extend(agree_on_stream(&self.known[&wanted.name].config, wanted).err()),
                Ok(false) if self.transport.settings().auto_create => {
                    self.plan("the stream given to the builder", wanted.clone());
                }
                // It counts only if a handler needs it, and is reported there.
                Ok(false) => {}
                Err(problem) => problems.push(problem),
            }
        }
        problems
    }

    fn plan(&mut self, who: &str, config: stream::Config) {
        let known = Known { exists: false, who: who.to_owned(), consumers: Vec::new(), config };
        self.known.insert(known.config.name.clone(), known);
    }

    /// The name of the stream that covers `subject`, found on the server or planned; `who` begins the error.
    async fn find(&mut self, who: &str, subject: &str, stream: Option<&str>) -> Result<String, Problem> {
        match stream {
            Some(name) => self.find_named(who, subject, name).await,
            None => self.find_by_subject(who, subject).await,
        }
    }

    async fn find_named(&mut self, who: &str, subject: &str, name: &str) -> Result<String, Problem> {
        if !self.known.contains_key(name) && !self.load(who, name).await? {
            if !self.transport.settings().auto_create {
                return Err(missing(who, subject, Some(name)));
            }
            match self.names(subject).await?.into_iter().next() {
                Some(owner) if owner != name => return Err(elsewhere(who, subject, name, "does not exist", &owner)),
                // Another process has made it since.
                Some(_) => drop(self.load(who, name).await?),
                None if begins_with_wildcard(subject) => return Err(unnamable(who, subject)),
                None => self.plan(who, default_stream(name, subject)),
            }
        }
        let Some(known) = self.known.get_mut(name) else {
            return Err(Error::new(ErrorKind::Server, format!("{who}: stream `{name}` comes and goes")));
        };
        if covered(&known.config, subject) {
            return Ok(name.to_owned());
        }
        if !known.exists {
            known.config.subjects.extend(default_subjects(subject));
            return Ok(name.to_owned());
        }
        let problem = uncovered(who, subject, &known.config);
        match self.names(subject).await?.into_iter().find(|owner| owner != name) {
            Some(owner) => Err(elsewhere(who, subject, name, "does not cover it", &owner)),
            None => Err(problem),
        }
    }

    async fn find_by_subject(&mut self, who: &str, subject: &str) -> Result<String, Problem> {
        if let Some((name, _)) = self.known.iter().find(|(_, known)| covered(&known.config, subject)) {
            return Ok(name.clone());
        }
        let names = self.names(subject).await?;
        for name in &names {
            self.load(who, name).await?;
        }
        if let Some(name) =
            names.iter().find(|name| self.known.get(*name).is_some_and(|known| covered(&known.config, subject)))
        {
            return Ok(name.clone());
        }
        // A stream that has a part of it: a new one would overlap.
        if names.len() > 1 || (!names.is_empty() && default_name(subject).is_none()) {
            let message = format!(
                "{who}: no single stream covers `{subject}`, which overlaps the streams {names:?}; set `stream = \"..\"` or narrow the subject"
            );
            return Err(Error::new(ErrorKind::StreamNotFound, message));
        }
        if let Some(known) = names.first().and_then(|name| self.known.get(name)) {
            return Err(uncovered(who, subject, &known.config));
        }
        if !self.transport.settings().auto_create {
            return Err(missing(who, subject, None));
        }
        self.plan_default(who, subject).await
    }

    /// Plans the stream of the design for a subject that no stream has.
    async fn plan_default(&mut self, who: &str, subject: &str) -> Result<String, Problem> {
        let Some(name) = default_name(subject) else {
            return Err(unnamable(who, subject));
        };
        if !self.known.contains_key(&name) {
            self.load(who, &name).await?;
        }
        match self.known.get_mut(&name) {
            // Another process has made it since.
            Some(known) if covered(&known.config, subject) => {}
            Some(known) if known.exists => return Err(uncovered(who, subject, &known.config)),
            Some(known) => known.config.subjects.extend(default_subjects(subject)),
            None => self.plan(who, default_stream(&name, subject)),
        }
        Ok(name)
    }

    /// Reads a stream from the server; `false` if there is none.
    async fn load(&mut self, who: &str, name: &str) -> Result<bool, Problem> {
        if self.known.get(name).is_some_and(|known| known.exists) {
            return Ok(true);
        }
        let config = match self.transport.stream(name).await {
            Ok(Some(config)) => config,
            Ok(None) => return Ok(false),
            Err(error) => return Err(error.into_error(&format!("reading stream `{name}`"))),
        };
        let consumers = match config.retention {
            stream::RetentionPolicy::WorkQueue => self
                .transport
                .consumers(name)
                .await
                .map_err(|error| error.into_error(&format!("listing the consumers of stream `{name}`")))?,
            _ => Vec::new(),
        };
        let known = Known { config, exists: true, who: who.to_owned(), consumers };
        self.known.insert(name.to_owned(), known);
        Ok(true)
    }

    /// The names of the streams on the server that have a part of `subject`.
    async fn names(&self, subject: &str) -> Result<Vec<String>, Problem> {
        let names = self.transport.stream_names(subject).await;
        names.map_err(|error| error.into_error(&format!("looking for the stream of `{subject}`")))
    }

    async fn create_missing(&self) -> Result<(), Problem> {
        for known in self.known.values().filter(|known| !known.exists) {
            let Known { config, who, .. } = known;
            let stream::Config { name, subjects, .. } = config;
            match self.transport.create_stream(config).await {
                Ok(()) => tracing::info!(stream = name, ?subjects, "created the stream"),
                Err(error) if error.is(ErrorCode::STREAM_SUBJECT_OVERLAP) => {
                    return Err(self.overlap(known).await.unwrap_or_else(|| {
                        let message = format!(
                            "{who}: stream `{name}` cannot be created: its subjects {subjects:?} overlap those of another stream"
                        );
                        Error::new(ErrorKind::StreamOverlap, message)
                    }));
                }
                // Another process started at the same moment; what it made serves us too if it covers as much.
                Err(error) if error.is(ErrorCode::STREAM_NAME_EXIST) => {
                    let found = self.transport.stream(name).await;
                    let found = found.map_err(|error| error.into_error(&format!("reading stream `{name}`")))?;
                    let Some(found) = found else { continue };
                    if self.transport.settings().streams.iter().any(|declared| declared.name == *name) {
                        agree_on_stream(&found, config)?;
                    }
                    if let Some(subject) = subjects.iter().find(|subject| !covered(&found, subject)) {
                        return Err(uncovered(who, subject, &found));
                    }
                }
                Err(error) => {
                    let doing = format!("{who}: creating stream `{name}` with subjects {subjects:?}");
                    return Err(error.into_error(&doing));
                }
            }
        }
        Ok(())
    }

    /// What stands in the way of the streams to be made.
    async fn overlaps(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        for known in self.known.values().filter(|known| !known.exists) {
            problems.extend(self.overlap(known).await);
        }
        problems
    }

    /// Says which stream stands in the way of one to be made; the server's own error does not.
    async fn overlap(&self, known: &Known) -> Option<Problem> {
        let Known { config: stream::Config { name, subjects, .. }, who, .. } = known;
        for subject in subjects {
            // Each pair of planned streams is reported once, by the one that comes later.
            let planned = self.known.iter().take_while(|(other, _)| *other != name).filter(|(_, other)| !other.exists);
            let mut others: Vec<_> =
                planned.map(|(other, known)| (other.clone(), known.config.subjects.clone())).collect();
            for other in self.names(subject).await.unwrap_or_default() {
                if other != *name
                    && let Ok(Some(config)) = self.transport.stream(&other).await
                {
                    others.push((other, config.subjects));
                }
            }
            for (other, theirs) in others {
                if let Some(theirs) = theirs.iter().find(|theirs| overlap(theirs, subject)) {
                    let message = format!(
                        "{who}: stream `{name}` cannot be created: its subject `{subject}` overlaps `{theirs}` of stream `{other}`; give a `stream::Config` with subjects apart to `Builder::stream`, or add the subjects to `{other}`"
                    );
                    return Some(Error::new(ErrorKind::StreamOverlap, message));
                }
            }
        }
        None
    }
}

fn covered(config: &stream::Config, subject: &str) -> bool {
    match config.subjects.is_empty() {
        true => config.name == subject,
        false => config.subjects.iter().any(|pattern| covers(pattern, subject)),
    }
}

fn uncovered(who: &str, subject: &str, config: &stream::Config) -> Problem {
    let stream::Config { name, subjects, .. } = config;
    Error::new(
        ErrorKind::StreamNotFound,
        format!(
            "{who}: stream `{name}` has the subjects {subjects:?}, which do not cover `{subject}`; add it (`nats stream edit {name} --subjects ..`), or correct the subject"
        ),
    )
}

fn elsewhere(who: &str, subject: &str, name: &str, what: &str, owner: &str) -> Problem {
    let message = format!(
        "{who}: stream `{name}` {what}, and `{subject}` belongs to stream `{owner}`; set `stream = \"{owner}\"` or leave it out"
    );
    Error::new(ErrorKind::StreamOverlap, message)
}

/// The server takes no stream whose first token is a wildcard, since that overlaps its own `$JS`.
fn unnamable(who: &str, subject: &str) -> Problem {
    let message = format!(
        "{who}: no stream covers `{subject}`, and none can be made for a subject that begins with a wildcard; begin with a token, as in `orders.*`"
    );
    Error::new(ErrorKind::StreamNotFound, message)
}

fn begins_with_wildcard(subject: &str) -> bool {
    default_name(subject).is_none()
}

fn agree_on_stream(found: &stream::Config, wanted: &stream::Config) -> Result<(), Problem> {
    let differences = drift::stream(found, wanted);
    if differences.is_empty() {
        return Ok(());
    }
    let name = &wanted.name;
    let immutable: Vec<_> =
        differences.iter().filter(|difference| !difference.mutable).map(|difference| difference.field).collect();
    let way_out = match immutable.is_empty() {
        true => format!("change one of them (`nats stream edit {name}`)"),
        false => format!(
            "the server does not let {} of a stream be changed, so name another stream or move its messages",
            immutable.join(", ")
        ),
    };
    Err(Error::new(
        ErrorKind::StreamMismatch,
        format!("stream `{name}` exists and differs: {}; nothing was changed; {way_out}", in_words(&differences)),
    ))
}

fn missing(who: &str, subject: &str, stream: Option<&str>) -> Problem {
    let name = stream.map(str::to_owned).or_else(|| default_name(subject)).unwrap_or_else(|| "NAME".to_owned());
    let what = stream
        .map_or_else(|| format!("no stream covers `{subject}`"), |name| format!("stream `{name}` does not exist"));
    Error::new(
        ErrorKind::StreamNotFound,
        format!(
            "{who}: {what}, and `auto_create(false)` forbids to make one; make it (`nats stream add {name} --subjects '{subject}'`), or allow it"
        ),
    )
}

/// The stream of the design: named after the subject's first token, limits retention, file storage.
fn default_stream(name: &str, subject: &str) -> stream::Config {
    stream::Config { name: name.to_owned(), subjects: default_subjects(subject), ..stream::Config::default() }
}

/// `ORDERS` for `orders.created`; nothing for a wildcard.
fn default_name(subject: &str) -> Option<String> {
    let token = subject.split('.').next().filter(|token| !matches!(*token, "*" | ">"))?;
    let name = token.chars().map(|char| {
        if char.is_ascii_alphanumeric() || char == '-' || char == '_' { char.to_ascii_uppercase() } else { '_' }
    });
    Some(name.collect())
}

/// `orders.>` for `orders.created`; `orders` itself for a subject of one token.
fn default_subjects(subject: &str) -> Vec<String> {
    match subject.split_once('.') {
        None => vec![subject.to_owned()],
        Some((first, _)) => vec![format!("{first}.>")],
    }
}

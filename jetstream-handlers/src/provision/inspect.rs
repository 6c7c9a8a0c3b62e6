//! Inspection of the server: the binding of each handler, the missing streams and consumers, and all problems.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::stream::{self, RetentionPolicy};
use futures::StreamExt as _;

use super::consumers::{Compared, consumer_config, find_consumer};
use super::stored::{known, stores_all};
use super::streams::{Aim, KnownStream, Streams};
use super::transforms::Needed;
use super::{commands, drift, notices};
use crate::declaration::Declaration;
use crate::delivery::{AckWait, Binding, Incarnations, Origin, OutputStream, SentAcks, Unfinished};
use crate::error::problem::{Problem, Purpose};
use crate::error::{Error, ErrorKind};
use crate::partition::derived_stream;
use crate::plan::{DeadLetter, Deliver, Manage, Plan};
use crate::subject::{covers, overlap};
use crate::transport::Transport;

/// The maximum number of requests that a start has in flight.
pub(super) const MAX_REQUESTS: usize = 16;

/// The `duplicate_window` that the server gives to a stream.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);

/// The longest `duplicate_window` of a stream that is created for outputs; the server keeps every message id in memory
/// for that long.
const MAX_DUPLICATE_WINDOW: Duration = Duration::from_secs(600);

/// The result of an inspection: the streams and consumers to create, or the problems that prevent the start.
pub(crate) struct Inspection<'a> {
    /// The handlers whose stream was found or planned, in order; all handlers if there is no problem.
    pub(super) bindings: Vec<(&'a Declaration, Binding)>,
    /// The streams that were found or planned, by name.
    pub(super) streams: BTreeMap<String, KnownStream>,
    /// The indices of the bindings whose consumer does not exist.
    pub(super) missing_consumers: Vec<usize>,
    /// The consumers that exist, with the indices of their bindings.
    pub(super) found: Vec<(usize, Compared)>,
    pub(super) problems: Vec<Problem>,
}

impl Inspection<'_> {
    /// Returns the binding of a handler, and `true` if its consumer exists; `None` if its stream was not found.
    pub(crate) fn binding_of(&self, handler: &Declaration) -> Option<(&Binding, bool)> {
        let index = self.bindings.iter().position(|(bound, _)| std::ptr::eq(*bound, handler))?;
        Some((&self.bindings[index].1, self.found.iter().any(|(found, _)| *found == index)))
    }

    /// Returns the stream that was found or planned for a subject.
    pub(crate) fn stream_of(&self, subject: &str) -> Option<String> {
        let stores = |known: &KnownStream| known.config.subjects.iter().any(|own| covers(own, subject));
        self.streams.iter().find(|(_, known)| stores(known)).map(|(name, _)| name.clone())
    }

    /// Returns the problems of a handler as one text.
    pub(crate) fn problem_of(&self, handler: &Declaration) -> Option<String> {
        let of_handler = self.problems.iter().filter(|problem| problem.handler() == Some(&*handler.name));
        let texts: Vec<_> = of_handler.map(Problem::to_string).collect();
        (!texts.is_empty()).then(|| texts.join("; "))
    }

    /// Returns the streams to create.
    pub(super) fn missing_streams(&self) -> impl Iterator<Item = &KnownStream> {
        self.streams.values().filter(|known| !known.exists)
    }
}

/// Compares the declarations of handlers and the application with the server, without changing anything.
pub(super) async fn inspect<'a>(transport: &Transport, handlers: &[&'a Declaration], aim: Aim) -> Inspection<'a> {
    let mut streams = Streams::new(transport, aim);
    let mut problems = streams.add_transforms(handlers);
    problems.extend(streams.compare_declared(|_| true).await);
    let mut bindings = Vec::new();
    let mut unbound = Vec::new();
    for handler in handlers {
        streams.manage_for(handler);
        match bind(&mut streams, handler).await {
            Ok(binding) => bindings.push((*handler, binding)),
            Err(problem) => {
                // All partitions of a handler may have the same one.
                if !problems.iter().any(|known| known.to_string() == problem.to_string()) {
                    problems.push(problem);
                }
                unbound.push(*handler);
            }
        }
    }
    // After the streams of all handlers are known, because one of them may listen to the events of another.
    for handler in handlers {
        streams.manage_for(handler);
        let found = event_streams(&mut streams, handler).await;
        match (found, bindings.iter_mut().find(|(bound, _)| std::ptr::eq(*bound, *handler))) {
            (Ok(found), Some((_, binding))) => binding.add_outputs(found),
            (Ok(_), None) => {}
            (Err(problem), _) => problems.push(problem),
        }
    }
    problems.extend(shared_durables(&bindings, &unbound));
    problems.extend(work_queue_overlaps(&streams, &bindings));
    problems.extend(out_of_order(&streams, &bindings));
    problems.extend(too_old_to_pin(transport, &bindings));
    problems.extend(streams.overlaps().await);

    let searches: Vec<_> = bindings
        .iter()
        .map(async |(handler, binding)| match streams.known.get(&binding.stream) {
            Some(stream) if !stream.exists => Ok(None),
            _ => find_consumer(transport, handler, binding).await,
        })
        .collect();
    let found: Vec<_> = futures::stream::iter(searches).buffered(MAX_REQUESTS).collect().await;
    let mut inspection =
        Inspection { bindings, streams: streams.known, missing_consumers: Vec::new(), found: Vec::new(), problems };
    for (index, result) in found.into_iter().enumerate() {
        let manage = inspection.bindings[index].0.plan.manage.unwrap_or(transport.settings().manage);
        match result {
            Ok(Some(found)) => inspection.on_found(index, found, manage, aim),
            Ok(None) => inspection.on_missing(index, if aim == Aim::Export { Manage::Create } else { manage }),
            Err(problem) => inspection.problems.push(problem),
        }
    }
    inspection
}

impl Inspection<'_> {
    fn on_found(&mut self, index: usize, found: Compared, manage: Manage, aim: Aim) {
        let (handler, binding) = &mut self.bindings[index];
        binding.has_floor = true;
        binding.adopt(found.consumer.clone());
        let other_partitions = found.has_other_partitions();
        let is_changed = match aim {
            Aim::Plan => manage != Manage::Bind,
            Aim::Export => true,
            Aim::Start => manage == Manage::Update && found.is_changeable() && !other_partitions,
        };
        // The problem is the same for all partitions.
        let is_reported = other_partitions
            && self.problems.iter().any(|problem| {
                problem.handler() == Some(&*handler.name)
                    && problem.differences().iter().any(|it| it.field == drift::PARTITIONS)
            });
        if !found.differences.is_empty() && !is_changed && !is_reported {
            let replaced_since = found.replaced_since(handler);
            match replaced_since.filter(|_| aim == Aim::Start && !other_partitions) {
                Some(since) => notices::adopted_consumer(handler, binding, &found.differences, since),
                None => self.problems.push(found.problem(handler, binding)),
            }
        }
        self.found.push((index, found));
    }

    fn on_missing(&mut self, index: usize, manage: Manage) {
        self.problems.extend(not_from_the_beginning(&self.bindings[index]));
        if manage != Manage::Bind {
            return self.missing_consumers.push(index);
        }
        let (handler, Binding { stream, consumer, config, .. }) = &self.bindings[index];
        let command = commands::add_consumer(stream, config);
        let (stream, consumer) = (stream.clone(), consumer.clone());
        self.problems.push(Problem::ConsumerMissing { handler: handler.name.clone(), stream, consumer, command });
    }
}

/// Finds or plans the streams of a handler and of its dead letters.
async fn bind(streams: &mut Streams<'_>, handler: &Declaration) -> Result<Binding, Problem> {
    let Declaration { name, plan, .. } = handler;
    let origin = find_stream(streams, handler).await?;
    let is_derived = handler.is_derived();
    let stream = if is_derived && handler.member.is_none() {
        streams.find_derived(handler, &origin).await?
    } else {
        origin.clone()
    };
    let dead_letter = match &plan.dead_letter {
        Some(DeadLetter::Off) => None,
        Some(DeadLetter::Subject(subject)) => Some(subject.to_string()),
        None => {
            let subject = format!("dlq.{origin}.{}", handler.queue());
            Some(streams.transport.settings().subject(&subject).into_owned())
        }
    };
    if let Some(dead_letter) = &dead_letter {
        let dead_letters = streams.find(&Purpose::DeadLetters(name.clone()), dead_letter, None).await?;
        let subject = handler.received().filters().find(|filter| covers(filter, dead_letter));
        if let Some(subject) = subject
            && is_stored(streams, &origin, dead_letter).await
        {
            let (handler, subject, dead_letter) = (name.clone(), subject.into_owned(), dead_letter.clone());
            return Err(Problem::DeadLetterLoop { handler, subject, dead_letter });
        }
        check_dead_letter_stream(streams, handler, &stream, dead_letters)?;
    }
    let outputs = bind_outputs(streams, handler, &origin).await?.into_iter().collect();
    let retention = streams.known.get(&stream).map_or(RetentionPolicy::Limits, |known| known.config.retention);
    Ok(Binding {
        config: Arc::new(consumer_config(handler)),
        incarnations: Incarnations::default(),
        sent_acks: SentAcks::default(),
        unfinished: plan.key.is_some().then(Arc::<Unfinished>::default),
        partition: None,
        has_floor: plan.deliver != Deliver::All,
        keeps_handled: retention == RetentionPolicy::Limits,
        work_queue: retention == RetentionPolicy::WorkQueue,
        is_derived,
        stream,
        consumer: plan.queue.to_string(),
        stream_origin: Origin::Found,
        consumer_origin: Origin::Found,
        ack_wait: AckWait::new(plan.ack_wait()),
        max_ack_pending: plan.max_ack_pending() as usize,
        dead_letter,
        outputs,
    })
}

/// Finds the stream of the consumers of a handler, which must exist.
pub(crate) async fn stream_of(transport: &Transport, handler: &Declaration) -> Result<String, Error> {
    let mut streams = Streams::new(transport, Aim::Start);
    streams.manage_for(handler);
    let mut stream = find_stream(&mut streams, handler).await.map_err(|problem| Error::of(vec![problem]))?;
    if handler.is_derived() || handler.plan.is_derived() {
        stream = derived_stream(&stream, handler.queue());
        let found = transport.stream(&stream).await;
        if found.map_err(|error| error.into_error(&format!("reading stream `{stream}`")))?.is_some() {
            return Ok(stream);
        }
    } else if streams.known.get(&stream).is_none_or(|known| known.exists) {
        return Ok(stream);
    }
    let text = format!("the stream `{stream}` of handler `{}` does not exist; start the handler first", handler.name);
    Err(Error::new(ErrorKind::StreamNotFound, text))
}

/// Finds or plans the stream that has all subjects of a handler.
async fn find_stream(streams: &mut Streams<'_>, handler: &Declaration) -> Result<String, Problem> {
    let Declaration { name, plan, .. } = handler;
    let mut found: Vec<(String, String)> = Vec::new();
    let subjects = if handler.member.is_some() { &plan.subject } else { handler.subjects() };
    for subject in subjects.filters() {
        let transformed = match Needed::of(handler) {
            Some(needed) => streams.find_transformed(handler, &needed).await?,
            None => None,
        };
        let stream = match transformed {
            Some(stream) => stream,
            None => streams.find(&Purpose::Handler(name.clone()), &subject, plan.stream.as_deref()).await?,
        };
        streams.check_number(handler, &stream).await?;
        found.push((subject.into_owned(), stream));
    }
    match &*found {
        [(_, stream), others @ ..] if others.iter().all(|(_, other)| other == stream) => Ok(stream.clone()),
        _ => Err(Problem::SeveralStreams { handler: name.clone(), streams: found }),
    }
}

/// Finds or plans the stream of a handler's outputs; `origin` is the stream that the handler reads.
async fn bind_outputs(
    streams: &mut Streams<'_>,
    handler: &Declaration,
    origin: &str,
) -> Result<Option<OutputStream>, Problem> {
    let Declaration { name, plan, .. } = handler;
    let Some(output) = plan.publish.as_deref() else { return Ok(None) };
    let stream = streams.find(&Purpose::Outputs(name.clone()), output, None).await?;
    let subject = handler.received().filters().find(|filter| covers(filter, output));
    if let Some(subject) = subject
        && is_stored(streams, origin, output).await
    {
        let (handler, subject, output) = (name.clone(), subject.into_owned(), output.to_owned());
        return Err(Problem::OutputLoop { handler, subject, output });
    }
    output_stream(streams, handler, stream)
}

/// Finds or plans the streams of the events that a handler returns.
///
/// An event that the handler itself receives is no loop: it may return another one only while something is left to do.
async fn event_streams(streams: &mut Streams<'_>, handler: &Declaration) -> Result<Vec<OutputStream>, Problem> {
    let mut found = Vec::new();
    for event in &handler.events {
        if let Some(stream) = streams.find_event(&Purpose::Outputs(handler.name.clone()), event).await? {
            found.extend(output_stream(streams, handler, stream)?);
        }
    }
    Ok(found)
}

/// Returns the stream of outputs, which acknowledges them; if it is planned, raises its duplicate window to the attempts of
/// one message.
fn output_stream(
    streams: &mut Streams<'_>,
    handler: &Declaration,
    stream: String,
) -> Result<Option<OutputStream>, Problem> {
    let Declaration { name, plan, .. } = handler;
    let is_declared = streams.transport.settings().streams.iter().any(|declared| declared.name == stream);
    let Some(known) = streams.known.get_mut(&stream) else { return Ok(None) };
    if known.config.no_ack {
        return Err(Problem::OutputStream { handler: name.clone(), stream });
    }
    if !known.exists && !is_declared {
        let window = plan.retry_span().clamp(DUPLICATE_WINDOW, MAX_DUPLICATE_WINDOW);
        known.config.duplicate_window = known.config.duplicate_window.max(window);
    }
    let window = Some(known.config.duplicate_window).filter(|window| !window.is_zero());
    Ok(Some(OutputStream { stream, duplicate_window: window.unwrap_or(DUPLICATE_WINDOW) }))
}

/// Returns `true` if a stream is known to store what is published to this subject.
async fn is_stored(streams: &mut Streams<'_>, stream: &str, subject: &str) -> bool {
    let Some(config) = streams.config(stream).await else { return false };
    stores_all(&known(streams.stored(&config).await), subject)
}

/// Checks that the stream of dead letters keeps them; if it is planned, raises its replicas to those of the handler's
/// stream.
fn check_dead_letter_stream(
    streams: &mut Streams<'_>,
    handler: &Declaration,
    origin: &str,
    dead_letters: String,
) -> Result<(), Problem> {
    let replicas = streams.known.get(origin).map_or(1, |known| known.config.num_replicas);
    let Some(known) = streams.known.get_mut(&dead_letters) else { return Ok(()) };
    if !known.exists && !streams.transport.settings().streams.iter().any(|declared| declared.name == dead_letters) {
        known.config.num_replicas = known.config.num_replicas.max(replicas);
    }
    if known.config.retention == RetentionPolicy::Limits && !known.config.no_ack {
        return Ok(());
    }
    Err(Problem::DeadLetterStream { handler: handler.name.clone(), stream: dead_letters })
}

/// Returns a problem for each pair of handlers that read the same durable consumer.
///
/// If the stream of a handler is unknown because of another problem, handlers with overlapping subjects are assumed to
/// read the same stream.
fn shared_durables(bindings: &[(&Declaration, Binding)], unbound: &[&Declaration]) -> Vec<Problem> {
    let bound = bindings.iter().map(|(handler, binding)| (*handler, Some(binding)));
    let handlers: Vec<_> = bound.chain(unbound.iter().map(|handler| (*handler, None))).collect();
    let mut problems = Vec::new();
    for (index, (one, one_binding)) in handlers.iter().enumerate() {
        for (other, other_binding) in &handlers[index + 1..] {
            let same_stream = match (one_binding, other_binding, &one.plan.stream, &other.plan.stream) {
                (Some(one), Some(other), ..) => one.stream == other.stream,
                (_, _, Some(one), Some(other)) => one == other,
                _ => overlap_of(&one.plan, &other.plan.subject.filters().collect::<Vec<_>>()).is_some(),
            };
            if same_stream && one.plan.queue == other.plan.queue {
                problems.push(shared_durable(one, other));
            }
        }
    }
    problems
}

/// Returns the problem of two handlers that read the same durable consumer.
pub(crate) fn shared_durable(one: &Declaration, other: &Declaration) -> Problem {
    let (a, b) = (&one.plan, &other.plan);
    let settings = [
        ("ack_wait", a.ack_wait != b.ack_wait),
        ("concurrency", a.concurrency() != b.concurrency()),
        ("key", a.key != b.key),
        ("max_deliver", a.max_deliver != b.max_deliver),
        ("ordered", a.ordered != b.ordered),
        ("subject", a.subject != b.subject),
    ];
    Problem::SharedDurable {
        handler: one.name.clone(),
        location: one.location.clone(),
        other: other.name.clone(),
        other_location: other.location.clone(),
        consumer: a.queue.to_string(),
        differing: settings.into_iter().filter_map(|(key, differs)| differs.then_some(key)).collect(),
    }
}

/// Returns a problem for each pair of consumers of a work queue whose filters overlap.
///
/// The server refuses them (`CONSUMER_WQ_CONSUMER_NOT_UNIQUE`) without naming the other consumer.
fn work_queue_overlaps(streams: &Streams<'_>, bindings: &[(&Declaration, Binding)]) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (index, (handler, binding)) in bindings.iter().enumerate().filter(|(_, (_, binding))| binding.work_queue) {
        let same_start = bindings[index + 1..].iter().filter(|(_, other)| other.stream == binding.stream);
        let same_start = same_start.flat_map(|(other, _)| {
            other.plan.subject.filters().map(|filter| (other.plan.queue.to_string(), filter.into_owned()))
        });
        let on_server =
            streams.known.get(&binding.stream).into_iter().flat_map(|known| known.consumers.iter().cloned());
        for (other, other_filter) in same_start.chain(on_server) {
            if other != binding.consumer
                && let Some((subject, other_subject)) = overlap_of(&handler.plan, &[Cow::Owned(other_filter)])
            {
                problems.push(Problem::WorkQueueOverlap {
                    handler: handler.name.clone(),
                    stream: binding.stream.clone(),
                    consumer: binding.consumer.clone(),
                    subject,
                    other,
                    other_subject,
                });
            }
        }
    }
    problems
}

/// Returns a subject of a handler and one of these filters that have messages in common.
fn overlap_of(plan: &Plan, filters: &[Cow<'_, str>]) -> Option<(String, String)> {
    let mut pairs = plan.subject.filters().flat_map(|own| filters.iter().map(move |other| (own.clone(), other)));
    let (own, other) = pairs.find(|(own, other)| overlap(own, other))?;
    Some((own.into_owned(), other.to_string()))
}

/// Returns the problem of a new consumer of a work queue that is to begin with a later message, which the server refuses
/// (`CONSUMER_WQ_CONSUMER_NOT_DELIVER_ALL`).
fn not_from_the_beginning((handler, binding): &(&Declaration, Binding)) -> Option<Problem> {
    let stream = &binding.stream;
    let problem = format!(
        "stream `{stream}` is a work queue, whose consumers deliver every message that it has; remove `deliver`, or purge the stream"
    );
    let is_refused = binding.work_queue && handler.plan.deliver != Deliver::All;
    is_refused.then(|| Problem::setting(&handler.name, "deliver", &problem))
}

/// Returns the problems that prevent ordered handlers from receiving their messages in order.
fn out_of_order(streams: &Streams<'_>, bindings: &[(&Declaration, Binding)]) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (declaration, binding) in bindings.iter().filter(|(handler, _)| handler.plan.ordered) {
        let (handler, stream) = (&declaration.name, &binding.stream);
        if binding.work_queue {
            problems.push(Problem::OrderedWorkQueue { handler: handler.clone(), stream: stream.clone() });
        }
        let config = streams.known.get(stream).map(|known| &known.config);
        if let Some(field) = config.and_then(removes_out_of_order) {
            problems.push(Problem::OrderedStream { handler: handler.clone(), stream: stream.clone(), field });
        }
    }
    problems
}

/// Returns a problem for each handler that only one instance may run at a time, if the server cannot choose it.
fn too_old_to_pin(transport: &Transport, bindings: &[(&Declaration, Binding)]) -> Vec<Problem> {
    let Some(version) = transport.too_old_to_pin() else { return Vec::new() };
    let pinned = bindings.iter().filter(|(handler, _)| handler.plan.is_pinned());
    let problem = |(handler, binding): &(&Declaration, Binding)| Problem::ServerTooOld {
        handler: handler.name.clone(),
        consumer: binding.consumer.clone(),
        version: Some(version.clone()),
    };
    pinned.map(problem).collect()
}

/// Returns the field that allows a message to be removed from a stream before older ones.
///
/// The server terminates an unacknowledged message that is removed from its stream and, with the ack policy `all`,
/// every message before it (`consumer.go`, `decStreamPending` and `processTerm`).
fn removes_out_of_order(config: &stream::Config) -> Option<&'static str> {
    if config.max_messages_per_subject > 0 {
        return Some("max_msgs_per_subject");
    }
    if config.allow_message_ttl || config.subject_delete_marker_ttl.is_some() {
        return Some("allow_msg_ttl");
    }
    config.allow_rollup.then_some("allow_rollup_hdrs")
}

#[cfg(test)]
mod tests {
    use async_nats::jetstream::consumer;

    use super::*;
    use crate::error::ErrorKind;
    use crate::memory::Memory;
    use crate::provision::provision;
    use crate::settings::Settings;

    fn transport(auto_create: bool, streams: Vec<stream::Config>) -> Transport {
        let limit = Duration::from_secs(1);
        let (publish_timeout, request_timeout) = (limit, limit);
        Transport::Memory(Memory::new(Settings {
            auto_create,
            streams,
            publish_timeout,
            request_timeout,
            ..Settings::default()
        }))
    }

    fn handler(subject: &str, queue: &str) -> Declaration {
        Declaration::for_test(&format!("app::{queue}"), Plan::new(subject, queue.to_owned()))
    }

    fn on(name: &str, subjects: &[&str]) -> stream::Config {
        let subjects = subjects.iter().map(|subject| (*subject).to_owned()).collect();
        stream::Config { name: name.to_owned(), subjects, ..Default::default() }
    }

    fn names(plan: &Inspection<'_>) -> Vec<String> {
        plan.missing_streams().map(|stream| stream.config.name.clone()).collect()
    }

    #[tokio::test]
    async fn plans_what_is_missing_and_creates_nothing() {
        let transport = transport(true, vec![on("SHOP", &["orders.>"])]);
        let (one, other) = (handler("orders.created", "one"), handler("payments.*", "other"));
        let plan = inspect(&transport, &[&one, &other], Aim::Start).await;
        assert!(plan.problems.is_empty(), "{:?}", plan.problems);
        assert_eq!(names(&plan), ["DLQ", "PAYMENTS", "SHOP"]);
        assert_eq!(plan.missing_consumers, [0, 1]);
        assert!(transport.stream("SHOP").await.unwrap().is_none());
    }

    #[tokio::test]
    async fn second_start_finds_everything() {
        let transport = transport(true, Vec::new());
        let declaration = handler("orders.created", "billing");
        let created = provision(&transport, &[&declaration], Vec::new(), |_, _| None).await.unwrap();
        assert!(!created[0].has_floor);
        let plan = inspect(&transport, &[&declaration], Aim::Start).await;
        assert!(
            plan.problems.is_empty() && plan.missing_streams().next().is_none() && plan.missing_consumers.is_empty()
        );
        assert!(plan.bindings[0].1.has_floor);
    }

    #[tokio::test]
    async fn differences_of_a_consumer_are_values() {
        let transport = transport(true, Vec::new());
        let declaration = handler("orders.created", "billing");
        transport.create_stream(&on("ORDERS", &["orders.>"])).await.unwrap();
        let config = consumer::Config { ack_wait: Duration::from_secs(60), ..consumer_config(&declaration) };
        transport.create_consumer("ORDERS", &config).await.unwrap();
        let plan = inspect(&transport, &[&declaration], Aim::Start).await;
        let [problem @ Problem::ConsumerDiffers { handler, stream, consumer, .. }] = &*plan.problems else {
            panic!("{:?}", plan.problems);
        };
        assert_eq!((handler.as_str(), stream.as_str(), consumer.as_str()), ("app::billing", "ORDERS", "billing"));
        let [difference] = problem.differences() else { panic!("{problem:?}") };
        let values = (difference.field(), difference.found(), difference.wanted(), difference.is_changeable());
        assert_eq!(values, ("ack_wait", "60s", "30s", true));
    }

    #[tokio::test]
    async fn problems_leave_everything_as_it_is() {
        let transport = transport(true, Vec::new());
        let (one, twin, wild) = (handler("a.b", "twins"), handler("a.*", "twins"), handler("*.c", "wild"));
        let error = provision(&transport, &[&one, &twin, &wild], Vec::new(), |_, _| None).await.unwrap_err();
        let kinds: Vec<_> = error.problems().iter().map(|it| (it.kind(), it.handler())).collect();
        let wild = (ErrorKind::StreamNotFound, Some("app::wild"));
        assert_eq!(kinds, [wild, (ErrorKind::Config, Some("app::twins"))]);
        let Problem::SharedDurable { differing, .. } = &error.problems()[1] else { panic!("{error:?}") };
        assert_eq!(differing, &["subject"]);
        assert!(transport.stream_names(">").await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn one_durable_name_is_shared_on_one_stream_only() {
        let (one, other) = (handler("orders.created", "twins"), handler("payments.received", "twins"));
        let apart = inspect(&transport(true, Vec::new()), &[&one, &other], Aim::Start).await;
        assert!(apart.problems.is_empty(), "{:?}", apart.problems);
        let together = transport(true, vec![on("BOTH", &["orders.>", "payments.>"])]);
        let together = inspect(&together, &[&one, &other], Aim::Start).await;
        assert!(matches!(&*together.problems, [Problem::SharedDurable { .. }]), "{:?}", together.problems);
        // If the streams are unknown, subjects are compared, so that both problems are reported together.
        let forbidden = transport(false, Vec::new());
        let twin = handler("orders.*", "twins");
        let unbound = inspect(&forbidden, &[&one, &other, &twin], Aim::Start).await;
        let shared = unbound.problems.iter().filter(|it| matches!(it, Problem::SharedDurable { .. }));
        assert_eq!((unbound.problems.len(), shared.count()), (4, 1));
    }
}

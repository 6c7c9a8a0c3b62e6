//! The streams and consumers of handlers, with the requests by which a start finds and creates them.

use std::collections::BTreeMap;

use async_nats::jetstream::consumer;
use async_nats::jetstream::stream::{self, RetentionPolicy};

use super::consumers::consumer_config;
use super::default_stream::default_name;
use super::inspect::inspect;
use super::stored::{any_covers, any_overlaps, listened, stored_directly, stores_all};
use super::streams::{Aim, KnownStream, Streams};
use crate::declaration::Declaration;
use crate::delivery::{Binding, filters};
use crate::error::Error;
use crate::error::problem::Purpose;
use crate::plan::Manage;
use crate::subject::has_wildcard;
use crate::transport::Transport;

/// The maximum number of streams between a stream and those that it copies.
const MAX_DEPTH: usize = 8;

/// The needs of handlers, declared streams and events on the server.
#[derive(Debug)]
pub(crate) struct Needs {
    pub(crate) handlers: Vec<HandlerNeeds>,
    /// The streams of the handlers, of what they publish, of events, and all that are declared.
    pub(crate) streams: BTreeMap<String, StreamNeeds>,
}

/// The needs of one handler.
#[derive(Debug)]
pub(crate) struct HandlerNeeds {
    pub(crate) handler: String,
    pub(crate) binding: Binding,
    /// The configuration with which its consumer is created or updated.
    pub(crate) config: consumer::Config,
    /// `true` if the handler names its stream.
    pub(crate) names_stream: bool,
    /// The changes that a start may make for it.
    pub(crate) manage: Manage,
    /// `true` if its consumer does not exist.
    pub(crate) consumer_is_missing: bool,
    /// `true` if a start looks up a stream by a subject, because no declared stream has it.
    pub(crate) looks_up: bool,
    /// `true` if a start looks up the stream of its messages so.
    pub(crate) looks_up_own: bool,
    /// `true` if its stream copies or transforms the subjects, so that a start finds it in the list of all streams.
    pub(crate) reads_copy: bool,
    /// The stream of its dead letters.
    pub(crate) dead_letters: Option<String>,
    /// The subject on which the instances of a handler with partitions announce what they claim.
    pub(crate) announcements: Option<String>,
    /// The subjects to which it publishes: the key `publish`, and the events that it returns.
    pub(crate) outputs: Vec<String>,
}

/// The needs of one stream.
#[derive(Debug, Default)]
pub(crate) struct StreamNeeds {
    /// The handlers and events that need the stream; empty for one that is only declared.
    pub(crate) needed_by: Vec<String>,
    /// `true` if a start reads the stream; `false` for one to which only events are published.
    pub(crate) is_read: bool,
    /// `true` if the broker creates the stream while it does not exist.
    pub(crate) is_created: bool,
    pub(crate) is_declared: bool,
    /// `true` if it is derived from another stream, so that a plan may change it.
    pub(crate) is_derived: bool,
    /// `true` if the stream does not exist.
    pub(crate) is_missing: bool,
    pub(crate) is_work_queue: bool,
    /// The streams of the account that it copies.
    pub(crate) origins: Vec<String>,
    /// The subjects that it listens to, and those of the streams that it copies.
    pub(crate) subjects: Vec<String>,
}

/// The use of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    /// A start reads the stream.
    Read,
    /// Events are published to it.
    Published,
}

/// Inspects what handlers need; `events` are the types and the subjects of events that the program may publish.
///
/// Differences between the server and the code are no errors here. A handler whose stream is not known is one.
pub(crate) async fn needs(
    transport: &Transport,
    handlers: &[&Declaration],
    events: &[(String, String)],
) -> Result<Needs, Error> {
    let inspection = inspect(transport, handlers, Aim::Export).await;
    if inspection.bindings.len() < handlers.len() {
        return Err(Error::of(inspection.problems));
    }
    let missing = inspection.missing_consumers;
    let mut collected = Collected { streams: Streams::new(transport, Aim::Export), needs: BTreeMap::new() };
    // A problem is reported by a start, and concerns no right.
    drop(collected.streams.add_transforms(handlers));
    drop(collected.streams.compare_declared(|_| true).await);
    for declared in &transport.settings().streams {
        collected.add(&declared.name, None, Use::Read).await;
    }
    let mut found = Vec::new();
    for (index, (handler, binding)) in inspection.bindings.into_iter().enumerate() {
        let mut needs = collected.of_handler(handler, binding).await;
        needs.consumer_is_missing = missing.contains(&index);
        found.push(needs);
    }
    for (event, filter) in events {
        let stream = collected.streams.find_event(&Purpose::Publish(filter.clone()), filter).await;
        // A publish reports that there is no stream.
        if let Ok(Some(stream)) = stream {
            collected.creates(&stream, filter, transport.settings().manage);
            collected.add(&stream, Some(event), Use::Published).await;
        }
    }
    Ok(Needs { handlers: found, streams: collected.needs })
}

struct Collected<'a> {
    streams: Streams<'a>,
    needs: BTreeMap<String, StreamNeeds>,
}

impl Collected<'_> {
    async fn of_handler(&mut self, handler: &Declaration, binding: Binding) -> HandlerNeeds {
        let Declaration { name, plan, events, .. } = handler;
        let outputs = plan.publish.iter().map(|it| it.to_string()).chain(events.iter().cloned()).collect();
        let mut needs = HandlerNeeds {
            handler: name.clone(),
            config: created_config(handler, &binding),
            names_stream: plan.stream.is_some(),
            manage: plan.manage.unwrap_or(self.streams.transport.settings().manage),
            consumer_is_missing: false,
            looks_up: false,
            looks_up_own: false,
            reads_copy: false,
            dead_letters: None,
            announcements: self.announcements(handler, &binding),
            outputs,
            binding,
        };
        self.of_messages(handler, &mut needs).await;
        self.of_dead_letters(&mut needs).await;
        self.of_outputs(&mut needs).await;
        needs
    }

    /// Returns the subject of the announcements of a handler, once for all of its partitions.
    fn announcements(&self, handler: &Declaration, binding: &Binding) -> Option<String> {
        handler.partition.as_ref().filter(|of| of.number == 0)?;
        Some(self.streams.transport.settings().announcements(&binding.stream, handler.queue()))
    }

    /// Adds the stream that a handler reads.
    async fn of_messages(&mut self, handler: &Declaration, needs: &mut HandlerNeeds) {
        let Declaration { name, plan, .. } = handler;
        let purpose = Purpose::Handler(name.clone());
        let mut stream = needs.binding.stream.clone();
        if handler.is_derived() {
            self.of_derived(name, needs).await;
        }
        for filter in handler.subjects().filters() {
            if let Ok(found) = self.streams.find(&purpose, &filter, plan.stream.as_deref()).await {
                stream = found;
            }
            if plan.stream.is_none() && !self.is_declared(|config| stores_all(&stored_directly(config), &filter)) {
                needs.looks_up_own = true;
                let known = self.streams.known.get(&stream);
                needs.reads_copy |=
                    known.is_some_and(|it| it.exists && !stores_all(&stored_directly(&it.config), &filter));
            }
            self.creates(&stream, &filter, needs.manage);
        }
        needs.looks_up = needs.looks_up_own;
        self.add(&stream, Some(name), Use::Read).await;
    }

    /// Adds the stream that the server derives from the one that has the messages of a handler.
    async fn of_derived(&mut self, handler: &String, needs: &HandlerNeeds) {
        let settings = self.streams.transport.settings();
        let stream = &needs.binding.stream;
        if settings.auto_create && needs.manage != Manage::Bind {
            self.needs.entry(stream.clone()).or_default().is_created = true;
        }
        self.add(stream, Some(handler), Use::Read).await;
        self.needs.entry(stream.clone()).or_default().is_derived = true;
    }

    async fn of_dead_letters(&mut self, needs: &mut HandlerNeeds) {
        let HandlerNeeds { handler, binding, manage, .. } = needs;
        let Some(subject) = &binding.dead_letter else { return };
        needs.looks_up |= !self.is_declared(|config| any_covers(&listened(config), subject));
        if let Ok(stream) = self.streams.find(&Purpose::DeadLetters(handler.clone()), subject, None).await {
            self.creates(&stream, subject, *manage);
            self.add(&stream, Some(handler), Use::Read).await;
            needs.dead_letters = Some(stream);
        }
    }

    async fn of_outputs(&mut self, needs: &mut HandlerNeeds) {
        let HandlerNeeds { handler, outputs, manage, looks_up, .. } = needs;
        for output in outputs {
            let has_wildcard = has_wildcard(output);
            *looks_up |= has_wildcard || !self.is_declared(|config| any_covers(&listened(config), output));
            let purpose = Purpose::Outputs(handler.clone());
            if let Ok(Some(stream)) = self.streams.find_event(&purpose, output).await {
                self.creates(&stream, output, *manage);
                self.add(&stream, Some(handler), Use::Read).await;
            }
            // A start reads each stream that has a part of them.
            let has_part =
                |known: &KnownStream| known.exists && has_wildcard && any_overlaps(&listened(&known.config), output);
            let parts = self.streams.known.iter().filter(|(_, known)| has_part(known)).map(|(name, _)| name.clone());
            for stream in parts.collect::<Vec<_>>() {
                self.add(&stream, Some(handler), Use::Read).await;
            }
        }
    }

    /// Returns `true` if a declared stream has this property, so that the server is not asked for the name of one.
    fn is_declared(&self, has: impl Fn(&stream::Config) -> bool) -> bool {
        let declared = &self.streams.transport.settings().streams;
        declared.iter().filter_map(|declared| self.streams.known.get(&declared.name)).any(|known| has(&known.config))
    }

    /// Notes that the broker creates a stream with the default name of this subject, if it does not exist.
    fn creates(&mut self, stream: &str, subject: &str, manage: Manage) {
        let settings = self.streams.transport.settings();
        let is_planned = self.streams.known.get(stream).is_some_and(|known| !known.exists);
        let is_default = default_name(settings, subject).as_deref() == Some(stream);
        if settings.auto_create && manage != Manage::Bind && (is_planned || is_default) {
            self.needs.entry(stream.to_owned()).or_default().is_created = true;
        }
    }

    async fn add(&mut self, name: &str, needed_by: Option<&String>, of: Use) {
        let settings = self.streams.transport.settings();
        let config = self.streams.config(name).await;
        let (origins, subjects) = self.origins(config.as_ref()).await;
        let exists = self.streams.known.get(name).is_none_or(|known| known.exists);
        let needs = self.needs.entry(name.to_owned()).or_default();
        needs.is_missing = !exists;
        needs.is_declared = settings.streams.iter().any(|declared| declared.name == name);
        needs.is_created |= needs.is_declared && settings.auto_create && settings.manage != Manage::Bind;
        needs.is_read |= of == Use::Read;
        needs.is_work_queue = config.is_some_and(|config| config.retention == RetentionPolicy::WorkQueue);
        (needs.origins, needs.subjects) = (origins, subjects);
        if let Some(needed_by) = needed_by.filter(|it| !needs.needed_by.contains(it)) {
            needs.needed_by.push(needed_by.clone());
        }
    }

    /// Returns the streams that a stream copies, which are read to know what it stores, and the subjects that it and those
    /// listen to.
    async fn origins(&mut self, config: Option<&stream::Config>) -> (Vec<String>, Vec<String>) {
        let (mut found, mut subjects): (Vec<String>, Vec<String>) = Default::default();
        let mut next: Vec<stream::Config> = config.cloned().into_iter().collect();
        for _ in 0..MAX_DEPTH {
            for config in std::mem::take(&mut next) {
                subjects.extend(listened(&config));
                let sources = config.mirror.iter().chain(config.sources.iter().flatten());
                for source in sources.filter(|source| source.external.is_none() && source.domain.is_none()) {
                    if !found.contains(&source.name) {
                        found.push(source.name.clone());
                        next.extend(self.streams.config(&source.name).await);
                    }
                }
            }
        }
        (found, subjects)
    }
}

/// Returns the configuration with which the consumer of a handler is created or updated; an update leaves filters that are
/// the same as they are written on the server.
fn created_config(handler: &Declaration, binding: &Binding) -> consumer::Config {
    let wanted = consumer_config(handler);
    let is_same = filters(&wanted) == filters(&binding.config);
    if is_same { (*binding.config).clone() } else { wanted }
}

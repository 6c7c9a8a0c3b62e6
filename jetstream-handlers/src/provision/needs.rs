//! The streams and consumers of handlers, with the requests by which a start finds and creates them.

use std::collections::BTreeMap;

use async_nats::jetstream::stream::{self, RetentionPolicy};

use super::default_stream::default_name;
use super::inspect::inspect;
use super::stored::{any_covers, any_overlaps, listened, stored_directly, stores_all};
use super::streams::{Aim, KnownStream, Streams};
use crate::delivery::Binding;
use crate::error::Error;
use crate::error::problem::Purpose;
use crate::plan::{Declaration, Manage};
use crate::transport::Transport;

/// The maximum number of streams between a stream and those that it copies.
const MAX_DEPTH: usize = 8;

/// What handlers, declared streams and events need on the server.
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
    /// What a start may create and change for it.
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
    /// `true` if the stream does not exist.
    pub(crate) is_missing: bool,
    pub(crate) is_work_queue: bool,
    /// The streams of the account that it copies.
    pub(crate) origins: Vec<String>,
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
    // A difference is reported by a start, and concerns no right.
    drop(collected.streams.compare_declared(|_| true).await);
    for declared in &transport.settings().streams {
        collected.add(&declared.name, None, true).await;
    }
    let mut found = Vec::new();
    for (index, (handler, binding)) in inspection.bindings.into_iter().enumerate() {
        found.push(collected.of_handler(handler, binding, missing.contains(&index)).await);
    }
    for (event, filter) in events {
        let stream = collected.streams.find_event(&Purpose::Publish(filter.clone()), filter).await;
        // A publish reports that there is no stream.
        if let Ok(Some(stream)) = stream {
            collected.creates(&stream, filter, transport.settings().manage);
            collected.add(&stream, Some(event), false).await;
        }
    }
    Ok(Needs { handlers: found, streams: collected.needs })
}

struct Collected<'a> {
    streams: Streams<'a>,
    needs: BTreeMap<String, StreamNeeds>,
}

impl Collected<'_> {
    async fn of_handler(&mut self, handler: &Declaration, binding: Binding, consumer_is_missing: bool) -> HandlerNeeds {
        let Declaration { name, plan, events, .. } = handler;
        let purpose = Purpose::Handler(name.clone());
        let manage = plan.manage.unwrap_or(self.streams.transport.settings().manage);
        let (mut looks_up_own, mut reads_copy) = (false, false);
        for filter in plan.subject.filters() {
            self.streams.find(&purpose, &filter, plan.stream.as_deref()).await.ok();
            if plan.stream.is_none() && !self.is_declared(|config| stores_all(&stored_directly(config), &filter)) {
                looks_up_own = true;
                let known = self.streams.known.get(&binding.stream);
                reads_copy |= known.is_some_and(|it| it.exists && !stores_all(&stored_directly(&it.config), &filter));
            }
            self.creates(&binding.stream, &filter, manage);
        }
        self.add(&binding.stream, Some(name), true).await;
        let mut looks_up = looks_up_own;
        let mut dead_letters = None;
        if let Some(subject) = &binding.dead_letter {
            let purpose = Purpose::DeadLetters(name.clone());
            looks_up |= !self.is_declared(|config| any_covers(&listened(config), subject));
            if let Ok(stream) = self.streams.find(&purpose, subject, None).await {
                self.creates(&stream, subject, manage);
                self.add(&stream, Some(name), true).await;
                dead_letters = Some(stream);
            }
        }
        let outputs: Vec<String> = plan.publish.iter().map(|it| it.to_string()).chain(events.iter().cloned()).collect();
        for output in &outputs {
            let has_wildcard = output.split('.').any(|token| matches!(token, "*" | ">"));
            looks_up |= has_wildcard || !self.is_declared(|config| any_covers(&listened(config), output));
            let purpose = Purpose::Outputs(name.clone());
            if let Ok(Some(stream)) = self.streams.find_event(&purpose, output).await {
                self.creates(&stream, output, manage);
                self.add(&stream, Some(name), true).await;
            }
            // A start reads each stream that has a part of them.
            let has_part =
                |known: &KnownStream| known.exists && has_wildcard && any_overlaps(&listened(&known.config), output);
            let parts = self.streams.known.iter().filter(|(_, known)| has_part(known)).map(|(name, _)| name.clone());
            for stream in parts.collect::<Vec<_>>() {
                self.add(&stream, Some(name), true).await;
            }
        }
        let handler = name.clone();
        HandlerNeeds {
            handler,
            binding,
            manage,
            consumer_is_missing,
            looks_up,
            looks_up_own,
            reads_copy,
            dead_letters,
            outputs,
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

    async fn add(&mut self, name: &str, needed_by: Option<&String>, is_read: bool) {
        let settings = self.streams.transport.settings();
        let config = self.streams.config(name).await;
        let origins = self.origins(config.as_ref()).await;
        let exists = self.streams.known.get(name).is_none_or(|known| known.exists);
        let needs = self.needs.entry(name.to_owned()).or_default();
        needs.is_missing = !exists;
        needs.is_declared = settings.streams.iter().any(|declared| declared.name == name);
        needs.is_created |= needs.is_declared && settings.auto_create && settings.manage != Manage::Bind;
        needs.is_read |= is_read;
        needs.is_work_queue = config.is_some_and(|config| config.retention == RetentionPolicy::WorkQueue);
        needs.origins = origins;
        if let Some(needed_by) = needed_by.filter(|it| !needs.needed_by.contains(it)) {
            needs.needed_by.push(needed_by.clone());
        }
    }

    /// Returns the streams that a stream copies, which are read to know what it stores.
    async fn origins(&mut self, config: Option<&stream::Config>) -> Vec<String> {
        let mut found: Vec<String> = Vec::new();
        let mut next: Vec<stream::Config> = config.cloned().into_iter().collect();
        for _ in 0..MAX_DEPTH {
            for config in std::mem::take(&mut next) {
                let sources = config.mirror.iter().chain(config.sources.iter().flatten());
                for source in sources.filter(|source| source.external.is_none() && source.domain.is_none()) {
                    if !found.contains(&source.name) {
                        found.push(source.name.clone());
                        next.extend(self.streams.config(&source.name).await);
                    }
                }
            }
        }
        found
    }
}

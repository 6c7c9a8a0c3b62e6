//! The streams that handlers and publishes need: found on the server, or planned for creation.

use std::collections::BTreeMap;

use async_nats::jetstream::stream::{self, Source};
use futures::future::BoxFuture;

use super::default_stream::{default_name, default_stream, default_subjects};
use super::stored::{
    Stored, any_covers, any_overlaps, copied, known, listened, patterns, stored_directly, stores_all, stores_some,
    through_transform,
};
use super::unfit::{
    Changeable, fix, missing, name_taken, no_default_name, not_covered, partly, published_only, wrong_stream,
};
use super::{drift, notices, ownership, unfit};
use crate::declaration::Declaration;
use crate::error::difference::Difference;
use crate::error::problem::{Problem, Purpose};
use crate::plan::Manage;
use crate::settings::Settings;
use crate::subject::{has_wildcard, overlap, partitions_of};
use crate::transport::Transport;

/// The maximum number of streams between a message and its copy that are followed.
const MAX_DEPTH: usize = 8;

/// A stream that exists on the server, or is planned for creation.
pub(super) struct KnownStream {
    pub(super) config: stream::Config,
    pub(super) exists: bool,
    /// The purpose for which the stream was needed first.
    pub(super) purpose: Purpose,
    /// The consumers of a work queue, with their filters; empty for other streams.
    pub(super) consumers: Vec<(String, String)>,
    /// The configuration on the server that `config` is to replace.
    pub(super) replaces: Option<stream::Config>,
}

/// The aim of an inspection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Aim {
    /// Starting handlers, which changes only what [`Manage`] permits.
    Start,
    /// A plan of every change.
    Plan,
    /// The needs of handlers, as if all of it were missing where `bind` forbids a creation.
    Export,
}

/// The streams that were read or planned so far.
pub(super) struct Streams<'a> {
    pub(super) transport: &'a Transport,
    pub(super) known: BTreeMap<String, KnownStream>,
    /// Every stream of the account; `None` until they are listed.
    listed: Option<BTreeMap<String, stream::Config>>,
    /// Streams that were read because another stream copies them.
    origins: BTreeMap<String, stream::Config>,
    pub(super) aim: Aim,
    /// The streams that the application has passed to the builder, with the transforms that handlers need.
    pub(super) declared: Vec<stream::Config>,
    /// The changes that are permitted for the handler whose streams are looked for.
    pub(super) manage: Manage,
}

impl<'a> Streams<'a> {
    pub(super) fn new(transport: &'a Transport, aim: Aim) -> Self {
        let (manage, declared) = (transport.settings().manage, transport.settings().streams.clone());
        Self { transport, known: BTreeMap::new(), listed: None, origins: BTreeMap::new(), aim, declared, manage }
    }

    /// Looks for the streams of this handler from now on.
    pub(super) fn manage_for(&mut self, handler: &Declaration) {
        self.manage = handler.plan.manage.unwrap_or(self.settings().manage);
    }

    /// Returns `true` if missing streams are created.
    pub(super) fn creates(&self) -> bool {
        self.aim == Aim::Export || (self.settings().auto_create && self.manage != Manage::Bind)
    }

    /// Compares the streams passed to the builder with those on the server, if `is_needed` returns `true` for them;
    /// plans missing ones.
    pub(super) async fn compare_declared(&mut self, is_needed: impl Fn(&stream::Config) -> bool) -> Vec<Problem> {
        let mut problems = Vec::new();
        for wanted in self.declared.clone().iter().filter(|config| is_needed(config)) {
            match self.load(&Purpose::Declared, &wanted.name).await {
                Ok(true) => problems.extend(self.compare(wanted)),
                Ok(false) if self.creates() => self.plan(&Purpose::Declared, wanted.clone()),
                Ok(false) if self.manage == Manage::Bind => {
                    let subject = wanted.subjects.first().unwrap_or(&wanted.name);
                    problems.push(unfit::unbound(&Purpose::Declared, subject, wanted));
                    // So that handlers of its subjects have no problem of their own.
                    self.plan(&Purpose::Declared, wanted.clone());
                }
                // A missing stream is reported for the handler that needs it.
                Ok(false) => {}
                Err(problem) => problems.push(problem),
            }
        }
        problems
    }

    /// Compares a declared stream with the one on the server; returns the problem of a difference that is not changed.
    fn compare(&mut self, wanted: &stream::Config) -> Option<Problem> {
        let found = &self.known[&wanted.name].config;
        // That of a handler with partitions, which another call or program starts.
        let of_partitions = found.subject_transform.clone().filter(|it| partitions_of(&it.destination).is_some());
        let subject_transform = wanted.subject_transform.clone().or(of_partitions);
        let wanted = &stream::Config { subject_transform, ..wanted.clone() };
        let problem = drift::check_stream(found, wanted).err()?;
        let differences = problem.differences();
        let is_changeable = differences.iter().all(Difference::is_changeable);
        let adopted = ownership::replaced_since(&found.metadata, &ownership::of_stream(wanted));
        if let (Aim::Start, true, Some(since)) = (self.aim, is_changeable, adopted) {
            notices::adopted_stream(&wanted.name, differences, since);
            return None;
        }
        let number =
            |config: &stream::Config| config.subject_transform.as_ref().map(|it| partitions_of(&it.destination));
        let is_renumbered = number(found) != number(wanted);
        let changes = match self.aim {
            // The messages of the former partitions are worked off before, by a plan.
            Aim::Start => self.manage == Manage::Update && !is_renumbered,
            Aim::Plan => self.manage != Manage::Bind,
            Aim::Export => {
                let known = self.known.get_mut(&wanted.name)?;
                known.config = wanted.clone();
                return None;
            }
        };
        if !changes || !is_changeable {
            return Some(problem);
        }
        let changed = drift::changed_stream(found, wanted, differences);
        if let Some(known) = self.known.get_mut(&wanted.name) {
            known.replaces = Some(std::mem::replace(&mut known.config, changed));
        }
        None
    }

    fn settings(&self) -> &'a Settings {
        self.transport.settings()
    }

    pub(super) fn plan(&mut self, purpose: &Purpose, config: stream::Config) {
        let purpose = purpose.clone();
        let known = KnownStream { exists: false, purpose, consumers: Vec::new(), replaces: None, config };
        self.known.insert(known.config.name.clone(), known);
    }

    /// Returns `true` if the application has passed the stream to the builder, so that its subjects are fixed.
    pub(super) fn is_declared(&self, name: &str) -> bool {
        self.transport.settings().streams.iter().any(|declared| declared.name == name)
    }

    fn changeable(&self, name: &str) -> Changeable {
        if self.is_declared(name) { Changeable::Declaration } else { Changeable::Stream }
    }

    /// Returns the name of the stream for `subject`; plans the default one if there is none.
    ///
    /// A handler reads a stream that stores messages with its subject, and all others publish to a stream that listens
    /// to theirs.
    pub(super) async fn find(
        &mut self,
        purpose: &Purpose,
        subject: &str,
        stream: Option<&str>,
    ) -> Result<String, Problem> {
        match (purpose, stream) {
            (_, Some(name)) => self.find_named(purpose, subject, name).await,
            (Purpose::Handler(_), None) => self.find_storing(purpose, subject).await,
            (_, None) => self.find_listening(purpose, subject).await,
        }
    }

    /// Finds the stream that a handler names; it is enough if some of its messages can have the subject.
    async fn find_named(&mut self, purpose: &Purpose, subject: &str, name: &str) -> Result<String, Problem> {
        if !self.known.contains_key(name) && !self.load(purpose, name).await? {
            self.plan_named(purpose, subject, name).await?;
        }
        let Some(known) = self.known.get(name) else {
            return Err(Problem::Deleted { purpose: purpose.clone(), stream: name.to_owned(), consumer: None });
        };
        let (config, exists) = (known.config.clone(), known.exists);
        let stored = self.stored(&config).await;
        if stores_some(&stored, subject) {
            return Ok(name.to_owned());
        }
        if !exists && !self.is_declared(name) {
            self.extend(name, subject);
            return Ok(name.to_owned());
        }
        if let Some(problem) = published_only(purpose, subject, &config) {
            return Err(problem);
        }
        let listening = self.names(purpose, subject).await?;
        match self.owner(purpose, subject, &listening).await? {
            Some(owner) => Err(wrong_stream(purpose, subject, name, true, owner)),
            None => {
                let changeable = if listening.is_empty() { self.changeable(name) } else { Changeable::Nothing };
                let fix = fix(self.settings(), subject, &config, &changeable);
                Err(not_covered(purpose, subject, &config, patterns(stored), &fix))
            }
        }
    }

    /// Plans the stream that a handler names and that does not exist.
    async fn plan_named(&mut self, purpose: &Purpose, subject: &str, name: &str) -> Result<(), Problem> {
        let listening = self.names(purpose, subject).await?;
        if listening.iter().any(|other| other == name) {
            // Another process has created the stream in the meantime.
            self.load(purpose, name).await?;
        } else if let Some(owner) = self.owner(purpose, subject, &listening).await? {
            return Err(wrong_stream(purpose, subject, name, false, owner));
        } else if !listening.is_empty() {
            let (purpose, subject) = (purpose.clone(), subject.to_owned());
            return Err(Problem::AmbiguousStream { purpose, subject, streams: listening });
        } else {
            self.require_creatable(purpose, subject)?;
            if !self.creates() {
                return Err(missing(self.settings(), self.manage, purpose, subject, Some(name)));
            }
            self.plan(purpose, default_stream(self.settings(), name, subject));
        }
        Ok(())
    }

    fn extend(&mut self, name: &str, subject: &str) {
        let subjects = default_subjects(self.settings(), subject);
        if let Some(known) = self.known.get_mut(name) {
            known.config.subjects.extend(subjects);
        }
    }

    /// Returns the stream that stores every message with the subject, of those that listen to a part of it.
    ///
    /// The subjects of streams never overlap, so that there is none if several listen.
    async fn owner(
        &mut self,
        purpose: &Purpose,
        subject: &str,
        listening: &[String],
    ) -> Result<Option<String>, Problem> {
        let [name] = listening else { return Ok(None) };
        self.load(purpose, name).await?;
        let stores = |known: &KnownStream| stores_all(&stored_directly(&known.config), subject);
        Ok(self.known.get(name).is_some_and(stores).then(|| name.clone()))
    }

    /// Finds the stream that stores the messages of a handler.
    async fn find_storing(&mut self, purpose: &Purpose, subject: &str) -> Result<String, Problem> {
        let storing = |(_, known): &(&String, &KnownStream)| stores_all(&stored_directly(&known.config), subject);
        if let Some((name, _)) = self.known.iter().find(storing) {
            return Ok(name.clone());
        }
        let mut listening = self.names(purpose, subject).await?;
        if let Some(name) = self.owner(purpose, subject, &listening).await? {
            return Ok(name);
        }
        if let Some(name) = self.find_copy(purpose, subject).await? {
            return Ok(name);
        }
        let declared = self.known.iter().filter(|(name, known)| {
            !known.exists && self.is_declared(name) && any_overlaps(&listened(&known.config), subject)
        });
        listening.extend(declared.map(|(name, _)| name.clone()).collect::<Vec<_>>());
        match &*listening {
            [] => self.plan_default(purpose, subject).await,
            [name] => Err(match self.known.get(name) {
                Some(known) => published_only(purpose, subject, &known.config)
                    .unwrap_or_else(|| partly(purpose, subject, &known.config)),
                None => Problem::Deleted { purpose: purpose.clone(), stream: name.clone(), consumer: None },
            }),
            // Each of these streams has a part of the subject, so that a new stream would overlap it.
            _ => {
                let (purpose, subject) = (purpose.clone(), subject.to_owned());
                Err(Problem::AmbiguousStream { purpose, subject, streams: listening })
            }
        }
    }

    /// Finds the stream that stores messages with the subject, although it does not listen to the subject: it
    /// transforms subjects, or copies another stream.
    pub(super) async fn find_copy(&mut self, purpose: &Purpose, subject: &str) -> Result<Option<String>, Problem> {
        let configs = self.all_configs().await;
        let mut transformed: Vec<&stream::Config> =
            configs.iter().filter(|it| it.subject_transform.is_some()).collect();
        transformed.retain(|config| stores_some(&stored_directly(config), subject));
        let mut storing: Vec<String> = transformed
            .iter()
            .filter(|config| stores_all(&stored_directly(config), subject))
            .map(|config| config.name.clone())
            .collect();
        if storing.is_empty() {
            for config in configs.iter().filter(|config| config.mirror.is_some() || config.sources.is_some()) {
                let stored = known(self.stored(config).await);
                if stores_all(&stored, subject) {
                    storing.push(config.name.clone());
                }
            }
        }
        match (&*storing, &*transformed) {
            ([], []) => Ok(None),
            ([], [config, ..]) => Err(partly(purpose, subject, config)),
            ([name], _) => {
                if !self.known.contains_key(name) {
                    self.load(purpose, name).await?;
                }
                Ok(Some(name.clone()))
            }
            _ => {
                let (purpose, subject) = (purpose.clone(), subject.to_owned());
                Err(Problem::AmbiguousStream { purpose, subject, streams: storing })
            }
        }
    }

    /// Returns the configurations of all streams, including planned ones.
    async fn all_configs(&mut self) -> Vec<stream::Config> {
        if self.listed.is_none() {
            // Without the permission to list the streams, the others are still found by their subjects.
            let listed = self.transport.streams().await.unwrap_or_else(|error| {
                tracing::debug!("cannot list the streams: {error}");
                Vec::new()
            });
            self.listed = Some(listed.into_iter().map(|config| (config.name.clone(), config)).collect());
        }
        let planned = self.known.values().filter(|known| !known.exists).map(|known| &known.config);
        planned.chain(self.listed.iter().flat_map(BTreeMap::values)).cloned().collect()
    }

    /// Returns the subjects that the messages of a stream may have; `>` if nothing is known of them.
    ///
    /// The streams that it copies are read if they belong to this account.
    pub(super) async fn stored(&mut self, config: &stream::Config) -> Vec<Stored> {
        self.stored_at(config.clone(), 0).await
    }

    fn stored_at(&mut self, config: stream::Config, depth: usize) -> BoxFuture<'_, Vec<Stored>> {
        Box::pin(async move {
            let mut subjects: Vec<_> = listened(&config).into_iter().map(Stored::new).collect();
            for source in config.mirror.iter().chain(config.sources.iter().flatten()) {
                let origin = match self.origin(source).await {
                    Some(origin) if depth < MAX_DEPTH => self.stored_at(origin, depth + 1).await,
                    _ => vec![Stored::anything()],
                };
                subjects.extend(copied(source, &origin));
            }
            let mut stored = through_transform(&config, subjects);
            stored.sort();
            stored.dedup();
            stored
        })
    }

    /// Returns the stream that another one copies; `None` if it belongs to another account, or cannot be read.
    async fn origin(&mut self, source: &Source) -> Option<stream::Config> {
        if source.external.is_some() || source.domain.is_some() {
            return None;
        }
        self.config(&source.name).await
    }

    /// Returns the configuration of a stream, if it exists or is planned, and can be read.
    pub(super) async fn config(&mut self, name: &str) -> Option<stream::Config> {
        if let Some(known) = self.known.get(name) {
            return Some(known.config.clone());
        }
        let listed = self.listed.as_ref().and_then(|listed| listed.get(name));
        if let Some(config) = listed.or_else(|| self.origins.get(name)) {
            return Some(config.clone());
        }
        let found = read_stream(self.transport, &Purpose::Declared, name).await.ok().flatten()?;
        self.origins.insert(name.to_owned(), found.clone());
        Some(found)
    }

    /// Finds the stream that listens to a subject to publish to.
    async fn find_listening(&mut self, purpose: &Purpose, subject: &str) -> Result<String, Problem> {
        let listens = |(_, known): &(&String, &KnownStream)| any_covers(&listened(&known.config), subject);
        if let Some((name, _)) = self.known.iter().find(listens) {
            return Ok(name.clone());
        }
        for name in self.names(purpose, subject).await? {
            self.load(purpose, &name).await?;
            if self.known.get(&name).is_some_and(|known| any_covers(&listened(&known.config), subject)) {
                return Ok(name);
            }
        }
        self.plan_default(purpose, subject).await
    }

    /// Finds the stream that listens to the subjects of an event that a handler returns, or plans it; `None` if that depends
    /// on the values of its fields.
    ///
    /// One stream may listen to `orders.eu.*` and another to `orders.us.*`, and an application may publish to these two
    /// alone. So an event of `orders.*.created` is refused only if no stream listens to any of its subjects.
    pub(super) async fn find_event(&mut self, purpose: &Purpose, filter: &str) -> Result<Option<String>, Problem> {
        if !has_wildcard(filter) {
            return self.find_listening(purpose, filter).await.map(Some);
        }
        for name in self.names(purpose, filter).await? {
            self.load(purpose, &name).await?;
        }
        if let Some(covering) = self.covering_of_listening(filter) {
            return Ok(covering);
        }
        // A publish creates the stream of `acme.orders` for an event of `{tenant}.orders`.
        if default_name(self.settings(), filter).is_none() && self.creates() {
            return Ok(None);
        }
        self.plan_default(purpose, filter).await.map(Some)
    }

    /// Returns the stream that listens to all subjects that match, if there is one, of those that listen to some; `None` if
    /// there are none of these.
    fn covering_of_listening(&self, filter: &str) -> Option<Option<String>> {
        let listening = self.known.iter().filter(|(_, known)| any_overlaps(&listened(&known.config), filter));
        let listening: Vec<_> = listening.collect();
        let covers = |(_, known): &&(&String, &KnownStream)| any_covers(&listened(&known.config), filter);
        let covering = listening.iter().find(covers).map(|(name, _)| (*name).clone());
        (!listening.is_empty()).then_some(covering)
    }

    /// Plans the default stream of a subject that no stream covers.
    async fn plan_default(&mut self, purpose: &Purpose, subject: &str) -> Result<String, Problem> {
        self.require_creatable(purpose, subject)?;
        let Some(name) = default_name(self.settings(), subject) else { return Err(no_default_name(purpose, subject)) };
        if !self.creates() {
            return Err(missing(self.settings(), self.manage, purpose, subject, None));
        }
        if !self.known.contains_key(&name) {
            self.load(purpose, &name).await?;
        }
        let is_declared = self.is_declared(&name);
        match self.known.get(&name) {
            // Another process has created the stream in the meantime.
            Some(known) if stores_all(&stored_directly(&known.config), subject) => {}
            Some(known) if known.exists || is_declared => {
                return Err(name_taken(self.settings(), purpose, subject, &known.config, &self.changeable(&name)));
            }
            Some(_) => self.extend(&name, subject),
            None => self.plan(purpose, default_stream(self.settings(), &name, subject)),
        }
        Ok(name)
    }

    /// Returns an error for a subject for which no stream is created.
    fn require_creatable(&self, purpose: &Purpose, subject: &str) -> Result<(), Problem> {
        if default_name(self.settings(), subject).is_none() {
            return Err(no_default_name(purpose, subject));
        }
        // The replies to requests have subjects that begin with `_`, or with the prefix that the connection sets.
        let replies = self.transport.inboxes();
        if subject.starts_with(['$', '_']) || any_overlaps(&default_subjects(self.settings(), subject), &replies) {
            return Err(Problem::ReservedSubject { purpose: purpose.clone(), subject: subject.to_owned() });
        }
        Ok(())
    }

    /// Reads a stream from the server; returns `false` if it does not exist.
    pub(super) async fn load(&mut self, purpose: &Purpose, name: &str) -> Result<bool, Problem> {
        if self.known.get(name).is_some_and(|known| known.exists) {
            return Ok(true);
        }
        let Some(config) = read_stream(self.transport, purpose, name).await? else { return Ok(false) };
        let consumers = if config.retention == stream::RetentionPolicy::WorkQueue {
            self.transport.consumers(name).await.map_err(|error| {
                Problem::failed(purpose, error.into_error(&format!("listing the consumers of stream `{name}`")))
            })?
        } else {
            Vec::new()
        };
        let known = KnownStream { config, exists: true, purpose: purpose.clone(), consumers, replaces: None };
        self.known.insert(name.to_owned(), known);
        Ok(true)
    }

    /// Returns the names of the streams on the server that cover at least a part of `subject`.
    pub(super) async fn names(&self, purpose: &Purpose, subject: &str) -> Result<Vec<String>, Problem> {
        self.transport.stream_names(subject).await.map_err(|error| {
            Problem::failed(purpose, error.into_error(&format!("looking for the stream of `{subject}`")))
        })
    }

    /// Returns a problem for each planned stream that overlaps another planned stream or a stream on the server.
    pub(super) async fn overlaps(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut earlier: Vec<&KnownStream> = Vec::new();
        for planned in self.known.values().filter(|known| !known.exists) {
            problems.extend(match earlier.iter().find_map(|other| overlap_of(planned, &other.config)) {
                Some(problem) => Some(problem),
                None => overlap_on_server(self.transport, planned).await,
            });
            earlier.push(planned);
        }
        problems
    }
}

/// Reads the configuration of a stream; returns `None` if it does not exist.
pub(super) async fn read_stream(
    transport: &Transport,
    purpose: &Purpose,
    name: &str,
) -> Result<Option<stream::Config>, Problem> {
    let found = transport.stream(name).await;
    found.map_err(|error| Problem::failed(purpose, error.into_error(&format!("reading stream `{name}`"))))
}

/// Returns the problem of a planned stream that overlaps a stream on the server, which the server's own error does not
/// name.
pub(super) async fn overlap_on_server(transport: &Transport, planned: &KnownStream) -> Option<Problem> {
    for subject in &listened(&planned.config) {
        for other in transport.stream_names(subject).await.unwrap_or_default() {
            if other != planned.config.name
                && let Ok(Some(config)) = transport.stream(&other).await
                && let Some(problem) = overlap_of(planned, &config)
            {
                return Some(problem);
            }
        }
    }
    None
}

fn overlap_of(planned: &KnownStream, other: &stream::Config) -> Option<Problem> {
    let (own, theirs) = (listened(&planned.config), listened(other));
    let pairs = own.iter().flat_map(|own| theirs.iter().map(move |theirs| (own, theirs)));
    let (subject, other_subject) = pairs.into_iter().find(|(own, theirs)| overlap(own, theirs))?;
    Some(Problem::StreamOverlap {
        purpose: planned.purpose.clone(),
        stream: planned.config.name.clone(),
        subject: subject.clone(),
        other: other.name.clone(),
        other_subject: other_subject.clone(),
    })
}

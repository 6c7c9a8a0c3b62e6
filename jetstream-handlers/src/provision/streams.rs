//! The streams that handlers and publishes need: found on the server, or planned for creation.

use std::collections::BTreeMap;

use async_nats::jetstream::stream;

use super::drift;
use crate::error::problem::{Problem, Purpose};
use crate::subject::{covers, overlap};
use crate::transport::Transport;

/// A stream that exists on the server, or is planned for creation.
pub(super) struct KnownStream {
    pub(super) config: stream::Config,
    pub(super) exists: bool,
    /// The purpose for which the stream was needed first.
    pub(super) purpose: Purpose,
    /// The consumers of a work queue, with their filters; empty for other streams.
    pub(super) consumers: Vec<(String, String)>,
}

/// The streams that were read or planned so far.
pub(super) struct Streams<'a> {
    pub(super) transport: &'a Transport,
    pub(super) known: BTreeMap<String, KnownStream>,
}

impl<'a> Streams<'a> {
    pub(super) fn new(transport: &'a Transport) -> Self {
        Self { transport, known: BTreeMap::new() }
    }

    /// Compares the streams passed to the builder with those on the server, if `is_needed` returns `true` for them;
    /// plans missing ones.
    pub(super) async fn compare_declared(&mut self, is_needed: impl Fn(&stream::Config) -> bool) -> Vec<Problem> {
        let mut problems = Vec::new();
        let settings = self.transport.settings();
        for wanted in settings.streams.iter().filter(|config| is_needed(config)) {
            match self.load(&Purpose::Declared, &wanted.name).await {
                Ok(true) => problems.extend(drift::check_stream(&self.known[&wanted.name].config, wanted).err()),
                Ok(false) if settings.auto_create => self.plan(&Purpose::Declared, wanted.clone()),
                // A missing stream is reported for the handler that needs it.
                Ok(false) => {}
                Err(problem) => problems.push(problem),
            }
        }
        problems
    }

    fn plan(&mut self, purpose: &Purpose, config: stream::Config) {
        let known = KnownStream { exists: false, purpose: purpose.clone(), consumers: Vec::new(), config };
        self.known.insert(known.config.name.clone(), known);
    }

    /// Returns the name of the stream that covers `subject`; plans the default one if there is none.
    pub(super) async fn find(
        &mut self,
        purpose: &Purpose,
        subject: &str,
        stream: Option<&str>,
    ) -> Result<String, Problem> {
        match stream {
            Some(name) => self.find_named(purpose, subject, name).await,
            None => self.find_by_subject(purpose, subject).await,
        }
    }

    async fn find_named(&mut self, purpose: &Purpose, subject: &str, name: &str) -> Result<String, Problem> {
        if !self.known.contains_key(name) && !self.load(purpose, name).await? {
            if !self.transport.settings().auto_create {
                return Err(missing(purpose, subject, Some(name)));
            }
            let overlapping = self.names(purpose, subject).await?;
            if overlapping.iter().any(|other| other == name) {
                // Another process has created the stream in the meantime.
                self.load(purpose, name).await?;
            } else if let Some(owner) = self.covering(purpose, subject, &overlapping).await? {
                return Err(wrong_stream(purpose, subject, name, false, owner));
            } else if !overlapping.is_empty() {
                let (purpose, subject) = (purpose.clone(), subject.to_owned());
                return Err(Problem::AmbiguousStream { purpose, subject, streams: overlapping });
            } else if default_name(subject).is_none() {
                return Err(no_default_name(purpose, subject));
            } else {
                self.plan(purpose, default_stream(name, subject));
            }
        }
        let Some(known) = self.known.get_mut(name) else {
            return Err(Problem::Deleted { purpose: purpose.clone(), stream: name.to_owned(), consumer: None });
        };
        if covered(&known.config, subject) {
            return Ok(name.to_owned());
        }
        if !known.exists {
            known.config.subjects.extend(default_subjects(subject));
            return Ok(name.to_owned());
        }
        let problem = not_covered(purpose, subject, &known.config);
        let overlapping = self.names(purpose, subject).await?;
        match self.covering(purpose, subject, &overlapping).await? {
            Some(owner) => Err(wrong_stream(purpose, subject, name, true, owner)),
            None => Err(problem),
        }
    }

    /// Returns the first of these streams that covers the subject.
    async fn covering(
        &mut self,
        purpose: &Purpose,
        subject: &str,
        streams: &[String],
    ) -> Result<Option<String>, Problem> {
        for name in streams {
            self.load(purpose, name).await?;
            if self.known.get(name).is_some_and(|known| covered(&known.config, subject)) {
                return Ok(Some(name.clone()));
            }
        }
        Ok(None)
    }

    async fn find_by_subject(&mut self, purpose: &Purpose, subject: &str) -> Result<String, Problem> {
        if let Some((name, _)) = self.known.iter().find(|(_, known)| covered(&known.config, subject)) {
            return Ok(name.clone());
        }
        let names = self.names(purpose, subject).await?;
        for name in &names {
            self.load(purpose, name).await?;
        }
        if let Some(name) =
            names.iter().find(|name| self.known.get(*name).is_some_and(|known| covered(&known.config, subject)))
        {
            return Ok(name.clone());
        }
        // Each of these streams covers a part of the subject, so that a new stream would overlap it.
        if names.len() > 1 || (!names.is_empty() && default_name(subject).is_none()) {
            let (purpose, subject) = (purpose.clone(), subject.to_owned());
            return Err(Problem::AmbiguousStream { purpose, subject, streams: names });
        }
        if let Some(known) = names.first().and_then(|name| self.known.get(name)) {
            return Err(not_covered(purpose, subject, &known.config));
        }
        if !self.transport.settings().auto_create {
            return Err(missing(purpose, subject, None));
        }
        self.plan_default(purpose, subject).await
    }

    /// Plans the default stream of a subject that no stream covers.
    async fn plan_default(&mut self, purpose: &Purpose, subject: &str) -> Result<String, Problem> {
        let Some(name) = default_name(subject) else {
            return Err(no_default_name(purpose, subject));
        };
        if !self.known.contains_key(&name) {
            self.load(purpose, &name).await?;
        }
        match self.known.get_mut(&name) {
            // Another process has created the stream in the meantime.
            Some(known) if covered(&known.config, subject) => {}
            Some(known) if known.exists => return Err(not_covered(purpose, subject, &known.config)),
            Some(known) => known.config.subjects.extend(default_subjects(subject)),
            None => self.plan(purpose, default_stream(&name, subject)),
        }
        Ok(name)
    }

    /// Reads a stream from the server; returns `false` if it does not exist.
    async fn load(&mut self, purpose: &Purpose, name: &str) -> Result<bool, Problem> {
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
        let known = KnownStream { config, exists: true, purpose: purpose.clone(), consumers };
        self.known.insert(name.to_owned(), known);
        Ok(true)
    }

    /// Returns the names of the streams on the server that cover at least a part of `subject`.
    async fn names(&self, purpose: &Purpose, subject: &str) -> Result<Vec<String>, Problem> {
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

    /// Returns the planned streams.
    pub(super) fn into_missing(self) -> Vec<KnownStream> {
        self.known.into_values().filter(|known| !known.exists).collect()
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
    for subject in &planned.config.subjects {
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
    let pairs = planned.config.subjects.iter().flat_map(|own| other.subjects.iter().map(move |theirs| (own, theirs)));
    let (subject, other_subject) = pairs.into_iter().find(|(own, theirs)| overlap(own, theirs))?;
    Some(Problem::StreamOverlap {
        purpose: planned.purpose.clone(),
        stream: planned.config.name.clone(),
        subject: subject.clone(),
        other: other.name.clone(),
        other_subject: other_subject.clone(),
    })
}

/// Returns `true` if a stream covers `subject`.
pub(super) fn covered(config: &stream::Config, subject: &str) -> bool {
    if config.subjects.is_empty() {
        return config.name == subject;
    }
    config.subjects.iter().any(|pattern| covers(pattern, subject))
}

pub(super) fn not_covered(purpose: &Purpose, subject: &str, config: &stream::Config) -> Problem {
    Problem::SubjectNotCovered {
        purpose: purpose.clone(),
        subject: subject.to_owned(),
        stream: config.name.clone(),
        subjects: config.subjects.clone(),
    }
}

fn wrong_stream(purpose: &Purpose, subject: &str, stream: &str, exists: bool, owner: String) -> Problem {
    let (purpose, subject, stream) = (purpose.clone(), subject.to_owned(), stream.to_owned());
    Problem::WrongStream { purpose, subject, stream, exists, owner }
}

/// Returns the problem of a subject whose first token is a wildcard.
///
/// The server accepts no stream for it, because the stream would overlap the server's own `$JS` subjects.
fn no_default_name(purpose: &Purpose, subject: &str) -> Problem {
    Problem::NoDefaultName { purpose: purpose.clone(), subject: subject.to_owned() }
}

fn missing(purpose: &Purpose, subject: &str, stream: Option<&str>) -> Problem {
    Problem::StreamMissing {
        purpose: purpose.clone(),
        subject: subject.to_owned(),
        stream: stream.map(str::to_owned),
        default_name: default_name(subject),
    }
}

/// Returns the configuration of a stream that the application did not declare: limits retention and file storage.
fn default_stream(name: &str, subject: &str) -> stream::Config {
    stream::Config { name: name.to_owned(), subjects: default_subjects(subject), ..stream::Config::default() }
}

/// Returns `ORDERS` for `orders.created`; `None` for a subject that begins with a wildcard.
fn default_name(subject: &str) -> Option<String> {
    let token = subject.split('.').next().filter(|token| !matches!(*token, "*" | ">"))?;
    let name = token.chars().map(|char| {
        if char.is_ascii_alphanumeric() || char == '-' || char == '_' { char.to_ascii_uppercase() } else { '_' }
    });
    Some(name.collect())
}

/// Returns `orders.>` for `orders.created`, and `orders` for `orders`.
fn default_subjects(subject: &str) -> Vec<String> {
    let subjects = subject.split_once('.').map_or_else(|| subject.to_owned(), |(first, _)| format!("{first}.>"));
    vec![subjects]
}

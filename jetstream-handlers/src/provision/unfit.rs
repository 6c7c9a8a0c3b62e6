//! The problems of subjects that no stream fits, and what to change.

use async_nats::jetstream::stream;

use super::commands;
use super::default_stream::{default_name, default_stream};
use super::stored::{listened, patterns, stored_directly, stores_some};
use crate::error::problem::{Problem, Purpose};
use crate::plan::Manage;
use crate::settings::Settings;
use crate::subject::{intersection, transformed};

/// Returns the problem of a subject that a stream listens to, and stores as another one.
pub(super) fn published_only(purpose: &Purpose, subject: &str, config: &stream::Config) -> Option<Problem> {
    let published: Vec<String> = listened(config).iter().filter_map(|own| intersection(own, subject)).collect();
    let transform = config.subject_transform.as_ref()?;
    let stored = published.iter().filter_map(|it| transformed(it, &transform.source, &transform.destination));
    let stored: Vec<String> = stored.collect();
    if stored.is_empty() || stores_some(&stored_directly(config), subject) {
        return None;
    }
    let (purpose, subject, stream) = (purpose.clone(), subject.to_owned(), config.name.clone());
    Some(Problem::SubjectTransformed { purpose, subject, stream, stored })
}

/// Returns the problem of a subject of which a stream that the handler does not name has only a part.
pub(super) fn partly(purpose: &Purpose, subject: &str, config: &stream::Config) -> Problem {
    let name = &config.name;
    let fix = format!("set `stream = \"{name}\"` to receive only these, or narrow the subject");
    not_covered(purpose, subject, config, patterns(stored_directly(config)), &fix)
}

/// Returns the problem of a default stream whose name another stream has.
pub(super) fn name_taken(
    settings: &Settings,
    purpose: &Purpose,
    subject: &str,
    config: &stream::Config,
    changeable: &Changeable,
) -> Problem {
    let other = match purpose {
        Purpose::Handler(_) => "set `stream` to the name of a new one",
        Purpose::DeadLetters(_) => "set `dead_letter` to a subject of another stream",
        Purpose::Outputs(_) => "publish to a subject of another stream",
        _ => "pass a stream for it to `Builder::stream`",
    };
    let fix = format!("{}, or {other}", fix(settings, subject, config, changeable));
    not_covered(purpose, subject, config, listened(config), &fix)
}

/// The change by which a stream listens to a subject.
pub(super) enum Changeable {
    /// The configuration that the application has passed to the builder.
    Declaration,
    /// The stream on the server.
    Stream,
    /// Nothing, because the subject belongs to other streams.
    Nothing,
}

/// Returns the advice for a stream that does not have a subject, which is such that the server accepts it.
pub(super) fn fix(settings: &Settings, subject: &str, config: &stream::Config, changeable: &Changeable) -> String {
    /// The maximum number of subjects in a command.
    const MAX_SUBJECTS: usize = 5;
    let is_changed = config
        .subject_transform
        .as_ref()
        .is_some_and(|it| transformed(subject, &it.source, &it.destination).is_some_and(|stored| stored != subject));
    // The server gives a mirror no subjects, and no stream with acks those that begin with a wildcard.
    let is_refused = is_changed || config.mirror.is_some() || default_name(settings, subject).is_none();
    let name = &config.name;
    let mut subjects = listened(config);
    subjects.push(subject.to_owned());
    let add = match changeable {
        _ if is_refused => return "correct the subject".to_owned(),
        Changeable::Nothing => return "correct the subject".to_owned(),
        Changeable::Declaration => "add it to the configuration passed to `Builder::stream`".to_owned(),
        Changeable::Stream if subjects.len() > MAX_SUBJECTS => {
            format!("add it to its subjects (`nats stream edit {name}`)")
        }
        Changeable::Stream => format!("add it (`nats stream edit {name} --subjects '{}'`)", subjects.join(",")),
    };
    format!("correct the subject, or {add}")
}

pub(super) fn not_covered(
    purpose: &Purpose,
    subject: &str,
    config: &stream::Config,
    subjects: Vec<String>,
    fix: &str,
) -> Problem {
    let (purpose, subject, stream) = (purpose.clone(), subject.to_owned(), config.name.clone());
    Problem::SubjectNotCovered { purpose, subject, stream, subjects, fix: fix.to_owned() }
}

/// Returns the problem of a stream that another process has created with other subjects.
pub(super) fn created_otherwise(
    settings: &Settings,
    purpose: &Purpose,
    subject: &str,
    config: &stream::Config,
) -> Problem {
    not_covered(purpose, subject, config, listened(config), &fix(settings, subject, config, &Changeable::Stream))
}

pub(super) fn wrong_stream(purpose: &Purpose, subject: &str, stream: &str, exists: bool, owner: String) -> Problem {
    let (purpose, subject, stream) = (purpose.clone(), subject.to_owned(), stream.to_owned());
    Problem::WrongStream { purpose, subject, stream, exists, owner }
}

/// Returns the problem of a subject whose first token is a wildcard.
///
/// The server accepts no stream for it, because the stream would overlap the server's own `$JS` subjects.
pub(super) fn no_default_name(purpose: &Purpose, subject: &str) -> Problem {
    Problem::NoDefaultName { purpose: purpose.clone(), subject: subject.to_owned() }
}

/// Returns the problem of a missing stream that is not created.
pub(super) fn missing(
    settings: &Settings,
    manage: Manage,
    purpose: &Purpose,
    subject: &str,
    stream: Option<&str>,
) -> Problem {
    let default_name = default_name(settings, subject);
    let name = stream.or(default_name.as_deref()).unwrap_or("NAME");
    let command = (manage == Manage::Bind).then(|| commands::add_stream(&default_stream(settings, name, subject)));
    let (purpose, subject, stream) = (purpose.clone(), subject.to_owned(), stream.map(str::to_owned));
    Problem::StreamMissing { purpose, subject, stream, default_name, command }
}

/// Returns the problem of a declared stream that is missing, and must not be created.
pub(super) fn unbound(purpose: &Purpose, subject: &str, config: &stream::Config) -> Problem {
    let (purpose, subject, stream) = (purpose.clone(), subject.to_owned(), Some(config.name.clone()));
    Problem::StreamMissing { purpose, subject, stream, default_name: None, command: Some(commands::add_stream(config)) }
}

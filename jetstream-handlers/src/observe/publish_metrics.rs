//! The metrics of publishes.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use ::metrics::{Counter, Histogram, counter, histogram};

use super::families::{self as names, describe};
use crate::error::{Error, ErrorKind};
use crate::event::DeclaredEvent;
use crate::message::{Outgoing, PublishAck};
use crate::pattern::filter;
use crate::settings::Settings;
use crate::subject::covers;
use crate::sync::lock;

/// The label of dead letters.
const DEAD_LETTERS: &str = "dlq.>";

/// The label of all subjects that are not declared, which are without number.
const OTHER: &str = "other";

/// The outcome of a publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Published {
    Stored,
    /// The stream had a message with the id.
    Duplicate,
    /// Nothing is stored.
    Refused,
    /// The message may be stored or not.
    Unknown,
}

impl Published {
    const ALL: [Self; 4] = [Self::Stored, Self::Duplicate, Self::Refused, Self::Unknown];

    /// Returns the outcome that a result shows.
    fn of(result: Result<&PublishAck, &Error>) -> Self {
        match result {
            Ok(ack) if ack.duplicate => Self::Duplicate,
            Ok(_) => Self::Stored,
            Err(error) if error.kind() == ErrorKind::Duplicate => Self::Duplicate,
            Err(error) if matches!(error.kind(), ErrorKind::Timeout | ErrorKind::Closed) => Self::Unknown,
            Err(_) => Self::Refused,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Stored => "stored",
            Self::Duplicate => "duplicate",
            Self::Refused => "refused",
            Self::Unknown => "unknown",
        }
    }
}

/// One publish, of a message or a batch, until its result is known.
pub(crate) struct PublishTimer {
    metrics: Metrics,
    messages: u64,
}

impl PublishTimer {
    /// Returns the publish of this many messages, the first of which is `first`.
    ///
    /// The metrics are those of the subject that is declared, or of that of the message without the prefix of the
    /// environment.
    pub(crate) fn new(settings: &Settings, first: &Outgoing, messages: u64) -> Self {
        let subject = first.pattern.unwrap_or_else(|| settings.declared(&first.subject));
        Self { metrics: lock(&SUBJECTS).of_subject(subject), messages }
    }

    pub(crate) fn set_messages(&mut self, messages: u64) {
        self.messages = messages;
    }

    /// Counts messages of the batch that are stored, although the rest of it is not.
    pub(crate) fn stored(&self, messages: u64) {
        let (counter, _) = &self.metrics[Published::Stored as usize];
        counter.increment(messages);
    }

    /// Counts the messages, and records the time that they took.
    pub(crate) fn ended(&self, result: Result<&PublishAck, &Error>, took: Duration) {
        let (counter, duration) = &self.metrics[Published::of(result) as usize];
        counter.increment(self.messages);
        duration.record(took);
    }
}

impl fmt::Debug for PublishTimer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PublishTimer").field("messages", &self.messages).finish_non_exhaustive()
    }
}

/// Declares subjects, beside those of events, and creates the metrics of all that are declared, so that their counters
/// are 0 before the first publish.
///
/// Those of an earlier recorder are replaced.
pub(crate) fn declare(subjects: Vec<String>) {
    let mut known = lock(&SUBJECTS);
    known.metrics.clear();
    for subject in subjects {
        known.declare(Cow::Owned(subject));
    }
    let labels: Vec<_> = known.declared.iter().map(|declared| declared.label.clone()).collect();
    for label in labels {
        known.metrics_of(label);
    }
}

type Metrics = Arc<[(Counter, Histogram); Published::ALL.len()]>;

/// The metrics of all publishes of this process.
static SUBJECTS: LazyLock<Mutex<Subjects>> = LazyLock::new(|| Mutex::new(Subjects::new()));

struct Subjects {
    declared: Vec<Declared>,
    /// By the label of the subject.
    metrics: BTreeMap<Cow<'static, str>, Metrics>,
}

/// A subject that an event, a handler or a `publish` declares.
struct Declared {
    label: Cow<'static, str>,
    /// With wildcards in place of placeholders.
    filter: String,
}

impl Subjects {
    fn new() -> Self {
        describe();
        let mut subjects = Self { declared: Vec::new(), metrics: BTreeMap::new() };
        for pattern in inventory::iter::<DeclaredEvent>().flat_map(|event| event.patterns) {
            subjects.declare(Cow::Borrowed(pattern));
        }
        subjects
    }

    fn declare(&mut self, label: Cow<'static, str>) {
        if self.declared.iter().all(|declared| declared.label != label) {
            let filter = filter(&label).into_owned();
            self.declared.push(Declared { label, filter });
        }
    }

    /// Returns the metrics of a subject, or of the declared one that covers it.
    fn of_subject(&mut self, subject: &str) -> Metrics {
        if let Some(known) = self.metrics.get(subject) {
            return known.clone();
        }
        let label = match self.declared.iter().find(|declared| covers(&declared.filter, subject)) {
            Some(declared) => declared.label.clone(),
            None if subject.starts_with("dlq.") => Cow::Borrowed(DEAD_LETTERS),
            None => Cow::Borrowed(OTHER),
        };
        self.metrics_of(label)
    }

    fn metrics_of(&mut self, label: Cow<'static, str>) -> Metrics {
        let create = |label: &Cow<'static, str>| {
            let outcome = |outcome: Published| {
                let labels = [("subject", label.to_string()), ("outcome", outcome.as_str().to_owned())];
                (counter!(names::PUBLISH, &labels), histogram!(names::PUBLISH_DURATION, &labels))
            };
            Arc::new(Published::ALL.map(outcome))
        };
        self.metrics.entry(label).or_insert_with_key(create).clone()
    }
}

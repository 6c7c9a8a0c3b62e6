//! The metrics of publishes.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use tokio::time::Instant;

use ::metrics::{Counter, Histogram, counter, histogram};

use super::families as names;
use crate::error::{Error, ErrorKind};
use crate::event::DeclaredEvent;
use crate::message::{Outgoing, PublishAck};
use crate::pattern::filter;
use crate::settings::Settings;
use crate::subject::covers;
use crate::sync::lock;

/// The maximum number of subjects that no event declares and that have metrics of their own.
const MAX_SUBJECTS: usize = 100;

/// The label of all other subjects.
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
#[derive(Debug)]
pub(crate) struct PublishTimer {
    /// The declared subject of the event, or the subject without the prefix of the environment.
    subject: Cow<'static, str>,
    messages: u64,
    begun: Instant,
}

impl PublishTimer {
    /// Returns the publish of this many messages, the first of which is `first`.
    pub(crate) fn new(settings: &Settings, first: &Outgoing, messages: u64) -> Self {
        let subject = match first.pattern {
            Some(pattern) => Cow::Borrowed(pattern),
            None => Cow::Owned(settings.declared(&first.subject).to_owned()),
        };
        Self { subject, messages, begun: Instant::now() }
    }

    pub(crate) fn set_messages(&mut self, messages: u64) {
        self.messages = messages;
    }

    /// Counts the messages, and measures the time since the beginning.
    pub(crate) fn ended(&self, result: Result<&PublishAck, &Error>) {
        let (outcome, took) = (Published::of(result), self.begun.elapsed());
        PublishMetrics::global().published(&self.subject, self.messages, outcome, took);
    }
}

/// Creates the metrics of all declared events, so that their counters are 0 before the first publish.
pub(crate) fn declare_events() {
    let metrics = PublishMetrics::global();
    for pattern in inventory::iter::<DeclaredEvent>().flat_map(|event| event.patterns) {
        metrics.of_subject(pattern);
    }
}

/// The metrics of all publishes of this process.
#[derive(Default)]
struct PublishMetrics {
    /// By the label of the subject.
    subjects: Mutex<BTreeMap<Cow<'static, str>, OfSubject>>,
}

#[derive(Clone)]
struct OfSubject {
    outcomes: [(Counter, Histogram); Published::ALL.len()],
}

impl OfSubject {
    fn new(subject: &str) -> Self {
        let outcome = |outcome: Published| {
            let labels = || [("subject", subject.to_owned()), ("outcome", outcome.as_str().to_owned())];
            (counter!(names::PUBLISH, &labels()), histogram!(names::PUBLISH_DURATION, &labels()))
        };
        Self { outcomes: Published::ALL.map(outcome) }
    }
}

impl PublishMetrics {
    /// Returns the metrics of this process.
    fn global() -> &'static Self {
        static METRICS: OnceLock<PublishMetrics> = OnceLock::new();
        METRICS.get_or_init(Self::default)
    }

    /// Counts messages on a subject that were published together.
    fn published(&self, subject: &str, messages: u64, outcome: Published, took: Duration) {
        let position = Published::ALL.iter().position(|known| *known == outcome);
        let of_subject = self.of_subject(subject);
        if let Some((counter, duration)) = position.and_then(|position| of_subject.outcomes.get(position)) {
            counter.increment(messages);
            duration.record(took);
        }
    }

    fn of_subject(&self, subject: &str) -> OfSubject {
        let mut subjects = lock(&self.subjects);
        if let Some(known) = subjects.get(subject) {
            return known.clone();
        }
        let own = subjects.len() < MAX_SUBJECTS;
        let label = match declared(subject) {
            Some(pattern) => Cow::Borrowed(pattern),
            None if own => Cow::Owned(subject.to_owned()),
            None => Cow::Borrowed(OTHER),
        };
        subjects.entry(label).or_insert_with_key(|label| OfSubject::new(label)).clone()
    }
}

/// Returns the subject with which an event is declared that covers this one.
fn declared(subject: &str) -> Option<&'static str> {
    let mut events = inventory::iter::<DeclaredEvent>();
    events.find_map(|event| event.patterns.iter().find(|pattern| covers(&filter(pattern), subject))).copied()
}

//! Repeated attempts of a publish until its deadline.

use std::fmt::Write as _;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::backoff::ExponentialBackoff;
use crate::error::api::is_final;
use crate::error::{Error, ErrorKind};
use crate::message::PublishFailure;
use crate::message::refusal::no_ack;
use crate::provision::ensure_stream;
use crate::subject::covers;
use crate::transport::Transport;

/// The delay before the second attempt.
const MIN_PAUSE: Duration = Duration::from_millis(50);

/// The maximum delay between two attempts.
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// The timeout of reading whether a stream acknowledges messages; a cluster that elects a leader does not answer, and
/// the next attempt must not wait for that.
const ACKS_TIMEOUT: Duration = Duration::from_millis(500);

/// The delays between attempts: exponential backoff up to a deadline.
#[derive(Debug)]
pub(super) struct Pause {
    backoff: ExponentialBackoff,
    deadline: Instant,
}

impl Pause {
    pub(super) fn new(deadline: Instant) -> Self {
        Self { backoff: ExponentialBackoff::new(MIN_PAUSE, MAX_PAUSE), deadline }
    }

    /// Waits until the next attempt; returns an error immediately if the deadline is earlier.
    pub(super) async fn wait(&mut self) -> Result<(), DeadlinePassed> {
        let pause = self.backoff.next();
        if Instant::now() + pause >= self.deadline {
            return Err(DeadlinePassed);
        }
        tokio::time::sleep(pause).await;
        Ok(())
    }
}

/// The error if the deadline leaves no time for another attempt.
#[derive(Debug)]
pub(super) struct DeadlinePassed;

/// The kind of a publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    Message,
    AtomicBatch,
    Ingest,
}

/// The state of a publish that is repeated until it is stored, refused, or its deadline passes.
///
/// Only this type creates a missing stream for a publish, so that both transports behave alike.
pub(super) struct Retry<'a> {
    transport: &'a Transport,
    subject: &'a str,
    unit: Unit,
    deadline: Instant,
    pause: Pause,
    repeated: bool,
    /// `true` after an attempt without an answer, which may have stored the message.
    pub(super) unanswered: bool,
    /// `true` after a lookup; no other one is made, and no stream is created.
    pub(super) stream_found: bool,
    acks_looked_up: bool,
    /// The reason that the user may not look up the stream.
    lookup_denied: Option<String>,
}

/// The result of the lookup of a publish's stream.
enum StreamLookup {
    /// The stream did not exist and was created.
    Created,
    Found,
    /// The lookup failed, but a later one may succeed.
    Unknown(Option<Error>),
}

impl<'a> Retry<'a> {
    pub(super) fn new(transport: &'a Transport, subject: &'a str, unit: Unit, deadline: Instant) -> Self {
        let pause = Pause::new(deadline);
        Self {
            transport,
            subject,
            unit,
            deadline,
            pause,
            repeated: false,
            unanswered: false,
            stream_found: false,
            acks_looked_up: false,
            lookup_denied: None,
        }
    }

    /// Waits until the next attempt is due, or returns the error with which the publish ends.
    pub(super) async fn after(&mut self, failure: PublishFailure) -> Result<(), Error> {
        let (error, may_lack_stream) = match failure {
            PublishFailure::Permanent(error) if self.unanswered && error.kind() != ErrorKind::Closed => {
                let (unit, subject) = (self.unit.name(), self.subject);
                let what = format!("an earlier attempt at {unit} on `{subject}` had no answer, and may have stored it");
                return Err(error.about(&what));
            }
            PublishFailure::Permanent(error) => return Err(error),
            PublishFailure::Transient(error) => {
                // A stream without acks does not answer the first message of a batch either.
                if self.unit != Unit::Message && error.kind() == ErrorKind::Timeout {
                    self.require_acks().await?;
                }
                (error, false)
            }
            PublishFailure::NoStream(error) => (error, true),
            // The reason of a second missing answer is that of the first one.
            PublishFailure::Unanswered(error) if self.unanswered && error.kind() == ErrorKind::Authorization => {
                return Err(error.about(&format!("cannot publish to `{}`", self.subject)));
            }
            PublishFailure::Unanswered(error) => {
                self.unanswered = true;
                self.require_acks().await?;
                // If no stream covers the subject, another subscriber may have received the message without answering.
                // A batch without a stream fails earlier.
                (error, self.unit == Unit::Message)
            }
        };
        if !may_lack_stream || self.stream_found || !self.transport.is_connected() {
            return self.repeat_after(error).await;
        }
        match self.look_up_stream().await? {
            StreamLookup::Created => {
                self.stream_found = true;
                Ok(())
            }
            StreamLookup::Found => {
                self.stream_found = true;
                self.repeat_after(error).await
            }
            StreamLookup::Unknown(Some(cause)) if self.may_not_create(&cause) => {
                Err(cause.about(&format!("no stream stores `{}`", self.subject)))
            }
            StreamLookup::Unknown(Some(cause)) if cause.kind() == ErrorKind::Authorization => {
                // The stream may exist and be without a leader, which ends.
                // Another lookup would be refused as well.
                self.stream_found = true;
                self.lookup_denied = Some(cause.to_string());
                self.repeat_after(error).await
            }
            StreamLookup::Unknown(cause) => self.repeat_after(cause.unwrap_or(error)).await,
        }
    }

    /// Returns `true` for the error of a user who may not create the missing stream.
    fn may_not_create(&self, error: &Error) -> bool {
        let request = format!("{}.STREAM.CREATE.", self.transport.settings().api());
        error.kind() == ErrorKind::Authorization
            && error.missing_permission().is_some_and(|subject| subject.starts_with(&request))
    }

    /// Returns an error if the stream acknowledges nothing; it is read once, after the first attempt without an answer.
    pub(super) async fn require_acks(&mut self) -> Result<(), Error> {
        if std::mem::replace(&mut self.acks_looked_up, true) || !self.transport.is_connected() {
            return Ok(());
        }
        let silent = async {
            for name in self.transport.stream_names(self.subject).await.ok()? {
                if self.transport.stream(&name).await.ok()??.no_ack {
                    return Some(name);
                }
            }
            None
        };
        let limit = self.deadline.min(Instant::now() + ACKS_TIMEOUT);
        match timeout_at(limit, Box::pin(silent)).await {
            Ok(Some(stream)) => return Err(no_ack(&stream, self.subject)),
            // What cannot be read is no reason to give up.
            Ok(None) => {}
            Err(_) => self.acks_looked_up = false,
        }
        Ok(())
    }

    /// Waits for the next attempt after a transient error.
    async fn repeat_after(&mut self, error: Error) -> Result<(), Error> {
        if !self.repeated {
            self.repeated = true;
            tracing::warn!(subject = self.subject, "repeating the publish of {}: {error}", self.unit.name());
        }
        self.pause.wait().await.map_err(|_| self.timeout(error))
    }

    fn timeout(&self, error: Error) -> Error {
        let (unit, subject) = (self.unit.name(), self.subject);
        let limit = self.transport.settings().publish_timeout;
        // Only an attempt without an answer may have stored the message.
        let stored = match (self.unit, self.unanswered) {
            (Unit::Message, true) => "it may be stored or not",
            (Unit::Message, false) => "it is not stored",
            (Unit::AtomicBatch | Unit::Ingest, true) => "all of it may be stored, or nothing",
            (Unit::AtomicBatch | Unit::Ingest, false) => "nothing is stored",
        };
        let mut text = format!("no stream stored {unit} on `{subject}` within {limit:?}, and {stored}: {error}");
        if let Some(denied) = &self.lookup_denied {
            // Writing to a `String` does not fail.
            write!(text, "; {denied}").ok();
        }
        Error::new(ErrorKind::Timeout, text).with_source(error)
    }

    /// Finds or creates the stream until the deadline; returns an error only if another lookup would return it again.
    async fn look_up_stream(&self) -> Result<StreamLookup, Error> {
        match timeout_at(self.deadline, Box::pin(self.ensure_stream())).await {
            Ok(Ok(true)) => Ok(StreamLookup::Created),
            Ok(Ok(false)) => Ok(StreamLookup::Found),
            Ok(Err(error))
                if matches!(error.kind(), ErrorKind::Timeout | ErrorKind::Server | ErrorKind::Authorization)
                    && !is_final(&error) =>
            {
                Ok(StreamLookup::Unknown(Some(error)))
            }
            Ok(Err(error)) => Err(error),
            Err(_) => Ok(StreamLookup::Unknown(None)),
        }
    }

    async fn ensure_stream(&self) -> Result<bool, Error> {
        if let Some(setting) = self.unit.stream_setting() {
            self.require_declared(setting).await?;
        }
        ensure_stream(self.transport, self.subject).await
    }

    /// Refuses a batch if its stream is missing and not declared by the application: the default stream accepts no
    /// batches.
    async fn require_declared(&self, setting: &str) -> Result<(), Error> {
        let subject = self.subject;
        let mut declared = self.transport.settings().streams.iter().flat_map(|config| &config.subjects);
        if declared.any(|own| covers(own, subject))
            || !self.transport.stream_names(subject).await.is_ok_and(|names| names.is_empty())
        {
            return Ok(());
        }
        let text = format!(
            "no stream covers `{subject}`, and one that the broker creates on its own accepts no batches; pass a config with `{setting}: true` to `Builder::stream`"
        );
        Err(Error::new(ErrorKind::StreamNotFound, text))
    }
}

impl Unit {
    fn name(self) -> &'static str {
        match self {
            Self::Message => "the message",
            Self::AtomicBatch => "the atomic batch",
            Self::Ingest => "the fast-ingest batch",
        }
    }

    /// Returns the setting that a stream requires to accept this kind of publish.
    fn stream_setting(self) -> Option<&'static str> {
        match self {
            Self::Message => None,
            Self::AtomicBatch => Some("allow_atomic_publish"),
            Self::Ingest => Some("allow_batch_publish"),
        }
    }
}

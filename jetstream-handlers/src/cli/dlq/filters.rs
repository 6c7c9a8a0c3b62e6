//! The arguments that choose dead letters.

use std::time::SystemTime;

use crate::broker::Broker;
use crate::cli::times::{past, shown};
use crate::dead_letter::DeadLetters;
use crate::error::Error;
use crate::outcome::Reason;

/// The dead letters of a command; without conditions, all of them.
#[derive(Debug, Default, clap::Args)]
pub(super) struct Filters {
    #[command(flatten)]
    of_stream: OfStream,
    /// Only those of a handler: the name of its function, the end of its path, or its queue
    #[arg(long)]
    handler: Option<String>,
    /// Only those with this class of failure
    #[arg(long, value_parser = reason)]
    reason: Option<Reason>,
    /// Only those whose error contains this text
    #[arg(long, value_name = "TEXT")]
    error: Option<String>,
    /// Only those of a group, which `dlq groups` lists
    #[arg(long, value_name = "ID")]
    group: Option<String>,
    /// Only those stored at this time or later, as in `2026-11-03T22:04:05Z`, or within this duration, as in `2h`
    #[arg(long, value_name = "TIME", value_parser = past)]
    since: Option<SystemTime>,
    /// Only those stored before this time, or longer ago than this duration
    #[arg(long, value_name = "TIME", value_parser = past)]
    until: Option<SystemTime>,
    /// Only those of messages on this subject, which may have wildcards
    #[arg(long)]
    subject: Option<String>,
}

/// The stream of dead letters.
#[derive(Debug, Default, clap::Args)]
pub(super) struct OfStream {
    /// The stream of dead letters; `DLQ` by default
    #[arg(long, value_name = "NAME", display_order = 80)]
    stream: Option<String>,
}

impl OfStream {
    /// Returns the dead letters of the stream; an error if a stream is named that does not exist.
    pub(super) async fn letters(&self, broker: &Broker) -> Result<DeadLetters, Error> {
        match &self.stream {
            Some(stream) => broker.dead_letters().stream(stream).in_existing().await,
            None => Ok(broker.dead_letters()),
        }
    }
}

impl Filters {
    /// Returns the dead letters that meet the conditions.
    pub(super) async fn letters(&self, broker: &Broker) -> Result<DeadLetters, Error> {
        let mut letters = self.of_stream.letters(broker).await?;
        if let Some(handler) = &self.handler {
            letters = letters.for_handler(handler);
        }
        if let Some(reason) = self.reason {
            letters = letters.reason(reason);
        }
        if let Some(error) = &self.error {
            letters = letters.error_contains(error);
        }
        if let Some(group) = &self.group {
            letters = letters.in_group(group);
        }
        if let Some(since) = self.since {
            letters = letters.since(since);
        }
        if let Some(until) = self.until {
            letters = letters.until(until);
        }
        if let Some(subject) = &self.subject {
            letters = letters.subject(subject);
        }
        Ok(letters)
    }

    /// Returns `true` if there are no conditions.
    pub(super) fn is_empty(&self) -> bool {
        let Self { of_stream: _, handler, reason, error, group, since, until, subject } = self;
        [handler, error, group, subject].iter().all(|it| it.is_none())
            && reason.is_none()
            && since.is_none()
            && until.is_none()
    }

    /// Returns the text for conditions that no dead letter meets.
    pub(super) fn nothing(&self) -> String {
        if self.is_empty() {
            return "there are no dead letters".to_owned();
        }
        let time = |time: &Option<SystemTime>| time.map(shown);
        let conditions = [
            ("--handler", self.handler.clone()),
            ("--reason", self.reason.map(|reason| reason.to_string())),
            ("--error", self.error.clone()),
            ("--group", self.group.clone()),
            ("--since", time(&self.since)),
            ("--until", time(&self.until)),
            ("--subject", self.subject.clone()),
        ];
        let set = conditions.into_iter().filter_map(|(name, value)| Some(format!("`{name} {}`", value?)));
        format!("no dead letter meets {}", set.collect::<Vec<_>>().join(" and "))
    }
}

fn reason(text: &str) -> Result<Reason, String> {
    let known = Reason::KNOWN.map(Reason::as_str);
    match Reason::parse(text) {
        Reason::Unknown => Err(format!("expected one of {}", known.join(", "))),
        reason => Ok(reason),
    }
}

//! The commands `dlq replay` and `dlq purge`.

use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;

use super::counts::{Counts, counted};
use super::filters::Filters;
use crate::broker::Broker;
use crate::cli::ask::Consent;
use crate::cli::connection::Connection;
use crate::cli::exit::Exit;
use crate::cli::files::read_payload;
use crate::cli::output::{Form, Output};
use crate::cli::session::Session;
use crate::dead_letter::{Attempt, DeadLetter, DeadLetters, ReplayReport};
use crate::error::{Error, ErrorKind};
use crate::message::Message;

/// The dead letters that a command changes, which must be stated.
#[derive(Debug, clap::Args)]
struct Chosen {
    /// The sequences in the stream of dead letters
    #[arg(value_name = "SEQUENCE")]
    sequences: Vec<u64>,
    /// All of them
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    filters: Filters,
    /// The maximum number of dead letters per second
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
    #[command(flatten)]
    consent: Consent,
}

/// The dead letters with the stated sequences.
#[derive(Default)]
struct Listed {
    found: Vec<DeadLetter>,
    /// The sequences of those that do not exist.
    missing: Vec<u64>,
}

impl Chosen {
    /// Returns an error unless the dead letters are stated in one way.
    fn check(&self) -> Result<(), Error> {
        let text = match (self.sequences.is_empty(), self.all, self.filters.is_empty()) {
            (true, false, true) => {
                "state which dead letters: their sequences, conditions such as `--handler`, or `--all`"
            }
            (false, true, _) | (false, _, false) => {
                "state either sequences, or conditions such as `--handler`, or `--all`"
            }
            (true, true, false) => "`--all` excludes conditions; remove one of them",
            _ => return Ok(()),
        };
        Err(Error::new(ErrorKind::Config, text))
    }

    fn letters(&self, letters: DeadLetters) -> DeadLetters {
        match self.rate {
            Some(rate) => letters.rate(rate),
            None => letters,
        }
    }

    /// Reads the dead letters with the stated sequences, and notes those that do not exist.
    async fn listed(&self, letters: &DeadLetters, output: &Output) -> Result<Listed, Error> {
        let mut listed = Listed::default();
        let mut seen = Vec::new();
        for sequence in &self.sequences {
            if seen.contains(sequence) {
                continue;
            }
            seen.push(*sequence);
            match letters.get(*sequence).await? {
                Some(letter) => listed.found.push(letter),
                None => {
                    output.note(&format!("error: {}", letters.missing(*sequence)));
                    listed.missing.push(*sequence);
                }
            }
        }
        Ok(listed)
    }

    /// Counts the dead letters that meet the conditions.
    ///
    /// All of them are read once more for it, so they are counted only if the counts are shown.
    async fn counts(&self, letters: &DeadLetters, broker: &Broker, are_shown: bool) -> Result<Counts, Error> {
        match are_shown || !self.consent.is_given() {
            true => Counts::of_selected(letters, broker).await,
            false => Ok(Counts::default()),
        }
    }

    /// Asks whether to replay or delete what was counted; `question` has `{}` for their number.
    async fn ask(&self, counts: &Counts, output: &Output, question: &str) -> Result<(), Error> {
        if !self.consent.is_given() {
            counts.note(output);
        }
        self.consent.ask(&question.replace("{}", &counted(counts.total()))).await
    }

    /// Notes conditions that no dead letter meets, which ends a change of dead letters with a finding.
    fn nothing(&self, output: &Output) -> Exit {
        output.note(&self.filters.nothing());
        Exit::Found
    }
}

/// Replays dead letters.
#[derive(Debug, clap::Args)]
pub(super) struct Replay {
    #[command(flatten)]
    chosen: Chosen,
    /// Replays to every queue on the subject, and not only to the one whose handler failed
    #[arg(long)]
    to_all: bool,
    /// Replaces the payload of one dead letter by that of a file, or with `-` of the standard input, without the line
    /// break at the end of a text
    #[arg(long, value_name = "FILE")]
    payload: Option<PathBuf>,
    /// Replays a payload that the handler cannot decode
    #[arg(long, requires = "payload")]
    force: bool,
    /// Shows what would be replayed, and changes nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    form: Form,
    #[command(flatten)]
    connection: Connection,
}

/// The document for programs.
#[derive(Serialize)]
struct Replayed {
    dry_run: bool,
    replayed: usize,
    undeleted: usize,
    kept: usize,
    missing: Vec<u64>,
    handlers: Counts,
    failures: Vec<Failure>,
}

#[derive(Serialize)]
struct Failure {
    sequence: u64,
    error: String,
}

impl Replay {
    pub(super) async fn run(self, session: Session) -> Result<Exit, Error> {
        self.chosen.check()?;
        if self.payload.is_some() && self.chosen.sequences.len() != 1 {
            let text = "`--payload` replaces the payload of one dead letter; state its sequence";
            return Err(Error::new(ErrorKind::Config, text));
        }
        let payload = match &self.payload {
            Some(file) => Some(read_payload(file).await?),
            None => None,
        };
        let (broker, output) = session.connect_to_existing(self.connection.clone()).await?;
        let mut letters = self.chosen.letters(self.chosen.filters.letters(&broker).await?);
        if self.to_all {
            letters = letters.to_every_queue();
        }
        if self.chosen.sequences.is_empty() {
            let (report, counts) = self.replay_fitting(letters, &broker, &output).await?;
            let exit = match report.replayed + report.kept {
                0 => self.chosen.nothing(&output),
                _ if report.kept > 0 => Exit::Found,
                _ => Exit::Done,
            };
            return self.finish(&output, report, Vec::new(), counts, exit);
        }
        let Listed { mut found, missing } = self.chosen.listed(&letters, &output).await?;
        if let Some(payload) = payload {
            let edited = found.into_iter().map(|letter| letter.with_payload(payload.clone().into()));
            found = edited.collect::<Result<_, _>>()?;
            found.iter().try_for_each(|letter| self.check_payload(letter, &broker))?;
        }
        let counts = Counts::of_each(&found, &broker);
        let report = self.replay_listed(&letters, &found, &counts, &output).await?;
        let exit = match report.kept {
            _ if !missing.is_empty() => Exit::Failed,
            0 => Exit::Done,
            _ => Exit::Found,
        };
        self.finish(&output, report, missing, counts, exit)
    }

    /// Returns an error if a handler that would receive an edited message cannot decode it.
    fn check_payload(&self, letter: &DeadLetter, broker: &Broker) -> Result<(), Error> {
        let subject = broker.declared_subject(&letter.subject).to_owned();
        let mut message = Message::new(subject, letter.payload.clone());
        message.headers = Some(Arc::new(letter.original_headers()));
        let queue = if self.to_all { None } else { Some(letter.consumer.as_str()) };
        let receivers = broker.receivers(message, queue)?;
        if self.force || receivers.undecodable.is_empty() {
            return Ok(());
        }
        let text = format!(
            "dead letter {} was not replayed, because it would become a dead letter again; `--force` replays it:\n  - {}",
            letter.sequence,
            receivers.undecodable.join("\n  - ")
        );
        Err(Error::new(ErrorKind::Config, text))
    }

    /// Replays the dead letters that meet the conditions, and are stored when the question is asked.
    async fn replay_fitting(
        &self,
        letters: DeadLetters,
        broker: &Broker,
        output: &Output,
    ) -> Result<(ReplayReport, Counts), Error> {
        let letters = letters.up_to_now().await?;
        let counts = self.chosen.counts(&letters, broker, self.dry_run || self.form.json).await?;
        if self.dry_run {
            counts.note(output);
            return Ok((letters.dry_run().await?, counts));
        }
        if !self.chosen.consent.is_given() {
            if counts.total() == 0 {
                return Ok((ReplayReport::default(), counts));
            }
            self.chosen.ask(&counts, output, "replay {}?").await?;
        }
        Ok((letters.replay_all().await?, counts))
    }

    /// Replays dead letters; one alone needs no question.
    async fn replay_listed(
        &self,
        letters: &DeadLetters,
        found: &[DeadLetter],
        counts: &Counts,
        output: &Output,
    ) -> Result<ReplayReport, Error> {
        if self.dry_run {
            counts.note(output);
            return letters.replay_each(found, Attempt::Check).await;
        }
        if found.len() > 1 {
            self.chosen.ask(counts, output, "replay {}?").await?;
        }
        letters.replay_each(found, Attempt::Replay).await
    }

    fn finish(
        &self,
        output: &Output,
        report: ReplayReport,
        missing: Vec<u64>,
        handlers: Counts,
        exit: Exit,
    ) -> Result<Exit, Error> {
        if !self.form.json {
            output.line(&report.to_string())?;
            return Ok(exit);
        }
        let ReplayReport { is_dry_run: dry_run, replayed, undeleted, kept, failures } = report;
        let failures = failures.into_iter().map(|(sequence, error)| Failure { sequence, error: error.to_string() });
        let failures = failures.collect();
        output.document(Replayed { dry_run, replayed, undeleted, kept, missing, handlers, failures })?;
        Ok(exit)
    }
}

/// Deletes dead letters.
#[derive(Debug, clap::Args)]
pub(super) struct Purge {
    #[command(flatten)]
    chosen: Chosen,
    /// Shows how many would be deleted, and deletes none
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    form: Form,
    #[command(flatten)]
    connection: Connection,
}

/// The document for programs.
#[derive(Serialize)]
struct Purged {
    dry_run: bool,
    purged: u64,
    missing: Vec<u64>,
    handlers: Counts,
}

impl Purge {
    pub(super) async fn run(self, session: Session) -> Result<Exit, Error> {
        self.chosen.check()?;
        let (broker, output) = session.connect_to_existing(self.connection.clone()).await?;
        let letters = self.chosen.letters(self.chosen.filters.letters(&broker).await?);
        if self.chosen.sequences.is_empty() {
            let letters = letters.up_to_now().await?;
            let counts = self.chosen.counts(&letters, &broker, self.dry_run || self.form.json).await?;
            let purged = self.purge_fitting(&letters, &counts, &output).await?;
            let exit = if purged == 0 { self.chosen.nothing(&output) } else { Exit::Done };
            return self.finish(&output, purged, Vec::new(), counts, exit);
        }
        let Listed { found, missing } = self.chosen.listed(&letters, &output).await?;
        let counts = Counts::of_each(&found, &broker);
        let purged = match self.may_delete(&counts, &output).await? {
            true => letters.delete_each(&found).await? as u64,
            false => counts.total(),
        };
        let exit = if missing.is_empty() { Exit::Done } else { Exit::Failed };
        self.finish(&output, purged, missing, counts, exit)
    }

    /// Deletes the dead letters that meet the conditions.
    async fn purge_fitting(&self, letters: &DeadLetters, counts: &Counts, output: &Output) -> Result<u64, Error> {
        let is_decided = self.chosen.consent.is_given() && !self.dry_run;
        if !is_decided && !self.may_delete(counts, output).await? {
            return Ok(counts.total());
        }
        Ok(letters.purge().await? as u64)
    }

    /// Asks whether dead letters are to be deleted; returns `false` if there is nothing to delete.
    async fn may_delete(&self, counts: &Counts, output: &Output) -> Result<bool, Error> {
        if self.dry_run {
            counts.note(output);
        }
        if counts.total() == 0 || self.dry_run {
            return Ok(false);
        }
        self.chosen.ask(counts, output, "delete {} for good?").await?;
        Ok(true)
    }

    fn finish(
        &self,
        output: &Output,
        purged: u64,
        missing: Vec<u64>,
        handlers: Counts,
        exit: Exit,
    ) -> Result<Exit, Error> {
        let dry_run = self.dry_run;
        if self.form.json {
            output.document(Purged { dry_run, purged, missing, handlers })?;
        } else {
            output.line(&format!("{purged} {}deleted", if dry_run { "would be " } else { "" }))?;
        }
        Ok(exit)
    }
}

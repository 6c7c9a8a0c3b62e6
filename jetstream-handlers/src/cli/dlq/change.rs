//! The commands `dlq replay` and `dlq purge`.

use std::io::Read as _;

use serde::Serialize;

use super::filters::Filters;
use crate::cli::ask::Consent;
use crate::cli::connection::Connection;
use crate::cli::exit::Exit;
use crate::cli::output::{Form, Output};
use crate::cli::session::Session;
use crate::dead_letter::{DeadLetters, ReplayReport};
use crate::error::{Error, ErrorKind};

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
    #[arg(long, value_name = "NUMBER")]
    rate: Option<u32>,
    #[command(flatten)]
    consent: Consent,
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
}

/// Replays dead letters.
#[derive(Debug, clap::Args)]
pub(super) struct Replay {
    #[command(flatten)]
    chosen: Chosen,
    /// Replays to every queue on the subject, and not only to the one whose handler failed
    #[arg(long)]
    to_all: bool,
    /// Replaces the payload of one dead letter by that of a file, or with `-` of the standard input
    #[arg(long, value_name = "FILE")]
    payload: Option<String>,
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
    version: u32,
    dry_run: bool,
    replayed: usize,
    kept: usize,
    failures: Vec<Failure>,
}

#[derive(Serialize)]
struct Failure {
    sequence: u64,
    error: String,
}

impl Replay {
    pub(super) async fn run(self, session: Session) -> Result<Exit, Error> {
        let Self { chosen, to_all, payload, dry_run, form, connection } = self;
        chosen.check()?;
        if payload.is_some() && (chosen.sequences.len() != 1 || dry_run) {
            let text = "`--payload` replaces the payload of one dead letter; state its sequence, without `--dry-run`";
            return Err(Error::new(ErrorKind::Config, text));
        }
        let payload = payload.map(|file| read(&file)).transpose()?;
        let (broker, output) = session.connect_to_existing(connection).await?;
        let mut letters = chosen.letters(chosen.filters.letters(&broker));
        if to_all {
            letters = letters.to_every_queue();
        }
        let report = match (&*chosen.sequences, payload) {
            ([sequence], Some(payload)) => {
                letters.replay_with(*sequence, payload).await?;
                ReplayReport { replayed: 1, ..ReplayReport::default() }
            }
            ([], _) => {
                let count = letters.count().await?;
                if count == 0 {
                    output.note(&chosen.filters.nothing());
                    return Ok(Exit::Found);
                }
                if dry_run {
                    letters.dry_run().await?
                } else {
                    chosen.consent.ask(&format!("replay {count} dead letters?"))?;
                    letters.replay_all().await?
                }
            }
            (sequences, _) => {
                let mut report = ReplayReport { is_dry_run: dry_run, ..ReplayReport::default() };
                for sequence in sequences {
                    let replayed = match dry_run {
                        true => letters.check(*sequence).await,
                        false => letters.replay(*sequence).await.map(drop),
                    };
                    match replayed {
                        Ok(()) => report.replayed += 1,
                        Err(error) => report.keep(*sequence, error),
                    }
                }
                report
            }
        };
        finish(&output, form, report)
    }
}

fn finish(output: &Output, form: Form, report: ReplayReport) -> Result<Exit, Error> {
    let exit = if report.kept == 0 { Exit::Done } else { Exit::Found };
    if !form.json {
        output.line(&report.to_string())?;
        return Ok(exit);
    }
    let ReplayReport { is_dry_run, replayed, kept, failures } = report;
    let failures = failures.into_iter().map(|(sequence, error)| Failure { sequence, error: error.to_string() });
    output.json(&Replayed { version: 1, dry_run: is_dry_run, replayed, kept, failures: failures.collect() })?;
    Ok(exit)
}

/// Reads a file, or with `-` the standard input.
fn read(file: &str) -> Result<Vec<u8>, Error> {
    let mut payload = Vec::new();
    let read = match file {
        "-" => std::io::stdin().read_to_end(&mut payload).map(|_| payload),
        file => std::fs::read(file),
    };
    read.map_err(|error| Error::new(ErrorKind::Config, format!("`{file}` cannot be read: {error}")).with_source(error))
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
    version: u32,
    dry_run: bool,
    purged: u64,
}

impl Purge {
    pub(super) async fn run(self, session: Session) -> Result<Exit, Error> {
        let Self { chosen, dry_run, form, connection } = self;
        chosen.check()?;
        let (broker, output) = session.connect_to_existing(connection).await?;
        let letters = chosen.letters(chosen.filters.letters(&broker));
        let mut existing = Vec::new();
        for sequence in &chosen.sequences {
            if letters.get(*sequence).await?.is_some() {
                existing.push(*sequence);
            }
        }
        let is_of_sequences = !chosen.sequences.is_empty();
        let count = if is_of_sequences { existing.len() as u64 } else { letters.count().await? };
        if count == 0 {
            let sequences = || format!("there is none of the dead letters {:?}", chosen.sequences);
            output.note(&if is_of_sequences { sequences() } else { chosen.filters.nothing() });
            return Ok(Exit::Found);
        }
        let purged = if dry_run {
            count
        } else {
            chosen.consent.ask(&format!("delete {count} dead letters for good?"))?;
            if is_of_sequences {
                let mut purged = 0;
                for sequence in existing {
                    purged += u64::from(letters.delete(sequence).await?);
                }
                purged
            } else {
                letters.purge().await? as u64
            }
        };
        if form.json {
            output.json(&Purged { version: 1, dry_run, purged })?;
        } else {
            output.line(&format!("{purged} {}deleted", if dry_run { "would be " } else { "" }))?;
        }
        Ok(Exit::Done)
    }
}

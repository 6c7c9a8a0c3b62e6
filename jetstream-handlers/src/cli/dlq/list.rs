//! The commands `dlq list`, `dlq groups` and `dlq show`.

use serde::Serialize;

use super::filters::{Filters, OfStream};
use crate::cli::connection::Connection;
use crate::cli::exit::Exit;
use crate::cli::output::Form;
use crate::cli::session::Session;
use crate::cli::times::shown;
use crate::dead_letter::DeadLetter;
use crate::error::printable::truncate;
use crate::error::{Error, ErrorKind};

/// The maximum length of an error in a table, in bytes.
const MAX_ERROR: usize = 80;

/// Lists dead letters.
#[derive(Debug, clap::Args)]
pub(super) struct List {
    #[command(flatten)]
    filters: Filters,
    /// The maximum number of dead letters
    #[arg(long, default_value_t = 50, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    /// Continues after this sequence
    #[arg(long, default_value_t = 0, value_name = "SEQUENCE")]
    after: u64,
    #[command(flatten)]
    form: Form,
    #[command(flatten)]
    connection: Connection,
}

/// The document for programs.
#[derive(Serialize)]
struct Document<'a> {
    dead_letters: &'a [DeadLetter],
}

impl List {
    pub(super) async fn run(self, session: Session) -> Result<Exit, Error> {
        let (broker, output) = session.connect_to_existing(self.connection).await?;
        let limit = usize::try_from(self.limit).unwrap_or(usize::MAX);
        let found = self.filters.letters(&broker).await?.after(self.after).list(limit).await?;
        if self.form.json {
            output.document(Document { dead_letters: &found })?;
        }
        let Some(last) = found.last() else {
            output.note(&self.filters.nothing());
            return Ok(Exit::Done);
        };
        if self.form.json {
            return Ok(Exit::Done);
        }
        let rows = found.iter().map(|letter| {
            let DeadLetter { sequence, stored_at, reason, handler, subject, .. } = letter;
            let error = short(&letter.error);
            [sequence.to_string(), shown(*stored_at), handler.clone(), reason.to_string(), subject.clone(), error]
        });
        output.table(&["sequence", "stored at", "handler", "reason", "subject", "error"], rows)?;
        if found.len() >= limit {
            output.note(&format!("there may be more; continue with `--after {}`", last.sequence));
        }
        Ok(Exit::Done)
    }
}

/// Counts the dead letters of each cause.
#[derive(Debug, clap::Args)]
pub(super) struct Groups {
    #[command(flatten)]
    filters: Filters,
    #[command(flatten)]
    form: Form,
    #[command(flatten)]
    connection: Connection,
}

impl Groups {
    pub(super) async fn run(self, session: Session) -> Result<Exit, Error> {
        let (broker, output) = session.connect_to_existing(self.connection).await?;
        let found = self.filters.letters(&broker).await?.groups().await?;
        if self.form.json {
            output.json(&found)?;
        }
        if found.groups.is_empty() {
            output.note(&self.filters.nothing());
            return Ok(Exit::Done);
        }
        if self.form.json {
            return Ok(Exit::Done);
        }
        let rows = found.groups.iter().map(|group| {
            let samples: Vec<_> = group.samples.iter().map(u64::to_string).collect();
            [
                group.id.clone(),
                group.count.to_string(),
                group.handler.clone(),
                group.reason.to_string(),
                shown(group.first),
                shown(group.last),
                samples.join(","),
                short(&group.error),
            ]
        });
        output.table(&["group", "count", "handler", "reason", "first", "last", "samples", "error"], rows)?;
        if found.other > 0 {
            output.note(&format!("{} more in other groups", found.other));
        }
        Ok(Exit::Done)
    }
}

/// Shows one dead letter.
#[derive(Debug, clap::Args)]
pub(super) struct Show {
    /// The sequence in the stream of dead letters
    sequence: u64,
    #[command(flatten)]
    of_stream: OfStream,
    #[command(flatten)]
    form: Form,
    #[command(flatten)]
    connection: Connection,
}

impl Show {
    pub(super) async fn run(self, session: Session) -> Result<Exit, Error> {
        let (broker, output) = session.connect_to_existing(self.connection).await?;
        let Some(letter) = self.of_stream.letters(&broker).await?.get(self.sequence).await? else {
            return Err(Error::new(ErrorKind::Config, format!("there is no dead letter {}", self.sequence)));
        };
        if self.form.json {
            output.json(&letter)?;
            return Ok(Exit::Done);
        }
        let mut fields = vec![
            ("sequence", letter.sequence.to_string()),
            ("stored at", shown(letter.stored_at)),
            ("handler", letter.handler.clone()),
            ("reason", letter.reason.to_string()),
            ("error", letter.error.clone()),
            ("subject", letter.subject.clone()),
            ("message", format!("{} of stream {}", letter.stream_sequence, letter.stream)),
            ("consumer", letter.consumer.clone()),
            ("deliveries", letter.delivered.to_string()),
            ("key", letter.idempotency_key().to_owned()),
        ];
        if !letter.is_complete() {
            fields.push(("incomplete", "a part of its payload or headers is gone".to_owned()));
        }
        for (name, values) in letter.original_headers().iter() {
            fields.extend(values.iter().map(|value| ("header", format!("{name}: {value}"))));
        }
        output.fields(&fields)?;
        match std::str::from_utf8(&letter.payload) {
            Ok("") => output.line("without payload"),
            Ok(text) => {
                let json = serde_json::from_str::<serde_json::Value>(text);
                let pretty = json.ok().and_then(|json| serde_json::to_string_pretty(&json).ok());
                let lines = pretty.as_deref().unwrap_or(text);
                lines.lines().try_for_each(|line| output.line(&crate::error::printable::printable(line)))
            }
            Err(_) => output.line(&format!("{} bytes that are no text; `--json` prints them", letter.payload.len())),
        }?;
        Ok(Exit::Done)
    }
}

fn short(error: &str) -> String {
    let mut text = error.to_owned();
    if text.len() > MAX_ERROR {
        truncate(&mut text, MAX_ERROR);
        text.push_str("..");
    }
    text
}

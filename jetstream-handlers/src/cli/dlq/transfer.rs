//! The commands `dlq export` and `dlq import`.

use std::path::PathBuf;

use serde::Serialize;

use super::counts::counted;
use super::filters::{Filters, OfStream};
use crate::cli::connection::Connection;
use crate::cli::exit::Exit;
use crate::cli::files::{create, lines};
use crate::cli::output::Form;
use crate::cli::session::Session;
use crate::dead_letter::ImportReport;
use crate::error::Error;

/// Writes dead letters as lines of JSON.
#[derive(Debug, clap::Args)]
pub(super) struct Export {
    #[command(flatten)]
    filters: Filters,
    /// The file, which is replaced; the standard output by default
    #[arg(long, short, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    connection: Connection,
}

impl Export {
    pub(super) async fn run(self, session: Session) -> Result<Exit, Error> {
        let (broker, output) = session.connect_to_existing(self.connection).await?;
        let letters = self.filters.letters(&broker).await?;
        let count = letters.export(create(self.out.as_deref())?).await?;
        match count {
            0 => output.note(&self.filters.nothing()),
            _ => output.note(&format!("{} exported", counted(count as u64))),
        }
        Ok(Exit::Done)
    }
}

/// Stores the dead letters of a file.
#[derive(Debug, clap::Args)]
pub(super) struct Import {
    /// The file, or `-` for the standard input
    file: PathBuf,
    #[command(flatten)]
    of_stream: OfStream,
    #[command(flatten)]
    form: Form,
    #[command(flatten)]
    connection: Connection,
}

/// The document for programs.
#[derive(Serialize)]
struct Imported {
    imported: usize,
    duplicates: usize,
    failed: usize,
    failures: Vec<Failure>,
}

#[derive(Serialize)]
struct Failure {
    line: usize,
    error: String,
}

impl Import {
    pub(super) async fn run(self, session: Session) -> Result<Exit, Error> {
        let mut lines = lines(&self.file).await?;
        let (broker, output) = session.connect(self.connection).await?;
        let letters = self.of_stream.letters(&broker).await?;
        let mut report = ImportReport::default();
        let mut number = 0;
        while let Some(line) = lines.recv().await {
            number += 1;
            letters.import_line(number, &line?, &mut report).await?;
        }
        let exit = if report.failed == 0 { Exit::Done } else { Exit::Found };
        if self.form.json {
            let failures = report.failures.iter();
            let failures = failures.map(|(line, error)| Failure { line: *line, error: error.to_string() }).collect();
            let (imported, duplicates, failed) = (report.imported, report.duplicates, report.failed);
            output.document(Imported { imported, duplicates, failed, failures })?;
        } else {
            output.line(&report.to_string())?;
        }
        Ok(exit)
    }
}

//! The commands `dlq export` and `dlq import`.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::filters::{Filters, OfStream};
use crate::cli::connection::Connection;
use crate::cli::exit::Exit;
use crate::cli::output::Form;
use crate::cli::session::Session;
use crate::error::{Error, ErrorKind};

/// Writes dead letters as lines of JSON.
#[derive(Debug, clap::Args)]
pub(super) struct Export {
    #[command(flatten)]
    filters: Filters,
    /// The file, which is replaced; the standard output by default
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    connection: Connection,
}

impl Export {
    pub(super) async fn run(self, session: Session) -> Result<Exit, Error> {
        let (broker, output) = session.connect_to_existing(self.connection).await?;
        let letters = self.filters.letters(&broker);
        let writer: Box<dyn Write + Send> = match &self.output {
            Some(path) => Box::new(BufWriter::new(File::create(path).map_err(|error| failed(path, "written", error))?)),
            None => Box::new(BufWriter::new(io::stdout())),
        };
        let count = letters.export(writer).await?;
        if count == 0 {
            output.note(&self.filters.nothing());
            return Ok(Exit::Found);
        }
        output.note(&format!("{count} dead letters exported"));
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
    version: u32,
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
        let reader: Box<dyn BufRead + Send> = if self.file == Path::new("-") {
            Box::new(BufReader::new(io::stdin()))
        } else {
            Box::new(BufReader::new(File::open(&self.file).map_err(|error| failed(&self.file, "read", error))?))
        };
        let (broker, output) = session.connect(self.connection).await?;
        let report = self.of_stream.letters(&broker).import(reader).await?;
        let exit = if report.failed == 0 { Exit::Done } else { Exit::Found };
        if self.form.json {
            let failures = report.failures.iter();
            let failures = failures.map(|(line, error)| Failure { line: *line, error: error.to_string() }).collect();
            let (imported, duplicates, failed) = (report.imported, report.duplicates, report.failed);
            output.json(&Imported { version: 1, imported, duplicates, failed, failures })?;
        } else {
            output.line(&report.to_string())?;
        }
        Ok(exit)
    }
}

fn failed(path: &Path, what: &str, error: io::Error) -> Error {
    let text = format!("`{}` cannot be {what}: {error}", path.display());
    Error::new(ErrorKind::Config, text).with_source(error)
}

//! The export of dead letters as lines of JSON, and their import.

use std::fmt;
use std::io::{self, BufRead, Write};

use async_nats::header;

use super::draft::Draft;
use super::store::store_draft;
use super::{DeadLetter, DeadLetters};
use crate::error::{Error, ErrorKind};
use crate::message::Stored;
use crate::spelling;
use crate::subject::covers;

/// The maximum number of failures that are kept with their errors.
const MAX_FAILURES: usize = 1000;

/// The maximum number of failures that are listed.
const MAX_SHOWN: usize = 5;

/// The result of [`DeadLetters::import`].
///
/// `Display` lists the first five lines that were not imported, with the reason of each.
#[derive(Debug, Default)]
#[must_use = "lines that were not imported are in the report only"]
#[non_exhaustive]
pub struct ImportReport {
    /// The number of dead letters that were stored.
    pub imported: usize,
    /// The number of dead letters that the stream had already.
    pub duplicates: usize,
    /// The number of lines that were not imported.
    pub failed: usize,
    /// The number of each line that was not imported, with its error; at most the first 1000.
    pub failures: Vec<(usize, Error)>,
}

impl ImportReport {
    fn add(&mut self, line: usize, result: Result<Import, Error>) {
        match result {
            Ok(Import::Known) => self.duplicates += 1,
            Ok(Import::Stored) => self.imported += 1,
            Err(error) => {
                self.failed += 1;
                if self.failures.len() < MAX_FAILURES {
                    self.failures.push((line, error));
                }
            }
        }
    }
}

/// The result of the import of a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Import {
    Stored,
    /// Nothing, because the stream has it.
    Known,
}

impl fmt::Display for ImportReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { imported, duplicates, failed, failures } = self;
        write!(f, "{imported} imported, {duplicates} already stored, {failed} failed")?;
        // In a file of another kind, no line is a dead letter.
        let shown = failures.iter().take(MAX_SHOWN);
        shown.clone().try_for_each(|(line, error)| write!(f, "\n  - line {line}: {error}"))?;
        match failed.saturating_sub(shown.len()) {
            0 => Ok(()),
            1 => f.write_str("\n  - and 1 more line"),
            more => write!(f, "\n  - and {more} more lines"),
        }
    }
}

impl DeadLetters {
    /// Writes the dead letters as lines of JSON, which [`import`](Self::import) reads; returns their number.
    ///
    /// Each line has the payload: as `payload` if it is JSON on one line, as `payload_text` if it is other text, and as
    /// `payload_base64` otherwise. The same bytes are read again. The [contract](mod@crate::contract) lists the fields.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # async fn export(broker: jetstream_handlers::Broker) -> Result<(), Box<dyn std::error::Error>> {
    /// let mut file = std::io::BufWriter::new(std::fs::File::create("letters.jsonl")?);
    /// let count = broker.dead_letters().for_handler("process_order").export(&mut file).await?;
    /// # let _ = count;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns the errors of [`list`](Self::list), and [`Config`](ErrorKind::Config) if nothing can be written.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, some lines are written.
    pub async fn export(&self, mut writer: impl Write) -> Result<usize, Error> {
        let failed = |error: io::Error| {
            Error::new(ErrorKind::Config, format!("the dead letters cannot be written: {error}")).with_source(error)
        };
        let mut count = 0;
        let mut reading = self.reading().await?;
        while let Some(letter) = reading.next().await? {
            let letter = self.completed(letter).await?;
            serde_json::to_writer(&mut writer, &letter).map_err(|error| failed(error.into()))?;
            writer.write_all(b"\n").map_err(failed)?;
            count += 1;
        }
        writer.flush().map_err(failed)?;
        Ok(count)
    }

    /// Stores the dead letters that [`export`](Self::export) has written in the selected stream.
    ///
    /// A dead letter that is still in the stream is not stored again, nor is one that was imported within the
    /// `duplicate_window` of the stream and is still there. The header `Dead-Letter-Imported-From` has its former stream and sequence, as `<stream>:<sequence>`.
    /// A line that cannot be imported is reported, and those after it are imported. Empty lines are ignored.
    ///
    /// # Security
    ///
    /// The lines are input: each can store a dead letter with any content on a subject of the selected stream, which a
    /// client that may publish to `dlq.>` can as well, and nothing else.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # async fn import(broker: jetstream_handlers::Broker) -> Result<(), Box<dyn std::error::Error>> {
    /// let file = std::io::BufReader::new(std::fs::File::open("letters.jsonl")?);
    /// println!("{}", broker.dead_letters().import(file).await?);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns an error if nothing more can be read, or the broker is disconnected; some dead letters are stored then.
    /// A line fails if the selected stream does not store its subject; only the default stream is created.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, some dead letters are stored.
    pub async fn import(&self, mut reader: impl BufRead) -> Result<ImportReport, Error> {
        let mut report = ImportReport::default();
        let (mut line, mut text) = (0, Vec::new());
        loop {
            text.clear();
            let read = reader.read_until(b'\n', &mut text).map_err(|error| {
                Error::new(ErrorKind::Config, format!("line {} cannot be read: {error}", line + 1)).with_source(error)
            })?;
            if read == 0 {
                return Ok(report);
            }
            line += 1;
            self.import_line(line, &text, &mut report).await?;
        }
    }

    /// Stores the dead letter in a line with this number; returns an error only if none after it can be stored.
    pub(crate) async fn import_line(&self, line: usize, text: &[u8], report: &mut ImportReport) -> Result<(), Error> {
        if text.trim_ascii().is_empty() {
            return Ok(());
        }
        let stored = match DeadLetter::from_json(&String::from_utf8_lossy(text)) {
            Ok(letter) => self.import_letter(&letter).await,
            Err(error) => Err(error),
        };
        match stored {
            Err(error) if error.kind() == ErrorKind::Closed => Err(error),
            stored => {
                report.add(line, stored);
                Ok(())
            }
        }
    }

    /// Stores one dead letter in the selected stream.
    async fn import_letter(&self, letter: &DeadLetter) -> Result<Import, Error> {
        let subject = &letter.stored_subject;
        if let Some(problem) = spelling::publish_subject_problem(subject) {
            return Err(Error::new(ErrorKind::Config, format!("its `dead_letter_subject`: {problem}")));
        }
        let found = self.transport.stream(&self.stream).await;
        let found = found.map_err(|error| error.into_error(&format!("reading stream `{}`", self.stream)))?;
        if found.is_some()
            && self.transport.stored(&self.stream, letter.sequence).await?.is_some_and(|it| is(&it, letter))
        {
            return Ok(Import::Known);
        }
        let subjects = match found {
            Some(config) => config.subjects,
            None => self.created_subjects(subject).await?,
        };
        if !subjects.iter().any(|own| covers(own, subject)) {
            let text = format!(
                "stream `{}` does not store its `dead_letter_subject` `{subject}`, but {subjects:?}; select the stream that does",
                self.stream
            );
            return Err(Error::new(ErrorKind::StreamMismatch, text));
        }
        let ack = store_draft(&self.transport, &Draft::imported(letter, &self.stream)).await?;
        Ok(if ack.duplicate { Import::Known } else { Import::Stored })
    }

    /// Returns the subjects of the selected stream, which does not exist, once it stores a dead letter on this subject.
    ///
    /// Only the default stream is created, as for any dead letter, unless another stream has the subject.
    async fn created_subjects(&self, subject: &str) -> Result<Vec<String>, Error> {
        if !self.is_default() {
            return Err(self.no_stream());
        }
        let owners = self.transport.stream_names(subject).await;
        let owners = owners.map_err(|error| error.into_error(&format!("looking up the stream of `{subject}`")))?;
        match owners.first() {
            None => Ok(vec![self.default_subject()]),
            Some(other) => {
                let text = format!(
                    "stream `{}` does not exist, and stream `{other}` stores its `dead_letter_subject` `{subject}`; select that one",
                    self.stream
                );
                Err(Error::new(ErrorKind::StreamMismatch, text))
            }
        }
    }
}

/// Returns `true` if a stored message is the one that was exported: no other has its sequence and its time.
fn is(stored: &Stored, letter: &DeadLetter) -> bool {
    let id = stored.headers.get(header::NATS_MESSAGE_ID).map_or("", |id| id.as_str());
    stored.time == letter.stored_at && stored.subject.as_str() == letter.stored_subject && id == letter.id
}

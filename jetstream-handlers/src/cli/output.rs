//! The output of commands: tables for people, JSON for programs.

use std::fmt;
use std::io::{self, ErrorKind as IoErrorKind, IsTerminal as _, Write};
use std::process::ExitCode;

use comfy_table::{ContentArrangement, Table};
use serde::Serialize;

use super::exit::Exit;
use crate::error::printable::printable;
use crate::error::{Error, ErrorKind, chain};

/// The standard output and the standard error of a command.
#[derive(Debug, Clone)]
pub(super) struct Output {
    /// `true` if the standard output is a terminal that shows colors.
    has_colors: bool,
}

/// The color of a text in a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Color {
    Red,
    Green,
    Yellow,
}

/// The form of an output.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub(super) struct Form {
    /// Prints JSON
    #[arg(long, display_order = 90)]
    pub(super) json: bool,
}

impl Output {
    pub(super) fn new() -> Self {
        let is_refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let is_dumb = std::env::var_os("TERM").is_some_and(|value| value == "dumb");
        Self { has_colors: Self::is_terminal() && !is_refused && !is_dumb }
    }

    pub(super) fn is_terminal() -> bool {
        io::stdout().is_terminal()
    }

    /// Prints a line.
    pub(super) fn line(&self, line: &str) -> Result<(), Error> {
        self.text(&format!("{line}\n"))
    }

    /// Prints a text as it is.
    pub(super) fn text(&self, text: &str) -> Result<(), Error> {
        let mut stdout = StandardOutput;
        stdout
            .write_all(text.as_bytes())
            .and_then(|()| stdout.flush())
            .map_err(|error| Error::new(ErrorKind::Config, "the standard output cannot be written").with_source(error))
    }

    /// Prints a line for people to the standard error, so that the standard output stays parsable.
    pub(super) fn note(&self, line: &str) {
        eprintln!("{line}");
    }

    /// Prints a value for programs that has a `version`.
    pub(super) fn json(&self, value: &impl Serialize) -> Result<(), Error> {
        self.line(&serde_json::to_string_pretty(value).map_err(not_json)?)
    }

    /// Prints a value for programs as a document with a `version`.
    pub(super) fn document(&self, body: impl Serialize) -> Result<(), Error> {
        self.json(&Document { version: 1, body })
    }

    /// Prints a document on one line, as one of several.
    pub(super) fn document_line(&self, body: impl Serialize) -> Result<(), Error> {
        self.line(&serde_json::to_string(&Document { version: 1, body }).map_err(not_json)?)
    }

    /// Prints a table for people, with a header.
    pub(super) fn table<R: IntoIterator<Item = String>>(
        &self,
        header: &[&str],
        rows: impl IntoIterator<Item = R>,
    ) -> Result<(), Error> {
        let mut table = Table::new();
        table.load_style(comfy_table::presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(header.iter().map(|title| title.to_uppercase()));
        for row in rows {
            table.add_row(row.into_iter().map(|cell| printable(&cell).into_owned()));
        }
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        table.trim_fmt().lines().try_for_each(|line| self.line(line))
    }

    /// Prints names with their values, in two columns.
    pub(super) fn fields(&self, fields: &[(&str, String)]) -> Result<(), Error> {
        let width = fields.iter().map(|(name, _)| name.chars().count()).max().unwrap_or_default();
        fields.iter().try_for_each(|(name, value)| self.line(&format!("{name:width$}  {}", printable(value))))
    }

    /// Returns a text in a color, if the terminal shows colors.
    pub(super) fn colored(&self, color: Color, text: &str) -> String {
        if !self.has_colors {
            return text.to_owned();
        }
        let code = match color {
            Color::Red => 31,
            Color::Green => 32,
            Color::Yellow => 33,
        };
        format!("\u{1b}[{code}m{text}\u{1b}[0m")
    }

    /// Prints the error of a command, and returns its exit code.
    pub(super) fn finish(&self, result: Result<Exit, Error>) -> ExitCode {
        match result {
            Ok(exit) => exit.into(),
            // Its reader, such as `head`, has read enough.
            Err(error) if is_closed(&error) => Exit::Done.into(),
            Err(error) => {
                eprintln!("error: {}", chain(&error));
                Exit::Failed.into()
            }
        }
    }
}

/// The document of a command for programs.
#[derive(Serialize)]
struct Document<T> {
    version: u32,
    #[serde(flatten)]
    body: T,
}

/// The standard output, whose error after its reader has ended contains [`OutputClosed`].
pub(super) struct StandardOutput;

impl Write for StandardOutput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        io::stdout().write(bytes).map_err(marked)
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stdout().flush().map_err(marked)
    }
}

fn marked(error: io::Error) -> io::Error {
    match error.kind() {
        IoErrorKind::BrokenPipe => io::Error::new(IoErrorKind::BrokenPipe, OutputClosed),
        _ => error,
    }
}

/// The end of the program that reads the standard output, which also ends the command.
#[derive(Debug)]
struct OutputClosed;

impl fmt::Display for OutputClosed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the reader of the standard output has ended")
    }
}

impl std::error::Error for OutputClosed {}

/// Returns `true` for the error of a closed standard output; not for a broken connection to the server.
fn is_closed(error: &Error) -> bool {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<io::Error>());
    source.and_then(io::Error::get_ref).is_some_and(|inner| inner.is::<OutputClosed>())
}

fn not_json(error: serde_json::Error) -> Error {
    Error::new(ErrorKind::Config, "the output cannot be written as JSON").with_source(error)
}

/// A number, or a dash if it is not known.
pub(super) fn number(number: Option<u64>) -> String {
    number.map_or_else(|| "-".to_owned(), |number| number.to_string())
}

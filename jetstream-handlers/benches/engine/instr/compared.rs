//! The committed table, with which new figures are compared.

use std::fs;
use std::path::Path;

/// The file in which the table is kept.
const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/engine/instr.txt");

/// The largest excess that is not a change, in percent.
const TOLERANCE: f64 = 3.0;

/// The row with which the rows of groups that consume are compared when they are printed.
const REFERENCE: &str = "consume/async-nats, batch 1000";
const CONSUMING: [&str; 4] = ["consume/", "ordered/", "observed/", "batches/"];

const HEAD: &str = "\
# Instructions per message, as counted by `cargo run --release -p jetstream-handlers-benches -- instr`.
# A row that takes more than 3 % more fails there and in `.ci/run`; `instr --accept` writes this file.
";

/// The command that accepts new figures, without the rows.
const ACCEPT: &str = "cargo run --release -p jetstream-handlers-benches -- instr --accept";

/// A row and its instructions per message.
type Count = (&'static str, u64);

/// The committed figures, and the compiler that they are of.
#[derive(Debug, Default)]
pub(super) struct Table {
    compiler: String,
    rows: Vec<(String, u64)>,
}

impl Table {
    pub(super) fn read() -> Result<Self, String> {
        let text = fs::read_to_string(FILE).map_err(|error| format!("`{FILE}`: {error}"))?;
        Self::parse(&text)
    }

    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut table = Self::default();
        for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            match line.rsplit_once('=').map(|(name, value)| (name.trim(), value.trim())) {
                Some(("compiler", compiler)) => compiler.clone_into(&mut table.compiler),
                Some((name, count)) => {
                    let count = count.parse().map_err(|_| format!("`{line}` in `{FILE}` has no number"))?;
                    table.rows.push((name.to_owned(), count));
                }
                None => return Err(format!("`{line}` in `{FILE}` is not `row = number`")),
            }
        }
        Ok(table)
    }

    fn committed(&self, row: &str) -> Option<u64> {
        self.rows.iter().find(|(name, _)| name == row).map(|(_, count)| *count)
    }

    /// Returns `true` if a row takes more than in the table, by more than the tolerance.
    pub(super) fn exceeds(&self, compiler: &str, &(name, count): &Count) -> bool {
        let committed = self.committed(name).filter(|_| self.compiler == compiler);
        committed.is_some_and(|committed| percent(committed, count) > TOLERANCE)
    }

    pub(super) fn print(&self, compiler: &str, counts: &[Count]) {
        let reference = counts.iter().find(|(name, _)| *name == REFERENCE).map(|(_, count)| *count);
        println!("\n| {compiler} | instructions per message | in the table | change | of async-nats |");
        println!("|---|--:|--:|--:|--:|");
        for &(name, count) in counts {
            let committed = self.committed(name);
            let change = committed.map_or(String::new(), |committed| format!("{:+.1} %", percent(committed, count)));
            let committed = committed.map_or(String::new(), |committed| committed.to_string());
            let reference = reference.filter(|_| CONSUMING.iter().any(|group| name.starts_with(group)));
            let ratio = reference.map_or(String::new(), |reference| format!("{:.3}", count as f64 / reference as f64));
            println!("| {name} | {count} | {committed} | {change} | {ratio} |");
        }
    }

    /// Writes the counts into the file; those of rows that were not run remain.
    pub(super) fn accept(mut self, compiler: &str, counts: &[Count], all: bool) -> Result<(), String> {
        if all {
            self.rows.clear();
        } else if self.compiler != compiler {
            return Err(format!(
                "the table is of {}, and this is {compiler}: accept all rows at once, by `{ACCEPT}`",
                self.compiler
            ));
        }
        for &(name, count) in counts {
            match self.rows.iter_mut().find(|(row, _)| row == name) {
                Some((_, committed)) => *committed = count,
                None => self.rows.push((name.to_owned(), count)),
            }
        }
        let rows: String = self.rows.iter().map(|(name, count)| format!("{name} = {count}\n")).collect();
        fs::write(FILE, format!("{HEAD}\ncompiler = {compiler}\n\n{rows}"))
            .map_err(|error| format!("`{FILE}` cannot be written: {error}"))?;
        println!("\nwritten to `{FILE}`; a reviewer sees the change there");
        Ok(())
    }

    /// Fails if a row takes more than in the table, by more than the tolerance.
    pub(super) fn compare(self, compiler: &str, counts: &[Count], all: bool, profiles: &Path) -> Result<(), String> {
        if self.compiler != compiler {
            println!("\nthe table is of {}, and this is {compiler}: nothing is compared", self.compiler);
            return Ok(());
        }
        counts.iter().filter_map(|count| self.gain(count)).for_each(|gain| println!("\n{gain}"));
        let mut problems: Vec<_> = counts.iter().filter_map(|count| self.problem(count)).collect();
        let is_row = |row: &str| counts.iter().any(|(name, _)| *name == row);
        let unknown = self.rows.iter().filter(|(row, _)| all && !is_row(row));
        problems.extend(unknown.map(|(row, _)| {
            format!("`{row}` is in the table, and is not a row that is counted: remove it by `{ACCEPT}`")
        }));
        if problems.is_empty() {
            println!("\nno row takes more than {TOLERANCE} % more than in the table");
            return Ok(());
        }
        Err(format!("{}\nthe profiles are in `{}`, for `callgrind_annotate`", problems.join("\n"), profiles.display()))
    }

    fn problem(&self, &(name, count): &Count) -> Option<String> {
        let accept = format!("`{ACCEPT} \"{name}\"`");
        let Some(committed) = self.committed(name) else {
            return Some(format!(
                "`{name}` takes {count} instructions per message, and is not in the table: add it by {accept}"
            ));
        };
        let change = percent(committed, count);
        (change > TOLERANCE).then(|| {
            format!(
                "`{name}` takes {count} instructions per message, and {committed} in the table ({change:+.1} %): find the cause, or accept it by {accept}"
            )
        })
    }

    /// Returns what to do about a row that takes less than in the table, which can also be due to another machine.
    fn gain(&self, &(name, count): &Count) -> Option<String> {
        let change = percent(self.committed(name)?, count);
        (change < -TOLERANCE).then(|| {
            format!("`{name}` takes {:.1} % less than in the table: keep that by `{ACCEPT} \"{name}\"`", change.abs())
        })
    }
}

fn percent(committed: u64, count: u64) -> f64 {
    100.0 * (count as f64 / committed as f64 - 1.0)
}

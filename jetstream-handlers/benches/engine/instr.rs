//! Instructions per message, which are repeatable where times are not, and their comparison with a committed table.
//!
//! Each row is one variant of a group, run twice by valgrind's callgrind with different numbers of messages, so that
//! what a start costs does not count.
//! The figures depend on the compiler, so they are compared only with a table of the same one.

mod callgrind;
mod compared;

use std::process::{Command, ExitCode};
use std::sync::Mutex;
use std::thread;

use callgrind::Callgrind;
use compared::Table;

use crate::Bench;

/// The runs that are counted.
const ROWS: &[Row] = &[
    Row::new("consume/ours"),
    Row::new("consume/async-nats, batch 1000"),
    Row::new("observed/ours, subscriber"),
    Row::new("batches/ours, batches of 100"),
    Row::new("ordered/ours"),
    Row::new("ordered/ours, single instance"),
    // These publish a twentieth of the messages.
    Row::new("publish/ours").of(20),
    Row::new("pipelined/ours"),
    Row::new("pipelined/ours, fast ingest"),
    Row::new("decode json/ours"),
    Row::new("encode json/ours"),
];

/// The numbers of messages of the two runs of a row.
const MESSAGES: [u64; 2] = [5_000, 25_000];

/// The number of rows that run at the same time; each has a server of its own.
const AT_ONCE: usize = 2;

/// The number of times that a row is counted which exceeds the table, and every row for a new table.
///
/// The least totals count: on a busy machine, a run takes more instructions, because it is served in smaller parts.
const ATTEMPTS: usize = 3;

/// A run that is counted.
#[derive(Debug, Clone, Copy)]
struct Row {
    /// The group and the variant.
    name: &'static str,
    /// The number of messages of the program's argument of which the run handles one.
    of: u64,
}

impl Row {
    const fn new(name: &'static str) -> Self {
        Self { name, of: 1 }
    }

    const fn of(self, of: u64) -> Self {
        Self { of, ..self }
    }
}

/// Counts the instructions of all rows, or of those whose names contain a filter, and compares them with the table, or
/// writes them into it.
pub(crate) fn instr(arguments: &[String]) -> ExitCode {
    let (flags, filters): (Vec<_>, Vec<_>) = arguments.iter().partition(|argument| argument.starts_with("--"));
    let accepts = match &flags[..] {
        [] => false,
        [flag] if *flag == "--accept" => true,
        _ => return failed(&format!("`instr` takes filters and `--accept`, and not {flags:?}")),
    };
    // A whole name is that row alone, although others begin with it.
    let is_name = |filter: &str| ROWS.iter().any(|row| row.name == filter);
    let is_chosen = |row: &Row, filter: &str| row.name == filter || (!is_name(filter) && row.name.contains(filter));
    let chosen = |row: &&Row| filters.is_empty() || filters.iter().any(|filter| is_chosen(row, filter));
    let rows: Vec<_> = ROWS.iter().filter(chosen).collect();
    if rows.is_empty() {
        let names: Vec<_> = ROWS.iter().map(|row| row.name).collect();
        return failed(&format!("no row contains {filters:?}: the rows are {names:?}"));
    }
    match counted(&rows, accepts, filters.is_empty()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => failed(&problem),
    }
}

fn failed(problem: &str) -> ExitCode {
    eprintln!("\n{problem}");
    ExitCode::FAILURE
}

fn counted(rows: &[&Row], accepts: bool, all: bool) -> Result<(), String> {
    if cfg!(debug_assertions) {
        return Err("the instructions of a release build are counted: use `cargo run --release`".to_owned());
    }
    let (callgrind, table, compiler) = (Callgrind::find()?, Table::read()?, compiler()?);
    let mut totals = count(&callgrind, rows)?;
    for _ in 1..ATTEMPTS {
        let counts = per_message(&totals);
        let exceeds = |row: &&Row| counts.iter().any(|count| count.0 == row.name && table.exceeds(&compiler, count));
        let again: Vec<_> = rows.iter().copied().filter(|row| accepts || exceeds(row)).collect();
        for (name, again) in count(&callgrind, &again)? {
            let least = totals.iter_mut().filter(|(row, _)| *row == name);
            least.for_each(|(_, least)| *least = [least[0].min(again[0]), least[1].min(again[1])]);
        }
    }
    let counts = per_message(&totals);
    table.print(&compiler, &counts);
    if accepts {
        return table.accept(&compiler, &counts, all);
    }
    table.compare(&compiler, &counts, all, callgrind.folder())
}

/// Returns the version and the target of the compiler, which cargo names to the programs that it runs.
fn compiler() -> Result<String, String> {
    let program = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(&program).arg("-vV").output();
    let output = output.map_err(|error| format!("`{} -vV` fails: {error}", program.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let host = text.lines().find_map(|line| line.strip_prefix("host: ")).unwrap_or("an unknown target");
    Ok(format!("{} on {host}", text.lines().next().unwrap_or("an unknown compiler")))
}

/// A row, and the instructions of its two runs.
type Totals = (&'static str, [u64; 2]);

fn per_message(totals: &[Totals]) -> Vec<(&'static str, u64)> {
    let figure = |[less, more]: [u64; 2]| more.saturating_sub(less) / (MESSAGES[1] - MESSAGES[0]);
    totals.iter().map(|&(name, totals)| (name, figure(totals))).collect()
}

/// Returns the totals of each row, in the order of the rows.
fn count(callgrind: &Callgrind, rows: &[&Row]) -> Result<Vec<Totals>, String> {
    let (waiting, counts) = (Mutex::new(rows.iter().enumerate()), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        let threads: Vec<_> = (0..AT_ONCE.min(rows.len()))
            .map(|_| {
                scope.spawn(|| {
                    let server = crate::start_server();
                    loop {
                        let Some((index, row)) = waiting.lock().expect("no run panics").next() else { return Ok(()) };
                        let totals = row.totals(callgrind, &server)?;
                        counts.lock().expect("no run panics").push((index, (row.name, totals)));
                    }
                })
            })
            .collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("no run panics"))
    })
    .map(|()| {
        let mut counts = counts.into_inner().expect("no run panics");
        counts.sort_unstable();
        counts.into_iter().map(|(_, count)| count).collect()
    })
}

impl Row {
    /// Returns the instructions of the two runs.
    fn totals(&self, callgrind: &Callgrind, server: &jetstream_handlers_tests::Server) -> Result<[u64; 2], String> {
        let (group, variant) = self.name.split_once('/').expect("the name of a row has a slash");
        let found = crate::groups().find(|one| one.name == group);
        let group = found.ok_or_else(|| format!("the row `{}` is of a group that does not exist", self.name))?;
        let [less, more] = MESSAGES.map(|messages| {
            let messages = messages * self.of;
            let durable = format!("{messages}-{}", self.name.replace(|char: char| !char.is_alphanumeric(), "-"));
            let bench = Bench { url: server.url(), server: server.pid(), messages, durable };
            (group.prepare)(&bench);
            callgrind.total(group.arguments(variant, &bench), &bench.durable)
        });
        Ok([less?, more?])
    }
}

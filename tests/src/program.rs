//! Another process with one of the programs in `src/bin`.

use crate::process::{self, Process};
use crate::server::TIMEOUT;
use crate::{eventually, ms, target};
use std::fs;
use std::future::ready;
use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

/// A running program.
///
/// It is killed when this value is dropped and when the test process is killed.
#[derive(Debug)]
pub struct Program {
    // Dropped before the folder, so that the process has ended when the folder is removed.
    process: Process,
    folder: TempDir,
}

impl Program {
    /// Starts the program at `path`, which is `env!("CARGO_BIN_EXE_name")`.
    ///
    /// Its environment has these variables and no others.
    ///
    /// # Panics
    ///
    /// When the program cannot be started.
    pub fn start(path: &str, arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let folder = target::temporary("program-");
        let output = fs::File::create(folder.path().join("output")).expect("the program's folder can be written");
        // `env` is replaced by the program, so that the process id is that of the program.
        let mut all = vec!["-i".to_owned()];
        all.extend(variables.iter().map(|(name, value)| format!("{name}={value}")));
        all.push(path.to_owned());
        all.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        let process = Process::start(Path::new("/usr/bin/env"), &all, folder.path(), output)
            .unwrap_or_else(|error| panic!("cannot start {path}: {error}"));
        Self { process, folder }
    }

    /// Returns what the program has printed so far, including the standard error.
    pub fn output(&self) -> String {
        fs::read_to_string(self.folder.path().join("output")).unwrap_or_default()
    }

    /// Returns the rest of each line that begins with `start`.
    pub fn lines(&self, start: &str) -> Vec<String> {
        let output = self.output();
        // The last line may be incomplete.
        let whole = output.rfind('\n').map_or("", |end| &output[..end]);
        whole.lines().filter_map(|line| line.strip_prefix(start)).map(str::to_owned).collect()
    }

    /// Waits for a line that begins with `start`, and returns the rest of the line.
    ///
    /// # Panics
    ///
    /// When the program ends first, and after the timeout; the message contains its output.
    pub async fn until(&mut self, start: &str) -> String {
        self.until_within(start, TIMEOUT).await
    }

    /// Waits for a line that begins with `start`, as [`until`](Self::until) does, with another timeout.
    ///
    /// # Panics
    ///
    /// As `until`.
    pub async fn until_within(&mut self, start: &str, limit: Duration) -> String {
        let what = format!("a line `{start}..`");
        let started = Instant::now();
        loop {
            // The status is read first, because the line may be the last one.
            let ended = self.process.ended();
            match (self.lines(start).into_iter().next(), ended) {
                (Some(line), _) => return line,
                (None, Some(status)) => panic!("{status} without {what}:\n{}", self.output()),
                (None, None) if started.elapsed() > limit => {
                    panic!("not within {limit:?}: {what}:\n{}", self.output())
                }
                (None, None) => sleep(ms(5)).await,
            }
        }
    }

    /// Sends a signal, named as for `kill -s`.
    pub fn signal(&self, name: &str) {
        process::signal(self.process.pid(), name);
    }

    /// Waits for the end of the program.
    pub async fn ended(&mut self) -> ExitStatus {
        eventually("the program ends", TIMEOUT, || ready(self.process.ended())).await
    }
}

//! A program of our own beside the test, for what one process cannot show.

use crate::process::Process;
use crate::server::PATIENCE;
use crate::{eventually, target};
use std::fs;
use std::future::ready;
use std::path::Path;
use std::process::ExitStatus;
use tempfile::TempDir;

/// A running program, which ends with this value and also when the test process is killed.
#[derive(Debug)]
pub struct Program {
    // Before the folder, so that the process is gone when the folder is removed.
    process: Process,
    folder: TempDir,
}

impl Program {
    /// Starts the program at `path`, as `env!("CARGO_BIN_EXE_name")` gives it, with these variables
    /// and no others in its environment.
    ///
    /// # Panics
    ///
    /// When it cannot be started.
    pub fn start(path: &str, arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let folder = target::temporary("program-");
        let output = fs::File::create(folder.path().join("output")).expect("the program's folder can be written");
        // `env` becomes the program, so that the pid is the program's.
        let mut all = vec!["-i".to_owned()];
        all.extend(variables.iter().map(|(name, value)| format!("{name}={value}")));
        all.push(path.to_owned());
        all.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        let process = Process::start(Path::new("/usr/bin/env"), &all, folder.path(), output)
            .unwrap_or_else(|error| panic!("cannot start {path}: {error}"));
        Self { process, folder }
    }

    /// What it has printed so far, the standard error included.
    pub fn output(&self) -> String {
        fs::read_to_string(self.folder.path().join("output")).unwrap_or_default()
    }

    /// The lines that begin with `start`, without it.
    pub fn lines(&self, start: &str) -> Vec<String> {
        let output = self.output();
        // The last line may still be on its way.
        let whole = output.rfind('\n').map_or("", |end| &output[..end]);
        whole.lines().filter_map(|line| line.strip_prefix(start)).map(str::to_owned).collect()
    }

    /// Waits until it has printed a line that begins with `start`, and gives the rest of it.
    ///
    /// # Panics
    ///
    /// When it ends without, or does not in time; the message has all that it printed.
    pub async fn until(&mut self, start: &str) -> String {
        let what = format!("a line `{start}..`");
        let poll = || {
            // In this order, since the line may be its last.
            let ended = self.process.ended();
            let line = self.lines(start).into_iter().next();
            if let (None, Some(status)) = (&line, ended) {
                panic!("{status} without {what}:\n{}", self.output());
            }
            ready(line)
        };
        eventually(&what, PATIENCE, poll).await
    }

    /// Sends a signal, named as `kill -s` names it.
    pub fn signal(&self, name: &str) {
        self.process.signal(name);
    }

    /// Waits for its end.
    pub async fn ended(&mut self) -> ExitStatus {
        eventually("the program ends", PATIENCE, || ready(self.process.ended())).await
    }
}

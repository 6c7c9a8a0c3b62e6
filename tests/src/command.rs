//! A command of one of the programs in `src/bin`, from its start to its end.

use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

/// The time in which a command ends.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The output of a command, and its end.
#[derive(Debug)]
pub struct Ended {
    /// The exit code.
    pub code: Option<i32>,
    /// The standard output.
    pub stdout: String,
    /// The standard error.
    pub stderr: String,
}

impl Ended {
    /// Expects an exit code.
    ///
    /// # Panics
    ///
    /// When the command has ended with another one.
    #[track_caller]
    pub fn code(&self, code: i32) -> &Self {
        assert_eq!(self.code, Some(code), "{self:?}");
        self
    }

    /// Expects that the standard output or the standard error has each of these texts.
    ///
    /// # Panics
    ///
    /// When one is missing.
    #[track_caller]
    pub fn says(&self, texts: &[&str]) -> &Self {
        for text in texts {
            assert!(self.stdout.contains(text) || self.stderr.contains(text), "no {text:?} in {self:?}");
        }
        self
    }

    /// Returns the standard output as JSON.
    ///
    /// # Panics
    ///
    /// When it is no JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// Runs the program at `path`, which is `env!("CARGO_BIN_EXE_name")`, without a terminal, and with these variables and no
/// others; the standard input is `input`.
///
/// # Panics
///
/// When the program cannot be started, or does not end.
pub async fn run_command(path: &str, arguments: &[&str], variables: &[(&str, &str)], input: &str) -> Ended {
    let mut command = Command::new(path);
    command.args(arguments).env_clear().envs(variables.iter().copied()).kill_on_drop(true);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program is started");
    let mut stdin = child.stdin.take().expect("it is piped");
    // A command that reads nothing may have ended before.
    stdin.write_all(input.as_bytes()).await.ok();
    drop(stdin);
    let output = tokio::time::timeout(TIMEOUT, child.wait_with_output()).await;
    let output = output.unwrap_or_else(|_| panic!("{arguments:?} does not end")).expect("its output can be read");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("the output is text");
    Ended { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

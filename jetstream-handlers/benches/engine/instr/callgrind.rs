//! Runs of this program under valgrind's callgrind.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Valgrind, and the folder for its profiles.
#[derive(Debug)]
pub(super) struct Callgrind {
    program: PathBuf,
    folder: PathBuf,
}

impl Callgrind {
    /// Finds valgrind, and creates the folder beside this program.
    pub(super) fn find() -> Result<Self, String> {
        let version = Command::new("valgrind").arg("--version").output();
        if !version.is_ok_and(|output| output.status.success()) {
            return Err(
                "valgrind, which counts the instructions, is not on the PATH: install it, as with `apt-get install valgrind`"
                    .to_owned(),
            );
        }
        let program =
            std::env::current_exe().map_err(|error| format!("the path of this program is unknown: {error}"))?;
        let folder = program.with_file_name("instr");
        fs::create_dir_all(&folder).map_err(|error| format!("`{}` cannot be created: {error}", folder.display()))?;
        Ok(Self { program, folder })
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Runs this program with arguments, and returns the number of its instructions.
    pub(super) fn total(&self, arguments: Vec<String>, name: &str) -> Result<u64, String> {
        let profile = self.folder.join(name);
        let mut command = Command::new("valgrind");
        command.args(["--quiet", "--tool=callgrind"]).arg(format!("--callgrind-out-file={}", profile.display()));
        command.arg(&self.program).args(arguments).stdout(Stdio::null());
        let status = command.status().map_err(|error| format!("valgrind cannot be started: {error}"))?;
        if !status.success() {
            return Err(format!("the run `{name}` under valgrind fails: {status}"));
        }
        let text = fs::read_to_string(&profile).map_err(|error| format!("`{}`: {error}", profile.display()))?;
        let total = text.lines().find_map(|line| line.strip_prefix("totals: ")?.trim().parse().ok());
        total.ok_or_else(|| format!("`{}` has no line `totals:` with a number", profile.display()))
    }
}

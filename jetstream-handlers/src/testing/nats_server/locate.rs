//! The `nats-server` program of the machine.
//!
//! The harness of this crate's own tests contains this file too.

use std::ffi::OsStr;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

pub(crate) const NAME: &str = "nats-server";

/// Returns the value of an environment variable that is set and not empty.
pub(crate) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Returns the path in `NATS_SERVER`.
pub(crate) fn given() -> Result<PathBuf, String> {
    variable("NATS_SERVER").map(PathBuf::from).ok_or_else(|| "NATS_SERVER is not set".to_owned())
}

/// Returns the first `nats-server` on the `PATH`.
pub(crate) fn on_path() -> Result<PathBuf, String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|folder| folder.join(NAME))
        .find(|path| path.is_file())
        .ok_or_else(|| format!("{NAME} is not on the PATH"))
}

/// Returns the program that `path` runs: itself, or the target of a wrapper script.
///
/// A wrapper cannot be used, because its process id need not be that of the server.
pub(crate) fn program(path: &Path) -> Result<PathBuf, String> {
    let path = path.canonicalize().map_err(|error| format!("{}: {error}", path.display()))?;
    if !is_script(&path) {
        return Ok(path);
    }
    named_in(&path)
        .into_iter()
        .chain(beside_python())
        .find(|path| path.is_file() && !is_script(path))
        .ok_or_else(|| format!("{} is a script, and the program it runs was not found", path.display()))
}

fn is_script(path: &Path) -> bool {
    let mut start = [0; 2];
    std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut start)).is_ok_and(|()| &start == b"#!")
}

/// Returns the absolute paths of servers in the text of a script.
fn named_in(script: &Path) -> Vec<PathBuf> {
    let text = std::fs::read(script).unwrap_or_default();
    String::from_utf8_lossy(&text)
        .split(|character: char| character.is_whitespace() || "\"'`;=".contains(character))
        .map(PathBuf::from)
        .filter(|path| path.is_absolute() && path.file_name() == Some(OsStr::new(NAME)))
        .collect()
}

/// Returns the server that `pip` installed beside the `python3` on the `PATH`.
fn beside_python() -> Option<PathBuf> {
    let output =
        Command::new("python3").args(["-c", "import sysconfig; print(sysconfig.get_path('scripts'))"]).output().ok()?;
    let folder = String::from_utf8(output.stdout).ok()?;
    Some(Path::new(folder.trim_end()).join(NAME))
}

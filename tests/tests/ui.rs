//! What compiles under the attribute, and what the compiler reports to a user who misuses it.
//!
//! Each file in `ui/fail` has one misuse and is named for it; the expected output of the compiler is next to it.
//! After an intended change, `TRYBUILD=overwrite cargo test --test ui` updates the expected output.
//! Another compiler than the pinned one words its output differently: with it, every file must still fail to compile,
//! but the output is not compared.
//! The files in `ui/pass` are modules of this test, because trybuild would build every dependency again for them.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::drop_non_drop,
    clippy::let_underscore_future,
    clippy::needless_pass_by_value,
    clippy::too_many_arguments
)] // code that a user may write

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

#[path = "../ui/pass/places.rs"]
mod places;
#[path = "../ui/pass/shapes.rs"]
mod shapes;

/// The compiler whose output is kept.
const TOOLCHAIN: &str = "rustc 1.95.";

/// The folder of files without expected output, for the process that checks with another compiler.
const UNCOMPARED: &str = "UI_UNCOMPARED";

#[test]
fn misuses() {
    let toolchain = toolchain();
    if let Some(folder) = env::var_os(UNCOMPARED) {
        compile(Path::new(&folder));
    } else if toolchain.starts_with(TOOLCHAIN) {
        compile(Path::new("ui/fail"));
    } else {
        // A run that compares no output must not count as a pass.
        assert!(env::var_os("CI").is_none(), "the output is kept for {TOOLCHAIN}*, and this is {toolchain}");
        eprintln!("output not compared: it is kept for {TOOLCHAIN}*, and this is {toolchain}");
        check_without_comparison();
    }
}

/// Checks that each file fails to compile and that its output is the expected one.
fn compile(folder: &Path) {
    trybuild::TestCases::new().compile_fail(folder.join("*.rs"));
}

/// Checks that each file fails to compile, whatever the output.
fn check_without_comparison() {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("ui-uncompared");
    fs::remove_dir_all(&folder).ok();
    fs::create_dir_all(&folder).expect("the target folder is writable");
    for file in fs::read_dir("ui/fail").expect("a test runs in its package") {
        let path = file.expect("the folder is readable").path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            fs::copy(&path, folder.join(path.file_name().expect("a file has a name"))).expect("the file is readable");
        }
    }
    // A process of its own, because trybuild reads the variable and a test must not set it for others.
    let test = env::current_exe().expect("a test has a path");
    let status = Command::new(test)
        .args(["--exact", "misuses", "--nocapture"])
        .env(UNCOMPARED, &folder)
        .env("TRYBUILD", "overwrite")
        .status()
        .expect("the test can run itself");
    assert!(status.success(), "a file of `ui/fail` compiles");
}

fn toolchain() -> String {
    let version = Command::new("rustc").arg("--version").output().expect("rustc is on the PATH of a test");
    String::from_utf8(version.stdout).expect("a version is UTF-8")
}

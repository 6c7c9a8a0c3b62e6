//! What the compiler accepts under the attribute, and what it says to a user who misuses it.
//!
//! Each file in `ui/fail` holds one misuse and is named for it; beside it is the compiler's whole answer.
//! After an intended change, `TRYBUILD=overwrite cargo test --test ui` writes the answers anew.
//! The files in `ui/pass` are part of this test, because trybuild would build every dependency once more for them.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::drop_non_drop,
    clippy::let_underscore_future,
    clippy::needless_pass_by_value,
    clippy::too_many_arguments
)] // what a user may write

use std::process::Command;

#[path = "../ui/pass/places.rs"]
mod places;
#[path = "../ui/pass/shapes.rs"]
mod shapes;

/// The compiler whose words the answers are; another one says the same a little differently.
const TOOLCHAIN: &str = "rustc 1.95.";

#[test]
fn misuses() {
    let toolchain = toolchain();
    if toolchain.starts_with(TOOLCHAIN) {
        trybuild::TestCases::new().compile_fail("ui/fail/*.rs");
    } else {
        println!("not compared: the answers are those of {TOOLCHAIN}*, and this is {toolchain}");
    }
}

fn toolchain() -> String {
    let version = Command::new("rustc").arg("--version").output().expect("rustc runs, or this test would not be here");
    String::from_utf8(version.stdout).expect("a version is text")
}

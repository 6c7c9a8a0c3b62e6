//! The compiler's report about a payload format whose feature is off.
//!
//! The test is in this package, because the features are on in the package of the other tests.

#![allow(clippy::unwrap_used, reason = "tests may panic")]

use std::process::Command;

/// The compiler whose output is kept, as in `tests/tests/ui.rs`.
const TOOLCHAIN: &str = "rustc 1.95.";

#[test]
fn format_without_its_feature_names_the_feature() {
    let output = Command::new("rustc").arg("--version").output().unwrap();
    let toolchain = String::from_utf8(output.stdout).unwrap();
    if toolchain.starts_with(TOOLCHAIN) {
        trybuild::TestCases::new().compile_fail("ui/*.rs");
    } else {
        // A run that compares no output must not count as a pass.
        assert!(std::env::var_os("CI").is_none(), "the output is kept for {TOOLCHAIN}*, and this is {toolchain}");
        eprintln!("not run: the output is kept for {TOOLCHAIN}*, and this is {toolchain}");
    }
}

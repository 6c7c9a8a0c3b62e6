//! The target folder: where the harness may write.

use std::path::{Path, PathBuf};

/// `$CARGO_TARGET_DIR`, or `target` in the workspace.
pub(crate) fn folder() -> PathBuf {
    let workspace =
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests crate is a folder of the workspace");
    // `join` keeps an absolute path as it is, and Cargo reads a relative one from the workspace.
    workspace.join(std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into()))
}

/// A fresh folder under `tmp` in the target folder, removed when dropped.
pub(crate) fn temporary(prefix: &str) -> tempfile::TempDir {
    let parent = folder().join("tmp");
    std::fs::create_dir_all(&parent).unwrap_or_else(|error| panic!("cannot create {}: {error}", parent.display()));
    tempfile::Builder::new()
        .prefix(prefix)
        .tempdir_in(&parent)
        .unwrap_or_else(|error| panic!("cannot create a folder in {}: {error}", parent.display()))
}

//! The target folder of Cargo.

use std::path::{Path, PathBuf};

/// Returns `$CARGO_TARGET_DIR`, or `target` in the workspace.
pub(crate) fn folder() -> PathBuf {
    let workspace =
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests crate is a folder of the workspace");
    // `join` keeps an absolute path, and a relative one starts at the workspace, as for Cargo.
    workspace.join(std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into()))
}

/// Returns the folder `tmp` in the target folder.
pub(crate) fn temporary_folder() -> PathBuf {
    let parent = folder().join("tmp");
    std::fs::create_dir_all(&parent).unwrap_or_else(|error| panic!("cannot create {}: {error}", parent.display()));
    parent
}

/// Creates a folder under `tmp` in the target folder, which is removed when dropped.
pub(crate) fn temporary(prefix: &str) -> tempfile::TempDir {
    let parent = temporary_folder();
    tempfile::Builder::new()
        .prefix(prefix)
        .tempdir_in(&parent)
        .unwrap_or_else(|error| panic!("cannot create a folder in {}: {error}", parent.display()))
}

//! Files that a setting names, and values that are no paths although a path is expected.

use std::path::PathBuf;

use crate::error::{Error, ErrorKind};

/// The longest value that is taken for a path, in bytes.
const MAX_PATH: usize = 255;

/// The start of a PEM block, and of a credentials file.
const BEGIN: &str = "-----BEGIN";

/// A file that a setting names.
pub(super) struct File<'a> {
    /// The setting and the kind of the file, such as `NATS_CREDS: the credentials`.
    pub(super) what: &'a str,
    /// The value of the setting, which may be a secret by mistake.
    pub(super) path: &'a str,
}

impl File<'_> {
    /// Returns the expanded path of a file that can be read; otherwise an error with the path, which async-nats omits.
    pub(super) fn readable(&self) -> Result<PathBuf, Error> {
        let expanded = PathBuf::from(expanded(self.path));
        match std::fs::File::open(&expanded) {
            Ok(_) => Ok(expanded),
            Err(error) => Err(self.unreadable().with_source(error)),
        }
    }

    /// Returns the content of the file.
    pub(super) fn text(&self) -> Result<String, Error> {
        std::fs::read_to_string(expanded(self.path)).map_err(|error| self.unreadable().with_source(error))
    }

    /// Returns the error of a file that cannot be read; it shows the value only if that is a path.
    pub(super) fn unreadable(&self) -> Error {
        let text = match self.not_a_path() {
            None => format!("cannot read the {} file `{}`", self.what, self.path),
            Some(found) => format!(
                "cannot read the {} file: the value is {found} instead of a path; write it to a file, and set the path of that",
                self.what
            ),
        };
        Error::new(ErrorKind::Config, text)
    }

    /// Returns a file for an error text.
    pub(super) fn shown(&self) -> String {
        self.not_a_path().map_or_else(|| format!("`{}`", self.path), |found| format!("the value, {found},"))
    }

    /// Describes a value that does not look like a path, without showing any of it.
    fn not_a_path(&self) -> Option<String> {
        let value = self.path;
        let length = value.chars().count();
        if value.contains(BEGIN) {
            Some(format!("a text of {length} characters with `{BEGIN}`"))
        } else if value.trim().starts_with("eyJ") {
            Some(format!("a token of {length} characters"))
        } else if value.contains(char::is_control) {
            Some(format!("a text of {length} characters with a line break or another control character"))
        } else if value.len() > MAX_PATH {
            Some(format!("a text of {length} characters"))
        } else if !value.contains(['/', '\\', '.']) {
            Some(format!("a text of {length} characters without `/` or `.`"))
        } else {
            None
        }
    }
}

/// Expands `~` to the home directory, as the `nats` CLI does.
fn expanded(path: &str) -> String {
    match (path.strip_prefix("~/"), std::env::var("HOME")) {
        (Some(rest), Ok(home)) => format!("{home}/{rest}"),
        _ => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_path_is_shown() {
        let error = |path: &str| File { what: "client key", path }.unreadable().to_string();
        for path in ["/nowhere/key.pem", "~/key.pem", "key.pem", "./key"] {
            assert_eq!(error(path), format!("cannot read the client key file `{path}`"));
        }
        let seed = format!("SU{}", "A".repeat(56));
        let long = format!("/{}", "MC4C".repeat(100));
        for (value, found) in [
            ("-----BEGIN PRIVATE KEY-----\nsecret/.\n", "37 characters with `-----BEGIN`"),
            ("eyJhbGciOiJI.secret.x", "a token"),
            ("secret/\n", "a line break"),
            (&seed, "58 characters without `/` or `.`"),
            (&long, "a text of 401 characters"),
        ] {
            let text = error(value);
            assert!(text.contains(found) && !text.contains(value.trim()) && !text.contains("secret"), "{text}");
        }
    }
}

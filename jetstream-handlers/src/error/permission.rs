//! The lines of the server's configuration that permit a subject.

use std::fmt::Write as _;

/// Returns the right to publish to a subject, as it is written in the permissions of a user on the server.
pub(crate) fn publish_line(subject: &str) -> String {
    format!("publish: {{ allow: [{}] }}", config_string(subject))
}

/// Returns the right to subscribe to a subject, as it is written in the permissions of a user on the server.
pub(crate) fn subscribe_line(subject: &str) -> String {
    format!("subscribe: {{ allow: [{}] }}", config_string(subject))
}

/// Returns a string of the server's configuration file (`conf/lex.go`), in which `$` would begin a variable outside of
/// quotes.
pub(crate) fn config_string(text: &str) -> String {
    let mut quoted = String::from("\"");
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            character if character.is_ascii_control() => {
                // Writing to a `String` does not fail.
                write!(quoted, "\\x{:02x}", u32::from(character)).ok();
            }
            character => quoted.push(character),
        }
    }
    quoted + "\""
}

//! The stream that is created for a subject that no stream covers.

use async_nats::jetstream::stream;

/// Returns the configuration of a stream that the application did not declare: limits retention and file storage.
pub(super) fn default_stream(name: &str, subject: &str) -> stream::Config {
    stream::Config { name: name.to_owned(), subjects: default_subjects(subject), ..stream::Config::default() }
}

/// Returns `ORDERS` for `orders.created`; `None` for a subject that begins with a wildcard.
///
/// Only characters that a name cannot have are replaced, so that different subjects have different names where possible.
pub(super) fn default_name(subject: &str) -> Option<String> {
    let token = subject.split('.').next().filter(|token| !matches!(*token, "*" | ">"))?;
    Some(token.chars().map(name_char).collect())
}

fn name_char(char: char) -> char {
    let mut upper = char.to_uppercase();
    match (upper.next(), upper.next()) {
        _ if matches!(char, '/' | '\\' | '*' | '>') => '_',
        // A longer name might exceed the server's limit.
        (Some(upper), None) if upper.len_utf8() <= char.len_utf8() => upper,
        _ => char,
    }
}

/// Returns `orders.>` for `orders.created`, and `orders` for `orders`.
pub(super) fn default_subjects(subject: &str) -> Vec<String> {
    let subjects = subject.split_once('.').map_or_else(|| subject.to_owned(), |(first, _)| format!("{first}.>"));
    vec![subjects]
}

//! The stream that is created for a subject that no stream covers.

use async_nats::jetstream::stream;

use crate::settings::Settings;

/// Returns the configuration of a stream that the application did not declare: limits retention and file storage.
pub(super) fn default_stream(settings: &Settings, name: &str, subject: &str) -> stream::Config {
    let subjects = default_subjects(settings, subject);
    stream::Config { name: name.to_owned(), subjects, ..stream::Config::default() }
}

/// Returns `ORDERS` for `orders.created`, and with a prefix `STAGING_ORDERS` for `staging.orders.created`; `None` for a
/// subject that begins with a wildcard.
///
/// Only characters that a name cannot have are replaced, so that different subjects have different names where possible.
pub(super) fn default_name(settings: &Settings, subject: &str) -> Option<String> {
    let token = settings.declared(subject).split('.').next().filter(|token| !matches!(*token, "*" | ">"))?;
    let name: String = token.chars().map(name_char).collect();
    Some(settings.stream(&name).into_owned())
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
pub(super) fn default_subjects(settings: &Settings, subject: &str) -> Vec<String> {
    let declared = settings.declared(subject);
    let subjects = declared.split_once('.').map_or_else(|| declared.to_owned(), |(first, _)| format!("{first}.>"));
    vec![settings.subject(&subjects).into_owned()]
}

//! Differences between a stream or a consumer on the server and what the code requires.

use std::borrow::Cow;
use std::fmt;

/// One field of a stream or a consumer that differs between the server and the code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    pub(crate) field: &'static str,
    pub(crate) found: String,
    pub(crate) wanted: String,
    pub(crate) changeable: bool,
}

impl Difference {
    /// Returns the name of the field, as the server spells it.
    pub fn field(&self) -> &str {
        self.field
    }

    /// Returns the value on the server: a text without quotes, and a list separated by commas.
    pub fn found(&self) -> &str {
        &self.found
    }

    /// Returns the value that the code requires, or the range of values that it accepts.
    pub fn wanted(&self) -> &str {
        &self.wanted
    }

    /// Returns `true` if the server accepts another value for the field of an existing stream or consumer.
    pub fn is_changeable(&self) -> bool {
        self.changeable
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is {} on the server, {} here", self.field, shortened(&self.found), shortened(&self.wanted))
    }
}

/// Returns the beginning of a value that is too long for an error text, as the subjects of a stream can be.
fn shortened(value: &str) -> Cow<'_, str> {
    const MAX_CHARS: usize = 300;
    match value.char_indices().nth(MAX_CHARS) {
        Some((end, _)) => format!("{}.. ({} characters)", &value[..end], value.chars().count()).into(),
        None => value.into(),
    }
}

/// A list of differences, displayed on one line.
pub(crate) struct Listed<'a>(pub(crate) &'a [Difference]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, difference) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{difference}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_values_are_shortened_in_the_text_only() {
        let difference =
            Difference { field: "subjects", found: "é".repeat(1000), wanted: "x".repeat(300), changeable: true };
        let (found, wanted) = ("é".repeat(300), "x".repeat(300));
        assert_eq!(
            difference.to_string(),
            format!("subjects is {found}.. (1000 characters) on the server, {wanted} here")
        );
        assert_eq!(difference.found().chars().count(), 1000);
    }
}

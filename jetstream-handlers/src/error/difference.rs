//! Differences between a stream or a consumer on the server and what the code requires.

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
        write!(f, "{} is {} on the server, {} here", self.field, self.found, self.wanted)
    }
}

/// A list of differences, displayed on one line.
pub(super) struct Listed<'a>(pub(super) &'a [Difference]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, difference) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{difference}")?;
        }
        Ok(())
    }
}

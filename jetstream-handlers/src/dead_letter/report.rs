//! The result of replaying many dead letters.

use std::fmt;

use crate::error::Error;

/// The maximum number of failures that are kept with their errors.
const MAX_FAILURES: usize = 1000;

/// The result of [`DeadLetters::replay_all`](crate::DeadLetters::replay_all), or of a
/// [`dry_run`](crate::DeadLetters::dry_run).
///
/// `Display` lists the dead letters that were not replayed, with the reason of each.
#[derive(Debug, Default)]
#[must_use = "dead letters that were not replayed are in the report only"]
#[non_exhaustive]
pub struct ReplayReport {
    /// `true` if nothing was replayed, and the numbers are those of what would be.
    pub is_dry_run: bool,
    /// The number of dead letters that were replayed.
    pub replayed: usize,
    /// The number of dead letters among the replayed ones that their stream keeps, because it denies deletes.
    pub undeleted: usize,
    /// The number of dead letters that were not replayed, and are kept.
    pub kept: usize,
    /// The sequence of each dead letter that was kept, with the error of its replay; at most the first 1000.
    pub failures: Vec<(u64, Error)>,
}

impl ReplayReport {
    pub(crate) fn keep(&mut self, sequence: u64, error: Error) {
        self.kept += 1;
        if self.failures.len() < MAX_FAILURES {
            self.failures.push((sequence, error));
        }
    }
}

impl fmt::Display for ReplayReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let would_be = if self.is_dry_run { "would be " } else { "" };
        write!(f, "{} {would_be}replayed, {} {would_be}kept", self.replayed, self.kept)?;
        if self.undeleted > 0 {
            let are = if self.is_dry_run { "would be" } else { "are" };
            write!(f, "; {} of the replayed {are} still there, because their stream denies deletes", self.undeleted)?;
        }
        for (sequence, error) in &self.failures {
            write!(f, "\n  - #{sequence}: {error}")?;
        }
        let more = self.kept.saturating_sub(self.failures.len());
        if more > 0 { write!(f, "\n  - and {more} more") } else { Ok(()) }
    }
}

//! The number of dead letters of each handler, shown before they are changed.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::broker::Broker;
use crate::cli::output::Output;
use crate::dead_letter::{DeadLetter, DeadLetters};
use crate::error::Error;
use crate::error::printable::printable;

/// The number of dead letters of each handler; a stream of dead letters is often shared by several services.
#[derive(Debug, Default, Serialize)]
#[serde(transparent)]
pub(super) struct Counts(Vec<OfHandler>);

#[derive(Debug, Serialize)]
struct OfHandler {
    handler: String,
    count: u64,
    of_this_program: bool,
}

impl Counts {
    /// Counts the selected dead letters.
    pub(super) async fn of_selected(letters: &DeadLetters, broker: &Broker) -> Result<Self, Error> {
        Ok(Self::new(letters.count_by_handler().await?, broker))
    }

    /// Counts these dead letters.
    pub(super) fn of_each(letters: &[DeadLetter], broker: &Broker) -> Self {
        let mut counts = BTreeMap::new();
        for letter in letters {
            *counts.entry(letter.handler.clone()).or_default() += 1;
        }
        Self::new(counts, broker)
    }

    fn new(counts: BTreeMap<String, u64>, broker: &Broker) -> Self {
        let own: BTreeSet<_> = broker.handler_names().into_iter().collect();
        let of_handler = |(handler, count)| OfHandler { of_this_program: own.contains(&handler), handler, count };
        Self(counts.into_iter().map(of_handler).collect())
    }

    /// Returns the number of all of them.
    pub(super) fn total(&self) -> u64 {
        self.0.iter().map(|of| of.count).sum()
    }

    /// Prints a line for each handler to the standard error.
    pub(super) fn note(&self, output: &Output) {
        for OfHandler { handler, count, of_this_program } in &self.0 {
            let other = if *of_this_program { "" } else { ", which is not a handler of this program" };
            output.note(&format!("{} of `{}`{other}", counted(*count), printable(handler)));
        }
    }
}

/// Returns a number of dead letters as text.
pub(super) fn counted(count: u64) -> String {
    format!("{count} dead letter{}", if count == 1 { "" } else { "s" })
}

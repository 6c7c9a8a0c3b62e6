//! The results of the faults, as a table.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::faults::Fault;

/// What one fault did.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effect {
    /// The longest time without a handled message.
    pub(crate) pause: Duration,
    /// The longest time for which a client written by hand got nothing from the cluster.
    pub(crate) election: Duration,
    /// The number of messages that were handled again.
    pub(crate) repetitions: usize,
}

/// The effects of all faults.
#[derive(Clone, Debug, Default)]
pub(crate) struct Table(BTreeMap<&'static str, Vec<Effect>>);

impl Table {
    pub(crate) fn add(&mut self, fault: Fault, effect: Effect) {
        self.0.entry(fault.describe()).or_default().push(effect);
    }

    pub(crate) fn extend(&mut self, other: Self) {
        for (fault, effects) in other.0 {
            self.0.entry(fault).or_default().extend(effects);
        }
    }

    pub(crate) fn print(&self) {
        println!(
            "\n| fault | times | nothing handled for (median, maximum) | cluster served no client for (median, maximum) | handled again (median, maximum) |\n|---|---|---|---|---|"
        );
        for (fault, effects) in &self.0 {
            let seconds = |pick: fn(&Effect) -> Duration| {
                let (median, maximum) = median_and_maximum(effects.iter().map(pick));
                format!("{:.1} s, {:.1} s", median.as_secs_f32(), maximum.as_secs_f32())
            };
            let (median, maximum) = median_and_maximum(effects.iter().map(|effect| effect.repetitions));
            println!(
                "| {fault} | {} | {} | {} | {median}, {maximum} |",
                effects.len(),
                seconds(|effect| effect.pause),
                seconds(|effect| effect.election)
            );
        }
    }
}

fn median_and_maximum<T: Ord + Copy + Default>(values: impl Iterator<Item = T>) -> (T, T) {
    let mut values: Vec<_> = values.collect();
    values.sort_unstable();
    let at = |index: usize| values.get(index).copied().unwrap_or_default();
    (at(values.len() / 2), values.last().copied().unwrap_or_default())
}

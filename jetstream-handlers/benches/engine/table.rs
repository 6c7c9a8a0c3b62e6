//! The printed tables: the medians of the variants, and the claims with their results.

use crate::measure::{Figure, Sample};

/// An expected result of a group.
pub(crate) struct Claim {
    figure: Figure,
    of: &'static str,
    /// The variant whose figure is the divisor, in each round.
    against: Option<&'static str>,
    target: Target,
}

#[derive(Clone, Copy)]
pub(crate) enum Target {
    AtLeast(f64),
    AtMost(f64),
}

impl Claim {
    pub(crate) fn ratio(figure: Figure, of: &'static str, against: &'static str, target: Target) -> Self {
        Self { figure, of, against: Some(against), target }
    }

    pub(crate) fn figure(figure: Figure, of: &'static str, target: Target) -> Self {
        Self { figure, of, against: None, target }
    }

    /// Returns one value for each round, or `None` if a variant was not run.
    fn values(&self, samples: &[(&str, Vec<Sample>)]) -> Option<Vec<f64>> {
        let of = figures(samples, self.of, self.figure)?;
        let Some(against) = self.against else {
            return Some(of);
        };
        let against = figures(samples, against, self.figure)?;
        Some(of.iter().zip(against).map(|(of, against)| of / against).collect())
    }
}

fn figures(samples: &[(&str, Vec<Sample>)], variant: &str, figure: Figure) -> Option<Vec<f64>> {
    let (_, samples) = samples.iter().find(|(name, _)| *name == variant)?;
    samples.iter().map(|sample| sample.get(&figure).copied()).collect()
}

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { f64::midpoint(values[middle - 1], values[middle]) }
}

pub(crate) fn print(group: &str, samples: &[(&str, Vec<Sample>)], claims: &[Claim]) {
    let columns: Vec<Figure> = samples[0].1[0].keys().copied().collect();
    print!("\n| {group} |");
    columns.iter().for_each(|figure| print!(" {} |", figure.label()));
    println!("\n|---|{}", "--:|".repeat(columns.len()));
    for (name, _) in samples {
        print!("| {name} |");
        for &figure in &columns {
            let value = figures(samples, name, figure).map_or(f64::NAN, median);
            print!(" {value:.*} |", if value >= 1000.0 { 0 } else { 2 });
        }
        println!();
    }
    let judged: Vec<_> = claims.iter().filter_map(|claim| Some((claim, claim.values(samples)?))).collect();
    if judged.is_empty() {
        return;
    }
    println!("\n| {group}: claim | of | median | from – to | target | kept |\n|---|---|--:|--:|--:|---|");
    for (claim, values) in judged {
        let least = values.iter().copied().fold(f64::INFINITY, f64::min);
        let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let median = median(values);
        let (target, kept) = match claim.target {
            Target::AtLeast(target) => (format!("≥ {target}"), median >= target),
            Target::AtMost(target) => (format!("≤ {target}"), median <= target),
        };
        let name = claim.against.map_or(claim.of.to_owned(), |against| format!("{} / {against}", claim.of));
        let kept = if kept { "yes" } else { "no" };
        println!("| {name} | {} | {median:.2} | {least:.2} – {most:.2} | {target} | {kept} |", claim.figure.label());
    }
}

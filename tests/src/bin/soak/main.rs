//! A load test on a cluster of three nodes with random faults, which checks that no message is lost.
//!
//! `cargo run --release -p jetstream-handlers-tests --bin soak -- [messages] [seed] [--seeds count]`
//!
//! It exits with 1 if something does not hold for one of the seeds, which are numbered from the first one.

mod acks;
mod election;
mod faults;
mod field;
mod forgery;
mod ledger;
mod load;
mod logs;
mod message;
mod queue;
mod rights;
mod seed;
mod streams;
mod table;
mod verdict;
mod worker;
mod workers;

use std::process::ExitCode;

use crate::table::Table;
use crate::verdict::Verdict;

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [command, ledger, seed] = &arguments[..]
        && command == "worker"
    {
        return match worker::run(ledger, seed.parse().expect("the seed is a number")).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error:?}");
                ExitCode::FAILURE
            }
        };
    }
    let Some((messages, first, count)) = parse(&arguments) else {
        eprintln!("usage: soak [messages] [seed] [--seeds count]");
        return ExitCode::FAILURE;
    };
    let (mut table, mut failed) = (Table::default(), Vec::new());
    for seed in first..first.saturating_add(count) {
        println!("\n{messages} messages, seed {seed}; to repeat: soak {messages} {seed}");
        // A seed whose harness panics has failed, and the others still run.
        let Ok((verdict, effects)) = tokio::spawn(seed::run(messages, seed)).await else {
            failed.push(seed);
            continue;
        };
        print(seed, &verdict);
        table.extend(effects);
        if !verdict.failures.is_empty() {
            failed.push(seed);
        }
    }
    table.print();
    println!("\n{} of {count} seeds failed: {failed:?}", failed.len());
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Returns the number of messages, the first seed and the number of seeds.
fn parse(arguments: &[String]) -> Option<(u64, u64, u64)> {
    let is_count = |argument: &String| argument == "--seeds";
    let (numbers, count) = match arguments.iter().position(is_count) {
        Some(index) => (&arguments[..index], arguments.get(index + 1)?.parse().ok()?),
        None => (arguments, 1),
    };
    let numbers: Vec<u64> = numbers.iter().map(|number| number.parse().ok()).collect::<Option<_>>()?;
    let seed = || rand::random_range(0..1_000_000);
    match numbers[..] {
        [] => Some((5000, seed(), count)),
        [messages] => Some((messages, seed(), count)),
        [messages, first] => Some((messages, first, count)),
        _ => None,
    }
}

fn print(seed: u64, verdict: &Verdict) {
    let Verdict { stored, handled, repetitions, letters, repeated_letters, gone, lost, failures } = verdict;
    println!(
        "seed {seed}: {stored} publishes returned Ok; {handled} handled, {repetitions} again; {letters} dead letters, {repeated_letters} of them repeated; {gone} gone with a replaced stream; {lost} lost"
    );
    failures.iter().for_each(|failure| println!("  FAILED: {failure}"));
}

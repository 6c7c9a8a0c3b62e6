//! One run: the load, the faults that its seed chooses, and the verdict.

use std::time::{Duration, Instant};

use rand::RngExt as _;
use rand::seq::SliceRandom as _;
use tokio::time::sleep;

use crate::faults::{FAULTS, Fault};
use crate::field::Field;
use crate::ledger::{Period, longest_pause};
use crate::queue::QUEUES;
use crate::table::{Effect, Table};
use crate::verdict::{Verdict, judge};
use crate::{load, logs};

/// How much longer than the cluster the workers may pause.
const TOLERANCE: Duration = Duration::from_secs(1);
/// The time after a fault in which its effects are counted.
const AFTERMATH: Duration = Duration::from_secs(4);

/// Publishes this many messages while faults happen.
pub(crate) async fn run(messages: u64, seed: u64) -> (Verdict, Table) {
    let mut field = Field::start(seed).await;
    let publishing = tokio::spawn(load::publish(field.broker.clone(), messages, field.stored.clone()));
    let (mut deck, mut table, mut failures) = (Vec::new(), Table::default(), Vec::new());
    loop {
        sleep(Duration::from_millis(field.random.random_range(500..1500))).await;
        // All faults in a random order, and then again.
        if deck.is_empty() {
            deck = FAULTS.to_vec();
            deck.shuffle(&mut field.random);
        }
        let Some(fault) = deck.pop() else { break };
        let (effect, failure) = observe(&mut field, fault).await;
        if publishing.is_finished() {
            // Without load there is nothing to measure.
            break;
        }
        table.add(fault, effect);
        failures.extend(failure);
    }
    publishing.await.expect("the publisher does not panic");
    let mut verdict = judge(&mut field).await;
    verdict.failures.extend(failures);
    field.workers.stop().await;
    if !verdict.failures.is_empty() {
        logs::keep(&mut field, seed);
    }
    (verdict, table)
}

/// Injects a fault, and returns its effect, and a failure if the pause was too long.
async fn observe(field: &mut Field, fault: Fault) -> (Effect, Option<String>) {
    println!("{}", fault.describe());
    let (begin, before) = (Instant::now(), field.ledger.repetitions());
    let excuse = fault.inject(field).await;
    sleep(AFTERMATH).await;
    let within = Period::since(begin);
    let (election, who) = field.observers.longest_pause(within);
    let general: Vec<_> = excuse.iter().filter(|excuse| excuse.queue.is_none()).map(|excuse| excuse.period).collect();
    let pause = longest_pause(&field.ledger.times(None), within, &general);
    let repetitions = field.ledger.repetitions() - before;
    let queues = QUEUES.map(|queue| {
        let excused: Vec<_> = excuse
            .iter()
            .filter(|excuse| excuse.queue.is_none_or(|other| other == queue))
            .map(|excuse| excuse.period)
            .collect();
        let pause = longest_pause(&field.ledger.times(Some(queue)), within, &excused);
        format!("{} {pause:.1?}", queue.name())
    });
    println!(
        "  nothing handled for {pause:.1?} ({}), cluster {election:.1?} ({who}), {repetitions} handled again",
        queues.join(", ")
    );
    let failure = (pause > election + TOLERANCE)
        .then(|| format!("{}: nothing handled for {pause:.1?}, the cluster paused {election:.1?}", fault.describe()));
    (Effect { pause, election, repetitions }, failure)
}

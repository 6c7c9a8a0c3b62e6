//! One run: the load, the faults that its seed chooses, and the verdict.

use std::time::{Duration, Instant};

use rand::RngExt as _;
use rand::seq::SliceRandom as _;
use tokio::time::sleep;

use crate::faults::{Excuse, FAULTS, Fault};
use crate::field::Field;
use crate::ledger::{Period, longest_pause};
use crate::queue::{QUEUES, Queue};
use crate::table::{Effect, Table};
use crate::verdict::{Verdict, judge};
use crate::{forgery, load, logs};

/// How much longer than the cluster the workers may pause.
const TOLERANCE: Duration = Duration::from_secs(1);
/// How much longer one queue may pause than the server keeps what a lost worker held.
const QUEUE_TOLERANCE: Duration = Duration::from_secs(2);
/// The time after a fault in which its effects are counted.
const AFTERMATH: Duration = Duration::from_secs(4);
const LONGEST_AFTERMATH: Duration = Duration::from_secs(30);

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
        let (effect, failure) = observe(&mut field, fault, || publishing.is_finished()).await;
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
async fn observe(field: &mut Field, fault: Fault, is_over: impl Fn() -> bool) -> (Effect, Option<String>) {
    println!("{}", fault.describe());
    if field.random.random_ratio(1, 4) {
        println!("  after two unreadable messages");
        forgery::unreadable(field).await;
    }
    let (begin, before) = (Instant::now(), field.ledger.repetitions());
    let excuse = fault.inject(field).await;
    sleep(AFTERMATH).await;
    wait_for_every_queue(field, is_over).await;
    let within = Period::since(begin);
    let (election, who) = field.observers.longest_pause(within);
    let pause = pause_of(field, None, within, excuse);
    let repetitions = field.ledger.repetitions() - before;
    let mut text = Vec::new();
    let limit = election + fault.retry_delay();
    let mut failure = (pause > limit + TOLERANCE).then(|| format!("nothing handled for {pause:.1?}"));
    for queue in QUEUES {
        let pause = pause_of(field, Some(queue), within, excuse);
        text.push(format!("{} {pause:.1?}", queue.name()));
        if pause > limit + queue.held_for() + QUEUE_TOLERANCE {
            failure = failure.or_else(|| Some(format!("{}: nothing handled for {pause:.1?}", queue.name())));
        }
    }
    println!(
        "  nothing handled for {pause:.1?} ({}), cluster {election:.1?} ({who}), {repetitions} handled again",
        text.join(", ")
    );
    let failure = failure.map(|text| format!("{}: {text}, the cluster paused {election:.1?}", fault.describe()));
    (Effect { pause, election, repetitions }, failure)
}

/// Returns the longest pause of a queue, or of all at the same time, without that which the fault excuses.
fn pause_of(field: &Field, queue: Option<Queue>, within: Period, excuse: Option<Excuse>) -> Duration {
    let excuse = excuse.filter(|excuse| excuse.queue.is_none() || excuse.queue == queue);
    let excused: Vec<_> = excuse.iter().map(|excuse| excuse.period).collect();
    longest_pause(&field.ledger.times(queue), within, &excused)
}

/// Waits until every queue has handled something, so that its pause belongs to this fault and not to the next one.
async fn wait_for_every_queue(field: &Field, is_over: impl Fn() -> bool) {
    let begin = Instant::now();
    let has_handled = |queue| field.ledger.times(Some(queue)).last().is_some_and(|last| *last > begin);
    while begin.elapsed() < LONGEST_AFTERMATH && !is_over() && !QUEUES.into_iter().all(has_handled) {
        sleep(Duration::from_millis(50)).await;
    }
}

//! A load test on a cluster of three nodes with random faults, which checks that no message is lost.
//!
//! `cargo run --release -p jetstream-handlers-tests --bin soak -- [messages] [seed]`

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jetstream_handlers::prelude::*;
use jetstream_handlers::{Error, Subscription, stream};
use jetstream_handlers_tests::{Cluster, eventually};
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};

/// The number of messages per second; with 10,000 of them every fault happens during the load.
const RATE: u64 = 60;

/// The timeout for the end of all messages after the last fault.
const SETTLING: Duration = Duration::from_secs(180);

const FAULTS: [&str; 8] = [
    "node killed, back after 2 s",
    "node frozen for 20 s",
    "node in lame duck mode, restarted",
    "stream leader killed, back after 2 s",
    "consumer leader steps down",
    "stream leader steps down",
    "consumer deleted",
    "worker stopped, another started",
];

/// The handled messages.
#[derive(Debug, Default)]
struct Ledger {
    handled: BTreeMap<u64, usize>,
    last: Option<Instant>,
    /// The longest time without a handled message since the last reset.
    gap: Duration,
}

impl Ledger {
    fn handled(&mut self, id: u64) {
        *self.handled.entry(id).or_default() += 1;
        self.pause();
        self.last = Some(Instant::now());
    }

    fn pause(&mut self) {
        if let Some(last) = self.last {
            self.gap = self.gap.max(last.elapsed());
        }
    }

    fn duplicates(&self) -> usize {
        self.handled.values().map(|count| count - 1).sum()
    }
}

type Shared = Arc<Mutex<Ledger>>;

fn with<T>(ledger: &Shared, use_it: impl FnOnce(&mut Ledger) -> T) -> T {
    use_it(&mut ledger.lock().unwrap_or_else(PoisonError::into_inner))
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    jetstream_handlers_tests::trace();
    let mut arguments =
        std::env::args().skip(1).map(|argument| argument.parse::<u64>().expect("arguments are numbers"));
    let messages = arguments.next().unwrap_or(10_000);
    let seed = arguments.next().unwrap_or_else(rand::random);
    println!("{messages} messages, seed {seed}; to repeat: soak {messages} {seed}");
    // The handlers panic often, on purpose.
    std::panic::set_hook(Box::new(|panic| {
        if !panic.to_string().contains("on purpose") {
            eprintln!("{panic}");
        }
    }));

    let mut cluster = Cluster::start().await;
    let broker = connect(&cluster).await?;
    let ledger = Shared::default();
    let mut workers = vec![start_worker(&cluster, &ledger).await?, start_worker(&cluster, &ledger).await?];
    let stored = Arc::new(Mutex::new(BTreeSet::new()));
    let publishing = tokio::spawn(publish(broker.clone(), messages, stored.clone()));

    let mut random = StdRng::seed_from_u64(seed);
    let mut deck = Vec::new();
    let mut table: BTreeMap<&str, Vec<(Duration, usize)>> = BTreeMap::new();
    while !publishing.is_finished() {
        tokio::time::sleep(Duration::from_millis(random.random_range(1000..3000))).await;
        // All faults in a random order, and then again.
        if deck.is_empty() {
            deck = FAULTS.to_vec();
            deck.shuffle(&mut random);
        }
        let Some(fault) = deck.pop() else { break };
        let node = random.random_range(0..3);
        let before = with(&ledger, |ledger| {
            ledger.gap = Duration::ZERO;
            ledger.duplicates()
        });
        inject(&mut cluster, fault, node, &mut workers, &ledger).await?;
        // Long enough for the elections and the `ack_wait` after the fault.
        tokio::time::sleep(Duration::from_secs(10)).await;
        if publishing.is_finished() {
            // Without load there is nothing to measure.
            break;
        }
        let (gap, duplicates) = with(&ledger, |ledger| {
            ledger.pause();
            (ledger.gap, ledger.duplicates() - before)
        });
        println!("{fault}: nothing handled for at most {gap:.1?}, {duplicates} handled again");
        table.entry(fault).or_default().push((gap, duplicates));
    }
    publishing.await.expect("the publisher does not panic");

    let stored = stored.lock().unwrap_or_else(PoisonError::into_inner).clone();
    println!("{} of {messages} publishes returned Ok", stored.len());
    let letters = broker.dead_letters();
    let (missing, dead) = eventually("every stored message to be handled or a dead letter", SETTLING, async || {
        let handled: BTreeSet<_> = with(&ledger, |ledger| ledger.handled.keys().copied().collect());
        let mut dead = BTreeSet::new();
        let mut after = 0;
        while let Ok(page) = letters.clone().after(after).list(1000).await
            && let Some(last) = page.last()
        {
            after = last.sequence;
            dead.extend(page.iter().filter_map(|letter| serde_json::from_slice::<u64>(&letter.payload).ok()));
        }
        let missing: Vec<_> = stored.iter().filter(|id| !handled.contains(id) && !dead.contains(id)).collect();
        missing.is_empty().then_some((missing.len(), dead.len()))
    })
    .await;
    println!(
        "\n| fault | times | nothing handled for (median, most) | handled again (median, most) |\n|---|---|---|---|"
    );
    for (fault, mut results) in table {
        results.sort_unstable();
        let gaps: Vec<_> = results.iter().map(|(gap, _)| *gap).collect();
        let mut again: Vec<_> = results.iter().map(|(_, duplicates)| *duplicates).collect();
        again.sort_unstable();
        let middle = results.len() / 2;
        let (longest, most) = (gaps[gaps.len() - 1], again[again.len() - 1]);
        println!("| {fault} | {} | {:.1?}, {longest:.1?} | {}, {most} |", results.len(), gaps[middle], again[middle]);
    }
    println!(
        "\nhandled again in all: {}; dead letters: {dead}; lost: {missing}",
        with(&ledger, |ledger| ledger.duplicates())
    );
    for worker in workers {
        worker.unsubscribe().await?;
    }
    broker.disconnect().await
}

async fn connect(cluster: &Cluster) -> Result<Broker, Error> {
    let replicated = |name: &str, subjects: &str| stream::Config {
        name: name.into(),
        subjects: vec![subjects.into()],
        num_replicas: 3,
        ..Default::default()
    };
    Broker::builder()
        .servers(cluster.urls())
        .stream(replicated("WORK", "work.>"))
        .stream(replicated("DLQ", "dlq.>"))
        .fetch_wait(Duration::from_secs(2))
        .publish_timeout(Duration::from_secs(60))
        .wait_for_server(Duration::from_secs(30))
        .connect()
        .await
}

/// Starts a worker with a connection of its own, as in another process.
///
/// Its handler sometimes fails, panics, or exceeds its timeout.
async fn start_worker(cluster: &Cluster, ledger: &Shared) -> Result<Subscription, Error> {
    let broker = connect(cluster).await?;
    let ledger = ledger.clone();
    let handler = move |id: u64, info: jetstream_handlers::Info| {
        let ledger = ledger.clone();
        async move {
            match id.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56 {
                0 => return Err(HandlerError::retry("fails always")),
                1..=5 if info.delivered() == 1 => return Err(HandlerError::retry("fails once")),
                6 if info.delivered() == 1 => panic!("on purpose"),
                7 if info.delivered() == 1 => std::future::pending().await,
                _ => {}
            }
            with(&ledger, |ledger| ledger.handled(id));
            Ok(())
        }
    };
    broker
        .subscribe("work.>", "worker", handler)
        .concurrency(8)
        .batch_size(50)
        .ack_wait(Duration::from_secs(3))
        .timeout(Duration::from_millis(500))
        .backoff(&[Duration::from_millis(50), Duration::from_millis(200)])
        .await
}

/// Publishes at a constant rate, and records which messages the server confirmed.
async fn publish(broker: Broker, messages: u64, stored: Arc<Mutex<BTreeSet<u64>>>) {
    let mut tick = tokio::time::interval(Duration::from_micros(1_000_000 / RATE));
    let mut publishes = tokio::task::JoinSet::new();
    for id in 0..messages {
        tick.tick().await;
        let (broker, stored) = (broker.clone(), stored.clone());
        publishes.spawn(async move {
            match broker.publish("work.done", &id).await {
                Ok(_) => drop(stored.lock().unwrap_or_else(PoisonError::into_inner).insert(id)),
                Err(error) => println!("message {id} was not published: {error:?}"),
            }
        });
        while publishes.try_join_next().is_some() {}
    }
    while publishes.join_next().await.is_some() {}
}

async fn inject(
    cluster: &mut Cluster,
    fault: &str,
    node: usize,
    workers: &mut Vec<Subscription>,
    ledger: &Shared,
) -> Result<(), Error> {
    match fault {
        "node killed, back after 2 s" => {
            cluster.node(node).kill();
            tokio::time::sleep(Duration::from_secs(2)).await;
            cluster.node(node).restart().await;
        }
        "node frozen for 20 s" => {
            cluster.node(node).freeze();
            tokio::time::sleep(Duration::from_secs(20)).await;
            cluster.node(node).thaw();
        }
        "node in lame duck mode, restarted" => {
            cluster.node(node).lame_duck();
            tokio::time::sleep(Duration::from_secs(4)).await;
            cluster.node(node).restart().await;
        }
        "stream leader killed, back after 2 s" => {
            let leader = cluster.leader_of_stream("WORK").await;
            cluster.node(leader).kill();
            tokio::time::sleep(Duration::from_secs(2)).await;
            cluster.node(leader).restart().await;
        }
        "consumer leader steps down" => request(cluster, "$JS.API.CONSUMER.LEADER.STEPDOWN.WORK.worker").await,
        "stream leader steps down" => request(cluster, "$JS.API.STREAM.LEADER.STEPDOWN.WORK").await,
        "consumer deleted" => request(cluster, "$JS.API.CONSUMER.DELETE.WORK.worker").await,
        _ => {
            let old = workers.remove(0);
            let (stopped, started) = tokio::join!(old.unsubscribe(), start_worker(cluster, ledger));
            stopped?;
            workers.push(started?);
        }
    }
    Ok(())
}

async fn request(cluster: &mut Cluster, subject: &'static str) {
    let client = cluster.client().await;
    // A cluster without a leader does not reply, and then this fault is skipped.
    if let Err(error) = client.request(subject, "".into()).await {
        println!("{subject}: {error}");
    }
}

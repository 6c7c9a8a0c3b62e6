//! The order of the messages of every key over several processes that share partitions, through kills, stops, freezes,
//! changes of the leaders, and a change of the number of partitions.
//!
//! `PARTITIONS_ROUNDS=20 PARTITIONS_MESSAGES=100000` runs 20 seeds with as many messages each; a seed that failed is
//! repeated with `PARTITIONS_SEED`.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use jetstream_handlers::prelude::*;
use jetstream_handlers::{Health, Subscription, partition, stream};
use jetstream_handlers_tests::{
    Cluster, Program, Recorder, SOON, Server, connect, eventually, ms, stream_config, until_health,
};
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use serde::{Deserialize, Serialize};
use tokio::time::sleep;

/// The number of processes.
const WORKERS: usize = 4;

const KEYS: u64 = 1000;

/// The time within which the shares of the processes are even after their number has changed, with 8 or 12 partitions.
const EVEN: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Work {
    customer: u64,
    id: u64,
}

/// A success, with its time in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Handled {
    at: u64,
    customer: u64,
    id: u64,
    sequence: u64,
}

fn variable(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().unwrap())
}

/// Publishes the messages with these ids, in so many partitions, or for copies with the key in the subject.
async fn publish(broker: &Broker, ids: std::ops::Range<u64>, partitions: Option<u32>) {
    let works = ids.map(|id| Work { customer: id % KEYS, id });
    let messages = works.map(|work| {
        let number = partitions.map(|partitions| partition(work.customer.to_string(), partitions).into());
        let subject = format!("work.{}.keyed", number.unwrap_or(work.customer));
        broker.publish_message(&subject, &work).message_id(&work.id.to_string())
    });
    let mut results = broker.publisher().publish_all(messages);
    while let Some(result) = results.next().await {
        result.unwrap();
    }
}

/// The unit that the service handles in order, and the side that computes the number of the partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Each key; the publisher computes the number.
    Keyed,
    /// Each partition; the publisher computes the number.
    Ordered,
    /// Each key; the server computes the number, and copies the messages.
    Derived,
}

impl Kind {
    /// Returns the number of partitions that the publisher knows.
    fn published(self, partitions: u32) -> Option<u32> {
        (self != Self::Derived).then_some(partitions)
    }

    /// Returns the stream of the consumers.
    fn stream(self) -> &'static str {
        if self == Self::Derived { "WORK-keyed" } else { "WORK" }
    }
}

/// The processes of a service.
struct Workers {
    urls: String,
    kind: Kind,
    partitions: &'static str,
    running: Vec<Program>,
    ended: Vec<Program>,
}

impl Workers {
    async fn start(urls: Vec<String>, count: usize, kind: Kind) -> Self {
        let mut workers = Self { urls: urls.join(","), kind, partitions: "8", running: Vec::new(), ended: Vec::new() };
        for _ in 0..count {
            workers.add().await;
        }
        workers
    }

    fn program(&self, argument: &str) -> Program {
        let mut variables = vec![("NATS_URL", &*self.urls), ("NATS_USER", "app"), ("NATS_PASSWORD", "app")];
        let trace = std::env::var("JSH_TRACE").unwrap_or_default();
        if !trace.is_empty() {
            variables.push(("JSH_TRACE", &trace));
        }
        if !self.urls.contains(',') {
            variables.retain(|(name, _)| !["NATS_USER", "NATS_PASSWORD"].contains(name));
        }
        let arguments = match self.kind {
            Kind::Keyed => vec![argument],
            Kind::Ordered => vec!["ordered", argument],
            Kind::Derived => vec!["derived", argument],
        };
        Program::start(env!("CARGO_BIN_EXE_partitioned_worker"), &arguments, &variables)
    }

    async fn add(&mut self) {
        let mut program = self.program(self.partitions);
        program.until("started").await;
        self.running.push(program);
    }

    /// Ends one process with this signal.
    async fn end(&mut self, index: usize, signal: &str) {
        let mut program = self.running.remove(index);
        program.signal(signal);
        program.ended().await;
        self.ended.push(program);
    }

    /// Changes the number of partitions to 12, and replaces all processes.
    async fn change_number(&mut self) {
        let mut applying = self.program("apply");
        // It waits until the backlog is handled.
        applying.until_within("applied", secs(300)).await;
        self.partitions = "12";
        for _ in 0..self.running.len() {
            self.end(0, "TERM").await;
            self.add().await;
        }
    }

    /// Returns what was handled, in the order of time.
    fn handled(&self) -> Vec<Handled> {
        let of = |line: String| {
            let numbers: Vec<u64> = line.split(' ').map(|number| number.parse().unwrap()).collect();
            Handled { at: numbers[0], customer: numbers[1], id: numbers[2], sequence: numbers[3] }
        };
        let mut handled: Vec<_> =
            self.running.iter().chain(&self.ended).flat_map(|program| program.lines("handled ")).map(of).collect();
        handled.sort_unstable();
        handled
    }

    /// Waits until so many different messages were handled, as long as others are handled.
    async fn until_handled(&self, count: u64) {
        let (mut before, mut since) = (0, Instant::now());
        loop {
            let ids: BTreeSet<u64> = self.handled().iter().map(|handled| handled.id).collect();
            let distinct = ids.len() as u64;
            if distinct >= count {
                return;
            }
            if distinct > before {
                (before, since) = (distinct, Instant::now());
            }
            if since.elapsed() > SOON {
                let missing: Vec<_> = (0..count).filter(|id| !ids.contains(id)).take(20).collect();
                let outputs: Vec<_> = self.running.iter().map(Program::output).collect();
                let logs: Vec<String> = outputs.iter().map(|it| tail(it)).collect();
                panic!("{distinct} of {count}, no other one for {SOON:?}; the first others are {missing:?}\n{logs:#?}");
            }
            sleep(ms(50)).await;
        }
    }

    /// Returns the partitions that each process receives.
    fn active(&self) -> Vec<Vec<u32>> {
        let last = |program: &Program| {
            let line = program.lines("active").pop().unwrap_or_default();
            line.split_whitespace().map(|number| number.parse().unwrap()).collect()
        };
        self.running.iter().map(last).collect()
    }

    /// Waits until each partition is received by one process, and each process has about as many.
    async fn until_even(&self) {
        let count: u32 = self.partitions.parse().unwrap();
        let started = Instant::now();
        loop {
            let active = self.active();
            let mut all = active.concat();
            all.sort_unstable();
            let sizes: Vec<_> = active.iter().map(Vec::len).collect();
            let is_even = sizes.iter().max().unwrap() - sizes.iter().min().unwrap() <= 1;
            if is_even && all == (0..count).collect::<Vec<_>>() {
                return println!("even after {:.1?}", started.elapsed());
            }
            if started.elapsed() > EVEN {
                let logs: Vec<String> = self.running.iter().map(|program| tail(&program.output())).collect();
                panic!("the shares are {active:?}\n{}", logs.join("\n\n"));
            }
            sleep(ms(20)).await;
        }
    }
}

fn tail(output: &str) -> String {
    let is_noise = |line: &str| line.starts_with("handled") || line.contains("async_nats") || line.contains("outcome");
    let lines: Vec<_> = output.lines().filter(|line| !is_noise(line)).collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}

/// Checks that the first successes of each key are in the order of the stream, and that none is missing.
fn check_order(handled: &[Handled], count: u64) {
    let mut by_key = BTreeMap::<u64, Vec<&Handled>>::new();
    let mut known = BTreeSet::new();
    for handled in handled {
        if known.insert(handled.id) {
            by_key.entry(handled.customer).or_default().push(handled);
        }
    }
    assert_eq!(known.len() as u64, count, "none is lost");
    for (key, handled) in by_key {
        assert!(handled.is_sorted_by_key(|it| it.sequence), "key {key}: {handled:#?}");
    }
}

/// Checks that the first successes of each partition are in the order of the stream; their number changes on the way, and
/// each of 24 classes of keys is in one partition before and after.
fn check_partitions(handled: &[Handled], count: u64) {
    let mut by_class = BTreeMap::<u32, Vec<&Handled>>::new();
    let mut known = BTreeSet::new();
    for handled in handled.iter().filter(|handled| known.insert(handled.id)) {
        by_class.entry(partition(handled.customer.to_string(), 24)).or_default().push(handled);
    }
    assert_eq!(known.len() as u64, count);
    for (class, handled) in by_class {
        assert!(handled.is_sorted_by_key(|it| it.sequence), "class {class}");
    }
}

#[tokio::test]
async fn partitions_are_shared_evenly_while_processes_come_and_go() {
    come_and_go(Kind::Keyed).await;
}

#[tokio::test]
async fn ordered_partitions_are_shared_evenly_while_processes_come_and_go() {
    come_and_go(Kind::Ordered).await;
}

#[tokio::test]
async fn derived_partitions_are_shared_evenly_while_processes_come_and_go() {
    come_and_go(Kind::Derived).await;
}

async fn come_and_go(kind: Kind) {
    let server = Server::start().await;
    let broker = connect(&server).await;
    server.jetstream().await.create_stream(stream_config("WORK", &["work.>"])).await.unwrap();
    let mut workers = Workers::start(vec![server.url()], 1, kind).await;
    // An instance is active only where messages arrive.
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let publishing = tokio::spawn(async move {
        let mut published = 0;
        while stopped.is_empty() {
            publish(&broker, published..published + 100, kind.published(8)).await;
            published += 100;
            sleep(ms(50)).await;
        }
        published
    });
    workers.until_even().await;
    for _ in 1..5 {
        workers.add().await;
    }
    workers.until_even().await;
    for _ in 2..5 {
        workers.end(0, "TERM").await;
    }
    workers.until_even().await;
    let killed = Instant::now();
    workers.end(0, "KILL").await;
    workers.until_even().await;
    assert!(killed.elapsed() < secs(8), "{:?}", killed.elapsed());
    stop.send(()).unwrap();
    let published = publishing.await.unwrap();
    workers.until_handled(published).await;
    let handled = workers.handled();
    let again = handled.len() as u64 - published;
    println!("{again} of {published} handled again");
    check_order(&handled, published);
    assert!(again <= 8 * 128, "only what was in flight is handled again: {again}");
}

/// Lets a leader step down, which a busy cluster does not answer at once.
async fn step_down(cluster: &mut Cluster, request: &str) {
    let client = cluster.client().await;
    let subject = format!("$JS.API.{request}");
    eventually("the leader steps down", SOON, async || client.request(subject.clone(), "".into()).await.ok()).await;
}

/// Starts a closure with 4 partitions.
async fn subscribe(broker: &Broker, handled: &Recorder<Work>) -> Subscription {
    let subscribe = broker.subscribe("work.{partition}.keyed", "keyed", handled.handler());
    subscribe.key("customer").partitions(4).await.unwrap()
}

#[tokio::test]
async fn forged_claims_stop_no_partition() {
    let server = Server::start().await;
    let (first, second) = (connect(&server).await, connect(&server).await);
    let handled = Recorder::<Work>::default();
    let _subscriptions = (subscribe(&first, &handled).await, subscribe(&second, &handled).await);
    let client = server.client().await;
    let forging = async {
        for round in 0.. {
            // One that claims everything, and others that are only there once.
            let claims = r#"{"id":"0","partitions":4,"claims":[0,1,2,3]}"#.to_owned();
            let other = format!(r#"{{"id":"{round}","partitions":4,"claims":[]}}"#);
            for forged in [claims, other, "nonsense".to_owned()] {
                client.publish("jetstream-handlers.partitions.WORK.keyed", forged.into()).await.unwrap();
            }
            sleep(ms(20)).await;
        }
    };
    let working = async {
        sleep(secs(1)).await;
        publish(&first, 0..1000, Some(4)).await;
        handled.until_distinct(1000).await;
    };
    tokio::select! {
        () = forging => {}
        () = working => {}
    }
}

#[tokio::test]
async fn instances_are_healthy_again_after_the_server_was_down() {
    let mut server = Server::start().await;
    let (first, second) = (connect(&server).await, connect(&server).await);
    let handled = Recorder::<Work>::default();
    let _subscriptions = (subscribe(&first, &handled).await, subscribe(&second, &handled).await);
    publish(&first, 0..100, Some(4)).await;
    handled.until_distinct(100).await;
    server.kill();
    // Long enough that each instance has tried to read the consumers of the partitions that it does not have.
    sleep(secs(6)).await;
    server.restart().await;
    for broker in [&first, &second] {
        until_health(broker, "healthy", Health::is_healthy).await;
    }
    publish(&first, 100..200, Some(4)).await;
    handled.until_distinct(200).await;
}

#[tokio::test]
async fn message_that_the_server_cannot_copy_is_reported() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    let handled = Recorder::<Work>::default();
    let subscribe = broker.subscribe("work.{customer}.keyed", "keyed", handled.handler());
    let _subscription = subscribe.key("{customer}").partitions(4).await.unwrap();
    publish(&broker, 0..10, None).await;
    handled.until_distinct(10).await;
    // The server adds a header, with which the block is too long.
    let client = server.client().await;
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("Large", "x".repeat(65_480));
    let large = client.publish_with_headers("work.1.keyed", headers, "{}".into());
    large.await.unwrap();
    client.flush().await.unwrap();
    publish(&broker, 10..20, None).await;
    let stuck = |health: &Health| {
        health
            .handlers
            .iter()
            .any(|it| format!("{:?}", it.status).contains("does not copy message 11 of stream `WORK`"))
    };
    eventually("the copying is reported", secs(90), async || stuck(&broker.health()).then_some(())).await;
    assert_eq!(handled.items().len(), 10);
    server.jetstream().await.get_stream("WORK").await.unwrap().delete_message(11).await.unwrap();
    handled.until_distinct(20).await;
    eventually("the end is reported", secs(60), async || (!stuck(&broker.health())).then_some(())).await;
}

#[tokio::test]
async fn copying_continues_after_the_server_was_started_again() {
    let mut server = Server::start().await;
    let broker = connect(&server).await;
    let handled = Recorder::<Work>::default();
    let subscribe = broker.subscribe("work.{customer}.keyed", "keyed", handled.handler());
    let _subscription = subscribe.key("{customer}").partitions(4).await.unwrap();
    publish(&broker, 0..1000, None).await;
    handled.until_distinct(1000).await;
    let stream = server.jetstream().await.get_stream("WORK-keyed").await.unwrap();
    eventually("no copy is left", SOON, async || (stream.get_info().await.ok()?.state.messages == 0).then_some(()))
        .await;
    // The position is not in any message any more.
    server.terminate().await;
    server.restart().await;
    until_health(&broker, "healthy", Health::is_healthy).await;
    publish(&broker, 1000..2000, None).await;
    handled.until_distinct(2000).await;
    assert_eq!(handled.items().len(), 2000, "nothing is copied again");
}

#[tokio::test]
async fn denied_announcements_keep_the_order() {
    const RIGHTS: &str = r#"
        authorization { users: [
            { user: admin, password: admin }
            { user: worker, password: worker, permissions: {
                publish: { deny: "jetstream-handlers.>" }, subscribe: { deny: "jetstream-handlers.>" }
            } }
        ] }"#;
    let server = Server::builder().config(RIGHTS).start().await;
    let url = server.url().replacen("nats://", "nats://worker:worker@", 1);
    let (first, second) = (connect(&url).await, connect(&url).await);
    let handled = Recorder::<Work>::default();
    let _first = subscribe(&first, &handled).await;
    let _second = subscribe(&second, &handled).await;
    publish(&first, 0..5000, Some(4)).await;
    handled.until_distinct(5000).await;
    let mut last = BTreeMap::new();
    for work in handled.items() {
        assert!(last.insert(work.customer, work.id).is_none_or(|before| before < work.id), "{work:?}");
    }
}

/// A fault in the middle of the work.
#[derive(Debug, Clone, Copy)]
enum Fault {
    Kill,
    Stop,
    Freeze,
    ConsumerLeader,
    StreamLeader,
    More,
    ChangeNumber,
}

async fn run(seed: u64, messages: u64, kind: Kind) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut faults = vec![
        Fault::Kill,
        Fault::Stop,
        Fault::Freeze,
        Fault::ConsumerLeader,
        Fault::StreamLeader,
        Fault::More,
        Fault::ChangeNumber,
    ];
    faults.shuffle(&mut random);
    println!("seed {seed}: {faults:?}");
    let mut cluster = Cluster::start().await;
    let config = stream::Config { num_replicas: 3, ..stream_config("WORK", &["work.>"]) };
    let letters = stream::Config { num_replicas: 3, ..stream_config("DLQ", &["dlq.>"]) };
    let broker =
        Broker::builder().servers(cluster.urls()).stream(config.clone()).stream(letters).connect().await.unwrap();
    cluster.jetstream().await.create_stream(config).await.unwrap();
    let mut workers = Workers::start(cluster.urls(), WORKERS, kind).await;
    let step = messages / (faults.len() as u64 + 1);
    let mut published = 0;
    let mut partitions = kind.published(8);
    for fault in faults {
        let next = published + step;
        // Only with copies, the number of partitions is changed while messages are published, as all else.
        let publishing = publish(&broker, published..next, partitions);
        let injecting = async {
            sleep(ms(random.random_range(0..500))).await;
            let index = random.random_range(0..workers.running.len());
            match fault {
                Fault::Kill => {
                    workers.end(index, "KILL").await;
                    workers.add().await;
                }
                Fault::Stop => {
                    workers.end(index, "TERM").await;
                    workers.add().await;
                }
                Fault::Freeze => {
                    workers.running[index].signal("STOP");
                    sleep(ms(random.random_range(1000..8000))).await;
                    workers.running[index].signal("CONT");
                }
                Fault::ConsumerLeader => {
                    let consumer = format!("keyed-{}", random.random_range(0..8));
                    step_down(&mut cluster, &format!("CONSUMER.LEADER.STEPDOWN.{}.{consumer}", kind.stream())).await;
                }
                Fault::StreamLeader => {
                    let stream = if random.random_bool(0.5) { "WORK" } else { kind.stream() };
                    step_down(&mut cluster, &format!("STREAM.LEADER.STEPDOWN.{stream}")).await;
                }
                Fault::More => workers.add().await,
                Fault::ChangeNumber if kind == Kind::Derived => workers.change_number().await,
                Fault::ChangeNumber => {}
            }
        };
        futures::join!(publishing, injecting);
        published = next;
        if matches!(fault, Fault::ChangeNumber) && kind != Kind::Derived {
            workers.change_number().await;
            partitions = kind.published(12);
        }
    }
    publish(&broker, published..messages, partitions).await;
    workers.until_handled(messages).await;
    let handled = workers.handled();
    println!("seed {seed}: {} of {messages} handled again", handled.len() as u64 - messages);
    check_order(&handled, messages);
    if kind == Kind::Ordered {
        check_partitions(&handled, messages);
    }
    let jetstream = cluster.jetstream().await;
    eventually("all are acknowledged", SOON, async || {
        for number in 0..12 {
            let info =
                jetstream.get_stream(kind.stream()).await.ok()?.consumer_info(format!("keyed-{number}")).await.ok()?;
            (info.num_pending == 0 && info.num_ack_pending == 0).then_some(())?;
        }
        Some(())
    })
    .await;
}

#[tokio::test]
async fn order_of_every_key_is_kept_through_faults() {
    rounds(Kind::Keyed).await;
}

#[tokio::test]
async fn order_of_every_partition_is_kept_through_faults() {
    rounds(Kind::Ordered).await;
}

#[tokio::test]
async fn order_of_every_key_of_copies_is_kept_through_faults() {
    rounds(Kind::Derived).await;
}

async fn rounds(kind: Kind) {
    let first = variable("PARTITIONS_SEED", 2026);
    for seed in first..first + variable("PARTITIONS_ROUNDS", 1) {
        run(seed, variable("PARTITIONS_MESSAGES", 8000), kind).await;
    }
}

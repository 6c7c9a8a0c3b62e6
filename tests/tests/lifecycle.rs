//! From the start to the stop: what a handler gets, what it may return, and how it ends.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall say where")]

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use futures::TryStreamExt;
use jetstream_handlers::Context;
use jetstream_handlers::async_nats::jetstream::consumer;
use jetstream_handlers::prelude::*;
use jetstream_handlers::{Error, ErrorKind, Status};
use jetstream_handlers_tests::{Program, Server, assert_says, eventually};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

const SOON: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct OrderCreated {
    id: u64,
    customer: String,
}

fn order(id: u64) -> OrderCreated {
    OrderCreated { id, customer: "Ada".to_owned() }
}

async fn connect(server: &Server) -> Broker {
    Broker::connect(server.url()).await.unwrap()
}

async fn connect_with<T: Clone + Send + Sync + 'static>(server: &Server, state: &T) -> Broker {
    Broker::builder().servers([server.url()]).state(state.clone()).connect().await.unwrap()
}

async fn publish(broker: &Broker, subject: &str, ids: impl IntoIterator<Item = u64>) {
    for id in ids {
        broker.publish(subject, &id).await.unwrap();
    }
}

async fn info(server: &Server, stream: &str, consumer: &str) -> consumer::Info {
    let stream = server.jetstream().await.get_stream(stream).await.unwrap();
    stream.consumer_info(consumer).await.unwrap()
}

/// Waits until a consumer has delivered so many that were not answered.
async fn unanswered(server: &Server, stream: &str, consumer: &str, count: usize) {
    eventually(&format!("{count} messages of {consumer} are unanswered"), SOON, async || {
        (info(server, stream, consumer).await.num_ack_pending == count).then_some(())
    })
    .await;
}

/// Waits until every message of a consumer has been delivered and answered.
async fn settled(server: &Server, stream: &str, consumer: &str) {
    eventually(&format!("{consumer} has settled everything"), SOON, async || {
        let info = info(server, stream, consumer).await;
        (info.num_ack_pending == 0 && info.num_pending == 0 && info.delivered.stream_sequence > 0).then_some(())
    })
    .await;
}

/// What handlers did, in order.
#[derive(Debug, Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    fn add(&self, line: impl Into<String>) {
        self.0.lock().unwrap().push(line.into());
    }

    fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    fn count(&self, line: &str) -> usize {
        self.lines().iter().filter(|other| *other == line).count()
    }

    async fn until(&self, line: &str, count: usize) {
        eventually(&format!("{count} times {line:?}"), SOON, async || (self.count(line) >= count).then_some(())).await;
    }
}

// Signals, in processes of their own.

async fn worker(server: &Server, group: &str) -> Program {
    let worker = Program::start(env!("CARGO_BIN_EXE_worker"), &[group], &[("NATS_URL", &server.url())]);
    let client = server.jetstream().await;
    eventually("the worker asks for messages", SOON, async || {
        let stream = client.get_stream("WORK").await.ok()?;
        let mut consumers = stream.consumers();
        while let Some(info) = consumers.try_next().await.ok()? {
            if info.num_waiting > 0 {
                return Some(());
            }
        }
        None
    })
    .await;
    worker
}

async fn ends_gracefully(signal: &str) {
    let server = Server::start().await;
    let mut worker = worker(&server, "diligent").await;
    let broker = connect(&server).await;
    publish(&broker, "work.long", [1]).await;
    worker.until("started 1").await;
    worker.signal(signal);
    let status = worker.ended().await;
    assert!(status.success(), "{status}: {}", worker.output());
    assert_eq!(worker.lines("finished "), ["1"], "{}", worker.output());
    let info = info(&server, "WORK", "diligent").await;
    assert_eq!((info.ack_floor.stream_sequence, info.num_ack_pending), (1, 0), "it was acked before the end");
}

#[tokio::test]
async fn sigterm_ends_the_run_after_the_running_handler() {
    ends_gracefully("TERM").await;
}

#[tokio::test]
async fn sigint_ends_the_run_after_the_running_handler() {
    ends_gracefully("INT").await;
}

#[tokio::test]
async fn a_signal_ends_an_idle_run_at_once() {
    let server = Server::start().await;
    let mut worker = worker(&server, "diligent").await;
    let begun = Instant::now();
    worker.signal("TERM");
    let status = worker.ended().await;
    assert!(status.success(), "{status}: {}", worker.output());
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_second_signal_ends_at_once_and_says_so() {
    let server = Server::start().await;
    let mut worker = worker(&server, "stuck").await;
    let broker = connect(&server).await;
    publish(&broker, "work.long", [1]).await;
    worker.until("started 1").await;
    worker.signal("TERM");
    worker.until("stopping 1").await;
    let begun = Instant::now();
    worker.signal("INT");
    let status = worker.ended().await;
    assert!(begun.elapsed() < Duration::from_secs(10), "the grace period is 30 s: {:?}", begun.elapsed());
    assert_eq!((status.success(), status.signal()), (false, None), "it ended by itself: {status}");
    assert!(worker.output().contains("ended by a second signal"), "{}", worker.output());
}

#[tokio::test]
async fn a_run_ends_when_its_broker_is_disconnected() {
    let server = Server::start().await;
    let log = Log::default();
    let broker = connect_with(&server, &log).await;
    let run = tokio::spawn({
        let broker = broker.clone();
        async move { broker.run_groups(["noting"]).await }
    });
    publish(&broker, "notes.taken", [1]).await;
    log.until("noted 1", 1).await;
    broker.disconnect().await.unwrap();
    tokio::time::timeout(SOON, run).await.unwrap().unwrap().unwrap();
}

// The stop.

#[subscriber(subject = "notes.taken", queue = "noting", group = "noting")]
async fn note(id: u64, State(log): State<Log>) {
    log.add(format!("noted {id}"));
}

/// Handlers that wait until the test lets them go on.
#[derive(Debug, Clone)]
struct Gate {
    log: Log,
    open: Arc<Semaphore>,
}

impl Gate {
    fn new() -> Self {
        Self { log: Log::default(), open: Arc::new(Semaphore::new(0)) }
    }

    async fn pass(&self, id: u64) {
        self.log.add(format!("started {id}"));
        self.open.acquire().await.unwrap().forget();
        self.log.add(format!("finished {id}"));
    }
}

#[subscriber(subject = "gates.reached", queue = "gated", group = "gated")]
async fn gated(id: u64, State(gate): State<Gate>) {
    gate.pass(id).await;
}

#[tokio::test]
async fn a_shutdown_waits_for_the_running_handler() {
    let server = Server::start().await;
    let gate = Gate::new();
    let broker = connect_with(&server, &gate).await;
    let running = broker.start_groups(["gated"]).await.unwrap();
    publish(&broker, "gates.reached", [1]).await;
    gate.log.until("started 1", 1).await;
    let mut shutdown = tokio::spawn(running.shutdown());
    let early = tokio::time::timeout(Duration::from_millis(200), &mut shutdown).await;
    assert!(early.is_err(), "the handler is still running");
    assert_eq!(gate.log.lines(), ["started 1"]);
    gate.open.add_permits(1);
    tokio::time::timeout(SOON, shutdown).await.unwrap().unwrap().unwrap();
    assert_eq!(gate.log.lines(), ["started 1", "finished 1"]);
    let info = info(&server, "GATES", "gated").await;
    assert_eq!((info.ack_floor.stream_sequence, info.num_ack_pending), (1, 0), "the server has the ack");
    // The connection has stayed.
    publish(&broker, "gates.reached", [2]).await;
    assert_eq!(gate.log.lines().len(), 2, "and nobody handles what comes over it");
}

#[tokio::test]
async fn a_shutdown_hands_back_what_waits_and_another_worker_has_it_at_once() {
    let server = Server::start().await;
    let (one, other) = (Gate::new(), Gate::new());
    let first = connect_with(&server, &one).await;
    let running = first.start_groups(["gated"]).await.unwrap();
    publish(&first, "gates.reached", 1..=6).await;
    one.log.until("started 1", 1).await;
    unanswered(&server, "GATES", "gated", 6).await;
    let second = connect_with(&server, &other).await;
    let _running = second.start_groups(["gated"]).await.unwrap();
    other.open.add_permits(100);
    let begun = Instant::now();
    let shutdown = tokio::spawn(running.shutdown());
    other.log.until("finished 6", 1).await;
    let took = begun.elapsed();
    assert!(took < Duration::from_millis(500), "{took:?}");
    for id in 2..=6 {
        other.log.until(&format!("finished {id}"), 1).await;
    }
    one.open.add_permits(100);
    shutdown.await.unwrap().unwrap();
    assert_eq!(one.log.lines(), ["started 1", "finished 1"]);
    assert_eq!(other.log.lines().len(), 10, "{:?}", other.log);
    settled(&server, "GATES", "gated").await;
}

#[tokio::test]
async fn a_handler_that_outlasts_the_grace_period_is_named_and_its_message_comes_again() {
    let server = Server::start().await;
    let (stuck, other) = (Gate::new(), Gate::new());
    let builder = Broker::builder().servers([server.url()]).state(stuck.clone());
    let broker = builder.shutdown_grace(Duration::from_millis(100)).connect().await.unwrap();
    let running = broker.start_groups(["gated"]).await.unwrap();
    publish(&broker, "gates.reached", [1]).await;
    stuck.log.until("started 1", 1).await;
    let begun = Instant::now();
    let error = running.shutdown().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::GracePeriod, "{error}");
    for part in ["`lifecycle::gated`", "100ms"] {
        assert!(error.to_string().contains(part), "no {part:?} in {error}");
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    // `ack_wait` is 30 s, so that only a message that was handed back comes within this time.
    let second = connect_with(&server, &other).await;
    let running = second.start_groups(["gated"]).await.unwrap();
    other.open.add_permits(1);
    other.log.until("finished 1", 1).await;
    running.shutdown().await.unwrap();
    assert_eq!(stuck.log.lines(), ["started 1"], "the first was cancelled");
}

#[subscriber(subject = "gates.reached", queue = "also-gated", group = "both-gated")]
async fn also_gated(id: u64, State(gate): State<Gate>) {
    gate.pass(id).await;
}

#[subscriber(subject = "gates.reached", queue = "gated-as-well", group = "both-gated")]
async fn gated_as_well(id: u64, State(gate): State<Gate>) {
    gate.pass(id).await;
}

#[tokio::test]
async fn all_handlers_of_a_stop_share_the_grace_period() {
    let server = Server::start().await;
    let gate = Gate::new();
    let builder = Broker::builder().servers([server.url()]).state(gate.clone());
    let broker = builder.shutdown_grace(Duration::from_secs(1)).connect().await.unwrap();
    let _running = broker.start_groups(["both-gated"]).await.unwrap();
    publish(&broker, "gates.reached", [1]).await;
    gate.log.until("started 1", 2).await;
    let begun = Instant::now();
    let error = broker.disconnect().await.unwrap_err();
    assert!(begun.elapsed() < Duration::from_millis(1900), "one after the other: {:?}", begun.elapsed());
    let kinds: Vec<_> = error.problems().iter().map(Error::kind).collect();
    assert_eq!(kinds, [ErrorKind::GracePeriod; 2], "{error}");
    for part in ["`lifecycle::also_gated`", "`lifecycle::gated_as_well`"] {
        assert!(error.to_string().contains(part), "no {part:?} in {error}");
    }
}

#[subscriber(subject = "shutdowns.awaited", queue = "attentive", group = "attentive")]
async fn attentive(id: u64, shutdown: Shutdown, State(log): State<Log>) -> HandlerResult {
    assert!(!shutdown.is_requested());
    log.add(format!("started {id}"));
    shutdown.token().cancelled().await;
    log.add(format!("gave up {id}"));
    assert!(shutdown.is_requested());
    Err(HandlerError::retry_after(Duration::ZERO, "stopping"))
}

#[tokio::test]
async fn a_handler_may_end_early_when_a_stop_begins() {
    let server = Server::start().await;
    let log = Log::default();
    let broker = connect_with(&server, &log).await;
    let running = broker.start_groups(["attentive"]).await.unwrap();
    publish(&broker, "shutdowns.awaited", [1]).await;
    log.until("started 1", 1).await;
    tokio::time::timeout(SOON, running.shutdown()).await.unwrap().unwrap();
    assert_eq!(log.lines(), ["started 1", "gave up 1"]);
    // It has failed and not been acked.
    let _running = broker.start_groups(["attentive"]).await.unwrap();
    log.until("started 1", 2).await;
}

#[tokio::test]
async fn a_disconnect_stops_the_handlers_and_closes_the_connection() {
    let server = Server::start().await;
    let gate = Gate::new();
    let broker = connect_with(&server, &gate).await;
    let _running = broker.start_groups(["gated"]).await.unwrap();
    publish(&broker, "gates.reached", [1]).await;
    gate.log.until("started 1", 1).await;
    gate.open.add_permits(1);
    broker.disconnect().await.unwrap();
    assert_eq!(gate.log.lines(), ["started 1", "finished 1"]);
    assert_eq!(info(&server, "GATES", "gated").await.num_ack_pending, 0);
    eventually("the broker is not connected", SOON, async || (!broker.health().connected).then_some(())).await;
    assert!(!broker.health().is_healthy());
    assert_eq!(broker.health().handlers[0].status, Status::Stopped);
    let started = broker.start_groups(["gated"]).await;
    assert_closed(started);
    assert_closed(broker.run_groups(["gated"]).await);
    assert_closed(broker.subscribe("gates.reached", "closure", async |_: u64| {}).await);
}

#[track_caller]
fn assert_closed<T>(result: Result<T, Error>) {
    let Err(error) = result else { panic!("no error") };
    assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
    assert!(error.to_string().contains("connect a new one"), "{error}");
}

#[tokio::test]
async fn a_second_disconnect_does_no_harm() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    broker.disconnect().await.unwrap();
    tokio::time::timeout(SOON, broker.disconnect()).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_handler_that_was_stopped_can_be_started_again() {
    let server = Server::start().await;
    let log = Log::default();
    let broker = connect_with(&server, &log).await;
    for id in 1..=3 {
        let running = broker.start_groups(["noting"]).await.unwrap();
        publish(&broker, "notes.taken", [id]).await;
        log.until(&format!("noted {id}"), 1).await;
        running.shutdown().await.unwrap();
    }
    assert_eq!(log.lines(), ["noted 1", "noted 2", "noted 3"]);
}

#[tokio::test]
async fn unsubscribing_leaves_the_durable_with_its_progress() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    let log = Log::default();
    let noted = log.clone();
    let closure = move |id: u64| {
        noted.add(format!("noted {id}"));
        async {}
    };
    let subscription = broker.subscribe("notes.taken", "closure", closure).await.unwrap();
    publish(&broker, "notes.taken", [1, 2]).await;
    log.until("noted 2", 1).await;
    subscription.unsubscribe().await.unwrap();
    publish(&broker, "notes.taken", [3]).await;
    let info = info(&server, "NOTES", "closure").await;
    assert_eq!((info.ack_floor.stream_sequence, info.num_pending, info.num_waiting), (2, 1, 0));
    assert_eq!(log.lines(), ["noted 1", "noted 2"]);
}

#[tokio::test]
async fn health_follows_the_handlers() {
    let server = Server::start().await;
    let log = Log::default();
    let broker = connect_with(&server, &log).await;
    assert!(broker.health().is_healthy() && broker.health().handlers.is_empty());
    let running = broker.start_groups(["noting"]).await.unwrap();
    let health = broker.health();
    assert_eq!((health.connected, health.handlers.len()), (true, 1));
    assert_eq!((&*health.handlers[0].handler, &health.handlers[0].status), ("lifecycle::note", &Status::Running));
    assert!(health.is_healthy());
    assert_eq!(health.to_string(), "connected\nlifecycle::note: running");
    // A function is one handler, however often it is started.
    let again = broker.start_groups(["noting"]).await;
    assert_says(again, ErrorKind::Config, &["lifecycle::note", "runs on this broker already", "Running::shutdown"]);
    running.shutdown().await.unwrap();
    assert!(broker.health().handlers.is_empty(), "{}", broker.health());
    let _running = broker.start_groups(["noting"]).await.unwrap();
    broker.disconnect().await.unwrap();
    assert_eq!(broker.health().handlers[0].status, Status::Stopped);
    assert!(broker.health().to_string().contains("lifecycle::note: stopped"), "{}", broker.health());
}

// Failures.

#[subscriber(subject = "risks.taken", queue = "panicking", backoff = ["50ms"], group = "panicking")]
async fn panicking(id: u64, info: Info, State(log): State<Log>) {
    log.add(format!("tried {id}"));
    assert!(id != 1 || info.delivered() > 2, "order {id} is too much");
    log.add(format!("done {id}"));
}

#[tokio::test]
async fn a_panicking_handler_is_called_again_and_its_worker_survives() {
    let server = Server::start().await;
    let log = Log::default();
    let broker = connect_with(&server, &log).await;
    let running = broker.start_groups(["panicking"]).await.unwrap();
    publish(&broker, "risks.taken", [1, 2]).await;
    log.until("done 2", 1).await;
    log.until("done 1", 1).await;
    assert_eq!((log.count("tried 1"), log.count("tried 2")), (3, 1));
    assert_eq!(broker.health().handlers[0].status, Status::Running);
    settled(&server, "RISKS", "panicking").await;
    running.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_closure_that_panics_before_its_first_await_is_called_again() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    let log = Log::default();
    let noted = log.clone();
    let closure = move |id: u64| {
        noted.add(format!("tried {id}"));
        assert!(noted.count("tried 1") > 1, "not at the first time");
        async {}
    };
    let subscribe = broker.subscribe("risks.taken", "closure", closure).backoff(&[Duration::from_millis(50)]);
    let subscription = subscribe.await.unwrap();
    publish(&broker, "risks.taken", [1]).await;
    log.until("tried 1", 2).await;
    settled(&server, "RISKS", "closure").await;
    subscription.unsubscribe().await.unwrap();
    assert_eq!(log.count("tried 1"), 2);
}

/// How often each handler was called for each message.
#[derive(Debug, Clone, Default)]
struct Calls(Arc<Mutex<BTreeMap<&'static str, usize>>>);

impl Calls {
    /// Whether this is the first call.
    fn first(&self, handler: &'static str) -> bool {
        let mut calls = self.0.lock().unwrap();
        let count = calls.entry(handler).or_default();
        *count += 1;
        *count == 1
    }
}

#[subscriber(subject = "results.seen", queue = "unit", backoff = ["50ms"], group = "results")]
async fn unit(State(calls): State<Calls>) {
    calls.first("unit");
}

#[subscriber(subject = "results.seen", queue = "settle", group = "results")]
async fn settle(State(calls): State<Calls>) -> Settle {
    if calls.first("settle") { Settle::RetryAfter(Duration::from_millis(20)) } else { Settle::Ack }
}

#[subscriber(subject = "results.seen", queue = "settle-retry", backoff = ["50ms"], group = "results")]
async fn settle_retry(State(calls): State<Calls>) -> Settle {
    if calls.first("settle_retry") { Settle::Retry } else { Settle::Ack }
}

#[subscriber(subject = "results.seen", queue = "own", backoff = ["50ms"], group = "results")]
async fn own(State(calls): State<Calls>) -> HandlerResult {
    if calls.first("own") { Err(HandlerError::retry("the first time")) } else { Ok(()) }
}

#[subscriber(subject = "results.seen", queue = "question-mark", backoff = ["50ms"], group = "results")]
async fn question_mark(State(calls): State<Calls>) -> HandlerResult {
    let text = if calls.first("question_mark") { "x" } else { "7" };
    let _: u64 = text.parse()?;
    Ok(())
}

#[subscriber(subject = "results.seen", queue = "anyhow", backoff = ["50ms"], group = "results")]
async fn by_anyhow(State(calls): State<Calls>) -> anyhow::Result<()> {
    anyhow::ensure!(!calls.first("by_anyhow"), "the first time");
    Ok(())
}

#[subscriber(subject = "results.seen", queue = "boxed", backoff = ["50ms"], group = "results")]
async fn boxed(State(calls): State<Calls>) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    if calls.first("boxed") { Err("the first time".into()) } else { Ok(()) }
}

#[subscriber(subject = "results.seen", queue = "concrete", backoff = ["50ms"], group = "results")]
async fn concrete(State(calls): State<Calls>) -> Result<(), std::io::Error> {
    if calls.first("concrete") { Err(std::io::Error::other("the first time")) } else { Ok(()) }
}

#[tokio::test]
async fn every_kind_of_result_says_how_the_message_ends() {
    let server = Server::start().await;
    let calls = Calls::default();
    let broker = connect_with(&server, &calls).await;
    let running = broker.start_groups(["results"]).await.unwrap();
    publish(&broker, "results.seen", [1]).await;
    let queues = ["unit", "settle", "settle-retry", "own", "question-mark", "anyhow", "boxed", "concrete"];
    for queue in queues {
        settled(&server, "RESULTS", queue).await;
    }
    running.shutdown().await.unwrap();
    let calls = calls.0.lock().unwrap().clone();
    let mut expected: BTreeMap<_, _> =
        ["settle", "settle_retry", "own", "question_mark", "by_anyhow", "boxed", "concrete"]
            .map(|name| (name, 2))
            .into();
    expected.insert("unit", 1);
    assert_eq!(calls, expected);
    let stream = server.jetstream().await.get_stream("RESULTS").await.unwrap();
    for queue in queues {
        let floor = stream.consumer_info(queue).await.unwrap().ack_floor;
        assert_eq!(floor.stream_sequence, 1, "{queue} has acked");
    }
}

// Concurrency.

/// How many calls run now, and how many ever did at one time.
#[derive(Debug, Clone)]
struct Gauge {
    now: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
    done: Arc<AtomicUsize>,
    open: Arc<Semaphore>,
}

impl Gauge {
    fn new() -> Self {
        Self { now: Arc::default(), most: Arc::default(), done: Arc::default(), open: Arc::new(Semaphore::new(0)) }
    }

    async fn run(&self) {
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        self.open.acquire().await.unwrap().forget();
        // Whoever takes the place of this one has a chance to come too early.
        tokio::task::yield_now().await;
        self.now.fetch_sub(1, Ordering::SeqCst);
        self.done.fetch_add(1, Ordering::SeqCst);
    }
}

#[subscriber(subject = "crowds.formed", queue = "four", concurrency = 4, group = "four")]
async fn four(_: u64, State(gauge): State<Gauge>) {
    gauge.run().await;
}

#[tokio::test]
async fn concurrency_is_how_many_run_at_once_and_no_more() {
    let server = Server::start().await;
    let gauge = Gauge::new();
    let broker = connect_with(&server, &gauge).await;
    let running = broker.start_groups(["four"]).await.unwrap();
    publish(&broker, "crowds.formed", 1..=12).await;
    // They are all in this process, so that a fifth could begin.
    unanswered(&server, "CROWDS", "four", 12).await;
    eventually("four run at once", SOON, async || (gauge.now.load(Ordering::SeqCst) == 4).then_some(())).await;
    for released in 1..=8 {
        gauge.open.add_permits(1);
        eventually(&format!("after {released} there are four again"), SOON, async || {
            let done = gauge.done.load(Ordering::SeqCst);
            (done == released && gauge.now.load(Ordering::SeqCst) == 4).then_some(())
        })
        .await;
    }
    gauge.open.add_permits(4);
    settled(&server, "CROWDS", "four").await;
    assert_eq!((gauge.most.load(Ordering::SeqCst), gauge.done.load(Ordering::SeqCst)), (4, 12));
    running.shutdown().await.unwrap();
}

#[subscriber(subject = "queues.formed", queue = "in-order", group = "in-order")]
async fn in_order(id: u64, State(log): State<Log>) {
    log.add(format!("started {id}"));
    for _ in 0..id % 7 {
        tokio::task::yield_now().await;
    }
    tokio::time::sleep(Duration::from_millis(id % 3)).await;
    log.add(format!("finished {id}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_concurrency_the_order_is_that_of_the_stream() {
    let server = Server::start().await;
    let log = Log::default();
    let broker = connect_with(&server, &log).await;
    let running = broker.start_groups(["in-order"]).await.unwrap();
    publish(&broker, "queues.formed", 1..=100).await;
    log.until("finished 100", 1).await;
    running.shutdown().await.unwrap();
    let expected: Vec<_> = (1..=100).flat_map(|id| [format!("started {id}"), format!("finished {id}")]).collect();
    assert_eq!(log.lines(), expected);
}

// Parameters.

/// A type of one's own.
#[derive(Debug)]
struct Tenant(String);

impl FromMessage for Tenant {
    fn from_message(message: &Message, _: &Context) -> Result<Self, Rejection> {
        message.header("Tenant").map(|tenant| Tenant(tenant.to_owned())).ok_or(Rejection::new("no `Tenant`"))
    }
}

#[subscriber(subject = "parameters.*.seen", queue = "first", group = "parameters")]
#[allow(clippy::too_many_arguments, reason = "every kind of parameter there is")]
async fn payload_last(
    State(log): State<Log>,
    subject: Subject,
    headers: Headers,
    info: Info,
    message: Message,
    publisher: Publisher,
    shutdown: Shutdown,
    tenant: Tenant,
    order: OrderCreated,
) -> HandlerResult {
    assert_eq!((subject.as_str(), subject.token(1)), ("parameters.eu.seen", Some("eu")));
    assert_eq!(subject.to_string(), message.subject());
    assert_eq!(headers.get("Tenant"), Some("tenant-7"));
    assert_eq!((info.stream(), info.consumer()), ("PARAMETERS", "first"));
    assert_eq!((info.stream_sequence(), info.consumer_sequence(), info.delivered(), info.pending()), (1, 1, 1, 0));
    let age = SystemTime::now().duration_since(info.stored_at()).unwrap();
    assert!(age < Duration::from_secs(60), "{age:?}");
    assert_eq!(&**message.payload(), br#"{"id":7,"customer":"Ada"}"#);
    assert!(!shutdown.is_requested());
    publisher.publish("parameters.handled", &order.id).await?;
    log.add(format!("payload_last {tenant:?} {order:?}"));
    Ok(())
}

#[subscriber(subject = "parameters.*.seen", queue = "second", group = "parameters")]
#[allow(clippy::too_many_arguments, reason = "every kind of parameter there is")]
async fn payload_first(
    OrderCreated { id, customer }: OrderCreated,
    tenant: Tenant,
    _shutdown: Shutdown,
    _publisher: Publisher,
    message: Message,
    info: Info,
    headers: Headers,
    subject: Subject,
    log: State<Log>,
) {
    assert_eq!(message.info().stream_sequence(), info.stream_sequence());
    assert_eq!(headers.iter().filter(|(name, _)| *name == "Tenant").count(), 1);
    assert!(subject.starts_with("parameters."));
    log.add(format!("payload_first {tenant:?} {id} {customer}"));
}

#[derive(Debug, Deserialize)]
struct OrderView<'a> {
    id: u64,
    customer: &'a str,
}

#[subscriber(subject = "parameters.*.seen", queue = "borrowing", group = "parameters")]
async fn borrowing(State(log): State<Log>, order: OrderView<'_>, info: Info) {
    // It borrows across an await.
    tokio::task::yield_now().await;
    log.add(format!("borrowing {} {} {}", order.id, order.customer, info.consumer()));
}

#[subscriber(subject = "parameters.*.seen", queue = "value", group = "parameters")]
async fn value(State(log): State<Log>, value: serde_json::Value) {
    log.add(format!("value {} {}", value["id"], value["customer"]));
}

static BARE: AtomicUsize = AtomicUsize::new(0);

#[subscriber(subject = "parameters.*.seen", queue = "bare", group = "parameters")]
async fn bare() {
    BARE.fetch_add(1, Ordering::SeqCst);
}

#[tokio::test]
async fn parameters_come_in_any_order_and_number() {
    let server = Server::start().await;
    let log = Log::default();
    let broker = connect_with(&server, &log).await;
    let running = broker.start_groups(["parameters"]).await.unwrap();
    broker.publish_message("parameters.eu.seen", &order(7)).header("Tenant", "tenant-7").await.unwrap();
    for queue in ["first", "second", "borrowing", "value", "bare"] {
        settled(&server, "PARAMETERS", queue).await;
    }
    running.shutdown().await.unwrap();
    let mut lines = log.lines();
    lines.sort();
    let expected = [
        "borrowing 7 Ada borrowing",
        "payload_first Tenant(\"tenant-7\") 7 Ada",
        "payload_last Tenant(\"tenant-7\") OrderCreated { id: 7, customer: \"Ada\" }",
        "value 7 \"Ada\"",
    ];
    assert_eq!(lines, expected);
    assert_eq!(BARE.load(Ordering::SeqCst), 1);
    let stream = server.jetstream().await.get_stream("PARAMETERS").await.unwrap();
    let handled = stream.get_last_raw_message_by_subject("parameters.handled").await.unwrap();
    assert_eq!(&*handled.payload, b"7");
}

#[tokio::test]
async fn a_closure_takes_what_a_function_takes() {
    let server = Server::start().await;
    let log = Log::default();
    let broker = connect_with(&server, &log).await;
    let closure = |order: OrderCreated,
                   tenant: Tenant,
                   State(log): State<Log>,
                   subject: Subject,
                   headers: Headers,
                   info: Info,
                   message: Message,
                   publisher: Publisher| async move {
        assert_eq!((headers.get("Tenant"), message.subject()), (Some("tenant-7"), &*subject));
        publisher.publish("parameters.handled", &order.id).await?;
        log.add(format!("{} {} {}", order.id, tenant.0, info.consumer()));
        Ok(())
    };
    let subscription = broker.subscribe("parameters.*.seen", "closure", closure).await.unwrap();
    broker.publish_message("parameters.eu.seen", &order(7)).header("Tenant", "tenant-7").await.unwrap();
    log.until("7 tenant-7 closure", 1).await;
    settled(&server, "PARAMETERS", "closure").await;
    subscription.unsubscribe().await.unwrap();
}

#[tokio::test]
async fn the_function_is_still_a_function() {
    let log = Log::default();
    note(7, State(log.clone())).await;
    borrowing(State(log.clone()), OrderView { id: 1, customer: "Ada" }, Info::default()).await;
    assert_eq!(log.lines(), ["noted 7", "borrowing 1 Ada "]);
    let calls = Calls::default();
    assert_eq!(own(State(calls.clone())).await.unwrap_err().to_string(), "the first time");
    own(State(calls)).await.unwrap();
}

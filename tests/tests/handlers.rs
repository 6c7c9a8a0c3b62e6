//! Parameters, return types and concurrency of handlers, and blocking handlers.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use jetstream_handlers::Context;
use jetstream_handlers::prelude::*;
use jetstream_handlers_tests::{Program, Recorder, SOON, Server, connect, connect_with, eventually, ms, publish};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct OrderCreated {
    id: u64,
    customer: String,
}

fn order(id: u64) -> OrderCreated {
    OrderCreated { id, customer: "Ada".to_owned() }
}

#[subscriber(subject = "results.seen", queue = "unit", backoff = ["50ms"], group = "results")]
async fn unit(State(calls): State<Recorder<&'static str>>) {
    calls.add("unit");
}

#[subscriber(subject = "results.seen", queue = "settle", group = "results")]
async fn settle(State(calls): State<Recorder<&'static str>>) -> Settle {
    if calls.attempt("settle") == 1 { Settle::RetryAfter(ms(20)) } else { Settle::Ack }
}

#[subscriber(subject = "results.seen", queue = "settle-retry", backoff = ["50ms"], group = "results")]
async fn settle_retry(State(calls): State<Recorder<&'static str>>) -> Settle {
    if calls.attempt("settle_retry") == 1 { Settle::Retry } else { Settle::Ack }
}

#[subscriber(subject = "results.seen", queue = "own", backoff = ["50ms"], group = "results")]
async fn own(State(calls): State<Recorder<&'static str>>) -> HandlerResult {
    if calls.attempt("own") == 1 { Err(HandlerError::retry("the first time")) } else { Ok(()) }
}

#[subscriber(subject = "results.seen", queue = "question-mark", backoff = ["50ms"], group = "results")]
async fn question_mark(State(calls): State<Recorder<&'static str>>) -> HandlerResult {
    let text = if calls.attempt("question_mark") == 1 { "x" } else { "7" };
    let _: u64 = text.parse()?;
    Ok(())
}

#[subscriber(subject = "results.seen", queue = "anyhow", backoff = ["50ms"], group = "results")]
async fn by_anyhow(State(calls): State<Recorder<&'static str>>) -> anyhow::Result<()> {
    anyhow::ensure!(calls.attempt("by_anyhow") > 1, "the first time");
    Ok(())
}

#[subscriber(subject = "results.seen", queue = "boxed", backoff = ["50ms"], group = "results")]
async fn boxed(State(calls): State<Recorder<&'static str>>) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    if calls.attempt("boxed") == 1 { Err("the first time".into()) } else { Ok(()) }
}

#[subscriber(subject = "results.seen", queue = "concrete", backoff = ["50ms"], group = "results")]
async fn concrete(State(calls): State<Recorder<&'static str>>) -> Result<(), std::io::Error> {
    if calls.attempt("concrete") == 1 { Err(std::io::Error::other("the first time")) } else { Ok(()) }
}

#[tokio::test]
async fn every_return_type_settles_the_message() {
    let server = Server::start().await;
    let calls = Recorder::<&str>::default();
    let broker = connect_with(&server, &calls).await;
    let running = broker.start_groups(["results"]).await.unwrap();
    publish(&broker, "results.seen", [1]).await;
    let queues = ["unit", "settle", "settle-retry", "own", "question-mark", "anyhow", "boxed", "concrete"];
    for queue in queues {
        server.all_acked("RESULTS", queue).await;
    }
    running.shutdown().await.unwrap();
    let calls = calls.counts();
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

/// Counts the calls that run now, the most that ever ran at once, and those that are done.
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
        // A call that replaced this one too early could run now.
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
async fn concurrency_limits_parallel_calls() {
    let server = Server::start().await;
    let gauge = Gauge::new();
    let broker = connect_with(&server, &gauge).await;
    let running = broker.start_groups(["four"]).await.unwrap();
    publish(&broker, "crowds.formed", 1..=12).await;
    // All messages are in this process, so a fifth call could start.
    server.ack_pending("CROWDS", "four", 12).await;
    eventually("four calls run", SOON, async || (gauge.now.load(Ordering::SeqCst) == 4).then_some(())).await;
    for released in 1..=8 {
        gauge.open.add_permits(1);
        eventually(&format!("four calls run after {released} ended"), SOON, async || {
            let done = gauge.done.load(Ordering::SeqCst);
            (done == released && gauge.now.load(Ordering::SeqCst) == 4).then_some(())
        })
        .await;
    }
    gauge.open.add_permits(4);
    server.all_acked("CROWDS", "four").await;
    assert_eq!((gauge.most.load(Ordering::SeqCst), gauge.done.load(Ordering::SeqCst)), (4, 12));
    running.shutdown().await.unwrap();
}

#[subscriber(subject = "queues.formed", queue = "in-order", group = "in-order")]
async fn in_order(id: u64, State(log): State<Recorder<String>>) {
    log.add(format!("started {id}"));
    for _ in 0..id % 7 {
        tokio::task::yield_now().await;
    }
    tokio::time::sleep(ms(id % 3)).await;
    log.add(format!("finished {id}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn default_concurrency_keeps_stream_order() {
    let server = Server::start().await;
    let log = Recorder::<String>::default();
    let broker = connect_with(&server, &log).await;
    let running = broker.start_groups(["in-order"]).await.unwrap();
    publish(&broker, "queues.formed", 1..=100).await;
    log.until("finished 100").await;
    running.shutdown().await.unwrap();
    let expected: Vec<_> = (1..=100).flat_map(|id| [format!("started {id}"), format!("finished {id}")]).collect();
    assert_eq!(log.items(), expected);
}

/// A custom parameter.
#[derive(Debug)]
struct Tenant(String);

impl FromMessage for Tenant {
    fn from_message(message: &Message, _: &Context) -> Result<Self, Rejection> {
        message.header("Tenant").map(|tenant| Tenant(tenant.to_owned())).ok_or(Rejection::new("no `Tenant`"))
    }
}

#[subscriber(subject = "parameters.*.seen", queue = "first", group = "parameters")]
#[allow(clippy::too_many_arguments, reason = "every kind of parameter")]
async fn payload_last(
    State(log): State<Recorder<String>>,
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
    assert!(age < secs(60), "{age:?}");
    assert_eq!(&**message.payload(), br#"{"id":7,"customer":"Ada"}"#);
    assert!(!shutdown.is_requested());
    publisher.publish("parameters.handled", &order.id).await?;
    log.add(format!("payload_last {tenant:?} {order:?}"));
    Ok(())
}

#[subscriber(subject = "parameters.*.seen", queue = "second", group = "parameters")]
#[allow(clippy::too_many_arguments, reason = "every kind of parameter")]
async fn payload_first(
    OrderCreated { id, customer }: OrderCreated,
    tenant: Tenant,
    _shutdown: Shutdown,
    _publisher: Publisher,
    message: Message,
    info: Info,
    headers: Headers,
    subject: Subject,
    log: State<Recorder<String>>,
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
async fn borrowing(State(log): State<Recorder<String>>, order: OrderView<'_>, info: Info) {
    // The parameter is borrowed across an await.
    tokio::task::yield_now().await;
    log.add(format!("borrowing {} {} {}", order.id, order.customer, info.consumer()));
}

#[subscriber(subject = "parameters.*.seen", queue = "value", group = "parameters")]
async fn value(State(log): State<Recorder<String>>, value: serde_json::Value) {
    log.add(format!("value {} {}", value["id"], value["customer"]));
}

static BARE: AtomicUsize = AtomicUsize::new(0);

#[subscriber(subject = "parameters.*.seen", queue = "bare", group = "parameters")]
async fn bare() {
    BARE.fetch_add(1, Ordering::SeqCst);
}

#[tokio::test]
async fn parameters_work_in_any_order_and_number() {
    let server = Server::start().await;
    let log = Recorder::<String>::default();
    let broker = connect_with(&server, &log).await;
    let running = broker.start_groups(["parameters"]).await.unwrap();
    broker.publish_message("parameters.eu.seen", &order(7)).header("Tenant", "tenant-7").await.unwrap();
    for queue in ["first", "second", "borrowing", "value", "bare"] {
        server.all_acked("PARAMETERS", queue).await;
    }
    running.shutdown().await.unwrap();
    let mut lines = log.items();
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
async fn closure_takes_the_same_parameters() {
    let server = Server::start().await;
    let log = Recorder::<String>::default();
    let broker = connect_with(&server, &log).await;
    let closure = |order: OrderCreated,
                   tenant: Tenant,
                   State(log): State<Recorder<String>>,
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
    log.until("7 tenant-7 closure").await;
    server.all_acked("PARAMETERS", "closure").await;
    subscription.unsubscribe().await.unwrap();
}

#[subscriber(subject = "notes.taken", queue = "recording", group = "recording")]
async fn note(id: u64, State(log): State<Recorder<String>>) {
    log.add(format!("handled {id}"));
}

#[tokio::test]
async fn handler_can_still_be_called() {
    let log = Recorder::<String>::default();
    note(7, State(log.clone())).await;
    borrowing(State(log.clone()), OrderView { id: 1, customer: "Ada" }, Info::default()).await;
    assert_eq!(log.items(), ["handled 7", "borrowing 1 Ada "]);
    let calls = Recorder::<&str>::default();
    assert_eq!(own(State(calls.clone())).await.unwrap_err().to_string(), "the first time");
    own(State(calls)).await.unwrap();
}

#[tokio::test]
async fn blocking_handlers_run_in_parallel_beside_the_runtime() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    publish(&broker, "work.heavy", 0..8).await;
    let (calls, busy, most) = (Recorder::new(), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let handler = {
        let (calls, busy, most) = (calls.clone(), busy.clone(), most.clone());
        move |id: u64| {
            let (calls, busy, most) = (calls.clone(), busy.clone(), most.clone());
            async move {
                most.fetch_max(busy.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                std::thread::sleep(ms(200));
                busy.fetch_sub(1, Ordering::SeqCst);
                calls.add(id);
            }
        }
    };
    // The runtime has one thread; a timer that fires in time shows that it is not blocked.
    let subscribe = broker.subscribe("work.heavy", "heavy", handler).blocking().concurrency(4);
    let subscription = subscribe.await.unwrap();
    let mut longest = Duration::ZERO;
    while calls.counts().len() < 8 {
        let tick = Instant::now();
        tokio::time::sleep(ms(5)).await;
        longest = longest.max(tick.elapsed());
    }
    assert_eq!(most.load(Ordering::SeqCst), 4);
    assert!(longest < ms(150), "the runtime was blocked for {longest:?}");
    subscription.unsubscribe().await.unwrap();
}

#[tokio::test]
async fn blocking_call_over_its_timeout_is_retried_after_it_returns() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    publish(&broker, "work.stuck", 0..2).await;
    let (calls, first) = (Recorder::new(), Arc::new(AtomicUsize::new(0)));
    let handler = {
        let calls = calls.clone();
        move |id: u64| {
            let (calls, first) = (calls.clone(), first.clone());
            async move {
                if first.fetch_add(1, Ordering::SeqCst) == 0 {
                    std::thread::sleep(ms(900));
                }
                calls.add(id);
            }
        }
    };
    let subscribe = broker.subscribe("work.stuck", "stuck", handler).blocking().timeout(ms(200)).backoff(&[ms(50)]);
    let _subscription = subscribe.await.unwrap();
    eventually("message 0 is handled twice", SOON, async || (calls.counts().get(&0) == Some(&2)).then_some(())).await;
    calls.until_distinct(2).await;
}

#[tokio::test]
async fn blocking_handler_pulls_again_after_a_late_call() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    publish(&broker, "work.late", [0]).await;
    let calls = Recorder::new();
    let handler = {
        let calls = calls.clone();
        move |id: u64| {
            let calls = calls.clone();
            async move {
                calls.add(id);
                if id == 0 && calls.counts()[&0] == 1 {
                    std::thread::sleep(ms(1500));
                }
            }
        }
    };
    let subscribe = broker.subscribe("work.late", "late", handler).blocking().batch_size(1);
    let _subscription = subscribe.timeout(ms(200)).backoff(&[ms(50)]).await.unwrap();
    calls.until_distinct(1).await;
    publish(&broker, "work.late", 1..8).await;
    calls.until_distinct(8).await;
    eventually("message 0 is handled twice", SOON, async || (calls.counts()[&0] == 2).then_some(())).await;
}

/// Starts a process that runs the handlers of a group and prints the warnings of the library.
fn warning_worker(server: &Server, group: &str) -> Program {
    let url = server.url();
    Program::start(env!("CARGO_BIN_EXE_worker"), &[group], &[("NATS_URL", &url), ("JSH_TRACE", "warn")])
}

#[tokio::test]
async fn retry_delay_is_not_logged_as_blocking() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    publish(&broker, "work.failing", 0..2).await;
    let mut program = warning_worker(&server, "failing");
    program.until("tried 1").await;
    let output = program.output();
    assert!(output.contains("failed, retrying") && !output.contains("without an await"), "{output}");
}

#[tokio::test]
async fn handler_that_blocks_the_runtime_is_logged() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    // It waits without computing, which a process that was stopped does too, so that several calls are needed.
    publish(&broker, "work.blocked", 0..60).await;
    let mut program = warning_worker(&server, "blocking");
    program.until("blocked 0").await;
    let output = eventually("the warning is logged", SOON, async || {
        let output = program.output();
        output.contains("blocking = true").then_some(output)
    });
    assert!(output.await.contains("blocks_the_runtime"));
}

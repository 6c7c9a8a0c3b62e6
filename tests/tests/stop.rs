//! Signals, shutdowns and disconnects: running calls end, waiting messages are returned.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::process::ExitStatusExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures::TryStreamExt as _;
use jetstream_handlers::prelude::*;
use jetstream_handlers::{Error, ErrorKind, Problem, Settlement, Status, Subscribe, Subscription};
use jetstream_handlers_tests::{
    Program, Proxy, Recorder, SOON, Server, assert_error, connect, connect_with, dead_letters, dead_letters_of,
    eventually, ms, payload_of, publish, stream_config,
};
use tokio::sync::Semaphore;

/// Starts a process that runs the handlers of a group, and waits for its first pull request.
async fn worker(server: &Server, group: &str) -> Program {
    let worker = Program::start(env!("CARGO_BIN_EXE_worker"), &[group], &[("NATS_URL", &server.url())]);
    let client = server.jetstream().await;
    eventually("the worker pulls", SOON, async || {
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

/// Checks that a signal ends the process after the running call.
async fn ends_gracefully(signal: &str) {
    let server = Server::start().await;
    let mut worker = worker(&server, "finishing").await;
    let broker = connect(&server).await;
    publish(&broker, "work.long", [1]).await;
    worker.until("started 1").await;
    worker.signal(signal);
    let status = worker.ended().await;
    assert!(status.success(), "{status}: {}", worker.output());
    assert_eq!(worker.lines("finished "), ["1"], "{}", worker.output());
    let info = server.consumer_info("WORK", "finishing").await;
    assert_eq!((info.ack_floor.stream_sequence, info.num_ack_pending), (1, 0), "acked before the end");
}

#[tokio::test]
async fn sigterm_waits_for_running_calls() {
    ends_gracefully("TERM").await;
}

#[tokio::test]
async fn sigint_waits_for_running_calls() {
    ends_gracefully("INT").await;
}

#[tokio::test]
async fn signal_ends_an_idle_process_at_once() {
    let server = Server::start().await;
    let mut worker = worker(&server, "finishing").await;
    let started = Instant::now();
    worker.signal("TERM");
    let status = worker.ended().await;
    assert!(status.success(), "{status}: {}", worker.output());
    assert!(started.elapsed() < secs(5), "{:?}", started.elapsed());
}

#[tokio::test]
async fn second_signal_ends_the_process_at_once() {
    let server = Server::start().await;
    let mut worker = worker(&server, "stuck").await;
    let broker = connect(&server).await;
    publish(&broker, "work.long", [1]).await;
    worker.until("started 1").await;
    worker.signal("TERM");
    worker.until("stopping 1").await;
    let started = Instant::now();
    worker.signal("INT");
    let status = worker.ended().await;
    assert!(started.elapsed() < secs(10), "the grace period is 30 s: {:?}", started.elapsed());
    assert_eq!((status.success(), status.signal()), (false, None), "exited by itself: {status}");
    assert!(worker.output().contains("stopped by a second signal"), "{}", worker.output());
}

#[subscriber(subject = "notes.taken", queue = "recording", group = "recording")]
async fn note(id: u64, State(log): State<Recorder<String>>) {
    log.add(format!("handled {id}"));
}

#[tokio::test]
async fn disconnect_ends_run_groups() {
    let server = Server::start().await;
    let log = Recorder::<String>::default();
    let broker = connect_with(&server, &log).await;
    let run = tokio::spawn({
        let broker = broker.clone();
        async move { broker.run_groups(["recording"]).await }
    });
    publish(&broker, "notes.taken", [1]).await;
    log.until("handled 1").await;
    broker.disconnect().await.unwrap();
    tokio::time::timeout(SOON, run).await.unwrap().unwrap().unwrap();
}

/// Calls that wait for a permit of the test.
#[derive(Debug, Clone)]
struct Held {
    log: Recorder<String>,
    permits: Arc<Semaphore>,
}

impl Held {
    fn new() -> Self {
        Self { log: Recorder::<String>::default(), permits: Arc::new(Semaphore::new(0)) }
    }

    async fn call(&self, id: u64) {
        self.log.add(format!("started {id}"));
        self.permits.acquire().await.unwrap().forget();
        self.log.add(format!("finished {id}"));
    }
}

#[subscriber(subject = "held.created", queue = "held", group = "held")]
async fn held(id: u64, State(held): State<Held>) {
    held.call(id).await;
}

#[tokio::test]
async fn shutdown_waits_for_running_calls() {
    let server = Server::start().await;
    let held = Held::new();
    let broker = connect_with(&server, &held).await;
    let running = broker.start_groups(["held"]).await.unwrap();
    publish(&broker, "held.created", [1]).await;
    held.log.until("started 1").await;
    let mut shutdown = tokio::spawn(running.shutdown());
    let early = tokio::time::timeout(ms(200), &mut shutdown).await;
    assert!(early.is_err(), "the handler is still running");
    assert_eq!(held.log.items(), ["started 1"]);
    held.permits.add_permits(1);
    tokio::time::timeout(SOON, shutdown).await.unwrap().unwrap().unwrap();
    assert_eq!(held.log.items(), ["started 1", "finished 1"]);
    let info = server.consumer_info("HELD", "held").await;
    assert_eq!((info.ack_floor.stream_sequence, info.num_ack_pending), (1, 0), "the server has the ack");
    // The connection is still open.
    publish(&broker, "held.created", [2]).await;
    assert_eq!(held.log.items().len(), 2, "no handler runs");
}

#[tokio::test]
async fn call_over_the_grace_period_is_named_and_redelivered() {
    let server = Server::start().await;
    let (stuck, other) = (Held::new(), Held::new());
    let settled = Recorder::default();
    let hook = settled.clone();
    let builder = Broker::builder().servers([server.url()]).state(stuck.clone());
    let builder = builder.on_settled(move |event| hook.add((event.sequence, event.outcome, event.elapsed)));
    let broker = builder.shutdown_grace(ms(100)).connect().await.unwrap();
    let running = broker.start_groups(["held"]).await.unwrap();
    publish(&broker, "held.created", [1]).await;
    stuck.log.until("started 1").await;
    let started = Instant::now();
    let error = running.shutdown().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::GracePeriod, "{error}");
    for part in ["`stop::held`", "100ms"] {
        assert!(error.to_string().contains(part), "no {part:?} in {error}");
    }
    assert!(started.elapsed() < secs(5), "{:?}", started.elapsed());
    assert_eq!(settled.items(), [(1, Settlement::HandedBack, None)], "its end is reported once");
    // `ack_wait` is 30 s, so only a nakked message is redelivered in time.
    let second = connect_with(&server, &other).await;
    let running = second.start_groups(["held"]).await.unwrap();
    other.permits.add_permits(1);
    other.log.until("finished 1").await;
    running.shutdown().await.unwrap();
    assert_eq!(stuck.log.items(), ["started 1"], "the first call was cancelled");
}

#[subscriber(subject = "held.created", queue = "also-held", group = "both-held")]
async fn also_held(id: u64, State(held): State<Held>) {
    held.call(id).await;
}

#[subscriber(subject = "held.created", queue = "held-as-well", group = "both-held")]
async fn held_as_well(id: u64, State(held): State<Held>) {
    held.call(id).await;
}

#[tokio::test]
async fn handlers_share_one_grace_period() {
    let server = Server::start().await;
    let held = Held::new();
    let builder = Broker::builder().servers([server.url()]).state(held.clone());
    let broker = builder.shutdown_grace(secs(1)).connect().await.unwrap();
    let _running = broker.start_groups(["both-held"]).await.unwrap();
    publish(&broker, "held.created", [1]).await;
    held.log.until_times("started 1", 2).await;
    let started = Instant::now();
    let error = broker.disconnect().await.unwrap_err();
    assert!(started.elapsed() < ms(1900), "they stopped one after the other: {:?}", started.elapsed());
    let kinds: Vec<_> = error.problems().iter().map(Problem::kind).collect();
    assert_eq!(kinds, [ErrorKind::GracePeriod; 2], "{error}");
    for part in ["`stop::also_held`", "`stop::held_as_well`"] {
        assert!(error.to_string().contains(part), "no {part:?} in {error}");
    }
}

#[subscriber(subject = "shutdowns.awaited", queue = "attentive", group = "attentive")]
async fn attentive(id: u64, shutdown: Shutdown, State(log): State<Recorder<String>>) -> HandlerResult {
    assert!(!shutdown.is_requested());
    log.add(format!("started {id}"));
    shutdown.token().cancelled().await;
    log.add(format!("cancelled {id}"));
    assert!(shutdown.is_requested());
    Err(HandlerError::retry_after(Duration::ZERO, "stopping"))
}

#[tokio::test]
async fn handler_sees_the_shutdown_signal() {
    let server = Server::start().await;
    let log = Recorder::<String>::default();
    let broker = connect_with(&server, &log).await;
    let running = broker.start_groups(["attentive"]).await.unwrap();
    publish(&broker, "shutdowns.awaited", [1]).await;
    log.until("started 1").await;
    tokio::time::timeout(SOON, running.shutdown()).await.unwrap().unwrap();
    assert_eq!(log.items(), ["started 1", "cancelled 1"]);
    // The call failed, so the message is redelivered.
    let _running = broker.start_groups(["attentive"]).await.unwrap();
    log.until_times("started 1", 2).await;
}

#[tokio::test]
async fn disconnect_stops_handlers_and_closes_the_connection() {
    let server = Server::start().await;
    let held = Held::new();
    let broker = connect_with(&server, &held).await;
    let _running = broker.start_groups(["held"]).await.unwrap();
    publish(&broker, "held.created", [1]).await;
    held.log.until("started 1").await;
    held.permits.add_permits(1);
    broker.disconnect().await.unwrap();
    assert_eq!(held.log.items(), ["started 1", "finished 1"]);
    assert_eq!(server.consumer_info("HELD", "held").await.num_ack_pending, 0);
    eventually("the broker is not connected", SOON, async || (!broker.health().connected).then_some(())).await;
    assert!(!broker.health().is_healthy());
    assert_eq!(broker.health().handlers[0].status, Status::Stopped);
    assert_closed(broker.start_groups(["held"]).await);
    assert_closed(broker.run_groups(["held"]).await);
    assert_closed(broker.subscribe("held.created", "closure", async |_: u64| {}).await);
}

#[track_caller]
fn assert_closed<T>(result: Result<T, Error>) {
    let Err(error) = result else { panic!("no error") };
    assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
    assert!(error.to_string().contains("connect a new one"), "{error}");
}

#[tokio::test]
async fn second_disconnect_succeeds() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    broker.disconnect().await.unwrap();
    tokio::time::timeout(SOON, broker.disconnect()).await.unwrap().unwrap();
}

#[tokio::test]
async fn unsubscribe_after_a_disconnect_succeeds() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    let subscription = broker.subscribe("work.a", "worker", async |_: u64| {}).await.unwrap();
    assert!(broker.health().is_healthy());
    broker.disconnect().await.unwrap();
    let health = broker.health();
    assert_eq!(health.handlers[0].status, Status::Stopped);
    assert!(!health.is_healthy());
    subscription.unsubscribe().await.unwrap();
}

#[tokio::test]
async fn stopped_handler_can_be_started_again() {
    let server = Server::start().await;
    let log = Recorder::<String>::default();
    let broker = connect_with(&server, &log).await;
    for id in 1..=3 {
        let running = broker.start_groups(["recording"]).await.unwrap();
        publish(&broker, "notes.taken", [id]).await;
        log.until(format!("handled {id}")).await;
        running.shutdown().await.unwrap();
    }
    assert_eq!(log.items(), ["handled 1", "handled 2", "handled 3"]);
}

#[tokio::test]
async fn unsubscribe_keeps_the_consumer_and_its_progress() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    let log = Recorder::<String>::default();
    let recorder = log.clone();
    let closure = move |id: u64| {
        recorder.add(format!("handled {id}"));
        async {}
    };
    let subscription = broker.subscribe("notes.taken", "closure", closure).await.unwrap();
    publish(&broker, "notes.taken", [1, 2]).await;
    log.until("handled 2").await;
    subscription.unsubscribe().await.unwrap();
    publish(&broker, "notes.taken", [3]).await;
    let info = server.consumer_info("NOTES", "closure").await;
    assert_eq!((info.ack_floor.stream_sequence, info.num_pending, info.num_waiting), (2, 1, 0));
    assert_eq!(log.items(), ["handled 1", "handled 2"]);
}

#[tokio::test]
async fn health_follows_start_and_stop() {
    let server = Server::start().await;
    let log = Recorder::<String>::default();
    let broker = connect_with(&server, &log).await;
    assert!(broker.health().connected && !broker.health().is_healthy() && broker.health().handlers.is_empty());
    let running = broker.start_groups(["recording"]).await.unwrap();
    let health = broker.health();
    assert_eq!((health.connected, health.handlers.len()), (true, 1));
    assert_eq!((&*health.handlers[0].handler, &health.handlers[0].status), ("stop::note", &Status::Running));
    assert!(health.is_healthy());
    assert_eq!(health.to_string(), "connected\nstop::note: running");
    // A handler can run only once on a broker.
    let again = broker.start_groups(["recording"]).await;
    assert_error(again, ErrorKind::Config, &["stop::note", "runs on this broker already", "Running::shutdown"]);
    running.shutdown().await.unwrap();
    assert!(broker.health().handlers.is_empty(), "{}", broker.health());
    let _running = broker.start_groups(["recording"]).await.unwrap();
    broker.disconnect().await.unwrap();
    assert_eq!(broker.health().handlers[0].status, Status::Stopped);
    assert!(broker.health().to_string().contains("stop::note: stopped"), "{}", broker.health());
}

/// Starts a handler whose calls wait for a permit and then fail.
async fn subscribe_failing(broker: &Broker, calls: &Recorder, permits: &Arc<Semaphore>) -> Subscription {
    let (calls, permits) = (calls.clone(), permits.clone());
    let failing = move |id: u64| {
        let (calls, permits) = (calls.clone(), permits.clone());
        async move {
            calls.add(id);
            drop(permits.acquire().await);
            HandlerResult::<()>::Err("fails".into())
        }
    };
    let subscribe = broker.subscribe("work.failing", "failing", failing);
    subscribe.max_deliver(2).backoff(&[ms(20)]).await.unwrap()
}

#[tokio::test]
async fn messages_returned_by_a_stop_do_not_count_as_attempts() {
    let server = Server::start().await;
    let broker = Broker::connect(server.url()).await.unwrap();
    let (first, second) = (Recorder::new(), Recorder::new());
    let permits = Arc::new(Semaphore::new(0));
    let subscription = subscribe_failing(&broker, &first, &permits).await;
    for id in 1..=5 {
        broker.publish("work.failing", &id).await.unwrap();
    }
    first.until(1).await;
    server.ack_pending("WORK", "failing", 5).await;

    let other = Broker::connect(server.url()).await.unwrap();
    let open = Arc::new(Semaphore::new(1000));
    let successor = subscribe_failing(&other, &second, &open).await;
    let stopping = tokio::spawn(subscription.unsubscribe());
    let started = Instant::now();
    second.until(5).await;
    assert!(started.elapsed() < ms(500), "{:?}", started.elapsed());
    permits.add_permits(1);
    stopping.await.unwrap().unwrap();

    assert_eq!(dead_letters_of(&other, "closure on work.failing", 5).await.len(), 5);
    successor.unsubscribe().await.unwrap();
    assert_eq!(first.counts(), [(1, 1)].into());
    let expected: BTreeMap<_, _> = (1..=5).map(|id| (id, if id == 1 { 1 } else { 2 })).collect();
    assert_eq!(second.counts(), expected, "two attempts each, without the returned delivery");
}

#[tokio::test]
async fn repeated_stops_lose_no_waiting_message() {
    let server = Server::start().await;
    let tried = Recorder::new();
    // More stops than the five attempts of the handler and a small margin.
    for life in 0..31 {
        let broker = Broker::builder().servers([server.url()]).shutdown_grace(ms(10)).connect().await.unwrap();
        let recorder = tried.clone();
        let slow = move |id: u64| {
            recorder.add(id);
            std::future::pending::<()>()
        };
        let before = tried.len();
        let subscription = broker.subscribe("work.a", "worker", slow).await.unwrap();
        if life == 0 {
            publish(&broker, "work.a", 1..=9).await;
        }
        eventually("a call runs", SOON, async || (tried.len() > before).then_some(())).await;
        subscription.unsubscribe().await.unwrap_err();
        broker.disconnect().await.unwrap();
    }
    let broker = connect(&server).await;
    let handled = Recorder::new();
    let subscription = broker.subscribe("work.a", "worker", handled.handler()).await.unwrap();
    server.all_acked("WORK", "worker").await;
    let dead: BTreeSet<_> = dead_letters(&broker, 0).await.iter().map(payload_of).collect();
    let all: BTreeSet<_> = handled.distinct().union(&dead).copied().collect();
    assert_eq!(all, (1..=9).collect(), "handled {handled:?}, dead letters {dead:?}");
    assert!(dead.is_subset(&tried.distinct()), "dead letters {dead:?} of tried {tried:?}");
    subscription.unsubscribe().await.unwrap();
}

#[tokio::test]
async fn stop_over_a_slow_connection_loses_no_waiting_message() {
    let server = Server::start().await;
    server.jetstream().await.create_stream(stream_config("WORK", &["work.>"])).await.unwrap();
    let proxy = Proxy::start(server.address()).await;
    proxy.limit_rate(2_000_000);
    let (broker, other) = (connect(&proxy).await, connect(&server).await);
    let handled = Recorder::new();
    let recorder = handled.clone();
    let handler = move |(id, _padding): (u64, String)| {
        let handled = recorder.clone();
        async move {
            tokio::time::sleep(ms(1)).await;
            handled.add(id);
        }
    };
    let subscription =
        broker.subscribe("work.>", "worker", handler.clone()).batch_size(300).ack_wait(secs(60)).await.unwrap();
    for id in 0..600 {
        other.publish("work.a", &(id, "a".repeat(5000))).await.unwrap();
    }
    subscription.unsubscribe().await.unwrap();
    let before = handled.len();
    assert!(before < 600, "{before}");
    // What was on its way is not redelivered before the `ack_wait` unless it is handed back.
    let _subscription = other.subscribe("work.>", "worker", handler).ack_wait(secs(60)).await.unwrap();
    handled.until_distinct(600).await;
}

#[tokio::test]
async fn simultaneous_stops_dead_letter_no_untried_message() {
    let server = Server::start().await;
    let tried = Recorder::new();
    let permits = Arc::new(Semaphore::new(0));
    let start = async || {
        let broker = Broker::builder().servers([server.url()]).shutdown_grace(ms(300)).connect().await.unwrap();
        let (recorder, permits) = (tried.clone(), permits.clone());
        let handler = move |id: u64| {
            let (recorder, permits) = (recorder.clone(), permits.clone());
            async move {
                recorder.add(id);
                drop(permits.acquire().await);
            }
        };
        let subscription = broker.subscribe("work.a", "worker", handler).max_deliver(1).await.unwrap();
        (broker, subscription)
    };
    let mut instances = Vec::new();
    for _ in 0..4 {
        instances.push(start().await);
    }
    publish(&instances[0].0, "work.a", 1..=40).await;
    server.ack_pending("WORK", "worker", 40).await;
    let stops = instances.into_iter().map(|(_broker, subscription)| subscription.unsubscribe());
    let results = futures::future::join_all(stops).await;
    assert!(results.iter().all(Result::is_err), "the calls are still running: {results:?}");
    permits.add_permits(1000);
    let (broker, subscription) = start().await;
    server.all_acked("WORK", "worker").await;
    let dead: BTreeSet<_> = dead_letters(&broker, 0).await.iter().map(payload_of).collect();
    assert!(dead.is_subset(&tried.distinct()), "dead letters {dead:?} of tried {tried:?}");
    assert_eq!(tried.distinct(), (1..=40).collect());
    subscription.unsubscribe().await.unwrap();
}

#[tokio::test]
async fn stop_does_not_extend_a_retry_delay() {
    let server = Server::start().await;
    let calls = Recorder::new();
    let start = async || {
        let broker = connect(&server).await;
        let recorder = calls.clone();
        let second = move |id: u64| {
            let settle = if recorder.attempt(id) == 1 { Settle::RetryAfter(ms(500)) } else { Settle::Ack };
            std::future::ready(settle)
        };
        let subscription = broker.subscribe("work.a", "worker", second).await.unwrap();
        (broker, subscription)
    };
    let (broker, subscription) = start().await;
    publish(&broker, "work.a", [1]).await;
    calls.until(1).await;
    subscription.unsubscribe().await.unwrap();
    // Well before `ack_wait`, which a nak or an in-progress signal at the stop would restart.
    let (_broker, subscription) = start().await;
    calls.until_times(1, 2).await;
    server.all_acked("WORK", "worker").await;
    subscription.unsubscribe().await.unwrap();
}

#[tokio::test]
async fn stopping_handler_is_unhealthy() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    let permits = Arc::new(Semaphore::new(0));
    let calls = Recorder::new();
    let handler = {
        let (calls, permits) = (calls.clone(), permits.clone());
        move |id: u64| {
            let (recorder, permits) = (calls.clone(), permits.clone());
            async move {
                recorder.add(id);
                drop(permits.acquire().await);
            }
        }
    };
    let subscription = broker.subscribe("work.a", "worker", handler).await.unwrap();
    publish(&broker, "work.a", [1]).await;
    calls.until(1).await;
    let stopping = tokio::spawn(subscription.unsubscribe());
    eventually("the health says stopping", SOON, async || {
        let health = broker.health();
        (health.to_string().contains("stopping") && !health.is_healthy()).then_some(())
    })
    .await;
    permits.add_permits(1);
    stopping.await.unwrap().unwrap();
}

#[tokio::test]
async fn handler_started_during_a_disconnect_is_stopped() {
    let server = Server::start().await;
    for round in 0..40 {
        let broker = Broker::connect(server.url()).await.unwrap();
        let starting = tokio::spawn({
            let broker = broker.clone();
            async move { broker.subscribe("work.a", "worker", |_: u64| std::future::ready(())).await }
        });
        tokio::time::sleep(Duration::from_micros(round * 100)).await;
        broker.disconnect().await.ok();
        // Dropping the subscription would stop the handler.
        let started = starting.await.unwrap();
        if started.is_ok() {
            let health = broker.health().to_string();
            assert!(health.contains("stopped"), "round {round}: {health}");
        }
    }
}

#[tokio::test]
async fn stop_without_a_server_ends_after_the_grace_period() {
    let mut server = Server::start().await;
    let broker = Broker::builder()
        .servers([server.url()])
        .shutdown_grace(ms(300))
        .request_timeout(ms(500))
        .connect()
        .await
        .unwrap();
    let endless = |_: u64| std::future::pending::<()>();
    let _subscription = broker.subscribe("work.a", "worker", endless).batch_size(300).ack_wait(ms(1000)).await.unwrap();
    publish(&broker, "work.a", 0..300).await;
    server.ack_pending("WORK", "worker", 300).await;
    server.kill();
    eventually("the connection is lost", SOON, async || (!broker.health().connected).then_some(())).await;
    let started = Instant::now();
    let stopped = tokio::time::timeout(SOON, broker.disconnect()).await;
    let error = stopped.expect("it ends soon").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::GracePeriod, "{error}");
    assert!(started.elapsed() < secs(4), "{:?}", started.elapsed());
}

/// Publishes to `work.a` every few milliseconds until it is told to end.
///
/// A request for many messages is open for seconds then, and arrivals never pause for long.
async fn load(server: &Server, end: &AtomicBool) {
    let jetstream = server.jetstream().await;
    let mut pace = tokio::time::interval(ms(4));
    while !end.load(Ordering::Relaxed) {
        pace.tick().await;
        jetstream.publish("work.a", "1".into()).await.unwrap();
    }
}

/// Starts a handler of `work.a` three times, and stops it while messages arrive.
async fn stop_under_load(server: &Server, queue: &str, set: fn(Subscribe<'_>) -> Subscribe<'_>) {
    let broker = connect(server).await;
    for round in 1..=3 {
        let calls = Recorder::<u64>::new();
        let subscription = set(broker.subscribe("work.a", queue, calls.handler())).await.unwrap();
        calls.until_len(30).await;
        let begun = Instant::now();
        subscription.unsubscribe().await.unwrap();
        assert!(begun.elapsed() < ms(700), "round {round} of {queue}: {:?}", begun.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stop_under_load_takes_milliseconds() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    publish(&broker, "work.a", [0]).await;
    let end = AtomicBool::new(false);
    let stops = async {
        stop_under_load(&server, "worker", |subscribe| subscribe.batch_size(1000)).await;
        stop_under_load(&server, "in-order", |subscribe| subscribe.ordered()).await;
        end.store(true, Ordering::Relaxed);
    };
    futures::join!(load(&server, &end), stops);
    // `ack_wait` is 30 s, so a message that was in flight and has no answer would come too late.
    let begun = Instant::now();
    let subscription = broker.subscribe("work.a", "worker", async |_: u64| {}).await.unwrap();
    server.all_acked("WORK", "worker").await;
    assert!(begun.elapsed() < secs(20), "{:?}", begun.elapsed());
    subscription.unsubscribe().await.unwrap();
}

//! Signals, shutdowns and disconnects: running calls end, waiting messages are returned.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::process::ExitStatusExt as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::TryStreamExt as _;
use jetstream_handlers::prelude::*;
use jetstream_handlers::{Error, ErrorKind, Status, Subscription};
use jetstream_handlers_tests::{
    Program, Recorder, SOON, Server, assert_error, connect, connect_with, dead_letters, dead_letters_of, eventually,
    ms, payload_of, publish,
};
use tokio::sync::Semaphore;

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
    let info = server.consumer_info("WORK", "diligent").await;
    assert_eq!((info.ack_floor.stream_sequence, info.num_ack_pending), (1, 0), "it was acked before the end");
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
    let mut worker = worker(&server, "diligent").await;
    let begun = Instant::now();
    worker.signal("TERM");
    let status = worker.ended().await;
    assert!(status.success(), "{status}: {}", worker.output());
    assert!(begun.elapsed() < secs(5), "{:?}", begun.elapsed());
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
    let begun = Instant::now();
    worker.signal("INT");
    let status = worker.ended().await;
    assert!(begun.elapsed() < secs(10), "the grace period is 30 s: {:?}", begun.elapsed());
    assert_eq!((status.success(), status.signal()), (false, None), "it ended by itself: {status}");
    assert!(worker.output().contains("ended by a second signal"), "{}", worker.output());
}

#[subscriber(subject = "notes.taken", queue = "noting", group = "noting")]
async fn note(id: u64, State(log): State<Recorder<String>>) {
    log.add(format!("noted {id}"));
}

#[tokio::test]
async fn disconnect_ends_run_groups() {
    let server = Server::start().await;
    let log = Recorder::<String>::default();
    let broker = connect_with(&server, &log).await;
    let run = tokio::spawn({
        let broker = broker.clone();
        async move { broker.run_groups(["noting"]).await }
    });
    publish(&broker, "notes.taken", [1]).await;
    log.until("noted 1").await;
    broker.disconnect().await.unwrap();
    tokio::time::timeout(SOON, run).await.unwrap().unwrap().unwrap();
}

/// Handlers that wait until the test lets them go on.
#[derive(Debug, Clone)]
struct Gate {
    log: Recorder<String>,
    open: Arc<Semaphore>,
}

impl Gate {
    fn new() -> Self {
        Self { log: Recorder::<String>::default(), open: Arc::new(Semaphore::new(0)) }
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
async fn shutdown_waits_for_running_calls() {
    let server = Server::start().await;
    let gate = Gate::new();
    let broker = connect_with(&server, &gate).await;
    let running = broker.start_groups(["gated"]).await.unwrap();
    publish(&broker, "gates.reached", [1]).await;
    gate.log.until("started 1").await;
    let mut shutdown = tokio::spawn(running.shutdown());
    let early = tokio::time::timeout(ms(200), &mut shutdown).await;
    assert!(early.is_err(), "the handler is still running");
    assert_eq!(gate.log.items(), ["started 1"]);
    gate.open.add_permits(1);
    tokio::time::timeout(SOON, shutdown).await.unwrap().unwrap().unwrap();
    assert_eq!(gate.log.items(), ["started 1", "finished 1"]);
    let info = server.consumer_info("GATES", "gated").await;
    assert_eq!((info.ack_floor.stream_sequence, info.num_ack_pending), (1, 0), "the server has the ack");
    // The connection has stayed.
    publish(&broker, "gates.reached", [2]).await;
    assert_eq!(gate.log.items().len(), 2, "and nobody handles what comes over it");
}

#[tokio::test]
async fn call_over_the_grace_period_is_named_and_redelivered() {
    let server = Server::start().await;
    let (stuck, other) = (Gate::new(), Gate::new());
    let builder = Broker::builder().servers([server.url()]).state(stuck.clone());
    let broker = builder.shutdown_grace(ms(100)).connect().await.unwrap();
    let running = broker.start_groups(["gated"]).await.unwrap();
    publish(&broker, "gates.reached", [1]).await;
    stuck.log.until("started 1").await;
    let begun = Instant::now();
    let error = running.shutdown().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::GracePeriod, "{error}");
    for part in ["`stop::gated`", "100ms"] {
        assert!(error.to_string().contains(part), "no {part:?} in {error}");
    }
    assert!(begun.elapsed() < secs(5), "{:?}", begun.elapsed());
    // `ack_wait` is 30 s, so that only a message that was handed back comes within this time.
    let second = connect_with(&server, &other).await;
    let running = second.start_groups(["gated"]).await.unwrap();
    other.open.add_permits(1);
    other.log.until("finished 1").await;
    running.shutdown().await.unwrap();
    assert_eq!(stuck.log.items(), ["started 1"], "the first was cancelled");
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
async fn handlers_share_one_grace_period() {
    let server = Server::start().await;
    let gate = Gate::new();
    let builder = Broker::builder().servers([server.url()]).state(gate.clone());
    let broker = builder.shutdown_grace(secs(1)).connect().await.unwrap();
    let _running = broker.start_groups(["both-gated"]).await.unwrap();
    publish(&broker, "gates.reached", [1]).await;
    gate.log.until_times("started 1", 2).await;
    let begun = Instant::now();
    let error = broker.disconnect().await.unwrap_err();
    assert!(begun.elapsed() < ms(1900), "one after the other: {:?}", begun.elapsed());
    let kinds: Vec<_> = error.problems().iter().map(Error::kind).collect();
    assert_eq!(kinds, [ErrorKind::GracePeriod; 2], "{error}");
    for part in ["`stop::also_gated`", "`stop::gated_as_well`"] {
        assert!(error.to_string().contains(part), "no {part:?} in {error}");
    }
}

#[subscriber(subject = "shutdowns.awaited", queue = "attentive", group = "attentive")]
async fn attentive(id: u64, shutdown: Shutdown, State(log): State<Recorder<String>>) -> HandlerResult {
    assert!(!shutdown.is_requested());
    log.add(format!("started {id}"));
    shutdown.token().cancelled().await;
    log.add(format!("gave up {id}"));
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
    assert_eq!(log.items(), ["started 1", "gave up 1"]);
    // It has failed and not been acked.
    let _running = broker.start_groups(["attentive"]).await.unwrap();
    log.until_times("started 1", 2).await;
}

#[tokio::test]
async fn disconnect_stops_handlers_and_closes_the_connection() {
    let server = Server::start().await;
    let gate = Gate::new();
    let broker = connect_with(&server, &gate).await;
    let _running = broker.start_groups(["gated"]).await.unwrap();
    publish(&broker, "gates.reached", [1]).await;
    gate.log.until("started 1").await;
    gate.open.add_permits(1);
    broker.disconnect().await.unwrap();
    assert_eq!(gate.log.items(), ["started 1", "finished 1"]);
    assert_eq!(server.consumer_info("GATES", "gated").await.num_ack_pending, 0);
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
        let running = broker.start_groups(["noting"]).await.unwrap();
        publish(&broker, "notes.taken", [id]).await;
        log.until(format!("noted {id}")).await;
        running.shutdown().await.unwrap();
    }
    assert_eq!(log.items(), ["noted 1", "noted 2", "noted 3"]);
}

#[tokio::test]
async fn unsubscribe_keeps_the_consumer_and_its_progress() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    let log = Recorder::<String>::default();
    let noted = log.clone();
    let closure = move |id: u64| {
        noted.add(format!("noted {id}"));
        async {}
    };
    let subscription = broker.subscribe("notes.taken", "closure", closure).await.unwrap();
    publish(&broker, "notes.taken", [1, 2]).await;
    log.until("noted 2").await;
    subscription.unsubscribe().await.unwrap();
    publish(&broker, "notes.taken", [3]).await;
    let info = server.consumer_info("NOTES", "closure").await;
    assert_eq!((info.ack_floor.stream_sequence, info.num_pending, info.num_waiting), (2, 1, 0));
    assert_eq!(log.items(), ["noted 1", "noted 2"]);
}

#[tokio::test]
async fn health_follows_start_and_stop() {
    let server = Server::start().await;
    let log = Recorder::<String>::default();
    let broker = connect_with(&server, &log).await;
    assert!(broker.health().is_healthy() && broker.health().handlers.is_empty());
    let running = broker.start_groups(["noting"]).await.unwrap();
    let health = broker.health();
    assert_eq!((health.connected, health.handlers.len()), (true, 1));
    assert_eq!((&*health.handlers[0].handler, &health.handlers[0].status), ("stop::note", &Status::Running));
    assert!(health.is_healthy());
    assert_eq!(health.to_string(), "connected\nstop::note: running");
    // A function is one handler, however often it is started.
    let again = broker.start_groups(["noting"]).await;
    assert_error(again, ErrorKind::Config, &["stop::note", "runs on this broker already", "Running::shutdown"]);
    running.shutdown().await.unwrap();
    assert!(broker.health().handlers.is_empty(), "{}", broker.health());
    let _running = broker.start_groups(["noting"]).await.unwrap();
    broker.disconnect().await.unwrap();
    assert_eq!(broker.health().handlers[0].status, Status::Stopped);
    assert!(broker.health().to_string().contains("stop::note: stopped"), "{}", broker.health());
}

/// Runs a closure that fails, one message at a time, and is held at its first message until it is told to go on.
async fn subscribe_failing(broker: &Broker, calls: &Recorder, held: &Arc<tokio::sync::Semaphore>) -> Subscription {
    let (calls, held) = (calls.clone(), held.clone());
    let failing = move |id: u64| {
        let (calls, held) = (calls.clone(), held.clone());
        async move {
            calls.add(id);
            drop(held.acquire().await);
            HandlerResult::Err("fails".into())
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
    let held = Arc::new(tokio::sync::Semaphore::new(0));
    let subscription = subscribe_failing(&broker, &first, &held).await;
    for id in 1..=5 {
        broker.publish("work.failing", &id).await.unwrap();
    }
    first.until(1).await;
    let stream = server.jetstream().await.get_stream("WORK").await.unwrap();
    eventually("all are with the first worker", SOON, async || {
        (stream.consumer_info("failing").await.unwrap().num_ack_pending == 5).then_some(())
    })
    .await;

    let other = Broker::connect(server.url()).await.unwrap();
    let open = Arc::new(tokio::sync::Semaphore::new(1000));
    let successor = subscribe_failing(&other, &second, &open).await;
    let stopping = tokio::spawn(subscription.unsubscribe());
    let begun = Instant::now();
    second.until(5).await;
    assert!(begun.elapsed() < ms(500), "{:?}", begun.elapsed());
    held.add_permits(1);
    stopping.await.unwrap().unwrap();

    assert_eq!(dead_letters_of(&other, "closure on work.failing", 5).await.len(), 5);
    successor.unsubscribe().await.unwrap();
    assert_eq!(first.counts(), [(1, 1)].into());
    let expected: BTreeMap<_, _> = (1..=5).map(|id| (id, if id == 1 { 1 } else { 2 })).collect();
    assert_eq!(second.counts(), expected, "each was tried twice, not counting what was handed back");
}

#[tokio::test]
async fn repeated_stops_lose_no_waiting_message() {
    let server = Server::start().await;
    let tried = Recorder::new();
    // More often than the server once granted beyond the handler's own five deliveries.
    for life in 0..31 {
        let broker = Broker::builder().servers([server.url()]).shutdown_grace(ms(10)).connect().await.unwrap();
        let noted = tried.clone();
        let slow = move |id: u64| {
            noted.add(id);
            std::future::pending::<()>()
        };
        let before = tried.len();
        let subscription = broker.subscribe("work.a", "worker", slow).await.unwrap();
        if life == 0 {
            publish(&broker, "work.a", 1..=9).await;
        }
        eventually("one is in hand", SOON, async || (tried.len() > before).then_some(())).await;
        subscription.unsubscribe().await.unwrap_err();
        broker.disconnect().await.unwrap();
    }
    let broker = connect(&server).await;
    let handled = Recorder::new();
    let subscription = broker.subscribe("work.a", "worker", handled.handler()).await.unwrap();
    server.all_acked("WORK", "worker").await;
    let buried: BTreeSet<_> = dead_letters(&broker, 0).await.iter().map(payload_of).collect();
    let all: BTreeSet<_> = handled.distinct().union(&buried).copied().collect();
    assert_eq!(all, (1..=9).collect(), "handled {handled:?}, dead letters {buried:?}");
    assert!(buried.is_subset(&tried.distinct()), "dead letters {buried:?} of tried {tried:?}");
    subscription.unsubscribe().await.unwrap();
}

#[tokio::test]
async fn simultaneous_stops_dead_letter_no_untried_message() {
    let server = Server::start().await;
    let tried = Recorder::new();
    let gate = Arc::new(Semaphore::new(0));
    let start = async || {
        let broker = Broker::builder().servers([server.url()]).shutdown_grace(ms(300)).connect().await.unwrap();
        let (noted, gate) = (tried.clone(), gate.clone());
        let held = move |id: u64| {
            let (noted, gate) = (noted.clone(), gate.clone());
            async move {
                noted.add(id);
                drop(gate.acquire().await);
            }
        };
        let subscription = broker.subscribe("work.a", "worker", held).max_deliver(1).await.unwrap();
        (broker, subscription)
    };
    let mut replicas = Vec::new();
    for _ in 0..4 {
        replicas.push(start().await);
    }
    publish(&replicas[0].0, "work.a", 1..=40).await;
    let stream = server.jetstream().await.get_stream("WORK").await.unwrap();
    eventually("all are with the replicas", SOON, async || {
        (stream.consumer_info("worker").await.unwrap().num_ack_pending == 40).then_some(())
    })
    .await;
    let stops = replicas.into_iter().map(|(_broker, subscription)| subscription.unsubscribe());
    let results = futures::future::join_all(stops).await;
    assert!(results.iter().all(Result::is_err), "the handlers are held: {results:?}");
    gate.add_permits(1000);
    let (broker, subscription) = start().await;
    server.all_acked("WORK", "worker").await;
    let buried: BTreeSet<_> = dead_letters(&broker, 0).await.iter().map(payload_of).collect();
    assert!(buried.is_subset(&tried.distinct()), "dead letters {buried:?} of tried {tried:?}");
    assert_eq!(tried.distinct(), (1..=40).collect());
    subscription.unsubscribe().await.unwrap();
}

#[tokio::test]
async fn stop_does_not_extend_a_retry_delay() {
    let server = Server::start().await;
    let calls = Recorder::new();
    let start = async || {
        let broker = connect(&server).await;
        let noted = calls.clone();
        let second = move |id: u64| {
            let settle = if noted.attempt(id) == 1 { Settle::RetryAfter(ms(500)) } else { Settle::Ack };
            std::future::ready(settle)
        };
        let subscription = broker.subscribe("work.a", "worker", second).await.unwrap();
        (broker, subscription)
    };
    let (broker, subscription) = start().await;
    publish(&broker, "work.a", [1]).await;
    calls.until(1).await;
    subscription.unsubscribe().await.unwrap();
    // Well before its `ack_wait` of 30 seconds, which a word about it would begin anew.
    let (_broker, subscription) = start().await;
    calls.until_times(1, 2).await;
    server.all_acked("WORK", "worker").await;
    subscription.unsubscribe().await.unwrap();
}

#[tokio::test]
async fn stopping_handler_is_unhealthy() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    let gate = Arc::new(Semaphore::new(0));
    let (calls, held) = (Recorder::new(), gate.clone());
    let noted = calls.clone();
    let handler = move |id: u64| {
        let (noted, held) = (noted.clone(), held.clone());
        async move {
            noted.add(id);
            drop(held.acquire().await);
        }
    };
    let subscription = broker.subscribe("work.a", "worker", handler).await.unwrap();
    publish(&broker, "work.a", [1]).await;
    calls.until(1).await;
    let stopping = tokio::spawn(subscription.unsubscribe());
    eventually("it is stopping", SOON, async || {
        let health = broker.health();
        (health.to_string().contains("stopping") && !health.is_healthy()).then_some(())
    })
    .await;
    gate.add_permits(1);
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
        // Kept, because to drop it would stop the handler.
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
    let stream = server.jetstream().await.get_stream("WORK").await.unwrap();
    eventually("all are with the worker", SOON, async || {
        (stream.consumer_info("worker").await.unwrap().num_ack_pending == 300).then_some(())
    })
    .await;
    server.kill();
    eventually("the connection is lost", SOON, async || (!broker.health().connected).then_some(())).await;
    let begun = Instant::now();
    let stopped = tokio::time::timeout(SOON, broker.disconnect()).await;
    let error = stopped.expect("it ends soon").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::GracePeriod, "{error}");
    assert!(begun.elapsed() < secs(4), "{:?}", begun.elapsed());
}

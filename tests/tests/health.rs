//! The health of handlers that run and do not work.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, SystemTime};

use futures::StreamExt as _;
use futures::future::BoxFuture;
use jetstream_handlers::async_nats::{self, jetstream::consumer};
use jetstream_handlers::prelude::*;
use jetstream_handlers::{ErrorKind, Health, Status};
use jetstream_handlers_tests::{
    Proxy, Recorder, SOON, Server, assert_error, binary, connect, eventually, ms, publish, stream_config, until_health,
    users, worker,
};
use tokio::sync::Semaphore;

/// Blocks threads until it is opened.
#[derive(Clone, Default)]
struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    fn wait(&self) {
        let (open, opened) = &*self.0;
        drop(opened.wait_while(open.lock().unwrap(), |open| !*open).unwrap());
    }

    fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }
}

/// Opens a gate at the end of a test, even if it fails.
struct OpenOnDrop(Gate);

impl Drop for OpenOnDrop {
    fn drop(&mut self) {
        self.0.open();
    }
}

#[tokio::test]
async fn calls_that_block_beyond_their_timeout_are_degraded() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    let (gate, calls) = (Gate::default(), Recorder::new());
    let handler = {
        let (gate, calls) = (gate.clone(), calls.clone());
        move |id: u64| {
            calls.add(id);
            if id <= 2 {
                gate.wait();
            }
            std::future::ready(())
        }
    };
    let subscribe = broker.subscribe("work.a", "worker", handler).blocking().threads(2).timeout(ms(300));
    let subscription = subscribe.backoff(&[secs(3600)]).await.unwrap();
    publish(&broker, "work.a", [1]).await;
    calls.until(1).await;
    // One of two slots is free, which is no problem yet.
    publish(&broker, "work.a", [3]).await;
    calls.until(3).await;
    until_health(&broker, "a slot is free", |health| health.is_healthy() && health.handlers[0].busy_since.is_none())
        .await;
    publish(&broker, "work.a", [2]).await;
    let text = until_health(&broker, "no slot is free", |health| {
        matches!(health.handlers[0].status, Status::Degraded { .. }) && health.handlers[0].busy_since.is_some()
    })
    .await;
    assert!(text.contains("all 2 slots are taken by calls that still run after their timeout of 300ms"), "{text}");
    gate.open();
    until_health(&broker, "it is healthy again", Health::is_healthy).await;
    subscription.unsubscribe().await.unwrap();
}

#[test]
fn call_that_blocks_its_runtime_thread_is_degraded() {
    let test = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    // The handler has a runtime of its own, because its call would also block other tasks.
    let other = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (gate, calls) = (Gate::default(), Recorder::new());
    // Otherwise a failed test would wait for the call.
    let opened = OpenOnDrop(gate.clone());
    test.block_on(async {
        let server = Server::start().await;
        let broker = connect(&server).await;
        let handler = {
            let calls = calls.clone();
            move |id: u64| {
                calls.add(id);
                gate.wait();
                std::future::ready(())
            }
        };
        let starting = broker.clone();
        // The other slots stay free, because the blocked thread is that of the worker.
        let start =
            async move { starting.subscribe("work.a", "worker", handler).concurrency(4).ack_wait(secs(1)).await };
        let subscription = other.spawn(start).await.unwrap().unwrap();
        publish(&broker, "work.a", [1]).await;
        calls.until(1).await;
        let is_degraded = |health: &Health| matches!(health.handlers[0].status, Status::Degraded { .. });
        let text = until_health(&broker, "it is degraded", is_degraded).await;
        assert!(text.contains("blocks its runtime thread") && text.contains("blocking = true"), "{text}");
        drop(opened);
        until_health(&broker, "it is healthy again", Health::is_healthy).await;
        subscription.unsubscribe().await.unwrap();
    });
    other.shutdown_background();
}

/// Returns a handler that records each message, and waits for a permit.
fn waiting(calls: &Recorder<u64>, permits: &Arc<Semaphore>) -> impl Fn(u64) -> BoxFuture<'static, ()> + use<> {
    let (calls, permits) = (calls.clone(), permits.clone());
    move |id| {
        let (calls, permits) = (calls.clone(), permits.clone());
        Box::pin(async move {
            calls.add(id);
            permits.acquire().await.unwrap().forget();
        })
    }
}

#[tokio::test]
async fn long_calls_are_healthy_and_show_since_when_no_slot_is_free() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    let (calls, permits) = (Recorder::new(), Arc::new(Semaphore::new(0)));
    let handler = waiting(&calls, &permits);
    let subscription = broker.subscribe("work.a", "worker", handler).ack_wait(ms(300)).await.unwrap();
    publish(&broker, "work.a", [1]).await;
    calls.until(1).await;
    let began = broker.health().handlers[0].busy_since.unwrap();
    eventually("it runs for longer than twice its ack_wait", SOON, async || (began.elapsed() > ms(900)).then_some(()))
        .await;
    let health = broker.health();
    assert!(health.is_healthy(), "{health}");
    assert_eq!(health.handlers[0].busy_since, Some(began));
    permits.add_permits(1);
    server.all_acked("WORK", "worker").await;
    eventually("the slot is free", SOON, async || broker.health().handlers[0].busy_since.is_none().then_some(())).await;
    assert_eq!(calls.count(1), 1);
    subscription.unsubscribe().await.unwrap();
}

#[test]
fn handler_whose_runtime_was_shut_down_says_so() {
    let test = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let other = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    test.block_on(async {
        let server = Server::start().await;
        let broker = connect(&server).await;
        let starting = broker.clone();
        let start = other.spawn(async move { starting.subscribe("work.a", "worker", async |_: u64| {}).await });
        let subscription = start.await.unwrap().unwrap();
        other.shutdown_background();
        let text = until_health(&broker, "it has failed", |health| {
            matches!(health.handlers[0].status, Status::Failed { .. }) && !health.is_healthy() && !health.is_alive()
        })
        .await;
        assert!(text.contains("failed: the runtime on which it ran was shut down"), "{text}");
        let stopped = tokio::time::timeout(SOON, subscription.unsubscribe()).await.unwrap();
        assert_error(stopped, ErrorKind::Closed, &["`closure on work.a`", "runtime", "was shut down", "ack_wait"]);
    });
}

/// Pauses a consumer for this time.
async fn pause(server: &Server, queue: &str, time: Duration) {
    let stream = server.jetstream().await.get_stream("WORK").await.unwrap();
    stream.pause_consumer(queue, (SystemTime::now() + time).into()).await.unwrap();
}

#[tokio::test]
async fn paused_consumer_is_degraded_with_the_end_of_its_pause() {
    if binary::version() < (2, 11, 0) {
        return;
    }
    let server = Server::start().await;
    let broker = connect(&server).await;
    let calls = Recorder::<u64>::new();
    let subscription = broker.subscribe("work.a", "worker", calls.handler()).await.unwrap();
    let ordered = broker.subscribe("work.a", "ordered", calls.handler()).ordered().await.unwrap();
    publish(&broker, "work.a", [1]).await;
    calls.until_times(1, 2).await;
    let stream = server.jetstream().await.get_stream("WORK").await.unwrap();
    for (queue, handler) in [("worker", 0), ("ordered", 1)] {
        pause(&server, queue, secs(3600)).await;
        let text = until_health(&broker, "it is paused", |health| !health.is_healthy()).await;
        let until = stream.consumer_info(queue).await.unwrap().config.pause_until.unwrap();
        let (date, hour, minute, second) = (until.date(), until.hour(), until.minute(), until.second());
        let until = format!("{date}T{hour:02}:{minute:02}:{second:02}");
        assert!(text.contains(&format!("consumer `{queue}` of stream `WORK` is paused until {until}Z; ")), "{text}");
        let health = broker.health();
        assert!(matches!(health.handlers[handler].status, Status::Degraded { .. }), "{health}");
        assert_eq!(health.handlers.iter().map(|it| it.paused).collect::<Vec<_>>(), [handler == 0, handler == 1]);
        assert!(health.is_ready() && health.is_alive(), "a pause must not block a deployment: {health}");
        publish(&broker, "work.a", [2]).await;
        calls.until(2).await;
        assert!(!broker.health().is_healthy());
        stream.resume_consumer(queue).await.unwrap();
        calls.until_times(2, 2 * (handler + 1)).await;
        until_health(&broker, "it is resumed", Health::is_healthy).await;
    }
    // A pause that ends by itself.
    pause(&server, "worker", secs(2)).await;
    until_health(&broker, "it is paused", |health| !health.is_healthy()).await;
    until_health(&broker, "the pause has ended", Health::is_healthy).await;
    subscription.unsubscribe().await.unwrap();
    ordered.unsubscribe().await.unwrap();
}

#[tokio::test]
async fn pause_is_noticed_at_the_start_and_on_another_connection() {
    if binary::version() < (2, 11, 0) {
        return;
    }
    let mut server = Server::start().await;
    let broker = connect(&server).await;
    let calls = Recorder::<u64>::new();
    let subscription = broker.subscribe("work.a", "worker", calls.handler()).await.unwrap();
    subscription.unsubscribe().await.unwrap();
    pause(&server, "worker", secs(3600)).await;
    let subscription = broker.subscribe("work.a", "worker", calls.handler()).await.unwrap();
    let is_paused = |health: &Health| health.connected && health.to_string().contains("is paused until");
    until_health(&broker, "it is paused at the start", is_paused).await;
    server.restart().await;
    until_health(&broker, "it is still paused", is_paused).await;
    let resumed = async || {
        let stream = server.jetstream().await.get_stream("WORK").await.ok()?;
        stream.resume_consumer("worker").await.ok()
    };
    eventually("it is resumed", SOON, resumed).await;
    until_health(&broker, "it is healthy again", Health::is_healthy).await;
    subscription.unsubscribe().await.unwrap();
}

#[tokio::test]
async fn forged_pause_is_not_believed() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    let calls = Recorder::<u64>::new();
    let subscription = broker.subscribe("work.a", "worker", calls.handler()).await.unwrap();
    let client = server.client().await;
    let mut asked = client.subscribe("$JS.API.CONSUMER.INFO.WORK.worker").await.unwrap();
    client.flush().await.unwrap();
    for _ in 0..2 {
        let advisory = r#"{"stream":"WORK","consumer":"worker","paused":true,"pause_until":"2099-01-01T00:00:00Z"}"#;
        client.publish("$JS.EVENT.ADVISORY.CONSUMER.PAUSE.WORK.worker", advisory.into()).await.unwrap();
        client.flush().await.unwrap();
        tokio::time::timeout(SOON, asked.next()).await.unwrap().unwrap();
    }
    publish(&broker, "work.a", [1]).await;
    calls.until(1).await;
    assert!(broker.health().is_healthy(), "{}", broker.health());
    subscription.unsubscribe().await.unwrap();
}

#[tokio::test]
async fn instance_whose_requests_are_too_many_says_so() {
    let server = Server::start().await;
    let stream = server.jetstream().await.create_stream(stream_config("WORK", &["work.>"])).await.unwrap();
    let config = consumer::pull::Config {
        durable_name: Some("worker".into()),
        filter_subject: "work.a".into(),
        max_deliver: 10_000,
        max_waiting: 1,
        ..Default::default()
    };
    stream.create_consumer(config).await.unwrap();
    let (one, other) = (connect(&server).await, connect(&server).await);
    let calls = Recorder::<u64>::new();
    // No second request while the first one is open.
    let first = one.subscribe("work.a", "worker", calls.handler()).batch_size(1).await.unwrap();
    until_health(&one, "its request is served", |health| health.is_healthy()).await;
    let second = other.subscribe("work.a", "worker", calls.handler()).batch_size(1).await.unwrap();
    let text = until_health(&other, "it is crowded out", |health| health.to_string().contains("max_waiting")).await;
    let reason = "409 Exceeded MaxWaiting: the consumer serves 1 pull requests at a time (`max_waiting`)";
    assert!(text.contains("recovering") && text.contains(reason), "{text}");
    assert!(one.health().is_healthy(), "{}", one.health());
    publish(&one, "work.a", [1]).await;
    calls.until(1).await;
    first.unsubscribe().await.unwrap();
    until_health(&other, "it is served", Health::is_healthy).await;
    publish(&one, "work.a", [2]).await;
    calls.until(2).await;
    second.unsubscribe().await.unwrap();
}

#[test]
fn broker_whose_runtime_was_shut_down_is_not_alive() {
    let test = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let other = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    test.block_on(async {
        let server = Server::start().await;
        let url = server.url();
        let broker = other.spawn(async move { Broker::connect(url).await }).await.unwrap().unwrap();
        let subscription = broker.subscribe("work.a", "worker", async |_: u64| {}).await.unwrap();
        assert!(broker.health().is_alive() && broker.health().is_healthy());
        other.shutdown_background();
        let text = until_health(&broker, "it is not alive", |health| !health.connected && !health.is_alive()).await;
        let reason = "not connected: the runtime on which the broker has connected was shut down";
        assert!(text.starts_with(reason) && text.matches(reason).count() == 2, "{text}");
        drop(subscription);
    });
}

#[tokio::test]
async fn refused_credentials_are_the_reason_after_a_restart() {
    let mut server = Server::builder().config(&users("")).user("admin", "secret").start().await;
    let broker = worker(&server).connect().await.unwrap();
    let subscription = broker.subscribe("work.a", "worker", async |_: u64| {}).await.unwrap();
    assert!(broker.health().is_healthy() && broker.health().last_error.is_none(), "{}", broker.health());
    server.reload(&users("").replacen("user: worker, password: secret", "user: worker, password: changed", 1));
    server.restart().await;
    let reason = "not connected: authorization violation: the server refuses the credentials; check user, password";
    let text = until_health(&broker, "the credentials are refused", |health| {
        health.to_string().starts_with(reason) && matches!(health.handlers[0].status, Status::Recovering { .. })
    })
    .await;
    assert_eq!(text.matches(reason).count(), 2, "of the broker and of its handler: {text}");
    let health = broker.health();
    assert!(!health.is_ready() && health.is_alive(), "a restart does not change the password: {health}");
    let error = health.last_error.unwrap();
    assert!(error.at <= SystemTime::now() && error.error.starts_with("authorization violation"), "{error:?}");
    server.reload(&users(""));
    until_health(&broker, "it is healthy again", Health::is_healthy).await;
    assert!(broker.health().last_error.is_some(), "the last error is kept");
    subscription.unsubscribe().await.unwrap();
}

#[tokio::test]
async fn connection_limit_is_the_reason_after_a_lost_connection() {
    let server = Server::builder().config("max_connections: 1").start().await;
    let proxy = Proxy::start(server.address()).await;
    let broker = connect(&proxy).await;
    let subscription = broker.subscribe("work.a", "worker", async |_: u64| {}).await.unwrap();
    proxy.refuse();
    proxy.cut();
    until_health(&broker, "it is not connected", |health| !health.connected).await;
    // The only connection that the server accepts; it may take a while to notice that the other one is closed.
    let other = eventually("another client connects", SOON, async || {
        async_nats::ConnectOptions::new().connect(server.url()).await.ok()
    })
    .await;
    proxy.accept();
    let text = until_health(&broker, "the limit is reached", |health| {
        let limit = "maximum connections exceeded: the server accepts no more connections; raise `max_connections`";
        health.to_string().matches(limit).count() == 2
    })
    .await;
    assert!(text.starts_with("not connected: maximum connections exceeded"), "{text}");
    assert!(broker.health().is_alive());
    drop(other);
    until_health(&broker, "it is healthy again", Health::is_healthy).await;
    subscription.unsubscribe().await.unwrap();
}

#[tokio::test]
async fn permission_violation_is_the_last_error() {
    let permissions = r#"publish: { deny: ["secret.>"] }"#;
    let server = Server::builder().config(&users(permissions)).user("admin", "secret").start().await;
    let broker = worker(&server).connect().await.unwrap();
    let subscription = broker.subscribe("work.a", "worker", async |_: u64| {}).await.unwrap();
    let error = broker.publish("secret.a", &1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Authorization, "{error}");
    let is_known = |health: &Health| health.last_error.is_some();
    until_health(&broker, "the violation is known", is_known).await;
    let health = broker.health();
    let error = health.last_error.as_ref().unwrap();
    assert!(error.error.starts_with("the user may not publish to `secret.a`"), "{error:?}");
    assert!(health.connected && health.is_healthy(), "the connection goes on: {health}");
    let text = health.to_string();
    assert!(text.starts_with("connected, last error ") && text.contains(" ago: the user may not publish"), "{text}");
    subscription.unsubscribe().await.unwrap();
}

#[tokio::test]
async fn handlers_are_not_ready_while_they_stop() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    let (calls, permits) = (Recorder::new(), Arc::new(Semaphore::new(0)));
    let handler = waiting(&calls, &permits);
    let subscription = broker.subscribe("work.a", "worker", handler).await.unwrap();
    publish(&broker, "work.a", [1]).await;
    calls.until(1).await;
    assert!(broker.health().is_ready());
    let stopping = async {
        until_health(&broker, "it stops", |health| health.handlers[0].status == Status::Stopping).await;
        let health = broker.health();
        assert!(!health.is_ready() && health.is_alive(), "{health}");
        permits.add_permits(1);
    };
    let (stopped, ()) = futures::join!(subscription.unsubscribe(), stopping);
    stopped.unwrap();
}

#[tokio::test]
async fn long_call_does_not_block_its_thread_while_no_server_is_connected() {
    let mut server = Server::start().await;
    let broker = connect(&server).await;
    let (calls, permits) = (Recorder::new(), Arc::new(Semaphore::new(0)));
    let handler = waiting(&calls, &permits);
    let subscription = broker.subscribe("work.a", "worker", handler).ack_wait(secs(1)).await.unwrap();
    publish(&broker, "work.a", [1]).await;
    calls.until(1).await;
    server.kill();
    until_health(&broker, "the call runs for longer than twice its ack_wait", |health| {
        health.handlers[0].oldest_in_flight.is_some_and(|since| since.elapsed() > ms(2500))
    })
    .await;
    server.restart().await;
    until_health(&broker, "it is healthy again", |health| {
        assert!(!health.to_string().contains("blocks its runtime thread"), "{health}");
        health.is_healthy()
    })
    .await;
    permits.add_permits(2);
    subscription.unsubscribe().await.unwrap();
}

//! Workers recover when the server, the connection, the stream or the consumer goes away.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

use std::fs;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use futures::{FutureExt as _, StreamExt as _};
use jetstream_handlers::async_nats::jetstream::consumer::Config;
use jetstream_handlers::async_nats::jetstream::stream::RetentionPolicy;
use jetstream_handlers::prelude::*;
use jetstream_handlers::{Health, Subscription, stream};
use jetstream_handlers_tests::{
    Proxy, Recorder, SOON, Server, connect, eventually, ms, once_each, publish, stream_config, until_health,
};
use tokio::sync::Semaphore;

/// Starts a handler with four parallel calls on all subjects of the stream.
async fn subscribe(broker: &Broker, handled: &Recorder) -> Subscription {
    broker.subscribe("work.>", "worker", handled.handler()).concurrency(4).ack_wait(secs(2)).await.unwrap()
}

#[tokio::test]
async fn server_restart_loses_nothing() {
    let mut server = Server::start().await;
    let broker = connect(&server).await;
    let handled = Recorder::new();
    let subscription = subscribe(&broker, &handled).await;
    publish(&broker, "work.done", 0..50).await;
    server.kill();
    let text =
        until_health(&broker, "unhealthy without a connection", |health| !health.connected && !health.is_healthy())
            .await;
    assert!(text.contains("recovering for") && text.contains(": not connected"), "{text}");
    assert!(!text.contains("in flight"), "no message was in flight: {text}");
    // A publish that begins without a server ends when the server is back.
    let publishing = tokio::spawn({
        let broker = broker.clone();
        async move { publish(&broker, "work.done", 50..100).await }
    });
    server.restart().await;
    publishing.await.unwrap();
    handled.until_distinct(100).await;
    until_health(&broker, "healthy", Health::is_healthy).await;
    subscription.unsubscribe().await.unwrap();
    let mut stream = server.jetstream().await.get_stream("WORK").await.unwrap();
    assert_eq!(stream.info().await.unwrap().state.messages, 100, "stored once each");
}

#[tokio::test]
async fn frozen_server_is_unhealthy_until_it_resumes() {
    let mut server = Server::start().await;
    let broker = connect(&server).await;
    let handled = Recorder::new();
    let subscription = subscribe(&broker, &handled).await;
    publish(&broker, "work.done", 0..10).await;
    handled.until_distinct(10).await;
    server.freeze();
    let text = until_health(&broker, "unhealthy without heartbeats", |health| !health.is_healthy()).await;
    assert!(text.contains("recovering"), "{text}");
    server.thaw();
    publish(&broker, "work.done", 10..20).await;
    handled.until_distinct(20).await;
    until_health(&broker, "healthy", Health::is_healthy).await;
    subscription.unsubscribe().await.unwrap();
}

#[tokio::test]
async fn recreated_consumer_continues_where_the_deleted_one_was() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    let handled = Recorder::new();
    let subscription = subscribe(&broker, &handled).await;
    publish(&broker, "work.done", 0..50).await;
    handled.until_distinct(50).await;
    // Under load, the worker reads the position of its consumer from time to time.
    let mut requests = server.client().await.subscribe("$JS.API.CONSUMER.INFO.WORK.worker").await.unwrap();
    let mut next = 50;
    while futures::FutureExt::now_or_never(futures::StreamExt::next(&mut requests)).is_none() {
        publish(&broker, "work.done", next..next + 1).await;
        next += 1;
        tokio::time::sleep(ms(20)).await;
    }
    handled.until_distinct(next as usize).await;
    let stream = server.jetstream().await.get_stream("WORK").await.unwrap();
    let before = server.consumer_info("WORK", "worker").await.config;
    stream.delete_consumer("worker").await.unwrap();
    publish(&broker, "work.done", next..next + 5).await;
    handled.until_distinct(next as usize + 5).await;
    until_health(&broker, "healthy", Health::is_healthy).await;
    // It may start later in the stream than the deleted one, and its metadata says so; nothing else differs.
    let after = server.consumer_info("WORK", "worker").await.config;
    assert_eq!(Config { deliver_policy: before.deliver_policy, metadata: before.metadata.clone(), ..after }, before);
    let again: Vec<_> = handled.counts().into_iter().filter(|(_, count)| *count > 1).map(|(id, _)| id).collect();
    assert!(again.iter().all(|id| *id >= 50), "handled again: {again:?}");
    // The next start accepts the recreated consumer.
    subscription.unsubscribe().await.unwrap();
    let subscription = subscribe(&broker, &handled).await;
    subscription.unsubscribe().await.unwrap();

    // The sequences of a recreated stream start at 1, and none of them may be skipped.
    let subscription = subscribe(&broker, &handled).await;
    let jetstream = server.jetstream().await;
    let config = stream.cached_info().config.clone();
    jetstream.delete_stream("WORK").await.unwrap();
    jetstream.create_stream(config).await.unwrap();
    publish(&broker, "work.done", 1000..1005).await;
    for id in 1000..1005 {
        handled.until(id).await;
    }
    subscription.unsubscribe().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restored_consumer_repeats_only_what_has_not_ended() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    let handled = Recorder::new();
    let recorder = handled.clone();
    // Message 700 waits for its next attempt when the consumer is deleted.
    let handler = move |id: u64| {
        let first = recorder.attempt(id) == 1;
        std::future::ready(if id == 700 && first { Settle::RetryAfter(secs(3600)) } else { Settle::Ack })
    };
    let subscribe = broker.subscribe("work.>", "worker", handler).concurrency(4);
    let subscription = subscribe.await.unwrap();
    publish(&broker, "work.done", 0..1000).await;
    handled.until_distinct(1000).await;
    let stream = server.jetstream().await.get_stream("WORK").await.unwrap();
    for last in [1000, 1500] {
        eventually("all but one are acked", SOON, async || {
            let info = server.consumer_info("WORK", "worker").await;
            (info.num_ack_pending <= 1 && info.num_pending == 0).then_some(())
        })
        .await;
        stream.delete_consumer("worker").await.unwrap();
        publish(&broker, "work.done", last..last + 500).await;
        handled.until_distinct(last as usize + 500).await;
        until_health(&broker, "healthy", Health::is_healthy).await;
    }
    server.all_acked("WORK", "worker").await;
    let again: Vec<_> = handled.counts().into_iter().filter(|(_, count)| *count > 1).collect();
    assert_eq!(again, [(700, 2)]);
    subscription.unsubscribe().await.unwrap();
}

#[tokio::test]
async fn consumer_that_an_operator_made_anew_delivers_everything_again() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    let handled = Recorder::new();
    let subscription = subscribe(&broker, &handled).await;
    publish(&broker, "work.done", 0..50).await;
    handled.until_distinct(50).await;
    server.all_acked("WORK", "worker").await;
    // The worker finds the consumer that exists when it would restore its own.
    let config = server.consumer_info("WORK", "worker").await.config;
    let stream = server.jetstream().await.get_stream("WORK").await.unwrap();
    stream.delete_consumer("worker").await.unwrap();
    stream.create_consumer(config).await.unwrap();
    for id in 0..50 {
        handled.until_times(id, 2).await;
    }
    subscription.unsubscribe().await.unwrap();
}

#[tokio::test]
async fn deleted_stream_is_unhealthy_until_it_is_back() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    let handled = Recorder::new();
    let subscription = subscribe(&broker, &handled).await;
    let jetstream = server.jetstream().await;
    let config = jetstream.get_stream("WORK").await.unwrap().cached_info().config.clone();
    jetstream.delete_stream("WORK").await.unwrap();
    let text =
        until_health(&broker, "unhealthy without the stream", |health| health.to_string().contains("no such stream"))
            .await;
    assert!(text.contains("closure on work.>: recovering"), "{text}");
    jetstream.create_stream(config).await.unwrap();
    until_health(&broker, "healthy", Health::is_healthy).await;
    publish(&broker, "work.done", 0..5).await;
    handled.until_distinct(5).await;
    subscription.unsubscribe().await.unwrap();
}

/// A writer that collects the lines of the log.
#[derive(Debug, Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

impl io::Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().push(String::from_utf8_lossy(line).into_owned());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn missing_stream_causes_few_requests_and_log_lines() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    let subscription = subscribe(&broker, &Recorder::new()).await;
    let lines = Lines::default();
    let writer = lines.clone();
    let log = tracing_subscriber::fmt().with_writer(move || writer.clone()).finish();
    let watcher = server.client().await;
    let mut requests = watcher.subscribe("$JS.API.>").await.unwrap();
    let jetstream = server.jetstream().await;
    let _guard = tracing::subscriber::set_default(log);
    jetstream.delete_stream("WORK").await.unwrap();
    until_health(&broker, "unhealthy without the stream", |health| !health.is_healthy()).await;
    // The number of requests can only be observed over time.
    let end = Instant::now() + secs(5);
    let mut count = 0;
    while let Ok(Some(_)) = tokio::time::timeout_at(end.into(), futures::StreamExt::next(&mut requests)).await {
        count += 1;
    }
    assert!(count < 40, "{count} requests in 5 s");
    let lines = lines.0.lock().unwrap().clone();
    assert!(!lines.is_empty() && lines.len() < 15, "{} lines in 5 s: {lines:#?}", lines.len());
    drop(_guard);
    subscription.unsubscribe().await.unwrap();
}

#[tokio::test]
async fn revoked_permissions_are_unhealthy_until_restored() {
    // The store directory is in the file, because servers before 2.11 forget the flag at a reload.
    let store = tempfile::tempdir().unwrap();
    let account = |worker: &str| {
        format!(
            "jetstream {{ store_dir: {:?} }}
            accounts {{ APP {{ jetstream: enabled, users: [
                {{ user: admin, password: admin }},
                {{ user: worker, password: secret, permissions: {{ {worker} }} }} ] }} }}",
            store.path()
        )
    };
    let all = account("publish: [\">\"], subscribe: [\">\"]");
    let no_pulls = account("publish: { deny: [\"$JS.API.CONSUMER.MSG.NEXT.>\"] }, subscribe: [\">\"]");
    let mut server = Server::builder().without_jetstream().config(&all).user("admin", "admin").start().await;
    let broker = Broker::builder()
        .servers([server.url()])
        .connect_options(|options| options.user_and_password("worker".into(), "secret".into()))
        .fetch_wait(secs(1))
        .connect()
        .await
        .unwrap();
    let handled = Recorder::new();
    let subscription = subscribe(&broker, &handled).await;
    publish(&broker, "work.done", 0..5).await;
    handled.until_distinct(5).await;
    server.reload(&no_pulls);
    until_health(&broker, "unhealthy without permission to pull", |health| !health.is_healthy()).await;
    server.reload(&all);
    until_health(&broker, "healthy", Health::is_healthy).await;
    publish(&broker, "work.done", 5..10).await;
    handled.until_distinct(10).await;
    subscription.unsubscribe().await.unwrap();
}

#[tokio::test]
async fn deleted_consumer_of_a_work_queue_is_recreated() {
    let server = Server::start().await;
    let stream = server
        .jetstream()
        .await
        .create_stream(stream::Config { retention: RetentionPolicy::WorkQueue, ..stream_config("WORK", &["work.>"]) })
        .await
        .unwrap();
    let proxy = Proxy::start(server.address()).await;
    let broker = connect(&proxy).await;
    let publisher = connect(&server).await;
    let calls = Recorder::new();
    let subscription = broker.subscribe("work.a", "worker", calls.handler()).await.unwrap();
    publish(&publisher, "work.a", 1..=3).await;
    calls.until(3).await;
    server.all_acked("WORK", "worker").await;
    // After a reconnect, the worker reads the position of its consumer with the first message.
    let mut requests = server.client().await.subscribe("$JS.API.CONSUMER.INFO.WORK.worker").await.unwrap();
    proxy.cut();
    let mut last = 3;
    while requests.next().now_or_never().is_none() {
        last += 1;
        publish(&publisher, "work.a", [last]).await;
        tokio::time::sleep(ms(20)).await;
    }
    publish(&publisher, "work.a", [last + 1]).await;
    calls.until(last + 1).await;
    stream.delete_consumer("worker").await.unwrap();
    publish(&publisher, "work.a", last + 2..last + 5).await;
    for id in last + 2..last + 5 {
        calls.until(id).await;
    }
    subscription.unsubscribe().await.unwrap();
}

#[tokio::test]
async fn consumer_deleted_while_idle_does_not_restart_from_the_first_message() {
    let server = Server::start().await;
    let calls = Recorder::new();
    let broker = connect(&server).await;
    let subscription = broker.subscribe("work.a", "worker", calls.handler()).await.unwrap();
    publish(&broker, "work.a", 1..=20).await;
    calls.until(20).await;
    server.all_acked("WORK", "worker").await;
    subscription.unsubscribe().await.unwrap();
    let subscription = broker.subscribe("work.a", "worker", calls.handler()).await.unwrap();
    // An idle worker reads the position of its consumer as well.
    tokio::time::sleep(ms(300)).await;
    server.jetstream().await.get_stream("WORK").await.unwrap().delete_consumer("worker").await.unwrap();
    publish(&broker, "work.a", [21]).await;
    calls.until(21).await;
    assert_eq!(calls.counts(), once_each(1..=21));
    subscription.unsubscribe().await.unwrap();
}

#[tokio::test]
async fn recreated_consumer_keeps_operator_settings() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    let calls = Recorder::new();
    let subscription = broker.subscribe("work.a", "worker", calls.handler()).await.unwrap();
    server
        .change_consumer("WORK", "worker", |config| {
            config.max_ack_pending = 1;
            config.description = Some("in order".into());
        })
        .await;
    subscription.unsubscribe().await.unwrap();
    let subscription = broker.subscribe("work.a", "worker", calls.handler()).await.unwrap();
    let stream = server.jetstream().await.get_stream("WORK").await.unwrap();
    stream.delete_consumer("worker").await.unwrap();
    publish(&broker, "work.a", [1]).await;
    calls.until(1).await;
    let config = stream.consumer_info("worker").await.unwrap().config;
    assert_eq!((config.max_ack_pending, config.description.as_deref()), (1, Some("in order")));
    subscription.unsubscribe().await.unwrap();
}

/// Returns the processor time of the threads with this name, in hundredths of a second.
fn processor_time(name: &str) -> u64 {
    let threads = fs::read_dir("/proc/self/task").unwrap().map(|entry| entry.unwrap().path());
    let ours = threads.filter(|path| fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.trim_end() == name));
    ours.filter_map(|path| {
        let stat = fs::read_to_string(path.join("stat")).ok()?;
        let fields: Vec<_> = stat.rsplit(") ").next()?.split(' ').collect();
        Some(fields[11].parse::<u64>().ok()? + fields[12].parse::<u64>().ok()?)
    })
    .sum()
}

#[test]
fn closed_client_does_not_busy_loop() {
    // The threads are named, because other tests run in the same process, and the test waits outside of the
    // runtime, in case its threads never end.
    let name = "closed-client";
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).thread_name(name).enable_all().build().unwrap();
    let (broker, _subscription) = runtime.block_on(async {
        let mut server = Server::start().await;
        let broker = Broker::builder()
            .servers([server.url()])
            .connect_options(|options| options.max_reconnects(2))
            .fetch_wait(ms(500))
            .connect()
            .await
            .unwrap();
        let subscription = broker.subscribe("work.a", "worker", |_: u64| std::future::ready(())).await.unwrap();
        server.kill();
        (broker, subscription)
    });
    // The client gives up within this time.
    std::thread::sleep(ms(2000));
    let before = processor_time(name);
    std::thread::sleep(ms(1000));
    let used = processor_time(name) - before;
    let health = broker.health();
    runtime.shutdown_background();
    assert!(used < 30, "0.{used:02} s of processor time in a second; {health}");
    assert!(!health.connected && !health.is_healthy(), "{health}");
}

#[tokio::test]
async fn disconnected_worker_does_not_repeat_the_work_of_another() {
    for reconnected in [false, true] {
        let server = Server::start().await;
        let proxy = Proxy::start(server.address()).await;
        let one = connect(&proxy).await;
        let two = connect(&server).await;
        let (first, second, permits) = (Recorder::new(), Recorder::new(), Arc::new(Semaphore::new(0)));
        let (recorder, held) = (first.clone(), permits.clone());
        let handler = move |id: u64| {
            let (recorder, held) = (recorder.clone(), held.clone());
            async move {
                recorder.add(id);
                drop(held.acquire().await);
            }
        };
        let slow = one.subscribe("work.a", "worker", handler).ack_wait(ms(500)).await.unwrap();
        publish(&two, "work.a", 1..=5).await;
        let stream = server.jetstream().await.get_stream("WORK").await.unwrap();
        eventually("all are with the first worker", SOON, async || {
            (first.count(1) == 1 && stream.consumer_info("worker").await.unwrap().num_ack_pending == 5).then_some(())
        })
        .await;
        proxy.refuse();
        proxy.cut();
        let other = two.subscribe("work.a", "worker", second.handler()).ack_wait(ms(500)).await.unwrap();
        for id in 1..=5 {
            second.until(id).await;
        }
        if reconnected {
            proxy.accept();
            eventually("the first worker is connected", SOON, async || one.health().connected.then_some(())).await;
            // More than a third of `ack_wait`, after which the worker sends in-progress signals.
            tokio::time::sleep(ms(300)).await;
        }
        permits.add_permits(1000);
        tokio::time::sleep(ms(300)).await;
        assert_eq!(first.counts(), once_each([1]), "reconnected: {reconnected}");
        proxy.accept();
        slow.unsubscribe().await.unwrap();
        other.unsubscribe().await.unwrap();
    }
}

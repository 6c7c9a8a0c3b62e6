//! What an adversary once lost messages with, or brought a worker to a standstill with.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall say where")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::{FutureExt as _, StreamExt as _};
use jetstream_handlers::async_nats::jetstream::consumer::PullConsumer;
use jetstream_handlers::async_nats::jetstream::consumer::pull::Config;
use jetstream_handlers::async_nats::jetstream::stream::{DiscardPolicy, RetentionPolicy};
use jetstream_handlers::prelude::*;
use jetstream_handlers::{DeadLetter, ErrorKind, Subscription, stream};
use jetstream_handlers_tests::{Cluster, Program, Proxy, Server, eventually};
use tokio::sync::Semaphore;

const SOON: Duration = Duration::from_secs(15);

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// How often each message was handled.
#[derive(Debug, Clone, Default)]
struct Calls(Arc<Mutex<BTreeMap<u64, usize>>>);

impl Calls {
    /// Notes a call, and says which one of this message it is, from 1.
    fn add(&self, id: u64) -> usize {
        let mut counts = self.0.lock().unwrap();
        let count = counts.entry(id).or_default();
        *count += 1;
        *count
    }

    fn of(&self, id: u64) -> usize {
        self.0.lock().unwrap().get(&id).copied().unwrap_or_default()
    }

    fn counts(&self) -> BTreeMap<u64, usize> {
        self.0.lock().unwrap().clone()
    }

    fn ids(&self) -> BTreeSet<u64> {
        self.0.lock().unwrap().keys().copied().collect()
    }

    fn sum(&self) -> usize {
        self.0.lock().unwrap().values().sum()
    }

    async fn until(&self, id: u64, count: usize) {
        eventually(&format!("message {id} was handled {count} times"), SOON, async || {
            (self.of(id) >= count).then_some(())
        })
        .await;
    }
}

fn once_each(ids: impl IntoIterator<Item = u64>) -> BTreeMap<u64, usize> {
    ids.into_iter().map(|id| (id, 1)).collect()
}

fn work(retention: RetentionPolicy) -> stream::Config {
    stream::Config { name: "WORK".into(), subjects: vec!["work.>".into()], retention, ..Default::default() }
}

async fn connect(url: String) -> Broker {
    Broker::builder()
        .servers([url])
        .connect_options(|options| options.ignore_discovered_servers())
        .fetch_wait(Duration::from_secs(1))
        .connect()
        .await
        .unwrap()
}

/// Starts a handler that takes note of each message and is done with it.
async fn subscribe(broker: &Broker, calls: &Calls) -> Subscription {
    let calls = calls.clone();
    let note = move |id: u64| {
        calls.add(id);
        std::future::ready(())
    };
    broker.subscribe("work.a", "worker", note).await.unwrap()
}

async fn publish(broker: &Broker, ids: impl IntoIterator<Item = u64>) {
    for id in ids {
        broker.publish("work.a", &id).await.unwrap();
    }
}

async fn letters(broker: &Broker, count: usize) -> Vec<DeadLetter> {
    eventually(&format!("{count} dead letters"), SOON, async || {
        let letters = broker.dead_letters().list(100).await.unwrap();
        (letters.len() >= count).then_some(letters)
    })
    .await
}

fn id(letter: &DeadLetter) -> u64 {
    serde_json::from_slice(&letter.payload).unwrap()
}

/// Waits until every message of the consumer has ended.
async fn settled(server: &Server) {
    let stream = server.jetstream().await.get_stream("WORK").await.unwrap();
    eventually("nothing is pending", SOON, async || {
        let info = stream.consumer_info("worker").await.unwrap();
        (info.num_ack_pending == 0 && info.num_pending == 0).then_some(())
    })
    .await;
}

/// An operator changes the consumer under the worker.
async fn change_consumer(server: &Server, change: impl FnOnce(&mut Config)) {
    let stream = server.jetstream().await.get_stream("WORK").await.unwrap();
    let mut consumer: PullConsumer = stream.get_consumer("worker").await.unwrap();
    let found = consumer.info().await.unwrap().config.clone();
    let mut config = Config {
        durable_name: found.durable_name,
        filter_subject: found.filter_subject,
        ack_wait: found.ack_wait,
        max_deliver: found.max_deliver,
        max_ack_pending: found.max_ack_pending,
        ..Default::default()
    };
    change(&mut config);
    stream.update_consumer(config).await.unwrap();
}

/// Fills the stream of dead letters, or makes room in it.
async fn fill_letters(server: &Server, max_bytes: i64) {
    let jetstream = server.jetstream().await;
    let mut config = jetstream.get_stream("DLQ").await.unwrap().cached_info().config.clone();
    config.discard = DiscardPolicy::New;
    config.max_bytes = max_bytes;
    jetstream.update_stream(config).await.unwrap();
}

#[tokio::test]
async fn many_stops_behind_a_slow_message_lose_none_of_those_that_never_started() {
    let server = Server::start().await;
    let tried = Calls::default();
    // More often than the server once granted beyond the handler's own five deliveries.
    for life in 0..31 {
        let broker = Broker::builder().servers([server.url()]).shutdown_grace(ms(10)).connect().await.unwrap();
        let noted = tried.clone();
        let slow = move |id: u64| {
            noted.add(id);
            std::future::pending::<()>()
        };
        let before = tried.sum();
        let subscription = broker.subscribe("work.a", "worker", slow).await.unwrap();
        if life == 0 {
            publish(&broker, 1..=9).await;
        }
        eventually("one is in hand", SOON, async || (tried.sum() > before).then_some(())).await;
        subscription.unsubscribe().await.unwrap_err();
        broker.disconnect().await.unwrap();
    }
    let broker = connect(server.url()).await;
    let handled = Calls::default();
    let subscription = subscribe(&broker, &handled).await;
    settled(&server).await;
    let buried: BTreeSet<_> = letters(&broker, 0).await.iter().map(id).collect();
    let all: BTreeSet<_> = handled.ids().union(&buried).copied().collect();
    assert_eq!(all, (1..=9).collect(), "handled {handled:?}, dead letters {buried:?}");
    assert!(buried.is_subset(&tried.ids()), "dead letters {buried:?} of tried {tried:?}");
    subscription.unsubscribe().await.unwrap();
}

#[tokio::test]
async fn replicas_that_stop_at_once_leave_no_dead_letter_that_was_never_tried() {
    let server = Server::start().await;
    let tried = Calls::default();
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
    publish(&replicas[0].0, 1..=40).await;
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
    settled(&server).await;
    let buried: BTreeSet<_> = letters(&broker, 0).await.iter().map(id).collect();
    assert!(buried.is_subset(&tried.ids()), "dead letters {buried:?} of tried {tried:?}");
    assert_eq!(tried.ids(), (1..=40).collect());
    subscription.unsubscribe().await.unwrap();
}

#[tokio::test]
async fn a_stop_in_a_retry_delay_does_not_prolong_it() {
    let server = Server::start().await;
    let calls = Calls::default();
    let start = async || {
        let broker = connect(server.url()).await;
        let noted = calls.clone();
        let second = move |id: u64| {
            let settle = if noted.add(id) == 1 { Settle::RetryAfter(ms(500)) } else { Settle::Ack };
            std::future::ready(settle)
        };
        let subscription = broker.subscribe("work.a", "worker", second).await.unwrap();
        (broker, subscription)
    };
    let (broker, subscription) = start().await;
    publish(&broker, [1]).await;
    calls.until(1, 1).await;
    subscription.unsubscribe().await.unwrap();
    // Well before its `ack_wait` of 30 seconds, which a word about it would begin anew.
    let (_broker, subscription) = start().await;
    calls.until(1, 2).await;
    settled(&server).await;
    subscription.unsubscribe().await.unwrap();
}

#[tokio::test]
async fn a_stopping_handler_says_so_in_its_health() {
    let server = Server::start().await;
    let broker = connect(server.url()).await;
    let gate = Arc::new(Semaphore::new(0));
    let (calls, held) = (Calls::default(), gate.clone());
    let noted = calls.clone();
    let handler = move |id: u64| {
        let (noted, held) = (noted.clone(), held.clone());
        async move {
            noted.add(id);
            drop(held.acquire().await);
        }
    };
    let subscription = broker.subscribe("work.a", "worker", handler).await.unwrap();
    publish(&broker, [1]).await;
    calls.until(1, 1).await;
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
async fn a_handler_that_is_started_while_the_broker_disconnects_does_not_live_on() {
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
async fn a_stop_without_a_server_takes_the_grace_period_and_a_little() {
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
    publish(&broker, 0..300).await;
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
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_letter_too_large_for_the_server_goes_without_its_payload_and_is_replayed_with_it() {
    let server = Server::builder().config("max_payload: 8192").start().await;
    let broker = connect(server.url()).await;
    let replayed = Calls::default();
    let noted = replayed.clone();
    let large = move |message: Message, headers: Headers| {
        std::future::ready(match headers.get("Dead-Letter-Replay-Of") {
            None => Settle::Terminate,
            Some(_) => {
                noted.add(message.payload().len() as u64);
                Settle::Ack
            }
        })
    };
    let subscription = broker.subscribe("work.a", "worker", large).await.unwrap();
    let jetstream = server.jetstream().await;
    jetstream.publish("work.a", vec![b'x'; 8000].into()).await.unwrap().await.unwrap();
    let letter = letters(&broker, 1).await.remove(0);
    assert_eq!((letter.payload.len(), letter.stream_sequence), (0, 1));
    settled(&server).await;
    let raw = jetstream.get_stream("DLQ").await.unwrap().get_raw_message(letter.sequence).await.unwrap();
    assert_eq!(raw.headers.get("Dead-Letter-Payload-Omitted").map(|value| value.as_str()), Some("true"));
    broker.dead_letters().replay(letter.sequence).await.unwrap();
    replayed.until(8000, 1).await;
    assert!(letters(&broker, 0).await.is_empty(), "a replayed letter is gone");
    subscription.unsubscribe().await.unwrap();
}

#[tokio::test]
async fn a_letter_that_cannot_be_stored_does_not_hold_up_those_behind_it() {
    let server = Server::builder().config("max_payload: 8192").start().await;
    let broker = connect(server.url()).await;
    let subscription = subscribe(&broker, &Calls::default()).await;
    // What no consumer gets, for the server's word is put into its mouth.
    let jetstream = server.jetstream().await;
    jetstream.publish("work.b", vec![b'x'; 8000].into()).await.unwrap().await.unwrap();
    for id in 2..=6 {
        jetstream.publish("work.b", id.to_string().into()).await.unwrap().await.unwrap();
    }
    let plain = server.client().await;
    for sequence in 1..=6 {
        let advisory = format!("{{\"stream_seq\":{sequence},\"deliveries\":30}}");
        plain.publish("$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.WORK.worker", advisory.into()).await.unwrap();
    }
    plain.flush().await.unwrap();
    eventually("the other five are dead letters", SOON, async || {
        let letters = broker.dead_letters().list(100).await.unwrap();
        let sequences: BTreeSet<_> = letters.iter().map(|letter| letter.stream_sequence).collect();
        sequences.is_superset(&(2..=6).collect()).then_some(())
    })
    .await;
    subscription.unsubscribe().await.unwrap();
}

#[tokio::test]
async fn a_stream_of_dead_letters_that_was_full_for_long_loses_none() {
    let server = Server::start().await;
    let start = async || {
        let broker = Broker::builder().servers([server.url()]).publish_timeout(ms(200)).connect().await.unwrap();
        let failing = |_: u64| std::future::ready(HandlerResult::Err("fails".into()));
        let subscription =
            broker.subscribe("work.a", "worker", failing).max_deliver(1).backoff(&[ms(5)]).await.unwrap();
        (broker, subscription)
    };
    let (broker, subscription) = start().await;
    fill_letters(&server, 1).await;
    publish(&broker, [1]).await;
    // Long enough for more deliveries than the server once granted beyond the handler's own.
    tokio::time::sleep(ms(1600)).await;
    subscription.unsubscribe().await.unwrap();
    fill_letters(&server, -1).await;
    let (broker, subscription) = start().await;
    assert_eq!(letters(&broker, 1).await.iter().map(id).collect::<Vec<_>>(), [1]);
    settled(&server).await;
    subscription.unsubscribe().await.unwrap();
}

#[tokio::test]
async fn a_stream_that_forgets_what_nobody_wants_is_refused_for_dead_letters() {
    let server = Server::start().await;
    let config = stream::Config {
        name: "FAILED".into(),
        subjects: vec!["failed.>".into()],
        retention: RetentionPolicy::Interest,
        ..Default::default()
    };
    server.jetstream().await.create_stream(config).await.unwrap();
    let broker = connect(server.url()).await;
    let subscribe = broker.subscribe("work.a", "worker", |_: u64| std::future::ready(()));
    let error = subscribe.dead_letter(Some("failed.a")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StreamMismatch, "{error}");
    assert!(error.to_string().contains("`FAILED`"), "{error}");
}

#[tokio::test]
async fn a_replay_that_nobody_would_get_keeps_the_letter() {
    let server = Server::start().await;
    let stream = server.jetstream().await.create_stream(work(RetentionPolicy::Interest)).await.unwrap();
    let broker = connect(server.url()).await;
    let hopeless = |_: u64| std::future::ready(Settle::Terminate);
    let subscription = broker.subscribe("work.a", "worker", hopeless).await.unwrap();
    publish(&broker, [1]).await;
    let letter = letters(&broker, 1).await.remove(0);
    settled(&server).await;
    subscription.unsubscribe().await.unwrap();
    stream.delete_consumer("worker").await.unwrap();
    let error = broker.dead_letters().replay(letter.sequence).await.unwrap_err();
    assert!(error.to_string().contains("no consumer"), "{error}");
    assert_eq!(letters(&broker, 1).await.len(), 1);

    let calls = Calls::default();
    let subscription = subscribe(&broker, &calls).await;
    broker.dead_letters().replay(letter.sequence).await.unwrap();
    calls.until(1, 1).await;
    subscription.unsubscribe().await.unwrap();
}

#[tokio::test]
async fn the_stream_of_dead_letters_is_replicated_like_the_one_they_come_from() {
    let mut cluster = Cluster::start().await;
    let jetstream = cluster.jetstream().await;
    let replicated = stream::Config { num_replicas: 3, ..work(RetentionPolicy::Limits) };
    jetstream.create_stream(replicated).await.unwrap();
    let broker = Broker::builder().servers(cluster.urls()).connect().await.unwrap();
    let subscription = subscribe(&broker, &Calls::default()).await;
    assert_eq!(jetstream.get_stream("DLQ").await.unwrap().cached_info().config.num_replicas, 3);
    subscription.unsubscribe().await.unwrap();
}

#[tokio::test]
async fn a_deleted_consumer_of_a_work_queue_is_made_again() {
    let server = Server::start().await;
    let stream = server.jetstream().await.create_stream(work(RetentionPolicy::WorkQueue)).await.unwrap();
    let proxy = Proxy::start(server.address()).await;
    let broker = connect(proxy.url()).await;
    let publisher = connect(server.url()).await;
    let calls = Calls::default();
    let subscription = subscribe(&broker, &calls).await;
    publish(&publisher, 1..=3).await;
    calls.until(3, 1).await;
    settled(&server).await;
    // On a new connection the worker reads at its first message how far the consumer has come.
    let mut asked = server.client().await.subscribe("$JS.API.CONSUMER.INFO.WORK.worker").await.unwrap();
    proxy.cut();
    let mut last = 3;
    while asked.next().now_or_never().is_none() {
        last += 1;
        publish(&publisher, [last]).await;
        tokio::time::sleep(ms(20)).await;
    }
    publish(&publisher, [last + 1]).await;
    calls.until(last + 1, 1).await;
    stream.delete_consumer("worker").await.unwrap();
    publish(&publisher, last + 2..last + 5).await;
    for id in last + 2..last + 5 {
        calls.until(id, 1).await;
    }
    subscription.unsubscribe().await.unwrap();
}

#[tokio::test]
async fn a_consumer_deleted_under_an_idle_worker_does_not_begin_from_the_start() {
    let server = Server::start().await;
    let calls = Calls::default();
    let broker = connect(server.url()).await;
    let subscription = subscribe(&broker, &calls).await;
    publish(&broker, 1..=20).await;
    calls.until(20, 1).await;
    settled(&server).await;
    subscription.unsubscribe().await.unwrap();
    let subscription = subscribe(&broker, &calls).await;
    // It looks how far its consumer has come without being told to.
    tokio::time::sleep(ms(300)).await;
    server.jetstream().await.get_stream("WORK").await.unwrap().delete_consumer("worker").await.unwrap();
    publish(&broker, [21]).await;
    calls.until(21, 1).await;
    assert_eq!(calls.counts(), once_each(1..=21));
    subscription.unsubscribe().await.unwrap();
}

#[tokio::test]
async fn what_an_operator_has_set_survives_a_deleted_consumer() {
    let server = Server::start().await;
    let broker = connect(server.url()).await;
    let calls = Calls::default();
    let subscription = subscribe(&broker, &calls).await;
    change_consumer(&server, |config| {
        config.max_ack_pending = 1;
        config.description = Some("in order".into());
    })
    .await;
    subscription.unsubscribe().await.unwrap();
    let subscription = subscribe(&broker, &calls).await;
    let stream = server.jetstream().await.get_stream("WORK").await.unwrap();
    stream.delete_consumer("worker").await.unwrap();
    publish(&broker, [1]).await;
    calls.until(1, 1).await;
    let config = stream.consumer_info("worker").await.unwrap().config;
    assert_eq!((config.max_ack_pending, config.description.as_deref()), (1, Some("in order")));
    subscription.unsubscribe().await.unwrap();
}

#[tokio::test]
async fn a_short_limit_for_requests_does_not_make_them_many() {
    let server = Server::start().await;
    let broker = connect(server.url()).await;
    let calls = Calls::default();
    let subscription = subscribe(&broker, &calls).await;
    change_consumer(&server, |config| config.max_expires = ms(100)).await;
    publish(&broker, [1]).await;
    calls.until(1, 1).await;
    let mut requests = server.client().await.subscribe("$JS.API.CONSUMER.MSG.NEXT.>").await.unwrap();
    // It takes a second to find the limit, and one to count what is left.
    tokio::time::sleep(ms(1000)).await;
    while requests.next().now_or_never().is_some() {}
    let end = Instant::now() + ms(1000);
    let mut count = 0;
    while let Ok(Some(_)) = tokio::time::timeout_at(end.into(), requests.next()).await {
        count += 1;
    }
    assert!((1..60).contains(&count), "{count} requests in a second");
    publish(&broker, [2]).await;
    calls.until(2, 1).await;
    subscription.unsubscribe().await.unwrap();
}

#[tokio::test]
async fn a_failure_is_not_taken_for_that_of_another_message_in_a_stream_that_was_replaced() {
    let server = Server::start().await;
    let broker = Broker::builder()
        .servers([server.url()])
        .publish_timeout(ms(200))
        .fetch_wait(Duration::from_secs(1))
        .connect()
        .await
        .unwrap();
    let calls = Calls::default();
    let noted = calls.clone();
    let picky = move |id: u64| {
        noted.add(id);
        std::future::ready(if id == 1 { Settle::Terminate } else { Settle::Ack })
    };
    let subscription = broker.subscribe("work.a", "worker", picky).await.unwrap();
    fill_letters(&server, 1).await;
    let mut answers = server.client().await.subscribe("$JS.ACK.WORK.worker.>").await.unwrap();
    publish(&broker, [1]).await;
    let mut put_off = answers.by_ref().filter(|answer| std::future::ready(answer.payload.starts_with(b"-NAK")));
    tokio::time::timeout(SOON, put_off.next()).await.expect("its letter is put off").unwrap();
    let jetstream = server.jetstream().await;
    jetstream.delete_stream("WORK").await.unwrap();
    fill_letters(&server, -1).await;
    jetstream.create_stream(work(RetentionPolicy::Limits)).await.unwrap();
    let ack = jetstream.publish("work.a", "2".into()).await.unwrap().await.unwrap();
    assert_eq!(ack.sequence, 1);
    calls.until(2, 1).await;
    settled(&server).await;
    assert!(letters(&broker, 0).await.is_empty());
    subscription.unsubscribe().await.unwrap();
}

#[tokio::test]
async fn a_handler_that_kills_its_process_takes_no_innocent_message_with_it() {
    let server = Server::start().await;
    let broker = connect(server.url()).await;
    for id in 1..=6 {
        broker.publish("work.mixed", &id).await.unwrap();
    }
    let url = server.url();
    let start = || Program::start(env!("CARGO_BIN_EXE_killer_among_innocents"), &[], &[("NATS_URL", &url)]);
    let mut handled = BTreeSet::new();
    // Twice as it is allowed, and once alone.
    for life in 1..=3 {
        let mut program = start();
        let status = program.ended().await;
        assert!(!status.success(), "life {life} ended well: {}", program.output());
        handled.extend(program.lines("handled "));
    }
    let survivor = start();
    eventually("the innocent ones are handled", SOON, async || {
        let all: BTreeSet<_> = handled.iter().cloned().chain(survivor.lines("handled ")).collect();
        (all.len() == 5).then_some(())
    })
    .await;
    let letters = letters(&broker, 1).await;
    assert_eq!(letters.iter().map(|letter| (id(letter), letter.reason.as_str())).collect::<Vec<_>>(), [(1, "killed")]);
}

/// Panics when it is dropped before its time.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        assert!(std::thread::panicking(), "a bomb went off");
    }
}

#[tokio::test]
async fn a_panic_in_what_a_cancelled_handler_held_leaves_the_worker_alive() {
    let server = Server::start().await;
    let broker = connect(server.url()).await;
    let calls = Calls::default();
    let noted = calls.clone();
    let explosive = move |id: u64| {
        noted.add(id);
        async move {
            if id == 1 {
                let bomb = Bomb;
                std::future::pending::<()>().await;
                drop(bomb);
            }
        }
    };
    let subscription = broker
        .subscribe("work.a", "worker", explosive)
        .timeout(ms(100))
        .backoff(&[ms(20)])
        .max_deliver(2)
        .await
        .unwrap();
    publish(&broker, [1, 2]).await;
    calls.until(2, 1).await;
    let letter = letters(&broker, 1).await.remove(0);
    assert_eq!((id(&letter), letter.reason.as_str()), (1, "timeout"));
    settled(&server).await;
    assert!(broker.health().is_healthy(), "{}", broker.health());
    subscription.unsubscribe().await.unwrap();
}

#[tokio::test]
async fn an_endless_retry_delay_leaves_the_worker_alive_and_is_none_for_the_server_to_ignore() {
    let server = Server::start().await;
    let broker = connect(server.url()).await;
    let calls = Calls::default();
    let noted = calls.clone();
    let putting_off = move |id: u64| {
        noted.add(id);
        std::future::ready(match id {
            1 => Settle::RetryAfter(Duration::MAX),
            // More than fits in the server's count of nanoseconds.
            2 => Settle::RetryAfter(Duration::from_secs(10_000_000_000_000)),
            _ => Settle::Ack,
        })
    };
    let subscription = broker.subscribe("work.a", "worker", putting_off).ack_wait(ms(300)).await.unwrap();
    publish(&broker, [1, 2, 3]).await;
    calls.until(3, 1).await;
    // Twice the time after which a message comes again that was not answered.
    tokio::time::sleep(ms(600)).await;
    publish(&broker, [4]).await;
    calls.until(4, 1).await;
    assert_eq!(calls.counts(), once_each(1..=4));
    assert!(broker.health().is_healthy(), "{}", broker.health());
    subscription.unsubscribe().await.unwrap();
}

/// The processor time of the threads with this name, in hundredths of a second.
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
fn a_client_that_has_given_up_costs_no_processor_time_and_shows_in_the_health() {
    // Threads with a name, because others test at the same time; and the test waits outside, should they never end.
    let name = "given-up";
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
        let subscription = subscribe(&broker, &Calls::default()).await;
        server.kill();
        (broker, subscription)
    });
    // It gives up within a moment.
    std::thread::sleep(ms(2000));
    let before = processor_time(name);
    std::thread::sleep(ms(1000));
    let used = processor_time(name) - before;
    let health = broker.health();
    runtime.shutdown_background();
    assert!(used < 30, "0.{used:02} s of processor time in a second; {health}");
    assert!(!health.connected && !health.is_healthy(), "{health}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_batches_before_a_handler_that_blocks_are_handled_once_each() {
    let server = Server::start().await;
    let jetstream = server.jetstream().await;
    let stream = jetstream.create_stream(work(RetentionPolicy::Limits)).await.unwrap();
    for (batch, busy, count) in [(1000, 3, 500), (10, 60, 30)] {
        let consumer = format!("batch{batch}");
        let subject = format!("work.{consumer}");
        for id in 0..count {
            jetstream.publish(subject.clone(), id.to_string().into()).await.unwrap().await.unwrap();
        }
        let broker = connect(server.url()).await;
        let calls = Calls::default();
        let noted = calls.clone();
        let blocking = move |id: u64| {
            noted.add(id);
            std::thread::sleep(ms(busy));
            std::future::ready(())
        };
        let subscribe = broker.subscribe(&subject, &consumer, blocking);
        let subscription = subscribe.batch_size(batch).ack_wait(ms(500)).await.unwrap();
        eventually("all have ended", SOON, async || {
            let info = stream.consumer_info(&consumer).await.unwrap();
            (info.num_pending == 0 && info.num_ack_pending == 0).then_some(())
        })
        .await;
        assert_eq!(calls.counts(), once_each(0..count), "batches of {batch}");
        subscription.unsubscribe().await.unwrap();
    }
}

/// What waits in a worker that is cut off, and is handled by another meanwhile, is not handled again,
/// whether the worker is still cut off when it comes to it, or connected again.
#[tokio::test]
async fn a_worker_that_was_cut_off_does_not_handle_what_another_has_handled() {
    for reconnected in [false, true] {
        let server = Server::start().await;
        let proxy = Proxy::start(server.address()).await;
        let one = connect(proxy.url()).await;
        let two = connect(server.url()).await;
        let (first, second, gate) = (Calls::default(), Calls::default(), Arc::new(Semaphore::new(0)));
        let (noted, held) = (first.clone(), gate.clone());
        let handler = move |id: u64| {
            let (noted, held) = (noted.clone(), held.clone());
            async move {
                noted.add(id);
                drop(held.acquire().await);
            }
        };
        let slow = one.subscribe("work.a", "worker", handler).ack_wait(ms(500)).await.unwrap();
        publish(&two, 1..=5).await;
        let stream = server.jetstream().await.get_stream("WORK").await.unwrap();
        eventually("all are with the first worker", SOON, async || {
            (first.of(1) == 1 && stream.consumer_info("worker").await.unwrap().num_ack_pending == 5).then_some(())
        })
        .await;
        proxy.refuse();
        proxy.cut();
        let noted = second.clone();
        let quick = move |id: u64| {
            noted.add(id);
            std::future::ready(())
        };
        let other = two.subscribe("work.a", "worker", quick).ack_wait(ms(500)).await.unwrap();
        for id in 1..=5 {
            second.until(id, 1).await;
        }
        if reconnected {
            proxy.accept();
            eventually("it is connected again", SOON, async || one.health().connected.then_some(())).await;
            // More than a third of `ack_wait`, so that the server was told again what is in hand.
            tokio::time::sleep(ms(300)).await;
        }
        gate.add_permits(1000);
        tokio::time::sleep(ms(300)).await;
        assert_eq!(first.counts(), once_each([1]), "reconnected: {reconnected}");
        proxy.accept();
        slow.unsubscribe().await.unwrap();
        other.unsubscribe().await.unwrap();
    }
}

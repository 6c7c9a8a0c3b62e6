//! The pull engine: how much it holds, what many handlers share, and handlers that block.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall say where")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::{FutureExt as _, StreamExt as _};
use jetstream_handlers::prelude::*;
use jetstream_handlers::{Subscription, async_nats};
use jetstream_handlers_tests::{Program, Proxy, Server, binary, eventually};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(30);

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

async fn connect(server: &Server) -> Broker {
    Broker::builder().servers([server.url()]).fetch_wait(Duration::from_secs(1)).connect().await.unwrap()
}

async fn publish(broker: &Broker, subject: &str, ids: impl IntoIterator<Item = u64>) {
    for id in ids {
        broker.publish(subject, &id).await.unwrap();
    }
}

/// Counts how often each message was handled.
#[derive(Debug, Clone, Default)]
struct Calls(Arc<Mutex<BTreeMap<u64, usize>>>);

impl Calls {
    fn add(&self, id: u64) {
        *self.0.lock().unwrap().entry(id).or_default() += 1;
    }

    fn all(&self) -> BTreeMap<u64, usize> {
        self.0.lock().unwrap().clone()
    }

    async fn until(&self, count: usize) {
        eventually(&format!("{count} messages were handled"), SOON, async || (self.all().len() >= count).then_some(()))
            .await;
    }
}

/// The sizes of the requests that a handler sends.
async fn batches(server: &Server, consumer: &str) -> (async_nats::Subscriber, async_nats::Client) {
    let client = server.client().await;
    let subject = format!("$JS.API.CONSUMER.MSG.NEXT.WORK.{consumer}");
    let subscriber = client.subscribe(subject).await.unwrap();
    client.flush().await.unwrap();
    (subscriber, client)
}

async fn sizes(subscriber: &mut async_nats::Subscriber) -> Vec<u64> {
    let mut sizes = Vec::new();
    while let Ok(Some(request)) = tokio::time::timeout(ms(300), subscriber.next()).await {
        let request: Value = serde_json::from_slice(&request.payload).unwrap();
        sizes.push(request["batch"].as_u64().unwrap());
    }
    sizes
}

async fn note(broker: &Broker, subject: &str, queue: &str, calls: &Calls) -> Subscription {
    let calls = calls.clone();
    let handler = move |id: u64| {
        calls.add(id);
        async {}
    };
    broker.subscribe(subject, queue, handler).await.unwrap()
}

#[tokio::test]
async fn a_quick_handler_begins_with_ten_and_gets_hundreds_at_a_time() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    let results = broker.publish_all((0..20_000).map(|id| broker.publish_message("work.quick", &id))).await;
    assert!(results.iter().all(Result::is_ok));
    let (mut requests, _client) = batches(&server, "quick").await;
    let calls = Calls::default();
    let _subscription = note(&broker, "work.quick", "quick", &calls).await;
    calls.until(20_000).await;
    let sizes = sizes(&mut requests).await;
    assert_eq!(sizes[0], 11, "one that can start and ten in advance: {sizes:?}");
    assert!(sizes.iter().any(|size| *size >= 400), "{sizes:?}");
    assert!(sizes.len() < 200, "{} requests", sizes.len());
    assert!(calls.all().values().all(|count| *count == 1));
}

#[tokio::test]
async fn a_slow_handler_holds_no_more_than_it_can_start_soon() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    publish(&broker, "work.slow", 0..150).await;
    let (mut requests, _client) = batches(&server, "slow").await;
    let calls = Calls::default();
    let handler = {
        let calls = calls.clone();
        move |id: u64| {
            let calls = calls.clone();
            async move {
                tokio::time::sleep(ms(100)).await;
                calls.add(id);
            }
        }
    };
    let subscribe = broker.subscribe("work.slow", "slow", handler).ack_wait(Duration::from_secs(3));
    let _subscription = subscribe.await.unwrap();
    calls.until(150).await;
    // Half a second, a sixth of what the server waits, is time for five of them.
    let sizes = sizes(&mut requests).await;
    assert!(sizes.iter().skip(1).all(|size| *size <= 7), "{sizes:?}");
    assert!(calls.all().values().all(|count| *count == 1), "each once");
}

#[tokio::test]
async fn handlers_too_slow_to_hold_anything_in_advance_handle_everything() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    publish(&broker, "work.slow", 0..30).await;
    let mut running = Vec::new();
    for lanes in [1, 4] {
        let calls = Calls::default();
        let noted = calls.clone();
        let handler = move |id: u64| {
            let noted = noted.clone();
            async move {
                // Longer than what waits may wait, which is a sixth of the time for an ack in each of the lanes.
                tokio::time::sleep(ms(75 * lanes)).await;
                noted.add(id);
            }
        };
        let subscribe = broker.subscribe("work.slow", &format!("slow-{lanes}"), handler).ack_wait(ms(300));
        running.push((subscribe.concurrency(lanes.try_into().unwrap()).await.unwrap(), calls));
    }
    for (_, calls) in &running {
        calls.until(30).await;
    }
    // They ask as well when there was nothing to do for a while.
    tokio::time::sleep(ms(300)).await;
    publish(&broker, "work.slow", [99]).await;
    for (_, calls) in &running {
        calls.until(31).await;
    }
}

#[tokio::test]
async fn a_batch_size_that_is_given_stays() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    publish(&broker, "work.pinned", 0..500).await;
    let (mut requests, _client) = batches(&server, "pinned").await;
    let calls = Calls::default();
    let handler = {
        let calls = calls.clone();
        move |id: u64| {
            calls.add(id);
            async {}
        }
    };
    let _subscription = broker.subscribe("work.pinned", "pinned", handler).batch_size(20).await.unwrap();
    calls.until(500).await;
    assert!(sizes(&mut requests).await.iter().all(|size| *size <= 21));
}

#[tokio::test]
async fn a_hundred_handlers_share_two_inboxes_and_stop_one_by_one() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    let client = server.client().await;
    let mut requests = client.subscribe("$JS.API.CONSUMER.MSG.NEXT.>").await.unwrap();
    client.flush().await.unwrap();
    let calls = Calls::default();
    let mut subscriptions = Vec::new();
    for number in 0..100 {
        subscriptions.push(note(&broker, &format!("work.many.{number}"), &format!("many-{number}"), &calls).await);
    }
    let prefix = |subject: &str| subject.split('.').take(2).collect::<Vec<_>>().join(".");
    let inboxes: BTreeSet<String> =
        std::iter::from_fn(|| requests.next().now_or_never().flatten()).map(|it| prefix(&it.reply.unwrap())).collect();
    assert_eq!(inboxes.len(), 2);
    // While each in turn stops, the others lose nothing.
    let publisher = connect(&server).await;
    let publishing = async {
        for id in 0..400_u64 {
            publisher.publish(&format!("work.many.{}", 50 + id % 50), &id).await.unwrap();
        }
    };
    let rest = subscriptions.split_off(50);
    let stopping = async {
        for subscription in subscriptions {
            subscription.unsubscribe().await.unwrap();
        }
    };
    let begun = Instant::now();
    futures::join!(publishing, stopping);
    calls.until(400).await;
    assert!(begun.elapsed() < Duration::from_secs(25), "nothing waited for its ack_wait");
    let counts: BTreeSet<usize> = calls.all().into_values().collect();
    assert_eq!(counts, BTreeSet::from([1]), "each once");
    drop(rest);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_handler_goes_on_whose_neighbour_stops_while_it_computes() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    let (calls, begun, go_on) = (Calls::default(), Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
    let handler = {
        let (calls, begun, go_on) = (calls.clone(), begun.clone(), go_on.clone());
        move |id: u64| {
            let since = Instant::now();
            begun.store(true, Ordering::SeqCst);
            // Its task cannot hear of anything meanwhile.
            while !go_on.load(Ordering::SeqCst) && since.elapsed() < Duration::from_secs(5) {
                std::thread::sleep(ms(5));
            }
            calls.add(id);
            async {}
        }
    };
    let _computing = broker.subscribe("work.computing", "computing", handler).await.unwrap();
    let neighbour = broker.subscribe("work.other", "other", async |_: u64| {}).await.unwrap();
    publish(&broker, "work.computing", [0]).await;
    eventually("it computes", SOON, async || begun.load(Ordering::SeqCst).then_some(())).await;
    neighbour.unsubscribe().await.unwrap();
    // Time for the inbox to close.
    tokio::time::sleep(ms(300)).await;
    go_on.store(true, Ordering::SeqCst);
    publish(&broker, "work.computing", 1..10).await;
    calls.until(10).await;
    assert!(broker.health().is_healthy(), "{:?}", broker.health());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn handlers_go_on_whose_neighbour_stops_after_a_reconnect() {
    let server = Server::start().await;
    let proxy = Proxy::start(server.address()).await;
    let broker = Broker::builder().servers([proxy.url()]).fetch_wait(Duration::from_secs(1));
    let broker = broker.connect_options(|options| options.ignore_discovered_servers()).connect().await.unwrap();
    let publisher = connect(&server).await;
    let calls = Calls::default();
    let mut running = Vec::new();
    for number in 0..5 {
        running.push(note(&broker, &format!("work.stays.{number}"), &format!("stays-{number}"), &calls).await);
    }
    let mut neighbours = Vec::new();
    for number in 0..10 {
        neighbours.push(broker.subscribe("work.goes", &format!("goes-{number}"), async |_: u64| {}).await.unwrap());
    }
    // Some before, some while and some after the others have taken new inboxes.
    for (round, neighbour) in (0_u64..).zip(neighbours) {
        proxy.cut();
        tokio::time::sleep(ms(round * 30)).await;
        neighbour.unsubscribe().await.unwrap();
        for number in 0..5 {
            publish(&publisher, &format!("work.stays.{number}"), [round * 5 + number]).await;
        }
        calls.until(usize::try_from(round + 1).unwrap() * 5).await;
    }
}

#[tokio::test]
async fn blocking_handlers_run_beside_the_runtime_and_side_by_side() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    publish(&broker, "work.heavy", 0..8).await;
    let (calls, busy, most) = (Calls::default(), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
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
    // The test's runtime has one thread: that the timer goes on shows that it is free.
    let subscribe = broker.subscribe("work.heavy", "heavy", handler).blocking().concurrency(4);
    let subscription = subscribe.await.unwrap();
    let mut longest = Duration::ZERO;
    while calls.all().len() < 8 {
        let tick = Instant::now();
        tokio::time::sleep(ms(5)).await;
        longest = longest.max(tick.elapsed());
    }
    assert_eq!(most.load(Ordering::SeqCst), 4);
    assert!(longest < ms(150), "the runtime stood still for {longest:?}");
    subscription.unsubscribe().await.unwrap();
}

#[tokio::test]
async fn a_blocking_call_over_its_timeout_is_retried_when_its_thread_is_free() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    publish(&broker, "work.stuck", 0..2).await;
    let (calls, first) = (Calls::default(), Arc::new(AtomicUsize::new(0)));
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
    eventually("the first was called again", SOON, async || (calls.all().get(&0) == Some(&2)).then_some(())).await;
    calls.until(2).await;
}

#[tokio::test]
async fn a_thread_that_was_late_asks_for_more_when_it_is_free() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    publish(&broker, "work.late", [0]).await;
    let calls = Calls::default();
    let handler = {
        let calls = calls.clone();
        move |id: u64| {
            let calls = calls.clone();
            async move {
                calls.add(id);
                if id == 0 && calls.all()[&0] == 1 {
                    std::thread::sleep(ms(1500));
                }
            }
        }
    };
    let subscribe = broker.subscribe("work.late", "late", handler).blocking().batch_size(1);
    let _subscription = subscribe.timeout(ms(200)).backoff(&[ms(50)]).await.unwrap();
    calls.until(1).await;
    publish(&broker, "work.late", 1..8).await;
    calls.until(8).await;
    eventually("the first was called again", SOON, async || (calls.all()[&0] == 2).then_some(())).await;
}

/// A process that runs the handlers of a group, and prints the warnings of the library.
fn warning_worker(server: &Server, group: &str) -> Program {
    let url = server.url();
    Program::start(env!("CARGO_BIN_EXE_worker"), &[group], &[("NATS_URL", &url), ("JSH_TRACE", "warn")])
}

#[tokio::test]
async fn the_delay_between_attempts_is_no_time_of_computing() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    publish(&broker, "work.failing", 0..2).await;
    let mut program = warning_worker(&server, "failing");
    program.until("tried 1").await;
    let output = program.output();
    assert!(output.contains("failed, retrying") && !output.contains("computed for"), "{output}");
}

#[tokio::test]
async fn a_handler_that_blocks_the_runtime_is_named() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    publish(&broker, "work.blocked", 0..1).await;
    let mut program = warning_worker(&server, "blocking");
    program.until("blocked 0").await;
    let said = eventually("it is named", SOON, async || {
        let output = program.output();
        output.contains("blocking = true").then_some(output)
    });
    assert!(said.await.contains("blocks_the_runtime"));
}

#[tokio::test]
async fn ack_subjects_of_the_second_version_are_read_and_answered() {
    if binary::version() < (2, 14, 0) {
        // It knows the first version only.
        return;
    }
    let server = Server::builder().config("feature_flags { js_ack_fc_v2: true }").start().await;
    let broker = connect(&server).await;
    publish(&broker, "work.second", 0..300).await;
    let mut acks = server.client().await.subscribe("$JS.ACK.>").await.unwrap();
    let (plain, ordered) = (Calls::default(), Calls::default());
    let first = note(&broker, "work.second", "plain", &plain).await;
    plain.until(300).await;
    let ack = acks.next().await.unwrap();
    assert!(ack.subject.split('.').count() >= 11, "{}", ack.subject);
    let handler = {
        let ordered = ordered.clone();
        move |id: u64| {
            ordered.add(id);
            async {}
        }
    };
    let second = broker.subscribe("work.second", "ordered", handler).ordered().await.unwrap();
    ordered.until(300).await;
    first.unsubscribe().await.unwrap();
    second.unsubscribe().await.unwrap();
    let stream = server.jetstream().await.get_stream("WORK").await.unwrap();
    for consumer in ["plain", "ordered"] {
        let info = stream.consumer_info(consumer).await.unwrap();
        assert_eq!((info.num_ack_pending, info.ack_floor.stream_sequence), (0, 300), "{consumer}");
    }
}

#[tokio::test]
async fn a_running_handler_needs_no_more_than_to_ask_and_to_answer() {
    // In the file and not in the flags, which a server before 2.11 forgets at the reload.
    let store = tempfile::tempdir().unwrap();
    let config = |worker: &str| {
        format!(
            r#"jetstream {{ store_dir: {:?} }}
            accounts {{ APP {{ jetstream: enabled, users: [
                {{ user: admin, password: secret }},
                {{ user: worker, password: secret, permissions: {{ {worker} }} }} ] }} }}"#,
            store.path()
        )
    };
    let everything = config(r#"publish: ">", subscribe: ">""#);
    let mut server = Server::builder().without_jetstream().config(&everything).user("admin", "secret").start().await;
    let publisher = Broker::builder()
        .servers([server.url()])
        .connect_options(|options| options.user_and_password("admin".into(), "secret".into()))
        .connect()
        .await
        .unwrap();
    let worker = Broker::builder()
        .servers([server.url()])
        .connect_options(|options| options.user_and_password("worker".into(), "secret".into()))
        .connect()
        .await
        .unwrap();
    publish(&publisher, "work.least", 0..10).await;
    let calls = Calls::default();
    let _subscription = note(&worker, "work.least", "least", &calls).await;
    calls.until(10).await;
    server.reload(&config(
        r#"publish: ["$JS.API.CONSUMER.MSG.NEXT.WORK.least", "$JS.ACK.WORK.least.>"], subscribe: "_INBOX.>""#,
    ));
    eventually("the permissions are gone", SOON, async || server.log().contains("Reloaded").then_some(())).await;
    publish(&publisher, "work.least", 10..2000).await;
    calls.until(2000).await;
    assert!(calls.all().values().all(|count| *count == 1), "each once");
    let stream = server.jetstream().await.get_stream("WORK").await.unwrap();
    eventually("all are acked", SOON, async || {
        let info = stream.consumer_info("least").await.ok()?;
        (info.num_ack_pending == 0 && info.num_pending == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_lone_message_after_a_quiet_time_leaves_the_health_green() {
    let server = Server::start().await;
    // With the defaults: after five quiet seconds a request lives longer, and has a heartbeat less often.
    let broker = Broker::connect(server.url()).await.unwrap();
    broker.publish("work.quiet", &0).await.unwrap();
    let client = server.client().await;
    let mut requests = client.subscribe("$JS.API.CONSUMER.MSG.NEXT.WORK.quiet").await.unwrap();
    client.flush().await.unwrap();
    let calls = Calls::default();
    let _subscription = note(&broker, "work.quiet", "quiet", &calls).await;
    loop {
        let request: Value = serde_json::from_slice(&requests.next().await.unwrap().payload).unwrap();
        if request["expires"].as_u64().unwrap() > 20_000_000_000 {
            break;
        }
    }
    broker.publish("work.quiet", &1).await.unwrap();
    calls.until(2).await;
    let quiet = Instant::now();
    while quiet.elapsed() < Duration::from_secs(8) {
        assert!(broker.health().is_healthy(), "{} after {:?}", broker.health(), quiet.elapsed());
        tokio::time::sleep(ms(50)).await;
    }
}

//! The failure path on a real server: nothing lost, nothing in a loop, every end accounted for.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall say where")]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use jetstream_handlers::async_nats::jetstream::consumer::{self, PullConsumer};
use jetstream_handlers::prelude::*;
use jetstream_handlers::{DeadLetter, Subscription};
use jetstream_handlers_tests::{Proxy, Server, eventually};

const SOON: Duration = Duration::from_secs(15);

/// The calls of a handler: the message, and when.
#[derive(Debug, Clone, Default)]
struct Calls(Arc<Mutex<Vec<(u64, Instant)>>>);

impl Calls {
    /// Notes a call, and says which one of this message it is, from 1.
    fn add(&self, id: u64) -> usize {
        self.0.lock().unwrap().push((id, Instant::now()));
        self.of(id).len()
    }

    fn of(&self, id: u64) -> Vec<Instant> {
        self.0.lock().unwrap().iter().filter(|(other, _)| *other == id).map(|(_, at)| *at).collect()
    }

    fn by_message(&self) -> BTreeMap<u64, usize> {
        let mut counts = BTreeMap::new();
        self.0.lock().unwrap().iter().for_each(|(id, _)| *counts.entry(*id).or_default() += 1);
        counts
    }

    async fn until(&self, id: u64, count: usize) {
        eventually(&format!("message {id} was tried {count} times"), SOON, async || {
            (self.of(id).len() >= count).then_some(())
        })
        .await;
    }
}

async fn connect(server: &Server, calls: &Calls) -> Broker {
    Broker::builder().servers([server.url()]).state(calls.clone()).connect().await.unwrap()
}

async fn letters(broker: &Broker, handler: &str, count: usize) -> Vec<DeadLetter> {
    let letters = broker.dead_letters().for_handler(handler);
    eventually(&format!("{count} dead letters of {handler}"), SOON, async || {
        let letters = letters.list(100).await.unwrap();
        (letters.len() == count).then_some(letters)
    })
    .await
}

/// Waits until the server has no unanswered message of a consumer.
async fn settled(server: &Server, consumer: &str) {
    let stream = server.jetstream().await.get_stream("WORK").await.unwrap();
    eventually(&format!("{consumer} has nothing pending"), SOON, async || {
        let info = stream.consumer_info(consumer).await.unwrap();
        (info.num_ack_pending == 0 && info.num_pending == 0).then_some(())
    })
    .await;
}

#[subscriber(subject = "work.retried", queue = "retried", backoff = ["100ms", "300ms"])]
async fn retried(id: u64, State(calls): State<Calls>) -> HandlerResult {
    match calls.add(id) {
        1..=3 => Err("not yet".into()),
        _ => Ok(()),
    }
}

#[tokio::test]
async fn an_error_is_retried_after_the_backoff_whose_last_step_repeats() {
    let server = Server::start().await;
    let calls = Calls::default();
    let broker = connect(&server, &calls).await;
    let running = broker.include::<retried>().start_all().await.unwrap();
    broker.publish("work.retried", &1).await.unwrap();
    calls.until(1, 4).await;
    settled(&server, "retried").await;
    running.shutdown().await.unwrap();
    let at = calls.of(1);
    assert_eq!(at.len(), 4);
    for (pair, delay) in at.windows(2).zip([100, 300, 300]) {
        // A fifth of jitter either way; the machine may be slow, but never early.
        assert!(pair[1] - pair[0] >= Duration::from_millis(delay) * 79 / 100, "{:?}", pair[1] - pair[0]);
    }
    assert!(broker.dead_letters().list(100).await.unwrap().is_empty());
}

#[subscriber(subject = "work.later", queue = "later", backoff = ["1h"])]
async fn later(id: u64, State(calls): State<Calls>) -> HandlerResult {
    match calls.add(id) {
        1 => Err(HandlerError::retry_after(Duration::from_millis(200), "soon")),
        _ => Ok(()),
    }
}

#[tokio::test]
async fn a_handler_may_choose_the_delay() {
    let server = Server::start().await;
    let calls = Calls::default();
    let broker = connect(&server, &calls).await;
    let running = broker.include::<later>().start_all().await.unwrap();
    broker.publish("work.later", &1).await.unwrap();
    calls.until(1, 2).await;
    running.shutdown().await.unwrap();
    let at = calls.of(1);
    assert!(at[1] - at[0] >= Duration::from_millis(195), "{:?}", at[1] - at[0]);
}

#[derive(Debug)]
struct Outer(std::io::Error);

impl std::fmt::Display for Outer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("storing the order")
    }
}

impl std::error::Error for Outer {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

#[subscriber(subject = "work.hopeless", queue = "hopeless", max_deliver = 3, backoff = ["20ms"])]
async fn hopeless(id: u64, State(calls): State<Calls>) -> Result<(), Outer> {
    calls.add(id);
    Err(Outer(std::io::Error::other("disk full")))
}

#[tokio::test]
async fn an_exhausted_message_is_a_dead_letter_with_its_whole_story() {
    let server = Server::start().await;
    let calls = Calls::default();
    let broker = connect(&server, &calls).await;
    let running = broker.include::<hopeless>().start_all().await.unwrap();
    let ack = broker
        .publish_message("work.hopeless", &7)
        .header("Tenant", "eu")
        .header("Tenant", "us")
        .message_id("seven")
        .await
        .unwrap();
    let letter = letters(&broker, "hopeless", 1).await.remove(0);
    assert_eq!(letter.reason.as_str(), "error");
    assert_eq!(letter.error, "storing the order: disk full");
    assert_eq!(letter.handler, "failure::hopeless");
    assert_eq!((letter.stream.as_str(), letter.stream_sequence), ("WORK", ack.sequence));
    assert_eq!((letter.subject.as_str(), letter.consumer.as_str()), ("work.hopeless", "hopeless"));
    assert_eq!(letter.delivered, 3);
    assert_eq!(&letter.payload[..], b"7");
    assert_eq!((letter.header("Tenant"), letter.header("Nats-Msg-Id")), (Some("eu"), Some("seven")));
    settled(&server, "hopeless").await;
    running.shutdown().await.unwrap();
    assert_eq!(calls.of(7).len(), 3);

    // As a plain client sees it: the subject, the headers of the design, limits retention.
    let jetstream = server.jetstream().await;
    let mut stream = jetstream.get_stream("DLQ").await.unwrap();
    let raw = stream.get_raw_message(letter.sequence).await.unwrap();
    assert_eq!(&*raw.subject, "dlq.WORK.hopeless");
    for header in ["Reason", "Error", "Stream", "Sequence", "Subject", "Consumer", "Delivered", "Handler", "Time"] {
        assert!(raw.headers.get(format!("Dead-Letter-{header}").as_str()).is_some(), "{header}");
    }
    assert_eq!(stream.info().await.unwrap().config.retention, jetstream_handlers::stream::RetentionPolicy::Limits);
}

#[subscriber(subject = "work.refused", queue = "refused")]
async fn refused(id: u64, State(calls): State<Calls>) -> HandlerResult {
    calls.add(id);
    Err(HandlerError::terminate("no such customer"))
}

#[tokio::test]
async fn a_terminated_message_is_a_dead_letter_at_once() {
    let server = Server::start().await;
    let calls = Calls::default();
    let broker = connect(&server, &calls).await;
    let terminated = server.client().await;
    let advisory = "$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED.WORK.refused";
    let mut terminated = terminated.subscribe(advisory).await.unwrap();
    let running = broker.include::<refused>().start_all().await.unwrap();
    broker.publish("work.refused", &1).await.unwrap();
    assert_eq!(letters(&broker, "refused", 1).await[0].error, "no such customer");
    settled(&server, "refused").await;
    running.shutdown().await.unwrap();
    assert_eq!(calls.of(1).len(), 1);
    let advisory = futures::StreamExt::next(&mut terminated).await.unwrap();
    let advisory = String::from_utf8_lossy(&advisory.payload).into_owned();
    assert!(advisory.contains(r#""reason":"no such customer""#), "{advisory}");
}

#[tokio::test]
async fn an_undecodable_payload_is_a_dead_letter_at_once_with_its_bytes() {
    let server = Server::start().await;
    let calls = Calls::default();
    let broker = connect(&server, &calls).await;
    let running = broker.include::<refused>().start_all().await.unwrap();
    let jetstream = server.jetstream().await;
    jetstream.publish("work.refused", "{\"id\": oops".into()).await.unwrap().await.unwrap();
    let letter = letters(&broker, "refused", 1).await.remove(0);
    assert_eq!((letter.reason.as_str(), &letter.payload[..]), ("undecodable", &b"{\"id\": oops"[..]));
    assert!(letter.error.contains("u64") && letter.error.contains("line 1"), "{}", letter.error);
    settled(&server, "refused").await;
    running.shutdown().await.unwrap();
    assert!(calls.by_message().is_empty(), "the handler must not run");
}

#[subscriber(subject = "work.panicking", queue = "panicking", max_deliver = 2, backoff = ["20ms"], concurrency = 2)]
async fn panicking(id: u64, State(calls): State<Calls>) {
    calls.add(id);
    assert!(id != 13, "unlucky {id}");
}

#[tokio::test]
async fn a_panic_is_a_retry_and_leaves_the_neighbours_alone() {
    let server = Server::start().await;
    let calls = Calls::default();
    let broker = connect(&server, &calls).await;
    let running = broker.include::<panicking>().start_all().await.unwrap();
    for id in 10..20 {
        broker.publish("work.panicking", &id).await.unwrap();
    }
    let letter = letters(&broker, "panicking", 1).await.remove(0);
    assert_eq!((letter.reason.as_str(), letter.error.as_str()), ("panic", "panicked: unlucky 13"));
    settled(&server, "panicking").await;
    running.shutdown().await.unwrap();
    let expected: BTreeMap<_, _> = (10..20).map(|id| (id, if id == 13 { 2 } else { 1 })).collect();
    assert_eq!(calls.by_message(), expected);
}

/// Counts the futures that were dropped before their end.
struct Dropped(Arc<AtomicUsize>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn a_handler_over_its_timeout_is_cancelled_and_its_message_retried() {
    let server = Server::start().await;
    let broker = Broker::connect(server.url()).await.unwrap();
    let dropped = Arc::new(AtomicUsize::new(0));
    let counter = dropped.clone();
    let hanging = move |_: u64| {
        let guard = Dropped(counter.clone());
        async move {
            std::future::pending::<()>().await;
            drop(guard);
        }
    };
    let subscription = broker
        .subscribe("work.hanging", "hanging", hanging)
        .timeout(Duration::from_millis(100))
        .backoff(&[Duration::from_millis(10)])
        .max_deliver(2)
        .await
        .unwrap();
    broker.publish("work.hanging", &1).await.unwrap();
    let letter = letters(&broker, "closure on work.hanging", 1).await.remove(0);
    assert_eq!((letter.reason.as_str(), letter.delivered), ("timeout", 2));
    assert_eq!(dropped.load(Ordering::SeqCst), 2);
    subscription.unsubscribe().await.unwrap();
}

#[subscriber(subject = "work.unwanted", queue = "unwanted", dead_letter = false)]
async fn unwanted(_id: u64) -> Settle {
    Settle::Terminate
}

#[subscriber(subject = "work.elsewhere", queue = "elsewhere", dead_letter = "failed.elsewhere")]
async fn elsewhere(_id: u64) -> Settle {
    Settle::Terminate
}

#[tokio::test]
async fn dead_letters_go_where_the_handler_says() {
    let server = Server::start().await;
    let broker = connect(&server, &Calls::default()).await;
    let running = broker.include::<unwanted>().include::<elsewhere>().start_all().await.unwrap();
    broker.publish("work.unwanted", &1).await.unwrap();
    broker.publish("work.elsewhere", &2).await.unwrap();
    settled(&server, "unwanted").await;
    settled(&server, "elsewhere").await;
    running.shutdown().await.unwrap();
    assert!(broker.dead_letters().list(100).await.unwrap().is_empty(), "nobody asked for the stream DLQ");
    let letters = broker.dead_letters().stream("FAILED").list(100).await.unwrap();
    assert_eq!(letters.iter().map(|letter| &letter.payload[..]).collect::<Vec<_>>(), [b"2"]);
}

#[tokio::test]
async fn a_message_whose_dead_letter_cannot_be_stored_stays_alive() {
    let server = Server::start().await;
    let calls = Calls::default();
    let broker = Broker::builder()
        .servers([server.url()])
        .state(calls.clone())
        .publish_timeout(Duration::from_millis(300))
        .auto_create(true)
        .connect()
        .await
        .unwrap();
    let running = broker.include::<hopeless>().start_all().await.unwrap();
    // Full: the stream refuses every copy.
    let jetstream = server.jetstream().await;
    let mut config = jetstream.get_stream("DLQ").await.unwrap().cached_info().config.clone();
    config.discard = jetstream_handlers::stream::DiscardPolicy::New;
    config.max_bytes = 1;
    jetstream.update_stream(config.clone()).await.unwrap();
    broker.publish("work.hopeless", &1).await.unwrap();
    calls.until(1, 3).await;
    let stream = jetstream.get_stream("WORK").await.unwrap();
    eventually("the message comes again and again", SOON, async || {
        let delivered = stream.consumer_info("hopeless").await.unwrap().delivered.consumer_sequence;
        (delivered >= 6).then_some(())
    })
    .await;
    assert_eq!(stream.consumer_info("hopeless").await.unwrap().num_ack_pending, 1);
    config.max_bytes = -1;
    jetstream.update_stream(config).await.unwrap();
    let letter = letters(&broker, "hopeless", 1).await.remove(0);
    assert_eq!((letter.reason.as_str(), letter.error.as_str()), ("error", "storing the order: disk full"));
    settled(&server, "hopeless").await;
    running.shutdown().await.unwrap();
    assert_eq!(calls.of(1).len(), 3, "the handler runs `max_deliver` times, however long the letter takes");
}

#[subscriber(subject = "work.mended", queue = "mended")]
async fn mended(id: u64, headers: Headers, State(calls): State<Calls>) -> HandlerResult {
    calls.add(id);
    match headers.get("Dead-Letter-Replay-Of") {
        None => Err(HandlerError::terminate("broken")),
        Some(origin) => {
            assert!(origin.starts_with("DLQ:"), "{origin}");
            let tenants: Vec<_> =
                headers.iter().filter(|(name, _)| *name == "Tenant").map(|(_, value)| value).collect();
            assert_eq!(tenants, ["eu", "us"]);
            Ok(())
        }
    }
}

#[tokio::test]
async fn dead_letters_are_listed_shown_replayed_and_purged_by_handler() {
    let server = Server::start().await;
    let calls = Calls::default();
    let broker = connect(&server, &calls).await;
    assert!(broker.dead_letters().list(100).await.unwrap().is_empty(), "no stream is no letter");
    let running = broker.include::<mended>().include::<refused>().start_all().await.unwrap();
    for id in 1..=3 {
        broker
            .publish_message("work.mended", &id)
            .header("Tenant", "eu")
            .header("Tenant", "us")
            .message_id(&format!("m{id}"))
            .await
            .unwrap();
        broker.publish("work.refused", &(100 + id)).await.unwrap();
    }
    let of_mended = letters(&broker, "mended", 3).await;
    let of_refused = letters(&broker, "failure::refused", 3).await;
    assert_eq!(broker.dead_letters().list(100).await.unwrap().len(), 6);
    assert_eq!(broker.dead_letters().for_handler("ended").list(100).await.unwrap().len(), 0, "a name is whole");

    let letters = broker.dead_letters().for_handler("mended");
    let first = &of_mended[0];
    assert_eq!(letters.get(first.sequence).await.unwrap().unwrap().payload, first.payload);
    assert!(letters.get(of_refused[0].sequence).await.unwrap().is_none(), "it is of another handler");
    let error = letters.replay(of_refused[0].sequence).await.unwrap_err().to_string();
    assert!(error.contains("no dead letter") && error.contains("mended"), "{error}");
    assert_eq!(letters.clone().after(first.sequence).list(100).await.unwrap().len(), 2);

    let ack = letters.replay(first.sequence).await.unwrap();
    assert_eq!((ack.stream.as_str(), ack.duplicate), ("WORK", false));
    calls.until(1, 2).await;
    assert!(letters.get(first.sequence).await.unwrap().is_none(), "a replayed letter is gone");
    assert_eq!(letters.replay_all().await.unwrap(), 2);
    calls.until(2, 2).await;
    calls.until(3, 2).await;
    assert_eq!(broker.dead_letters().for_handler("refused").purge().await.unwrap(), 3);
    settled(&server, "mended").await;
    assert!(broker.dead_letters().list(100).await.unwrap().is_empty());
    running.shutdown().await.unwrap();
}

#[tokio::test]
async fn lists_dead_letters_after_newest_was_deleted() {
    let server = Server::start().await;
    let broker = connect(&server, &Calls::default()).await;
    let running = broker.include::<refused>().start_all().await.unwrap();
    for id in 1..=3 {
        broker.publish("work.refused", &id).await.unwrap();
    }
    let newest = letters(&broker, "refused", 3).await.pop().unwrap();
    assert!(server.jetstream().await.get_stream("DLQ").await.unwrap().delete_message(newest.sequence).await.unwrap());

    let dead_letters = broker.dead_letters();
    assert_eq!(dead_letters.list(100).await.unwrap().len(), 2);
    assert_eq!(dead_letters.list(1).await.unwrap().len(), 1);
    assert_eq!(dead_letters.purge().await.unwrap(), 2);
    running.shutdown().await.unwrap();
}

#[subscriber(subject = "work.long", queue = "long", ack_wait = "200ms")]
async fn long(id: u64, State(calls): State<Calls>) {
    calls.add(id);
    tokio::time::sleep(Duration::from_secs(2)).await;
}

#[tokio::test]
async fn a_handler_of_ten_ack_waits_runs_once_and_those_behind_it_too() {
    let server = Server::start().await;
    let calls = Calls::default();
    let broker = connect(&server, &calls).await;
    let running = broker.include::<long>().start_all().await.unwrap();
    for id in 1..=3 {
        broker.publish("work.long", &id).await.unwrap();
    }
    settled(&server, "long").await;
    running.shutdown().await.unwrap();
    assert_eq!(calls.by_message(), [(1, 1), (2, 1), (3, 1)].into());
    let stream = server.jetstream().await.get_stream("WORK").await.unwrap();
    assert_eq!(stream.consumer_info("long").await.unwrap().delivered.consumer_sequence, 3, "nothing came twice");
}

#[tokio::test]
async fn what_the_server_gives_up_is_a_dead_letter() {
    let server = Server::start().await;
    let calls = Calls::default();
    let broker = connect(&server, &calls).await;
    let running = broker.include::<hopeless>().start_all().await.unwrap();
    // An operator lowers what the server grants, far below what the handler does.
    let stream = server.jetstream().await.get_stream("WORK").await.unwrap();
    let mut consumer: PullConsumer = stream.get_consumer("hopeless").await.unwrap();
    let config = consumer.info().await.unwrap().config.clone();
    let config = consumer::pull::Config {
        durable_name: config.durable_name,
        filter_subject: config.filter_subject,
        max_ack_pending: config.max_ack_pending,
        max_deliver: 1,
        ..Default::default()
    };
    stream.update_consumer(config).await.unwrap();
    broker.publish("work.hopeless", &1).await.unwrap();
    let letter = letters(&broker, "hopeless", 1).await.remove(0);
    assert_eq!((letter.reason.as_str(), letter.delivered, &letter.payload[..]), ("killed", 1, &b"1"[..]));
    running.shutdown().await.unwrap();
    assert_eq!(calls.by_message(), [(1, 1)].into());
}

#[tokio::test]
async fn a_handler_that_kills_its_process_ends_as_a_dead_letter() {
    let server = Server::start().await;
    let broker = Broker::connect(server.url()).await.unwrap();
    broker.publish("work.fatal", &1).await.unwrap();
    let start = || {
        let mut program = tokio::process::Command::new(env!("CARGO_BIN_EXE_fatal_handler"));
        program.env("NATS_URL", server.url()).kill_on_drop(true).spawn().unwrap()
    };
    // Twice as it is allowed, and once more alone, for it might have been another message that killed the process.
    for attempt in 1..=3 {
        let status = tokio::time::timeout(SOON, start().wait()).await.expect("the handler kills its process").unwrap();
        assert!(!status.success(), "attempt {attempt} ended well");
    }
    let mut fourth = start();
    let letter = letters(&broker, "fatal", 1).await.remove(0);
    assert_eq!((letter.reason.as_str(), letter.delivered, &letter.payload[..]), ("killed", 4, &b"1"[..]));
    settled(&server, "fatal").await;
    assert!(fourth.try_wait().unwrap().is_none(), "the fourth process did not run the handler");
    fourth.kill().await.unwrap();
}

/// Runs a closure that fails, one message at a time, and is held at its first message until it is told to go on.
async fn subscribe_failing(broker: &Broker, calls: &Calls, held: &Arc<tokio::sync::Semaphore>) -> Subscription {
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
    subscribe.max_deliver(2).backoff(&[Duration::from_millis(20)]).await.unwrap()
}

#[tokio::test]
async fn a_stop_hands_back_what_waits_and_does_not_count_it_as_an_attempt() {
    let server = Server::start().await;
    let broker = Broker::connect(server.url()).await.unwrap();
    let (first, second) = (Calls::default(), Calls::default());
    let held = Arc::new(tokio::sync::Semaphore::new(0));
    let subscription = subscribe_failing(&broker, &first, &held).await;
    for id in 1..=5 {
        broker.publish("work.failing", &id).await.unwrap();
    }
    first.until(1, 1).await;
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
    second.until(5, 1).await;
    assert!(begun.elapsed() < Duration::from_millis(500), "{:?}", begun.elapsed());
    held.add_permits(1);
    stopping.await.unwrap().unwrap();

    assert_eq!(letters(&other, "closure on work.failing", 5).await.len(), 5);
    successor.unsubscribe().await.unwrap();
    assert_eq!(first.by_message(), [(1, 1)].into());
    let expected: BTreeMap<_, _> = (1..=5).map(|id| (id, if id == 1 { 1 } else { 2 })).collect();
    assert_eq!(second.by_message(), expected, "each was tried twice, not counting what was handed back");
}

#[tokio::test]
async fn two_thousand_delayed_messages_do_not_stall_the_healthy_ones() {
    let server = Server::start().await;
    let calls = Calls::default();
    let broker = Broker::connect(server.url()).await.unwrap();
    let noted = calls.clone();
    let picky = move |id: u64| {
        noted.add(id);
        std::future::ready(if id < 2000 { Settle::RetryAfter(Duration::from_secs(3600)) } else { Settle::Ack })
    };
    let subscription = broker.subscribe("work.delayed", "delayed", picky).batch_size(500).await.unwrap();
    let publisher = broker.publisher();
    let publishes = (0..2000).map(|id| {
        let publisher = publisher.clone();
        async move { publisher.publish("work.delayed", &id).await.unwrap() }
    });
    futures::StreamExt::collect::<Vec<_>>(futures::StreamExt::buffer_unordered(futures::stream::iter(publishes), 256))
        .await;
    broker.publish("work.delayed", &5000).await.unwrap();
    calls.until(5000, 1).await;
    let stream = server.jetstream().await.get_stream("WORK").await.unwrap();
    let info = stream.consumer_info("delayed").await.unwrap();
    assert!(info.num_ack_pending >= 2000, "{}", info.num_ack_pending);
    subscription.unsubscribe().await.unwrap();
}

#[subscriber(subject = "work.confirmed", queue = "confirmed", ack = "confirmed")]
async fn confirmed(id: u64, State(calls): State<Calls>, State(proxy): State<Arc<Proxy>>) {
    if calls.add(id) == 1 {
        // The ack will leave on a connection that is gone.
        proxy.pause();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(300)).await;
            proxy.cut();
            proxy.resume();
        });
    }
}

#[tokio::test]
async fn a_lost_ack_is_noticed_and_repeated_when_it_is_to_be_confirmed() {
    let server = Server::start().await;
    let proxy = Arc::new(Proxy::start(server.address()).await);
    let calls = Calls::default();
    let broker = Broker::builder()
        .servers([proxy.url()])
        .connect_options(|options| options.ignore_discovered_servers())
        .state(calls.clone())
        .state(proxy.clone())
        .connect()
        .await
        .unwrap();
    let running = broker.include::<confirmed>().start_all().await.unwrap();
    server.jetstream().await.publish("work.confirmed", "1".into()).await.unwrap().await.unwrap();
    calls.until(1, 1).await;
    settled(&server, "confirmed").await;
    running.shutdown().await.unwrap();
    assert_eq!(calls.of(1).len(), 1, "the ack came in time, so the message did not come again");
}

#[tokio::test]
async fn a_consumer_keeps_its_work_when_a_plain_client_made_it() {
    let server = Server::start().await;
    let jetstream = server.jetstream().await;
    let config = jetstream_handlers::stream::Config {
        name: "WORK".into(),
        subjects: vec!["work.>".into()],
        ..Default::default()
    };
    let stream = jetstream.create_stream(config).await.unwrap();
    let config = consumer::pull::Config {
        durable_name: Some("retried".into()),
        filter_subject: "work.retried".into(),
        metadata: [("team".to_owned(), "orders".to_owned())].into(),
        ..Default::default()
    };
    stream.create_consumer(config).await.unwrap();
    let calls = Calls::default();
    let broker = connect(&server, &calls).await;
    let running = broker.include::<retried>().start_all().await.unwrap();
    broker.publish("work.retried", &1).await.unwrap();
    calls.until(1, 4).await;
    running.shutdown().await.unwrap();
}

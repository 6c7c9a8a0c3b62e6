//! Tests with a `TestBroker`: assertions, faults and the clock.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};

use futures::FutureExt as _;
use jetstream_handlers::prelude::*;
use jetstream_handlers::testing::{NatsServer, TestBroker, assert_idempotent};
use jetstream_handlers::{Context, ErrorKind, Output};
use jetstream_handlers_tests::{Recorder, SOON, Server, binary, eventually, stream_config};

#[subscriber(subject = "orders.created", queue = "confirmer", group = "shop", backoff = ["1m", "1h"])]
async fn confirm(order: u64, publisher: Publisher) -> HandlerResult {
    publisher.publish("orders.confirmed", &order).await?;
    Ok(())
}

#[subscriber(subject = "orders.confirmed", queue = "mailer", group = "shop")]
async fn mail(order: u64, State(calls): State<Recorder>) {
    calls.add(order);
}

#[subscriber(subject = "alone.>", queue = "alone", ack_wait = "30s")]
async fn alone(order: u64, State(calls): State<Recorder>) {
    calls.add(order);
    tokio::time::sleep(secs(1)).await;
}

/// Returns the panic message of a future.
async fn panic_of(future: impl Future<Output = ()>) -> String {
    let panic = AssertUnwindSafe(future).catch_unwind().await.unwrap_err();
    panic.downcast_ref::<String>().cloned().unwrap_or_else(|| (*panic.downcast_ref::<&str>().unwrap()).to_owned())
}

#[jetstream_handlers::test(group = "shop", state = Recorder::new())]
async fn publish_returns_when_the_whole_chain_has_settled(broker: TestBroker) {
    broker.publish("orders.created", &7).await;
    broker.handled::<confirm>().once().with(&7).settled(Settle::Ack).retried(0);
    broker.handled::<mail>().once().with(&7);
    broker.handled::<alone>().never();
    assert_eq!(broker.published::<u64>("orders.*").await, [7, 7]);
}

#[jetstream_handlers::test(include(confirm))]
async fn advance_runs_due_retries(broker: TestBroker) {
    broker.fail_next_publish("orders.confirmed");
    broker.publish("orders.created", &1).await;
    broker.handled::<confirm>().once().retried(0).settled(Settle::Retry);
    broker.advance(secs(45)).await;
    broker.handled::<confirm>().retried(0);
    broker.advance(secs(30)).await;
    broker.handled::<confirm>().once().retried(1).settled(Settle::Ack);
    assert_eq!(broker.published::<u64>("orders.confirmed").await, [1]);
}

#[jetstream_handlers::test(include(confirm))]
async fn failed_assertion_lists_the_calls(broker: TestBroker) {
    broker.fail_next_publish("orders.confirmed");
    broker.publish("orders.created", &1).await;
    let story = panic_of(async { drop(broker.handled::<confirm>().settled(Settle::Ack)) }).await;
    assert!(story.contains("expected every message to end with Ack"), "{story}");
    assert!(story.contains("`test_broker::confirm` was called 1 time\n"), "{story}");
    assert!(story.contains("message 1 on orders.created with 1 -> Retry: "), "{story}");
    let text = panic_of(async { drop(broker.handled::<mail>().once()) }).await;
    assert!(text.starts_with("expected 1 message, found 0; `test_broker::mail` was called 0 times"), "{text}");
    let text = panic_of(async { drop(broker.handled::<confirm>().times(2)) }).await;
    assert!(text.starts_with("expected 2 messages, found 1; "), "{text}");
    let text = panic_of(async { drop(broker.handled::<confirm>().retried(1)) }).await;
    assert!(text.starts_with("expected every message to be retried 1 time; "), "{text}");
    for panic in [
        panic_of(async { drop(broker.handled::<confirm>().times(2)) }).await,
        panic_of(async { drop(broker.handled::<confirm>().with(&2)) }).await,
        panic_of(async { drop(broker.handled::<confirm>().retried(1)) }).await,
        panic_of(async { drop(broker.handled::<confirm>().never()) }).await,
        panic_of(async { drop(broker.handled::<mail>().once()) }).await,
    ] {
        assert!(panic.contains("was called"), "{panic}");
    }
}

#[tokio::test(start_paused = true)]
async fn invalid_handlers_are_refused_at_the_start() {
    let error = TestBroker::builder().include::<mail>().try_start().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::MissingState);
    assert!(error.to_string().contains("test_broker::mail"), "{error}");
    let error = TestBroker::builder().include::<confirm>().auto_create(false).try_start().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StreamNotFound);
    let part = stream_config("PART", &["orders.eu.>"]);
    let error = TestBroker::builder().include::<confirm>().stream(part).try_start().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StreamOverlap);
}

#[tokio::test(start_paused = true)]
async fn lost_ack_redelivers_after_ack_wait() {
    let calls = Recorder::new();
    let broker = TestBroker::builder().include::<alone>().state(calls.clone()).start().await;
    broker.lose_acks(1).publish("alone.only", &1).await;
    assert_eq!(calls.items(), [1]);
    broker.advance(secs(20)).await;
    assert_eq!(calls.items(), [1]);
    broker.advance(secs(15)).await;
    assert_eq!(calls.items(), [1, 1]);
}

#[tokio::test(start_paused = true)]
async fn crash_redelivers_all_in_flight_messages() {
    let calls = Recorder::new();
    let broker = TestBroker::builder().include::<alone>().state(calls.clone()).start().await;
    broker.crash_before_ack();
    for id in 1..=3 {
        broker.broker().publish("alone.crash", &id).await.unwrap();
    }
    broker.advance(secs(60)).await;
    let calls = calls.items();
    assert!((1..=3).all(|id| calls.iter().filter(|call| **call == id).count() == 2), "{calls:?}");
}

#[tokio::test(start_paused = true)]
async fn messages_can_be_duplicated_and_reordered() {
    let calls = Recorder::new();
    let broker = TestBroker::builder().include::<alone>().state(calls.clone()).start().await;
    broker.redeliver(1).publish("alone.twice", &1).await;
    assert_eq!(calls.items(), [1, 1]);
    broker.reorder();
    // All are stored before the worker pulls.
    broker.broker().publish("alone.first", &2).await.unwrap();
    broker.broker().publish("alone.second", &3).await.unwrap();
    broker.broker().publish("alone.third", &4).await.unwrap();
    broker.idle().await;
    let calls = calls.items();
    assert_eq!(calls.len(), 5);
    assert_ne!(calls[2..], [2, 3, 4], "still in stream order");
}

#[tokio::test(start_paused = true)]
async fn slow_server_delays_publishes() {
    let broker = TestBroker::builder().include::<confirm>().start().await;
    broker.slow_server(secs(3));
    let started = tokio::time::Instant::now();
    broker.publish("orders.created", &1).await;
    assert!(started.elapsed() >= secs(6), "two publishes: {:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn handler_survives_a_purge_and_deletions() {
    let calls = Recorder::new();
    let broker = TestBroker::builder().include::<alone>().state(calls.clone()).start().await;
    broker.publish("alone.one", &1).await;
    assert_eq!(broker.purge("ALONE"), 1);
    assert!(broker.delete_consumer("ALONE", "alone"));
    assert!(!broker.delete_consumer("ALONE", "missing"));
    broker.publish("alone.two", &2).await;
    assert_eq!(calls.items(), [1, 2]);
    assert!(broker.delete_stream("ALONE"));
    broker.publish("alone.three", &3).await;
    assert_eq!(calls.items(), [1, 2, 3]);
}

#[subscriber(subject = "invoices.due", queue = "payer")]
async fn pay(invoice: u64, State(paid): State<Arc<Mutex<BTreeSet<u64>>>>) {
    paid.lock().unwrap().insert(invoice);
}

#[subscriber(subject = "invoices.due", queue = "adder")]
async fn add(invoice: u64, State(sum): State<Arc<Mutex<u64>>>) {
    *sum.lock().unwrap() += invoice;
}

#[tokio::test(start_paused = true)]
async fn assert_idempotent_detects_a_repeated_effect() {
    assert_idempotent(async |start| {
        let paid = Arc::<Mutex<BTreeSet<u64>>>::default();
        let broker = start(TestBroker::builder().include::<pay>().state(paid.clone())).await;
        broker.publish("invoices.due", &1).await;
        broker.publish("invoices.due", &2).await;
        paid.lock().unwrap().clone()
    })
    .await;
    let panic = panic_of(assert_idempotent(async |start| {
        let sum = Arc::<Mutex<u64>>::default();
        let broker = start(TestBroker::builder().include::<add>().state(sum.clone())).await;
        broker.publish("invoices.due", &3).await;
        *sum.lock().unwrap()
    }))
    .await;
    assert!(panic.contains("not idempotent") && panic.contains('3') && panic.contains('6'), "{panic}");
}

#[subscriber(subject = "orders.*.created", queue = "everything")]
async fn everything(
    message: Message,
    subject: Subject,
    headers: Headers,
    info: Info,
    publisher: Publisher,
    shutdown: Shutdown,
    State(calls): State<Recorder>,
) -> HandlerResult {
    if shutdown.is_requested() {
        return Err(HandlerError::hand_back("stopping"));
    }
    let order: u64 = headers.get("Order").ok_or("no order")?.parse()?;
    let region = subject.token(1).ok_or("no region")?;
    assert_eq!((message.subject(), message.info().delivered()), (&*subject, info.delivered()));
    publisher.publish(&format!("bills.{region}"), &order).await?;
    calls.add(order * info.delivered());
    Ok(())
}

#[tokio::test]
async fn every_parameter_can_be_made_in_a_unit_test() {
    let (broker, calls) = (Broker::in_memory(), Recorder::new());
    let info = Info::for_test("ORDERS", "everything").with_delivered(3);
    let message = Message::new("orders.eu.created", "").with_header("Order", "7").with_info(info.clone());
    let call = |shutdown| {
        everything(
            message.clone(),
            Subject::new("orders.eu.created"),
            Headers::from_iter([("Order", "7")]),
            info.clone(),
            broker.publisher().clone(),
            shutdown,
            State(calls.clone()),
        )
    };
    call(Shutdown::new()).await.unwrap();
    assert_eq!(calls.items(), [21]);
    let shutdown = Shutdown::new();
    shutdown.token().cancel();
    assert_eq!(call(shutdown).await.unwrap_err().settle(), Settle::HandBack);

    // The same values are extracted from the message.
    let context = Context::for_test().with_state(calls.clone());
    assert_eq!(&*Subject::from_message(&message, &context).unwrap(), "orders.eu.created");
    assert_eq!(Headers::from_message(&message, &context).unwrap().get("Order"), Some("7"));
    assert_eq!(Info::from_message(&message, &context).unwrap().delivered(), 3);
    assert!(!Shutdown::from_message(&message, &context).unwrap().is_requested());
    let publisher = Publisher::from_message(&message, &context).unwrap();
    assert_eq!(publisher.publish("bills.eu", &1).await.unwrap().sequence, 1);
    assert!(State::<Recorder>::from_message(&message, &context).is_ok());
}

#[test]
#[should_panic(expected = "`Order: a\nb` is not a valid header")]
fn header_with_a_line_break_is_refused() {
    let _ = Message::new("orders.created", "").with_header("Order", "a\nb");
}

/// Time passes, and blocking work is not overtaken by a timeout.
#[jetstream_handlers::test(clock = running, include(alone), state = Recorder::new())]
async fn running_clock_waits_for_what_tokio_does_not_see(broker: TestBroker) {
    let began = std::time::Instant::now();
    let work = tokio::task::spawn_blocking(|| std::thread::sleep(std::time::Duration::from_millis(50)));
    tokio::time::timeout(secs(20), work).await.unwrap().unwrap();
    assert!(began.elapsed() >= std::time::Duration::from_millis(50));
    broker.publish("alone.once", &1).await;
    assert!(began.elapsed() >= secs(1), "the handler sleeps for a second");
    broker.handled::<alone>().once();
}

#[jetstream_handlers::test(clock = paused, include(alone), state = Recorder::new())]
async fn paused_clock_takes_no_time(broker: TestBroker) {
    let began = std::time::Instant::now();
    broker.advance(secs(3600)).await;
    assert!(began.elapsed() < secs(60));
}

#[tokio::test]
async fn live_test_takes_its_credentials_from_the_environment() {
    const CHILD: &str = "LIVE_TEST_CHILD";
    if std::env::var_os(CHILD).is_some() {
        let broker = TestBroker::builder().include::<pay_for>().start_from_env().await;
        broker.publish("bills.due", &7).await;
        broker.handled::<pay_for>().once().with(&7);
        let second = broker.second_instance().await;
        second.publish("bills.due", &8).await.unwrap();
        return;
    }
    let config = "authorization { users: [{ user: ada, password: lovelace }] }";
    let server = Server::builder().config(config).start().await;
    // A process of its own, because a test must not set variables for others.
    let run = async |password: &str| {
        let test = "live_test_takes_its_credentials_from_the_environment";
        tokio::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture"])
            .envs([(CHILD, "1"), ("NATS_URL", &server.url()), ("NATS_USER", "ada"), ("NATS_PASSWORD", password)])
            .output()
            .await
            .unwrap()
    };
    let output = run("lovelace").await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let output = run("wrong").await;
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && error.contains("refused the credentials"), "{error}");
    // The text of the error, not its `Debug` form.
    assert!(!error.contains("(Authorization)"), "{error}");
}

#[tokio::test]
async fn nats_server_keeps_its_store_during_an_outage_and_is_removed() {
    let config = "authorization { user: ada, password: lovelace }";
    let mut server = NatsServer::builder().program(binary::path()).config(config).start().await;
    let url = server.url().replace("://", "://ada:lovelace@");
    let broker = TestBroker::builder().include::<pay_for>().start_live(&url).await;
    broker.publish("bills.due", &1).await;
    server.kill();
    assert!(!server.is_running() && server.pid().is_none());
    server.restart().await;
    assert_eq!(server.url().replace("://", "://ada:lovelace@"), url);
    broker.publish("bills.due", &2).await;
    broker.handled::<pay_for>().times(2);
    assert_eq!(broker.published::<u64>("bills.due").await, [1, 2]);
    server.reload(&format!("{config}\nmax_payload: 1000"));
    eventually("the configuration is reloaded", SOON, async || server.log().contains("Reloaded").then_some(())).await;
    let folder = server.folder().to_owned();
    drop(server);
    assert!(!folder.exists());
}

#[tokio::test]
async fn nats_server_is_found_or_explained() {
    const CHILD: &str = "NATS_SERVER_CHILD";
    if std::env::var_os(CHILD).is_some() {
        match NatsServer::builder().try_start().await {
            Ok(server) => println!("started {}", server.url()),
            Err(error) => println!("{error}"),
        }
        return;
    }
    // A process of its own, because a test must not set variables for others.
    let run = async |variables: &[(&str, &str)]| {
        let output = tokio::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "nats_server_is_found_or_explained", "--nocapture"])
            .env_remove("NATS_SERVER")
            .env(CHILD, "")
            .envs(variables.iter().copied())
            .output()
            .await
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let program = binary::path().to_str().unwrap();
    let path = binary::path().parent().unwrap().to_str().unwrap();
    for (variables, told) in [
        (&[("NATS_SERVER", program)][..], "started nats://127.0.0.1:"),
        (&[("PATH", &*format!("{path}:/bin:/usr/bin"))], "started nats://127.0.0.1:"),
        (
            &[("PATH", "")],
            "there is no nats-server to start: NATS_SERVER is not set, and nats-server is not on the PATH;",
        ),
        (&[("PATH", "")], "or install it (`brew install nats-server`,"),
        // A wrong path is not replaced by another server.
        (&[("NATS_SERVER", "/missing/nats-server")], "the given path is not that of a server, /missing/nats-server: "),
    ] {
        let output = run(variables).await;
        assert!(output.contains(told), "{variables:?}: {output}");
    }
}

#[tokio::test]
async fn nats_server_that_does_not_start_shows_its_log() {
    let builder = NatsServer::builder().program(binary::path());
    let error = builder.clone().config("max_payload: often").try_start().await.unwrap_err().to_string();
    assert!(error.contains("it ended at its start, exit status: 1") && error.contains("server.conf"), "{error}");
    let first = builder.clone().start().await;
    let port = first.url().rsplit(':').next().unwrap().parse().unwrap();
    let error = builder.port(port).try_start().await.unwrap_err().to_string();
    assert!(error.contains(&format!("on port {port}")) && error.contains("address already in use"), "{error}");
}

// A killed server may not have stored an ack, and redelivers its message after `ack_wait`.
#[subscriber(subject = "bills.due", queue = "payer-of-bills", ack_wait = "1s")]
async fn pay_for(_bill: u64) {}

#[tokio::test(start_paused = true)]
async fn thousand_test_brokers_run() {
    let started = std::time::Instant::now();
    for id in 0..1000 {
        let broker = TestBroker::builder().group("shop").state(Recorder::new()).start().await;
        broker.fail_next_publish("orders.confirmed");
        broker.publish("orders.created", &id).await;
        broker.advance(secs(80)).await;
        broker.handled::<confirm>().once().retried(1);
        broker.handled::<mail>().once().with(&id);
        broker.broker().disconnect().await.unwrap();
    }
    println!("1000 tests in {:.1?}", started.elapsed());
}

#[subscriber(subject = "prices.set", queue = "converter", publish = "converted.prices")]
async fn convert(price: u64) -> HandlerResult<Vec<Output>> {
    Ok(vec![Output::new(&(2 * price)), Output::to("converted.log", &price).header("Tenant", "eu")])
}

#[jetstream_handlers::test(include(convert))]
async fn redelivered_message_publishes_nothing_twice(broker: TestBroker) {
    broker.lose_acks(1).publish("prices.set", &1).await;
    broker.crash_before_ack().publish("prices.set", &2).await;
    broker.redeliver(1).publish("prices.set", &3).await;
    broker.advance(secs(60)).await;
    broker.handled::<convert>().times(3).retried(1);
    assert_eq!(broker.published::<u64>("converted.prices").await, [2, 4, 6]);
    assert_eq!(broker.published::<u64>("converted.log").await, [1, 2, 3]);
    let text = panic_of(async { drop(broker.handled::<convert>().never()) }).await;
    assert!(text.contains("published 2 on the subject of `publish`"), "{text}");
    assert!(text.contains("published 1 on converted.log"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn handler_with_outputs_is_idempotent() {
    assert_idempotent(async |start| {
        let config = jetstream_handlers::stream::Config {
            allow_atomic_publish: true,
            ..stream_config("CONVERTED", &["converted.>"])
        };
        let broker = start(TestBroker::builder().stream(config).include::<convert>()).await;
        broker.publish("prices.set", &7).await;
        (broker.published::<u64>("converted.>").await, broker.published_messages("converted.log").await.len())
    })
    .await;
}

/// Faults take subjects and streams without the prefix.
#[tokio::test(start_paused = true)]
async fn faults_have_the_prefix() {
    let broker = TestBroker::builder().subject_prefix("staging").include::<confirm>().start().await;
    broker.fail_next_publish("orders.confirmed");
    broker.publish("orders.created", &7).await;
    broker.handled::<confirm>().once().settled(Settle::Retry);
    assert_eq!(broker.purge("ORDERS"), 1);
    assert!(broker.delete_consumer("ORDERS", "confirmer"));
    assert!(broker.delete_stream("STAGING_ORDERS"));
}

#[tokio::test(start_paused = true)]
async fn layer_is_around_all_handlers() {
    let layer = tower::limit::RateLimitLayer::new(1, secs(60));
    let broker = TestBroker::builder().layer(layer).include::<confirm>().start().await;
    let begun = tokio::time::Instant::now();
    broker.broker().publish("orders.created", &1).await.unwrap();
    broker.broker().publish("orders.created", &2).await.unwrap();
    eventually("both are confirmed", secs(200), async || {
        (broker.published::<u64>("orders.confirmed").await.len() == 2).then_some(())
    })
    .await;
    assert!(begun.elapsed() >= secs(60), "{:?}", begun.elapsed());
}

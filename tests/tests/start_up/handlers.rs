//! Invalid handlers are refused.

use std::time::{Duration, SystemTime};

use futures::{StreamExt as _, TryStreamExt as _};
use jetstream_handlers::async_nats::jetstream::consumer;
use jetstream_handlers::prelude::*;
use jetstream_handlers::{Deliver, ErrorKind, Problem, stream};
use jetstream_handlers_tests::{Program, SOON, Server, assert_error, connect, stream_config};
use linked_handlers as _;

use crate::{durable, names, set, start};

/// Checks that no stream exists and no handler runs.
async fn assert_untouched(server: &Server, broker: &Broker) {
    let names: Vec<String> = server.jetstream().await.stream_names().try_collect().await.unwrap();
    assert_eq!(names, Vec::<String>::new());
    assert!(broker.health().handlers.is_empty(), "{}", broker.health());
}

#[subscriber(subject = "orders.created", queue = "twins", ack_wait = "10s", group = "different-settings")]
async fn waits_10_seconds(_: u64) {}

#[subscriber(subject = "orders.created", queue = "twins", ack_wait = "20s", group = "different-settings")]
async fn waits_20_seconds(_: u64) {}

#[tokio::test]
async fn handlers_of_one_consumer_with_different_settings_are_refused() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    let error = broker.start_groups(["different-settings"]).await.unwrap_err();
    let parts = [
        "`start_up::handlers::waits_10_seconds`",
        "`start_up::handlers::waits_20_seconds`",
        "start_up/handlers.rs",
        "`twins`",
        "ack_wait",
        "give each its own `queue`",
    ];
    assert_error(&error, ErrorKind::Config, &parts);
    assert_untouched(&server, &broker).await;
}

#[subscriber(subject = "orders.created", queue = "identical", group = "equal-settings")]
async fn equal_one(_: u64) {}

#[subscriber(subject = "orders.created", queue = "identical", group = "equal-settings")]
async fn equal_two(_: u64) {}

#[tokio::test]
async fn handlers_of_one_consumer_with_equal_settings_are_refused() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    let error = broker.start_groups(["equal-settings"]).await.unwrap_err();
    let parts = [
        "`start_up::handlers::equal_one`",
        "`start_up::handlers::equal_two`",
        "`identical`",
        "each message would reach only one of them",
    ];
    assert_error(&error, ErrorKind::Config, &parts);
    assert_untouched(&server, &broker).await;
}

#[subscriber(subject = "orders.created", queue = "distant", group = "two-streams")]
async fn of_orders(_: u64) {}

#[subscriber(subject = "payments.received", queue = "distant", group = "two-streams")]
async fn of_payments(_: u64) {}

#[tokio::test]
async fn consumer_name_may_repeat_on_another_stream() {
    let server = Server::start().await;
    let running = connect(&server).await.start_groups(["two-streams"]).await.unwrap();
    running.shutdown().await.unwrap();
    // On one stream they would share one consumer.
    let other = Server::start().await;
    let jetstream = other.jetstream().await;
    let both = jetstream_handlers::stream::Config {
        name: "BOTH".to_owned(),
        subjects: vec!["orders.>".to_owned(), "payments.>".to_owned()],
        ..Default::default()
    };
    jetstream.create_stream(both).await.unwrap();
    let error = connect(&other).await.start_groups(["two-streams"]).await.unwrap_err();
    assert_error(
        &error,
        ErrorKind::Config,
        &["`start_up::handlers::of_orders`", "`start_up::handlers::of_payments`", "`distant`", "different subject"],
    );
}

#[subscriber(subject = "orders.eu", queue = "regional", group = "similar-subjects")]
async fn in_europe(_: u64) {}

#[subscriber(subject = "orders.us", queue = "regional", group = "similar-subjects")]
async fn in_america(_: u64) {}

#[tokio::test]
async fn consumer_name_may_repeat_on_streams_with_similar_subjects() {
    let server = Server::start().await;
    let jetstream = server.jetstream().await;
    for (name, subject) in [("EU", "orders.eu"), ("US", "orders.us")] {
        let (name, subjects) = (name.to_owned(), vec![subject.to_owned()]);
        let config = jetstream_handlers::stream::Config { name, subjects, ..Default::default() };
        jetstream.create_stream(config).await.unwrap();
    }
    let running = connect(&server).await.start_groups(["similar-subjects"]).await.unwrap();
    running.shutdown().await.unwrap();
    // Without these streams, both subjects would get the same stream.
    let empty = Server::start().await;
    let error = connect(&empty).await.start_groups(["similar-subjects"]).await.unwrap_err();
    assert_error(
        &error,
        ErrorKind::Config,
        &["`start_up::handlers::in_america`", "`start_up::handlers::in_europe`", "different subject"],
    );
}

#[derive(Clone)]
struct Database;

#[derive(Clone)]
struct Mailer;

#[subscriber(subject = "orders.created", queue = "stateful", group = "stateful")]
async fn stateful(_: State<Database>, _: u64, _: State<Mailer>) {}

#[tokio::test]
async fn missing_state_is_reported_with_its_handler() {
    let server = Server::start().await;
    let broker = Broker::builder().servers([server.url()]).state(Database).connect().await.unwrap();
    let error = broker.start_groups(["stateful"]).await.unwrap_err();
    let parts = ["`start_up::handlers::stateful`", "`State<start_up::handlers::Mailer>`", ".state(..)"];
    assert_error(&error, ErrorKind::MissingState, &parts);
    assert!(!error.to_string().contains("Database"), "it was registered: {error}");
    assert_untouched(&server, &broker).await;
    let neither = connect(&server).await.start_groups(["stateful"]).await.unwrap_err();
    assert_error(&neither, ErrorKind::Startup, &["start_up::handlers::Database", "start_up::handlers::Mailer"]);
    let both = Broker::builder().servers([server.url()]).state(Database).state(Mailer).connect().await.unwrap();
    let _running = both.start_groups(["stateful"]).await.unwrap();
}

#[tokio::test]
async fn missing_state_is_reported_with_its_closure() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    let closure = async |_: u64, _: State<Mailer>| {};
    let error = broker.subscribe("orders.created", "mailer", closure).await.unwrap_err();
    assert_error(
        &error,
        ErrorKind::MissingState,
        &["`closure on orders.created`", "`State<start_up::handlers::Mailer>`"],
    );
    assert_untouched(&server, &broker).await;
}

/// A parameter that needs a state.
struct Tariff;

impl FromMessage for Tariff {
    fn from_message(_: &Message, _: &jetstream_handlers::Context) -> Result<Self, Rejection> {
        Ok(Tariff)
    }

    fn check(context: &jetstream_handlers::Context) -> Result<(), Rejection> {
        context.state::<Database>().map(drop).ok_or(Rejection::new("needs a `Database` to look up tariffs"))
    }
}

#[subscriber(subject = "orders.created", queue = "tariff", group = "tariff")]
async fn with_tariff(_: Tariff) {}

#[tokio::test]
async fn custom_parameter_is_checked() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    let error = broker.start_groups(["tariff"]).await.unwrap_err();
    assert!(
        error.to_string().contains("`start_up::handlers::with_tariff` needs a `Database` to look up tariffs"),
        "{error}"
    );
    assert_untouched(&server, &broker).await;
    let broker = Broker::builder().servers([server.url()]).state(Database).connect().await.unwrap();
    let _running = broker.start_groups(["tariff"]).await.unwrap();
}

#[tokio::test]
async fn unknown_group_is_refused_with_the_known_groups() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    let parts = ["`group = \"biling\"`", "\"stateful\"", "\"linked\""];
    let error = broker.start_groups(["stateful", "biling"]).await.unwrap_err();
    assert_error(&error, ErrorKind::NoHandlers, &parts);
    let error = broker.run_groups(["biling"]).await.unwrap_err();
    assert_error(&error, ErrorKind::NoHandlers, &parts);
    assert_untouched(&server, &broker).await;
}

#[tokio::test]
async fn empty_list_of_groups_is_refused() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    let error = broker.start_groups([]).await.unwrap_err();
    assert_error(&error, ErrorKind::NoHandlers, &["no handlers to start"]);
    let error = broker.run_groups([]).await.unwrap_err();
    assert_error(&error, ErrorKind::NoHandlers, &["no handlers to start"]);
}

#[tokio::test]
async fn repeated_group_starts_once() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    let running = broker.start_groups(["two-streams", "two-streams"]).await.unwrap();
    assert_eq!(broker.health().handlers.len(), 2, "{}", broker.health());
    running.shutdown().await.unwrap();
}

#[tokio::test]
async fn no_handlers_is_an_error_with_advice() {
    let server = Server::start().await;
    let mut service = Program::start(env!("CARGO_BIN_EXE_no_handlers"), &[], &[("NATS_URL", &server.url())]);
    assert!(!service.ended().await.success());
    let output = service.output();
    let (start_all, run_all) = output.split_once('\n').unwrap();
    for parts in [start_all, run_all] {
        for part in ["NoHandlers", "no handlers to start", "#[subscriber(subject = ", "use the_crate as _;"] {
            assert!(parts.contains(part), "no {part:?} in {parts:?}");
        }
    }
}

#[tokio::test]
async fn subject_and_names_of_a_closure_are_validated() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    for (subject, queue, parts) in [
        ("orders..created", "fine", &["subject", "`orders..created`", "an empty token"][..]),
        ("", "fine", &["subject", "empty"]),
        ("orders.created ", "fine", &["subject", "a space"]),
        ("orders.>.created", "fine", &["subject", "`>` before its end"]),
        ("$JS.API.>", "fine", &["subject", "reserved"]),
        ("orders.created", "order.processor", &["queue", "`order.processor`", "`.`"]),
        ("orders.created", "order processor", &["queue", "a space"]),
        ("orders.created", "", &["queue", "the name is empty"]),
    ] {
        let error = broker.subscribe(subject, queue, async |_: u64| {}).await.unwrap_err();
        assert_error(&error, ErrorKind::Config, &[&[&*format!("`closure on {subject}`")], parts].concat());
    }
    let error = broker.subscribe("orders.created", "fine", async |_: u64| {}).stream("MY.STREAM").await.unwrap_err();
    assert_error(&error, ErrorKind::Config, &["stream", "`MY.STREAM`"]);
    let error = broker.subscribe("orders..created", "order.processor", async |_: u64| {}).await.unwrap_err();
    assert_error(&error, ErrorKind::Startup, &["2 problems", "`orders..created`", "`order.processor`"]);
    assert_untouched(&server, &broker).await;
}

#[tokio::test]
async fn linked_crate_registers_its_handlers() {
    let server = Server::start().await;
    let client = server.client().await;
    let mut answers = client.subscribe("linked.*").await.unwrap();
    let broker = connect(&server).await;
    let running = broker.start_groups(["linked"]).await.unwrap();
    let mut names: Vec<_> = broker.health().handlers.into_iter().map(|handler| handler.handler).collect();
    names.sort();
    assert_eq!(names, ["linked_handlers::answer", "linked_handlers::private::echo"]);
    broker.publish("linked.asked", &serde_json::json!({ "question": "is it open" })).await.unwrap();
    let published = answers
        .by_ref()
        .take(3)
        .map(|message| (message.subject.to_string(), String::from_utf8(message.payload.to_vec()).unwrap()));
    let mut received: Vec<_> = tokio::time::timeout(SOON, published.collect()).await.unwrap();
    received.sort();
    let question = r#"{"question":"is it open"}"#;
    let expected = [("linked.answered", r#""IS IT OPEN""#), ("linked.asked", question), ("linked.repeated", question)];
    assert_eq!(received, expected.map(|(subject, payload)| (subject.to_owned(), payload.to_owned())));
    running.shutdown().await.unwrap();
}

#[subscriber(subject = "many.created", queue = "many", group = "everything-wrong")]
async fn first_of_two(_: u64) {}

#[subscriber(subject = "many.created", queue = "many", group = "everything-wrong")]
async fn second_of_two(_: u64, _: State<Database>) {}

#[subscriber(subject = "*.created", queue = "anything", group = "everything-wrong")]
async fn anything(_: u64) {}

#[tokio::test]
async fn all_problems_of_handlers_are_reported_together() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    let error = broker.start_groups(["everything-wrong", "stateful"]).await.unwrap_err();
    assert_error(&error, ErrorKind::Startup, &[]);
    for (kind, parts) in [
        (ErrorKind::Config, ["`start_up::handlers::first_of_two`", "`start_up::handlers::second_of_two`"]),
        (ErrorKind::MissingState, ["`start_up::handlers::second_of_two`", "start_up::handlers::Database"]),
        (ErrorKind::MissingState, ["`start_up::handlers::stateful`", "start_up::handlers::Database"]),
        (ErrorKind::MissingState, ["`start_up::handlers::stateful`", "start_up::handlers::Mailer"]),
        (ErrorKind::StreamNotFound, ["`start_up::handlers::anything`", "`*.created`"]),
    ] {
        let problems = error.problems().iter().map(|problem| (problem.kind(), problem.to_string()));
        let count = problems.filter(|(k, text)| *k == kind && parts.iter().all(|part| text.contains(part))).count();
        assert_eq!(count, 1, "{kind:?} with {parts:?} in {error}");
        assert!(parts.iter().all(|part| error.to_string().contains(part)), "{error}");
    }
    assert_eq!(error.problems().len(), 5, "{error}");
    assert_untouched(&server, &broker).await;
}

#[tokio::test]
async fn only_included_handlers_start() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    broker.include::<of_orders>().include::<equal_one>().include::<of_orders>();
    let running = broker.start_all().await.unwrap();
    let mut names: Vec<_> = broker.health().handlers.into_iter().map(|handler| handler.handler).collect();
    names.sort();
    assert_eq!(names, ["start_up::handlers::equal_one", "start_up::handlers::of_orders"]);
    running.shutdown().await.unwrap();
}

#[tokio::test]
async fn second_handler_on_a_running_queue_is_refused_although_its_settings_differ() {
    for broker in [connect(&Server::start().await).await, Broker::in_memory()] {
        let subscribe = || broker.subscribe("orders.created", "shared", async |_: Message| {});
        let first = subscribe().await.unwrap();
        let keyed = subscribe().key("customer").single_instance();
        for second in [subscribe(), subscribe().ack_wait(secs(99)), subscribe().ordered().single_instance(), keyed] {
            let error = second.await.unwrap_err();
            assert!(matches!(error.problems(), [Problem::SharedDurable { .. }]), "{error:?}");
        }
        let wider = broker.subscribe("orders.*", "shared", async |_: Message| {}).await.unwrap_err();
        assert!(matches!(wider.problems(), [Problem::SharedDurable { .. }]), "{wider:?}");
        first.unsubscribe().await.unwrap();
        subscribe().await.unwrap().unsubscribe().await.unwrap();
    }
}

#[tokio::test]
async fn invalid_settings_do_not_hide_missing_state() {
    let broker = Broker::in_memory();
    let closure = async |_: u64, _: State<String>| {};
    let error = broker.subscribe("orders.created", "shared", closure).concurrency(0).await.unwrap_err();
    let kinds: Vec<_> = error.problems().iter().map(Problem::kind).collect();
    assert_eq!(kinds, [ErrorKind::Config, ErrorKind::MissingState], "{error:?}");
}

#[tokio::test]
async fn stream_that_only_overlaps_a_subject_is_not_suggested() {
    let broker = Broker::builder().stream(stream_config("BILLS", &["bills.>"])).connect_in_memory();
    broker.publish("orders.created", &1).await.unwrap();
    broker.publish("bills.paid", &1).await.unwrap();
    let subscribe = |stream: &'static str| broker.subscribe("*.paid", "wild", async |_: Message| {}).stream(stream);
    let _part = subscribe("BILLS").await.unwrap();
    assert_error(subscribe("WILD").await, ErrorKind::StreamNotFound, &["no single stream covers `*.paid`"]);
}

#[tokio::test]
async fn contradicting_settings_of_a_closure_are_refused() {
    let broker = Broker::in_memory();
    let subscribe = || broker.subscribe("orders.created", "in-order", async |_: Message| {});
    let parts = ["`closure on orders.created`: concurrency", "one message at a time across all instances"];
    assert_error(subscribe().ordered().concurrency(2).await, ErrorKind::Config, &parts);
    let parts = ["`closure on orders.created`: ack_every", "add `ordered`"];
    assert_error(subscribe().ack_every(10).await, ErrorKind::Config, &parts);
    let parts = ["single_instance", "add `ordered` or `key`"];
    assert_error(subscribe().single_instance().await, ErrorKind::Config, &parts);
    let parts = ["`closure on orders.created`: key: excludes `ordered`", "remove `key` or `ordered`"];
    assert_error(subscribe().key("customer").ordered().await, ErrorKind::Config, &parts);
    let parts = ["`closure on orders.created`: key", "`region`", "the subject `orders.created` has no placeholders"];
    assert_error(subscribe().key("{region}").await, ErrorKind::Config, &parts);
    let parts = ["`closure on orders.created`: concurrency: is 513", "1 to 512"];
    assert_error(subscribe().blocking().concurrency(513).await, ErrorKind::Config, &parts);
}

#[tokio::test]
async fn dead_letter_subject_must_not_match_the_handler() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    let parts = ["`closure on dlq.>`", "`dlq.DLQ.dead-letters`", "set `dead_letter`"];
    assert_error(start(&broker, "dlq.>", "dead-letters").await, ErrorKind::Config, &parts);
    let subscribe = || broker.subscribe("orders.*", "orders", async |_: Message| {});
    let parts = ["`orders.failed`", "`orders.*`"];
    assert_error(subscribe().dead_letter(Some("orders.failed")).await, ErrorKind::Config, &parts);
    assert_eq!(names(&server.jetstream().await).await, set(&[]));
    let _apart = subscribe().dead_letter(Some("failed.orders")).await.unwrap();
    let consumer_of_all = broker.subscribe("dlq.>", "dead-letters", async |_: Message| {});
    let _without = consumer_of_all.dead_letter(None).await.unwrap();
    assert_eq!(names(&server.jetstream().await).await, set(&["DLQ", "FAILED", "ORDERS"]));
}

#[derive(Clone, Debug)]
struct MissingState;

#[subscriber(subject = "many.drifted", queue = "many-drifted", group = "many")]
async fn many_drifted(_: u64) {}

#[subscriber(subject = "many.stateless", queue = "many-stateless", group = "many")]
async fn many_stateless(_: u64, _: State<MissingState>) {}

#[subscriber(subject = "many.outside", queue = "many-outside", stream = "SHOP", group = "many")]
async fn many_outside(_: u64) {}

#[subscriber(subject = "*.many", queue = "many-wild", group = "many")]
async fn many_wild(_: u64) {}

#[subscriber(subject = "taken.by.nobody", queue = "many-taken", group = "many")]
async fn many_taken(_: u64) {}

#[subscriber(subject = "fine.thing", queue = "many-fine", group = "many")]
async fn many_fine(_: u64) {}

#[tokio::test]
async fn all_problems_are_reported_and_nothing_is_created() {
    let server = Server::start().await;
    let jetstream = server.jetstream().await;
    let many = jetstream.create_stream(stream_config("MANY", &["many.drifted", "many.stateless"])).await.unwrap();
    jetstream.create_stream(stream_config("SHOP", &["shop.>"])).await.unwrap();
    jetstream.create_stream(stream_config("PART", &["taken.by.somebody"])).await.unwrap();
    let config = consumer::Config { ack_wait: secs(60), ..durable("many-drifted", "many.drifted") };
    many.create_consumer(config).await.unwrap();
    let broker = Broker::builder()
        .servers([server.url()])
        .stream(stream::Config { max_messages: 5, ..stream_config("SHOP", &["shop.>"]) })
        .connect()
        .await
        .unwrap();
    let error = broker.start_groups(["many"]).await.unwrap_err();
    assert_error(&error, ErrorKind::Startup, &["6 problems"]);
    for (kind, parts) in [
        (ErrorKind::StreamMismatch, ["stream `SHOP`", "max_msgs"]),
        (ErrorKind::ConsumerMismatch, ["`start_up::handlers::many_drifted`", "ack_wait"]),
        (ErrorKind::MissingState, ["`start_up::handlers::many_stateless`", "MissingState"]),
        (ErrorKind::StreamNotFound, ["`start_up::handlers::many_outside`", "`many.outside`"]),
        (ErrorKind::StreamNotFound, ["`start_up::handlers::many_wild`", "`*.many`"]),
        (ErrorKind::StreamOverlap, ["`start_up::handlers::many_taken`", "stream `PART`"]),
    ] {
        let of_kind =
            |problem: &&Problem| problem.kind() == kind && parts.iter().all(|t| problem.to_string().contains(t));
        let count = error.problems().iter().filter(of_kind).count();
        assert_eq!(count, 1, "{kind:?} with {parts:?} in {error}");
        assert!(parts.iter().all(|part| error.to_string().contains(part)), "{error}");
    }
    assert_eq!(error.problems().len(), 6);
    assert_eq!(names(&jetstream).await, set(&["MANY", "PART", "SHOP"]));
    let consumers: Vec<_> = many.consumer_names().try_collect().await.unwrap();
    assert_eq!(consumers, ["many-drifted"]);
    assert!(broker.health().handlers.is_empty());
}

#[tokio::test]
async fn settings_of_a_broker_have_bounds() {
    const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
    let server = Server::start().await;
    let builder = || Broker::builder().servers([server.url()]);
    for (refused, parts) in [
        (builder().batch_size(0), ["`Builder`: batch_size", "is 0; expected 1 to 10000"]),
        (builder().batch_size(10_001), ["`Builder`: batch_size", "is 10001; expected 1 to 10000"]),
        (builder().batch_size(usize::MAX), ["`Builder`: batch_size", "expected 1 to 10000"]),
        (builder().fetch_wait(Duration::ZERO), ["`Builder`: fetch_wait", "is 0s; expected 200ms to 8760h"]),
        (builder().fetch_wait(YEAR + secs(1)), ["`Builder`: fetch_wait", "is 8760h1s; expected 200ms to 8760h"]),
        (builder().fetch_wait(Duration::MAX), ["`Builder`: fetch_wait", "expected 200ms to 8760h"]),
    ] {
        let broker = refused.connect().await.unwrap();
        assert_error(start(&broker, "orders.created", "bounds").await, ErrorKind::Config, &parts);
        assert_untouched(&server, &broker).await;
    }
    for (refused, part) in [
        (builder().publish_timeout(Duration::ZERO), "`publish_timeout` is 0s; expected 1ms to 8760h"),
        (builder().publish_timeout(Duration::MAX), "expected 1ms to 8760h"),
        (builder().request_timeout(Duration::from_nanos(1)), "`request_timeout` is 1ns; expected 1ms to 8760h"),
        (builder().request_timeout(YEAR + secs(1)), "`request_timeout` is 8760h1s; expected 1ms to 8760h"),
    ] {
        assert_error(refused.connect().await, ErrorKind::Config, &[part]);
    }
    // The largest values work.
    let largest = builder()
        .batch_size(10_000)
        .fetch_wait(YEAR)
        .publish_timeout(YEAR)
        .request_timeout(YEAR)
        .shutdown_grace(Duration::MAX)
        .wait_for_server(Duration::MAX);
    let broker = largest.connect().await.unwrap();
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
    let handler = move |id: u64| {
        sender.send(id).unwrap();
        std::future::ready(())
    };
    let subscribe = broker.subscribe("orders.created", "bounds", handler).ack_wait(YEAR).timeout(YEAR);
    let subscribe = subscribe.concurrency(10_000).max_deliver(1_000_000).backoff_exponential(YEAR, f64::MAX, YEAR);
    let subscription = subscribe.await.unwrap();
    broker.publish("orders.created", &7).await.unwrap();
    assert_eq!(tokio::time::timeout(SOON, receiver.recv()).await.unwrap(), Some(7));
    subscription.unsubscribe().await.unwrap();
}

#[tokio::test]
async fn beginning_of_a_consumer_has_bounds() {
    let broker = Broker::in_memory();
    let far = SystemTime::UNIX_EPOCH + Duration::from_secs(400 * 365 * 24 * 3600);
    for (deliver, part) in [
        (Deliver::FromSequence(0), "deliver: starts at sequence 0; expected at least 1"),
        (Deliver::FromTime(far), "deliver: starts at a time that the server cannot represent"),
    ] {
        let result = broker.subscribe("orders.created", "bounds", async |_: u64| {}).deliver(deliver).await;
        assert_error(result, ErrorKind::Config, &[part]);
    }
}

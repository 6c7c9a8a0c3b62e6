//! What is wrong with a set of handlers is told at start-up, before the first message.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall say where")]

use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use jetstream_handlers::Context;
use jetstream_handlers::prelude::*;
use jetstream_handlers::{Error, ErrorKind};
use jetstream_handlers_tests::{Program, Server};
use linked_handlers as _;

const SOON: Duration = Duration::from_secs(10);

async fn connect(server: &Server) -> Broker {
    Broker::connect(server.url()).await.unwrap()
}

#[track_caller]
fn assert_told(error: &Error, kind: ErrorKind, parts: &[&str]) {
    let text = error.to_string();
    assert_eq!(error.kind(), kind, "{text}");
    for part in parts {
        assert!(text.contains(part), "no {part:?} in {text:?}");
    }
}

/// Nothing was made, and nothing runs.
async fn assert_untouched(server: &Server, broker: &Broker) {
    let names: Vec<String> = server.jetstream().await.stream_names().try_collect().await.unwrap();
    assert_eq!(names, Vec::<String>::new());
    assert!(broker.health().handlers.is_empty(), "{}", broker.health());
}

#[subscriber(subject = "orders.created", queue = "twins", ack_wait = "10s", group = "quarrelling-twins")]
async fn patient(_: u64) {}

#[subscriber(subject = "orders.created", queue = "twins", ack_wait = "20s", group = "quarrelling-twins")]
async fn more_patient(_: u64) {}

#[tokio::test]
async fn two_handlers_with_one_durable_and_different_settings_are_an_error() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    let error = broker.start_groups(["quarrelling-twins"]).await.unwrap_err();
    let told =
        ["`wiring::patient`", "`wiring::more_patient`", "tests/wiring.rs", "`twins`", "ack_wait", "`queue` of its own"];
    assert_told(&error, ErrorKind::Config, &told);
    assert_untouched(&server, &broker).await;
}

#[subscriber(subject = "orders.created", queue = "identical", group = "identical-twins")]
async fn castor(_: u64) {}

#[subscriber(subject = "orders.created", queue = "identical", group = "identical-twins")]
async fn pollux(_: u64) {}

#[tokio::test]
async fn two_handlers_with_one_durable_and_the_same_settings_are_an_error_too() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    let error = broker.start_groups(["identical-twins"]).await.unwrap_err();
    let told = ["`wiring::castor`", "`wiring::pollux`", "`identical`", "each message would reach only one of them"];
    assert_told(&error, ErrorKind::Config, &told);
    assert_untouched(&server, &broker).await;
}

#[subscriber(subject = "orders.created", queue = "distant", group = "distant-twins")]
async fn near(_: u64) {}

#[subscriber(subject = "payments.received", queue = "distant", group = "distant-twins")]
async fn far(_: u64) {}

#[tokio::test]
async fn one_durable_name_on_two_streams_is_two_durables() {
    let server = Server::start().await;
    let running = connect(&server).await.start_groups(["distant-twins"]).await.unwrap();
    running.shutdown().await.unwrap();
    // On one stream they are one.
    let other = Server::start().await;
    let jetstream = other.jetstream().await;
    let both = jetstream_handlers::stream::Config {
        name: "BOTH".to_owned(),
        subjects: vec!["orders.>".to_owned(), "payments.>".to_owned()],
        ..Default::default()
    };
    jetstream.create_stream(both).await.unwrap();
    let error = connect(&other).await.start_groups(["distant-twins"]).await.unwrap_err();
    assert_told(&error, ErrorKind::Config, &["`wiring::near`", "`wiring::far`", "`distant`", "different subject"]);
}

#[subscriber(subject = "orders.eu", queue = "regional", group = "regional-twins")]
async fn european(_: u64) {}

#[subscriber(subject = "orders.us", queue = "regional", group = "regional-twins")]
async fn american(_: u64) {}

#[tokio::test]
async fn one_durable_name_on_two_streams_of_like_subjects_is_two_durables() {
    let server = Server::start().await;
    let jetstream = server.jetstream().await;
    for (name, subject) in [("EU", "orders.eu"), ("US", "orders.us")] {
        let (name, subjects) = (name.to_owned(), vec![subject.to_owned()]);
        let config = jetstream_handlers::stream::Config { name, subjects, ..Default::default() };
        jetstream.create_stream(config).await.unwrap();
    }
    let running = connect(&server).await.start_groups(["regional-twins"]).await.unwrap();
    running.shutdown().await.unwrap();
    // Without these streams there would be one for both.
    let empty = Server::start().await;
    let error = connect(&empty).await.start_groups(["regional-twins"]).await.unwrap_err();
    assert_told(&error, ErrorKind::Config, &["`wiring::american`", "`wiring::european`", "different subject"]);
}

#[derive(Clone)]
struct Database;

#[derive(Clone)]
struct Mailer;

#[subscriber(subject = "orders.created", queue = "stateful", group = "stateful")]
async fn stateful(_: State<Database>, _: u64, _: State<Mailer>) {}

#[tokio::test]
async fn a_state_that_nobody_gave_is_named_with_its_handler() {
    let server = Server::start().await;
    let broker = Broker::builder().servers([server.url()]).state(Database).connect().await.unwrap();
    let error = broker.start_groups(["stateful"]).await.unwrap_err();
    let told = ["`wiring::stateful`", "`State<wiring::Mailer>`", ".state(..)"];
    assert_told(&error, ErrorKind::MissingState, &told);
    assert!(!error.to_string().contains("Database"), "it was given: {error}");
    assert_untouched(&server, &broker).await;
    let neither = connect(&server).await.start_groups(["stateful"]).await.unwrap_err();
    assert_told(&neither, ErrorKind::Startup, &["wiring::Database", "wiring::Mailer"]);
    let both = Broker::builder().servers([server.url()]).state(Database).state(Mailer).connect().await.unwrap();
    let _running = both.start_groups(["stateful"]).await.unwrap();
}

#[tokio::test]
async fn a_state_that_nobody_gave_is_named_with_its_closure() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    let closure = async |_: u64, _: State<Mailer>| {};
    let error = broker.subscribe("orders.created", "mailer", closure).await.unwrap_err();
    assert_told(&error, ErrorKind::MissingState, &["`closure on orders.created`", "`State<wiring::Mailer>`"]);
    assert_untouched(&server, &broker).await;
}

/// A parameter that asks for more than the message has.
struct Tariff;

impl FromMessage for Tariff {
    fn from_message(_: &Message, _: &Context) -> Result<Self, Rejection> {
        Ok(Tariff)
    }

    fn check(context: &Context) -> Result<(), Rejection> {
        context.state::<Database>().map(drop).ok_or(Rejection::new("needs a `Database` to look up tariffs"))
    }
}

#[subscriber(subject = "orders.created", queue = "tariff", group = "tariff")]
async fn with_tariff(_: Tariff) {}

#[tokio::test]
async fn a_parameter_of_ones_own_is_checked_as_well() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    let error = broker.start_groups(["tariff"]).await.unwrap_err();
    assert!(error.to_string().contains("`wiring::with_tariff` needs a `Database` to look up tariffs"), "{error}");
    assert_untouched(&server, &broker).await;
    let broker = Broker::builder().servers([server.url()]).state(Database).connect().await.unwrap();
    let _running = broker.start_groups(["tariff"]).await.unwrap();
}

#[tokio::test]
async fn a_group_without_a_handler_is_an_error_that_names_those_there_are() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    let told = ["`group = \"biling\"`", "\"stateful\"", "\"linked\""];
    let error = broker.start_groups(["stateful", "biling"]).await.unwrap_err();
    assert_told(&error, ErrorKind::NoHandlers, &told);
    let error = broker.run_groups(["biling"]).await.unwrap_err();
    assert_told(&error, ErrorKind::NoHandlers, &told);
    assert_untouched(&server, &broker).await;
}

#[tokio::test]
async fn groups_that_name_nothing_are_no_handlers() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    let error = broker.start_groups([]).await.unwrap_err();
    assert_told(&error, ErrorKind::NoHandlers, &["no handlers to start"]);
    let error = broker.run_groups([]).await.unwrap_err();
    assert_told(&error, ErrorKind::NoHandlers, &["no handlers to start"]);
}

#[tokio::test]
async fn a_group_that_is_named_twice_is_started_once() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    let running = broker.start_groups(["distant-twins", "distant-twins"]).await.unwrap();
    assert_eq!(broker.health().handlers.len(), 2, "{}", broker.health());
    running.shutdown().await.unwrap();
}

#[tokio::test]
async fn no_handlers_at_all_is_an_error_that_says_how_to_get_some() {
    let server = Server::start().await;
    let mut service = Program::start(env!("CARGO_BIN_EXE_no_handlers"), &[], &[("NATS_URL", &server.url())]);
    assert!(!service.ended().await.success());
    let output = service.output();
    let (start_all, run_all) = output.split_once('\n').unwrap();
    for told in [start_all, run_all] {
        for part in ["NoHandlers", "no handlers to start", "#[subscriber(subject = ", "use the_crate as _;"] {
            assert!(told.contains(part), "no {part:?} in {told:?}");
        }
    }
}

#[tokio::test]
async fn the_names_of_a_closure_are_checked_when_it_starts() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    for (subject, queue, told) in [
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
        assert_told(&error, ErrorKind::Config, &[&[&*format!("`closure on {subject}`")], told].concat());
    }
    let error = broker.subscribe("orders.created", "fine", async |_: u64| {}).stream("MY.STREAM").await.unwrap_err();
    assert_told(&error, ErrorKind::Config, &["stream", "`MY.STREAM`"]);
    let error = broker.subscribe("orders..created", "order.processor", async |_: u64| {}).await.unwrap_err();
    assert_told(&error, ErrorKind::Startup, &["2 problems", "`orders..created`", "`order.processor`"]);
    assert_untouched(&server, &broker).await;
}

#[tokio::test]
async fn handlers_of_another_crate_are_there_when_it_is_linked() {
    let server = Server::start().await;
    let client = server.client().await;
    let mut answers = client.subscribe("linked.*").await.unwrap();
    let broker = connect(&server).await;
    let running = broker.start_groups(["linked"]).await.unwrap();
    let mut names: Vec<_> = broker.health().handlers.into_iter().map(|handler| handler.handler).collect();
    names.sort();
    assert_eq!(names, ["linked_handlers::answer", "linked_handlers::private::echo"]);
    broker.publish("linked.asked", &serde_json::json!({ "question": "who goes there" })).await.unwrap();
    let hear = answers
        .by_ref()
        .take(3)
        .map(|message| (message.subject.to_string(), String::from_utf8(message.payload.to_vec()).unwrap()));
    let mut heard: Vec<_> = tokio::time::timeout(SOON, hear.collect()).await.unwrap();
    heard.sort();
    let question = r#"{"question":"who goes there"}"#;
    let expected =
        [("linked.answered", r#""WHO GOES THERE""#), ("linked.asked", question), ("linked.repeated", question)];
    assert_eq!(heard, expected.map(|(subject, payload)| (subject.to_owned(), payload.to_owned())));
    running.shutdown().await.unwrap();
}

#[subscriber(subject = "many.created", queue = "many", group = "everything-wrong")]
async fn first_of_two(_: u64) {}

#[subscriber(subject = "many.created", queue = "many", group = "everything-wrong")]
async fn second_of_two(_: u64, _: State<Database>) {}

#[subscriber(subject = "*.created", queue = "anything", group = "everything-wrong")]
async fn anything(_: u64) {}

#[tokio::test]
async fn all_that_is_wrong_is_told_at_once() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    let error = broker.start_groups(["everything-wrong", "stateful"]).await.unwrap_err();
    assert_told(&error, ErrorKind::Startup, &[]);
    for (kind, parts) in [
        (ErrorKind::Config, ["`wiring::first_of_two`", "`wiring::second_of_two`"]),
        (ErrorKind::MissingState, ["`wiring::second_of_two`", "wiring::Database"]),
        (ErrorKind::MissingState, ["`wiring::stateful`", "wiring::Database"]),
        (ErrorKind::MissingState, ["`wiring::stateful`", "wiring::Mailer"]),
        (ErrorKind::StreamNotFound, ["`wiring::anything`", "`*.created`"]),
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
async fn the_included_handlers_are_the_ones_that_start() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    broker.include::<near>().include::<castor>().include::<near>();
    let running = broker.start_all().await.unwrap();
    let mut names: Vec<_> = broker.health().handlers.into_iter().map(|handler| handler.handler).collect();
    names.sort();
    assert_eq!(names, ["wiring::castor", "wiring::near"]);
    running.shutdown().await.unwrap();
}

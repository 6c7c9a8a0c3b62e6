//! Handlers of another crate that a program expects: the crate is linked only because they are.
//!
//! Nothing else in this program names the crate.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

use jetstream_handlers::prelude::*;
use jetstream_handlers::{Error, ErrorKind, HandlerState, Problem};
use jetstream_handlers_tests::assert_error;

#[subscriber(subject = "local.a", queue = "local", group = "local")]
async fn local(_: u64) {}

#[subscriber(subject = "local.b", queue = "elsewhere", broker = "elsewhere")]
async fn elsewhere(_: u64) {}

fn states(broker: &Broker) -> Vec<(String, HandlerState)> {
    broker.handlers().into_iter().map(|it| (it.name, it.state)).collect()
}

#[tokio::test]
async fn expected_handler_links_its_crate_and_is_started() {
    let broker = Broker::in_memory();
    let running = broker.expect::<linked_handlers::answer>().start_all().await.unwrap();
    let expected = [
        ("expect::elsewhere", HandlerState::OtherBroker),
        ("expect::local", HandlerState::Running),
        ("linked_handlers::answer", HandlerState::Running),
        ("linked_handlers::private::echo", HandlerState::Running),
    ];
    assert_eq!(states(&broker), expected.map(|(name, state)| (name.to_owned(), state)));
    running.shutdown().await.unwrap();
}

fn left_out(error: &Error) -> Vec<&str> {
    let problems = error.problems().iter().filter(|it| matches!(it, Problem::NotStarted { .. }));
    problems.filter_map(Problem::handler).collect()
}

#[tokio::test]
async fn start_without_an_expected_handler_fails() {
    let broker = Broker::in_memory();
    broker.expect::<linked_handlers::answer>().expect::<linked_handlers::answer>().expect::<local>();
    let error = broker.start_groups(["local"]).await.unwrap_err();
    assert_eq!(left_out(&error), ["linked_handlers::answer"]);
    let parts = ["it has `group = \"linked\"`, and the groups [\"local\"] are started; start its group too"];
    assert_error(&error, ErrorKind::NoHandlers, &parts);
    assert!(broker.health().handlers.is_empty());
    let running = broker.start_groups(["local", "linked"]).await.unwrap();
    running.shutdown().await.unwrap();

    let error = broker.include::<local>().start_all().await.unwrap_err();
    assert_error(&error, ErrorKind::NoHandlers, &["`linked_handlers::answer` is expected", "include it too"]);

    let broker = Broker::in_memory();
    let error = broker.expect::<elsewhere>().start_all().await.unwrap_err();
    let parts = ["`expect::elsewhere` is expected", "it has `broker = \"elsewhere\"`, and this broker has no name"];
    assert_error(&error, ErrorKind::NoHandlers, &parts);
}

#[tokio::test]
async fn expected_handler_may_run_already() {
    let broker = Broker::in_memory();
    let first = broker.start_groups(["linked"]).await.unwrap();
    let second = broker.expect::<linked_handlers::answer>().start_groups(["local"]).await.unwrap();
    first.shutdown().await.unwrap();
    second.shutdown().await.unwrap();
    let error = broker.start_groups(["local"]).await.unwrap_err();
    assert_eq!(left_out(&error), ["linked_handlers::answer"]);
}

//! A user without the rights to read, replay or delete dead letters, or to operate a handler, learns which is missing.

use jetstream_handlers::prelude::*;
use jetstream_handlers::{Error, ErrorKind, Manage, Position};
use jetstream_handlers_tests::{Server, assert_error, connect, dead_letters, publish, stream_config, users, worker};

/// Starts a server on which a worker may not publish to these subjects, with a dead letter.
async fn denied(subjects: &str) -> (Server, Broker) {
    let config = users(&format!("publish: {{ deny: [{subjects}] }}"));
    let server = Server::builder().config(&config).user("admin", "secret").start().await;
    let admin = connect(&server).await;
    let fails = |_: u64| std::future::ready(Settle::Terminate);
    let _subscription = admin.subscribe("work.a", "worker", fails).await.unwrap();
    publish(&admin, "work.a", [1]).await;
    dead_letters(&admin, 1).await;
    let broker = worker(&server).connect().await.unwrap();
    (server, broker)
}

/// The kind tells that the denial was noticed; an answer that was only awaited in vain is a timeout.
#[track_caller]
fn assert_denied<T>(result: Result<T, Error>, subject: &str) {
    assert_error(result.map(drop), ErrorKind::Authorization, &[subject]);
}

#[tokio::test]
async fn reading_names_the_right_that_is_missing() {
    for subject in ["$JS.API.STREAM.INFO.DLQ", "$JS.API.STREAM.MSG.GET.DLQ"] {
        let (_server, broker) = denied(&format!("\"{subject}\"")).await;
        let letters = broker.dead_letters();
        assert_denied(letters.list(10).await, subject);
        assert_denied(letters.count().await, subject);
        assert_denied(letters.groups().await, subject);
        assert_denied(letters.export(Vec::new()).await, subject);
        assert_denied(letters.dry_run().await, subject);
        assert_denied(letters.replay_all().await, subject);
        assert_denied(letters.purge().await, subject);
    }
}

#[tokio::test]
async fn change_names_the_right_that_is_missing() {
    let denied_subjects = r#""$JS.API.STREAM.MSG.DELETE.DLQ", "$JS.API.CONSUMER.PAUSE.>", "$JS.API.CONSUMER.RESET.>""#;
    let (server, broker) = denied(denied_subjects).await;
    let letters = broker.dead_letters();
    assert_denied(letters.purge().await, "$JS.API.STREAM.MSG.DELETE.DLQ");
    let replayed = letters.replay(1).await;
    assert_error(replayed.map(drop), ErrorKind::Authorization, &["was replayed as message", "but not deleted"]);
    assert!(letters.get(1).await.unwrap().is_some());
    let _subscription = broker.subscribe("work.a", "worker", |_: u64| async {}).await.unwrap();
    if server.client().await.is_server_compatible(2, 14, 0) {
        assert_denied(broker.pause("worker", secs(60)).await, "$JS.API.CONSUMER.PAUSE.WORK.worker");
        let reset = broker.reset("worker", Position::Start).await;
        assert_denied(reset, "$JS.API.CONSUMER.RESET.WORK.worker");
    }
}

#[subscriber(subject = "work.a", queue = "counted", stream = "WORK")]
async fn work(_: u64) {}

#[tokio::test]
async fn dead_letters_of_known_streams_are_counted_without_a_look_up() {
    let (server, _broker) = denied(r#""$JS.API.STREAM.NAMES""#).await;
    let builder = worker(&server).manage(Manage::Bind).include::<work>();
    let builder = builder.stream(stream_config("WORK", &["work.a"])).stream(stream_config("DLQ", &["dlq.>"]));
    let status = builder.connect().await.unwrap().status().await.unwrap().remove(0);
    assert_eq!(status.dead_letters, Some(0), "{status:?}");
}

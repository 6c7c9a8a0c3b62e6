//! A denied operation is an error at once that names the subject: at its deadline, it would be one of another kind.

use futures::StreamExt as _;
use jetstream_handlers::async_nats::Event;
use jetstream_handlers::prelude::*;
use jetstream_handlers::{ErrorKind, stream};
use jetstream_handlers_tests::{
    Recorder, SOON, Server, assert_error, binary, eventually, stream_config, users, worker,
};

/// Starts a server with the stream `SHOP` and a user `worker` with these permissions.
async fn server(permissions: &str) -> Server {
    let server = Server::builder().config(&users(permissions)).user("admin", "secret").start().await;
    let newest = binary::version() >= (2, 14, 0);
    let config = stream::Config {
        allow_atomic_publish: newest,
        allow_batch_publish: newest,
        ..stream_config("SHOP", &["orders.>"])
    };
    server.jetstream().await.create_stream(config).await.unwrap();
    server
}

#[tokio::test]
async fn denied_publish_fails_at_once_and_names_the_subject() {
    let server = server(r#"publish: { deny: ["orders.secret"] }"#).await;
    let broker = worker(&server).connect().await.unwrap();
    let parts = ["cannot publish to `orders.secret`", "`publish: { allow: [\"orders.secret\"] }`"];
    let denied = broker.publish("orders.secret", &1).await.unwrap_err();
    assert_eq!(denied.missing_permission(), Some("orders.secret"));
    assert_error(&denied, ErrorKind::Authorization, &parts);
    let publisher = broker.publisher();
    // The neighbours on the same connection are stored.
    let subjects = ["orders.a", "orders.secret", "orders.b", "orders.secret", "orders.c"];
    let messages = subjects.map(|subject| broker.publish_message(subject, &1));
    let results: Vec<_> = publisher.publish_all(messages).collect().await;
    for (subject, result) in subjects.iter().zip(results) {
        match *subject {
            "orders.secret" => assert_error(result, ErrorKind::Authorization, &parts),
            _ => assert!(!result.unwrap().duplicate),
        }
    }
    if binary::version() >= (2, 14, 0) {
        let messages = || subjects.map(|subject| broker.publish_message(subject, &1));
        let denied = publisher.publish_atomic(messages()).await;
        assert_error(denied, ErrorKind::Authorization, &["atomic batch", "`orders.secret`"]);
        let denied = publisher.ingest(messages()).await.unwrap_err();
        assert_error(&denied, ErrorKind::Authorization, &["`orders.secret`", "the first 1 are stored"]);
        assert_eq!(denied.stored(), 1);
        let denied = publisher.ingest([broker.publish_message("orders.secret", &1)]).await.unwrap_err();
        assert_error(&denied, ErrorKind::Authorization, &["`orders.secret`", "has not begun"]);
    }
}

#[tokio::test]
async fn denied_api_request_fails_at_once_and_names_the_subject() {
    let server = server(r#"publish: { deny: ["$JS.API.STREAM.NAMES", "$JS.API.STREAM.INFO.SHOP"] }"#).await;
    let broker = worker(&server).connect().await.unwrap();
    let started = broker.subscribe("orders.created", "reader", Recorder::<u64>::new().handler()).await;
    assert_error(started.map(drop), ErrorKind::Authorization, &["`publish: { allow: [\"$JS.API.STREAM.NAMES\"] }`"]);
    // A publish needs no API request.
    broker.publish("orders.created", &1).await.unwrap();
}

#[tokio::test]
async fn publish_whose_stream_may_not_be_created_is_refused() {
    let server = server(r#"publish: { deny: ["$JS.API.STREAM.CREATE.>"] }"#).await;
    let broker = worker(&server).connect().await.unwrap();
    let denied = broker.publish("elsewhere.created", &1).await.unwrap_err();
    let parts = ["no stream stores `elsewhere.created`", "`publish: { allow: [\"$JS.API.STREAM.CREATE.ELSEWHERE\"] }`"];
    assert_error(&denied, ErrorKind::Authorization, &parts);
    assert_eq!(denied.missing_permission(), Some("$JS.API.STREAM.CREATE.ELSEWHERE"));
    let messages = [1, 2].map(|id| broker.publish_message("elsewhere.created", &id));
    let results: Vec<_> = broker.publisher().publish_all(messages).collect().await;
    for result in results {
        assert_error(result, ErrorKind::Authorization, &parts);
    }
}

#[tokio::test]
async fn publish_without_the_right_to_find_its_stream_waits_for_it() {
    let server = server(r#"publish: { deny: ["$JS.API.>"] }"#).await;
    let broker = worker(&server).connect().await.unwrap();
    // A stream that elects its leader does not answer either.
    let jetstream = server.jetstream().await;
    let later = async {
        eventually("the publish has looked for its stream", SOON, async || {
            server.log().contains("$JS.API.STREAM.NAMES").then_some(())
        })
        .await;
        jetstream.create_stream(stream_config("LATER", &["later.>"])).await.unwrap();
    };
    let (published, ()) = tokio::join!(broker.publish("later.created", &1), later);
    assert_eq!(published.unwrap().stream, "LATER");
    let short = worker(&server).publish_timeout(secs(1)).connect().await.unwrap();
    let missing = short.publish("elsewhere.created", &1).await;
    assert_error(missing, ErrorKind::Timeout, &["`publish: { allow: [\"$JS.API.STREAM.NAMES\"] }`"]);
}

#[tokio::test]
async fn publish_without_a_permitted_inbox_fails_at_once() {
    let server = server(r#"subscribe: { deny: ["_INBOX.>"] }"#).await;
    let broker = worker(&server).connect().await.unwrap();
    let parts = [
        "cannot publish to `orders.created`",
        "`_INBOX.",
        "may be stored or not",
        "`subscribe: { allow: [\"_INBOX.>\"] }`",
    ];
    for _ in 0..2 {
        assert_error(broker.publish("orders.created", &1).await, ErrorKind::Authorization, &parts);
    }
    let messages = [1, 2].map(|id| broker.publish_message("orders.created", &id));
    let results: Vec<_> = broker.publisher().publish_all(messages).collect().await;
    for result in results {
        assert_error(result, ErrorKind::Authorization, &parts);
    }
    // Only the first publish was sent: since then the refusal is known.
    assert_eq!(crate::count(&server.jetstream().await, "SHOP").await, 1);
    // Another prefix, which is permitted.
    let broker = worker(&server).connect_options(|options| options.custom_inbox_prefix("_MINE"));
    broker.connect().await.unwrap().publish("orders.created", &1).await.unwrap();
}

#[tokio::test]
async fn events_reach_every_function_of_the_application() {
    let mut server = Server::start().await;
    let (first, second) = (Recorder::<String>::default(), Recorder::<String>::default());
    let note = |events: &Recorder<String>| {
        let events = events.clone();
        move |event: &Event| events.add(event.to_string())
    };
    let broker = Broker::builder().servers([server.url()]).on_client_event(note(&first)).on_client_event(note(&second));
    let broker = broker.connect().await.unwrap();
    server.restart().await;
    for events in [first, second] {
        eventually("the events of a reconnect", SOON, async || {
            let events = events.items();
            let position = |name: &str| events.iter().position(|event| event == name);
            (position("disconnected")? < events.iter().rposition(|event| event == "connected")?).then_some(())
        })
        .await;
    }
    broker.disconnect().await.unwrap();
}

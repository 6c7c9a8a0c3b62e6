//! Streams are found by their subjects, or created with defaults.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use jetstream_handlers::prelude::*;
use jetstream_handlers::{ErrorKind, Problem, stream};
use jetstream_handlers_tests::{Server, assert_error, connect, ms, stream_config};

use crate::{consumer_info, found_stream, names, set, start};

#[tokio::test]
async fn stream_is_found_by_its_subjects() {
    let server = Server::start().await;
    let jetstream = server.jetstream().await;
    jetstream.create_stream(stream_config("SHOP", &["payments", "orders.*"])).await.unwrap();
    let broker = connect(&server).await;
    let ack = broker.publish("orders.created", &1).await.unwrap();
    assert_eq!(ack.stream, "SHOP");
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
    let subscription = broker
        .subscribe("orders.created", "order-processor", move |_: u64, info: Info| {
            let sent = sender.send(info.stream().to_owned());
            async move { Ok(sent?) }
        })
        .await
        .unwrap();
    assert_eq!(receiver.recv().await.unwrap(), "SHOP");
    subscription.unsubscribe().await.unwrap();
    assert_eq!(names(&jetstream).await, set(&["DLQ", "SHOP"]));
}

/// Checks the default settings of the stream `ORDERS`.
fn assert_default(config: &stream::Config) {
    assert_eq!(config.name, "ORDERS");
    assert_eq!(config.subjects, ["orders.>"]);
    assert_eq!(config.storage, stream::StorageType::File);
    assert_eq!(config.retention, stream::RetentionPolicy::Limits);
    assert_eq!(config.discard, stream::DiscardPolicy::Old);
    assert_eq!(config.duplicate_window, secs(120));
    assert_eq!((config.max_age, config.max_messages, config.max_bytes), (Duration::ZERO, -1, -1));
    assert_eq!(config.num_replicas, 1);
}

#[tokio::test]
async fn first_publish_creates_the_stream_with_defaults() {
    let server = Server::start().await;
    let ack = connect(&server).await.publish("orders.created", &1).await.unwrap();
    assert_eq!((ack.stream.as_str(), ack.sequence, ack.duplicate), ("ORDERS", 1, false));
    let jetstream = server.jetstream().await;
    assert_default(&found_stream(&jetstream, "ORDERS").await);
    assert_eq!(names(&jetstream).await, set(&["ORDERS"]), "no other stream is needed");
}

#[tokio::test]
async fn start_creates_the_streams_with_defaults() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    let _subscription = start(&broker, "orders.created", "order-processor").await.unwrap();
    let jetstream = server.jetstream().await;
    assert_default(&found_stream(&jetstream, "ORDERS").await);
    let dead_letters = found_stream(&jetstream, "DLQ").await;
    assert_eq!(dead_letters.subjects, ["dlq.>"]);
    assert_eq!(dead_letters.retention, stream::RetentionPolicy::Limits);
    assert_eq!(names(&jetstream).await, set(&["DLQ", "ORDERS"]));
}

#[tokio::test]
async fn subjects_with_the_same_first_token_share_a_stream() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    let _created = start(&broker, "orders.created", "created").await.unwrap();
    let _by_region = start(&broker, "orders.*.shipped", "shipped").await.unwrap();
    broker.publish("orders.eu.shipped", &1).await.unwrap();
    assert_eq!(names(&server.jetstream().await).await, set(&["DLQ", "ORDERS"]));
}

#[tokio::test]
async fn subject_of_one_token_gets_a_stream() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    let _subscription = start(&broker, "orders", "order-processor").await.unwrap();
    assert_eq!(found_stream(&server.jetstream().await, "ORDERS").await.subjects, ["orders"]);
    assert_eq!(broker.publish("orders", &1).await.unwrap().stream, "ORDERS");
    // The name is taken, and the existing stream is not changed.
    let parts = ["`orders.created`", "stream `ORDERS`", "[\"orders\"]", "nats stream edit ORDERS"];
    assert_error(broker.publish("orders.created", &1).await, ErrorKind::StreamNotFound, &parts);
    assert_error(start(&broker, "orders.created", "created").await, ErrorKind::StreamNotFound, &parts);
}

#[subscriber(subject = "orders", queue = "whole", group = "whole-and-parts")]
async fn whole(_: u64) {}

#[subscriber(subject = "orders.*", queue = "parts", group = "whole-and-parts")]
async fn parts(_: u64) {}

#[tokio::test]
async fn created_stream_covers_all_handlers() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    let _running = broker.start_groups(["whole-and-parts"]).await.unwrap();
    let subjects = found_stream(&server.jetstream().await, "ORDERS").await.subjects;
    assert_eq!(subjects.into_iter().collect::<BTreeSet<_>>(), set(&["orders", "orders.>"]));
}

#[tokio::test]
async fn stream_name_has_only_valid_characters() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    for (subject, name) in
        [("eu-orders.created", "EU-ORDERS"), ("my_orders.x", "MY_ORDERS"), ("caf\u{e9}/1.x", "CAF\u{c9}_1")]
    {
        assert_eq!(broker.publish(subject, &1).await.unwrap().stream, name, "{subject}");
    }
}

#[tokio::test]
async fn subjects_of_any_script_have_streams_of_their_own() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
    let mut running = Vec::new();
    for (subject, stream) in [("日本.x", "日本"), ("中国.x", "中国"), ("straße.x", "STRAßE"), ("strasse.x", "STRASSE")]
    {
        let sender = sender.clone();
        let subscribe = broker.subscribe(subject, "reader", move |_: u64, info: Info| {
            let sent = sender.send(info.stream().to_owned());
            async move { Ok(sent?) }
        });
        running.push(subscribe.await.unwrap());
        assert_eq!(broker.publish(subject, &1).await.unwrap().stream, stream);
        assert_eq!(receiver.recv().await.unwrap(), stream);
    }
    let expected = set(&["DLQ", "STRASSE", "STRAßE", "中国", "日本"]);
    assert_eq!(names(&server.jetstream().await).await, expected);
}

#[tokio::test]
async fn subjects_whose_streams_would_have_one_name_are_told_apart() {
    let server = Server::start().await;
    let jetstream = server.jetstream().await;
    let broker = connect(&server).await;
    for (first, second, name) in [("orders.x", "Orders.x", "ORDERS"), ("a_b.x", "a/b.x", "A_B")] {
        broker.publish(first, &1).await.unwrap();
        let stream = format!("stream `{name}` has the subjects [\"");
        let parts = [&*stream, "Builder::stream", "nats stream edit"];
        assert_error(broker.publish(second, &1).await, ErrorKind::StreamNotFound, &parts);
        let parts = [&*stream, "set `stream` to the name of a new one", "nats stream edit"];
        let error = start(&broker, second, "reader").await.unwrap_err();
        assert_error(&error, ErrorKind::StreamNotFound, &parts);
        // Both ways that the error names are accepted by the server.
        let own = broker.subscribe(second, "own", async |_: Message| {}).stream(format!("{name}-2")).await.unwrap();
        own.unsubscribe().await.unwrap();
        jetstream.delete_stream(format!("{name}-2")).await.unwrap();
        let text = error.to_string();
        let subjects = text.split("--subjects '").nth(1).and_then(|rest| rest.split('\'').next()).unwrap();
        let subjects = subjects.split(',').map(str::to_owned).collect();
        let edited = stream::Config { subjects, ..found_stream(&jetstream, name).await };
        jetstream.update_stream(edited).await.unwrap();
        let _reader = start(&broker, second, "reader").await.unwrap();
    }
}

#[tokio::test]
async fn subjects_of_the_server_are_read_where_a_stream_stores_them() {
    let server = Server::start().await;
    let jetstream = server.jetstream().await;
    let broker = connect(&server).await;
    for (subject, part) in [
        ("$KV.sessions.>", "nats kv add"),
        ("$O.files.>", "nats object add"),
        ("$JS.EVENT.ADVISORY.>", "nats stream add NAME --subjects '$JS.EVENT.ADVISORY.>'"),
    ] {
        let parts = [&*format!("no stream covers `{subject}`"), part];
        assert_error(start(&broker, subject, "reader").await, ErrorKind::StreamNotFound, &parts);
        let named = broker.subscribe(subject, "reader", async |_: Message| {}).stream("NEW").await;
        assert_error(named, ErrorKind::StreamNotFound, &parts);
    }
    assert_eq!(names(&jetstream).await, set(&[]), "no stream is created for them");
    for subject in ["$SYS.>", "$JS.API.>", "$JS.>"] {
        let parts = [&*format!("`{subject}` begins with `$`"), "reserved for the server"];
        assert_error(start(&broker, subject, "reader").await, ErrorKind::Config, &parts);
    }
    // A bucket is such a stream.
    let bucket = stream::Config { max_messages_per_subject: 1, ..stream_config("KV_sessions", &["$KV.sessions.>"]) };
    jetstream.create_stream(bucket).await.unwrap();
    jetstream.create_stream(stream_config("ADVISORIES", &["$JS.EVENT.ADVISORY.>"])).await.unwrap();
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
    let mut running = Vec::new();
    for (subject, queue) in [("$KV.sessions.*", "entries"), ("$JS.EVENT.ADVISORY.STREAM.CREATED.*", "advisories")] {
        let sender = sender.clone();
        let subscribe = broker.subscribe(subject, queue, move |subject: Subject| {
            let sent = sender.send(subject.to_string());
            async move { Ok(sent?) }
        });
        running.push(subscribe.await.unwrap());
    }
    jetstream.publish("$KV.sessions.ada", "1".into()).await.unwrap().await.unwrap();
    jetstream.create_stream(stream_config("LATER", &["later"])).await.unwrap();
    let mut subjects = BTreeSet::new();
    while !subjects.is_superset(&set(&["$KV.sessions.ada", "$JS.EVENT.ADVISORY.STREAM.CREATED.LATER"])) {
        subjects.insert(receiver.recv().await.unwrap());
    }
}

#[tokio::test]
async fn replies_are_never_stored() {
    let server = Server::start().await;
    let jetstream = server.jetstream().await;
    let prefixed = Broker::builder().servers([server.url()]).connect_options(|it| it.custom_inbox_prefix("svc.inbox"));
    let prefixed = prefixed.connect().await.unwrap();
    let broker = connect(&server).await;
    let parts = ["no stream covers", "replies", "Broker::client"];
    for subject in ["_INBOX.x", "_R_.x", "_GR_.a.b"] {
        let started = Instant::now();
        // The server lets no client publish to its gateway replies.
        if !subject.starts_with("_GR_") {
            assert_error(broker.publish(subject, &1).await, ErrorKind::StreamNotFound, &parts);
        }
        assert!(started.elapsed() < secs(5), "the publish was repeated");
        assert_error(start(&broker, subject, "reader").await, ErrorKind::StreamNotFound, &parts);
        let named = broker.subscribe(subject, "reader", async |_: Message| {}).stream("REPLIES").await;
        assert_error(named, ErrorKind::StreamNotFound, &parts);
    }
    // The default stream of this subject would store the replies to this connection.
    assert_error(prefixed.publish("svc.orders", &1).await, ErrorKind::StreamNotFound, &parts);
    assert_eq!(names(&jetstream).await, set(&[]));
    jetstream.create_stream(stream_config("SVC", &["svc.orders"])).await.unwrap();
    assert_eq!(prefixed.publish("svc.orders", &1).await.unwrap().stream, "SVC");
}

#[tokio::test]
async fn error_with_many_streams_is_short() {
    let server = Server::start().await;
    let jetstream = server.jetstream().await;
    let many = 1_100;
    let create = |number: usize| {
        let jetstream = jetstream.clone();
        async move {
            let name = format!("S{number}");
            let config = stream::Config {
                storage: stream::StorageType::Memory,
                ..stream_config(&name, &[&format!("many.{number}")])
            };
            jetstream.create_stream(config).await.map(drop).unwrap();
        }
    };
    futures::stream::iter(0..many).for_each_concurrent(32, create).await;
    let broker = connect(&server).await;
    let error = start(&broker, "many.*", "reader").await.unwrap_err();
    assert_error(&error, ErrorKind::StreamNotFound, &["`many.*`", "and 1095 more"]);
    assert!(error.to_string().len() < 500, "{error}");
    let [Problem::AmbiguousStream { streams, .. }] = error.problems() else { panic!("{error:?}") };
    assert_eq!(streams.len(), many, "a program gets all of them");
    // One of them is enough for a handler that names it.
    let _one = broker.subscribe("many.*", "reader", async |_: Message| {}).stream("S7").await.unwrap();
}

#[subscriber(subject = "orders.created", queue = "not-created", group = "not-created")]
async fn creates_nothing(_: u64) {}

#[subscriber(subject = "orders.created", stream = "SHOP", queue = "not-created-named", group = "not-created-named")]
async fn creates_nothing_named(_: u64) {}

#[tokio::test]
async fn missing_stream_is_an_error_without_auto_create() {
    let server = Server::start().await;
    let broker = Broker::builder().servers([server.url()]).auto_create(false).connect().await.unwrap();
    let parts =
        ["`start_up::streams::creates_nothing`", "`orders.created`", "auto_create(false)", "nats stream add ORDERS"];
    assert_error(broker.start_groups(["not-created"]).await, ErrorKind::StreamNotFound, &parts);
    let parts = ["`start_up::streams::creates_nothing_named`", "stream `SHOP` does not exist", "nats stream add SHOP"];
    assert_error(broker.start_groups(["not-created-named"]).await, ErrorKind::StreamNotFound, &parts);
    // The server would refuse a stream of that name for these subjects.
    let wild = broker.subscribe("*.created", "wild", async |_: Message| {}).stream("SHOP").await;
    assert_error(wild, ErrorKind::StreamNotFound, &["no stream covers `*.created`", "begins with a wildcard"]);
    let jetstream = server.jetstream().await;
    jetstream.create_stream(stream_config("OTHER", &["orders.>"])).await.unwrap();
    let parts = ["stream `SHOP` does not exist", "belongs to stream `OTHER`"];
    assert_error(broker.start_groups(["not-created-named"]).await, ErrorKind::StreamOverlap, &parts);
    jetstream.delete_stream("OTHER").await.unwrap();
    let parts = ["publish to `orders.created`", "auto_create(false)", "nats stream add ORDERS"];
    let started = Instant::now();
    assert_error(broker.publish("orders.created", &1).await, ErrorKind::StreamNotFound, &parts);
    assert!(started.elapsed() < secs(5), "the publish was repeated");
    assert_eq!(names(&server.jetstream().await).await, set(&[]));
}

#[tokio::test]
async fn consumers_are_created_without_auto_create() {
    let server = Server::start().await;
    let jetstream = server.jetstream().await;
    jetstream.create_stream(stream_config("SHOP", &["orders.>"])).await.unwrap();
    let broker = Broker::builder().servers([server.url()]).auto_create(false).connect().await.unwrap();
    let parts =
        ["the dead letters of `start_up::streams::creates_nothing`", "`dlq.SHOP.not-created`", "nats stream add DLQ"];
    assert_error(broker.start_groups(["not-created"]).await, ErrorKind::StreamNotFound, &parts);
    jetstream.create_stream(stream_config("LETTERS", &["dlq.>"])).await.unwrap();
    let _running = broker.start_groups(["not-created"]).await.unwrap();
    consumer_info(&jetstream, "SHOP", "not-created").await;
    assert_eq!(names(&jetstream).await, set(&["LETTERS", "SHOP"]));
}

#[tokio::test]
async fn overlapping_stream_is_named() {
    let server = Server::start().await;
    let jetstream = server.jetstream().await;
    jetstream.create_stream(stream_config("ABROAD", &["orders.abroad"])).await.unwrap();
    let broker = connect(&server).await;
    let parts =
        ["created`", "stream `ORDERS`", "`orders.>` overlaps `orders.abroad` of stream `ABROAD`", "Builder::stream"];
    assert_error(start(&broker, "orders.created", "order-processor").await, ErrorKind::StreamOverlap, &parts);
    assert_error(broker.publish("orders.created", &1).await, ErrorKind::StreamOverlap, &parts);
    // The stream has only a part of the subjects of this handler.
    let parts = ["stream `ABROAD`", "[\"orders.abroad\"]", "do not cover `orders.*`"];
    assert_error(start(&broker, "orders.*", "order-processor").await, ErrorKind::StreamNotFound, &parts);
    assert_eq!(names(&jetstream).await, set(&["ABROAD"]), "no stream was created");
}

#[subscriber(subject = "orders.created", stream = "SHOP", queue = "named", group = "named")]
async fn named(_: u64) {}

#[tokio::test]
async fn stream_has_the_name_that_the_handler_sets() {
    let server = Server::start().await;
    let _running = connect(&server).await.start_groups(["named"]).await.unwrap();
    let jetstream = server.jetstream().await;
    assert_eq!(found_stream(&jetstream, "SHOP").await.subjects, ["orders.>"]);
    assert_eq!(names(&jetstream).await, set(&["DLQ", "SHOP"]));
}

#[tokio::test]
async fn subject_of_another_stream_is_refused() {
    let server = Server::start().await;
    let jetstream = server.jetstream().await;
    jetstream.create_stream(stream_config("OTHER", &["orders.*"])).await.unwrap();
    let broker = connect(&server).await;
    let parts =
        ["`start_up::streams::named`", "stream `SHOP`", "`orders.created` belongs to stream `OTHER`", "\"OTHER\""];
    assert_error(broker.start_groups(["named"]).await, ErrorKind::StreamOverlap, &parts);
    // An existing stream of that name makes no difference.
    jetstream.create_stream(stream_config("SHOP", &["shop.>"])).await.unwrap();
    assert_error(broker.start_groups(["named"]).await, ErrorKind::StreamOverlap, &parts);
    assert_eq!(names(&jetstream).await, set(&["OTHER", "SHOP"]));
}

#[tokio::test]
async fn subject_outside_the_named_stream_is_refused() {
    let server = Server::start().await;
    let jetstream = server.jetstream().await;
    jetstream.create_stream(stream_config("SHOP", &["shop.>"])).await.unwrap();
    let parts = [
        "`start_up::streams::named`",
        "stream `SHOP` has the subjects [\"shop.>\"]",
        "do not cover `orders.created`",
        "nats stream edit SHOP",
    ];
    assert_error(connect(&server).await.start_groups(["named"]).await, ErrorKind::StreamNotFound, &parts);
    assert_eq!(found_stream(&jetstream, "SHOP").await.subjects, ["shop.>"]);
}

#[subscriber(subject = "*.created", queue = "wild", group = "wild")]
async fn wild(_: u64) {}

#[tokio::test]
async fn wildcard_subject_needs_an_existing_stream() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    let parts = ["`start_up::streams::wild`", "no stream covers `*.created`", "`orders.*`"];
    assert_error(broker.start_groups(["wild"]).await, ErrorKind::StreamNotFound, &parts);
    // A stream name makes no difference: the server accepts such a subject only in a stream without acks.
    let named = broker.subscribe("*.created", "wild", async |_: Message| {}).stream("CREATIONS");
    assert_error(named.await, ErrorKind::StreamNotFound, &["no stream covers `*.created`"]);
    let jetstream = server.jetstream().await;
    assert_eq!(names(&jetstream).await, set(&[]));
    jetstream
        .create_stream(stream::Config { no_ack: true, ..stream_config("CREATIONS", &["*.created"]) })
        .await
        .unwrap();
    // The stream covers `dlq.created`, so the stream of dead letters would overlap.
    let parts = ["the dead letters of `start_up::streams::wild`", "`dlq.>` overlaps `*.created` of stream `CREATIONS`"];
    assert_error(broker.start_groups(["wild"]).await, ErrorKind::StreamOverlap, &parts);
    let subscribe = broker.subscribe("*.created", "wild", async |_: Message| {});
    let _subscription = subscribe.dead_letter(None).await.unwrap();
}

#[tokio::test]
async fn streams_are_found_and_created_without_the_permission_to_list_them() {
    let account = "accounts { APP { jetstream: enabled, users: [
        { user: admin, password: admin },
        { user: worker, password: worker, permissions: { publish: { deny: [\"$JS.API.STREAM.LIST\"] } } } ] } }";
    let server = Server::builder().config(account).user("admin", "admin").start().await;
    let jetstream = server.jetstream().await;
    let (source, destination) = ("in.*".to_owned(), "out.$1".to_owned());
    let mapped = stream::Config {
        subject_transform: Some(stream::SubjectTransform { source, destination }),
        ..stream_config("MAPPED", &["in.*"])
    };
    jetstream.create_stream(mapped).await.unwrap();
    let builder = Broker::builder().servers([server.url()]).request_timeout(ms(500));
    let builder = builder.connect_options(|options| options.user_and_password("worker".into(), "worker".into()));
    let broker = builder.connect().await.unwrap();
    let _created = start(&broker, "orders.created", "created").await.unwrap();
    let named = broker.subscribe("out.*", "named", async |_: Message| {}).stream("MAPPED");
    let _named = named.await.unwrap();
    let parts = ["stream `MAPPED`", "`subject = \"out.x\"`"];
    assert_error(start(&broker, "in.x", "wrong").await, ErrorKind::StreamNotFound, &parts);
    assert_eq!(names(&jetstream).await, set(&["DLQ", "MAPPED", "ORDERS"]));
}

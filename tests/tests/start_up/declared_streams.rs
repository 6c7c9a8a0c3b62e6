//! Streams that the application declares are created as declared, and compared at the next start.

use std::collections::HashMap;

use futures::TryStreamExt as _;
use jetstream_handlers::prelude::*;
use jetstream_handlers::{ErrorKind, stream};
use jetstream_handlers_tests::{Server, assert_error, binary, stream_config};

use crate::{found_stream, names, set, start};

/// Returns a configuration with many settings.
fn shop() -> stream::Config {
    stream::Config {
        storage: stream::StorageType::Memory,
        max_messages: 1000,
        max_age: secs(3600),
        duplicate_window: secs(60),
        discard: stream::DiscardPolicy::New,
        description: Some("what the shop sells".to_owned()),
        metadata: HashMap::from([("team".to_owned(), "shop".to_owned())]),
        ..stream_config("SHOP", &["orders.>", "payments.*"])
    }
}

#[tokio::test]
async fn declared_stream_is_created_and_matches_next_time() {
    let server = Server::start().await;
    let jetstream = server.jetstream().await;
    let wanted = shop();
    let broker = Broker::builder().servers([server.url()]).stream(wanted.clone()).connect().await.unwrap();
    let subscription = start(&broker, "payments.received", "payments").await.unwrap();
    let found = found_stream(&jetstream, "SHOP").await;
    assert_eq!(found.subjects, wanted.subjects);
    assert_eq!((found.storage, found.discard), (wanted.storage, wanted.discard));
    assert_eq!((found.max_messages, found.max_age), (wanted.max_messages, wanted.max_age));
    assert_eq!((found.duplicate_window, &found.description), (wanted.duplicate_window, &wanted.description));
    assert_eq!(found.metadata["team"], "shop");
    if binary::version() >= (2, 11, 0) {
        assert!(found.metadata.contains_key("_nats.ver"), "the server adds metadata, which is ignored");
    }
    subscription.unsubscribe().await.unwrap();
    let created = jetstream.get_stream("SHOP").await.unwrap().cached_info().created;
    let again = Broker::builder().servers([server.url()]).stream(wanted).connect().await.unwrap();
    let _subscription = start(&again, "payments.received", "payments").await.unwrap();
    let info = jetstream.get_stream("SHOP").await.unwrap().cached_info().clone();
    assert_eq!((info.created, info.config), (created, found));
    assert_eq!(names(&jetstream).await, set(&["DLQ", "SHOP"]));
}

#[tokio::test]
async fn declared_stream_is_created_by_a_publish() {
    let server = Server::start().await;
    let jetstream = server.jetstream().await;
    let other = stream_config("OTHER", &["other.>"]);
    let broker = Broker::builder().servers([server.url()]).stream(shop()).stream(other).connect().await.unwrap();
    assert_eq!(broker.publish("orders.created", &1).await.unwrap().stream, "SHOP");
    assert_eq!(found_stream(&jetstream, "SHOP").await.max_messages, 1000);
    assert_eq!(names(&jetstream).await, set(&["SHOP"]), "no other stream is needed");
}

#[tokio::test]
async fn declared_stream_with_defaults_matches() {
    let server = Server::start().await;
    let broker = || async {
        let config = stream_config("SHOP", &["orders.>"]);
        Broker::builder().servers([server.url()]).stream(config).connect().await.unwrap()
    };
    let _first = start(&broker().await, "orders.created", "one").await.unwrap();
    let _second = start(&broker().await, "orders.created", "two").await.unwrap();
}

#[tokio::test]
async fn every_declared_setting_matches_next_time() {
    let server = Server::start().await;
    let version = binary::version();
    type Change = fn(&mut stream::Config);
    let mut cases: Vec<Change> = vec![
        |c| c.max_messages_per_subject = 1,
        |c| c.max_bytes = 1 << 20,
        |c| c.max_message_size = 1 << 10,
        |c| c.max_consumers = 3,
        |c| c.max_age = secs(30),
        |c| c.max_age = secs(300),
        |c| c.num_replicas = 1,
        |c| c.retention = stream::RetentionPolicy::WorkQueue,
        |c| c.retention = stream::RetentionPolicy::Interest,
        |c| c.allow_rollup = true,
        |c| (c.deny_delete, c.deny_purge) = (true, true),
        |c| c.allow_direct = true,
        |c| {
            c.discard = stream::DiscardPolicy::New;
            c.discard_new_per_subject = true;
            c.max_messages_per_subject = 7;
        },
        |c| c.compression = Some(stream::Compression::S2),
        |c| c.compression = Some(stream::Compression::None),
        |c| c.first_sequence = Some(100),
        |c| c.consumer_limits = Some(stream::ConsumerLimits { max_ack_pending: 20_000, ..Default::default() }),
        |c| c.description = Some(String::new()),
        |c| {
            let (source, destination) = (">".to_owned(), "copy.>".to_owned());
            c.republish = Some(stream::Republish { source, destination, headers_only: true });
        },
        |c| {
            let (source, destination) = ("orders.old.*".to_owned(), "orders.new.{{wildcard(1)}}".to_owned());
            c.subject_transform = Some(stream::SubjectTransform { source, destination });
        },
        |c| c.subjects = vec!["orders.b".to_owned(), "orders.a".to_owned(), "orders.created".to_owned()],
    ];
    if version >= (2, 11, 0) {
        cases.push(|c| c.allow_message_ttl = true);
        cases.push(|c| c.subject_delete_marker_ttl = Some(secs(60)));
    }
    if version >= (2, 12, 0) {
        cases.push(|c| c.allow_atomic_publish = true);
        cases.push(|c| c.allow_message_schedules = true);
        cases.push(|c| c.persist_mode = Some(stream::PersistenceMode::Async));
    }
    if version >= (2, 14, 0) {
        cases.push(|c| c.allow_batch_publish = true);
    }
    let jetstream = server.jetstream().await;
    for (index, change) in cases.into_iter().enumerate() {
        let mut wanted = stream_config("SHOP", &["orders.>"]);
        change(&mut wanted);
        for time in ["first", "second"] {
            let broker = Broker::builder().servers([server.url()]).stream(wanted.clone()).connect().await.unwrap();
            let subscription = start(&broker, "orders.created", "order-processor").await;
            let subscription = subscription.unwrap_or_else(|error| panic!("case {index}, {time} time: {error:?}"));
            subscription.unsubscribe().await.unwrap();
            broker.disconnect().await.unwrap();
        }
        jetstream.delete_stream("SHOP").await.unwrap();
    }
}

#[tokio::test]
async fn undeclared_settings_are_left_to_the_operator() {
    let server = Server::start().await;
    let jetstream = server.jetstream().await;
    let found = stream::Config {
        description: Some("do not touch".to_owned()),
        metadata: HashMap::from([("team".to_owned(), "shop".to_owned()), ("cost".to_owned(), "7".to_owned())]),
        num_replicas: 1,
        ..stream_config("SHOP", &["orders.>"])
    };
    jetstream.create_stream(found.clone()).await.unwrap();
    let metadata = HashMap::from([("team".to_owned(), "shop".to_owned())]);
    let wanted = stream::Config { metadata, ..stream_config("SHOP", &["orders.>"]) };
    let broker = Broker::builder().servers([server.url()]).stream(wanted).connect().await.unwrap();
    let _subscription = start(&broker, "orders.created", "order-processor").await.unwrap();
    assert_eq!(found_stream(&jetstream, "SHOP").await.description, found.description);
    let metadata = HashMap::from([("team".to_owned(), "warehouse".to_owned())]);
    let wanted = stream::Config { metadata, ..stream_config("SHOP", &["orders.>"]) };
    let broker = Broker::builder().servers([server.url()]).stream(wanted).connect().await.unwrap();
    let parts = ["metadata is team=shop on the server, team=warehouse here"];
    assert_error(start(&broker, "orders.created", "two").await, ErrorKind::StreamMismatch, &parts);
}

#[tokio::test]
async fn differing_stream_is_refused_and_unchanged() {
    let server = Server::start().await;
    let jetstream = server.jetstream().await;
    let found = jetstream.create_stream(shop()).await.unwrap().cached_info().config.clone();
    type Change = fn(&mut stream::Config);
    let cases: [(Change, &[&str]); 8] = [
        (|c| c.max_messages = 5, &["max_msgs is 1000 on the server, 5 here", "nats stream edit SHOP"]),
        (|c| c.max_messages = -1, &["max_msgs is 1000 on the server, -1 here"]),
        (|c| c.max_age = secs(7200), &["max_age is 3600s on the server, 7200s here"]),
        (
            |c| c.storage = stream::StorageType::File,
            &["storage is memory on the server, file here", "does not let storage"],
        ),
        (|c| c.subjects = vec!["orders.>".into()], &["subjects is orders.>, payments.* on the server, orders.> here"]),
        (|c| c.duplicate_window = secs(30), &["duplicate_window is 60s on the server, 30s here"]),
        (
            |c| c.retention = stream::RetentionPolicy::WorkQueue,
            &["retention is limits on the server, workqueue here", "does not let retention"],
        ),
        (
            |c| c.consumer_limits = Some(stream::ConsumerLimits { max_ack_pending: 7, ..Default::default() }),
            &["consumer_limits is ", "\"max_ack_pending\":7"],
        ),
    ];
    for (change, parts) in cases {
        let mut wanted = shop();
        change(&mut wanted);
        let broker = Broker::builder().servers([server.url()]).stream(wanted).connect().await.unwrap();
        let result = start(&broker, "orders.created", "order-processor").await;
        let parts: Vec<_> = parts.iter().copied().chain(["stream `SHOP`", "nothing was changed"]).collect();
        assert_error(result, ErrorKind::StreamMismatch, &parts);
        broker.disconnect().await.unwrap();
    }
    assert_eq!(found_stream(&jetstream, "SHOP").await, found);
    assert_eq!(names(&jetstream).await, set(&["SHOP"]));
    let consumers: Vec<_> = jetstream.get_stream("SHOP").await.unwrap().consumer_names().try_collect().await.unwrap();
    assert_eq!(consumers, Vec::<String>::new());
}

#[tokio::test]
async fn declared_stream_overlapping_another_is_refused() {
    let server = Server::start().await;
    let jetstream = server.jetstream().await;
    jetstream.create_stream(stream_config("OLD", &["orders.*.lost"])).await.unwrap();
    let broker = Broker::builder()
        .servers([server.url()])
        .stream(stream_config("SHOP", &["shop.a", "orders.>"]))
        .connect()
        .await
        .unwrap();
    let parts = ["stream `SHOP`", "`orders.>` overlaps `orders.*.lost` of stream `OLD`"];
    assert_error(start(&broker, "shop.a", "order-processor").await, ErrorKind::StreamOverlap, &parts);
    assert_eq!(names(&jetstream).await, set(&["OLD"]));
}

#[tokio::test]
async fn overlapping_declared_streams_are_refused() {
    let server = Server::start().await;
    let (one, other) = (stream_config("ONE", &["orders.*"]), stream_config("OTHER", &["orders.created"]));
    let broker = Broker::builder().servers([server.url()]).stream(one).stream(other).connect().await.unwrap();
    let parts = ["stream `OTHER`", "`orders.created` overlaps `orders.*` of stream `ONE`"];
    assert_error(start(&broker, "orders.created", "order-processor").await, ErrorKind::StreamOverlap, &parts);
    assert_eq!(names(&server.jetstream().await).await, set(&[]));
}

#[tokio::test]
async fn subjects_of_a_declared_stream_are_not_extended() {
    let server = Server::start().await;
    let config = stream_config("ORDERS", &["orders.paid"]);
    let broker = Broker::builder().servers([server.url()]).stream(config).connect().await.unwrap();
    let parts = ["stream `ORDERS` has the subjects [\"orders.paid\"]", "passed to `Builder::stream`"];
    // Before the stream exists, and afterwards.
    for _ in 0..2 {
        assert_error(start(&broker, "orders.created", "one").await, ErrorKind::StreamNotFound, &parts);
        let named = broker.subscribe("refunds.made", "two", async |_: Message| {}).stream("ORDERS").await;
        assert_error(named, ErrorKind::StreamNotFound, &parts);
        broker.publish("orders.paid", &1).await.unwrap();
    }
    assert_eq!(found_stream(&server.jetstream().await, "ORDERS").await.subjects, ["orders.paid"]);
    let other = Server::start().await;
    let config = stream_config("ORDERS", &["orders.paid", "orders.created"]);
    let broker = Broker::builder().servers([other.url()]).stream(config).connect().await.unwrap();
    let _started = start(&broker, "orders.created", "one").await.unwrap();
}

#[tokio::test]
async fn refusal_that_cannot_pass_is_reported_at_once() {
    let limits = "accounts { APP { jetstream { max_streams: 1 }, users: [{ user: app, password: app }] } }";
    let server = Server::builder().config(limits).user("app", "app").start().await;
    let jetstream = server.jetstream().await;
    type Change = fn(&mut stream::Config);
    let mut cases: Vec<(Change, &[&str])> = vec![
        (
            |c| c.num_replicas = 3,
            &["set `num_replicas` to 1", "replicas > 1 not supported in non-clustered mode", "10074"],
        ),
        (|c| c.num_replicas = 9, &["the server refused it: maximum replicas is 5", "10052"]),
        (
            |c| {
                c.discard_new_per_subject = true;
                c.discard = stream::DiscardPolicy::Old;
            },
            &["the server refused it: ", "discard new per subject requires discard new policy"],
        ),
    ];
    // Before, the server notices it only while it creates the stream, with an error that stands for many others.
    if binary::version() >= (2, 11, 0) {
        cases.push((
            |c| {
                let (source, destination) = ("other.*".to_owned(), "shipped.$7".to_owned());
                c.subject_transform = Some(stream::SubjectTransform { source, destination });
            },
            &["the server refused it: stream transform", "10156"],
        ));
    }
    let check = async |config: stream::Config, parts: &[&str]| {
        let broker = Broker::builder().servers([server.url()]).stream(config).connect().await.unwrap();
        let parts = [&["creating stream `ORDERS`"], parts].concat();
        let started = std::time::Instant::now();
        assert_error(broker.publish("orders.created", &1).await, ErrorKind::Server, &parts);
        assert!(started.elapsed() < secs(5), "the publish was repeated");
        let unsubscribed = broker.subscribe("orders.created", "one", async |_: Message| {}).dead_letter(None).await;
        assert_error(unsubscribed, ErrorKind::Server, &parts);
        broker.disconnect().await.unwrap();
    };
    for (change, parts) in cases {
        let mut config = stream_config("ORDERS", &["orders.*"]);
        change(&mut config);
        check(config, parts).await;
    }
    jetstream.create_stream(stream_config("ONLY", &["only"])).await.unwrap();
    check(stream_config("ORDERS", &["orders.*"]), &["the server refused it: maximum number of streams reached"]).await;
    assert_eq!(names(&jetstream).await, set(&["ONLY"]));
}

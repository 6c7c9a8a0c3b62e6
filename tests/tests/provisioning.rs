//! Streams and consumers are found, or made where missing, and never changed.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall say where")]

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt};
use jetstream_handlers::async_nats::jetstream::{Context as JetStream, consumer};
use jetstream_handlers::prelude::*;
use jetstream_handlers::{Error, ErrorKind, Subscription, stream};
use jetstream_handlers_tests::{Server, binary, eventually};

const SOON: Duration = Duration::from_secs(10);

async fn connect(server: &Server) -> Broker {
    Broker::connect(server.url()).await.unwrap()
}

/// Starts a closure that does nothing.
async fn start(broker: &Broker, subject: &str, queue: &str) -> Result<Subscription, Error> {
    broker.subscribe(subject, queue, async |_: Message| {}).await
}

fn on(name: &str, subjects: &[&str]) -> stream::Config {
    let subjects = subjects.iter().map(|subject| (*subject).to_owned()).collect();
    stream::Config { name: name.to_owned(), subjects, ..Default::default() }
}

fn durable(name: &str, filter: &str) -> consumer::Config {
    consumer::Config {
        durable_name: Some(name.to_owned()),
        filter_subject: filter.to_owned(),
        ack_policy: consumer::AckPolicy::Explicit,
        ack_wait: Duration::from_secs(30),
        max_deliver: MAX_DELIVER,
        ..Default::default()
    }
}

/// The handlers' own 5, and the margin of the server's net.
const MAX_DELIVER: i64 = 10_000;

async fn names(jetstream: &JetStream) -> BTreeSet<String> {
    jetstream.stream_names().try_collect().await.unwrap()
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

async fn stream_config(jetstream: &JetStream, name: &str) -> stream::Config {
    jetstream.get_stream(name).await.unwrap().cached_info().config.clone()
}

async fn consumer_info(jetstream: &JetStream, stream: &str, name: &str) -> consumer::Info {
    jetstream.get_stream(stream).await.unwrap().consumer_info(name).await.unwrap()
}

/// What came back was of this kind, and says all of this.
#[track_caller]
fn assert_says<T>(result: Result<T, Error>, kind: ErrorKind, parts: &[&str]) {
    let Err(error) = result else { panic!("no error, instead of {kind:?} with {parts:?}") };
    assert_told(&error, kind, parts);
}

#[track_caller]
fn assert_told(error: &Error, kind: ErrorKind, parts: &[&str]) {
    let text = error.to_string();
    assert_eq!(error.kind(), kind, "{text}");
    for part in parts {
        assert!(text.contains(part), "no {part:?} in {text:?}");
    }
}

#[tokio::test]
async fn a_stream_is_found_by_its_subjects_whatever_its_name() {
    let server = Server::start().await;
    let jetstream = server.jetstream().await;
    jetstream.create_stream(on("SHOP", &["payments", "orders.*"])).await.unwrap();
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

fn assert_default(config: &stream::Config) {
    assert_eq!(config.name, "ORDERS");
    assert_eq!(config.subjects, ["orders.>"]);
    assert_eq!(config.storage, stream::StorageType::File);
    assert_eq!(config.retention, stream::RetentionPolicy::Limits);
    assert_eq!(config.discard, stream::DiscardPolicy::Old);
    assert_eq!(config.duplicate_window, Duration::from_secs(120));
    assert_eq!((config.max_age, config.max_messages, config.max_bytes), (Duration::ZERO, -1, -1));
    assert_eq!(config.num_replicas, 1);
}

#[tokio::test]
async fn the_first_publish_makes_the_stream_of_the_design() {
    let server = Server::start().await;
    let ack = connect(&server).await.publish("orders.created", &1).await.unwrap();
    assert_eq!((ack.stream.as_str(), ack.sequence, ack.duplicate), ("ORDERS", 1, false));
    let jetstream = server.jetstream().await;
    assert_default(&stream_config(&jetstream, "ORDERS").await);
    assert_eq!(names(&jetstream).await, set(&["ORDERS"]), "nothing else was asked for");
}

#[tokio::test]
async fn a_start_makes_the_streams_of_the_design() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    let _subscription = start(&broker, "orders.created", "order-processor").await.unwrap();
    let jetstream = server.jetstream().await;
    assert_default(&stream_config(&jetstream, "ORDERS").await);
    let dead_letters = stream_config(&jetstream, "DLQ").await;
    assert_eq!(dead_letters.subjects, ["dlq.>"]);
    assert_eq!(dead_letters.retention, stream::RetentionPolicy::Limits);
    assert_eq!(names(&jetstream).await, set(&["DLQ", "ORDERS"]));
}

#[tokio::test]
async fn subjects_of_one_first_token_share_a_stream() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    let _created = start(&broker, "orders.created", "created").await.unwrap();
    let _by_region = start(&broker, "orders.*.shipped", "shipped").await.unwrap();
    broker.publish("orders.eu.shipped", &1).await.unwrap();
    assert_eq!(names(&server.jetstream().await).await, set(&["DLQ", "ORDERS"]));
}

#[tokio::test]
async fn a_subject_of_one_token_has_a_stream_too() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    let _subscription = start(&broker, "orders", "order-processor").await.unwrap();
    assert_eq!(stream_config(&server.jetstream().await, "ORDERS").await.subjects, ["orders"]);
    assert_eq!(broker.publish("orders", &1).await.unwrap().stream, "ORDERS");
    // The name is taken, and what is there is left alone.
    let told = ["`orders.created`", "stream `ORDERS`", "[\"orders\"]", "nats stream edit ORDERS"];
    assert_says(broker.publish("orders.created", &1).await, ErrorKind::StreamNotFound, &told);
    assert_says(start(&broker, "orders.created", "created").await, ErrorKind::StreamNotFound, &told);
}

#[subscriber(subject = "orders", queue = "whole", group = "whole-and-parts")]
async fn whole(_: u64) {}

#[subscriber(subject = "orders.*", queue = "parts", group = "whole-and-parts")]
async fn parts(_: u64) {}

#[tokio::test]
async fn a_stream_that_is_made_covers_every_handler_of_the_start() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    let _running = broker.start_groups(["whole-and-parts"]).await.unwrap();
    let subjects = stream_config(&server.jetstream().await, "ORDERS").await.subjects;
    assert_eq!(subjects.into_iter().collect::<BTreeSet<_>>(), set(&["orders", "orders.>"]));
}

#[tokio::test]
async fn the_name_of_a_stream_has_only_what_a_name_may_have() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    for (subject, name) in
        [("eu-orders.created", "EU-ORDERS"), ("my_orders.x", "MY_ORDERS"), ("caf\u{e9}/1.x", "CAF__1")]
    {
        assert_eq!(broker.publish(subject, &1).await.unwrap().stream, name, "{subject}");
    }
}

/// A configuration with something in every corner.
fn elaborate() -> stream::Config {
    stream::Config {
        storage: stream::StorageType::Memory,
        max_messages: 1000,
        max_age: Duration::from_secs(3600),
        duplicate_window: Duration::from_secs(60),
        discard: stream::DiscardPolicy::New,
        description: Some("what the shop sells".to_owned()),
        metadata: HashMap::from([("team".to_owned(), "shop".to_owned())]),
        ..on("SHOP", &["orders.>", "payments.*"])
    }
}

#[tokio::test]
async fn an_own_stream_is_made_as_given_and_found_equal_the_next_time() {
    let server = Server::start().await;
    let jetstream = server.jetstream().await;
    let wanted = elaborate();
    let broker = Broker::builder().servers([server.url()]).stream(wanted.clone()).connect().await.unwrap();
    let subscription = start(&broker, "payments.received", "payments").await.unwrap();
    let found = stream_config(&jetstream, "SHOP").await;
    assert_eq!(found.subjects, wanted.subjects);
    assert_eq!((found.storage, found.discard), (wanted.storage, wanted.discard));
    assert_eq!((found.max_messages, found.max_age), (wanted.max_messages, wanted.max_age));
    assert_eq!((found.duplicate_window, &found.description), (wanted.duplicate_window, &wanted.description));
    assert_eq!(found.metadata["team"], "shop");
    if binary::version() >= (2, 11, 0) {
        assert!(found.metadata.contains_key("_nats.ver"), "what the server adds is what is to be ignored");
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
async fn an_own_stream_is_made_on_the_first_publish_as_well() {
    let server = Server::start().await;
    let jetstream = server.jetstream().await;
    let other = on("OTHER", &["other.>"]);
    let broker = Broker::builder().servers([server.url()]).stream(elaborate()).stream(other).connect().await.unwrap();
    assert_eq!(broker.publish("orders.created", &1).await.unwrap().stream, "SHOP");
    assert_eq!(stream_config(&jetstream, "SHOP").await.max_messages, 1000);
    assert_eq!(names(&jetstream).await, set(&["SHOP"]), "the publish needs no other");
}

#[tokio::test]
async fn an_own_stream_that_is_all_defaults_is_found_equal() {
    let server = Server::start().await;
    let broker = || async {
        let config = on("SHOP", &["orders.>"]);
        Broker::builder().servers([server.url()]).stream(config).connect().await.unwrap()
    };
    let _first = start(&broker().await, "orders.created", "one").await.unwrap();
    let _second = start(&broker().await, "orders.created", "two").await.unwrap();
}

#[tokio::test]
async fn whatever_an_own_stream_asks_for_is_found_equal_the_next_time() {
    let server = Server::start().await;
    let version = binary::version();
    type Change = fn(&mut stream::Config);
    let mut cases: Vec<Change> = vec![
        |c| c.max_messages_per_subject = 1,
        |c| c.max_bytes = 1 << 20,
        |c| c.max_message_size = 1 << 10,
        |c| c.max_consumers = 3,
        |c| c.max_age = Duration::from_secs(30),
        |c| c.max_age = Duration::from_secs(300),
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
        cases.push(|c| c.subject_delete_marker_ttl = Some(Duration::from_secs(60)));
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
        let mut wanted = on("SHOP", &["orders.>"]);
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
async fn what_an_own_stream_does_not_say_is_the_operators() {
    let server = Server::start().await;
    let jetstream = server.jetstream().await;
    let found = stream::Config {
        description: Some("do not touch".to_owned()),
        metadata: HashMap::from([("team".to_owned(), "shop".to_owned()), ("cost".to_owned(), "7".to_owned())]),
        num_replicas: 1,
        ..on("SHOP", &["orders.>"])
    };
    jetstream.create_stream(found.clone()).await.unwrap();
    let metadata = HashMap::from([("team".to_owned(), "shop".to_owned())]);
    let wanted = stream::Config { metadata, ..on("SHOP", &["orders.>"]) };
    let broker = Broker::builder().servers([server.url()]).stream(wanted).connect().await.unwrap();
    let _subscription = start(&broker, "orders.created", "order-processor").await.unwrap();
    assert_eq!(stream_config(&jetstream, "SHOP").await.description, found.description);
    let metadata = HashMap::from([("team".to_owned(), "warehouse".to_owned())]);
    let wanted = stream::Config { metadata, ..on("SHOP", &["orders.>"]) };
    let broker = Broker::builder().servers([server.url()]).stream(wanted).connect().await.unwrap();
    let told = ["metadata is [\"team=shop\"] on the server, [\"team=warehouse\"] here"];
    assert_says(start(&broker, "orders.created", "two").await, ErrorKind::StreamMismatch, &told);
}

#[tokio::test]
async fn an_own_stream_that_differs_is_an_error_and_stays_as_it_is() {
    let server = Server::start().await;
    let jetstream = server.jetstream().await;
    let found = jetstream.create_stream(elaborate()).await.unwrap().cached_info().config.clone();
    type Change = fn(&mut stream::Config);
    let cases: [(Change, &[&str]); 8] = [
        (|c| c.max_messages = 5, &["max_msgs is 1000 on the server, 5 here", "nats stream edit SHOP"]),
        (|c| c.max_messages = -1, &["max_msgs is 1000 on the server, -1 here"]),
        (|c| c.max_age = Duration::from_secs(7200), &["max_age is \"3600s\" on the server, \"7200s\" here"]),
        (
            |c| c.storage = stream::StorageType::File,
            &["storage is \"memory\"", "\"file\" here", "does not let storage"],
        ),
        (
            |c| c.subjects = vec!["orders.>".into()],
            &["subjects is [\"orders.>\",\"payments.*\"]", "[\"orders.>\"] here"],
        ),
        (
            |c| c.duplicate_window = Duration::from_secs(30),
            &["duplicate_window is \"60s\" on the server, \"30s\" here"],
        ),
        (
            |c| c.retention = stream::RetentionPolicy::WorkQueue,
            &["retention is \"limits\" on the server, \"workqueue\" here", "does not let retention"],
        ),
        (
            |c| c.consumer_limits = Some(stream::ConsumerLimits { max_ack_pending: 7, ..Default::default() }),
            &["consumer_limits is ", "\"max_ack_pending\":7"],
        ),
    ];
    for (change, told) in cases {
        let mut wanted = elaborate();
        change(&mut wanted);
        let broker = Broker::builder().servers([server.url()]).stream(wanted).connect().await.unwrap();
        let result = start(&broker, "orders.created", "order-processor").await;
        let told: Vec<_> = told.iter().copied().chain(["stream `SHOP`", "nothing was changed"]).collect();
        assert_says(result, ErrorKind::StreamMismatch, &told);
        broker.disconnect().await.unwrap();
    }
    assert_eq!(stream_config(&jetstream, "SHOP").await, found);
    assert_eq!(names(&jetstream).await, set(&["SHOP"]));
    let consumers: Vec<_> = jetstream.get_stream("SHOP").await.unwrap().consumer_names().try_collect().await.unwrap();
    assert_eq!(consumers, Vec::<String>::new());
}

#[subscriber(subject = "orders.created", queue = "frugal", group = "frugal")]
async fn frugal(_: u64) {}

#[subscriber(subject = "orders.created", stream = "SHOP", queue = "frugal-named", group = "frugal-named")]
async fn frugal_named(_: u64) {}

#[tokio::test]
async fn without_auto_create_a_missing_stream_is_an_error_with_the_way_out() {
    let server = Server::start().await;
    let broker = Broker::builder().servers([server.url()]).auto_create(false).connect().await.unwrap();
    let told = ["`provisioning::frugal`", "`orders.created`", "auto_create(false)", "nats stream add ORDERS"];
    assert_says(broker.start_groups(["frugal"]).await, ErrorKind::StreamNotFound, &told);
    let told = ["`provisioning::frugal_named`", "stream `SHOP` does not exist", "nats stream add SHOP"];
    assert_says(broker.start_groups(["frugal-named"]).await, ErrorKind::StreamNotFound, &told);
    let told = ["publish to `orders.created`", "auto_create(false)", "nats stream add ORDERS"];
    let begun = Instant::now();
    assert_says(broker.publish("orders.created", &1).await, ErrorKind::StreamNotFound, &told);
    assert!(begun.elapsed() < Duration::from_secs(5), "trying again would not help");
    assert_eq!(names(&server.jetstream().await).await, set(&[]));
}

#[tokio::test]
async fn without_auto_create_a_consumer_is_made_on_the_streams_there_are() {
    let server = Server::start().await;
    let jetstream = server.jetstream().await;
    jetstream.create_stream(on("SHOP", &["orders.>"])).await.unwrap();
    let broker = Broker::builder().servers([server.url()]).auto_create(false).connect().await.unwrap();
    let told = ["the dead letters of `provisioning::frugal`", "`dlq.SHOP.frugal`", "nats stream add DLQ"];
    assert_says(broker.start_groups(["frugal"]).await, ErrorKind::StreamNotFound, &told);
    jetstream.create_stream(on("LETTERS", &["dlq.>"])).await.unwrap();
    let _running = broker.start_groups(["frugal"]).await.unwrap();
    consumer_info(&jetstream, "SHOP", "frugal").await;
    assert_eq!(names(&jetstream).await, set(&["LETTERS", "SHOP"]));
}

#[subscriber(subject = "orders.*", queue = "plain", group = "made")]
async fn plain(_: u64) {}

#[subscriber(
    subject = "orders.created",
    queue = "elaborate",
    ack_wait = "45s",
    max_deliver = 9,
    backoff = ["1s", "2s"],
    concurrency = 100,
    group = "made"
)]
async fn with_every_key(_: u64) {}

#[tokio::test]
async fn a_consumer_is_made_as_its_handler_says() {
    let server = Server::start().await;
    let _running = connect(&server).await.start_groups(["made"]).await.unwrap();
    let jetstream = server.jetstream().await;
    let plain = consumer_info(&jetstream, "ORDERS", "plain").await.config;
    assert_eq!(plain.durable_name.as_deref(), Some("plain"));
    assert_eq!(plain.filter_subject, "orders.*");
    assert_eq!(plain.ack_policy, consumer::AckPolicy::Explicit);
    assert_eq!(plain.deliver_policy, consumer::DeliverPolicy::All);
    assert_eq!(plain.replay_policy, consumer::ReplayPolicy::Instant);
    assert_eq!((plain.ack_wait, plain.max_deliver), (Duration::from_secs(30), MAX_DELIVER));
    assert_eq!(plain.deliver_subject, None);
    assert!(plain.max_ack_pending >= 1000, "{}", plain.max_ack_pending);
    let elaborate = consumer_info(&jetstream, "ORDERS", "elaborate").await.config;
    assert_eq!(elaborate.filter_subject, "orders.created");
    assert_eq!((elaborate.ack_wait, elaborate.max_deliver), (Duration::from_secs(45), MAX_DELIVER));
    assert_eq!(elaborate.backoff, Vec::<Duration>::new(), "the server's own acts on missed acks alone");
    assert!(elaborate.max_ack_pending >= plain.max_ack_pending, "{}", elaborate.max_ack_pending);
}

#[tokio::test]
async fn a_consumer_of_an_earlier_start_is_taken_as_it_is() {
    let server = Server::start().await;
    let jetstream = server.jetstream().await;
    connect(&server).await.start_groups(["made"]).await.unwrap().shutdown().await.unwrap();
    let before = consumer_info(&jetstream, "ORDERS", "elaborate").await;
    if binary::version() >= (2, 11, 0) {
        assert!(before.config.metadata.keys().any(|key| key.starts_with("_nats.")), "{:?}", before.config.metadata);
    }
    assert!(before.config.max_waiting > 0, "what the server fills in is no difference");
    let _running = connect(&server).await.start_groups(["made"]).await.unwrap();
    let after = consumer_info(&jetstream, "ORDERS", "elaborate").await;
    assert_eq!((before.created, before.config), (after.created, after.config));
}

#[tokio::test]
async fn an_operators_own_settings_of_a_consumer_are_left_alone() {
    let server = Server::start().await;
    let jetstream = server.jetstream().await;
    let shop = jetstream.create_stream(on("SHOP", &["orders.>"])).await.unwrap();
    let config = consumer::Config {
        description: Some("do not touch".to_owned()),
        metadata: HashMap::from([("team".to_owned(), "shop".to_owned())]),
        max_ack_pending: 50,
        max_waiting: 20,
        max_batch: 10,
        inactive_threshold: Duration::from_secs(86_400),
        num_replicas: 1,
        memory_storage: true,
        sample_frequency: 10,
        ..durable("order-processor", "orders.created")
    };
    let before = shop.create_consumer(config).await.unwrap().cached_info().config.clone();
    let broker = connect(&server).await;
    let _subscription = start(&broker, "orders.created", "order-processor").await.unwrap();
    assert_eq!(consumer_info(&jetstream, "SHOP", "order-processor").await.config, before);
}

#[tokio::test]
async fn one_filter_in_the_list_of_filters_is_the_same_filter() {
    let server = Server::start().await;
    let shop = server.jetstream().await.create_stream(on("SHOP", &["orders.>"])).await.unwrap();
    let config =
        consumer::Config { filter_subjects: vec!["orders.created".to_owned()], ..durable("order-processor", "") };
    shop.create_consumer(config).await.unwrap();
    let broker = connect(&server).await;
    let _subscription = start(&broker, "orders.created", "order-processor").await.unwrap();
}

#[tokio::test]
async fn a_consumer_that_differs_is_an_error_and_stays_as_it_is() {
    let server = Server::start().await;
    let jetstream = server.jetstream().await;
    let shop = jetstream.create_stream(on("SHOP", &["orders.>"])).await.unwrap();
    let broker = connect(&server).await;
    const EDIT: &str = "nats consumer edit SHOP";
    const ANOTHER: &str = "give the handler another `queue`";
    type Change = fn(&mut consumer::Config);
    let cases: [(&str, Change, &[&str]); 11] = [
        ("ack-wait", |c| c.ack_wait = Duration::from_secs(60), &["ack_wait is 60s on the server, 30s here", EDIT]),
        (
            "max-deliver",
            |c| c.max_deliver = 7,
            &["max_deliver is 7 on the server, unlimited, or at least 10000 here", "net", EDIT],
        ),
        (
            "backoff",
            |c| c.backoff = vec![Duration::from_secs(30), Duration::from_secs(90)],
            &["backoff is [30s, 90s] on the server, [] here", EDIT],
        ),
        (
            "filter",
            |c| c.filter_subject = "orders.*".to_owned(),
            &["filter_subjects is orders.* on the server, orders.created here", EDIT],
        ),
        (
            "filters",
            |c| {
                c.filter_subject.clear();
                c.filter_subjects = vec!["orders.created".to_owned(), "orders.shipped".to_owned()];
            },
            &["filter_subjects is orders.created, orders.shipped on the server, orders.created here"],
        ),
        ("no-filter", |c| c.filter_subject.clear(), &["filter_subjects is every subject on the server"]),
        ("ack-policy", |c| c.ack_policy = consumer::AckPolicy::All, &["ack_policy is all", "explicit here", ANOTHER]),
        (
            "deliver-policy",
            |c| c.deliver_policy = consumer::DeliverPolicy::New,
            &["deliver_policy is new on the server, all here", ANOTHER],
        ),
        (
            "replay-policy",
            |c| c.replay_policy = consumer::ReplayPolicy::Original,
            &["replay_policy is original on the server, instant here", ANOTHER],
        ),
        ("headers-only", |c| c.headers_only = true, &["headers_only is true on the server, false here", EDIT]),
        (
            "max-ack-pending",
            |c| c.max_ack_pending = 3,
            &["max_ack_pending is 3 on the server, at least the concurrency of 4 here", EDIT],
        ),
    ];
    for (queue, change, told) in cases {
        let mut config = durable(queue, "orders.created");
        change(&mut config);
        let before = shop.create_consumer(config).await.unwrap().cached_info().config.clone();
        let result = broker.subscribe("orders.created", queue, async |_: Message| {}).concurrency(4).await;
        let consumer = format!("consumer `{queue}` of stream `SHOP`");
        let rest = ["`closure on orders.created`", &consumer, "nothing was changed"];
        let told: Vec<_> = told.iter().copied().chain(rest).collect();
        assert_says(result, ErrorKind::ConsumerMismatch, &told);
        assert_eq!(consumer_info(&jetstream, "SHOP", queue).await.config, before, "{queue}");
    }
}

#[subscriber(subject = "orders.created", queue = "drifted", ack_wait = "20s", max_deliver = 3, group = "drifted")]
async fn drifted(_: u64) {}

#[tokio::test]
async fn every_difference_of_a_consumer_is_named_at_once() {
    let server = Server::start().await;
    let shop = server.jetstream().await.create_stream(on("SHOP", &["orders.>"])).await.unwrap();
    let config = consumer::Config {
        ack_wait: Duration::from_secs(60),
        max_deliver: 7,
        headers_only: true,
        ..durable("drifted", "orders.created")
    };
    shop.create_consumer(config).await.unwrap();
    let told = [
        "`provisioning::drifted`",
        "ack_wait is 60s on the server, 20s here",
        "max_deliver is 7 on the server, unlimited, or at least 10000 here",
        "headers_only is true on the server, false here",
    ];
    assert_says(connect(&server).await.start_groups(["drifted"]).await, ErrorKind::ConsumerMismatch, &told);
}

#[tokio::test]
async fn the_way_out_that_is_named_leads_out() {
    let server = Server::start().await;
    let shop = server.jetstream().await.create_stream(on("SHOP", &["orders.>"])).await.unwrap();
    let config = consumer::Config { ack_wait: Duration::from_secs(60), ..durable("order-processor", "orders.created") };
    shop.create_consumer(config.clone()).await.unwrap();
    let broker = connect(&server).await;
    assert_says(start(&broker, "orders.created", "order-processor").await, ErrorKind::ConsumerMismatch, &[]);
    let subscribe = || broker.subscribe("orders.created", "order-processor", async |_: Message| {});
    let in_line = subscribe().ack_wait(Duration::from_secs(60)).await.unwrap();
    in_line.unsubscribe().await.unwrap();
    shop.update_consumer(consumer::Config { ack_wait: Duration::from_secs(30), ..config }).await.unwrap();
    let _edited = subscribe().await.unwrap();
}

#[tokio::test]
async fn a_consumer_of_another_kind_is_an_error() {
    let server = Server::start().await;
    let jetstream = server.jetstream().await;
    let shop = jetstream.create_stream(on("SHOP", &["orders.>"])).await.unwrap();
    let config = consumer::Config {
        deliver_subject: Some("push.here".to_owned()),
        ..durable("order-processor", "orders.created")
    };
    let before = shop.create_consumer(config).await.unwrap().cached_info().config.clone();
    let told = ["deliver_subject is push.here (push) on the server, none (pull) here", "nats consumer rm SHOP"];
    let broker = connect(&server).await;
    let result = start(&broker, "orders.created", "order-processor").await;
    assert_says(result, ErrorKind::ConsumerMismatch, &told);
    assert_eq!(consumer_info(&jetstream, "SHOP", "order-processor").await.config, before);
    if binary::version() >= (2, 11, 0) {
        let config = consumer::Config {
            priority_groups: vec!["first".to_owned()],
            priority_policy: consumer::PriorityPolicy::Overflow,
            ..durable("prioritised", "orders.created")
        };
        shop.create_consumer(config).await.unwrap();
        let told = ["priority_policy is overflow", "priority_groups is [\"first\"] on the server, [] here"];
        assert_says(start(&broker, "orders.created", "prioritised").await, ErrorKind::ConsumerMismatch, &told);
    }
}

/// Whether the server can choose one client of many.
fn pins() -> bool {
    binary::version() >= (2, 11, 0)
}

/// A consumer as an ordered handler has it, for a server that pins.
fn in_order(name: &str, filter: &str) -> consumer::Config {
    consumer::Config {
        ack_policy: consumer::AckPolicy::All,
        priority_policy: consumer::PriorityPolicy::PinnedClient,
        priority_groups: vec!["ordered".to_owned()],
        priority_timeout: Duration::from_secs(5),
        ..durable(name, filter)
    }
}

#[tokio::test]
async fn the_consumer_of_an_ordered_handler_acks_up_to_a_message_and_pins_a_client() {
    let server = Server::start().await;
    let (broker, jetstream) = (connect(&server).await, server.jetstream().await);
    let subscribe = |queue| {
        let subscribe = broker.subscribe("orders.created", queue, async |_: Message| {});
        subscribe.ordered().ack_wait(Duration::from_secs(20))
    };
    let _single = subscribe("single").single_instance().await.unwrap();
    let single = consumer_info(&jetstream, "ORDERS", "single").await.config;
    assert_eq!(single.ack_policy, consumer::AckPolicy::All);
    assert_eq!((single.ack_wait, single.max_deliver), (Duration::from_secs(20), MAX_DELIVER));
    assert_eq!(single.max_ack_pending, 1000);
    assert_eq!(single.priority_policy, consumer::PriorityPolicy::None);
    assert_eq!((single.priority_groups, single.priority_timeout), (Vec::new(), Duration::ZERO));
    if pins() {
        subscribe("pinned").await.unwrap().unsubscribe().await.unwrap();
        let pinned = consumer_info(&jetstream, "ORDERS", "pinned").await;
        let config = &pinned.config;
        assert_eq!((config.ack_policy, config.max_ack_pending), (consumer::AckPolicy::All, 1000));
        assert_eq!((config.ack_wait, config.max_deliver), (Duration::from_secs(20), MAX_DELIVER));
        assert_eq!(config.priority_policy, consumer::PriorityPolicy::PinnedClient);
        assert_eq!(config.priority_groups, ["ordered"]);
        assert_eq!(config.priority_timeout, Duration::from_secs(5));
        let _again = subscribe("pinned").await.unwrap();
        let again = consumer_info(&jetstream, "ORDERS", "pinned").await;
        assert_eq!((again.created, again.config), (pinned.created, pinned.config), "it is taken as it is");
    }
}

#[subscriber(
    subject = "orders.created",
    queue = "declared",
    ordered,
    ack_every = 10,
    single_instance,
    threads = 1,
    group = "in-order"
)]
fn declared_in_order(_: u64) {}

#[tokio::test]
async fn an_attribute_says_order_as_a_closure_does() {
    let server = Server::start().await;
    let _running = connect(&server).await.start_groups(["in-order"]).await.unwrap();
    let config = consumer_info(&server.jetstream().await, "ORDERS", "declared").await.config;
    assert_eq!((config.ack_policy, config.max_ack_pending), (consumer::AckPolicy::All, 1000));
    assert_eq!(config.priority_policy, consumer::PriorityPolicy::None);
}

#[tokio::test]
async fn a_consumer_that_is_not_in_order_is_no_ordered_handlers() {
    let server = Server::start().await;
    let jetstream = server.jetstream().await;
    let shop = jetstream.create_stream(on("SHOP", &["orders.>"])).await.unwrap();
    let broker = connect(&server).await;
    const EDIT: &str = "nats consumer edit SHOP";
    const ANOTHER: &str = "give the handler another `queue`";
    type Change = fn(&mut consumer::Config);
    let explicit: (&str, Change, &[&str]) = (
        "explicit",
        |c| c.ack_policy = consumer::AckPolicy::Explicit,
        &["ack_policy is explicit on the server, all here", ANOTHER, "an `ordered` handler acks many messages at once"],
    );
    let pinned: [(&str, Change, &[&str]); 4] = [
        (
            "unpinned",
            |c| {
                c.priority_policy = consumer::PriorityPolicy::None;
                (c.priority_groups, c.priority_timeout) = (Vec::new(), Duration::ZERO);
            },
            &[
                "priority_policy is none on the server, pinned_client here; priority_groups is [] on the server, [\"ordered\"] here",
                EDIT,
            ],
        ),
        (
            "overflowing",
            |c| {
                c.priority_policy = consumer::PriorityPolicy::Overflow;
                c.priority_timeout = Duration::ZERO;
            },
            &["priority_policy is overflow on the server, pinned_client here", EDIT],
        ),
        (
            "others",
            |c| c.priority_groups = vec!["first".to_owned()],
            &["priority_groups is [\"first\"] on the server, [\"ordered\"] here", EDIT],
        ),
        (
            "patient",
            |c| c.priority_timeout = Duration::ZERO,
            &["priority_timeout is 120s on the server, 5s here", EDIT],
        ),
    ];
    let single = !pins();
    for (queue, change, told) in std::iter::once(explicit).chain(pinned.into_iter().filter(|_| pins())) {
        let mut config = in_order(queue, "orders.created");
        if single {
            config.priority_policy = consumer::PriorityPolicy::None;
            (config.priority_groups, config.priority_timeout) = (Vec::new(), Duration::ZERO);
        }
        change(&mut config);
        let before = shop.create_consumer(config).await.unwrap().cached_info().config.clone();
        let start = async || {
            let subscribe = broker.subscribe("orders.created", queue, async |_: Message| {}).ordered();
            if single { subscribe.single_instance().await } else { subscribe.await }
        };
        let consumer = format!("consumer `{queue}` of stream `SHOP`");
        let told: Vec<_> = told.iter().copied().chain([consumer.as_str(), "nothing was changed"]).collect();
        assert_says(start().await, ErrorKind::ConsumerMismatch, &told);
        assert_eq!(consumer_info(&jetstream, "SHOP", queue).await.config, before, "{queue}");
        // The way out that is named leads out.
        if told.contains(&EDIT) {
            shop.update_consumer(in_order(queue, "orders.created")).await.unwrap();
        } else {
            shop.delete_consumer(queue).await.unwrap();
        }
        let _started = start().await.unwrap();
    }
}

#[tokio::test]
async fn the_consumer_of_an_ordered_handler_is_nobody_elses() {
    let server = Server::start().await;
    let shop = server.jetstream().await.create_stream(on("SHOP", &["orders.>"])).await.unwrap();
    let all = consumer::Config { ack_policy: consumer::AckPolicy::All, ..durable("single", "orders.created") };
    shop.create_consumer(all).await.unwrap();
    let broker = connect(&server).await;
    let told = [
        "ack_policy is all on the server, explicit here",
        "give the handler another `queue`",
        "the consumer was made for an `ordered` handler",
    ];
    assert_says(start(&broker, "orders.created", "single").await, ErrorKind::ConsumerMismatch, &told);
    if pins() {
        shop.create_consumer(in_order("pinned", "orders.created")).await.unwrap();
        let pinned = [
            "priority_policy is pinned_client on the server, none here",
            "priority_groups is [\"ordered\"] on the server, [] here",
        ];
        let told: Vec<_> = told.into_iter().chain(pinned).collect();
        assert_says(start(&broker, "orders.created", "pinned").await, ErrorKind::ConsumerMismatch, &told);
        // One process only would do without the pin, which is there all the same.
        let single = broker.subscribe("orders.created", "pinned", async |_: Message| {}).ordered().single_instance();
        assert_says(single.await, ErrorKind::ConsumerMismatch, &[pinned[0], "nats consumer edit SHOP pinned"]);
    }
}

#[tokio::test]
async fn a_work_queue_keeps_no_order() {
    let server = Server::start().await;
    let stream = work_queue(&server.jetstream().await).await;
    let broker = connect(&server).await;
    let subscribe = broker.subscribe("work.hard", "hard-work", async |_: Message| {}).ordered().single_instance();
    let told =
        ["`closure on work.hard`: ordered", "stream `WORK` is a work queue", "workqueue", "`concurrency`", "source"];
    assert_says(subscribe.await, ErrorKind::StreamMismatch, &told);
    let consumers: Vec<_> = stream.consumer_names().try_collect().await.unwrap();
    assert_eq!(consumers, Vec::<String>::new());
    // The server's own word for it, should that ever change.
    let all = consumer::Config { ack_policy: consumer::AckPolicy::All, ..durable("hard-work", "work.hard") };
    let refusal = stream.create_consumer(all).await.unwrap_err();
    assert!(refusal.to_string().contains("10098"), "{refusal}");
}

#[tokio::test]
async fn a_stream_that_a_message_can_leave_before_older_ones_keeps_no_order() {
    let server = Server::start().await;
    let jetstream = server.jetstream().await;
    type Change = fn(&mut stream::Config);
    let changes: [(&str, Change); 4] = [
        ("max_msgs_per_subject", |config| config.max_messages_per_subject = 1),
        ("allow_msg_ttl", |config| config.allow_message_ttl = true),
        ("allow_rollup_hdrs", |config| config.allow_rollup = true),
        ("allow_msg_ttl", |config| {
            (config.allow_message_ttl, config.allow_rollup) = (true, true);
            config.subject_delete_marker_ttl = Some(Duration::from_secs(60));
        }),
    ];
    let broker = connect(&server).await;
    for (field, change) in changes {
        // A server of before leaves out what it does not know.
        if field == "allow_msg_ttl" && !pins() {
            continue;
        }
        let mut config = on("SHOP", &["orders.>"]);
        change(&mut config);
        let shop = jetstream.create_stream(config).await.unwrap();
        let ordered = || {
            let subscribe = broker.subscribe("orders.created", "in-order", async |_: Message| {});
            subscribe.ordered().single_instance()
        };
        let field = format!("`{field}`");
        let told = ["`closure on orders.created`: ordered", "stream `SHOP`", &field, "source", "`concurrency` at 1"];
        assert_says(ordered().await, ErrorKind::StreamMismatch, &told);
        let consumers: Vec<_> = shop.consumer_names().try_collect().await.unwrap();
        assert_eq!(consumers, Vec::<String>::new());
        // Both ways out lead out.
        let _unordered = start(&broker, "orders.created", "unordered").await.unwrap();
        let transform = stream::SubjectTransform { source: "orders.>".into(), destination: "history.>".into() };
        let source = stream::Source { name: "SHOP".into(), subject_transforms: vec![transform], ..Default::default() };
        let history = stream::Config { sources: Some(vec![source]), ..on("HISTORY", &["history.>"]) };
        jetstream.create_stream(history).await.unwrap();
        let subscribe = broker.subscribe("history.created", "in-order", async |_: Message| {});
        let _ordered = subscribe.ordered().single_instance().await.unwrap();
        for stream in ["HISTORY", "SHOP"] {
            jetstream.delete_stream(stream).await.unwrap();
        }
    }
}

#[tokio::test]
async fn an_own_stream_that_keeps_no_order_is_told_before_it_is_made() {
    let shop = stream::Config { max_messages_per_subject: 1, ..on("SHOP", &["orders.>"]) };
    let server = Server::start().await;
    let live = Broker::builder().servers([server.url()]).stream(shop.clone()).connect().await.unwrap();
    for broker in [live, Broker::builder().stream(shop).in_memory()] {
        let subscribe = broker.subscribe("orders.created", "in-order", async |_: Message| {}).ordered();
        assert_says(subscribe.await, ErrorKind::StreamMismatch, &["stream `SHOP`", "`max_msgs_per_subject`"]);
    }
    assert_eq!(names(&server.jetstream().await).await, set(&[]));
}

#[tokio::test]
async fn a_stream_with_interest_retention_keeps_order_and_what_another_queue_needs() {
    let server = Server::start().await;
    let jetstream = server.jetstream().await;
    let config = stream::Config { retention: stream::RetentionPolicy::Interest, ..on("SHOP", &["orders.>"]) };
    let shop = jetstream.create_stream(config).await.unwrap();
    // Acked by hand, so that one ack is for many messages.
    let all = async |name: &str, filter: &str| {
        let config = consumer::pull::Config {
            durable_name: Some(name.to_owned()),
            filter_subject: filter.to_owned(),
            ack_policy: consumer::AckPolicy::All,
            ..Default::default()
        };
        shop.create_consumer(config).await.unwrap()
    };
    let (one, other) = (all("one", "orders.created").await, all("other", "orders.*").await);
    for id in 0..6 {
        let subject = if id % 2 == 0 { "orders.created" } else { "orders.shipped" };
        jetstream.publish(subject, "1".into()).await.unwrap().await.unwrap();
    }
    let left = async || jetstream.get_stream("SHOP").await.unwrap().cached_info().state.messages;
    let last = async |consumer: &consumer::PullConsumer, count| {
        let messages = consumer.fetch().max_messages(count).messages().await.unwrap();
        messages.try_collect::<Vec<_>>().await.unwrap().pop().unwrap()
    };
    last(&one, 3).await.double_ack().await.unwrap();
    assert_eq!(left().await, 6, "the other queue has seen none of them");
    last(&other, 4).await.double_ack().await.unwrap();
    assert_eq!(left().await, 2, "what both have done with is gone, and what nobody else reads");
    last(&other, 2).await.double_ack().await.unwrap();
    assert_eq!(left().await, 0);
    let broker = connect(&server).await;
    let ordered = broker.subscribe("orders.created", "ordered", async |_: Message| {}).ordered().single_instance();
    let _subscription = ordered.await.unwrap();
}

#[tokio::test]
async fn a_server_that_pins_no_client_is_told_with_both_ways_out() {
    let server = Server::start().await;
    work_queue(&server.jetstream().await).await;
    let broker = connect(&server).await;
    let ordered = |subject| broker.subscribe(subject, "in-order", async |_: Message| {}).ordered();
    if pins() {
        let _pinned = ordered("orders.created").await.unwrap();
        return;
    }
    let (major, minor, patch) = binary::version();
    let version = format!("the server, {major}.{minor}.{patch},");
    let told = ["`closure on orders.created`: ordered", &version, "2.11", "newer server", "`single_instance`"];
    assert_says(ordered("orders.created").await, ErrorKind::Config, &told);
    let told = ["2 problems", "is a work queue", &version];
    assert_says(ordered("work.hard").await, ErrorKind::Startup, &told);
    let _single = ordered("orders.created").single_instance().await.unwrap();
}

#[tokio::test]
async fn a_broker_in_memory_has_ordered_handlers_too() {
    let broker = Broker::in_memory();
    for _ in 0..2 {
        let subscribe = broker.subscribe("orders.created", "in-order", async |_: Message| {});
        subscribe.ordered().ack_every(10).await.unwrap().unsubscribe().await.unwrap();
    }
    let told = ["ack_policy is all on the server, explicit here", "priority_policy is pinned_client"];
    assert_says(start(&broker, "orders.created", "in-order").await, ErrorKind::ConsumerMismatch, &told);
}

#[tokio::test]
async fn settings_of_a_closure_that_do_not_go_together_are_told() {
    let broker = Broker::in_memory();
    let subscribe = || broker.subscribe("orders.created", "in-order", async |_: Message| {});
    let told = ["`closure on orders.created`: concurrency", "one message at a time across all instances"];
    assert_says(subscribe().ordered().concurrency(2).await, ErrorKind::Config, &told);
    let told = ["`closure on orders.created`: ack_every", "add `ordered`"];
    assert_says(subscribe().ack_every(10).await, ErrorKind::Config, &told);
    assert_says(subscribe().single_instance().await, ErrorKind::Config, &["single_instance", "add `ordered`"]);
    let told = ["`closure on orders.created`: concurrency: is 513", "1 to 512"];
    assert_says(subscribe().blocking().concurrency(513).await, ErrorKind::Config, &told);
}

#[tokio::test]
async fn a_consumer_that_was_made_without_the_pin_is_told() {
    if !pins() {
        return;
    }
    let server = Server::start().await;
    let client = server.client().await;
    let mut requests = client.subscribe("old.API.>").await.unwrap();
    client.flush().await.unwrap();
    // As an old server behind a new one does: what it does not know it leaves out.
    tokio::spawn(async move {
        while let Some(message) = requests.next().await {
            let subject = message.subject.replacen("old.API.", "$JS.API.", 1);
            let mut payload = message.payload;
            if subject.contains("CONSUMER.CREATE") {
                let mut request: serde_json::Value = serde_json::from_slice(&payload).unwrap();
                let config = request["config"].as_object_mut().unwrap();
                config.retain(|key, _| !key.starts_with("priority_"));
                payload = serde_json::to_vec(&request).unwrap().into();
            }
            let answer = client.request(subject, payload).await.unwrap();
            client.publish(message.reply.unwrap(), answer.payload).await.unwrap();
        }
    });
    let broker = Broker::builder().servers([server.url()]).api_prefix("old.API").connect().await.unwrap();
    let ordered = broker.subscribe("orders.created", "in-order", async |_: Message| {}).ordered();
    let told = ["`closure on orders.created`: ordered", "made consumer `in-order`", "2.11", "`single_instance`"];
    assert_says(ordered.await, ErrorKind::Config, &told);
}

#[tokio::test]
async fn a_stream_in_the_way_of_a_new_one_is_named() {
    let server = Server::start().await;
    let jetstream = server.jetstream().await;
    jetstream.create_stream(on("ABROAD", &["orders.abroad"])).await.unwrap();
    let broker = connect(&server).await;
    let told =
        ["created`", "stream `ORDERS`", "`orders.>` overlaps `orders.abroad` of stream `ABROAD`", "Builder::stream"];
    assert_says(start(&broker, "orders.created", "order-processor").await, ErrorKind::StreamOverlap, &told);
    assert_says(broker.publish("orders.created", &1).await, ErrorKind::StreamOverlap, &told);
    // The stream has only a part of what this handler wants.
    let told = ["stream `ABROAD`", "[\"orders.abroad\"]", "do not cover `orders.*`"];
    assert_says(start(&broker, "orders.*", "order-processor").await, ErrorKind::StreamNotFound, &told);
    assert_eq!(names(&jetstream).await, set(&["ABROAD"]), "nothing was made on the way");
}

#[tokio::test]
async fn an_own_stream_whose_subject_is_taken_names_the_other() {
    let server = Server::start().await;
    let jetstream = server.jetstream().await;
    jetstream.create_stream(on("OLD", &["orders.*.lost"])).await.unwrap();
    let broker =
        Broker::builder().servers([server.url()]).stream(on("SHOP", &["shop.a", "orders.>"])).connect().await.unwrap();
    let told = ["stream `SHOP`", "`orders.>` overlaps `orders.*.lost` of stream `OLD`"];
    assert_says(start(&broker, "shop.a", "order-processor").await, ErrorKind::StreamOverlap, &told);
    assert_eq!(names(&jetstream).await, set(&["OLD"]));
}

#[tokio::test]
async fn own_streams_in_each_others_way_are_an_error_before_either_is_made() {
    let server = Server::start().await;
    let (one, other) = (on("ONE", &["orders.*"]), on("OTHER", &["orders.created"]));
    let broker = Broker::builder().servers([server.url()]).stream(one).stream(other).connect().await.unwrap();
    let told = ["stream `OTHER`", "`orders.created` overlaps `orders.*` of stream `ONE`"];
    assert_says(start(&broker, "orders.created", "order-processor").await, ErrorKind::StreamOverlap, &told);
    assert_eq!(names(&server.jetstream().await).await, set(&[]));
}

#[subscriber(subject = "orders.created", stream = "SHOP", queue = "named", group = "named")]
async fn named(_: u64) {}

#[tokio::test]
async fn a_stream_is_made_under_the_name_that_the_handler_gives() {
    let server = Server::start().await;
    let _running = connect(&server).await.start_groups(["named"]).await.unwrap();
    let jetstream = server.jetstream().await;
    assert_eq!(stream_config(&jetstream, "SHOP").await.subjects, ["orders.>"]);
    assert_eq!(names(&jetstream).await, set(&["DLQ", "SHOP"]));
}

#[tokio::test]
async fn a_subject_of_another_stream_than_the_named_one_is_an_error() {
    let server = Server::start().await;
    let jetstream = server.jetstream().await;
    jetstream.create_stream(on("OTHER", &["orders.*"])).await.unwrap();
    let broker = connect(&server).await;
    let told = ["`provisioning::named`", "stream `SHOP`", "`orders.created` belongs to stream `OTHER`", "\"OTHER\""];
    assert_says(broker.start_groups(["named"]).await, ErrorKind::StreamOverlap, &told);
    // It does not help that there is one of that name.
    jetstream.create_stream(on("SHOP", &["shop.>"])).await.unwrap();
    assert_says(broker.start_groups(["named"]).await, ErrorKind::StreamOverlap, &told);
    assert_eq!(names(&jetstream).await, set(&["OTHER", "SHOP"]));
}

#[tokio::test]
async fn a_filter_outside_the_named_stream_is_an_error() {
    let server = Server::start().await;
    let jetstream = server.jetstream().await;
    jetstream.create_stream(on("SHOP", &["shop.>"])).await.unwrap();
    let told = [
        "`provisioning::named`",
        "stream `SHOP` has the subjects [\"shop.>\"]",
        "do not cover `orders.created`",
        "nats stream edit SHOP",
    ];
    assert_says(connect(&server).await.start_groups(["named"]).await, ErrorKind::StreamNotFound, &told);
    assert_eq!(stream_config(&jetstream, "SHOP").await.subjects, ["shop.>"]);
}

#[subscriber(subject = "work.*", queue = "all-work", stream = "WORK", group = "work")]
async fn all_work(_: u64) {}

#[subscriber(subject = "work.hard", queue = "hard-work", stream = "WORK", group = "work")]
async fn hard_work(_: u64) {}

#[subscriber(subject = "work.easy", queue = "easy-work", stream = "WORK", group = "easy-work")]
async fn easy_work(_: u64) {}

async fn work_queue(jetstream: &JetStream) -> stream::Stream {
    let config = stream::Config { retention: stream::RetentionPolicy::WorkQueue, ..on("WORK", &["work.>"]) };
    jetstream.create_stream(config).await.unwrap()
}

#[tokio::test]
async fn handlers_that_overlap_on_a_work_queue_are_an_error() {
    let server = Server::start().await;
    let jetstream = server.jetstream().await;
    let stream = work_queue(&jetstream).await;
    let told = [
        "`provisioning::all_work`",
        "stream `WORK` is a work queue",
        "`work.*` of consumer `all-work`",
        "`work.hard` of consumer `hard-work`",
        "limits retention",
    ];
    assert_says(connect(&server).await.start_groups(["work"]).await, ErrorKind::StreamOverlap, &told);
    let consumers: Vec<_> = stream.consumer_names().try_collect().await.unwrap();
    assert_eq!(consumers, Vec::<String>::new());
}

#[tokio::test]
async fn a_consumer_in_the_way_on_a_work_queue_is_named() {
    let server = Server::start().await;
    let jetstream = server.jetstream().await;
    let stream = work_queue(&jetstream).await;
    let foreign = consumer::Config {
        filter_subjects: vec!["work.odd".to_owned(), "work.easy".to_owned()],
        ..durable("foreign", "")
    };
    stream.create_consumer(foreign).await.unwrap();
    let broker = connect(&server).await;
    let told = ["`provisioning::easy_work`", "stream `WORK`", "`work.easy` of consumer `foreign`"];
    assert_says(broker.start_groups(["easy-work"]).await, ErrorKind::StreamOverlap, &told);
    // Subjects apart are fine, and so is one's own consumer of an earlier start.
    let hard = broker.include::<hard_work>();
    hard.start_all().await.unwrap().shutdown().await.unwrap();
    let _again = hard.start_all().await.unwrap();
}

#[subscriber(subject = "*.created", queue = "wild", group = "wild")]
async fn wild(_: u64) {}

#[tokio::test]
async fn a_wildcard_without_a_stream_is_an_error_with_the_way_out() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    let told = ["`provisioning::wild`", "no stream covers `*.created`", "`orders.*`"];
    assert_says(broker.start_groups(["wild"]).await, ErrorKind::StreamNotFound, &told);
    // A name does not help: the server takes such a stream only where nobody is told that it stored a message.
    let named = broker.subscribe("*.created", "wild", async |_: Message| {}).stream("CREATIONS");
    assert_says(named.await, ErrorKind::StreamNotFound, &["no stream covers `*.created`"]);
    let jetstream = server.jetstream().await;
    assert_eq!(names(&jetstream).await, set(&[]));
    jetstream.create_stream(stream::Config { no_ack: true, ..on("CREATIONS", &["*.created"]) }).await.unwrap();
    // `dlq.created` is among its subjects, so that there can be no stream of dead letters.
    let told = ["the dead letters of `provisioning::wild`", "`dlq.>` overlaps `*.created` of stream `CREATIONS`"];
    assert_says(broker.start_groups(["wild"]).await, ErrorKind::StreamOverlap, &told);
    let subscribe = broker.subscribe("*.created", "wild", async |_: Message| {});
    let _subscription = subscribe.dead_letter(None).await.unwrap();
}

#[tokio::test]
async fn dead_letters_on_the_handlers_own_subject_are_an_error() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    let told = ["`closure on dlq.>`", "`dlq.DLQ.undertaker`", "set `dead_letter`"];
    assert_says(start(&broker, "dlq.>", "undertaker").await, ErrorKind::Config, &told);
    let subscribe = || broker.subscribe("orders.*", "circle", async |_: Message| {});
    let told = ["`orders.failed`", "`orders.*`"];
    assert_says(subscribe().dead_letter(Some("orders.failed")).await, ErrorKind::Config, &told);
    assert_eq!(names(&server.jetstream().await).await, set(&[]));
    let _apart = subscribe().dead_letter(Some("failed.orders")).await.unwrap();
    let undertaker = broker.subscribe("dlq.>", "undertaker", async |_: Message| {});
    let _without = undertaker.dead_letter(None).await.unwrap();
    assert_eq!(names(&server.jetstream().await).await, set(&["DLQ", "FAILED", "ORDERS"]));
}

/// What both replicas have seen.
#[derive(Clone, Debug, Default)]
struct Seen(Arc<Mutex<Vec<u64>>>);

#[subscriber(subject = "orders.created", queue = "replicated", group = "replica")]
async fn replicated(id: u64, State(seen): State<Seen>) {
    seen.0.lock().unwrap().push(id);
}

#[subscriber(subject = "payments.received", stream = "MONEY", queue = "replicated", group = "replica")]
async fn replicated_elsewhere(_: u64) {}

#[tokio::test]
async fn replicas_that_start_at_once_on_an_empty_server_all_succeed() {
    for round in 0..10 {
        let server = Server::start().await;
        let seen = Seen::default();
        let mut brokers = Vec::new();
        for _ in 0..4 {
            brokers.push(Broker::builder().servers([server.url()]).state(seen.clone()).connect().await.unwrap());
        }
        // In step, and out of step: each request of one may fall between any two of another.
        let starts = brokers.iter().zip(0..).map(async |(broker, place)| {
            tokio::time::sleep(Duration::from_micros(round * place * 150)).await;
            broker.start_groups(["replica"]).await
        });
        let publishes = brokers.iter().map(|broker| broker.publish("orders.created", &round));
        let (started, published) =
            futures::join!(futures::future::join_all(starts), futures::future::join_all(publishes));
        let running: Vec<_> = started.into_iter().map(Result::unwrap).collect();
        let sequences: BTreeSet<_> = published.into_iter().map(|ack| ack.unwrap().sequence).collect();
        assert_eq!(sequences, BTreeSet::from([1, 2, 3, 4]));
        eventually("each message was handled once", SOON, async || {
            (*seen.0.lock().unwrap() == [round; 4]).then_some(())
        })
        .await;
        for running in running {
            running.shutdown().await.unwrap();
        }
        assert_eq!(names(&server.jetstream().await).await, set(&["DLQ", "MONEY", "ORDERS"]));
    }
}

/// A broker whose requests to the API pass through us; right after the answer to `request`, or
/// right before a `STREAM.CREATE` is passed on, another process makes the stream `made`.
async fn overtaken(server: &Server, request: &'static str, made: stream::Config) -> Broker {
    let client = server.client().await;
    let jetstream = server.jetstream().await;
    let mut requests = client.subscribe("slow.API.>").await.unwrap();
    client.flush().await.unwrap();
    tokio::spawn(async move {
        let mut made = Some(made);
        while let Some(message) = requests.next().await {
            let subject = message.subject.strip_prefix("slow.API.").unwrap();
            let overtake = subject.starts_with(request) && made.is_some();
            if overtake && request.starts_with("STREAM.CREATE") {
                jetstream.create_stream(made.take().unwrap()).await.unwrap();
            }
            let (subject, reply) = (format!("$JS.API.{subject}"), message.reply.unwrap());
            if subject.contains("CONSUMER.MSG.NEXT") {
                client.publish_with_reply(subject, reply, message.payload).await.unwrap();
                continue;
            }
            let answer = client.request(subject, message.payload).await.unwrap();
            if overtake && let Some(made) = made.take() {
                jetstream.create_stream(made).await.unwrap();
            }
            client.publish(reply, answer.payload).await.unwrap();
        }
    });
    Broker::builder().servers([server.url()]).api_prefix("slow.API").connect().await.unwrap()
}

#[tokio::test]
async fn a_stream_that_another_process_makes_meanwhile_is_taken_if_it_fits() {
    let fits = |name| stream::Config { max_messages: 1000, ..on(name, &["orders.created", "orders.*.late"]) };
    for (request, group, made) in [
        ("STREAM.NAMES", "frugal", on("ORDERS", &["orders.>"])),
        ("STREAM.NAMES", "frugal", fits("ORDERS")),
        ("STREAM.INFO.ORDERS", "frugal", on("ORDERS", &["orders.>"])),
        ("STREAM.CREATE.ORDERS", "frugal", on("ORDERS", &["orders.>"])),
        ("STREAM.CREATE.ORDERS", "frugal", stream::Config { max_messages: 1000, ..on("ORDERS", &["orders.>"]) }),
        ("STREAM.INFO.SHOP", "frugal-named", on("SHOP", &["orders.>"])),
        ("STREAM.INFO.SHOP", "frugal-named", fits("SHOP")),
        ("STREAM.CREATE.SHOP", "frugal-named", on("SHOP", &["orders.>"])),
    ] {
        let server = Server::start().await;
        let (name, limit) = (made.name.clone(), made.max_messages);
        let broker = overtaken(&server, request, made).await;
        let running = broker.start_groups([group]).await;
        let running = running.unwrap_or_else(|error| panic!("{name} made at {request}: {error:?}"));
        running.shutdown().await.unwrap();
        let found = stream_config(&server.jetstream().await, &name).await;
        assert_eq!(found.max_messages.max(0), limit, "{request}: it is the other's");
    }
}

#[tokio::test]
async fn a_stream_that_another_process_makes_meanwhile_is_an_error_if_it_does_not_fit() {
    for (request, group, made, kind, told) in [
        ("STREAM.NAMES", "frugal", on("ORDERS", &["orders.lost"]), ErrorKind::StreamNotFound, "[\"orders.lost\"]"),
        ("STREAM.CREATE.ORDERS", "frugal", on("ORDERS", &["lost"]), ErrorKind::StreamNotFound, "[\"lost\"]"),
        ("STREAM.CREATE.ORDERS", "frugal", on("OTHER", &["orders.lost"]), ErrorKind::StreamOverlap, "stream `OTHER`"),
        ("STREAM.INFO.SHOP", "frugal-named", on("OTHER", &["orders.>"]), ErrorKind::StreamOverlap, "stream `OTHER`"),
        ("STREAM.CREATE.SHOP", "frugal-named", on("SHOP", &["shop"]), ErrorKind::StreamNotFound, "[\"shop\"]"),
    ] {
        let server = Server::start().await;
        let name = made.name.clone();
        let broker = overtaken(&server, request, made).await;
        assert_says(broker.start_groups([group]).await, kind, &["`provisioning::frugal", told]);
        stream_config(&server.jetstream().await, &name).await;
    }
}

#[tokio::test]
async fn replicas_that_disagree_do_not_both_start() {
    let server = Server::start().await;
    let (one, other) = (connect(&server).await, connect(&server).await);
    let subscribe = async |broker: &Broker, seconds| {
        let subscribe = broker.subscribe("orders.created", "disputed", async |_: Message| {});
        subscribe.ack_wait(Duration::from_secs(seconds)).await
    };
    let (one, other) = futures::join!(subscribe(&one, 20), subscribe(&other, 40));
    let refused = if one.is_ok() { other } else { one };
    assert_says(refused, ErrorKind::ConsumerMismatch, &["consumer `disputed`", "ack_wait is", "20s", "40s"]);
}

#[derive(Clone, Debug)]
struct Database;

#[subscriber(subject = "many.drifted", queue = "many-drifted", group = "many")]
async fn many_drifted(_: u64) {}

#[subscriber(subject = "many.stateless", queue = "many-stateless", group = "many")]
async fn many_stateless(_: u64, _: State<Database>) {}

#[subscriber(subject = "many.outside", queue = "many-outside", stream = "SHOP", group = "many")]
async fn many_outside(_: u64) {}

#[subscriber(subject = "*.many", queue = "many-wild", group = "many")]
async fn many_wild(_: u64) {}

#[subscriber(subject = "taken.by.nobody", queue = "many-taken", group = "many")]
async fn many_taken(_: u64) {}

#[subscriber(subject = "fine.thing", queue = "many-fine", group = "many")]
async fn many_fine(_: u64) {}

#[tokio::test]
async fn all_that_is_wrong_is_told_at_once_and_nothing_is_made() {
    let server = Server::start().await;
    let jetstream = server.jetstream().await;
    let many = jetstream.create_stream(on("MANY", &["many.drifted", "many.stateless"])).await.unwrap();
    jetstream.create_stream(on("SHOP", &["shop.>"])).await.unwrap();
    jetstream.create_stream(on("PART", &["taken.by.somebody"])).await.unwrap();
    let config = consumer::Config { ack_wait: Duration::from_secs(60), ..durable("many-drifted", "many.drifted") };
    many.create_consumer(config).await.unwrap();
    let broker = Broker::builder()
        .servers([server.url()])
        .stream(stream::Config { max_messages: 5, ..on("SHOP", &["shop.>"]) })
        .connect()
        .await
        .unwrap();
    let error = broker.start_groups(["many"]).await.unwrap_err();
    assert_told(&error, ErrorKind::Startup, &["6 problems with the handlers"]);
    for (kind, told) in [
        (ErrorKind::StreamMismatch, ["stream `SHOP`", "max_msgs"]),
        (ErrorKind::ConsumerMismatch, ["`provisioning::many_drifted`", "ack_wait"]),
        (ErrorKind::MissingState, ["`provisioning::many_stateless`", "Database"]),
        (ErrorKind::StreamNotFound, ["`provisioning::many_outside`", "`many.outside`"]),
        (ErrorKind::StreamNotFound, ["`provisioning::many_wild`", "`*.many`"]),
        (ErrorKind::StreamOverlap, ["`provisioning::many_taken`", "stream `PART`"]),
    ] {
        let of_kind = |problem: &&Error| problem.kind() == kind && told.iter().all(|t| problem.to_string().contains(t));
        let count = error.problems().iter().filter(of_kind).count();
        assert_eq!(count, 1, "{kind:?} with {told:?} in {error}");
        assert!(told.iter().all(|part| error.to_string().contains(part)), "{error}");
    }
    assert_eq!(error.problems().len(), 6);
    assert_eq!(names(&jetstream).await, set(&["MANY", "PART", "SHOP"]));
    let consumers: Vec<_> = many.consumer_names().try_collect().await.unwrap();
    assert_eq!(consumers, ["many-drifted"]);
    assert!(broker.health().handlers.is_empty());
}

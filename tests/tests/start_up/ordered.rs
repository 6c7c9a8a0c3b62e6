//! Ordered handlers need a stream and a consumer that keep order.

use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _};
use jetstream_handlers::async_nats::jetstream::consumer;
use jetstream_handlers::prelude::*;
use jetstream_handlers::{Deliver, ErrorKind, stream};
use jetstream_handlers_tests::{Recorder, Server, assert_error, binary, connect, publish, stream_config};

use crate::{MAX_DELIVER, consumer_info, durable, names, pins, set, start, work_queue};

/// Returns the consumer of an ordered handler on a server that can pin a client.
fn in_order(name: &str, filter: &str) -> consumer::Config {
    consumer::Config {
        ack_policy: consumer::AckPolicy::All,
        priority_policy: consumer::PriorityPolicy::PinnedClient,
        priority_groups: vec!["ordered".to_owned()],
        priority_timeout: secs(5),
        ..durable(name, filter)
    }
}

#[tokio::test]
async fn consumer_has_cumulative_acks_and_pins_one_client() {
    let server = Server::start().await;
    let (broker, jetstream) = (connect(&server).await, server.jetstream().await);
    let subscribe = |queue| {
        let subscribe = broker.subscribe("orders.created", queue, async |_: Message| {});
        subscribe.ordered().ack_wait(secs(20))
    };
    let _single = subscribe("single").single_instance().await.unwrap();
    let single = consumer_info(&jetstream, "ORDERS", "single").await.config;
    assert_eq!(single.ack_policy, consumer::AckPolicy::All);
    assert_eq!((single.ack_wait, single.max_deliver), (secs(20), MAX_DELIVER));
    assert_eq!(single.max_ack_pending, 1000);
    assert_eq!(single.priority_policy, consumer::PriorityPolicy::None);
    assert_eq!((single.priority_groups, single.priority_timeout), (Vec::new(), Duration::ZERO));
    if pins() {
        subscribe("pinned").await.unwrap().unsubscribe().await.unwrap();
        let pinned = consumer_info(&jetstream, "ORDERS", "pinned").await;
        let config = &pinned.config;
        assert_eq!((config.ack_policy, config.max_ack_pending), (consumer::AckPolicy::All, 1000));
        assert_eq!((config.ack_wait, config.max_deliver), (secs(20), MAX_DELIVER));
        assert_eq!(config.priority_policy, consumer::PriorityPolicy::PinnedClient);
        assert_eq!(config.priority_groups, ["ordered"]);
        assert_eq!(config.priority_timeout, secs(5));
        let _again = subscribe("pinned").await.unwrap();
        let again = consumer_info(&jetstream, "ORDERS", "pinned").await;
        assert_eq!((again.created, again.config), (pinned.created, pinned.config), "unchanged");
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
async fn attribute_creates_the_same_consumer_as_a_closure() {
    let server = Server::start().await;
    let _running = connect(&server).await.start_groups(["in-order"]).await.unwrap();
    let config = consumer_info(&server.jetstream().await, "ORDERS", "declared").await.config;
    assert_eq!((config.ack_policy, config.max_ack_pending), (consumer::AckPolicy::All, 1000));
    assert_eq!(config.priority_policy, consumer::PriorityPolicy::None);
}

#[tokio::test]
async fn unordered_consumer_is_refused() {
    let server = Server::start().await;
    let jetstream = server.jetstream().await;
    let shop = jetstream.create_stream(stream_config("SHOP", &["orders.>"])).await.unwrap();
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
            "another-group",
            |c| c.priority_groups = vec!["first".to_owned()],
            &["priority_groups is [\"first\"] on the server, [\"ordered\"] here", EDIT],
        ),
        (
            "default-timeout",
            |c| c.priority_timeout = Duration::ZERO,
            &["priority_timeout is 120s on the server, 5s here", EDIT],
        ),
    ];
    let single = !pins();
    for (queue, change, parts) in std::iter::once(explicit).chain(pinned.into_iter().filter(|_| pins())) {
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
        let parts: Vec<_> = parts.iter().copied().chain([consumer.as_str(), "nothing was changed"]).collect();
        assert_error(start().await, ErrorKind::ConsumerMismatch, &parts);
        assert_eq!(consumer_info(&jetstream, "SHOP", queue).await.config, before, "{queue}");
        // The suggested fix works.
        if parts.contains(&EDIT) {
            shop.update_consumer(in_order(queue, "orders.created")).await.unwrap();
        } else {
            shop.delete_consumer(queue).await.unwrap();
        }
        let _started = start().await.unwrap();
    }
}

#[tokio::test]
async fn ordered_consumer_is_refused_for_other_handlers() {
    let server = Server::start().await;
    let shop = server.jetstream().await.create_stream(stream_config("SHOP", &["orders.>"])).await.unwrap();
    let all = consumer::Config { ack_policy: consumer::AckPolicy::All, ..durable("single", "orders.created") };
    shop.create_consumer(all).await.unwrap();
    let broker = connect(&server).await;
    let parts = [
        "ack_policy is all on the server, explicit here",
        "give the handler another `queue`",
        "the consumer was made for an `ordered` handler",
    ];
    assert_error(start(&broker, "orders.created", "single").await, ErrorKind::ConsumerMismatch, &parts);
    if pins() {
        shop.create_consumer(in_order("pinned", "orders.created")).await.unwrap();
        let pinned = [
            "priority_policy is pinned_client on the server, none here",
            "priority_groups is [\"ordered\"] on the server, [] here",
        ];
        let parts: Vec<_> = parts.into_iter().chain(pinned).collect();
        assert_error(start(&broker, "orders.created", "pinned").await, ErrorKind::ConsumerMismatch, &parts);
        // A single instance needs no pinning, but the consumer has it.
        let single = broker.subscribe("orders.created", "pinned", async |_: Message| {}).ordered().single_instance();
        assert_error(single.await, ErrorKind::ConsumerMismatch, &[pinned[0], "nats consumer edit SHOP pinned"]);
    }
}

#[tokio::test]
async fn work_queue_is_refused() {
    let server = Server::start().await;
    let stream = work_queue(&server.jetstream().await).await;
    let broker = connect(&server).await;
    let subscribe = broker.subscribe("work.hard", "hard-work", async |_: Message| {}).ordered().single_instance();
    let parts =
        ["`closure on work.hard`: ordered", "stream `WORK` is a work queue", "workqueue", "`concurrency`", "source"];
    assert_error(subscribe.await, ErrorKind::StreamMismatch, &parts);
    let consumers: Vec<_> = stream.consumer_names().try_collect().await.unwrap();
    assert_eq!(consumers, Vec::<String>::new());
    // The server refuses this as well.
    let all = consumer::Config { ack_policy: consumer::AckPolicy::All, ..durable("hard-work", "work.hard") };
    let refusal = stream.create_consumer(all).await.unwrap_err();
    assert!(refusal.to_string().contains("10098"), "{refusal}");
}

#[tokio::test]
async fn stream_that_removes_newer_messages_first_is_refused() {
    let server = Server::start().await;
    let jetstream = server.jetstream().await;
    type Change = fn(&mut stream::Config);
    let changes: [(&str, Change); 4] = [
        ("max_msgs_per_subject", |config| config.max_messages_per_subject = 1),
        ("allow_msg_ttl", |config| config.allow_message_ttl = true),
        ("allow_rollup_hdrs", |config| config.allow_rollup = true),
        ("allow_msg_ttl", |config| {
            (config.allow_message_ttl, config.allow_rollup) = (true, true);
            config.subject_delete_marker_ttl = Some(secs(60));
        }),
    ];
    let broker = connect(&server).await;
    for (field, change) in changes {
        // An older server ignores this setting.
        if field == "allow_msg_ttl" && !pins() {
            continue;
        }
        let mut config = stream_config("SHOP", &["orders.>"]);
        change(&mut config);
        let shop = jetstream.create_stream(config).await.unwrap();
        let ordered = || {
            let subscribe = broker.subscribe("orders.created", "in-order", async |_: Message| {});
            subscribe.ordered().single_instance()
        };
        let field = format!("`{field}`");
        let parts = ["`closure on orders.created`: ordered", "stream `SHOP`", &field, "source", "`concurrency` at 1"];
        assert_error(ordered().await, ErrorKind::StreamMismatch, &parts);
        let consumers: Vec<_> = shop.consumer_names().try_collect().await.unwrap();
        assert_eq!(consumers, Vec::<String>::new());
        // Both suggested fixes work.
        let unordered = start(&broker, "orders.created", "unordered").await.unwrap();
        unordered.unsubscribe().await.unwrap();
        let transform = stream::SubjectTransform { source: "orders.>".into(), destination: "history.>".into() };
        let source = stream::Source { name: "SHOP".into(), subject_transforms: vec![transform], ..Default::default() };
        let history = stream::Config { sources: Some(vec![source]), ..stream_config("HISTORY", &["history.>"]) };
        jetstream.create_stream(history).await.unwrap();
        let subscribe = broker.subscribe("history.created", "in-order", async |_: Message| {});
        let ordered = subscribe.ordered().single_instance().await.unwrap();
        ordered.unsubscribe().await.unwrap();
        for stream in ["HISTORY", "SHOP"] {
            jetstream.delete_stream(stream).await.unwrap();
        }
    }
}

#[tokio::test]
async fn declared_stream_is_refused_before_it_is_created() {
    let shop = stream::Config { max_messages_per_subject: 1, ..stream_config("SHOP", &["orders.>"]) };
    let server = Server::start().await;
    let live = Broker::builder().servers([server.url()]).stream(shop.clone()).connect().await.unwrap();
    for broker in [live, Broker::builder().stream(shop).connect_in_memory()] {
        let subscribe = broker.subscribe("orders.created", "in-order", async |_: Message| {});
        let ordered = subscribe.ordered().single_instance().await;
        assert_error(ordered, ErrorKind::StreamMismatch, &["stream `SHOP`", "`max_msgs_per_subject`"]);
    }
    assert_eq!(names(&server.jetstream().await).await, set(&[]));
}

#[tokio::test]
async fn interest_stream_is_accepted_and_keeps_messages_for_other_queues() {
    let server = Server::start().await;
    let jetstream = server.jetstream().await;
    let config =
        stream::Config { retention: stream::RetentionPolicy::Interest, ..stream_config("SHOP", &["orders.>"]) };
    let shop = jetstream.create_stream(config).await.unwrap();
    // Acknowledged by a plain client, one ack for several messages.
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
    assert_eq!(left().await, 6, "the other queue has received none of them");
    last(&other, 4).await.double_ack().await.unwrap();
    assert_eq!(left().await, 2, "messages that no queue needs are removed");
    last(&other, 2).await.double_ack().await.unwrap();
    assert_eq!(left().await, 0);
    let broker = connect(&server).await;
    let ordered = broker.subscribe("orders.created", "ordered", async |_: Message| {}).ordered().single_instance();
    let _subscription = ordered.await.unwrap();
}

#[tokio::test]
async fn server_without_pinning_is_refused() {
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
    let parts = ["`closure on orders.created`: ordered", &version, "2.11", "newer server", "`single_instance`"];
    assert_error(ordered("orders.created").await, ErrorKind::Config, &parts);
    let parts = ["2 problems", "is a work queue", &version];
    assert_error(ordered("work.hard").await, ErrorKind::Startup, &parts);
    let _single = ordered("orders.created").single_instance().await.unwrap();
}

#[tokio::test]
async fn in_memory_broker_supports_ordered_handlers() {
    let broker = Broker::in_memory();
    for _ in 0..2 {
        let subscribe = broker.subscribe("orders.created", "in-order", async |_: Message| {});
        subscribe.ordered().ack_every(10).await.unwrap().unsubscribe().await.unwrap();
    }
    let parts = ["ack_policy is all on the server, explicit here", "priority_policy is pinned_client"];
    assert_error(start(&broker, "orders.created", "in-order").await, ErrorKind::ConsumerMismatch, &parts);
}

#[tokio::test]
async fn consumer_created_without_pinning_is_refused() {
    if !pins() {
        return;
    }
    let server = Server::start().await;
    let client = server.client().await;
    let mut requests = client.subscribe("old.API.>").await.unwrap();
    client.flush().await.unwrap();
    // Like an old server behind a new one, this removes the settings that it does not know.
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
            let reply = client.request(subject, payload).await.unwrap();
            client.publish(message.reply.unwrap(), reply.payload).await.unwrap();
        }
    });
    let broker = Broker::builder().servers([server.url()]).api_prefix("old.API").connect().await.unwrap();
    let ordered = broker.subscribe("orders.created", "in-order", async |_: Message| {}).ordered();
    let parts = ["`closure on orders.created`: one instance", "made consumer `in-order`", "2.11", "`single_instance`"];
    assert_error(ordered.await, ErrorKind::Config, &parts);
}

#[tokio::test]
async fn ordered_handler_begins_where_it_says() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    let subjects = ["orders.a", "orders.b", "orders.a", "orders.c"];
    for (id, subject) in (1..).zip(subjects) {
        broker.publish(subject, &id).await.unwrap();
    }
    let mut readers = Vec::new();
    for (queue, deliver, expected) in [
        ("new", Deliver::New, vec![5, 6]),
        ("last", Deliver::Last, vec![4, 5, 6]),
        ("last-per-subject", Deliver::LastPerSubject, vec![2, 3, 4, 5, 6]),
        ("from-sequence", Deliver::FromSequence(4), vec![4, 5, 6]),
    ] {
        let calls = Recorder::new();
        let subscribe = broker.subscribe("orders.*", queue, calls.handler()).ordered().single_instance();
        readers.push((subscribe.deliver(deliver).await.unwrap(), calls, queue, expected));
    }
    publish(&broker, "orders.b", [5, 6]).await;
    for (_subscription, calls, queue, expected) in &readers {
        calls.until_len(expected.len()).await;
        server.all_acked("ORDERS", queue).await;
        assert_eq!(calls.items(), *expected, "{queue}");
    }
}

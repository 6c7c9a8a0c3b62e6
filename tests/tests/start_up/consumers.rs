//! Consumers are created as their handlers declare, compared at the next start, and never changed.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::TryStreamExt as _;
use jetstream_handlers::async_nats::jetstream::consumer;
use jetstream_handlers::prelude::*;
use jetstream_handlers::{ErrorKind, Output, stream};
use jetstream_handlers_tests::{Recorder, Server, assert_error, binary, connect, connect_with, stream_config};
use tracing::subscriber::DefaultGuard;

use crate::{MAX_DELIVER, consumer_info, durable, start, work_queue};

#[subscriber(subject = "orders.*", queue = "plain", group = "made")]
async fn plain(_: u64) {}

#[subscriber(
    subject = "orders.created",
    queue = "every-key",
    ack_wait = "45s",
    max_deliver = 9,
    backoff = ["1s", "2s"],
    concurrency = 100,
    group = "made"
)]
async fn with_every_key(_: u64) {}

#[tokio::test]
async fn consumer_has_the_settings_of_its_handler() {
    let server = Server::start().await;
    let _running = connect(&server).await.start_groups(["made"]).await.unwrap();
    let jetstream = server.jetstream().await;
    let plain = consumer_info(&jetstream, "ORDERS", "plain").await.config;
    assert_eq!(plain.durable_name.as_deref(), Some("plain"));
    assert_eq!(plain.filter_subject, "orders.*");
    assert_eq!(plain.ack_policy, consumer::AckPolicy::Explicit);
    assert_eq!(plain.deliver_policy, consumer::DeliverPolicy::All);
    assert_eq!(plain.replay_policy, consumer::ReplayPolicy::Instant);
    assert_eq!((plain.ack_wait, plain.max_deliver), (secs(30), MAX_DELIVER));
    assert_eq!(plain.deliver_subject, None);
    assert!(plain.max_ack_pending >= 1000, "{}", plain.max_ack_pending);
    let every_key = consumer_info(&jetstream, "ORDERS", "every-key").await.config;
    assert_eq!(every_key.filter_subject, "orders.created");
    assert_eq!((every_key.ack_wait, every_key.max_deliver), (secs(45), MAX_DELIVER));
    assert_eq!(every_key.backoff, Vec::<Duration>::new(), "the backoff of the server only applies to missing acks");
    assert!(every_key.max_ack_pending >= plain.max_ack_pending, "{}", every_key.max_ack_pending);
}

#[tokio::test]
async fn existing_consumer_is_kept_unchanged() {
    let server = Server::start().await;
    let jetstream = server.jetstream().await;
    connect(&server).await.start_groups(["made"]).await.unwrap().shutdown().await.unwrap();
    let before = consumer_info(&jetstream, "ORDERS", "every-key").await;
    if binary::version() >= (2, 11, 0) {
        assert!(before.config.metadata.keys().any(|key| key.starts_with("_nats.")), "{:?}", before.config.metadata);
    }
    assert!(before.config.max_waiting > 0, "a default of the server is not a difference");
    let _running = connect(&server).await.start_groups(["made"]).await.unwrap();
    let after = consumer_info(&jetstream, "ORDERS", "every-key").await;
    assert_eq!((before.created, before.config), (after.created, after.config));
}

#[tokio::test]
async fn operator_settings_are_kept() {
    let server = Server::start().await;
    let jetstream = server.jetstream().await;
    let shop = jetstream.create_stream(stream_config("SHOP", &["orders.>"])).await.unwrap();
    let config = consumer::Config {
        description: Some("do not touch".to_owned()),
        metadata: HashMap::from([("team".to_owned(), "shop".to_owned())]),
        max_ack_pending: 50,
        max_waiting: 20,
        max_batch: 10,
        inactive_threshold: secs(86_400),
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
async fn filter_list_with_one_entry_matches() {
    let server = Server::start().await;
    let shop = server.jetstream().await.create_stream(stream_config("SHOP", &["orders.>"])).await.unwrap();
    let config =
        consumer::Config { filter_subjects: vec!["orders.created".to_owned()], ..durable("order-processor", "") };
    shop.create_consumer(config).await.unwrap();
    let broker = connect(&server).await;
    let _subscription = start(&broker, "orders.created", "order-processor").await.unwrap();
}

#[tokio::test]
async fn differing_consumer_is_refused_and_unchanged() {
    let server = Server::start().await;
    let jetstream = server.jetstream().await;
    let shop = jetstream.create_stream(stream_config("SHOP", &["orders.>"])).await.unwrap();
    let broker = connect(&server).await;
    const EDIT: &str = "nats consumer edit SHOP";
    const ANOTHER: &str = "give the handler another `queue`";
    type Change = fn(&mut consumer::Config);
    let cases: [(&str, Change, &[&str]); 10] = [
        ("ack-wait", |c| c.ack_wait = secs(60), &["ack_wait is 60s on the server, 30s here", EDIT]),
        (
            "max-deliver",
            |c| c.max_deliver = 7,
            &["max_deliver is 7 on the server, unlimited, or at least 10000 here", "backstop", EDIT],
        ),
        ("backoff", |c| c.backoff = vec![secs(30), secs(90)], &["backoff is [30s, 90s] on the server, [] here", EDIT]),
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
    for (queue, change, parts) in cases {
        let mut config = durable(queue, "orders.created");
        change(&mut config);
        let before = shop.create_consumer(config).await.unwrap().cached_info().config.clone();
        let result = broker.subscribe("orders.created", queue, async |_: Message| {}).concurrency(4).await;
        let consumer = format!("consumer `{queue}` of stream `SHOP`");
        let rest = ["`closure on orders.created`", &consumer, "nothing was changed"];
        let parts: Vec<_> = parts.iter().copied().chain(rest).collect();
        assert_error(result, ErrorKind::ConsumerMismatch, &parts);
        assert_eq!(consumer_info(&jetstream, "SHOP", queue).await.config, before, "{queue}");
    }
}

#[subscriber(subject = "orders.*", queue = "newest", deliver = "new", group = "newest")]
async fn newest(id: u64, State(calls): State<Recorder>) {
    calls.add(id);
}

#[tokio::test]
async fn deliver_policy_matters_only_at_creation() {
    let server = Server::start().await;
    let jetstream = server.jetstream().await;
    let shop = jetstream.create_stream(stream_config("SHOP", &["orders.>"])).await.unwrap();
    let calls = Recorder::new();
    let broker = connect_with(&server, &calls).await;
    broker.publish("orders.created", &1).await.unwrap();
    let running = broker.start_groups(["newest"]).await.unwrap();
    let created = consumer_info(&jetstream, "SHOP", "newest").await.config;
    assert_eq!(created.deliver_policy, consumer::DeliverPolicy::New);
    broker.publish("orders.created", &2).await.unwrap();
    calls.until_len(1).await;
    assert_eq!(calls.items(), [2], "what was stored before is not delivered");
    running.shutdown().await.unwrap();
    // Consumers that an operator made with another policy are accepted, and keep it.
    let start_time = std::time::SystemTime::UNIX_EPOCH.into();
    for (queue, policy) in [
        ("new", consumer::DeliverPolicy::New),
        ("last", consumer::DeliverPolicy::Last),
        ("last-per-subject", consumer::DeliverPolicy::LastPerSubject),
        ("sequence", consumer::DeliverPolicy::ByStartSequence { start_sequence: 2 }),
        ("time", consumer::DeliverPolicy::ByStartTime { start_time }),
    ] {
        let config = consumer::Config { deliver_policy: policy, ..durable(queue, "orders.created") };
        shop.create_consumer(config).await.unwrap();
        let _default = start(&broker, "orders.created", queue).await.unwrap();
        assert_eq!(consumer_info(&jetstream, "SHOP", queue).await.config.deliver_policy, policy);
    }
}

#[subscriber(subject = "orders.created", queue = "drifted", ack_wait = "20s", max_deliver = 3, group = "drifted")]
async fn drifted(_: u64) {}

#[tokio::test]
async fn all_differences_are_reported_together() {
    let server = Server::start().await;
    let shop = server.jetstream().await.create_stream(stream_config("SHOP", &["orders.>"])).await.unwrap();
    let config = consumer::Config {
        ack_wait: secs(60),
        max_deliver: 7,
        headers_only: true,
        ..durable("drifted", "orders.created")
    };
    shop.create_consumer(config).await.unwrap();
    let parts = [
        "`start_up::consumers::drifted`",
        "ack_wait is 60s on the server, 20s here",
        "max_deliver is 7 on the server, unlimited, or at least 10000 here",
        "headers_only is true on the server, false here",
    ];
    assert_error(connect(&server).await.start_groups(["drifted"]).await, ErrorKind::ConsumerMismatch, &parts);
}

#[tokio::test]
async fn suggested_fixes_work() {
    let server = Server::start().await;
    let shop = server.jetstream().await.create_stream(stream_config("SHOP", &["orders.>"])).await.unwrap();
    let config = consumer::Config { ack_wait: secs(60), ..durable("order-processor", "orders.created") };
    shop.create_consumer(config.clone()).await.unwrap();
    let broker = connect(&server).await;
    assert_error(start(&broker, "orders.created", "order-processor").await, ErrorKind::ConsumerMismatch, &[]);
    let subscribe = || broker.subscribe("orders.created", "order-processor", async |_: Message| {});
    let in_line = subscribe().ack_wait(secs(60)).await.unwrap();
    in_line.unsubscribe().await.unwrap();
    shop.update_consumer(consumer::Config { ack_wait: secs(30), ..config }).await.unwrap();
    let _edited = subscribe().await.unwrap();
}

#[tokio::test]
async fn push_and_priority_consumers_are_refused() {
    let server = Server::start().await;
    let jetstream = server.jetstream().await;
    let shop = jetstream.create_stream(stream_config("SHOP", &["orders.>"])).await.unwrap();
    let config = consumer::Config {
        deliver_subject: Some("push.here".to_owned()),
        ..durable("order-processor", "orders.created")
    };
    let before = shop.create_consumer(config).await.unwrap().cached_info().config.clone();
    let parts = ["deliver_subject is push.here (push) on the server, none (pull) here", "nats consumer rm SHOP"];
    let broker = connect(&server).await;
    let result = start(&broker, "orders.created", "order-processor").await;
    assert_error(result, ErrorKind::ConsumerMismatch, &parts);
    assert_eq!(consumer_info(&jetstream, "SHOP", "order-processor").await.config, before);
    if binary::version() >= (2, 11, 0) {
        let config = consumer::Config {
            priority_groups: vec!["first".to_owned()],
            priority_policy: consumer::PriorityPolicy::Overflow,
            ..durable("prioritised", "orders.created")
        };
        shop.create_consumer(config).await.unwrap();
        let parts = ["priority_policy is overflow", "priority_groups is [\"first\"] on the server, [] here"];
        assert_error(start(&broker, "orders.created", "prioritised").await, ErrorKind::ConsumerMismatch, &parts);
    }
}

#[subscriber(subject = "work.*", queue = "all-work", stream = "WORK", group = "work")]
async fn all_work(_: u64) {}

#[subscriber(subject = "work.hard", queue = "hard-work", stream = "WORK", group = "work")]
async fn hard_work(_: u64) {}

#[subscriber(subject = "work.easy", queue = "easy-work", stream = "WORK", group = "easy-work")]
async fn easy_work(_: u64) {}

#[tokio::test]
async fn overlapping_handlers_on_a_work_queue_are_refused() {
    let server = Server::start().await;
    let jetstream = server.jetstream().await;
    let stream = work_queue(&jetstream).await;
    let parts = [
        "`start_up::consumers::all_work`",
        "stream `WORK` is a work queue",
        "`work.*` of consumer `all-work`",
        "`work.hard` of consumer `hard-work`",
        "limits retention",
    ];
    assert_error(connect(&server).await.start_groups(["work"]).await, ErrorKind::StreamOverlap, &parts);
    let consumers: Vec<_> = stream.consumer_names().try_collect().await.unwrap();
    assert_eq!(consumers, Vec::<String>::new());
}

#[tokio::test]
async fn overlapping_consumer_on_a_work_queue_is_named() {
    let server = Server::start().await;
    let jetstream = server.jetstream().await;
    let stream = work_queue(&jetstream).await;
    let foreign = consumer::Config {
        filter_subjects: vec!["work.odd".to_owned(), "work.easy".to_owned()],
        ..durable("foreign", "")
    };
    stream.create_consumer(foreign).await.unwrap();
    let broker = connect(&server).await;
    let parts = ["`start_up::consumers::easy_work`", "stream `WORK`", "`work.easy` of consumer `foreign`"];
    assert_error(broker.start_groups(["easy-work"]).await, ErrorKind::StreamOverlap, &parts);
    // Disjoint subjects are accepted, and so is the consumer of an earlier start.
    let hard = broker.include::<hard_work>();
    hard.start_all().await.unwrap().shutdown().await.unwrap();
    let _again = hard.start_all().await.unwrap();
}

#[subscriber(subject = "work.retried", queue = "retried", backoff = ["100ms", "300ms"])]
async fn retried(id: u64, State(calls): State<Recorder>) -> HandlerResult {
    match calls.attempt(id) {
        1..=3 => Err("not yet".into()),
        _ => Ok(()),
    }
}

#[tokio::test]
async fn consumer_created_by_a_plain_client_is_used() {
    let server = Server::start().await;
    let jetstream = server.jetstream().await;
    let config = jetstream_handlers::stream::Config {
        name: "WORK".into(),
        subjects: vec!["work.>".into()],
        ..Default::default()
    };
    let stream = jetstream.create_stream(config).await.unwrap();
    let config = consumer::pull::Config {
        durable_name: Some("retried".into()),
        filter_subject: "work.retried".into(),
        metadata: [("team".to_owned(), "orders".to_owned())].into(),
        ..Default::default()
    };
    stream.create_consumer(config).await.unwrap();
    let calls = Recorder::new();
    let broker = connect_with(&server, &calls).await;
    let running = broker.include::<retried>().start_all().await.unwrap();
    broker.publish("work.retried", &1).await.unwrap();
    calls.until_times(1, 4).await;
    running.shutdown().await.unwrap();
}

/// A writer that collects the lines of the log.
#[derive(Debug, Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

impl Lines {
    /// Collects what this thread logs, until the guard is dropped.
    fn collect() -> (Self, DefaultGuard) {
        let lines = Self::default();
        let writer = lines.clone();
        let log = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        (lines, tracing::subscriber::set_default(log))
    }

    /// Asserts that one line contains all parts.
    #[track_caller]
    fn assert_line(&self, parts: &[&str]) {
        let lines = self.0.lock().unwrap();
        assert!(lines.iter().any(|line| parts.iter().all(|part| line.contains(part))), "{parts:?} in {lines:#?}");
    }
}

impl io::Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().push(String::from_utf8_lossy(line).into_owned());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn short_duplicate_window_of_outputs_is_logged() {
    let server = Server::start().await;
    server.jetstream().await.create_stream(stream_config("CONFIRMED", &["confirmed.>"])).await.unwrap();
    let broker = connect(&server).await;
    let start = async |queue: &str, max_deliver: u32| {
        let (lines, _guard) = Lines::collect();
        let confirm = |order: u64| async move { Ok(Output::new(&order)) };
        let subscribe = broker.subscribe("orders.created", queue, confirm).max_deliver(max_deliver);
        subscribe.publish("confirmed.orders").await.map(drop).unwrap();
        lines
    };
    let command = "nats stream edit CONFIRMED --dupe-window=218s";
    start("five", 5).await.assert_line(&["closure on orders.created", "CONFIRMED", "for 120s", "218 s", command]);
    let lines = start("two", 2).await;
    assert!(!lines.0.lock().unwrap().iter().any(|line| line.contains("dupe-window")), "{lines:?}");
}

#[tokio::test]
async fn consumers_in_other_forms_are_restored() {
    let server = Server::start().await;
    let jetstream = server.jetstream().await;
    let shop = jetstream.create_stream(stream_config("SHOP", &["orders.>"])).await.unwrap();
    let broker = connect(&server).await;
    type Form = fn(&mut consumer::Config);
    let forms: [(&str, Form); 3] = [
        ("named", |it| it.name = it.durable_name.take()),
        ("both-names", |it| it.name.clone_from(&it.durable_name)),
        ("one-of-filters", |it| it.filter_subjects = vec![std::mem::take(&mut it.filter_subject)]),
    ];
    for (queue, form) in forms {
        let mut config = consumer::Config { inactive_threshold: secs(60), ..durable(queue, "orders.created") };
        form(&mut config);
        let created = shop.create_consumer(config).await.unwrap().cached_info().config.clone();
        let calls = Recorder::new();
        let subscription = broker.subscribe("orders.created", queue, calls.handler()).await.unwrap();
        broker.publish("orders.created", &1).await.unwrap();
        calls.until(1).await;
        shop.delete_consumer(queue).await.unwrap();
        broker.publish("orders.created", &2).await.unwrap();
        calls.until(2).await;
        let restored = consumer_info(&jetstream, "SHOP", queue).await.config;
        assert_eq!((&restored.durable_name, &restored.name), (&created.durable_name, &created.name), "{queue}");
        subscription.unsubscribe().await.unwrap();
        jetstream.get_stream("SHOP").await.unwrap().purge().await.unwrap();
    }
}

#[tokio::test]
async fn consumer_that_the_server_will_delete_is_logged_at_every_start() {
    let server = Server::start().await;
    let jetstream = server.jetstream().await;
    let limits = stream::ConsumerLimits { inactive_threshold: secs(3600), ..Default::default() };
    let config = stream::Config { consumer_limits: Some(limits), ..stream_config("SHOP", &["orders.>"]) };
    let shop = jetstream.create_stream(config.clone()).await.unwrap();
    let named =
        consumer::Config { durable_name: None, name: Some("named".to_owned()), ..durable("", "orders.created") };
    shop.create_consumer(named).await.unwrap();
    let broker = connect(&server).await;
    let deleted = "the server deletes the consumer";
    for queue in ["limited", "limited", "named"] {
        let (lines, _guard) = Lines::collect();
        let subscription = start(&broker, "orders.created", queue).await.unwrap();
        let fix = ["3600s after", "`consumer_limits.inactive_threshold`, raise first that", "set `inactive_threshold`"];
        lines.assert_line(&[&[" WARN ", deleted, &*format!("consumer=\"{queue}\"")][..], &fix].concat());
        subscription.unsubscribe().await.unwrap();
    }
    // Both ways that the log names; servers before 2.14 change no limit of a stream while it has consumers with one.
    if binary::version() < (2, 14, 0) {
        return;
    }
    let longest = secs(30 * 24 * 3600);
    let limits = stream::ConsumerLimits { inactive_threshold: longest, ..Default::default() };
    jetstream.update_stream(stream::Config { consumer_limits: Some(limits), ..config }).await.unwrap();
    server.change_consumer("SHOP", "limited", |it| it.inactive_threshold = longest).await;
    let unlimited = jetstream.create_stream(stream_config("OTHER", &["other.>"])).await.unwrap();
    let config = consumer::Config { inactive_threshold: secs(60), ..durable("own", "other.created") };
    unlimited.create_consumer(config).await.unwrap();
    server.change_consumer("OTHER", "own", |it| it.inactive_threshold = Duration::ZERO).await;
    let (lines, _guard) = Lines::collect();
    let _limited = start(&broker, "orders.created", "limited").await.unwrap();
    let _own = start(&broker, "other.created", "own").await.unwrap();
    let lines = lines.0.lock().unwrap();
    assert!(!lines.iter().any(|line| line.contains(deleted)), "{lines:#?}");
}

#[tokio::test]
async fn paused_consumer_and_few_requests_are_logged() {
    if binary::version() < (2, 11, 0) {
        return;
    }
    let server = Server::start().await;
    let jetstream = server.jetstream().await;
    let shop = jetstream.create_stream(stream_config("SHOP", &["orders.>"])).await.unwrap();
    let until = std::time::SystemTime::now() + secs(3600);
    let config = consumer::Config {
        pause_until: Some(until.into()),
        max_waiting: 1,
        ..durable("order-processor", "orders.created")
    };
    shop.create_consumer(config).await.unwrap();
    let broker = connect(&server).await;
    let (lines, guard) = Lines::collect();
    let subscription = start(&broker, "orders.created", "order-processor").await.unwrap();
    let until = consumer_info(&jetstream, "SHOP", "order-processor").await.config.pause_until.unwrap();
    let year = until.year().to_string();
    lines.assert_line(&[" WARN ", "is paused until", &year, "nats consumer resume SHOP order-processor"]);
    lines.assert_line(&[" WARN ", "at most 1 pull requests at a time (`max_waiting`)"]);
    subscription.unsubscribe().await.unwrap();
    drop(guard);
    // A pause that is over, and the default of the server, are not worth a line.
    shop.resume_consumer("order-processor").await.unwrap();
    let (lines, _guard) = Lines::collect();
    let _resumed = start(&broker, "orders.created", "order-processor").await.unwrap();
    let _other = start(&broker, "orders.created", "other").await.unwrap();
    let lines = lines.0.lock().unwrap();
    assert!(
        !lines
            .iter()
            .any(|line| line.contains("paused") || line.contains("consumer=\"other\"") && line.contains("WARN")),
        "{lines:#?}"
    );
}

//! Metrics: what a scrape shows under load on a real server is what happened.

#![allow(clippy::unwrap_used, reason = "tests may panic")]

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::time::Duration;

use jetstream_handlers::metrics::{BUCKETS, FAMILIES, Kind, PREFIX};
use jetstream_handlers::prelude::*;
use jetstream_handlers_tests::{SOON, Server, connect, eventually, ms, users, worker};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

/// Returns the recorder of this process, which all of its tests share.
fn prometheus() -> &'static PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    HANDLE.get_or_init(|| {
        let builder = PrometheusBuilder::new().set_buckets_for_metric(Matcher::Prefix(PREFIX.to_owned()), &BUCKETS);
        builder.unwrap().install_recorder().unwrap()
    })
}

/// Each panic prints a backtrace, which takes long on a loaded machine.
const LONG: Duration = Duration::from_secs(120);

/// The gauges are read from the server every 15 s.
const SLOW: Duration = Duration::from_secs(40);

/// A scrape: the value of each series, by its name and its labels in alphabetical order.
struct Scrape {
    text: String,
    series: BTreeMap<(String, BTreeMap<String, String>), f64>,
}

impl Scrape {
    fn take() -> Self {
        let text = prometheus().render();
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        let series = lines.map(|line| {
            let (key, value) = line.rsplit_once(' ').unwrap();
            let (name, labels) = key.split_once('{').unwrap_or((key, "}"));
            let labels = labels.trim_end_matches('}').split("\",").filter(|label| !label.is_empty());
            let labels = labels.map(|label| {
                let (name, value) = label.split_once("=\"").unwrap();
                (name.to_owned(), value.trim_end_matches('"').to_owned())
            });
            ((name.to_owned(), labels.collect()), value.parse().unwrap())
        });
        Self { series: series.collect(), text }
    }

    /// Returns the sum of all series of a name with these labels; `None` if the name has none.
    fn find(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let has = |all: &BTreeMap<String, String>, (name, value): &(&str, &str)| {
            all.get(*name).is_some_and(|own| own == value)
        };
        let of_name = self.series.iter().filter(|((own, all), _)| {
            own.strip_prefix(PREFIX) == Some(name) && labels.iter().all(|label| has(all, label))
        });
        of_name.map(|(_, value)| *value).reduce(|sum, value| sum + value)
    }

    #[track_caller]
    fn get(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.find(name, labels).unwrap_or_else(|| panic!("no `{name}` with {labels:?} in:\n{}", self.text))
    }
}

#[derive(Debug, Serialize, Deserialize, Event)]
#[event(subject = "metered.orders.{region}.created")]
struct Metered {
    id: u64,
    region: String,
}

#[subscriber(subject = "metered.orders.*.created", queue = "load", concurrency = 8, max_deliver = 3, backoff = ["50ms"], timeout = "4s")]
async fn load(order: Metered, info: Info) -> HandlerResult {
    tokio::time::sleep(ms(2)).await;
    match order.id % 100 {
        // Fails once.
        10 if info.delivered() == 1 => Err("not yet".into()),
        // Fails always.
        20 => Err("never".into()),
        30 => Err(HandlerError::terminate("blocked")),
        40 if info.delivered() == 1 => panic!("a bug"),
        50 if info.delivered() == 1 => std::future::pending().await,
        _ => Ok(()),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_family_shows_what_happened() {
    prometheus();
    let server = Server::start().await;
    let broker = Broker::builder().servers([server.url()]).connect().await.unwrap();
    let running = broker.include::<load>().start_all().await.unwrap();
    let messages = (0..1000).map(|id| {
        let region = if id % 2 == 0 { "eu" } else { "us" };
        broker.send(&Metered { id, region: region.to_owned() })
    });
    let mut results = broker.publisher().publish_all(messages);
    while let Some(result) = results.next().await {
        result.unwrap();
    }
    let bad = broker.publisher().publish_bytes("metered.orders.eu.created", "no order").message_id("bad");
    bad.await.unwrap();
    let again = broker.publisher().publish_bytes("metered.orders.eu.created", "no order").message_id("bad");
    assert!(again.await.unwrap().duplicate);
    broker.publish_message("metered.orders.eu.created", &1).expect_last_sequence(1).await.unwrap_err();

    let of_load = [("consumer", "load"), ("stream", "METERED")];
    let with = |name, value| [of_load[0], of_load[1], (name, value)];
    // 10 orders of each kind fail once, always, are terminated, panic once, and exceed the timeout once.
    let expected = [
        ("messages_settled_total", with("outcome", "ack"), 980.0),
        ("messages_settled_total", with("outcome", "retry"), 50.0),
        ("messages_settled_total", with("outcome", "dead_letter"), 21.0),
        ("messages_settled_total", with("outcome", "terminated"), 0.0),
        ("attempts_failed_total", with("reason", "error"), 50.0),
        ("attempts_failed_total", with("reason", "panic"), 10.0),
        ("attempts_failed_total", with("reason", "timeout"), 10.0),
        ("attempts_failed_total", with("reason", "undecodable"), 1.0),
        ("dead_letters_total", with("reason", "error"), 20.0),
        ("dead_letters_total", with("reason", "undecodable"), 1.0),
        ("handler_duration_seconds_count", with("outcome", "ack"), 980.0),
        ("handler_duration_seconds_count", with("outcome", "error"), 71.0),
    ];
    eventually("each message has ended", LONG, async || {
        let scrape = Scrape::take();
        let ended = |outcome| scrape.find("messages_settled_total", &with("outcome", outcome)).unwrap_or_default();
        (ended("ack") + ended("dead_letter") >= 1001.0).then_some(())
    })
    .await;
    let scrape = Scrape::take();
    for (name, labels, value) in &expected {
        assert_eq!(scrape.get(name, labels), *value, "{name} {labels:?}");
    }
    assert_eq!(scrape.get("messages_received_total", &of_load), 1051.0);
    assert_eq!(scrape.get("redelivered_total", &of_load), 50.0);
    assert_eq!(scrape.get("queue_seconds_count", &of_load), 1001.0, "a redelivery waits for its backoff");
    assert_eq!(scrape.get("buffered_seconds_count", &of_load), 1051.0);
    assert!(scrape.get("handler_duration_seconds_sum", &with("outcome", "error")) >= 40.0, "ten timeouts of 4 s");
    assert_eq!(scrape.get("concurrency", &of_load), 8.0);
    assert_eq!(scrape.get("consumer_max_ack_pending", &of_load), 10_000.0);

    assert_eq!(scrape.get("publish_total", &[("subject", "dlq.>"), ("outcome", "stored")]), 21.0);
    let published = [("subject", "metered.orders.{region}.created")];
    let outcome = |outcome| [published[0], ("outcome", outcome)];
    assert_eq!(scrape.get("publish_total", &outcome("stored")), 1001.0);
    assert_eq!(scrape.get("publish_total", &outcome("duplicate")), 1.0);
    assert_eq!(scrape.get("publish_total", &outcome("refused")), 1.0);
    assert_eq!(scrape.get("publish_duration_seconds_count", &published), 1003.0);

    eventually("the gauges are read from the server", SOON, async || {
        let scrape = Scrape::take();
        let is = |name: &str, value| scrape.find(name, &of_load) == Some(value);
        let gauges = is("dead_letters_stored", 21.0) && is("consumer_pending", 0.0) && is("consumer_ack_pending", 0.0);
        (gauges && is("in_flight", 0.0) && is("buffered", 0.0) && is("oldest_unsettled_seconds", 0.0)).then_some(())
    })
    .await;
    let partitioned = broker.subscribe("metered.{partition}.divided", "divided", async |_: u64| {}).ordered();
    let partitioned = partitioned.partitions(2).await.unwrap();
    broker.publish("metered.1.divided", &1).await.unwrap();
    eventually("the process is the owner of one partition", SOON, async || {
        let of = |consumer| Scrape::take().find("partition_active", &[("consumer", consumer)]);
        (of("divided-0") == Some(0.0) && of("divided-1") == Some(1.0)).then_some(())
    })
    .await;
    let scrape = Scrape::take();
    assert!(scrape.get("consumer_waiting", &of_load) >= 1.0, "an open pull request");
    assert_eq!(scrape.get("consumer_redelivered", &of_load), 0.0);
    assert_eq!(scrape.get("handler_up", &with("state", "running")), 1.0);
    assert_eq!(scrape.get("handler_up", &of_load), 1.0, "it has one state");
    assert_eq!(scrape.get("connected", &[("broker", "")]), 1.0);
    assert_eq!(scrape.get("reconnects_total", &[("broker", "")]), 0.0);
    assert_eq!(scrape.get("poll_errors_total", &of_load), 0.0);
    assert_complete(&scrape);
    partitioned.unsubscribe().await.unwrap();
    running.shutdown().await.unwrap();
    eventually("the handler is reported to have stopped", SOON, async || {
        (Scrape::take().find("handler_up", &with("state", "stopped")) == Some(1.0)).then_some(())
    })
    .await;
    broker.disconnect().await.unwrap();
}

/// Asserts that every family is shown and described, has the labels that are declared, and that no other has the prefix.
#[track_caller]
fn assert_complete(scrape: &Scrape) {
    for family in FAMILIES {
        let kind = match family.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
            _ => unreachable!(),
        };
        for line in [format!("# TYPE {} {kind}", family.name), format!("# HELP {} {}", family.name, family.description)]
        {
            assert!(scrape.text.lines().any(|own| own == line), "no `{line}` in:\n{}", scrape.text);
        }
        let shown =
            if family.kind == Kind::Histogram { format!("{}_count", family.name) } else { family.name.to_owned() };
        let series: Vec<_> = scrape.series.keys().filter(|(name, _)| *name == shown).collect();
        assert!(!series.is_empty(), "{shown}");
        for (_, labels) in series {
            let mut declared = family.labels.to_vec();
            declared.sort_unstable();
            assert_eq!(labels.keys().map(String::as_str).collect::<Vec<_>>(), declared, "{shown}");
        }
    }
    for (name, _) in scrape.series.keys().filter(|(name, _)| name.starts_with(PREFIX)) {
        let family = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
        assert!(FAMILIES.iter().any(|known| known.name == family || known.name == name), "{name} is not declared");
    }
}

/// The number of messages that `slow` may still handle.
static PERMITS: Semaphore = Semaphore::const_new(0);

#[subscriber(subject = "metered.slow", queue = "slow", concurrency = 2)]
async fn slow(_id: u64, shutdown: Shutdown) -> HandlerResult {
    tokio::select! {
        permit = PERMITS.acquire() => permit?.forget(),
        () = shutdown.requested() => return Err(HandlerError::hand_back("stopping")),
    }
    Ok(())
}

/// Without the right to ask about the consumer, the lag is that of the deliveries.
#[tokio::test]
async fn lag_needs_no_permission() {
    prometheus();
    let all = r#"publish: ">", subscribe: ">""#;
    let mut server = Server::builder().config(&users(all)).user("admin", "secret").start().await;
    let admin = connect(&server).await;
    for id in 0..200_u64 {
        admin.publish("metered.slow", &id).await.unwrap();
    }
    let worker = worker(&server).connect().await.unwrap();
    let running = worker.include::<slow>().start_all().await.unwrap();
    let none = r#"publish: { deny: ["$JS.API.CONSUMER.INFO.>", "$JS.API.STREAM.>"] }, subscribe: ">""#;
    server.reload(&users(none));
    let of_slow = [("consumer", "slow")];
    let before = eventually("the requests for gauges are counted as refused", SLOW, async || {
        let scrape = Scrape::take();
        let refused = |target| scrape.find("poll_errors_total", &[of_slow[0], ("target", target)]);
        let is_refused = refused("consumer")? >= 1.0 && refused("dead_letters")? >= 1.0;
        (is_refused && scrape.find("in_flight", &of_slow) == Some(2.0)).then_some(())?;
        scrape.find("consumer_pending", &of_slow)
    })
    .await;
    assert!((100.0..200.0).contains(&before), "{before} messages are not delivered");
    assert!(Scrape::take().get("oldest_unsettled_seconds", &of_slow) > 0.0);
    PERMITS.add_permits(100);
    eventually("the lag is less", SOON, async || {
        Scrape::take().find("consumer_pending", &of_slow).filter(|lag| *lag < before - 50.0)
    })
    .await;
    running.shutdown().await.unwrap();
    eventually("what was not handled is handed back", SOON, async || {
        let handed_back = Scrape::take().find("messages_settled_total", &[of_slow[0], ("outcome", "handed_back")]);
        (handed_back > Some(2.0)).then_some(())
    })
    .await;
}

/// The number of connections is that of the client.
#[tokio::test]
async fn lost_connection_is_shown() {
    prometheus();
    let mut server = Server::start().await;
    let broker = Broker::builder().name("lost").servers([server.url()]).connect().await.unwrap();
    let subscription = broker.subscribe("metered.lost", "lost", async |_id: u64| {}).await.unwrap();
    let of_broker = [("broker", "lost")];
    let is = async |what, name: &'static str, value: f64| {
        let poll = async || (Scrape::take().find(name, &of_broker) == Some(value)).then_some(());
        eventually(what, SOON, poll).await;
    };
    is("it is connected", "connected", 1.0).await;
    server.kill();
    is("it is not connected", "connected", 0.0).await;
    let state = [("consumer", "lost"), ("state", "recovering")];
    eventually("the handler recovers", SOON, async || {
        (Scrape::take().find("handler_up", &state) == Some(1.0)).then_some(())
    })
    .await;
    server.restart().await;
    is("it is connected again", "connected", 1.0).await;
    is("it has reconnected", "reconnects_total", 1.0).await;
    drop(subscription);
    broker.disconnect().await.unwrap();
}

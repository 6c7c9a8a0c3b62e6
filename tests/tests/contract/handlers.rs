//! The handlers of a broker as data and in the log.

use std::io::Write;
use std::sync::{Arc, Mutex};

use jetstream_handlers::prelude::*;
use jetstream_handlers::{HandlerInfo, HandlerState};

use crate::{Transport, accept, record_on};
use jetstream_handlers_tests::{SOON, eventually};

contract![
    handlers_are_listed_with_their_state,
    start_is_logged_once_for_each_handler,
    filter_of_many_subjects_is_logged_once,
];

async fn connect(transport: &Transport) -> Broker {
    match transport {
        Transport::Memory => Broker::builder().subject_prefix("staging").connect_in_memory(),
        Transport::Live(server) => {
            Broker::builder().subject_prefix("staging").servers([server.url()]).connect().await.unwrap()
        }
    }
}

fn named<'a>(handlers: &'a [HandlerInfo], name: &str) -> &'a HandlerInfo {
    handlers.iter().find(|it| it.name == name).unwrap_or_else(|| panic!("no {name} among {} handlers", handlers.len()))
}

async fn handlers_are_listed_with_their_state(transport: &Transport) {
    let broker = connect(transport).await;
    let before = broker.handlers();
    assert!(before.is_sorted_by_key(|it| &it.name));
    let linked = named(&before, "contract::accept");
    assert_eq!((linked.state, linked.stream.as_deref()), (HandlerState::NotStarted, None));
    assert_eq!(linked.subjects, ["staging.orders.created"]);
    let of_eu = named(&before, "contract::brokers::eu");
    assert_eq!((of_eu.state, of_eu.broker.as_deref()), (HandlerState::OtherBroker, Some("eu")));
    assert_eq!((of_eu.group.as_deref(), &*of_eu.subjects), (Some("mirror"), &["mirrored.orders".to_owned()][..]));

    let running = broker.include::<accept>().start_all().await.unwrap();
    let (subscription, _) = record_on(&broker, "closure", "orders.created").await;
    let during = broker.handlers();
    assert_eq!(during.len(), before.len() + 1);
    let started = named(&during, "contract::accept");
    assert_eq!((started.state, started.stream.as_deref()), (HandlerState::Running, Some("STAGING_ORDERS")));
    assert_eq!((&*started.queue, started.concurrency, started.max_deliver), ("accept", 1, 5));
    assert_eq!(started.dead_letter.as_deref(), Some("staging.dlq.STAGING_ORDERS.accept"));
    assert!(started.location.contains("contract/main.rs:"), "{}", started.location);
    let closure = named(&during, "closure on orders.created");
    assert_eq!((closure.state, &*closure.queue), (HandlerState::Running, "closure"));
    assert_eq!(named(&during, "contract::all").state, HandlerState::NotStarted);

    running.shutdown().await.unwrap();
    subscription.unsubscribe().await.unwrap();
    assert!(broker.handlers() == before, "the stopped handlers are not started again");
}

/// The lines of the log.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Lines {
    fn take(&self) -> Vec<String> {
        let bytes = std::mem::take(&mut *self.0.lock().unwrap());
        let text = String::from_utf8(bytes).unwrap();
        let of_start = |line: &&str| line.contains("jetstream_handlers::broker");
        text.lines().filter(of_start).map(str::to_owned).collect()
    }
}

async fn start_is_logged_once_for_each_handler(transport: &Transport) {
    let lines = Lines::default();
    let writer = lines.clone();
    let log = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    let _guard = tracing::subscriber::set_default(log);
    let broker = connect(transport).await;
    let running = broker.include::<accept>().start_all().await.unwrap();
    let first = lines.take();
    let [handler, summary] = &*first else { panic!("{first:#?}") };
    let fields = r#"handler="contract::accept" subject=staging.orders.created stream="STAGING_ORDERS" queue="accept" concurrency=1"#;
    assert!(handler.contains(" INFO ") && handler.contains(fields), "{handler}");
    assert!(handler.contains("started a handler: stream created, consumer created"), "{handler}");
    assert!(summary.contains("handlers=1") && summary.contains("server="), "{summary}");
    assert!(summary.contains("the handlers are started, without [") && summary.contains("contract::all"), "{summary}");
    running.shutdown().await.unwrap();

    let running = broker.start_all().await.unwrap();
    let again = lines.take();
    assert!(again[0].contains("started a handler: stream found, consumer found"), "{again:#?}");
    // A closure is one handler, which needs no summary.
    let (subscription, _) = record_on(&broker, "closure", "orders.created").await;
    let closure = lines.take();
    assert_eq!(closure.len(), 1, "{closure:#?}");
    assert!(closure[0].contains("started a handler: stream found, consumer created"), "{closure:#?}");
    subscription.unsubscribe().await.unwrap();
    running.shutdown().await.unwrap();
}

async fn filter_of_many_subjects_is_logged_once(transport: &Transport) {
    let lines = Lines::default();
    let writer = lines.clone();
    let log = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    let _guard = tracing::subscriber::set_default(log);
    let broker = connect(transport).await;
    let subjects = (0..301).map(|key| format!("keyed.eu.{key}")).chain(["keyed.us.1".to_owned()]);
    let messages: Vec<_> = subjects.map(|subject| broker.publish_message(&subject, &crate::order(1))).collect();
    let mut stored = broker.publisher().publish_all(messages);
    while let Some(stored) = stored.next().await {
        stored.unwrap();
    }
    let mut subscriptions = Vec::new();
    // One subject, all subjects of the stream, few of many subjects, and all but one.
    for (queue, subject) in [("one", "keyed.eu.1"), ("all", "keyed.>"), ("few", "keyed.us.*"), ("many", "keyed.eu.*")] {
        subscriptions.push(record_on(&broker, queue, subject).await.0);
    }
    let mut warned = Vec::new();
    eventually("a warning about a filter", SOON, || {
        warned.extend(lines.take().into_iter().filter(|line| line.contains(" WARN ")));
        std::future::ready((!warned.is_empty()).then_some(()))
    })
    .await;
    for subscription in subscriptions {
        subscription.unsubscribe().await.unwrap();
    }
    warned.extend(lines.take().into_iter().filter(|line| line.contains(" WARN ")));
    let [warning] = &*warned else { panic!("{warned:#?}") };
    for part in [
        "the filter `staging.keyed.eu.*` matches 301 subjects of stream `STAGING_KEYED`",
        "consume literal subjects",
        r#"handler="closure on keyed.eu.*""#,
    ] {
        assert!(warning.contains(part), "{part} in {warning}");
    }
}

//! Messages with a time to live, and delete markers.

use jetstream_handlers::prelude::*;
use jetstream_handlers::testing::TestBroker;
use jetstream_handlers::{ErrorKind, stream};
use jetstream_handlers_tests::{Recorder, SOON, binary, eventually};

use crate::{Order, Transport, accept, all, order, orders};

contract![
    time_to_live_out_of_range_is_refused,
    delete_marker_is_acked_without_a_call,
    message_with_a_ttl_leaves_a_delete_marker,
    replayed_delete_marker_remains_one,
];

async fn time_to_live_out_of_range_is_refused(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<all>()).await;
    for ttl in [std::time::Duration::ZERO, std::time::Duration::MAX] {
        let error = broker.broker().publish_message("orders.created", &1).ttl(ttl).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{error}");
        assert!(error.to_string().contains("36500 days"), "{error}");
    }
}

async fn delete_marker_is_acked_without_a_call(transport: &Transport) {
    if matches!(transport, Transport::Live(_)) && binary::version() < (2, 11, 0) {
        return;
    }
    let config = stream::Config {
        allow_message_ttl: true,
        max_age: secs(1),
        subject_delete_marker_ttl: Some(secs(60)),
        // The server requires it for delete markers.
        allow_rollup: true,
        ..orders()
    };
    let broker =
        transport.start(TestBroker::builder().stream(config).include::<accept>().include::<with_tenant>()).await;
    let (raw, optional) = (Recorder::<Option<String>>::default(), Recorder::<Option<u64>>::default());
    let recorder = raw.clone();
    let handler = move |message: Message| {
        recorder.add(message.header("Nats-Marker-Reason").map(str::to_owned));
        std::future::ready(())
    };
    let _raw = broker.broker().subscribe("orders.created", "raw", handler).await.unwrap();
    let recorder = optional.clone();
    let handler = move |order: Option<Order>| {
        recorder.add(order.map(|order| order.id));
        std::future::ready(())
    };
    let _optional = broker.broker().subscribe("orders.created", "optional", handler).await.unwrap();
    let message = broker.broker().publish_message("orders.created", &order(1)).header("Tenant", "acme");
    broker.publish_message(message).await;
    raw.until_len(2).await;
    optional.until_len(2).await;
    broker.idle().await;
    assert_eq!(raw.items(), [None, Some("MaxAge".to_owned())]);
    assert_eq!(optional.items(), [Some(1), None]);
    broker.handled::<accept>().once();
    broker.handled::<with_tenant>().once();
    assert!(broker.dead_letters().await.is_empty());
    assert_eq!(broker.published_messages("orders.created").await.len(), 1, "the marker");
    // The marker expires too, without another marker.
    eventually("an empty stream", SOON, async || {
        broker.published_messages("orders.created").await.is_empty().then_some(())
    })
    .await;
    broker.idle().await;
    assert_eq!((raw.len(), optional.len()), (2, 2));
}

/// A stream whose messages may expire, each of which leaves a marker for 2 s.
fn with_markers() -> stream::Config {
    stream::Config { allow_message_ttl: true, subject_delete_marker_ttl: Some(secs(2)), allow_rollup: true, ..orders() }
}

async fn message_with_a_ttl_leaves_a_delete_marker(transport: &Transport) {
    if matches!(transport, Transport::Live(_)) && binary::version() < (2, 11, 0) {
        return;
    }
    let broker =
        transport.start(TestBroker::builder().stream(with_markers()).include::<all>().include::<accept>()).await;
    broker.publish_message(broker.broker().publish_message("orders.created", &order(1)).ttl(secs(1))).await;
    let ttl_of = |message: &Message| message.header("Nats-TTL").map(str::to_owned);
    let stored = broker.published_messages("orders.>").await;
    // The server raises a shorter time to that of the markers.
    assert_eq!(stored.iter().map(ttl_of).collect::<Vec<_>>(), [Some("2".to_owned())]);
    let marker = eventually("a delete marker", SOON, async || {
        let stored = broker.published_messages("orders.>").await;
        stored.into_iter().find(|message| message.header("Nats-Marker-Reason").is_some())
    })
    .await;
    assert_eq!((marker.header("Nats-Marker-Reason"), marker.header("Nats-Rollup")), (Some("MaxAge"), Some("sub")));
    assert_eq!((ttl_of(&marker), marker.info().stream_sequence()), (Some("2s".to_owned()), 2));
    broker.idle().await;
    broker.handled::<all>().times(2);
    broker.handled::<accept>().once();
    assert!(broker.dead_letters().await.is_empty());
}

async fn replayed_delete_marker_remains_one(transport: &Transport) {
    if matches!(transport, Transport::Live(_)) && binary::version() < (2, 11, 0) {
        return;
    }
    let broker = transport.start(TestBroker::builder().stream(with_markers()).include::<accept>()).await;
    let raw = Recorder::<Option<String>>::default();
    let recorder = raw.clone();
    let handler = move |message: Message| {
        let reason = message.header("Nats-Marker-Reason").map(str::to_owned);
        let fails = reason.is_some() && !recorder.items().contains(&reason);
        recorder.add(reason);
        std::future::ready(if fails { Settle::Terminate } else { Settle::Ack })
    };
    let _raw = broker.broker().subscribe("orders.created", "raw", handler).await.unwrap();
    broker.publish_message(broker.broker().publish_message("orders.created", &order(1)).ttl(secs(1))).await;
    let letters = broker.broker().dead_letters().to_every_queue();
    let letter = eventually("the dead letter of the marker", SOON, async || letters.list(1).await.unwrap().pop()).await;
    let ack = letters.replay(letter.sequence).await.unwrap();
    broker.idle().await;
    let marker = Some("MaxAge".to_owned());
    assert_eq!(raw.items(), [None, marker.clone(), marker]);
    let stored = broker.published_messages("orders.>").await;
    let replayed = stored.iter().find(|message| message.info().stream_sequence() == ack.sequence).unwrap();
    assert_eq!((replayed.header("Nats-TTL"), replayed.header("Nats-Rollup")), (Some("2"), None));
    broker.handled::<accept>().once();
    assert!(broker.dead_letters().await.is_empty());
    // It expires without another marker.
    eventually("an empty stream", SOON, async || {
        broker.published_messages("orders.created").await.is_empty().then_some(())
    })
    .await;
    broker.idle().await;
    assert_eq!(raw.len(), 3);
}

#[subscriber(subject = "orders.created", queue = "with-tenant")]
async fn with_tenant(_tenant: Tenant, _order: Order) {}

/// A marker has no headers of the application either.
struct Tenant;

impl FromMessage for Tenant {
    fn from_message(message: &Message, _: &jetstream_handlers::Context) -> Result<Self, Rejection> {
        message.header("Tenant").map(|_| Self).ok_or(Rejection::new("no tenant"))
    }
}

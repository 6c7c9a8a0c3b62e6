//! Streams: found, created, refused, and replaced.

use jetstream_handlers::prelude::*;
use jetstream_handlers::testing::TestBroker;
use jetstream_handlers::{Error, ErrorKind, Subscription, stream};
use jetstream_handlers_tests::{Recorder, SOON, eventually, ms, stream_config};

use crate::{Order, Transport, accept, order, orders, other, publish, record};

contract![
    missing_stream_is_an_error_without_auto_create,
    overlapping_stream_is_refused,
    subject_outside_the_named_stream_is_refused,
    replaced_stream_is_read_from_its_beginning,
    deleted_stream_is_unhealthy,
    transformed_stream_is_read_by_what_it_stores,
    copies_of_streams_are_read,
    part_of_a_named_stream_is_read,
    subjects_of_replies_have_no_stream,
];

async fn missing_stream_is_an_error_without_auto_create(transport: &Transport) {
    let letters = stream_config("DLQ", &["dlq.>"]);
    let broker = transport.start(TestBroker::builder().stream(orders()).stream(letters).include::<accept>()).await;
    drop(broker);
    // This stream exists on neither transport.
    let builder = Broker::builder().auto_create(false);
    let broker = match transport {
        Transport::Memory => builder.connect_in_memory(),
        Transport::Live(server) => builder.servers([server.url()]).connect().await.unwrap(),
    };
    let error = broker.subscribe("nothing.here", "worker", |_: Order| async {}).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StreamNotFound);
    let error = broker.publish("nothing.here", &1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StreamNotFound);
    assert!(error.to_string().contains("auto_create"), "{error}");
}

async fn overlapping_stream_is_refused(transport: &Transport) {
    let config = stream_config("EUROPE", &["orders.eu.>"]);
    let broker = transport.start(TestBroker::builder().stream(config).include::<other>()).await;
    let error = broker.broker().subscribe("orders.us.created", "us", |_: Order| async {}).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StreamOverlap);
    assert!(error.to_string().contains("EUROPE"), "{error}");
}

async fn subject_outside_the_named_stream_is_refused(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<accept>()).await;
    let subscribe = broker.broker().subscribe("payments.made", "payer", |_: Order| async {}).stream("ORDERS");
    let error = subscribe.await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StreamNotFound);
    assert!(error.to_string().contains("ORDERS") && error.to_string().contains("payments.made"), "{error}");
}

async fn replaced_stream_is_read_from_its_beginning(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<accept>()).await;
    let (subscription, calls) = record(&broker, "replaced", "orders.created").await;
    publish(&broker, 1..6).await;
    calls.until_len(5).await;
    broker.idle().await;
    subscription.unsubscribe().await.unwrap();
    let (_subscription, calls) = record(&broker, "replaced", "orders.created").await;
    tokio::time::sleep(ms(300)).await;
    transport.delete_stream(&broker, "ORDERS").await;
    // A publish creates the stream again, which numbers its messages from 1.
    publish(&broker, 6..9).await;
    calls.until_len(3).await;
    assert_eq!(calls.items(), [6, 7, 8]);
}

async fn deleted_stream_is_unhealthy(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<accept>()).await;
    assert!(broker.broker().health().is_healthy());
    transport.delete_stream(&broker, "ORDERS").await;
    eventually("unhealthy", SOON, async || (!broker.broker().health().is_healthy()).then_some(())).await;
    // A publish recreates the stream, and the handler continues.
    broker.broker().publish("orders.created", &order(1)).await.unwrap();
    eventually("healthy", SOON, async || broker.broker().health().is_healthy().then_some(())).await;
    broker.idle().await;
    broker.handled::<accept>().once().with(&order(1));
}

/// Starts a closure that records the subjects of its messages.
async fn record_subjects(
    broker: &TestBroker,
    subject: &str,
    queue: &str,
    stream: Option<&str>,
) -> Result<(Subscription, Recorder<String>), Error> {
    let calls = Recorder::default();
    let recorder = calls.clone();
    let handler = move |subject: Subject| {
        recorder.add(subject.to_string());
        std::future::ready(())
    };
    let subscribe = broker.broker().subscribe(subject, queue, handler);
    let subscribe = match stream {
        Some(stream) => subscribe.stream(stream),
        None => subscribe,
    };
    Ok((subscribe.await?, calls))
}

fn transform(source: &str, destination: &str) -> stream::SubjectTransform {
    stream::SubjectTransform { source: source.to_owned(), destination: destination.to_owned() }
}

async fn transformed_stream_is_read_by_what_it_stores(transport: &Transport) {
    let config = stream::Config {
        subject_transform: Some(transform("in.*.*", "out.{{wildcard(2)}}.$1")),
        ..stream_config("SWAPPED", &["in.>"])
    };
    let broker = transport.start(TestBroker::builder().include::<other>().stream(config)).await;
    let error = record_subjects(&broker, "in.eu.created", "wrong", None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StreamNotFound);
    assert!(error.to_string().ends_with("set `subject = \"out.created.eu\"`"), "{error}");
    let (_swapped, swapped) = record_subjects(&broker, "out.created.*", "swapped", None).await.unwrap();
    let (_short, short) = record_subjects(&broker, "in.*", "short", Some("SWAPPED")).await.unwrap();
    broker.broker().publish("in.eu.created", &1).await.unwrap();
    broker.broker().publish("in.short", &2).await.unwrap();
    swapped.until_len(1).await;
    short.until_len(1).await;
    assert_eq!((swapped.items(), short.items()), (vec!["out.created.eu".into()], vec!["in.short".into()]));
}

async fn copies_of_streams_are_read(transport: &Transport) {
    let copy = |name: &str| stream::Source { name: name.to_owned(), ..Default::default() };
    let orders = stream_config("ORDERS", &["orders.>"]);
    let mirror = stream::Config { mirror: Some(copy("ORDERS")), ..stream_config("MIRROR", &[]) };
    let filtered = stream::Source { filter_subject: Some("orders.eu.*".to_owned()), ..copy("MIRROR") };
    let renamed = stream::Source { subject_transforms: vec![transform("notes.*", "memos.$1")], ..copy("NOTES") };
    let all = stream::Config { sources: Some(vec![filtered, renamed]), ..stream_config("SOME", &["own"]) };
    let notes = stream_config("NOTES", &["notes.*"]);
    let builder = TestBroker::builder().include::<other>().stream(orders).stream(mirror).stream(notes).stream(all);
    let broker = transport.start(builder).await;
    let (_first, mirrored) = record_subjects(&broker, "orders.>", "mirrored", Some("MIRROR")).await.unwrap();
    let (_second, sourced) = record_subjects(&broker, ">", "sourced", Some("SOME")).await.unwrap();
    for subject in ["orders.eu.a", "orders.us.b", "notes.c", "own"] {
        broker.broker().publish(subject, &1).await.unwrap();
    }
    mirrored.until_len(2).await;
    sourced.until_len(3).await;
    assert_eq!(mirrored.items(), ["orders.eu.a", "orders.us.b"]);
    let expected = ["memos.c", "orders.eu.a", "own"].map(str::to_owned);
    assert_eq!(sourced.distinct().into_iter().collect::<Vec<_>>(), expected);
    let error = record_subjects(&broker, "orders.us.b", "wrong", Some("SOME")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StreamOverlap, "{error}");
}

async fn part_of_a_named_stream_is_read(transport: &Transport) {
    let config = stream_config("SHOP", &["orders.created", "orders.paid"]);
    let broker = transport.start(TestBroker::builder().include::<other>().stream(config)).await;
    broker.broker().publish("orders.paid", &1).await.unwrap();
    let error = record_subjects(&broker, "orders.*", "wrong", None).await.unwrap_err();
    assert!(error.to_string().contains("set `stream = \"SHOP\"` to receive only these"), "{error}");
    let (_subscription, calls) = record_subjects(&broker, "orders.*", "orders", Some("SHOP")).await.unwrap();
    broker.broker().publish("orders.created", &2).await.unwrap();
    calls.until_len(2).await;
    assert_eq!(calls.items(), ["orders.paid", "orders.created"]);
}

async fn subjects_of_replies_have_no_stream(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<other>()).await;
    for subject in ["_INBOX.x", "_INBOX", "_R_.a.b"] {
        let error = broker.broker().publish(subject, &1).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::StreamNotFound, "{error}");
        let error = record_subjects(&broker, subject, "replies", None).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::StreamNotFound, "{error}");
    }
    let error = record_subjects(&broker, "$KV.sessions.>", "entries", None).await.unwrap_err();
    assert!(error.to_string().contains("create the bucket"), "{error}");
}

//! A handler reads what a stream stores, which differs from what it listens to if it copies or transforms.

use jetstream_handlers::async_nats::jetstream::stream::{Config, External, Source, SubjectTransform};
use jetstream_handlers::prelude::*;
use jetstream_handlers::{Error, ErrorKind, Subscription};
use jetstream_handlers_tests::{SOON, Server, assert_error, connect, eventually, stream_config};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::{found_stream, names, set, start};

/// Starts a handler that reads a stream, and sends the subjects of its messages.
async fn read(
    broker: &Broker,
    subject: &str,
    queue: &str,
    stream: Option<&str>,
) -> Result<(Subscription, UnboundedReceiver<String>), Error> {
    let (sender, receiver) = unbounded_channel();
    let subscribe = broker.subscribe(subject, queue, move |subject: Subject| {
        let sent = sender.send(subject.to_string());
        async move { Ok(sent?) }
    });
    let subscribe = match stream {
        Some(stream) => subscribe.stream(stream),
        None => subscribe,
    };
    Ok((subscribe.await?, receiver))
}

async fn received(subjects: &mut UnboundedReceiver<String>) -> String {
    tokio::time::timeout(SOON, subjects.recv()).await.expect("a message arrives").expect("the handler runs")
}

/// Starts a handler of a named stream that does nothing.
async fn start_on(broker: &Broker, subject: &str, queue: &str, stream: &str) -> Result<Subscription, Error> {
    broker.subscribe(subject, queue, async |_: Message| {}).stream(stream).await
}

fn copy(name: &str) -> Source {
    Source { name: name.to_owned(), ..Default::default() }
}

fn transform(source: &str, destination: &str) -> SubjectTransform {
    SubjectTransform { source: source.to_owned(), destination: destination.to_owned() }
}

/// Returns a stream that stores `in.<region>.<event>` as `out.<event>.<region>`.
fn transformed() -> Config {
    Config {
        subject_transform: Some(transform("in.*.*", "out.{{wildcard(2)}}.$1")),
        ..stream_config("SWAPPED", &["in.>"])
    }
}

#[tokio::test]
async fn mirror_is_read() {
    let server = Server::start().await;
    let jetstream = server.jetstream().await;
    jetstream.create_stream(stream_config("ORDERS", &["orders.>"])).await.unwrap();
    let mirror = Config { mirror: Some(copy("ORDERS")), ..stream_config("ORDERS_MIRROR", &[]) };
    jetstream.create_stream(mirror).await.unwrap();
    // A mirror of the mirror.
    let second = Config { mirror: Some(copy("ORDERS_MIRROR")), ..stream_config("SECOND", &[]) };
    jetstream.create_stream(second).await.unwrap();
    let broker = connect(&server).await;
    broker.publish("orders.created", &1).await.unwrap();
    let (_first, mut of_first) = read(&broker, "orders.created", "copied", Some("ORDERS_MIRROR")).await.unwrap();
    let (_second, mut of_second) = read(&broker, "orders.*", "copied", Some("SECOND")).await.unwrap();
    assert_eq!(received(&mut of_first).await, "orders.created");
    assert_eq!(received(&mut of_second).await, "orders.created");
    // Without a name, the stream that listens is read.
    let (_plain, mut of_orders) = read(&broker, "orders.created", "plain", None).await.unwrap();
    assert_eq!(received(&mut of_orders).await, "orders.created");
    assert!(jetstream.get_stream("ORDERS").await.unwrap().consumer_info("plain").await.is_ok());
    let parts =
        ["stream `ORDERS_MIRROR` has the subjects [\"orders.>\"]", "do not cover `refunds.*`", "correct the subject"];
    let error = start_on(&broker, "refunds.*", "wrong", "ORDERS_MIRROR").await.unwrap_err();
    assert_error(&error, ErrorKind::StreamNotFound, &parts);
    assert!(!error.to_string().contains("stream edit"), "the server adds no subject to a mirror: {error}");
}

#[tokio::test]
async fn sources_are_read_with_their_filters_and_transforms() {
    let server = Server::start().await;
    let jetstream = server.jetstream().await;
    for (name, subject) in [("ORDERS", "orders.>"), ("PAYMENTS", "payments.>"), ("REFUNDS", "refunds.>")] {
        jetstream.create_stream(stream_config(name, &[subject])).await.unwrap();
    }
    let filtered = Source { filter_subject: Some("payments.eu.>".to_owned()), ..copy("PAYMENTS") };
    let mapped = Source { subject_transforms: vec![transform("refunds.*", "returned.$1")], ..copy("REFUNDS") };
    let sources = Some(vec![copy("ORDERS"), filtered, mapped]);
    jetstream.create_stream(Config { sources, ..stream_config("ALL", &["own.*"]) }).await.unwrap();
    let broker = connect(&server).await;
    for subject in ["orders.created", "payments.eu.received", "refunds.made", "own.note"] {
        broker.publish(subject, &1).await.unwrap();
    }
    for (subject, expected) in [
        ("orders.*", "orders.created"),
        ("payments.>", "payments.eu.received"),
        ("returned.made", "returned.made"),
        ("own.note", "own.note"),
    ] {
        let queue = expected.replace('.', "-");
        let (_reader, mut subjects) = read(&broker, subject, &queue, Some("ALL")).await.unwrap();
        assert_eq!(received(&mut subjects).await, expected);
    }
    // Only one stream stores this subject, although none listens to it.
    let (_reader, mut subjects) = read(&broker, "returned.*", "found", None).await.unwrap();
    assert_eq!(received(&mut subjects).await, "returned.made");
    for (subject, owner) in [("payments.us.received", "PAYMENTS"), ("refunds.made", "REFUNDS")] {
        let parts = ["stream `ALL` does not cover it", &format!("belongs to stream `{owner}`")];
        assert_error(start_on(&broker, subject, "outside", "ALL").await, ErrorKind::StreamOverlap, &parts);
    }
    assert_eq!(names(&jetstream).await, set(&["ALL", "DLQ", "ORDERS", "PAYMENTS", "REFUNDS"]));
}

#[tokio::test]
async fn copy_of_another_account_is_accepted() {
    let server = Server::start().await;
    let jetstream = server.jetstream().await;
    let external = Some(External { api_prefix: "$JS.hub.API".to_owned(), delivery_prefix: None });
    let far =
        Config { mirror: Some(Source { external: external.clone(), ..copy("FAR") }), ..stream_config("COPY", &[]) };
    jetstream.create_stream(far).await.unwrap();
    let filter_subject = Some("far.>".to_owned());
    let filtered = Source { external, filter_subject, ..copy("FAR") };
    jetstream.create_stream(Config { sources: Some(vec![filtered]), ..stream_config("PART", &[]) }).await.unwrap();
    let broker = connect(&server).await;
    let _any = start_on(&broker, "whatever.*", "any", "COPY").await.unwrap();
    let _part = start_on(&broker, "far.created", "part", "PART").await.unwrap();
    let parts = ["stream `PART` has the subjects [\"far.>\"]", "do not cover `near.created`"];
    assert_error(start_on(&broker, "near.created", "wrong", "PART").await, ErrorKind::StreamNotFound, &parts);
    // A copy of which nothing is known is not found by a subject.
    let _new = start(&broker, "orders.created", "new").await.unwrap();
    assert_eq!(names(&jetstream).await, set(&["COPY", "DLQ", "ORDERS", "PART"]));
}

#[tokio::test]
async fn transformed_stream_is_found_by_what_it_stores() {
    let server = Server::start().await;
    let jetstream = server.jetstream().await;
    jetstream.create_stream(transformed()).await.unwrap();
    let broker = connect(&server).await;
    broker.publish("in.eu.created", &1).await.unwrap();
    let (_found, mut subjects) = read(&broker, "out.created.*", "found", None).await.unwrap();
    assert_eq!(received(&mut subjects).await, "out.created.eu");
    let (_named, mut subjects) = read(&broker, "out.created.eu", "named", Some("SWAPPED")).await.unwrap();
    assert_eq!(received(&mut subjects).await, "out.created.eu");
    // What the transform does not match is stored as it is.
    broker.publish("in.short", &1).await.unwrap();
    let (_short, mut subjects) = read(&broker, "in.*", "short", None).await.unwrap();
    assert_eq!(received(&mut subjects).await, "in.short");
    assert_eq!(names(&jetstream).await, set(&["DLQ", "SWAPPED"]));
}

#[tokio::test]
async fn published_subject_of_a_transformed_stream_names_the_stored_one() {
    let server = Server::start().await;
    let jetstream = server.jetstream().await;
    let config = Config { subject_transform: Some(transform("in.*", "out.$1")), ..stream_config("MAPPED", &["in.*"]) };
    jetstream.create_stream(config.clone()).await.unwrap();
    let broker = connect(&server).await;
    for (subject, stored) in [("in.created", "out.created"), ("in.*", "out.*")] {
        let stored = format!("`subject = \"{stored}\"`");
        let parts = ["`closure on in.", "stream `MAPPED`", "`subject_transform`", &stored];
        assert_error(start(&broker, subject, "wrong").await, ErrorKind::StreamNotFound, &parts);
        assert_error(start_on(&broker, subject, "wrong", "MAPPED").await, ErrorKind::StreamNotFound, &parts);
    }
    assert_eq!(names(&jetstream).await, set(&["MAPPED"]), "no stream was created");
    // The same is true of a stream that the application declares.
    let other = Server::start().await;
    let broker = Broker::builder().servers([other.url()]).stream(config).connect().await.unwrap();
    let parts = ["stream `MAPPED`", "`subject = \"out.created\"`"];
    assert_error(start(&broker, "in.created", "wrong").await, ErrorKind::StreamNotFound, &parts);
    let _right = start(&broker, "out.created", "right").await.unwrap();
    assert_eq!(names(&other.jetstream().await).await, set(&["DLQ", "MAPPED"]));
}

#[tokio::test]
async fn part_of_a_named_stream_is_enough() {
    let server = Server::start().await;
    let jetstream = server.jetstream().await;
    jetstream.create_stream(stream_config("SHOP", &["orders.created", "orders.paid"])).await.unwrap();
    let broker = connect(&server).await;
    let parts = ["stream `SHOP`", "do not cover `orders.*`", "set `stream = \"SHOP\"` to receive only these"];
    assert_error(start(&broker, "orders.*", "orders").await, ErrorKind::StreamNotFound, &parts);
    for (subject, queue) in [("orders.*", "orders"), (">", "everything"), ("*.paid", "paid")] {
        let (_reader, mut subjects) = read(&broker, subject, queue, Some("SHOP")).await.unwrap();
        broker.publish("orders.paid", &1).await.unwrap();
        assert_eq!(received(&mut subjects).await, "orders.paid", "{subject}");
    }
    assert_eq!(names(&jetstream).await, set(&["DLQ", "SHOP"]));
}

#[tokio::test]
async fn suggested_subjects_are_accepted_by_the_server() {
    let server = Server::start().await;
    let jetstream = server.jetstream().await;
    jetstream.create_stream(stream_config("SHOP", &["orders.created", "orders.paid"])).await.unwrap();
    let broker = connect(&server).await;
    let error = start_on(&broker, "refunds.*", "refunds", "SHOP").await.unwrap_err();
    assert_error(&error, ErrorKind::StreamNotFound, &["nats stream edit SHOP --subjects '"]);
    let text = error.to_string();
    let subjects = text.split("--subjects '").nth(1).and_then(|rest| rest.split('\'').next()).unwrap();
    let subjects: Vec<String> = subjects.split(',').map(str::to_owned).collect();
    assert_eq!(subjects, ["orders.created", "orders.paid", "refunds.*"]);
    jetstream.update_stream(Config { subjects, ..found_stream(&jetstream, "SHOP").await }).await.unwrap();
    let _started = start_on(&broker, "refunds.*", "refunds", "SHOP").await.unwrap();
    // A subject that the server would refuse is not suggested.
    let error = start_on(&broker, "*.lost.*", "lost", "SHOP").await.unwrap_err();
    assert!(!error.to_string().contains("stream edit"), "{error}");
}

#[tokio::test]
async fn dead_letters_of_another_stream_are_no_loop() {
    let server = Server::start().await;
    let jetstream = server.jetstream().await;
    jetstream.create_stream(stream_config("SHOP", &["orders.>"])).await.unwrap();
    let broker = connect(&server).await;
    let failing = broker.subscribe(">", "failing", async |_: Message| Err::<(), _>(HandlerError::terminate("no")));
    let _failing = failing.stream("SHOP").await.unwrap();
    broker.publish("orders.created", &1).await.unwrap();
    eventually("one dead letter", SOON, async || {
        (broker.dead_letters().list(10).await.unwrap().len() == 1).then_some(())
    })
    .await;
    let parts = ["its dead letters go to `orders.lost`", "its own subject `>` covers"];
    let looping =
        broker.subscribe(">", "looping", async |_: Message| {}).stream("SHOP").dead_letter(Some("orders.lost"));
    assert_error(looping.await, ErrorKind::Config, &parts);
    // The stream copies the one of the dead letters.
    jetstream.create_stream(Config { sources: Some(vec![copy("DLQ")]), ..stream_config("ALL", &[]) }).await.unwrap();
    let parts = ["its dead letters go to `dlq.ALL.copied`"];
    assert_error(start_on(&broker, "dlq.>", "copied", "ALL").await, ErrorKind::Config, &parts);
}

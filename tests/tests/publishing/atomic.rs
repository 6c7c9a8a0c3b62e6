//! Atomic batches: all messages are stored, or none.

use jetstream_handlers::prelude::*;
use jetstream_handlers::{ErrorKind, stream};
use jetstream_handlers_tests::{Server, assert_error, binary, connect, cut_connection_at, stream_config};

use crate::{shop, stored};

fn atomic() -> stream::Config {
    stream::Config { allow_atomic_publish: true, ..shop() }
}

/// Returns `true` if the server is too old for atomic batches, and checks the error.
async fn refuses_atomic(server: &Server) -> bool {
    if binary::version() >= (2, 12, 1) {
        return false;
    }
    let broker = connect(server).await;
    let result = broker.publisher().publish_atomic([broker.publish_message("orders.created", &1)]).await;
    assert_error(result, ErrorKind::Config, &["does not support atomic batches", "2.12.1", "publish_all"]);
    true
}

#[tokio::test]
async fn batch_is_stored_as_one() {
    let server = Server::start().await;
    if refuses_atomic(&server).await {
        return;
    }
    // The batch creates the declared stream.
    let broker = Broker::builder().servers([server.url()]).stream(atomic()).connect().await.unwrap();
    let ack = broker.publisher().publish_atomic([broker.publish_message("orders.created", &1)]).await.unwrap();
    assert_eq!((ack.stream.as_str(), ack.sequence, ack.batch_size), ("SHOP", 1, Some(1)));
    let messages = (2..=1001_u64).map(|id| broker.publish_message("orders.created", &id));
    let ack = broker.publisher().publish_atomic(messages).await.unwrap();
    assert_eq!((ack.sequence, ack.batch_size), (1001, Some(1000)));
    assert_eq!(stored(&server, "SHOP").await, (1..=1001).collect::<Vec<_>>());
}

#[tokio::test]
async fn failed_condition_stores_nothing() {
    let server = Server::start().await;
    if refuses_atomic(&server).await {
        return;
    }
    let config = stream::Config { max_message_size: 200, ..atomic() };
    server.jetstream().await.create_stream(config).await.unwrap();
    let broker = connect(&server).await;
    let publish = |subject, id: u64| broker.publish_message(subject, &id);
    let ack = broker.publish_message("orders.old", &0).message_id("old").await.unwrap();
    assert_eq!(ack.sequence, 1);
    let result = broker
        .publisher()
        .publish_atomic([publish("orders.a", 1), publish("orders.b", 2).expect_last_subject_sequence(7)]);
    assert_error(
        result.await,
        ErrorKind::WrongLastSequence,
        &["2 messages", "nothing is stored", "wrong last sequence: 0"],
    );
    let result = broker.publisher().publish_atomic([publish("orders.a", 1), publish("orders.b", 2).message_id("old")]);
    assert_error(result.await, ErrorKind::Duplicate, &["nothing is stored", "one of the ids already"]);
    let large = "a".repeat(200);
    let result = broker.publisher().publish_atomic([
        publish("orders.a", 1),
        broker.publish_message("orders.b", &large),
        publish("orders.c", 3),
    ]);
    assert_error(result.await, ErrorKind::PayloadTooLarge, &["message 2", "max_msg_size"]);
    let result =
        broker.publisher().publish_atomic([publish("orders.a", 1), publish("bills.b", 2), publish("orders.c", 3)]);
    assert_error(result.await, ErrorKind::StreamNotFound, &["message 2", "`bills.b`", "nothing is stored"]);
    let bills = stream::Config { allow_atomic_publish: true, ..stream_config("BILLS", &["bills.>"]) };
    server.jetstream().await.create_stream(bills).await.unwrap();
    let result =
        broker.publisher().publish_atomic([publish("orders.a", 1), publish("bills.b", 2), publish("orders.c", 3)]);
    assert_error(result.await, ErrorKind::Publish, &["message 2", "same stream"]);
    assert_eq!(stored(&server, "SHOP").await, [0]);
    let ack = broker
        .publisher()
        .publish_atomic([publish("orders.a", 1).expect_last_sequence(1), publish("orders.b", 2)])
        .await
        .unwrap();
    assert_eq!(ack.sequence, 3);
}

#[tokio::test]
async fn max_payload_includes_the_headers_of_the_batch() {
    let server = Server::builder().config("max_payload: 1000").start().await;
    if refuses_atomic(&server).await {
        return;
    }
    server.jetstream().await.create_stream(atomic()).await.unwrap();
    let broker = connect(&server).await;
    let mut accepted = 0;
    for size in 700..1000_usize {
        let large = vec![b'1'; size];
        let publisher = broker.publisher();
        let batch = [publisher.publish_bytes("orders.a", large), broker.publish_message("orders.b", &2)];
        match publisher.publish_atomic(batch).await {
            Ok(_) => accepted += 1,
            Err(error) => assert_error(&error, ErrorKind::PayloadTooLarge, &["message 1", "`orders.a`", "1000"]),
        }
    }
    assert!((1..300).contains(&accepted), "{accepted}");
    let stream = server.jetstream().await.get_stream("SHOP").await.unwrap();
    assert_eq!(stream.cached_info().state.messages, accepted * 2, "of the others, nothing");
}

#[tokio::test]
async fn stream_without_atomic_batches_is_refused() {
    let server = Server::start().await;
    if refuses_atomic(&server).await {
        return;
    }
    let broker = connect(&server).await;
    let batch =
        || broker.publisher().publish_atomic((1..=3_u64).map(|id| broker.publish_message("orders.created", &id)));
    let parts = ["`orders.created`", "Builder::stream", "allow_atomic_publish: true"];
    assert_error(batch().await, ErrorKind::StreamNotFound, &parts);
    broker.publish("orders.created", &0).await.unwrap();
    let parts = ["`orders.created`", "nothing is stored", "`allow_atomic`", "`allow_atomic_publish`", "publish_all"];
    assert_error(batch().await, ErrorKind::StreamMismatch, &parts);
    assert_eq!(stored(&server, "ORDERS").await, [0]);
}

#[tokio::test]
async fn invalid_batches_are_not_sent() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    let publish = |subject, id: u64| broker.publish_message(subject, &id);
    assert_error(broker.publisher().publish_atomic([]).await, ErrorKind::Config, &["no message"]);
    let result = broker.publisher().publish_atomic((0_u64..).map(|id| publish("orders.a", id)));
    assert_error(result.await, ErrorKind::Config, &["at most 1000"]);
    let result = broker.publisher().publish_atomic([publish("orders.a", 1), publish("orders.*", 2)]);
    assert_error(result.await, ErrorKind::Config, &["message 2 of the batch", "wildcard"]);
    let result = broker
        .publisher()
        .publish_atomic([publish("orders.a", 1).message_id("x"), publish("orders.b", 2).message_id("x")]);
    assert_error(result.await, ErrorKind::Config, &["messages 1 and 2", "`x`"]);
    let result =
        broker.publisher().publish_atomic([publish("orders.a", 1), publish("orders.b", 2).expect_last_sequence(0)]);
    assert_error(result.await, ErrorKind::Config, &["message 2", "only the first"]);
    let result = broker.publisher().publish_atomic([publish("orders.a", 1).header("Nats-Batch-Id", "mine")]);
    assert_error(result.await, ErrorKind::Config, &["message 1", "Nats-Batch-Id"]);
    assert!(server.jetstream().await.get_stream("ORDERS").await.is_err(), "nothing was sent");
}

#[tokio::test]
async fn batch_with_a_lost_ack_is_stored_once() {
    let server = Server::start().await;
    if refuses_atomic(&server).await {
        return;
    }
    server.jetstream().await.create_stream(atomic()).await.unwrap();
    let url = cut_connection_at(server.address(), r#""stream":"SHOP","seq":3"#).await;
    let options = |options: jetstream_handlers::async_nats::ConnectOptions| options.ignore_discovered_servers();
    let broker = Broker::builder().servers([url]).connect_options(options).connect().await.unwrap();
    let ack = broker
        .publisher()
        .publish_atomic((1..=3_u64).map(|id| broker.publish_message("orders.created", &id)))
        .await
        .unwrap();
    assert_eq!((ack.sequence, ack.batch_size, ack.duplicate), (3, Some(3), false));
    assert_eq!(stored(&server, "SHOP").await, [1, 2, 3]);
}

#[tokio::test]
async fn batch_survives_a_server_restart() {
    let mut server = Server::start().await;
    if refuses_atomic(&server).await {
        return;
    }
    server.jetstream().await.create_stream(atomic()).await.unwrap();
    let broker = connect(&server).await;
    server.kill();
    let publisher = broker.publisher().clone();
    let publishing = tokio::spawn(async move {
        publisher.publish_atomic((1..=100_u64).map(|id| publisher.publish_message("orders.created", &id))).await
    });
    server.restart().await;
    let ack = publishing.await.unwrap().unwrap();
    assert_eq!((ack.sequence, ack.batch_size), (100, Some(100)));
    assert_eq!(stored(&server, "SHOP").await, (1..=100).collect::<Vec<_>>());
}

//! Publishing many messages: each with its own result, all or none, or as one batch.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall say where")]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::StreamExt;
use futures::future::{join, join_all};
use jetstream_handlers::async_nats::jetstream::consumer;
use jetstream_handlers::prelude::*;
use jetstream_handlers::{Error, ErrorKind, IngestError, PublishAck, stream};
use jetstream_handlers_tests::{Cluster, Proxy, Server, assert_says, binary, breaking_wire, eventually};
use tokio::task::JoinHandle;

const SOON: Duration = Duration::from_secs(10);

async fn connect(server: &Server) -> Broker {
    Broker::connect(server.url()).await.unwrap()
}

fn shop() -> stream::Config {
    stream::Config { name: "SHOP".to_owned(), subjects: vec!["orders.>".to_owned()], ..Default::default() }
}

/// The payloads of a stream, in its order.
async fn stored(server: &Server, stream: &str) -> Vec<u64> {
    let stream = server.jetstream().await.get_stream(stream).await.unwrap();
    let mut payloads = Vec::new();
    for sequence in 1..=stream.cached_info().state.last_sequence {
        let message = stream.get_raw_message(sequence).await.unwrap();
        payloads.push(serde_json::from_slice(&message.payload).unwrap());
    }
    payloads
}

#[tokio::test]
async fn many_are_stored_in_order_and_each_has_its_result() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    // There is no stream yet.
    let messages = (1..=2000_u64).map(|id| broker.publish_message("orders.created", &id));
    let results: Vec<_> = broker.publisher().publish_all(messages).collect().await;
    for (result, sequence) in results.into_iter().zip(1..) {
        let ack = result.unwrap();
        assert_eq!(ack.stream, "ORDERS");
        if sequence > 256 {
            // Those before found no stream, and were sent again one after the other.
            assert_eq!((ack.sequence, ack.duplicate), (sequence, false));
        }
    }
    let payloads = stored(&server, "ORDERS").await;
    assert_eq!(payloads.len(), 2000);
    assert_eq!(payloads, (1..=2000).collect::<Vec<_>>());
    assert!(broker.publisher().publish_all([]).next().await.is_none());
}

#[tokio::test]
async fn what_fails_has_its_own_error_and_the_rest_is_stored() {
    let server = Server::builder().config("max_payload: 1000").start().await;
    server.jetstream().await.create_stream(shop()).await.unwrap();
    let broker = connect(&server).await;
    let large = "a".repeat(1000);
    let publish = |subject, id: u64| broker.publish_message(subject, &id);
    let messages = [
        publish("orders.created", 1).message_id("one").header("Tenant", "eu"),
        publish("orders.*", 2),
        publish("orders.created", 3).expect_last_subject_sequence(7),
        publish("orders.created", 4).message_id("one"),
        broker.publish_message("orders.created", &large),
        publish("orders.created", 5).header("Te nant", "eu"),
        publish("orders.created", 6).expect_stream("ORDERS"),
        publish("orders.created", 7),
    ];
    let mut results = broker.publisher().publish_all(messages).collect::<Vec<_>>().await.into_iter();
    let mut next = || results.next().unwrap();
    assert_eq!(next().unwrap().sequence, 1);
    assert_says(next(), ErrorKind::Config, &["`orders.*`", "wildcard"]);
    assert_says(next(), ErrorKind::WrongLastSequence, &["`orders.created`", "wrong last sequence: 1"]);
    assert!(next().unwrap().duplicate);
    assert_says(next(), ErrorKind::PayloadTooLarge, &["max_payload", "1000"]);
    assert_says(next(), ErrorKind::Config, &["header"]);
    assert_says(next(), ErrorKind::StreamMismatch, &["ORDERS"]);
    assert_eq!(next().unwrap().sequence, 2);
    assert_eq!(stored(&server, "SHOP").await, [1, 7]);
}

#[tokio::test]
async fn never_more_than_a_window_is_taken_from_the_iterator() {
    let server = Server::start().await;
    server.jetstream().await.create_stream(shop()).await.unwrap();
    let proxy = Proxy::start(server.address()).await;
    let broker = Broker::connect(proxy.url()).await.unwrap();
    let taken = Arc::new(AtomicUsize::new(0));
    let endless = (0_u64..).map(|id| {
        taken.fetch_add(1, Ordering::SeqCst);
        broker.publish_message("orders.created", &id)
    });
    let mut results = broker.publisher().publish_all(endless);
    assert_eq!(taken.load(Ordering::SeqCst), 0, "nothing happens before it is polled");
    for given in 0..5000 {
        let sequence = results.next().await.unwrap().unwrap().sequence;
        assert_eq!(sequence, given + 1);
        let ahead = taken.load(Ordering::SeqCst) - given as usize;
        assert!(ahead <= 256, "{ahead} messages are taken and have no result");
    }
    proxy.pause();
    let given = taken.load(Ordering::SeqCst);
    let waited = tokio::time::timeout(Duration::from_millis(500), async {
        while let Some(result) = results.next().await {
            result.unwrap();
        }
    });
    assert!(waited.await.is_err(), "nothing is answered");
    assert!(taken.load(Ordering::SeqCst) <= given + 256);
    proxy.resume();
    // A result that somebody waited for in vain is not lost.
    let next = StreamExt::next(&mut results).await.unwrap().unwrap().sequence;
    assert!(next > 5000 && next <= given as u64 + 1, "{next}");
    assert_eq!(results.next().await.unwrap().unwrap().sequence, next + 1);
}

#[tokio::test]
async fn a_restart_in_the_middle_stores_each_once() {
    let mut server = Server::start().await;
    server.jetstream().await.create_stream(shop()).await.unwrap();
    let broker = connect(&server).await;
    let publisher = broker.publisher().clone();
    let publishing = tokio::spawn(async move {
        let mut acks = 0;
        let pause = |id: &u64| {
            // Slow enough that the server goes in the middle.
            if id.is_multiple_of(100) {
                std::thread::sleep(Duration::from_millis(10));
            }
        };
        let messages = (1..=5000_u64).inspect(pause).map(|id| publisher.publish_message("orders.created", &id));
        let mut results = publisher.publish_all(messages);
        while let Some(result) = results.next().await {
            result.unwrap();
            acks += 1;
        }
        acks
    });
    eventually("some are stored", SOON, async || {
        (server.jetstream().await.get_stream("SHOP").await.unwrap().cached_info().state.messages > 500).then_some(())
    })
    .await;
    server.kill();
    server.restart().await;
    assert_eq!(publishing.await.unwrap(), 5000);
    let payloads = stored(&server, "SHOP").await;
    assert_eq!(payloads.len(), 5000, "none is stored twice");
    assert_eq!(payloads.into_iter().collect::<BTreeSet<_>>(), (1..=5000).collect());
}

#[tokio::test]
async fn after_the_disconnect_every_result_says_so() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    let mut results =
        broker.publisher().publish_all((0_u64..1000).map(|id| broker.publish_message("orders.created", &id)));
    results.next().await.unwrap().unwrap();
    broker.disconnect().await.unwrap();
    let (mut stored, mut failed) = (1, 0);
    while let Some(result) = results.next().await {
        match result {
            Ok(_) => stored += 1,
            failure => {
                assert_says(failure, ErrorKind::Closed, &["`orders.created`", "disconnected"]);
                failed += 1;
            }
        }
    }
    assert_eq!(stored + failed, 1000);
    assert!(failed >= 1000 - 256, "{failed}");
}

fn atomic() -> stream::Config {
    stream::Config { allow_atomic_publish: true, ..shop() }
}

/// Whether the server is too old for atomic batches, and says so.
async fn refuses_atomic(server: &Server) -> bool {
    if binary::version() >= (2, 12, 1) {
        return false;
    }
    let broker = connect(server).await;
    let result = broker.publisher().publish_atomic([broker.publish_message("orders.created", &1)]).await;
    assert_says(result, ErrorKind::Config, &["does not support atomic batches", "2.12.1", "publish_all"]);
    true
}

#[tokio::test]
async fn an_atomic_batch_is_stored_as_one() {
    let server = Server::start().await;
    if refuses_atomic(&server).await {
        return;
    }
    // The stream is made as the application declares it.
    let broker = Broker::builder().servers([server.url()]).stream(atomic()).connect().await.unwrap();
    let ack = broker.publisher().publish_atomic([broker.publish_message("orders.created", &1)]).await.unwrap();
    assert_eq!((ack.stream.as_str(), ack.sequence, ack.batch_size), ("SHOP", 1, Some(1)));
    let messages = (2..=1001_u64).map(|id| broker.publish_message("orders.created", &id));
    let ack = broker.publisher().publish_atomic(messages).await.unwrap();
    assert_eq!((ack.sequence, ack.batch_size), (1001, Some(1000)));
    assert_eq!(stored(&server, "SHOP").await, (1..=1001).collect::<Vec<_>>());
}

#[tokio::test]
async fn an_atomic_batch_with_a_condition_that_fails_stores_nothing() {
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
    assert_says(
        result.await,
        ErrorKind::WrongLastSequence,
        &["2 messages", "nothing is stored", "wrong last sequence: 0"],
    );
    let result = broker.publisher().publish_atomic([publish("orders.a", 1), publish("orders.b", 2).message_id("old")]);
    assert_says(result.await, ErrorKind::Duplicate, &["nothing is stored", "one of the ids already"]);
    let large = "a".repeat(200);
    let result = broker.publisher().publish_atomic([
        publish("orders.a", 1),
        broker.publish_message("orders.b", &large),
        publish("orders.c", 3),
    ]);
    assert_says(result.await, ErrorKind::PayloadTooLarge, &["message 2", "max_msg_size"]);
    let result =
        broker.publisher().publish_atomic([publish("orders.a", 1), publish("bills.b", 2), publish("orders.c", 3)]);
    assert_says(result.await, ErrorKind::StreamNotFound, &["message 2", "`bills.b`", "nothing is stored"]);
    let bills = stream::Config { name: "BILLS".to_owned(), subjects: vec!["bills.>".to_owned()], ..atomic() };
    server.jetstream().await.create_stream(bills).await.unwrap();
    let result =
        broker.publisher().publish_atomic([publish("orders.a", 1), publish("bills.b", 2), publish("orders.c", 3)]);
    assert_says(result.await, ErrorKind::Publish, &["message 2", "same stream"]);
    assert_eq!(stored(&server, "SHOP").await, [0]);
    let ack = broker
        .publisher()
        .publish_atomic([publish("orders.a", 1).expect_last_sequence(1), publish("orders.b", 2)])
        .await
        .unwrap();
    assert_eq!(ack.sequence, 3);
}

#[tokio::test]
async fn a_stream_that_does_not_allow_atomic_batches_is_named() {
    let server = Server::start().await;
    if refuses_atomic(&server).await {
        return;
    }
    let broker = connect(&server).await;
    let batch =
        || broker.publisher().publish_atomic((1..=3_u64).map(|id| broker.publish_message("orders.created", &id)));
    let told = ["`orders.created`", "Builder::stream", "allow_atomic_publish: true"];
    assert_says(batch().await, ErrorKind::StreamNotFound, &told);
    broker.publish("orders.created", &0).await.unwrap();
    let told = ["`orders.created`", "nothing is stored", "`allow_atomic`", "`allow_atomic_publish`", "publish_all"];
    assert_says(batch().await, ErrorKind::StreamMismatch, &told);
    assert_eq!(stored(&server, "ORDERS").await, [0]);
}

#[tokio::test]
async fn what_cannot_be_an_atomic_batch_is_not_sent() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    let publish = |subject, id: u64| broker.publish_message(subject, &id);
    assert_says(broker.publisher().publish_atomic([]).await, ErrorKind::Config, &["no message"]);
    let result = broker.publisher().publish_atomic((0_u64..).map(|id| publish("orders.a", id)));
    assert_says(result.await, ErrorKind::Config, &["at most 1000"]);
    let result = broker.publisher().publish_atomic([publish("orders.a", 1), publish("orders.*", 2)]);
    assert_says(result.await, ErrorKind::Config, &["message 2 of the batch", "wildcard"]);
    let result = broker
        .publisher()
        .publish_atomic([publish("orders.a", 1).message_id("x"), publish("orders.b", 2).message_id("x")]);
    assert_says(result.await, ErrorKind::Config, &["messages 1 and 2", "`x`"]);
    let result =
        broker.publisher().publish_atomic([publish("orders.a", 1), publish("orders.b", 2).expect_last_sequence(0)]);
    assert_says(result.await, ErrorKind::Config, &["message 2", "only the first"]);
    let result = broker.publisher().publish_atomic([publish("orders.a", 1).header("Nats-Batch-Id", "mine")]);
    assert_says(result.await, ErrorKind::Config, &["message 1", "Nats-Batch-Id"]);
    assert!(server.jetstream().await.get_stream("ORDERS").await.is_err(), "nothing was asked of the server");
}

#[tokio::test]
async fn an_atomic_batch_whose_ack_was_lost_is_stored_once_and_known() {
    let server = Server::start().await;
    if refuses_atomic(&server).await {
        return;
    }
    server.jetstream().await.create_stream(atomic()).await.unwrap();
    let url = breaking_wire(server.address(), r#""stream":"SHOP","seq":3"#).await;
    let options = |options: jetstream_handlers::async_nats::ConnectOptions| options.ignore_discovered_servers();
    let broker = Broker::builder().servers([url]).connect_options(options).connect().await.unwrap();
    let ack = broker
        .publisher()
        .publish_atomic((1..=3_u64).map(|id| broker.publish_message("orders.created", &id)))
        .await
        .unwrap();
    assert_eq!((ack.sequence, ack.batch_size, ack.duplicate), (3, Some(3), true));
    assert_eq!(stored(&server, "SHOP").await, [1, 2, 3]);
}

#[tokio::test]
async fn an_atomic_batch_outlives_a_restart() {
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

fn batched() -> stream::Config {
    stream::Config { allow_batch_publish: true, ..shop() }
}

/// Whether the server is too old for fast ingest, and says so.
async fn refuses_ingest(server: &Server) -> bool {
    if binary::version() >= (2, 14, 0) {
        return false;
    }
    let broker = connect(server).await;
    let result = broker.publisher().ingest([broker.publish_message("orders.created", &1)]).await.map_err(Error::from);
    assert_says(result, ErrorKind::Config, &["does not support fast-ingest batches", "2.14.0", "publish_all"]);
    true
}

/// Publishes the numbers to `SHOP` until something is in the way.
fn ingesting(broker: &Broker, numbers: std::ops::RangeInclusive<u64>) -> JoinHandle<Result<PublishAck, IngestError>> {
    let publisher = broker.publisher().clone();
    let pause = |id: &u64| {
        // Slow enough that a test can come between.
        if id.is_multiple_of(100) {
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    tokio::spawn(async move {
        publisher.ingest(numbers.inspect(pause).map(|id| publisher.publish_message("orders.created", &id))).await
    })
}

#[tokio::test]
async fn fifty_thousand_are_stored_in_order() {
    let server = Server::start().await;
    if refuses_ingest(&server).await {
        return;
    }
    // The stream is made as the application declares it.
    let broker = Broker::builder().servers([server.url()]).stream(batched()).connect().await.unwrap();
    let ack = broker
        .publisher()
        .ingest((1..=50_000_u64).map(|id| broker.publish_message("orders.created", &id)))
        .await
        .unwrap();
    assert_eq!((ack.stream.as_str(), ack.sequence, ack.batch_size), ("SHOP", 50_000, Some(50_000)));
    let jetstream = server.jetstream().await;
    let consumer = consumer::pull::OrderedConfig::default();
    let consumer = jetstream.get_stream("SHOP").await.unwrap().create_consumer(consumer).await.unwrap();
    let mut messages = consumer.messages().await.unwrap().take(50_000).enumerate();
    while let Some((index, message)) = messages.next().await {
        assert_eq!(serde_json::from_slice::<u64>(&message.unwrap().payload).unwrap(), index as u64 + 1);
    }
    let ack = broker.publisher().ingest([broker.publish_message("orders.created", &1)]).await.unwrap();
    assert_eq!((ack.sequence, ack.batch_size), (50_001, Some(1)));
    assert_says(broker.publisher().ingest([]).await.map_err(Error::from), ErrorKind::Config, &["no message"]);
}

#[tokio::test]
async fn several_batches_share_a_stream() {
    let server = Server::start().await;
    if refuses_ingest(&server).await {
        return;
    }
    server.jetstream().await.create_stream(batched()).await.unwrap();
    let broker = connect(&server).await;
    let batches = (0..5_u64).map(|batch| {
        let broker = &broker;
        async move {
            let messages = (1..=2000).map(|id| broker.publish_message("orders.created", &(batch * 2000 + id)));
            assert_eq!(broker.publisher().ingest(messages).await.unwrap().batch_size, Some(2000));
        }
    });
    join_all(batches).await;
    let payloads = stored(&server, "SHOP").await;
    for batch in 0..5 {
        let own: Vec<_> = payloads.iter().copied().filter(|id| (id - 1) / 2000 == batch).collect();
        assert_eq!(own, (batch * 2000 + 1..=batch * 2000 + 2000).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn a_stream_that_does_not_allow_fast_ingest_is_named() {
    let server = Server::start().await;
    if refuses_ingest(&server).await {
        return;
    }
    let broker = connect(&server).await;
    let batch = || broker.publisher().ingest((1..=3_u64).map(|id| broker.publish_message("orders.created", &id)));
    let told = ["`orders.created`", "Builder::stream", "allow_batch_publish: true"];
    assert_says(batch().await.map_err(Error::from), ErrorKind::StreamNotFound, &told);
    broker.publish("orders.created", &0).await.unwrap();
    let error = batch().await.unwrap_err();
    assert_eq!(error.stored(), 0);
    let told = [
        "nothing of the batch on `orders.created` is stored",
        "`allow_batched`",
        "`allow_batch_publish`",
        "publish_all",
    ];
    assert_says::<()>(Err(error.into_error()), ErrorKind::StreamMismatch, &told);
    assert_eq!(stored(&server, "ORDERS").await, [0]);
}

#[tokio::test]
async fn a_batch_ends_at_the_first_message_that_is_refused() {
    let server = Server::start().await;
    if refuses_ingest(&server).await {
        return;
    }
    let jetstream = server.jetstream().await;
    let config = stream::Config { max_message_size: 200, ..batched() };
    jetstream.create_stream(config).await.unwrap();
    let bills = stream::Config { name: "BILLS".to_owned(), subjects: vec!["bills.>".to_owned()], ..batched() };
    jetstream.create_stream(bills).await.unwrap();
    let broker = connect(&server).await;
    let publish = |subject, id: u64| broker.publish_message(subject, &id);
    let large = "a".repeat(200);
    let mut last = 0;
    for (seventh, kind, told) in [
        (publish("orders.*", 7), ErrorKind::Config, "wildcard"),
        (publish("orders.a", 7).expect_last_sequence(1), ErrorKind::WrongLastSequence, "message 7"),
        (broker.publish_message("orders.a", &large), ErrorKind::PayloadTooLarge, "max_msg_size"),
        (publish("bills.a", 7), ErrorKind::Publish, "another stream"),
        (publish("cars.a", 7), ErrorKind::Publish, "no stream"),
        (publish("orders.a", 7).header("Nats-Batch-Id", "mine"), ErrorKind::Config, "Nats-Batch-Id"),
    ] {
        let before = (1..=6).map(|id| publish("orders.a", id));
        let after = (8..=3000).map(|id| publish("orders.a", id));
        let error = broker.publisher().ingest(before.chain([seventh]).chain(after)).await.unwrap_err();
        assert_eq!(error.stored(), 6, "{error:?}");
        assert_says::<()>(Err(error.into_error()), kind, &["the first 6 are stored and no other", told]);
        let payloads = stored(&server, "SHOP").await;
        assert_eq!(payloads[last..], [1, 2, 3, 4, 5, 6]);
        last = payloads.len();
    }
    let error = broker.publisher().ingest([publish("orders.*", 1)]).await.unwrap_err();
    assert_eq!((error.kind(), error.stored()), (ErrorKind::Config, 0));
    let error = broker
        .publisher()
        .ingest([publish("orders.a", 1).expect_last_sequence(1), publish("orders.a", 2)])
        .await
        .unwrap_err();
    assert_eq!((error.kind(), error.stored()), (ErrorKind::WrongLastSequence, 0), "{error:?}");
    assert_eq!(stored(&server, "BILLS").await, [0; 0]);
    assert_eq!(stored(&server, "SHOP").await.len(), last);
}

#[tokio::test]
async fn a_batch_with_ids_can_be_published_again() {
    let server = Server::start().await;
    if refuses_ingest(&server).await {
        return;
    }
    server.jetstream().await.create_stream(batched()).await.unwrap();
    let broker = connect(&server).await;
    let batch = |ids: std::ops::RangeInclusive<u64>| {
        let publish = |id: u64| broker.publish_message("orders.created", &id).message_id(&id.to_string());
        broker.publisher().ingest(ids.map(publish))
    };
    assert_eq!(batch(1..=700).await.unwrap().batch_size, Some(700));
    assert_eq!(batch(1..=2000).await.unwrap().batch_size, Some(2000));
    assert_eq!(batch(1..=2000).await.unwrap().batch_size, Some(2000));
    assert_eq!(stored(&server, "SHOP").await, (1..=2000).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_killed_server_leaves_an_honest_count() {
    let mut server = Server::start().await;
    if refuses_ingest(&server).await {
        return;
    }
    server.jetstream().await.create_stream(batched()).await.unwrap();
    let broker = connect(&server).await;
    let ingesting = ingesting(&broker, 1..=200_000);
    eventually("some are stored", SOON, async || {
        (server.jetstream().await.get_stream("SHOP").await.unwrap().cached_info().state.messages > 3000).then_some(())
    })
    .await;
    server.kill();
    server.restart().await;
    let error = ingesting.await.unwrap().unwrap_err();
    let known = error.stored();
    assert!(known >= 2000, "{error}");
    let told = ["`orders.created`", &format!("the first {known} messages are stored")];
    assert_says::<()>(Err(error.into_error()), ErrorKind::Publish, &told);
    let payloads = stored(&server, "SHOP").await;
    assert_eq!(payloads, (1..=payloads.len() as u64).collect::<Vec<_>>(), "a beginning without a gap");
    assert!(payloads.len() as u64 >= known && payloads.len() as u64 <= known + 1000, "{known} of {}", payloads.len());
}

#[tokio::test]
async fn a_broken_wire_leaves_an_exact_count() {
    let server = Server::start().await;
    if refuses_ingest(&server).await {
        return;
    }
    server.jetstream().await.create_stream(batched()).await.unwrap();
    let proxy = Proxy::start(server.address()).await;
    let options = |options: jetstream_handlers::async_nats::ConnectOptions| options.ignore_discovered_servers();
    let broker = Broker::builder().servers([proxy.url()]).connect_options(options).connect().await.unwrap();
    let ingesting = ingesting(&broker, 1..=15_000);
    eventually("some are stored", SOON, async || {
        (server.jetstream().await.get_stream("SHOP").await.unwrap().cached_info().state.messages > 3000).then_some(())
    })
    .await;
    proxy.pause();
    tokio::time::sleep(Duration::from_millis(100)).await;
    proxy.cut();
    proxy.resume();
    let known = match ingesting.await.unwrap() {
        // Only answers were lost, and the stream was asked for them.
        Ok(ack) => ack.batch_size.unwrap(),
        Err(error) => {
            let known = error.stored();
            let told = [&*format!("the first {known} are stored and no other"), "did not arrive"];
            assert_says::<()>(Err(error.into_error()), ErrorKind::Publish, &told);
            known
        }
    };
    assert_eq!(stored(&server, "SHOP").await, (1..=known).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_disconnect_in_the_middle_leaves_an_honest_count() {
    let server = Server::start().await;
    if refuses_ingest(&server).await {
        return;
    }
    server.jetstream().await.create_stream(batched()).await.unwrap();
    let broker = connect(&server).await;
    let ingesting = ingesting(&broker, 1..=200_000);
    eventually("some are stored", SOON, async || {
        (server.jetstream().await.get_stream("SHOP").await.unwrap().cached_info().state.messages > 3000).then_some(())
    })
    .await;
    broker.disconnect().await.unwrap();
    let error = ingesting.await.unwrap().unwrap_err();
    let known = error.stored();
    assert_says::<()>(Err(error.into_error()), ErrorKind::Closed, &["disconnected"]);
    let payloads = stored(&server, "SHOP").await;
    assert_eq!(payloads, (1..=payloads.len() as u64).collect::<Vec<_>>());
    assert!(payloads.len() as u64 >= known, "{known} of {}", payloads.len());
}

/// Has the leader of a stream give up while `work` is done.
async fn while_the_leader_steps_down<T>(cluster: &mut Cluster, stream: &str, work: impl Future<Output = T>) -> T {
    let client = cluster.client().await;
    let request = format!("$JS.API.STREAM.LEADER.STEPDOWN.{stream}");
    let step_down = async {
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_millis(400)).await;
            // While there is no leader there is no answer, which is as good.
            client.request(request.clone(), "".into()).await.map(drop).unwrap_or_default();
        }
    };
    join(work, step_down).await.0
}

/// The payloads of a stream of a cluster, in its order.
async fn stored_in(cluster: &mut Cluster, stream: &str) -> Vec<u64> {
    let leader = cluster.leader_of_stream(stream).await;
    stored(cluster.node(leader), stream).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_steps_down_loses_and_doubles_nothing() {
    let mut cluster = Cluster::start().await;
    let jetstream = cluster.jetstream().await;
    let (atomic, ingest) = (binary::version() >= (2, 12, 1), binary::version() >= (2, 14, 0));
    for name in ["ALL", "ATOMIC", "INGEST"] {
        let config = stream::Config {
            name: name.to_owned(),
            subjects: vec![format!("{}.>", name.to_lowercase())],
            num_replicas: 3,
            allow_atomic_publish: atomic,
            allow_batch_publish: ingest,
            ..Default::default()
        };
        jetstream.create_stream(config).await.unwrap();
    }
    let broker = Broker::builder().servers(cluster.urls()).connect().await.unwrap();
    let slow = |id: &u64| {
        if id.is_multiple_of(20) {
            std::thread::sleep(Duration::from_millis(5));
        }
    };

    let messages = (1..=6000_u64).inspect(slow).map(|id| broker.publish_message("all.created", &id));
    let all = broker.publisher().publish_all(messages).collect::<Vec<_>>();
    for result in while_the_leader_steps_down(&mut cluster, "ALL", all).await {
        result.unwrap();
    }
    let payloads = stored_in(&mut cluster, "ALL").await;
    assert_eq!(payloads.len(), 6000, "none is stored twice");
    assert_eq!(payloads.into_iter().collect::<BTreeSet<_>>(), (1..=6000).collect());

    if atomic {
        let batches = async {
            for batch in 0..30_u64 {
                let ids = batch * 50 + 1..=batch * 50 + 50;
                let messages = ids.inspect(slow).map(|id| broker.publish_message("atomic.created", &id));
                assert_eq!(broker.publisher().publish_atomic(messages).await.unwrap().batch_size, Some(50));
                tokio::time::sleep(Duration::from_millis(30)).await;
            }
        };
        while_the_leader_steps_down(&mut cluster, "ATOMIC", batches).await;
        assert_eq!(stored_in(&mut cluster, "ATOMIC").await, (1..=1500).collect::<Vec<_>>());
    }

    if ingest {
        let messages = (1..=10_000_u64).inspect(slow).map(|id| broker.publish_message("ingest.created", &id));
        let result = while_the_leader_steps_down(&mut cluster, "INGEST", broker.publisher().ingest(messages)).await;
        let known = result.map_or_else(|error| error.stored(), |ack| ack.batch_size.unwrap());
        let payloads = stored_in(&mut cluster, "INGEST").await;
        assert_eq!(payloads, (1..=payloads.len() as u64).collect::<Vec<_>>(), "a beginning without a gap");
        assert!(
            payloads.len() as u64 >= known && payloads.len() as u64 <= known + 1000,
            "{known} of {}",
            payloads.len()
        );
    }
}

#[tokio::test]
async fn messages_of_another_broker_are_refused() {
    let (broker, other) = (Broker::in_memory(), Broker::in_memory());
    let publisher = broker.publisher();
    let foreign = || other.publish_message("orders.created", &2);
    let told = ["`orders.created`", "another broker"];
    let messages =
        [broker.publish_message("orders.created", &1), foreign(), broker.publish_message("orders.created", &3)];
    let mut results = publisher.publish_all(messages).collect::<Vec<_>>().await.into_iter();
    let mut next = || results.next().unwrap();
    assert_eq!(next().unwrap().sequence, 1);
    assert_says(next(), ErrorKind::Config, &told);
    assert_eq!(next().unwrap().sequence, 2);
    assert_says(publisher.publish_atomic([foreign()]).await, ErrorKind::Config, &told);
    let error = publisher.ingest([foreign()]).await.unwrap_err();
    assert_eq!(error.stored(), 0);
    assert_says::<()>(Err(error.into_error()), ErrorKind::Config, &told);
}

//! Publishing many messages: each with its own result, in bounded memory.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall say where")]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::StreamExt;
use jetstream_handlers::prelude::*;
use jetstream_handlers::{ErrorKind, stream};
use jetstream_handlers_tests::{Proxy, Server, assert_says, eventually};

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
    let results = broker.publish_all((1..=2000_u64).map(|id| broker.publish_message("orders.created", &id))).await;
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
    assert_eq!(broker.publish_all([]).await.len(), 0);
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
    let mut results = broker.publish_all(messages).await.into_iter();
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
    let mut results = broker.publish_all(endless);
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
    let publisher = broker.publisher();
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
    let mut results = broker.publish_all((0_u64..1000).map(|id| broker.publish_message("orders.created", &id)));
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

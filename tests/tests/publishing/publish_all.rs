//! Many messages, each with its own result.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::StreamExt as _;
use jetstream_handlers::ErrorKind;
use jetstream_handlers::prelude::*;
use jetstream_handlers_tests::{Proxy, SOON, Server, assert_error, connect, eventually, ms};

use crate::{shop, stored};

#[tokio::test]
async fn messages_are_stored_in_order() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    // The stream does not exist yet.
    let messages = (1..=2000_u64).map(|id| broker.publish_message("orders.created", &id));
    let results: Vec<_> = broker.publisher().publish_all(messages).collect().await;
    for (result, sequence) in results.into_iter().zip(1..) {
        let ack = result.unwrap();
        assert_eq!(ack.stream, "ORDERS");
        if sequence > 256 {
            // The first messages found no stream, and were sent again in turn.
            assert_eq!((ack.sequence, ack.duplicate), (sequence, false));
        }
    }
    let payloads = stored(&server, "ORDERS").await;
    assert_eq!(payloads.len(), 2000);
    assert_eq!(payloads, (1..=2000).collect::<Vec<_>>());
    assert!(broker.publisher().publish_all([]).next().await.is_none());
}

#[tokio::test]
async fn failures_do_not_affect_other_messages() {
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
    assert_error(next(), ErrorKind::Config, &["`orders.*`", "wildcard"]);
    assert_error(next(), ErrorKind::WrongLastSequence, &["`orders.created`", "wrong last sequence: 1"]);
    assert!(next().unwrap().duplicate);
    assert_error(next(), ErrorKind::PayloadTooLarge, &["max_payload", "1000"]);
    assert_error(next(), ErrorKind::Config, &["header"]);
    assert_error(next(), ErrorKind::StreamMismatch, &["ORDERS"]);
    assert_eq!(next().unwrap().sequence, 2);
    assert_eq!(stored(&server, "SHOP").await, [1, 7]);
}

#[tokio::test]
async fn max_payload_includes_the_generated_id() {
    let server = Server::builder().config("max_payload: 1000").start().await;
    server.jetstream().await.create_stream(shop()).await.unwrap();
    let broker = connect(&server).await;
    let publisher = broker.publisher();
    let large = |size| publisher.publish_bytes("orders.created", vec![b'1'; size]);
    let results: Vec<_> = publisher.publish_all((900..1000).map(large)).collect().await;
    let accepted = results.iter().take_while(|result| result.is_ok()).count();
    assert!((1..100).contains(&accepted), "{accepted}");
    for result in results.into_iter().skip(accepted) {
        assert_error(result, ErrorKind::PayloadTooLarge, &["`orders.created`", "max_payload", "1000"]);
    }
    assert_eq!(publisher.publish_bytes("orders.created", "1").await.unwrap().sequence, accepted as u64 + 1);
}

#[tokio::test]
async fn iterator_is_read_at_most_one_window_ahead() {
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
    assert_eq!(taken.load(Ordering::SeqCst), 0, "nothing is read before the first poll");
    for given in 0..5000 {
        let sequence = results.next().await.unwrap().unwrap().sequence;
        assert_eq!(sequence, given + 1);
        let ahead = taken.load(Ordering::SeqCst) - given as usize;
        assert!(ahead <= 256, "{ahead} messages without a result");
    }
    proxy.pause();
    let given = taken.load(Ordering::SeqCst);
    let waited = tokio::time::timeout(ms(500), async {
        while let Some(result) = results.next().await {
            result.unwrap();
        }
    });
    assert!(waited.await.is_err(), "no ack during the pause");
    assert!(taken.load(Ordering::SeqCst) <= given + 256);
    proxy.resume();
    // A cancelled `next` loses no result.
    let next = futures::StreamExt::next(&mut results).await.unwrap().unwrap().sequence;
    assert!(next > 5000 && next <= given as u64 + 1, "{next}");
    assert_eq!(results.next().await.unwrap().unwrap().sequence, next + 1);
}

#[tokio::test]
async fn server_restart_stores_each_message_once() {
    let mut server = Server::start().await;
    server.jetstream().await.create_stream(shop()).await.unwrap();
    let broker = connect(&server).await;
    let publisher = broker.publisher().clone();
    let publishing = tokio::spawn(async move {
        let mut acks = 0;
        let pause = |id: &u64| {
            // Slow enough for the server to stop in the middle.
            if id.is_multiple_of(100) {
                std::thread::sleep(ms(10));
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
    assert_eq!(payloads.len(), 5000, "no message is stored twice");
    assert_eq!(payloads.into_iter().collect::<BTreeSet<_>>(), (1..=5000).collect());
}

#[tokio::test]
async fn disconnect_fails_the_remaining_messages() {
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
                assert_error(failure, ErrorKind::Closed, &["`orders.created`", "disconnected"]);
                failed += 1;
            }
        }
    }
    assert_eq!(stored + failed, 1000);
    assert!(failed >= 1000 - 256, "{failed}");
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
    assert_error(next(), ErrorKind::Config, &told);
    assert_eq!(next().unwrap().sequence, 2);
    assert_error(publisher.publish_atomic([foreign()]).await, ErrorKind::Config, &told);
    let error = publisher.ingest([foreign()]).await.unwrap_err();
    assert_eq!(error.stored(), 0);
    assert_error(&error, ErrorKind::Config, &told);
}

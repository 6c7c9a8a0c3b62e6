//! A server that is away or frozen: nothing is sent after the deadline, and the error states what may be stored.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::StreamExt as _;
use futures::future::join_all;
use jetstream_handlers::prelude::*;
use jetstream_handlers::{Error, ErrorKind, stream};
use jetstream_handlers_tests::{SOON, Server, assert_error, binary, builder, eventually, ms};

use crate::{shop, stored};

/// The publish timeout of these tests.
const LIMIT: std::time::Duration = ms(500);

fn may_be_stored(error: &Error) -> bool {
    let text = format!("{error:?}");
    let (not, perhaps) = (text.contains("it is not stored"), text.contains("it may be stored or not"));
    assert_ne!(not, perhaps, "{text}");
    perhaps
}

async fn start() -> (Server, Broker) {
    let server = Server::start().await;
    let newest = binary::version() >= (2, 14, 0);
    let config = stream::Config { allow_atomic_publish: newest, allow_batch_publish: newest, ..shop() };
    server.jetstream().await.create_stream(config).await.unwrap();
    let broker = builder(&server).publish_timeout(LIMIT).connect().await.unwrap();
    (server, broker)
}

async fn until_connected(broker: &Broker, connected: bool) {
    eventually("the connection changes", SOON, async || (broker.health().connected == connected).then_some(())).await;
}

/// Freezes the server, and waits until all of its threads have stopped.
async fn freeze(server: &mut Server) {
    server.freeze();
    let tasks = format!("/proc/{}/task", server.pid());
    eventually("the server is frozen", SOON, async || {
        let stopped = |entry: std::fs::DirEntry| {
            // The state follows the name of the program, which is in parentheses.
            let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T'))
        };
        std::fs::read_dir(&tasks).unwrap().all(|entry| stopped(entry.unwrap())).then_some(())
    })
    .await;
}

#[tokio::test]
async fn nothing_is_sent_after_the_deadline() {
    let (mut server, broker) = start().await;
    let publisher = broker.publisher();
    server.kill();
    until_connected(&broker, false).await;
    let not_stored = ["`orders.created`", "it is not stored", "no server is connected"];
    assert_error(broker.publish("orders.created", &1).await, ErrorKind::Timeout, &not_stored);
    let messages = [2_u64, 3].map(|id| broker.publish_message("orders.created", &id));
    let results: Vec<_> = publisher.publish_all(messages).collect().await;
    for result in results {
        assert_error(result, ErrorKind::Timeout, &["`orders.created`", "it is not stored"]);
    }
    if binary::version() >= (2, 14, 0) {
        let batch = || [4_u64, 5].map(|id| broker.publish_message("orders.created", &id));
        let failed = publisher.publish_atomic(batch()).await;
        assert_error(failed, ErrorKind::Timeout, &["nothing is stored", "no server is connected"]);
        let failed = publisher.ingest(batch()).await.unwrap_err();
        assert_eq!(failed.stored(), 0);
        assert_error(&failed, ErrorKind::Timeout, &["nothing is stored", "no server is connected"]);
    }
    // A caller that gives up before the deadline.
    tokio::time::timeout(ms(50), broker.publish("orders.created", &6)).await.unwrap_err();
    server.restart().await;
    until_connected(&broker, true).await;
    // What the client had queued would precede this on the connection.
    for id in [1, 7] {
        broker.publish("orders.created", &id).await.unwrap();
    }
    assert_eq!(stored(&server, "SHOP").await, [1, 7], "the retry of the caller is stored once");
}

#[tokio::test]
async fn publish_to_a_frozen_server_may_be_stored_and_its_retry_is_not_stored_again() {
    let (mut server, broker) = start().await;
    freeze(&mut server).await;
    let failed = broker.publish_message("orders.created", &1).message_id("one").await.unwrap_err();
    assert!(may_be_stored(&failed), "{failed:?}");
    server.thaw();
    let retried = eventually("the retry succeeds", SOON, async || {
        broker.publish_message("orders.created", &1).message_id("one").await.ok()
    })
    .await;
    assert_eq!(retried.sequence, 1);
    broker.publish("orders.created", &2).await.unwrap();
    assert_eq!(stored(&server, "SHOP").await, [1, 2]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statements_hold_when_a_server_is_killed_under_load() {
    let (mut server, broker) = start().await;
    let publishing = (0..20_u64).map(|publisher| {
        let broker = broker.clone();
        tokio::spawn(async move {
            let mut results = Vec::new();
            for id in (publisher * 100_000).. {
                let result = broker.publish("orders.created", &id).await;
                let failed = result.is_err();
                results.push((id, result));
                if failed {
                    return results;
                }
            }
            unreachable!()
        })
    });
    let publishing: Vec<_> = publishing.collect();
    let stream = server.jetstream().await.get_stream("SHOP").await.unwrap();
    eventually("some are stored", SOON, async || (stream.get_info().await.unwrap().state.messages > 200).then_some(()))
        .await;
    server.kill();
    let results: Vec<_> = join_all(publishing).await.into_iter().flat_map(Result::unwrap).collect();
    server.restart().await;
    until_connected(&broker, true).await;
    broker.publish("orders.created", &u64::MAX).await.unwrap();
    let found = stored(&server, "SHOP").await;
    let ids: BTreeSet<_> = found.iter().copied().collect();
    assert_eq!(ids.len(), found.len(), "none is stored twice");
    for (id, result) in results {
        match result {
            Ok(_) => assert!(ids.contains(&id), "{id} was acknowledged"),
            Err(error) if may_be_stored(&error) => {}
            Err(error) => assert!(!ids.contains(&id), "{id}: {error:?}"),
        }
    }
}

#[tokio::test]
async fn large_messages_wait_unsent_while_a_frozen_server_reads_nothing() {
    const SIZE: usize = 8 * 1024 * 1024;
    const COUNT: usize = 20;
    let mut server = Server::builder().config("max_payload: 9MB").start().await;
    server.jetstream().await.create_stream(shop()).await.unwrap();
    let broker = builder(&server).publish_timeout(ms(1500)).connect().await.unwrap();
    let payload = bytes::Bytes::from(vec![b'1'; SIZE]);
    let publish = || broker.publisher().publish_bytes("orders.created", payload.clone());
    publish().await.unwrap();
    freeze(&mut server).await;
    let results = join_all((0..COUNT).map(|_| publish().into_future())).await;
    let perhaps = results.into_iter().filter(|result| may_be_stored(result.as_ref().unwrap_err())).count();
    assert!(perhaps <= 2, "{perhaps} of {COUNT} were given to the client");
    // The iterator is not read ahead either.
    let taken = AtomicUsize::new(0);
    let messages = std::iter::repeat_with(|| {
        taken.fetch_add(1, Ordering::Relaxed);
        publish()
    });
    let mut all = broker.publisher().publish_all(messages);
    let failed = all.next().await.unwrap().unwrap_err();
    assert!(!may_be_stored(&failed), "{failed:?}");
    assert!(taken.load(Ordering::Relaxed) <= 2, "{taken:?}");
    drop(all);
    server.thaw();
    eventually("a publish succeeds", SOON, async || publish().await.ok()).await;
    let count = crate::count(&server.jetstream().await, "SHOP").await as usize;
    assert!((2..=3 + perhaps).contains(&count), "{count} messages, {perhaps} of which may be stored");
}

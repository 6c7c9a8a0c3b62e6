//! No message is skipped when the connection, the server, the consumer or the stream goes away.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{FutureExt as _, StreamExt as _};
use jetstream_handlers::prelude::*;
use jetstream_handlers::stream;
use jetstream_handlers_tests::{
    Cluster, Proxy, Recorder, SOON, Server, binary, connect, eventually, ms, publish, stream_config,
    without_repetitions,
};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::{all_acked, recording, slow_with, subscribe};

#[tokio::test]
async fn repeated_disconnects_skip_nothing() {
    let server = Server::start().await;
    let proxy = Proxy::start(server.address()).await;
    let publisher = connect(&server).await;
    let broker = connect(&proxy).await;
    let calls = Recorder::new();
    let _subscription = subscribe(&broker, &calls, Duration::ZERO).await;
    const LAST: u64 = 6000;
    let publishing = publish(&publisher, "work.ordered", 1..=LAST);
    let cutting = async {
        for _ in 0..8 {
            tokio::time::sleep(ms(150)).await;
            proxy.cut();
        }
    };
    futures::join!(publishing, cutting);
    calls.until(LAST).await;
    let handled = without_repetitions(&calls.items());
    assert_eq!(handled.len(), LAST as usize);
    assert!(handled.is_sorted(), "not in order");
    all_acked(&server, LAST).await;
}

#[tokio::test]
async fn repeated_disconnects_use_no_attempts() {
    let server = Server::start().await;
    let proxy = Proxy::start(server.address()).await;
    let (broker, publisher) = (connect(&proxy).await, connect(&server).await);
    publish(&publisher, "work.ordered", 1..=4).await;
    let (calls, permits) = (Recorder::new(), Arc::new(Semaphore::new(0)));
    let handler = {
        let (calls, permits) = (calls.clone(), permits.clone());
        move |id: u64| {
            let (calls, permits) = (calls.clone(), permits.clone());
            async move {
                if id == 1 {
                    drop(permits.acquire().await.unwrap());
                }
                let failed = calls.attempt(id) == 1 && id == 3;
                if failed { Err(HandlerError::retry("once")) } else { Ok(()) }
            }
        }
    };
    let subscribe = broker.subscribe("work.ordered", "ordered", handler).ordered();
    let client = server.client().await;
    let mut requests = client.subscribe("$JS.API.CONSUMER.INFO.WORK.ordered").await.unwrap();
    client.flush().await.unwrap();
    let _subscription = subscribe.max_deliver(3).backoff(&[ms(100)]).await.unwrap();
    eventually("all are delivered", SOON, async || {
        (server.consumer_info("WORK", "ordered").await.num_ack_pending == 4).then_some(())
    })
    .await;
    for _ in 0..5 {
        while requests.next().now_or_never().is_some() {}
        proxy.cut();
        requests.next().await.unwrap();
        // Time for naks that would request missing messages.
        tokio::time::sleep(ms(200)).await;
    }
    permits.add_permits(1);
    calls.until(4).await;
    assert_eq!(calls.items(), [1, 2, 3, 3, 4]);
    assert_eq!(publisher.dead_letters().list(100).await.unwrap().len(), 0);
}

#[tokio::test]
async fn server_restart_skips_nothing() {
    let mut server = Server::start().await;
    let broker = connect(&server).await;
    publish(&broker, "work.ordered", 1..=3000).await;
    let calls = Recorder::new();
    let _subscription = subscribe(&broker, &calls, ms(1)).await;
    calls.until(200).await;
    server.kill();
    server.restart().await;
    publish(&broker, "work.ordered", 3001..=3010).await;
    calls.until(3010).await;
    let handled = without_repetitions(&calls.items());
    assert!(handled.is_sorted() && handled.len() == 3010);
    all_acked(&server, 3010).await;
}

#[tokio::test]
async fn recreated_stream_is_handled_from_its_start() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    publish(&broker, "work.ordered", 1..=50).await;
    let calls = Recorder::new();
    let _subscription = subscribe(&broker, &calls, Duration::ZERO).await;
    calls.until(50).await;
    let jetstream = server.jetstream().await;
    jetstream.delete_stream("WORK").await.unwrap();
    let config = stream_config("WORK", &["work.>"]);
    jetstream.create_stream(config).await.unwrap();
    publish(&broker, "work.ordered", 101..=110).await;
    calls.until(110).await;
    assert_eq!(calls.items(), (1..=50).chain(101..=110).collect::<Vec<_>>());
}

#[tokio::test]
async fn messages_of_a_deleted_stream_do_not_ack_new_ones() {
    let server = Server::start().await;
    let proxy = Proxy::start(server.address()).await;
    let (broker, publisher) = (connect(&proxy).await, connect(&server).await);
    publish(&publisher, "work.ordered", 1..=10).await;
    let (calls, after) = (Recorder::new(), Recorder::new());
    let subscribing = broker.subscribe("work.ordered", "ordered", recording(&calls, ms(300))).ordered();
    let first = subscribing.single_instance().await.unwrap();
    calls.until(1).await;
    proxy.refuse();
    proxy.cut();
    let jetstream = server.jetstream().await;
    jetstream.delete_stream("WORK").await.unwrap();
    let config = stream_config("WORK", &["work.>"]);
    jetstream.create_stream(config).await.unwrap();
    publish(&publisher, "work.ordered", 101..=110).await;
    proxy.accept();
    eventually("a message is acknowledged", SOON, async || {
        let info = jetstream.get_stream("WORK").await.ok()?.consumer_info("ordered").await.ok()?;
        (info.ack_floor.stream_sequence > 0).then_some(())
    })
    .await;
    first.unsubscribe().await.unwrap();
    let subscribing = publisher.subscribe("work.ordered", "ordered", recording(&after, Duration::ZERO)).ordered();
    let _second = subscribing.single_instance().await.unwrap();
    publish(&publisher, "work.ordered", [111]).await;
    after.until(111).await;
    let all = calls.items().into_iter().chain(after.items()).filter(|id| *id > 100).collect::<Vec<_>>();
    assert_eq!(without_repetitions(&all), (101..=111).collect::<Vec<_>>());
}

#[tokio::test]
async fn call_that_outlives_its_stream_does_not_ack_new_messages() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    publish(&broker, "work.ordered", 1..=20).await;
    let (calls, started) = (Recorder::new(), Recorder::new());
    let permits = Arc::new(Semaphore::new(0));
    let handler = {
        let (calls, started, permits) = (calls.clone(), started.clone(), permits.clone());
        move |id: u64| {
            let (calls, started, permits) = (calls.clone(), started.clone(), permits.clone());
            async move {
                started.add(id);
                match id {
                    20 => drop(permits.acquire().await.unwrap()),
                    // Longer than an ack is delayed to cover more messages.
                    101 => tokio::time::sleep(ms(500)).await,
                    _ => {}
                }
                calls.add(id);
            }
        }
    };
    let first = broker.subscribe("work.ordered", "ordered", handler).ordered().await.unwrap();
    started.until(20).await;
    let jetstream = server.jetstream().await;
    jetstream.delete_stream("WORK").await.unwrap();
    let config = stream_config("WORK", &["work.>"]);
    jetstream.create_stream(config).await.unwrap();
    publish(&broker, "work.ordered", 101..=130).await;
    eventually("the new stream is delivered", SOON, async || {
        let info = jetstream.get_stream("WORK").await.ok()?.consumer_info("ordered").await.ok()?;
        (info.num_ack_pending == 30).then_some(())
    })
    .await;
    permits.add_permits(1);
    started.until(101).await;
    first.unsubscribe().await.unwrap();
    let after = Recorder::new();
    let _second = subscribe(&broker, &after, Duration::ZERO).await;
    publish(&broker, "work.ordered", [131]).await;
    after.until(131).await;
    let all: Vec<_> = calls.items().into_iter().chain(after.items()).collect();
    assert_eq!(without_repetitions(&all), (1..=20).chain(101..=131).collect::<Vec<_>>());
}

#[tokio::test]
async fn consumer_deleted_during_a_disconnect_is_recreated() {
    let server = Server::start().await;
    let proxy = Proxy::start(server.address()).await;
    let (broker, publisher) = (connect(&proxy).await, connect(&server).await);
    publish(&publisher, "work.ordered", 1..=2000).await;
    let calls = Recorder::new();
    let subscribing = broker.subscribe("work.ordered", "ordered", slow_with(&calls, 2002..=2010)).ordered();
    let _first = subscribing.single_instance().ack_wait(ms(1000)).await.unwrap();
    calls.until(2000).await;
    // After this time, the worker reads the position of the consumer again.
    tokio::time::sleep(ms(5200)).await;
    publish(&publisher, "work.ordered", 2001..=2001).await;
    all_acked(&server, 2001).await;
    publish(&publisher, "work.ordered", 2002..=2010).await;
    calls.until(2002).await;
    proxy.refuse();
    proxy.cut();
    server.jetstream().await.get_stream("WORK").await.unwrap().delete_consumer("ordered").await.unwrap();
    proxy.accept();
    calls.until(2010).await;
    publish(&publisher, "work.ordered", 2011..=2020).await;
    all_acked(&server, 2020).await;
}

#[tokio::test]
async fn consumer_reset_during_a_stop_skips_nothing() {
    let server = Server::start().await;
    if binary::version() < (2, 14, 0) {
        // The server cannot reset a consumer.
        return;
    }
    let broker = connect(&server).await;
    let calls = Recorder::new();
    publish(&broker, "work.ordered", 1..=1000).await;
    let subscribe = async || {
        let subscribing = broker.subscribe("work.ordered", "ordered", slow_with(&calls, 1001..=1010)).ordered();
        subscribing.single_instance().ack_wait(ms(2000)).await.unwrap()
    };
    let first = subscribe().await;
    all_acked(&server, 1000).await;
    publish(&broker, "work.ordered", 1001..=1010).await;
    calls.until(1001).await;
    let client = server.client().await;
    client.request("$JS.API.CONSUMER.RESET.WORK.ordered", "{}".into()).await.unwrap();
    first.unsubscribe().await.unwrap();
    let _second = subscribe().await;
    calls.until(1010).await;
    publish(&broker, "work.ordered", 1011..=1030).await;
    calls.until(1030).await;
    assert_eq!(without_repetitions(&calls.items()), (1..=1030).collect::<Vec<_>>());
    server.ack_pending("WORK", "ordered", 0).await;
}

#[tokio::test]
async fn reset_consumer_is_handled_again() {
    let server = Server::start().await;
    if binary::version() < (2, 14, 0) {
        // The server cannot reset a consumer.
        return;
    }
    let broker = connect(&server).await;
    publish(&broker, "work.ordered", 1..=20).await;
    let calls = Recorder::new();
    let _subscription = subscribe(&broker, &calls, Duration::ZERO).await;
    all_acked(&server, 20).await;
    let client = server.client().await;
    let reset = async || client.request("$JS.API.CONSUMER.RESET.WORK.ordered", r#"{"seq":1}"#.into()).await.unwrap();
    reset().await;
    eventually("all are handled twice", SOON, async || {
        // The server sometimes keeps the ack floor (observed on 2.15.1): it then counts all as acknowledged and as pending.
        let info = server.consumer_info("WORK", "ordered").await;
        if info.num_ack_pending > 0 && info.ack_floor.consumer_sequence >= info.delivered.consumer_sequence {
            reset().await;
        }
        (calls.items().len() == 40).then_some(())
    })
    .await;
    all_acked(&server, 20).await;
}

#[tokio::test]
async fn acked_messages_do_not_hide_missing_ones() {
    let mut cluster = Cluster::start().await;
    let jetstream = cluster.jetstream().await;
    let config = stream::Config { num_replicas: 3, ..stream_config("WORK", &["work.>"]) };
    jetstream.create_stream(config).await.unwrap();
    let publisher = connect(&cluster.urls()[0]).await;
    let (calls, permits) = (Recorder::new(), Arc::new(Semaphore::new(0)));
    let subscribe = async |broker: &Broker| {
        let (calls, permits) = (calls.clone(), permits.clone());
        let handler = move |id: u64| {
            let (calls, permits) = (calls.clone(), permits.clone());
            async move {
                if id == 1 {
                    drop(permits.acquire().await.unwrap());
                }
                tokio::time::sleep(ms(5)).await;
                calls.add(id);
            }
        };
        let subscribing = broker.subscribe("work.ordered", "ordered", handler).ordered().single_instance();
        subscribing.ack_every(1).batch_size(100).await.unwrap()
    };
    // Creates the consumer, whose leader must be known.
    subscribe(&publisher).await.unsubscribe().await.unwrap();
    let leader = cluster.leader_of_consumer("WORK", "ordered").await;
    let proxy = Proxy::start(cluster.node(leader).address()).await;
    let broker = connect(&proxy).await;
    let client = cluster.node(leader).client().await;
    let mut requests = client.subscribe("$JS.API.CONSUMER.INFO.WORK.ordered").await.unwrap();
    client.flush().await.unwrap();
    let ack_pending = async |count| {
        eventually("the messages are delivered", SOON, async || {
            let info = jetstream.get_stream("WORK").await.ok()?.consumer_info("ordered").await.ok()?;
            (info.num_ack_pending == count).then_some(())
        })
        .await;
    };
    publish(&publisher, "work.ordered", 1..=20).await;
    let _subscription = subscribe(&broker).await;
    ack_pending(20).await;
    // After the first delivery, the worker no longer reads the consumer.
    tokio::time::sleep(ms(500)).await;
    // These messages are delivered and lost in transit.
    proxy.pause();
    publish(&publisher, "work.ordered", 21..=23).await;
    ack_pending(23).await;
    tokio::time::sleep(ms(100)).await;
    proxy.refuse();
    proxy.cut();
    tokio::time::sleep(ms(20)).await;
    proxy.resume();
    while requests.next().now_or_never().is_some() {}
    // Without the other nodes, the leader receives acks that it cannot commit.
    for node in (0..3).filter(|node| *node != leader) {
        cluster.node(node).freeze();
    }
    proxy.accept();
    requests.next().await.unwrap();
    permits.add_permits(1);
    tokio::time::sleep(ms(600)).await;
    for node in (0..3).filter(|node| *node != leader) {
        cluster.node(node).thaw();
    }
    publish(&publisher, "work.ordered", 24..=30).await;
    calls.until(30).await;
    assert_eq!(without_repetitions(&calls.items()), (1..=30).collect::<Vec<_>>());
}

/// Checks that all messages but 25 are handled when `remove` takes 25 from the stream.
async fn without_25(remove: impl AsyncFnOnce(&Proxy, &async_nats::jetstream::stream::Stream)) {
    let server = Server::start().await;
    let proxy = Proxy::start(server.address()).await;
    let (broker, publisher) = (connect(&proxy).await, connect(&server).await);
    for id in 1..=30_u64 {
        publisher.publish(&format!("work.ordered.{id}"), &id).await.unwrap();
    }
    let calls = Recorder::new();
    let subscribe = broker.subscribe("work.ordered.*", "ordered", recording(&calls, ms(50)));
    let _subscription = subscribe.ordered().await.unwrap();
    calls.until(2).await;
    remove(&proxy, &server.jetstream().await.get_stream("WORK").await.unwrap()).await;
    publisher.publish("work.ordered.31", &31).await.unwrap();
    calls.until(31).await;
    // Message 25 may have been in flight already.
    let handled: Vec<_> = without_repetitions(&calls.items()).into_iter().filter(|id| *id != 25).collect();
    assert_eq!(handled, (1..=31).filter(|id| *id != 25).collect::<Vec<_>>());
    all_acked(&server, 31).await;
}

#[tokio::test]
async fn message_deleted_during_a_disconnect_skips_no_other() {
    without_25(async |proxy, stream| {
        proxy.cut();
        stream.delete_message(25).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn subject_purged_before_a_disconnect_skips_no_other() {
    without_25(async |proxy, stream| {
        stream.purge().filter("work.ordered.25").await.unwrap();
        proxy.cut();
    })
    .await;
}

/// After the reconnect, the worker has no inbox until its consumer is restored, and nothing refreshes its pin.
#[tokio::test]
async fn consumer_is_restored_after_a_reconnect_without_its_stream() {
    let server = Server::start().await;
    let jetstream = server.jetstream().await;
    let config = stream_config("WORK", &["work.>"]);
    jetstream.create_stream(config.clone()).await.unwrap();
    let proxy = Proxy::start(server.address()).await;
    let (broker, publisher) = (connect(&proxy).await, connect(&server).await);
    let calls = Recorder::new();
    let subscription = subscribe(&broker, &calls, Duration::ZERO).await;
    publish(&publisher, "work.ordered", 1..=1).await;
    calls.until(1).await;
    // The worker looks for the stream before it restores the consumer.
    let mut attempts = server.client().await.subscribe("$JS.API.STREAM.INFO.WORK").await.unwrap();
    jetstream.delete_stream("WORK").await.unwrap();
    assert!(timeout(SOON, attempts.next()).await.is_ok(), "it looks for the stream");
    proxy.cut();
    let cut = Instant::now();
    // The pin is refreshed every 5/3 s.
    while cut.elapsed() < secs(4) {
        let attempt = timeout(SOON, attempts.next()).await;
        assert!(attempt.is_ok(), "it still looks for the stream {:?} after the cut", cut.elapsed());
    }
    jetstream.create_stream(config).await.unwrap();
    publish(&publisher, "work.ordered", 2..=2).await;
    calls.until(2).await;
    all_acked(&server, 1).await;
    subscription.unsubscribe().await.unwrap();
}

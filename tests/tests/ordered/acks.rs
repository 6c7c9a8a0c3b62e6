//! Acknowledgements, retries and redeliveries.

use std::time::{Duration, Instant};

use futures::StreamExt as _;
use jetstream_handlers::async_nats::jetstream::consumer;
use jetstream_handlers::prelude::*;
use jetstream_handlers_tests::{Proxy, Recorder, SOON, Server, connect, eventually, ms, publish, without_repetitions};

use crate::{all_acked, receive_unacked, recording, single, subscribe};

#[tokio::test]
async fn one_ack_covers_a_hundred_messages() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    publish(&broker, "work.ordered", 1..=1000).await;
    let mut acks = server.client().await.subscribe("$JS.ACK.WORK.ordered.>").await.unwrap();
    let calls = Recorder::new();
    let subscription = subscribe(&broker, &calls, Duration::ZERO).await;
    all_acked(&server, 1000).await;
    assert_eq!(calls.items(), (1..=1000).collect::<Vec<_>>());
    subscription.unsubscribe().await.unwrap();
    let mut count = 0;
    while let Ok(Some(ack)) = tokio::time::timeout(ms(200), acks.next()).await {
        count += usize::from(ack.payload.as_ref() == b"+ACK");
    }
    assert!((10..150).contains(&count), "{count} acks");
}

#[tokio::test]
async fn handled_messages_are_acked_during_a_long_call() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    publish(&broker, "work.ordered", 1..=3).await;
    let handler = |id: u64| async move {
        if id == 3 {
            std::future::pending::<()>().await;
        }
    };
    let _subscription = broker.subscribe("work.ordered", "ordered", handler).ordered().await.unwrap();
    let jetstream = server.jetstream().await;
    eventually("two of three are acknowledged", SOON, async || {
        let info = jetstream.get_stream("WORK").await.ok()?.consumer_info("ordered").await.ok()?;
        (info.ack_floor.stream_sequence == 2 && info.num_ack_pending == 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn failing_message_blocks_later_messages_until_it_ends() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    publish(&broker, "work.ordered", 1..=6).await;
    let calls = Recorder::new();
    let handler = {
        let calls = calls.clone();
        move |id: u64, info: Info| {
            let times = calls.attempt(id);
            assert_eq!(info.delivered(), times as u64, "each attempt counts as a delivery");
            async move {
                match id {
                    2 if times < 3 => Err("not yet".into()),
                    4 => Err("never".into()),
                    5 if times == 1 => panic!("once"),
                    _ => Ok(()),
                }
            }
        }
    };
    // The retries take longer than `ack_wait`, so the waiting messages need in-progress signals.
    let subscribe = broker.subscribe("work.ordered", "ordered", handler).ordered().max_deliver(3);
    let _subscription = subscribe.ack_wait(ms(300)).backoff(&[ms(400)]).await.unwrap();
    all_acked(&server, 6).await;
    assert_eq!(calls.items(), [1, 2, 2, 2, 3, 4, 4, 4, 5, 5, 6]);
    let letters = broker.dead_letters().list(100).await.unwrap();
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].delivered, 3);
}

#[tokio::test]
async fn blocking_call_over_its_timeout_is_retried_after_it_returns() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    publish(&broker, "work.ordered", 1..=3).await;
    let (started, calls) = (Recorder::new(), Recorder::new());
    let handler = {
        let (started, calls) = (started.clone(), calls.clone());
        move |id: u64| {
            let (started, calls) = (started.clone(), calls.clone());
            async move {
                if started.attempt(id) == 1 && id == 1 {
                    std::thread::sleep(ms(1500));
                }
                calls.add(id);
            }
        }
    };
    let subscribe = broker.subscribe("work.ordered", "ordered", handler).ordered().blocking();
    let _subscription = subscribe.timeout(ms(200)).max_deliver(3).backoff(&[ms(50)]).await.unwrap();
    calls.until(3).await;
    assert_eq!(calls.items(), [1, 1, 2, 3]);
    assert_eq!(broker.dead_letters().list(100).await.unwrap().len(), 0);
}

#[tokio::test]
async fn redelivered_messages_do_not_block_later_acks() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    publish(&broker, "work.ordered", 1..=1).await;
    let calls = Recorder::new();
    let subscribe = async || {
        let subscribing = broker.subscribe("work.ordered", "ordered", recording(&calls, Duration::ZERO)).ordered();
        subscribing.single_instance().ack_every(10).await.unwrap()
    };
    let first = subscribe().await;
    all_acked(&server, 1).await;
    first.unsubscribe().await.unwrap();
    publish(&broker, "work.ordered", 2..=31).await;
    // These ten are redelivered with higher consumer sequences than the messages after them.
    receive_unacked(&server, 10).await;
    let second = subscribe().await;
    calls.until(31).await;
    second.unsubscribe().await.unwrap();
    assert_eq!(calls.items(), (1..=31).collect::<Vec<_>>());
    let info = server.consumer_info("WORK", "ordered").await;
    assert_eq!((info.num_ack_pending, info.ack_floor.stream_sequence), (0, 31));
}

#[tokio::test]
async fn redelivered_messages_are_acked_when_idle() {
    let server = Server::start().await;
    let proxy = Proxy::start(server.address()).await;
    let (broker, publisher) = (connect(&proxy).await, connect(&server).await);
    publish(&publisher, "work.ordered", 1..=1).await;
    let calls = Recorder::new();
    let subscribing = broker.subscribe("work.ordered", "ordered", recording(&calls, Duration::ZERO)).ordered();
    let _first = subscribing.ack_wait(ms(1000)).await.unwrap();
    all_acked(&server, 1).await;
    for (ids, last) in [(2..=6, 6), (7..=7, 7)] {
        // These messages are delivered and lost in transit.
        proxy.pause();
        publish(&publisher, "work.ordered", ids).await;
        tokio::time::sleep(ms(100)).await;
        proxy.cut();
        tokio::time::sleep(ms(20)).await;
        proxy.resume();
        all_acked(&server, last).await;
        let delivered = server.consumer_info("WORK", "ordered").await.delivered.consumer_sequence;
        // After `ack_wait`, the server finds no unacknowledged message.
        tokio::time::sleep(ms(2500)).await;
        assert_eq!(
            server.consumer_info("WORK", "ordered").await.delivered.consumer_sequence,
            delivered,
            "no redelivery"
        );
    }
    assert_eq!(calls.items(), (1..=7).collect::<Vec<_>>());
}

#[tokio::test]
async fn redelivered_messages_are_acked_with_max_ack_pending_one() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    publish(&broker, "work.ordered", 1..=1).await;
    let calls = Recorder::new();
    let first = single(&broker, &calls, ms(1000)).await;
    all_acked(&server, 1).await;
    first.unsubscribe().await.unwrap();
    publish(&broker, "work.ordered", 2..=11).await;
    receive_unacked(&server, 10).await;
    let second = single(&broker, &calls, ms(1000)).await;
    all_acked(&server, 11).await;
    // After `ack_wait`, the server finds no unacknowledged message.
    tokio::time::sleep(ms(2500)).await;
    second.unsubscribe().await.unwrap();
    let bound = async |bound| {
        let config =
            consumer::Config { max_ack_pending: bound, ..server.consumer_info("WORK", "ordered").await.config };
        server.jetstream().await.get_stream("WORK").await.unwrap().update_consumer(config).await.unwrap();
    };
    bound(1).await;
    publish(&broker, "work.ordered", 12..=13).await;
    receive_unacked(&server, 1).await;
    let third = single(&broker, &calls, ms(1000)).await;
    all_acked(&server, 13).await;
    third.unsubscribe().await.unwrap();
    // More messages are unacknowledged than the new `max_ack_pending` allows.
    bound(10).await;
    publish(&broker, "work.ordered", 14..=23).await;
    receive_unacked(&server, 10).await;
    bound(1).await;
    let _fourth = single(&broker, &calls, ms(1000)).await;
    all_acked(&server, 23).await;
    assert_eq!(calls.items(), (1..=23).collect::<Vec<_>>());
}

#[tokio::test]
async fn missing_messages_are_redelivered_under_load() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    publish(&broker, "work.ordered", 1..=1).await;
    let calls = Recorder::new();
    let first = single(&broker, &calls, SOON).await;
    all_acked(&server, 1).await;
    first.unsubscribe().await.unwrap();
    publish(&broker, "work.ordered", 2..=2).await;
    receive_unacked(&server, 1).await;
    let _second = single(&broker, &calls, SOON).await;
    let started = Instant::now();
    for id in 3.. {
        publish(&broker, "work.ordered", [id]).await;
        tokio::time::sleep(ms(20)).await;
        if calls.items().contains(&2) {
            break;
        }
        assert!(started.elapsed() < secs(10), "message 2 is not redelivered: {:?}", calls.items());
    }
}

#[tokio::test]
async fn in_flight_messages_are_not_nakked() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    publish(&broker, "work.ordered", 1..=900).await;
    let mut answers = server.client().await.subscribe("$JS.ACK.WORK.ordered.>").await.unwrap();
    let calls = Recorder::new();
    let subscription = subscribe(&broker, &calls, Duration::ZERO).await;
    calls.until(900).await;
    subscription.unsubscribe().await.unwrap();
    let mut naks = 0;
    while let Ok(Some(answer)) = tokio::time::timeout(ms(200), answers.next()).await {
        naks += usize::from(answer.payload.starts_with(b"-NAK"));
    }
    assert_eq!(naks, 0);
}

#[tokio::test]
async fn low_max_ack_pending_works() {
    let server = Server::start().await;
    let proxy = Proxy::start(server.address()).await;
    let (broker, publisher) = (connect(&proxy).await, connect(&server).await);
    publish(&publisher, "work.ordered", 1..=1).await;
    let calls = Recorder::new();
    let first = subscribe(&broker, &calls, Duration::ZERO).await;
    calls.until(1).await;
    first.unsubscribe().await.unwrap();
    let config = consumer::Config { max_ack_pending: 3, ..server.consumer_info("WORK", "ordered").await.config };
    server.jetstream().await.get_stream("WORK").await.unwrap().update_consumer(config).await.unwrap();
    let _second = subscribe(&broker, &calls, ms(1)).await;
    const LAST: u64 = 300;
    let cutting = async {
        for part in 1..=4 {
            calls.until(part * 50).await;
            proxy.cut();
        }
    };
    futures::join!(publish(&publisher, "work.ordered", 2..=LAST), cutting);
    calls.until(LAST).await;
    assert_eq!(without_repetitions(&calls.items()), (1..=LAST).collect::<Vec<_>>());
    all_acked(&server, LAST).await;
}

//! One instance is active, and another one takes over when it stops, dies or is cut off.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use jetstream_handlers::prelude::*;
use jetstream_handlers::{Error, Subscription};
use jetstream_handlers_tests::{
    Program, Proxy, Recorder, SOON, Server, connect, eventually, ms, publish, without_repetitions,
};

use crate::{all_acked, recording, subscribe};

/// Starts a process that is active and has handled message 1, and a standby handler in this process.
async fn active_and_standby(server: &Server, broker: &Broker) -> (Program, Recorder, Subscription) {
    publish(broker, "work.ordered", 1..=1).await;
    let mut active = Program::start(env!("CARGO_BIN_EXE_ordered_worker"), &[], &[("NATS_URL", &server.url())]);
    active.until("handled 1").await;
    let calls = Recorder::new();
    let standby = subscribe(broker, &calls, Duration::ZERO).await;
    (active, calls, standby)
}

#[tokio::test]
async fn standby_takes_over_when_the_active_instance_stops() {
    let server = Server::start().await;
    let (one, other) = (connect(&server).await, connect(&server).await);
    let (first_calls, second_calls) = (Recorder::new(), Recorder::new());
    let first = subscribe(&one, &first_calls, ms(2)).await;
    publish(&one, "work.ordered", 1..=20).await;
    first_calls.until(20).await;
    let _second = subscribe(&other, &second_calls, ms(2)).await;
    publish(&one, "work.ordered", 21..=220).await;
    first_calls.until(60).await;
    assert!(second_calls.items().is_empty(), "the standby handles nothing");
    let started = Instant::now();
    first.unsubscribe().await.unwrap();
    let stopped = Instant::now();
    second_calls.until(220).await;
    let all: Vec<_> = first_calls.items().into_iter().chain(second_calls.items()).collect();
    assert_eq!(all, (1..=220).collect::<Vec<_>>(), "each once, in order");
    assert!(stopped - started < secs(3), "the stop took {:?}", stopped - started);
    all_acked(&server, 220).await;
}

#[tokio::test]
async fn standby_takes_over_when_the_active_instance_is_killed() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    let (mut active, calls, _standby) = active_and_standby(&server, &broker).await;
    publish(&broker, "work.ordered", 2..=400).await;
    active.until("handled 100").await;
    assert!(calls.items().is_empty());
    active.signal("KILL");
    let killed = Instant::now();
    active.ended().await;
    eventually("the standby is active", SOON, async || (!calls.items().is_empty()).then_some(())).await;
    let took = killed.elapsed();
    calls.until(400).await;
    let before: Vec<u64> = active.lines("handled ").iter().map(|id| id.parse().unwrap()).collect();
    let after = calls.items();
    assert_eq!(before, (1..=before.len() as u64).collect::<Vec<_>>());
    let next = before.len() as u64 + 1;
    // Handled messages without an ack are redelivered, and no message is skipped.
    assert!(after[0] <= next && after[0] + 200 > next, "begins at {} after {next}", after[0]);
    assert_eq!(after, (after[0]..=400).collect::<Vec<_>>());
    println!("the failover took {took:?}");
    assert!(took < secs(12), "the failover took {took:?}");
    all_acked(&server, 400).await;
}

#[tokio::test]
async fn standby_takes_over_when_the_active_instance_freezes() -> Result<(), Error> {
    let server = Server::start().await;
    let broker = connect(&server).await;
    let (mut active, calls, _standby) = active_and_standby(&server, &broker).await;
    publish(&broker, "work.ordered", 2..=2000).await;
    active.until("handled 50").await;
    active.signal("STOP");
    calls.until(2000).await;
    assert_eq!(calls.items(), (calls.items()[0]..=2000).collect::<Vec<_>>());
    active.signal("CONT");
    // The first process resumes without being active.
    publish(&broker, "work.ordered", 2001..=2100).await;
    calls.until(2100).await;
    assert_eq!(calls.items(), (calls.items()[0]..=2100).collect::<Vec<_>>());
    all_acked(&server, 2100).await;
    Ok(())
}

#[tokio::test]
async fn instance_that_lost_its_pin_drops_its_messages() {
    let server = Server::start().await;
    let proxy = Proxy::start(server.address()).await;
    let (one, other) = (connect(&proxy).await, connect(&server).await);
    publish(&other, "work.ordered", 1..=400).await;
    let (first_calls, second_calls) = (Recorder::new(), Recorder::new());
    let _first = subscribe(&one, &first_calls, ms(100)).await;
    first_calls.until(2).await;
    let _second = subscribe(&other, &second_calls, ms(1)).await;
    let in_flight = server.consumer_info("WORK", "ordered").await.num_ack_pending;
    proxy.pause();
    eventually("the standby is active", SOON, async || (!second_calls.items().is_empty()).then_some(())).await;
    proxy.resume();
    second_calls.until(400).await;
    eventually("the first instance is idle", SOON, async || {
        let before = first_calls.items().len();
        tokio::time::sleep(ms(500)).await;
        (first_calls.items().len() == before).then_some(())
    })
    .await;
    assert!(first_calls.items().len() < in_flight, "it handled all of its in-flight messages");
    all_acked(&server, 400).await;
}

#[tokio::test]
async fn instances_never_run_at_once() {
    let server = Server::start().await;
    let (broker, second, publisher) = (connect(&server).await, connect(&server).await, connect(&server).await);
    publish(&publisher, "work.ordered", [0]).await;
    let (running, most) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    let handled = Recorder::<(usize, u64)>::default();
    let mut workers = Vec::new();
    for (worker, broker) in [&broker, &second].into_iter().enumerate() {
        let (running, most, handled) = (running.clone(), most.clone(), handled.clone());
        let handler = move |id: u64| {
            let (running, most, handled) = (running.clone(), most.clone(), handled.clone());
            async move {
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::time::sleep(ms(1)).await;
                running.fetch_sub(1, Ordering::SeqCst);
                handled.add((worker, id));
            }
        };
        workers.push(broker.subscribe("work.ordered", "ordered", handler).ordered().await.unwrap());
    }
    let worker_of = async |id: u64| {
        let find = || handled.items().into_iter().find(|(_, handled)| *handled == id).map(|(worker, _)| worker);
        eventually(&format!("message {id} is handled"), SOON, async || find()).await
    };
    // Make the second worker the active one.
    let client = server.client().await;
    let mut next = 0;
    while worker_of(next).await == 0 {
        let unpin = client.request("$JS.API.CONSUMER.UNPIN.WORK.ordered", r#"{"group":"ordered"}"#.into());
        unpin.await.unwrap();
        next += 1;
        publish(&publisher, "work.ordered", [next]).await;
    }
    let last = next + 1500;
    let publishing = publish(&publisher, "work.ordered", next + 1..=last);
    let churn = async {
        for number in 0..25 {
            let subscribe = async |queue: &str| {
                broker.subscribe("work.other", &format!("{queue}-{number}"), async |_: u64| {}).await.unwrap()
            };
            let (one, other) = (subscribe("one").await, subscribe("other").await);
            one.unsubscribe().await.unwrap();
            other.unsubscribe().await.unwrap();
        }
    };
    futures::join!(publishing, churn);
    worker_of(last).await;
    assert_eq!(most.load(Ordering::SeqCst), 1);
    let ids: Vec<_> = handled.items().into_iter().map(|(_, id)| id).collect();
    assert_eq!(without_repetitions(&ids), (0..=last).collect::<Vec<_>>());
}

#[tokio::test]
async fn stop_acks_a_call_that_ends_after_a_reconnect() {
    let server = Server::start().await;
    let proxy = Proxy::start(server.address()).await;
    let (broker, publisher) = (connect(&proxy).await, connect(&server).await);
    publish(&publisher, "work.ordered", 1..=3).await;
    let calls = Recorder::new();
    let first = subscribe(&broker, &calls, ms(1500)).await;
    calls.until(1).await;
    tokio::time::sleep(ms(200)).await;
    let cutting = async {
        tokio::time::sleep(ms(200)).await;
        proxy.cut();
    };
    let (stopped, ()) = futures::join!(first.unsubscribe(), cutting);
    stopped.unwrap();
    assert_eq!(calls.items(), [1, 2]);
    let _second = subscribe(&publisher, &calls, Duration::ZERO).await;
    calls.until(3).await;
    assert_eq!(calls.items(), [1, 2, 3]);
}

#[tokio::test]
async fn stop_leaves_a_failing_message_to_the_next_instance() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    publish(&broker, "work.ordered", 1..=5).await;
    let failing = |id: u64| async move { if id == 3 { Err(HandlerError::retry("not here")) } else { Ok(()) } };
    let subscribe_failing = broker.subscribe("work.ordered", "ordered", failing).ordered();
    let first = subscribe_failing.backoff(&[secs(60)]).await.unwrap();
    let jetstream = server.jetstream().await;
    eventually("message 3 fails", SOON, async || {
        let info = jetstream.get_stream("WORK").await.ok()?.consumer_info("ordered").await.ok()?;
        (info.ack_floor.stream_sequence == 2).then_some(())
    })
    .await;
    let started = Instant::now();
    first.unsubscribe().await.unwrap();
    assert!(started.elapsed() < secs(3), "the stop waited for the retry");
    let calls = Recorder::new();
    let _second = subscribe(&broker, &calls, Duration::ZERO).await;
    calls.until(5).await;
    assert_eq!(calls.items(), [3, 4, 5]);
    assert!(started.elapsed() < secs(5), "the messages were not redelivered at once");
}

#[tokio::test]
async fn next_instance_continues_after_a_purge_and_a_stop() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    for id in 1..=9_u64 {
        broker.publish(&format!("work.ordered.{id}"), &id).await.unwrap();
    }
    let (before, after) = (Recorder::new(), Recorder::new());
    // The server accepts no ack and no nak for messages before the purged one, which are redelivered after `ack_wait`.
    let subscribe = async |calls: &Recorder, each| {
        let subscribe = broker.subscribe("work.ordered.*", "ordered", recording(calls, each)).ordered();
        subscribe.ack_wait(secs(3)).await.unwrap()
    };
    let first = subscribe(&before, ms(200)).await;
    before.until(1).await;
    let stream = server.jetstream().await.get_stream("WORK").await.unwrap();
    stream.purge().filter("work.ordered.7").await.unwrap();
    first.unsubscribe().await.unwrap();
    let _second = subscribe(&after, Duration::ZERO).await;
    broker.publish("work.ordered.10", &10).await.unwrap();
    after.until(10).await;
    let all: Vec<_> = before.items().into_iter().chain(after.items()).collect();
    assert_eq!(without_repetitions(&all), (1..=10).filter(|id| *id != 7).collect::<Vec<_>>());
    all_acked(&server, 10).await;
}

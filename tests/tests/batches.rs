//! Batches on a server: they are filled by the pull, and no message is lost or handled for another one.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

use std::collections::BTreeSet;
use std::future::ready;
use std::sync::Arc;
use std::time::Instant;

use jetstream_handlers::prelude::*;
use jetstream_handlers::testing::{TestBroker, assert_idempotent};
use jetstream_handlers::{Output, Reason, Subscribe};
use jetstream_handlers_tests::{
    Proxy, Recorder, SOON, Server, connect, dead_letters, eventually, ms, once_each, payload_of, publish, stream_config,
};
use tokio::sync::Semaphore;
use tokio::time::sleep;

type Calls = Recorder<Vec<u64>>;

/// Records the elements of each batch.
fn recording<'a>(broker: &'a Broker, calls: &Calls) -> Subscribe<'a> {
    let calls = calls.clone();
    let handler = move |ids: Batch<u64>| {
        calls.add(ids.to_vec());
        ready(())
    };
    broker.subscribe("work.todo", "worker", handler).batch(100)
}

fn lengths(calls: &Calls) -> Vec<usize> {
    calls.items().iter().map(Vec::len).collect()
}

/// Returns how often each message was in a batch.
fn counts(calls: &Calls) -> std::collections::BTreeMap<u64, usize> {
    let mut counts = std::collections::BTreeMap::new();
    calls.items().into_iter().flatten().for_each(|id| *counts.entry(id).or_default() += 1);
    counts
}

async fn until_handled(calls: &Calls, count: usize) {
    eventually("all messages are handled", SOON, async || (counts(calls).len() >= count).then_some(())).await;
}

#[tokio::test]
async fn thousand_waiting_messages_are_ten_calls() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    publish(&broker, "work.todo", 0..1000).await;
    let calls = Calls::default();
    let begun = Instant::now();
    let subscription = recording(&broker, &calls).batch_wait(secs(5)).await.unwrap();
    until_handled(&calls, 1000).await;
    assert!(begun.elapsed() < secs(5), "no batch waits for its time: {:?}", begun.elapsed());
    assert_eq!(lengths(&calls), [100; 10]);
    assert_eq!(calls.items().concat(), (0..1000).collect::<Vec<u64>>());
    server.all_acked("WORK", "worker").await;
    subscription.unsubscribe().await.unwrap();
}

#[tokio::test]
async fn slow_handler_gets_full_batches() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    publish(&broker, "work.todo", 0..1000).await;
    let calls = Calls::default();
    let handler = {
        let calls = calls.clone();
        move |ids: Batch<u64>| {
            calls.add(ids.to_vec());
            async { sleep(ms(100)).await }
        }
    };
    let subscribe = broker.subscribe("work.todo", "worker", handler).batch(100).batch_wait(secs(5)).concurrency(2);
    let subscription = subscribe.await.unwrap();
    until_handled(&calls, 1000).await;
    assert_eq!(lengths(&calls), [100; 10]);
    server.all_acked("WORK", "worker").await;
    subscription.unsubscribe().await.unwrap();
}

#[tokio::test]
async fn trickle_is_one_batch() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    let calls = Calls::default();
    let subscription = recording(&broker, &calls).batch_wait(secs(1)).await.unwrap();
    for id in 0..10 {
        publish(&broker, "work.todo", [id]).await;
        sleep(ms(40)).await;
    }
    until_handled(&calls, 10).await;
    assert_eq!(lengths(&calls), [10]);
    subscription.unsubscribe().await.unwrap();
}

#[tokio::test]
async fn waiting_and_running_batches_outlive_ack_wait() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    let calls = Calls::default();
    let handler = {
        let calls = calls.clone();
        move |ids: Batch<u64>| {
            calls.add(ids.to_vec());
            async { sleep(ms(1500)).await }
        }
    };
    let subscribe = broker.subscribe("work.todo", "worker", handler).batch(50).batch_wait(ms(150)).ack_wait(ms(500));
    let subscription = subscribe.await.unwrap();
    publish(&broker, "work.todo", 0..100).await;
    until_handled(&calls, 100).await;
    server.all_acked("WORK", "worker").await;
    assert_eq!(counts(&calls), once_each(0..100));
    subscription.unsubscribe().await.unwrap();
}

#[tokio::test]
async fn stop_finishes_the_running_batch_and_returns_the_others() {
    let server = Server::start().await;
    let (broker, second) = (connect(&server).await, connect(&server).await);
    publish(&broker, "work.todo", 0..250).await;
    let (calls, later) = (Calls::default(), Calls::default());
    let finish = Arc::new(Semaphore::new(0));
    let handler = {
        let (calls, finish) = (calls.clone(), finish.clone());
        move |ids: Batch<u64>| {
            calls.add(ids.to_vec());
            let finish = finish.clone();
            async move { drop(finish.acquire().await) }
        }
    };
    let stopping = broker.subscribe("work.todo", "worker", handler).batch(100).batch_size(100).await.unwrap();
    eventually("a batch runs", SOON, async || (calls.len() == 1).then_some(())).await;
    server.ack_pending("WORK", "worker", 200).await;
    let stop = tokio::spawn(stopping.unsubscribe());
    // The messages that waited are with the second instance long before their `ack_wait` of 30 s.
    let subscription = recording(&second, &later).batch_wait(ms(200)).await.unwrap();
    let begun = Instant::now();
    until_handled(&later, 150).await;
    assert!(begun.elapsed() < secs(15), "{:?}", begun.elapsed());
    finish.add_permits(1);
    stop.await.unwrap().unwrap();
    server.all_acked("WORK", "worker").await;
    assert_eq!(lengths(&calls), [100]);
    assert_eq!(counts(&later), once_each(100..250));
    subscription.unsubscribe().await.unwrap();
}

#[tokio::test]
async fn cancelled_batch_is_returned_at_once() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    let stopping = Broker::builder().servers([server.url()]).shutdown_grace(ms(200)).connect().await.unwrap();
    publish(&broker, "work.todo", 0..30).await;
    let (started, calls) = (Calls::default(), Recorder::<(u64, u64)>::default());
    let hanging = {
        let started = started.clone();
        move |ids: Batch<u64>| {
            started.add(ids.to_vec());
            std::future::pending::<()>()
        }
    };
    let hanging = stopping.subscribe("work.todo", "worker", hanging).batch(30).await.unwrap();
    eventually("the batch runs", SOON, async || (started.len() == 1).then_some(())).await;
    let begun = Instant::now();
    hanging.unsubscribe().await.unwrap_err();
    let handler = {
        let calls = calls.clone();
        move |ids: Batch<u64>| {
            let delivered = ids.messages().iter().map(|message| message.info().delivered());
            ids.iter().copied().zip(delivered).for_each(|call| calls.add(call));
            ready(())
        }
    };
    let subscription = broker.subscribe("work.todo", "worker", handler).batch(30).await.unwrap();
    calls.until_distinct(30).await;
    assert!(begun.elapsed() < secs(20), "before their `ack_wait` of 30 s: {:?}", begun.elapsed());
    server.all_acked("WORK", "worker").await;
    assert_eq!(calls.counts(), once_each((0..30).map(|id| (id, 2))));
    subscription.unsubscribe().await.unwrap();
}

#[tokio::test]
async fn outputs_are_stored_once_after_lost_connections() {
    let server = Server::start().await;
    let proxy = Proxy::start(server.address()).await;
    let (publisher, broker) = (connect(&server).await, connect(&proxy).await);
    let jetstream = server.jetstream().await;
    jetstream.create_stream(stream_config("DONE", &["done.>"])).await.unwrap();
    publish(&publisher, "work.todo", 0..2000).await;
    let calls = Calls::default();
    let handler = {
        let calls = calls.clone();
        move |ids: Batch<u64>| {
            calls.add(ids.to_vec());
            async move {
                sleep(ms(20)).await;
                ids.iter().map(|id| Ok(Output::new(id))).collect::<Vec<HandlerResult<Output>>>()
            }
        }
    };
    let subscribe = broker.subscribe("work.todo", "worker", handler).batch(100).publish("done.todo");
    let subscription = subscribe.batch_wait(ms(200)).ack_wait(secs(2)).ack_confirmed().await.unwrap();
    for handled in [300, 900, 1500] {
        until_handled(&calls, handled).await;
        proxy.cut();
    }
    until_handled(&calls, 2000).await;
    server.all_acked("WORK", "worker").await;
    let mut stream = jetstream.get_stream("DONE").await.unwrap();
    assert_eq!(stream.info().await.unwrap().state.messages, 2000, "one output for each message");
    let read = Recorder::<u64>::new();
    let reading = publisher.subscribe("done.todo", "reader", read.handler()).await.unwrap();
    read.until_len(2000).await;
    assert_eq!(read.distinct(), (0..2000).collect::<BTreeSet<u64>>());
    reading.unsubscribe().await.unwrap();
    subscription.unsubscribe().await.unwrap();
}

#[tokio::test]
async fn split_finds_every_element_that_fails() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    for id in 0..500_u64 {
        match id {
            _ if id % 50 == 7 => drop(broker.publisher().publish_bytes("work.todo", "no JSON").await.unwrap()),
            _ => publish(&broker, "work.todo", [id]).await,
        }
    }
    let (calls, stored) = (Calls::default(), Calls::default());
    let handler = {
        let (calls, stored) = (calls.clone(), stored.clone());
        move |ids: Batch<u64>| {
            calls.add(ids.to_vec());
            let stored = stored.clone();
            async move {
                assert!(ids.iter().all(|id| id % 100 != 50), "panics");
                if ids.iter().any(|id| id % 100 == 99) {
                    return Err("cannot be stored".into());
                }
                stored.add(ids.to_vec());
                Ok(())
            }
        }
    };
    let subscribe = broker.subscribe("work.todo", "worker", handler).batch(64).batch_wait(ms(200)).concurrency(3);
    let subscription = subscribe.max_deliver(2).backoff(&[ms(100)]).split_on_batch_error().await.unwrap();
    let letters = dead_letters(&broker, 20).await;
    let with = |reason| letters.iter().filter(|letter| letter.reason == reason).collect::<Vec<_>>();
    let ids = |reason| with(reason).into_iter().map(payload_of).collect::<BTreeSet<u64>>();
    assert_eq!(ids(Reason::Panic), BTreeSet::from([50, 150, 250, 350, 450]));
    assert_eq!(ids(Reason::Error), BTreeSet::from([99, 199, 299, 399, 499]));
    assert_eq!(with(Reason::Undecodable).len(), 10);
    assert_eq!(letters.len(), 20);
    assert!(letters.iter().all(|letter| letter.delivered == if letter.reason == Reason::Undecodable { 1 } else { 2 }));
    let good = (0..500).filter(|id| id % 50 != 7 && id % 100 != 50 && id % 100 != 99);
    server.all_acked("WORK", "worker").await;
    assert_eq!(counts(&stored), once_each(good));
    subscription.unsubscribe().await.unwrap();
}

/// A process that ends in a batch leaves its messages to another one, each with its own count of deliveries.
#[tokio::test]
async fn batch_of_a_lost_worker_is_redelivered() {
    let server = Server::start().await;
    let proxy = Proxy::start(server.address()).await;
    let (broker, lost) = (connect(&server).await, connect(&proxy).await);
    publish(&broker, "work.todo", 0..30).await;
    let (calls, started) = (Recorder::<(u64, u64)>::default(), Calls::default());
    let hanging = {
        let started = started.clone();
        move |ids: Batch<u64>| {
            started.add(ids.to_vec());
            std::future::pending::<()>()
        }
    };
    let subscribe = lost.subscribe("work.todo", "worker", hanging).batch(30).batch_wait(ms(200));
    let _hanging = subscribe.ack_wait(secs(1)).await.unwrap();
    eventually("the batch runs", SOON, async || (started.len() == 1).then_some(())).await;
    proxy.refuse();
    proxy.cut();
    let handler = {
        let calls = calls.clone();
        move |ids: Batch<u64>| {
            let delivered = ids.messages().iter().map(|message| message.info().delivered());
            ids.iter().copied().zip(delivered).for_each(|call| calls.add(call));
            ready(())
        }
    };
    let subscribe = broker.subscribe("work.todo", "worker", handler).batch(30).batch_wait(ms(200));
    let subscription = subscribe.ack_wait(secs(1)).await.unwrap();
    calls.until_distinct(30).await;
    server.all_acked("WORK", "worker").await;
    assert_eq!(calls.counts(), once_each((0..30).map(|id| (id, 2))));
    subscription.unsubscribe().await.unwrap();
}

/// If a batch crashes its process again and again, each of its messages is tried once more alone.
#[tokio::test]
async fn messages_without_attempts_left_are_tried_alone() {
    let server = Server::start().await;
    let proxy = Proxy::start(server.address()).await;
    let (broker, lost) = (connect(&server).await, connect(&proxy).await);
    publish(&broker, "work.todo", 0..5).await;
    let (calls, started) = (Calls::default(), Calls::default());
    let hanging = {
        let started = started.clone();
        move |ids: Batch<u64>| {
            started.add(ids.to_vec());
            std::future::pending::<()>()
        }
    };
    let subscribe = lost.subscribe("work.todo", "worker", hanging).batch(5).ack_wait(secs(1)).batch_wait(ms(200));
    let _hanging = subscribe.max_deliver(1).await.unwrap();
    eventually("the batch runs", SOON, async || (started.len() == 1).then_some(())).await;
    proxy.refuse();
    proxy.cut();
    let handler = {
        let calls = calls.clone();
        move |ids: Batch<u64>| {
            calls.add(ids.to_vec());
            if ids[0] == 3 {
                ids.fail(0, "3 is wrong");
            }
            ready(())
        }
    };
    let subscribe = broker.subscribe("work.todo", "worker", handler).batch(5).ack_wait(secs(1)).batch_wait(ms(200));
    let subscription = subscribe.max_deliver(1).await.unwrap();
    until_handled(&calls, 5).await;
    server.all_acked("WORK", "worker").await;
    assert_eq!(counts(&calls), once_each(0..5));
    assert_eq!(lengths(&calls), [1; 5]);
    let letters = dead_letters(&broker, 1).await;
    assert_eq!((payload_of(&letters[0]), &*letters[0].error), (3, "3 is wrong"));
    subscription.unsubscribe().await.unwrap();
}

#[subscriber(subject = "orders.created", queue = "totals", batch = 10)]
async fn total(orders: Batch<u64>, State(totals): State<Recorder<u64>>) {
    orders.iter().for_each(|order| totals.add(*order));
}

/// With every message delivered twice, the batch handler sees each twice.
#[tokio::test(start_paused = true)]
#[should_panic = "the handlers are not idempotent"]
async fn handler_of_batches_can_be_tested_for_idempotence() {
    assert_idempotent(async |start| {
        let totals = Recorder::<u64>::new();
        let broker = start(TestBroker::builder().include::<total>().state(totals.clone())).await;
        for order in 1..=5 {
            broker.publish("orders.created", &order).await;
        }
        broker.idle().await;
        let mut totals = totals.items();
        totals.sort_unstable();
        totals
    })
    .await;
}

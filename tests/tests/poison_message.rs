//! A poison message aborts the process of its handler at each attempt.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::StreamExt as _;
use jetstream_handlers::Subscription;
use jetstream_handlers::async_nats::jetstream::AckKind;
use jetstream_handlers::async_nats::jetstream::consumer::PullConsumer;
use jetstream_handlers::prelude::*;
use jetstream_handlers_tests::{
    Program, Recorder, SOON, Server, connect, dead_letters, dead_letters_of, eventually, payload_of, publish,
};
use tokio::sync::Semaphore;

#[tokio::test]
async fn becomes_a_dead_letter() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    publish(&broker, "work.poisoned", [1_u64]).await;
    let start = || {
        let mut program = tokio::process::Command::new(env!("CARGO_BIN_EXE_poisoned_worker"));
        program.env("NATS_URL", server.url()).kill_on_drop(true).spawn().unwrap()
    };
    // Two attempts, and one more in isolation, because another in-flight message might have been the cause.
    for attempt in 1..=3 {
        let status = tokio::time::timeout(SOON, start().wait()).await.expect("the process ends").unwrap();
        assert!(!status.success(), "the process survived attempt {attempt}");
    }
    let mut fourth = start();
    let letter = dead_letters_of(&broker, "poisoned", 1).await.remove(0);
    assert_eq!((letter.reason.as_str(), letter.delivered, &letter.payload[..]), ("killed", 4, &b"1"[..]));
    server.all_acked("WORK", "poisoned").await;
    assert!(fourth.try_wait().unwrap().is_none(), "the fourth process does not call the handler");
    fourth.kill().await.unwrap();
}

#[tokio::test]
async fn does_not_affect_other_messages() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    publish(&broker, "work.poisoned", 1..=6_u64).await;
    let url = server.url();
    let start = || Program::start(env!("CARGO_BIN_EXE_poisoned_worker"), &[], &[("NATS_URL", &url)]);
    let mut handled = BTreeSet::new();
    // Two attempts, and one more in isolation.
    for life in 1..=3 {
        let mut program = start();
        let status = program.ended().await;
        assert!(!status.success(), "life {life} survived: {}", program.output());
        handled.extend(program.lines("handled "));
    }
    let survivor = start();
    eventually("the other messages are handled", SOON, async || {
        let all: BTreeSet<_> = handled.iter().cloned().chain(survivor.lines("handled ")).collect();
        (all.len() == 5).then_some(())
    })
    .await;
    let letters = dead_letters(&broker, 1).await;
    assert_eq!(
        letters.iter().map(|letter| (payload_of(letter), letter.reason.as_str())).collect::<Vec<_>>(),
        [(1, "killed")]
    );
}

/// Delivers the first message of `work.a` three times without an answer, as if its process had been killed.
async fn killed_three_times(server: &Server) {
    let jetstream = server.jetstream().await;
    let stream = jetstream.get_stream("WORK").await.unwrap();
    let consumer: PullConsumer = stream.get_consumer("worker").await.unwrap();
    for _ in 0..3 {
        let mut fetched = consumer.batch().max_messages(1).expires(SOON).messages().await.unwrap();
        let message = fetched.next().await.unwrap().unwrap();
        message.double_ack_with(AckKind::Nak(None)).await.unwrap();
    }
}

/// Calls that record their beginning, and of which that of `held` waits for a permit.
async fn subscribe(broker: &Broker, calls: &Recorder, held: u64, permits: &Arc<Semaphore>) -> Subscription {
    let (calls, permits) = (calls.clone(), permits.clone());
    let handler = move |id: u64| {
        let (calls, permits) = (calls.clone(), permits.clone());
        async move {
            calls.add(id);
            if id == held {
                drop(permits.acquire().await);
            }
        }
    };
    broker.subscribe("work.a", "worker", handler).max_deliver(3).concurrency(4).await.unwrap()
}

/// Creates the consumer with one message whose attempts all ended without an answer.
async fn prepare(server: &Server, broker: &Broker, id: u64) {
    let permits = Arc::new(Semaphore::new(0));
    subscribe(broker, &Recorder::new(), 0, &permits).await.unsubscribe().await.unwrap();
    publish(broker, "work.a", [id]).await;
    killed_three_times(server).await;
}

#[tokio::test]
async fn message_that_waits_to_be_tried_alone_does_not_stop_the_others() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    prepare(&server, &broker, 1).await;
    let (calls, permits) = (Recorder::new(), Arc::new(Semaphore::new(0)));
    publish(&broker, "work.a", [2]).await;
    // The held call begins first, because the one in isolation waits until the slots are idle.
    let other = connect(&server).await;
    let subscription = subscribe(&other, &calls, 2, &permits).await;
    calls.until(2).await;
    publish(&broker, "work.a", 3..=300).await;
    let begun = std::time::Instant::now();
    for id in 3..=300 {
        calls.until(id).await;
    }
    assert!(begun.elapsed() < secs(10), "{:?}", begun.elapsed());
    assert!(calls.count(1) <= 1);
    permits.add_permits(1);
    calls.until(1).await;
    server.all_acked("WORK", "worker").await;
    assert_eq!(calls.counts(), (1..=300).map(|id| (id, 1)).collect());
    subscription.unsubscribe().await.unwrap();
}

#[tokio::test]
async fn long_call_in_isolation_does_not_stop_the_others() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    prepare(&server, &broker, 1).await;
    let (calls, permits) = (Recorder::new(), Arc::new(Semaphore::new(0)));
    let subscription = subscribe(&broker, &calls, 1, &permits).await;
    calls.until(1).await;
    publish(&broker, "work.a", 2..=100).await;
    let begun = std::time::Instant::now();
    for id in 2..=100 {
        calls.until(id).await;
    }
    assert!(begun.elapsed() < secs(5), "{:?}", begun.elapsed());
    permits.add_permits(1);
    server.all_acked("WORK", "worker").await;
    subscription.unsubscribe().await.unwrap();
}

#[tokio::test]
async fn stop_hands_back_a_message_that_waits_to_be_tried_alone() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    prepare(&server, &broker, 1).await;
    let (calls, permits) = (Recorder::new(), Arc::new(Semaphore::new(0)));
    publish(&broker, "work.a", [2]).await;
    let first = connect(&server).await;
    let subscription = subscribe(&first, &calls, 2, &permits).await;
    calls.until(2).await;
    server.ack_pending("WORK", "worker", 2).await;
    let tried_by_first = calls.count(1);
    let stopping = tokio::spawn(subscription.unsubscribe());
    // It is tried by the next process while the first one still waits for its call.
    let subscription = subscribe(&broker, &calls, 0, &permits).await;
    calls.until(1).await;
    permits.add_permits(1);
    stopping.await.unwrap().unwrap();
    server.all_acked("WORK", "worker").await;
    assert_eq!((tried_by_first, calls.count(1)), (0, 1));
    subscription.unsubscribe().await.unwrap();
}

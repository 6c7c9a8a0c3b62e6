//! Starts and runs whose future is dropped: no handler runs afterwards.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use jetstream_handlers::prelude::*;
use jetstream_handlers_tests::{Recorder, SOON, Server, connect, connect_with, eventually, publish};
use tokio::sync::Semaphore;

#[subscriber(subject = "work.first", queue = "first", group = "cancelled")]
async fn first(id: u64, State(calls): State<Recorder>) {
    calls.add(id);
}

#[subscriber(subject = "work.second", queue = "second", group = "cancelled")]
async fn second(id: u64, State(calls): State<Recorder>) {
    calls.add(id);
}

/// Polls a future at most `polls` times, then drops it; returns its output if it has ended.
async fn polled<F: Future>(future: F, polls: usize) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut left = polls;
    poll_fn(|task| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        match future.as_mut().poll(task) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            // The last poll has begun something that the drop must undo.
            Poll::Pending if left == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// Checks that nobody pulls the messages of both handlers, and that they are delivered for the first time to a later
/// start.
async fn nothing_runs(server: &Server, broker: &Broker, calls: &Recorder, what: &str) {
    eventually(&format!("{what}: the handlers have ended"), SOON, async || {
        broker.health().handlers.is_empty().then_some(())
    })
    .await;
    let jetstream = server.jetstream().await;
    if let Ok(stream) = jetstream.get_stream("WORK").await {
        for queue in ["first", "second"] {
            let Ok(info) = stream.consumer_info(queue).await else { continue };
            assert_eq!((info.num_waiting, info.num_ack_pending), (0, 0), "{what}: `{queue}` is pulled");
        }
    }
    assert!(calls.is_empty(), "{what}: {calls:?}");
}

#[tokio::test]
async fn dropped_start_leaves_no_handler() {
    let server = Server::start().await;
    // A start is polled eight times or so, depending on how its answers arrive.
    let (mut dropped, mut ended) = (0, 0);
    for polls in (1..=12).cycle().take(96) {
        let calls = Recorder::new();
        let broker = connect_with(&server, &calls).await;
        if let Some(started) = polled(broker.start_groups(["cancelled"]), polls).await {
            started.unwrap().shutdown().await.unwrap();
            ended += 1;
            continue;
        }
        nothing_runs(&server, &broker, &calls, &format!("start after {polls} polls")).await;
        dropped += 1;
    }
    assert!(dropped > 8 && ended > 0, "{dropped} dropped at different awaits, {ended} ended");
}

#[tokio::test]
async fn dropped_run_leaves_no_handler() {
    let server = Server::start().await;
    for polls in 1..40 {
        let calls = Recorder::new();
        let broker = connect_with(&server, &calls).await;
        let ended = polled(broker.run_groups(["cancelled"]), polls);
        // A run never ends by itself; it may be polled less often than that.
        let ended = tokio::time::timeout(jetstream_handlers_tests::ms(100), ended).await;
        assert!(!matches!(ended, Ok(Some(_))), "{polls} polls");
        nothing_runs(&server, &broker, &calls, &format!("run after {polls} polls")).await;
    }
}

#[tokio::test]
async fn dropped_shutdown_lets_a_running_call_finish() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    let (calls, permits) = (Recorder::<String>::default(), Arc::new(Semaphore::new(0)));
    let handler = {
        let (calls, permits) = (calls.clone(), permits.clone());
        move |id: u64| {
            let (calls, permits) = (calls.clone(), permits.clone());
            async move {
                calls.add(format!("started {id}"));
                drop(permits.acquire().await);
                calls.add(format!("finished {id}"));
            }
        }
    };
    let started = broker.subscribe("work.a", "worker", handler).await.unwrap();
    publish(&broker, "work.a", [1]).await;
    calls.until("started 1").await;
    // The stop goes on without its future, and the broker forgets the handler when it has ended.
    let mut stop = Box::pin(started.unsubscribe());
    assert!(futures::poll!(&mut stop).is_pending());
    drop(stop);
    permits.add_permits(1);
    calls.until("finished 1").await;
    server.all_acked("WORK", "worker").await;
    eventually("it has ended", SOON, async || broker.health().handlers.is_empty().then_some(())).await;
}

//! The health of handlers that run and do not work.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

use std::sync::{Arc, Condvar, Mutex};

use jetstream_handlers::prelude::*;
use jetstream_handlers::{ErrorKind, Health, Status};
use jetstream_handlers_tests::{Recorder, SOON, Server, assert_error, connect, eventually, ms, publish, until_health};
use tokio::sync::Semaphore;

/// Blocks threads until it is opened.
#[derive(Clone, Default)]
struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    fn wait(&self) {
        let (open, opened) = &*self.0;
        drop(opened.wait_while(open.lock().unwrap(), |open| !*open).unwrap());
    }

    fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }
}

/// Opens a gate at the end of a test, even if it fails.
struct OpenOnDrop(Gate);

impl Drop for OpenOnDrop {
    fn drop(&mut self) {
        self.0.open();
    }
}

#[tokio::test]
async fn calls_that_block_beyond_their_timeout_are_degraded() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    let (gate, calls) = (Gate::default(), Recorder::new());
    let handler = {
        let (gate, calls) = (gate.clone(), calls.clone());
        move |id: u64| {
            calls.add(id);
            if id <= 2 {
                gate.wait();
            }
            std::future::ready(())
        }
    };
    let subscribe = broker.subscribe("work.a", "worker", handler).blocking().threads(2).timeout(ms(300));
    let subscription = subscribe.backoff(&[secs(3600)]).await.unwrap();
    publish(&broker, "work.a", [1]).await;
    calls.until(1).await;
    // One of two slots is free, which is no problem yet.
    publish(&broker, "work.a", [3]).await;
    calls.until(3).await;
    until_health(&broker, "a slot is free", |health| health.is_healthy() && health.handlers[0].busy_since.is_none())
        .await;
    publish(&broker, "work.a", [2]).await;
    let text = until_health(&broker, "no slot is free", |health| {
        matches!(health.handlers[0].status, Status::Degraded { .. }) && health.handlers[0].busy_since.is_some()
    })
    .await;
    assert!(text.contains("all 2 slots are taken by calls that still run after their timeout of 300ms"), "{text}");
    gate.open();
    until_health(&broker, "it is healthy again", Health::is_healthy).await;
    subscription.unsubscribe().await.unwrap();
}

#[test]
fn call_that_blocks_its_runtime_thread_is_degraded() {
    let test = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    // The handler has a runtime of its own, because its call would also block other tasks.
    let other = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (gate, calls) = (Gate::default(), Recorder::new());
    // Otherwise a failed test would wait for the call.
    let opened = OpenOnDrop(gate.clone());
    test.block_on(async {
        let server = Server::start().await;
        let broker = connect(&server).await;
        let handler = {
            let calls = calls.clone();
            move |id: u64| {
                calls.add(id);
                gate.wait();
                std::future::ready(())
            }
        };
        let starting = broker.clone();
        let start = async move { starting.subscribe("work.a", "worker", handler).ack_wait(secs(1)).await };
        let subscription = other.spawn(start).await.unwrap().unwrap();
        publish(&broker, "work.a", [1]).await;
        calls.until(1).await;
        let is_degraded = |health: &Health| matches!(health.handlers[0].status, Status::Degraded { .. });
        let text = until_health(&broker, "it is degraded", is_degraded).await;
        assert!(text.contains("blocks its runtime thread") && text.contains("blocking = true"), "{text}");
        drop(opened);
        until_health(&broker, "it is healthy again", Health::is_healthy).await;
        subscription.unsubscribe().await.unwrap();
    });
    other.shutdown_background();
}

#[tokio::test]
async fn long_calls_are_healthy_and_show_since_when_no_slot_is_free() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    let (calls, permits) = (Recorder::new(), Arc::new(Semaphore::new(0)));
    let handler = {
        let (calls, permits) = (calls.clone(), permits.clone());
        move |id: u64| {
            let (calls, permits) = (calls.clone(), permits.clone());
            async move {
                calls.add(id);
                permits.acquire().await.unwrap().forget();
            }
        }
    };
    let subscription = broker.subscribe("work.a", "worker", handler).ack_wait(ms(300)).await.unwrap();
    publish(&broker, "work.a", [1]).await;
    calls.until(1).await;
    let began = broker.health().handlers[0].busy_since.unwrap();
    eventually("it runs for longer than twice its ack_wait", SOON, async || (began.elapsed() > ms(900)).then_some(()))
        .await;
    let health = broker.health();
    assert!(health.is_healthy(), "{health}");
    assert_eq!(health.handlers[0].busy_since, Some(began));
    permits.add_permits(1);
    server.all_acked("WORK", "worker").await;
    eventually("the slot is free", SOON, async || broker.health().handlers[0].busy_since.is_none().then_some(())).await;
    assert_eq!(calls.count(1), 1);
    subscription.unsubscribe().await.unwrap();
}

#[test]
fn handler_whose_runtime_was_shut_down_says_so() {
    let test = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let other = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    test.block_on(async {
        let server = Server::start().await;
        let broker = connect(&server).await;
        let starting = broker.clone();
        let start = other.spawn(async move { starting.subscribe("work.a", "worker", async |_: u64| {}).await });
        let subscription = start.await.unwrap().unwrap();
        other.shutdown_background();
        let text = until_health(&broker, "it has failed", |health| {
            matches!(health.handlers[0].status, Status::Failed { .. }) && !health.is_healthy()
        })
        .await;
        assert!(text.contains("failed: the runtime on which it ran was shut down"), "{text}");
        let stopped = tokio::time::timeout(SOON, subscription.unsubscribe()).await.unwrap();
        assert_error(stopped, ErrorKind::Closed, &["`closure on work.a`", "runtime", "was shut down", "ack_wait"]);
    });
}

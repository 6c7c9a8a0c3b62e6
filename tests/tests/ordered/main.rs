//! Ordered handlers: one message after the other, through failures, lost connections and instances that stop.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

use std::ops::RangeInclusive;
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::BoxFuture;
use jetstream_handlers::Subscription;
use jetstream_handlers::async_nats::jetstream::consumer;
use jetstream_handlers::prelude::*;
use jetstream_handlers_tests::{Recorder, SOON, Server, eventually, ms};

mod acks;
mod failover;
mod recovery;

/// Returns a handler that records each message after this time.
fn recording(calls: &Recorder, each: Duration) -> impl Fn(u64) -> BoxFuture<'static, ()> + use<> {
    let calls = calls.clone();
    move |id| {
        let calls = calls.clone();
        Box::pin(async move {
            tokio::time::sleep(each).await;
            calls.add(id);
        })
    }
}

/// Starts an ordered handler that records each message after this time.
async fn subscribe(broker: &Broker, calls: &Recorder, each: Duration) -> Subscription {
    broker.subscribe("work.ordered", "ordered", recording(calls, each)).ordered().await.unwrap()
}

/// Starts an ordered handler that is declared to be the only instance.
async fn single(broker: &Broker, calls: &Recorder, ack_wait: Duration) -> Subscription {
    let subscribing = broker.subscribe("work.ordered", "ordered", recording(calls, Duration::ZERO)).ordered();
    subscribing.single_instance().ack_wait(ack_wait).await.unwrap()
}

/// Waits until all messages up to `last` are acknowledged.
async fn all_acked(server: &Server, last: u64) {
    let jetstream = server.jetstream().await;
    eventually("all messages are acknowledged", SOON, async || {
        let info = jetstream.get_stream("WORK").await.ok()?.consumer_info("ordered").await.ok()?;
        (info.num_ack_pending == 0 && info.num_pending == 0 && info.ack_floor.stream_sequence == last).then_some(())
    })
    .await;
}

/// Receives messages without acknowledging them, as a process that crashes does.
async fn receive_unacked(server: &Server, count: usize) {
    let stream = server.jetstream().await.get_stream("WORK").await.unwrap();
    let consumer: consumer::PullConsumer = stream.get_consumer("ordered").await.unwrap();
    assert_eq!(consumer.fetch().max_messages(count).messages().await.unwrap().count().await, count);
}

/// Returns a handler that needs 200 ms for some of the messages.
fn slow_with(calls: &Recorder, slow: RangeInclusive<u64>) -> impl Fn(u64) -> BoxFuture<'static, ()> + use<> {
    let calls = calls.clone();
    move |id| {
        let each = if slow.contains(&id) { ms(200) } else { Duration::ZERO };
        recording(&calls, each)(id)
    }
}

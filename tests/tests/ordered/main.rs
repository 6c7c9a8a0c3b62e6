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

/// A handler that notes each message after so much time.
fn noting(seen: &Recorder, each: Duration) -> impl Fn(u64) -> BoxFuture<'static, ()> + use<> {
    let seen = seen.clone();
    move |id| {
        let seen = seen.clone();
        Box::pin(async move {
            tokio::time::sleep(each).await;
            seen.add(id);
        })
    }
}

async fn subscribe(broker: &Broker, seen: &Recorder, each: Duration) -> Subscription {
    broker.subscribe("work.ordered", "ordered", noting(seen, each)).ordered().await.unwrap()
}

/// A handler that is said to be the only one.
async fn single(broker: &Broker, seen: &Recorder, ack_wait: Duration) -> Subscription {
    let subscribing = broker.subscribe("work.ordered", "ordered", noting(seen, Duration::ZERO)).ordered();
    subscribing.single_replica().ack_wait(ack_wait).await.unwrap()
}

/// Waits until the server says that everything is acked.
async fn all_acked(server: &Server, last: u64) {
    let jetstream = server.jetstream().await;
    eventually("everything is acked", SOON, async || {
        let info = jetstream.get_stream("WORK").await.ok()?.consumer_info("ordered").await.ok()?;
        (info.num_ack_pending == 0 && info.num_pending == 0 && info.ack_floor.stream_sequence == last).then_some(())
    })
    .await;
}

/// Takes messages from the consumer as a process does that dies with them.
async fn take(server: &Server, count: usize) {
    let stream = server.jetstream().await.get_stream("WORK").await.unwrap();
    let consumer: consumer::PullConsumer = stream.get_consumer("ordered").await.unwrap();
    assert_eq!(consumer.fetch().max_messages(count).messages().await.unwrap().count().await, count);
}

/// A handler that is slow with some of the messages.
fn slow_with(seen: &Recorder, slow: RangeInclusive<u64>) -> impl Fn(u64) -> BoxFuture<'static, ()> + use<> {
    let seen = seen.clone();
    move |id| {
        let each = if slow.contains(&id) { ms(200) } else { Duration::ZERO };
        noting(&seen, each)(id)
    }
}

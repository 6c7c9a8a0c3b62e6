//! Dead letters that cannot be stored: their messages wait, and do not keep others from being handled.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use jetstream_handlers::async_nats::jetstream::stream::DiscardPolicy;
use jetstream_handlers::prelude::*;
use jetstream_handlers::{Reason, Status, Subscription, stream};
use jetstream_handlers_tests::{
    Recorder, SOON, Server, connect, dead_letters, eventually, ms, payload_of, stream_config, until_health,
};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};

/// The number of failing messages; the ids of healthy ones are larger.
const FAILING: u64 = 2000;

/// Counts the warnings and errors of a test.
#[derive(Clone, Default)]
struct Lines(Arc<AtomicUsize>);

impl<S: tracing::Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        if *event.metadata().level() <= tracing::Level::WARN {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
}

async fn limit_dead_letters(server: &Server, max_bytes: i64) {
    let jetstream = server.jetstream().await;
    let config = stream::Config { discard: DiscardPolicy::New, max_bytes, ..stream_config("DLQ", &["dlq.>"]) };
    jetstream.create_or_update_stream(config).await.unwrap();
}

/// The calls of both kinds of messages.
#[derive(Clone)]
struct Calls {
    failing: Recorder,
    healthy: Recorder,
}

impl Calls {
    fn new() -> Self {
        Self { failing: Recorder::new(), healthy: Recorder::new() }
    }
}

async fn subscribe(broker: &Broker, calls: &Calls) -> Subscription {
    let calls = calls.clone();
    let handler = move |id: u64| {
        let fails = id <= FAILING;
        if fails { &calls.failing } else { &calls.healthy }.add(id);
        std::future::ready(if fails { HandlerResult::Err("fails".into()) } else { Ok(()) })
    };
    let subscribe = broker.subscribe("work.a", "worker", handler);
    subscribe.concurrency(4).max_deliver(2).backoff(&[ms(20)]).await.unwrap()
}

async fn publish(broker: &Broker, ids: impl IntoIterator<Item = u64>) {
    use futures::StreamExt as _;
    let messages: Vec<_> = ids.into_iter().map(|id| broker.publish_message("work.a", &id)).collect();
    let stored: Vec<_> = broker.publisher().publish_all(messages).collect().await;
    assert!(stored.iter().all(Result::is_ok), "{stored:?}");
}

/// Publishes ten healthy messages, and waits until they are handled.
async fn healthy_are_handled(broker: &Broker, calls: &Calls, first: u64) {
    publish(broker, first..first + 10).await;
    let begun = std::time::Instant::now();
    for id in first..first + 10 {
        calls.healthy.until(id).await;
    }
    assert!(begun.elapsed() < secs(3), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn healthy_messages_are_handled_while_no_letter_can_be_stored() {
    let lines = Lines::default();
    let _subscriber = tracing::subscriber::set_default(tracing_subscriber::registry().with(lines.clone()));
    let server = Server::start().await;
    limit_dead_letters(&server, 1).await;
    let calls = Calls::new();
    let broker = connect(&server).await;
    let subscription = subscribe(&broker, &calls).await;
    publish(&broker, 1..=FAILING).await;
    calls.failing.until_len(2 * FAILING as usize).await;
    healthy_are_handled(&broker, &calls, 10_001).await;
    let health = until_health(&broker, "it is degraded", |health| {
        matches!(health.handlers[0].status, Status::Degraded { .. }) && !health.is_healthy()
    })
    .await;
    assert!(health.contains("dead letters cannot be stored on `dlq.WORK.worker`"), "{health}");
    // One line for each failed attempt, none for each dead letter that is not stored, although all are redelivered.
    let before = lines.0.load(Ordering::Relaxed);
    let stream = server.jetstream().await.get_stream("WORK").await.unwrap();
    eventually("all are redelivered", SOON, async || {
        let delivered = stream.consumer_info("worker").await.unwrap().delivered.consumer_sequence;
        (delivered > 4 * FAILING).then_some(())
    })
    .await;
    let more = lines.0.load(Ordering::Relaxed) - before;
    assert!(more < 20, "{more} lines while dead letters cannot be stored");

    // Another process knows that they have no attempts left.
    subscription.unsubscribe().await.unwrap();
    broker.disconnect().await.unwrap();
    let broker = connect(&server).await;
    let subscription = subscribe(&broker, &calls).await;
    healthy_are_handled(&broker, &calls, 20_001).await;
    until_health(&broker, "it is degraded again", |health| !health.is_healthy()).await;
    limit_dead_letters(&server, -1).await;
    until_health(&broker, "dead letters can be stored", jetstream_handlers::Health::is_healthy).await;
    let letters = dead_letters(&broker, 50).await;
    let exhausted = |letter: &&jetstream_handlers::DeadLetter| letter.reason == Reason::Exhausted;
    assert_eq!(letters.iter().filter(exhausted).count(), letters.len(), "{letters:?}");
    assert!(letters.iter().all(|letter| payload_of(letter) <= FAILING));
    let called: Vec<_> = calls.failing.counts().into_iter().filter(|(_, count)| *count != 2).collect();
    assert!(called.is_empty(), "`max_deliver` is 2: {called:?}");
    subscription.unsubscribe().await.unwrap();
}

#[tokio::test]
async fn failure_of_the_same_process_is_in_the_letter() {
    let server = Server::start().await;
    limit_dead_letters(&server, 1).await;
    let calls = Calls::new();
    let broker = connect(&server).await;
    let subscription = subscribe(&broker, &calls).await;
    publish(&broker, 1..=20).await;
    for id in 1..=20 {
        calls.failing.until_times(id, 2).await;
    }
    until_health(&broker, "it is degraded", |health| !health.is_healthy()).await;
    limit_dead_letters(&server, -1).await;
    let letters = dead_letters(&broker, 20).await;
    assert!(letters.iter().all(|letter| (letter.reason, &*letter.error) == (Reason::Error, "fails")), "{letters:?}");
    server.all_acked("WORK", "worker").await;
    assert!(calls.failing.counts().values().all(|count| *count == 2), "{:?}", calls.failing);
    subscription.unsubscribe().await.unwrap();
}

#[tokio::test]
async fn ordered_handler_does_not_call_an_exhausted_message_again() {
    let server = Server::start().await;
    limit_dead_letters(&server, 1).await;
    let calls = Recorder::new();
    let start = async || {
        let broker = connect(&server).await;
        let calls = calls.clone();
        let handler = move |id: u64| {
            calls.add(id);
            std::future::ready(if id == 1 { HandlerResult::Err("fails".into()) } else { Ok(()) })
        };
        let subscribe = broker.subscribe("work.a", "in-order", handler).ordered();
        let subscription = subscribe.max_deliver(2).backoff(&[ms(20)]).await.unwrap();
        (broker, subscription)
    };
    let (broker, subscription) = start().await;
    publish(&broker, [1, 1000]).await;
    until_health(&broker, "it is degraded", |health| !health.is_healthy()).await;
    subscription.unsubscribe().await.unwrap();
    // The server counts deliveries, of which an ordered handler needs one for all attempts.
    for _ in 0..2 {
        let (broker, subscription) = start().await;
        until_health(&broker, "it is degraded", |health| !health.is_healthy()).await;
        subscription.unsubscribe().await.unwrap();
    }
    let (broker, subscription) = start().await;
    let before = calls.count(1);
    limit_dead_letters(&server, -1).await;
    calls.until(1000).await;
    assert_eq!(dead_letters(&broker, 1).await.iter().map(payload_of).collect::<Vec<_>>(), [1]);
    assert_eq!(calls.count(1), before);
    subscription.unsubscribe().await.unwrap();
}

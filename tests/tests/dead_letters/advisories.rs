//! Advisories that a message reached `max_deliver`: those of the server, and those of everyone else.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::future::BoxFuture;
use jetstream_handlers::async_nats::jetstream::consumer::AckPolicy;
use jetstream_handlers::async_nats::{Client, Subscriber};
use jetstream_handlers::prelude::*;
use jetstream_handlers::stream;
use jetstream_handlers::stream::{DiscardPolicy, RetentionPolicy};
use jetstream_handlers_tests::{
    Recorder, SOON, Server, builder, connect, dead_letters, eventually, ms, payload_of, publish, stream_config,
};
use tokio::sync::Semaphore;

/// Sends advisories as an adversary does, and waits for each until the worker has asked the server about its consumer.
async fn forge(server: &Server, queue: &str, reports: &[(u64, u64)]) {
    let client = server.client().await;
    let mut asked = client.subscribe(format!("$JS.API.CONSUMER.INFO.WORK.{queue}")).await.unwrap();
    client.flush().await.unwrap();
    for report in reports {
        send(&client, queue, *report).await;
        client.flush().await.unwrap();
        let request = tokio::time::timeout(SOON, futures::StreamExt::next(&mut asked)).await;
        request.expect("the worker reads the consumer").unwrap();
    }
}

/// Sends an advisory about a message, with its sequence and number of deliveries.
async fn send(client: &Client, queue: &str, (sequence, deliveries): (u64, u64)) {
    let advisory = format!("{{\"stream_seq\":{sequence},\"deliveries\":{deliveries}}}");
    let subject = format!("$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.WORK.{queue}");
    client.publish(subject, advisory.into()).await.unwrap();
}

/// Sets `max_deliver` on the server, below that of the handler.
async fn set_max_deliver(server: &Server, queue: &str, max_deliver: i64) {
    server.change_consumer("WORK", queue, |config| config.max_deliver = max_deliver).await;
}

async fn count(server: &Server, stream: &str) -> u64 {
    server.jetstream().await.get_stream(stream).await.unwrap().cached_info().state.messages
}

/// Returns a handler that records each message, and waits for a permit to end its call.
fn waiting(
    calls: &Recorder<u64>,
    open: &Arc<Semaphore>,
) -> impl Fn(u64) -> BoxFuture<'static, ()> + Send + Sync + use<> {
    let (calls, open) = (calls.clone(), open.clone());
    move |id| {
        let (calls, open) = (calls.clone(), open.clone());
        Box::pin(async move {
            calls.add(id);
            open.acquire().await.unwrap().forget();
        })
    }
}

async fn work_queue(server: &Server) {
    let config = stream::Config { retention: RetentionPolicy::WorkQueue, ..stream_config("WORK", &["work.>"]) };
    server.jetstream().await.create_stream(config).await.unwrap();
}

#[tokio::test]
async fn forged_advisory_about_an_undelivered_message_does_nothing() {
    let server = Server::start().await;
    work_queue(&server).await;
    let broker = connect(&server).await;
    let (calls, open) = (Recorder::<u64>::new(), Arc::new(Semaphore::new(0)));
    let handler = waiting(&calls, &open);
    let subscription = broker.subscribe("work.a", "worker", handler).concurrency(1).batch_size(1).await.unwrap();
    publish(&broker, "work.a", 1..=20).await;
    publish(&broker, "work.other", [21]).await;
    calls.until(1).await;
    // Not delivered yet; of another subject; in flight; each with plausible and with impossible numbers.
    for deliveries in [1, 10_000, u64::MAX] {
        let reports = [(20, deliveries), (21, deliveries), (1, deliveries)];
        forge(&server, "worker", &reports).await;
    }
    assert_eq!(count(&server, "WORK").await, 21, "nothing is deleted");
    assert!(broker.dead_letters().list(10).await.unwrap().is_empty());
    open.add_permits(20);
    calls.until_len(20).await;
    eventually("all are acked", SOON, async || (count(&server, "WORK").await == 1).then_some(())).await;
    assert_eq!(calls.items(), (1..=20).collect::<Vec<_>>());
    assert!(broker.dead_letters().list(10).await.unwrap().is_empty());
    subscription.unsubscribe().await.unwrap();
}

#[tokio::test]
async fn forged_advisory_about_a_message_in_flight_waits_for_its_ack() {
    let server = Server::start().await;
    work_queue(&server).await;
    let broker = connect(&server).await;
    let (calls, open) = (Recorder::<u64>::new(), Arc::new(Semaphore::new(0)));
    let handler = waiting(&calls, &open);
    let subscription = broker.subscribe("work.a", "worker", handler).await.unwrap();
    // With these numbers the report is plausible.
    set_max_deliver(&server, "worker", 1).await;
    publish(&broker, "work.a", [1]).await;
    calls.until(1).await;
    forge(&server, "worker", &[(1, 1)]).await;
    assert_eq!(count(&server, "WORK").await, 1, "it is not deleted");
    open.add_permits(1);
    server.all_acked("WORK", "worker").await;
    // The report is checked again, and the message is gone.
    forge(&server, "worker", &[(1, 1)]).await;
    assert!(broker.dead_letters().list(10).await.unwrap().is_empty());
    assert_eq!(calls.items(), [1]);
    subscription.unsubscribe().await.unwrap();
}

#[tokio::test]
async fn forged_advisory_about_a_handled_message_does_nothing() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    let calls = Recorder::<u64>::new();
    let subscription = broker.subscribe("work.a", "worker", calls.handler()).await.unwrap();
    publish(&broker, "work.a", 1..=3).await;
    server.all_acked("WORK", "worker").await;
    set_max_deliver(&server, "worker", 2).await;
    forge(&server, "worker", &[(1, 1), (2, 2), (3, 3), (3, 4)]).await;
    // One more round trip shows that the last report was judged.
    forge(&server, "worker", &[(3, 2)]).await;
    assert!(broker.dead_letters().list(10).await.unwrap().is_empty());
    assert_eq!(count(&server, "WORK").await, 3);
    subscription.unsubscribe().await.unwrap();
}

#[tokio::test]
async fn message_given_up_on_a_work_queue_is_dead_lettered_and_removed() {
    let server = Server::start().await;
    work_queue(&server).await;
    let broker = connect(&server).await;
    let calls = Recorder::<u64>::new();
    let recorder = calls.clone();
    let handler = move |id: u64| {
        recorder.add(id);
        std::future::ready(if id == 2 { Settle::Retry } else { Settle::Ack })
    };
    let subscription = broker.subscribe("work.a", "worker", handler).backoff(&[ms(10)]).await.unwrap();
    assert_eq!(server.consumer_info("WORK", "worker").await.config.ack_policy, AckPolicy::Explicit);
    set_max_deliver(&server, "worker", 2).await;
    publish(&broker, "work.a", 1..=3).await;
    let letter = dead_letters(&broker, 1).await.remove(0);
    assert_eq!((letter.reason.as_str(), letter.delivered, payload_of(&letter)), ("killed", 2, 2));
    eventually("all are gone", SOON, async || (count(&server, "WORK").await == 0).then_some(())).await;
    assert_eq!(calls.counts(), [(1, 1), (2, 2), (3, 1)].into());
    assert_eq!(broker.dead_letters().list(10).await.unwrap().len(), 1);
    subscription.unsubscribe().await.unwrap();
}

#[tokio::test]
async fn dead_letter_that_cannot_be_stored_does_not_block_others() {
    let server = Server::start().await;
    // The stream refuses the first one, which is too large for what is left of it.
    let config = stream::Config { max_bytes: 6000, discard: DiscardPolicy::New, ..stream_config("DLQ", &["dlq.>"]) };
    server.jetstream().await.create_stream(config).await.unwrap();
    let broker =
        Broker::builder().servers([server.url()]).publish_timeout(ms(200)).fetch_wait(secs(1)).connect().await.unwrap();
    let handler = |_: Message| std::future::ready(Settle::Retry);
    let subscription = broker.subscribe("work.a", "worker", handler).backoff(&[ms(10)]).await.unwrap();
    set_max_deliver(&server, "worker", 1).await;
    let jetstream = server.jetstream().await;
    jetstream.publish("work.a", vec![b'x'; 8000].into()).await.unwrap().await.unwrap();
    publish(&broker, "work.a", 2..=6).await;
    eventually("the other five are dead letters", SOON, async || {
        let letters = broker.dead_letters().list(100).await.unwrap();
        let sequences: BTreeSet<_> = letters.iter().map(|letter| letter.stream_sequence).collect();
        (sequences == (2..=6).collect()).then_some(())
    })
    .await;
    subscription.unsubscribe().await.unwrap();
}

/// Lets the server give up three messages behind 2,000 handled ones while forged advisories arrive; returns the
/// sequences of the dead letters.
async fn given_up_among_forged(retention: RetentionPolicy, forged: fn(u64) -> (u64, u64)) -> BTreeSet<u64> {
    let server = Server::start().await;
    let config = stream::Config { retention, ..stream_config("WORK", &["work.>"]) };
    server.jetstream().await.create_stream(config).await.unwrap();
    let broker = connect(&server).await;
    let calls = Recorder::<u64>::new();
    let recorder = calls.clone();
    let handler = move |id: u64| {
        recorder.add(id);
        std::future::ready(if id > 2000 { Settle::Retry } else { Settle::Ack })
    };
    let subscription = broker.subscribe("work.a", "worker", handler).backoff(&[ms(10)]).await.unwrap();
    set_max_deliver(&server, "worker", 2).await;
    let jetstream = server.jetstream().await;
    for id in 1..=2000_u64 {
        jetstream.publish("work.a", id.to_string().into()).await.unwrap();
    }
    calls.until_distinct(2000).await;
    server.all_acked("WORK", "worker").await;
    let client = server.client().await;
    let flood = tokio::spawn(async move {
        // 20,000 a second.
        let mut tick = tokio::time::interval(ms(50));
        for number in 0.. {
            send(&client, "worker", forged(number)).await;
            if number.is_multiple_of(1000) {
                client.flush().await.unwrap();
                tick.tick().await;
            }
        }
    });
    publish(&broker, "work.a", 2001..=2003).await;
    let letters = dead_letters(&broker, 3).await;
    flood.abort();
    assert_eq!(calls.len(), 2006);
    subscription.unsubscribe().await.unwrap();
    letters.iter().map(|letter| letter.stream_sequence).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn message_given_up_among_many_forged_advisories_is_dead_lettered() {
    let given_up = BTreeSet::from([2001, 2002, 2003]);
    for retention in [RetentionPolicy::Limits, RetentionPolicy::WorkQueue] {
        // With a count that is too low or too high, of the given up messages and of those that were handled.
        let wrong = |number: u64| (number % 2003 + 1, if number.is_multiple_of(2) { 0 } else { u64::MAX });
        assert_eq!(given_up_among_forged(retention, wrong).await, given_up, "{retention:?}");
        // About messages that were never delivered, no two of which are the same.
        let undelivered = |number: u64| (2004 + number, 2);
        assert_eq!(given_up_among_forged(retention, undelivered).await, given_up, "{retention:?}");
    }
    // Those that are gone from a work queue need not be excluded by their numbers.
    let plausible = |number: u64| (number % 2003 + 1, 2);
    assert_eq!(given_up_among_forged(RetentionPolicy::WorkQueue, plausible).await, given_up);
}

/// Waits until the server has reported this many messages that were delivered twice.
async fn reported(advisories: &mut Subscriber, count: usize) {
    let mut reported = BTreeSet::new();
    while reported.len() < count {
        let advisory = tokio::time::timeout(SOON, futures::StreamExt::next(advisories)).await.unwrap().unwrap();
        let advisory: serde_json::Value = serde_json::from_slice(&advisory.payload).unwrap();
        // A forged one has no other fields.
        if advisory["type"].is_string() {
            reported.insert(advisory["stream_seq"].as_u64().unwrap());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn message_of_a_work_queue_whose_advisory_was_dropped_is_found() {
    let server = Server::start().await;
    work_queue(&server).await;
    // The server reports a message only to a request that waits, and the worker sends none while it is blocked.
    let broker = builder(&server).fetch_wait(secs(60)).connect().await.unwrap();
    let calls = Recorder::<u64>::new();
    let (recorder, (open, opened)) = (calls.clone(), std::sync::mpsc::channel());
    let opened = std::sync::Mutex::new(opened);
    let handler = move |id: u64| {
        recorder.add(id);
        if id == 4 {
            // The worker takes no advisories meanwhile, but they arrive.
            tokio::task::block_in_place(|| opened.lock().unwrap().recv().unwrap());
        }
        std::future::ready(if id < 4 { Settle::Retry } else { Settle::Ack })
    };
    let subscribe = broker.subscribe("work.a", "worker", handler).concurrency(8).backoff(&[ms(1500)]);
    let subscription = subscribe.await.unwrap();
    set_max_deliver(&server, "worker", 2).await;
    let client = server.client().await;
    let mut advisories = client.subscribe("$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.WORK.worker").await.unwrap();
    publish(&broker, "work.a", 1..=3).await;
    calls.until_len(6).await;
    publish(&broker, "work.a", [4]).await;
    calls.until(4).await;
    // More different ones than are kept.
    for sequence in 0..20_000 {
        send(&client, "worker", (1000 + sequence, 2)).await;
    }
    client.flush().await.unwrap();
    reported(&mut advisories, 3).await;
    // What the server has sent before has arrived now.
    broker.publish("work.b", &5).await.unwrap();
    open.send(()).unwrap();
    let letters = dead_letters(&broker, 3).await;
    assert_eq!(letters.iter().map(payload_of).collect::<BTreeSet<_>>(), BTreeSet::from([1, 2, 3]));
    eventually("the others are left", SOON, async || (count(&server, "WORK").await == 1).then_some(())).await;
    assert_eq!(calls.len(), 7);
    subscription.unsubscribe().await.unwrap();
}

//! Messages so large that a client must limit its pulls in bytes: a server ends a connection with 64 MiB that the
//! client has not read.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_nats::Client;
use async_nats::jetstream::{self, consumer::pull};
use futures::StreamExt as _;
use jetstream_handlers::Message;
use jetstream_handlers::prelude::*;
use tokio::time::sleep;

use crate::consume::{MAX_ACK_PENDING, Observer, Seen};
use crate::measure::{Figure, Sample};
use crate::table::Claim;
use crate::table::Target::{AtLeast, AtMost};
use crate::{Bench, Group, Variant};

/// The `max_payload` of the server, above the default of 1 MiB.
pub(crate) const MAX_PAYLOAD: usize = 16 * 1024 * 1024;

/// The `max_bytes` of the hand-tuned pulls.
const MAX_BYTES: usize = 16 * 1024 * 1024;

const OURS: &str = "ours";
const BATCHES: &str = "async-nats, batches of 16 MiB";
const CONTINUOUS: &str = "async-nats, messages() of 16 MiB";

/// Stored messages of one size.
#[derive(Clone, Copy)]
struct Stored {
    stream: &'static str,
    subject: &'static str,
    messages: u64,
    size: usize,
    /// The time that the handler takes for each message, during which the server can send others.
    pause: Duration,
}

const SMALLEST: Stored =
    Stored { stream: "LARGE-100K", subject: "LARGE-100K.files", messages: 5000, size: 100_000, pause: Duration::ZERO };
const SLOW: Stored = Stored {
    stream: "LARGE-1M",
    subject: "LARGE-1M.files",
    messages: 1000,
    size: 1_000_000,
    pause: Duration::from_millis(2),
};
const QUICK: Stored = Stored { pause: Duration::ZERO, ..SLOW };
const LARGEST: Stored =
    Stored { stream: "LARGE-8M", subject: "LARGE-8M.files", messages: 100, size: 8_000_000, pause: Duration::ZERO };

pub(crate) fn groups() -> Vec<Group> {
    vec![
        group("large, 100 KB", |bench| fill(bench, SMALLEST), SMALLEST),
        group("large, 1 MB", |bench| fill(bench, QUICK), QUICK),
        group("large, 1 MB, 2 ms each", |bench| fill(bench, SLOW), SLOW),
        group("large, 8 MB", |bench| fill(bench, LARGEST), LARGEST),
    ]
}

fn group(name: &'static str, prepare: fn(&Bench), stored: Stored) -> Group {
    Group {
        name,
        prepare,
        variants: vec![
            Variant::new(OURS, move |bench| ours(bench, stored)),
            Variant::new(BATCHES, move |bench| batches(bench, stored)),
            Variant::new(CONTINUOUS, move |bench| continuous(bench, stored)),
        ],
        claims: vec![
            Claim::ratio(Figure::Rate, OURS, BATCHES, AtLeast(0.9)),
            Claim::ratio(Figure::PeakMemory, OURS, BATCHES, AtMost(2.0)),
            Claim::ratio(Figure::Rate, OURS, CONTINUOUS, AtLeast(0.9)),
            Claim::ratio(Figure::PeakMemory, OURS, CONTINUOUS, AtMost(2.0)),
            Claim::figure(Figure::Redelivered, OURS, AtMost(0.0)),
            Claim::figure(Figure::Reconnects, OURS, AtMost(0.0)),
        ],
    }
}

/// Stores the messages that all runs read.
fn fill(bench: &Bench, stored: Stored) {
    bench.block_on(async {
        let (jetstream, mut stream) = bench.empty_stream(stored.stream).await;
        let payload = bytes::Bytes::from(vec![b'x'; stored.size]);
        for _ in 0..stored.messages {
            let published = jetstream.publish(stored.subject, payload.clone()).await.expect("it can be sent");
            published.await.expect("the stream stores it");
        }
        let state = &stream.info().await.expect("the stream exists").state;
        assert_eq!(state.messages, stored.messages, "the stream has what the runs read");
    });
}

async fn handle(payload: &[u8], pause: Duration) {
    black_box(payload);
    if !pause.is_zero() {
        sleep(pause).await;
    }
}

/// Adds to a sample what went wrong in its run.
fn with_faults(mut sample: Sample, redelivered: u64, client: &Client) -> Sample {
    let connects = client.statistics().connects.load(Ordering::Relaxed);
    sample.insert(Figure::Redelivered, redelivered as f64);
    sample.insert(Figure::Reconnects, connects.saturating_sub(1) as f64);
    sample
}

/// A handler of this crate with the default settings.
fn ours(bench: &Bench, stored: Stored) -> Sample {
    bench.block_on(async {
        let (observer, durable) = (Observer::of(bench, stored.stream).await, &*bench.durable);
        let meter = bench.meter();
        let (seen, redelivered) = (Seen::until(stored.messages), Arc::new(AtomicU64::new(0)));
        let broker = Broker::connect(bench.url.clone()).await.expect("the server is running");
        let counters = (seen.clone(), redelivered.clone());
        let subscribe = broker.subscribe(stored.subject, durable, move |message: Message| {
            let (seen, redelivered) = counters.clone();
            async move {
                handle(message.payload(), stored.pause).await;
                if message.info().delivered() == 1 {
                    seen.one_more();
                } else {
                    redelivered.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        let subscription = subscribe.await.expect("the handler starts");
        seen.all().await;
        observer.all_acked(durable).await;
        let sample = meter.stop(stored.messages);
        let client = broker.client().expect("it is a server");
        let sample = with_faults(sample, redelivered.load(Ordering::Relaxed), &client);
        subscription.unsubscribe().await.expect("the handler stops");
        broker.disconnect().await.expect("the connection ends");
        observer.delete(durable).await;
        sample
    })
}

/// Hand-written code that requests one batch after the other.
fn batches(bench: &Bench, stored: Stored) -> Sample {
    rival(bench, stored, async |consumer, tally| {
        while tally.handled < stored.messages {
            let batch = consumer.batch().max_messages(1000).max_bytes(MAX_BYTES).expires(Duration::from_secs(5));
            let mut batch = batch.messages().await.expect("messages can be requested");
            // The status that ends a batch whose bytes are used up is an error.
            while let Some(Ok(message)) = batch.next().await {
                tally.handle(message, stored.pause).await;
                if tally.handled == stored.messages {
                    break;
                }
            }
        }
    })
}

/// Hand-written code that requests the next batch while one arrives.
fn continuous(bench: &Bench, stored: Stored) -> Sample {
    rival(bench, stored, async |consumer, tally| {
        let messages = consumer.stream().max_messages_per_batch(1000).max_bytes_per_batch(MAX_BYTES).messages();
        let mut messages = messages.await.expect("messages can be requested");
        while tally.handled < stored.messages {
            if let Ok(message) = messages.next().await.expect("it does not end") {
                tally.handle(message, stored.pause).await;
            }
        }
    })
}

/// The messages that the comparison client has handled.
#[derive(Default)]
struct Tally {
    handled: u64,
    redelivered: u64,
}

impl Tally {
    async fn handle(&mut self, message: jetstream::Message, pause: Duration) {
        handle(&message.payload, pause).await;
        message.ack().await.expect("the server is running");
        if message.info().expect("it has an ack subject").delivered == 1 {
            self.handled += 1;
        } else {
            self.redelivered += 1;
        }
    }
}

fn rival(
    bench: &Bench,
    stored: Stored,
    consume: impl AsyncFnOnce(&jetstream::consumer::Consumer<pull::Config>, &mut Tally),
) -> Sample {
    bench.block_on(async {
        let (observer, durable) = (Observer::of(bench, stored.stream).await, &*bench.durable);
        let meter = bench.meter();
        let client = async_nats::connect(&bench.url).await.expect("the server is running");
        let stream = jetstream::new(client.clone()).get_stream(stored.stream).await.expect("the stream was filled");
        let config = pull::Config {
            durable_name: Some(durable.to_owned()),
            filter_subject: stored.subject.to_owned(),
            max_ack_pending: MAX_ACK_PENDING,
            ..Default::default()
        };
        let consumer = stream.create_consumer(config).await.expect("the consumer can be created");
        let mut tally = Tally::default();
        consume(&consumer, &mut tally).await;
        observer.all_acked(durable).await;
        let sample = with_faults(meter.stop(stored.messages), tally.redelivered, &client);
        observer.delete(durable).await;
        sample
    })
}

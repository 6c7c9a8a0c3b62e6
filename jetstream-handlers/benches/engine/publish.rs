//! Published messages, each with the server's acknowledgement.

use std::collections::VecDeque;

use async_nats::jetstream::message::PublishMessage;
use jetstream_handlers::Broker;

use crate::measure::{Figure, Sample};
use crate::order::Order;
use crate::table::Claim;
use crate::table::Target::{AtLeast, AtMost};
use crate::{Bench, Group, Variant};

const STREAM: &str = "PUBLISH";
const SUBJECT: &str = "PUBLISH.orders";

/// The maximum number of outstanding acknowledgements.
const WINDOW: usize = 256;

const OURS: &str = "ours";
const RIVAL: &str = "async-nats";

/// With a message id for each message, as this crate sets by default, so that a repeated publish is stored once.
const RIVAL_IDS: &str = "async-nats, with ids";
const INGEST: &str = "ours, fast ingest";

pub(crate) fn groups() -> Vec<Group> {
    vec![
        Group {
            name: "publish",
            prepare: |_| {},
            variants: vec![
                Variant::new(OURS, sequential),
                Variant::new(RIVAL, |bench| async_nats(bench, 1, false)),
                Variant::new(RIVAL_IDS, |bench| async_nats(bench, 1, true)),
            ],
            claims: vec![
                Claim::ratio(Figure::Rate, OURS, RIVAL, AtLeast(0.95)),
                Claim::ratio(Figure::Rate, OURS, RIVAL_IDS, AtLeast(0.98)),
            ],
        },
        Group {
            name: "pipelined",
            prepare: |_| {},
            variants: vec![
                Variant::new(OURS, pipelined),
                Variant::new(RIVAL, |bench| async_nats(bench, WINDOW, false)),
                Variant::new(RIVAL_IDS, |bench| async_nats(bench, WINDOW, true)),
                Variant::new(INGEST, ingest),
            ],
            claims: vec![
                Claim::ratio(Figure::Rate, INGEST, OURS, AtLeast(2.0)),
                Claim::ratio(Figure::Rate, OURS, RIVAL, AtLeast(0.8)),
                Claim::ratio(Figure::ClientCpu, OURS, RIVAL, AtMost(0.85)),
                Claim::ratio(Figure::Rate, OURS, RIVAL_IDS, AtLeast(1.0)),
                Claim::ratio(Figure::ClientCpu, OURS, RIVAL_IDS, AtMost(0.75)),
            ],
        },
    ]
}

/// Sequential publishing is so much slower that fewer messages suffice.
fn messages(bench: &Bench, window: usize) -> u64 {
    if window == 1 { bench.messages / 20 } else { bench.messages }
}

fn sequential(bench: &Bench) -> Sample {
    let messages = messages(bench, 1);
    bench.block_on(async {
        bench.empty_stream(STREAM).await;
        let meter = bench.meter();
        let broker = Broker::connect(bench.url.clone()).await.expect("the server is running");
        for id in 0..messages {
            broker.publish(SUBJECT, &Order::new(id)).await.expect("the stream stores it");
        }
        let sample = meter.stop(messages);
        broker.disconnect().await.expect("the connection ends");
        sample
    })
}

fn pipelined(bench: &Bench) -> Sample {
    bench.block_on(async {
        bench.empty_stream(STREAM).await;
        let meter = bench.meter();
        let broker = Broker::connect(bench.url.clone()).await.expect("the server is running");
        let messages = (0..bench.messages).map(|id| broker.publish_message(SUBJECT, &Order::new(id)));
        // The acknowledgements are taken and dropped one by one, as in the other variants.
        let publisher = broker.publisher();
        let mut results = publisher.publish_all(messages);
        while let Some(stored) = results.next().await {
            stored.expect("the stream stores it");
        }
        let sample = meter.stop(bench.messages);
        broker.disconnect().await.expect("the connection ends");
        sample
    })
}

fn ingest(bench: &Bench) -> Sample {
    bench.block_on(async {
        let (_, stream) = bench.empty_stream(STREAM).await;
        let meter = bench.meter();
        let broker = Broker::connect(bench.url.clone()).await.expect("the server is running");
        let messages = (0..bench.messages).map(|id| broker.publish_message(SUBJECT, &Order::new(id)));
        broker.publisher().ingest(messages).await.expect("the stream stores them");
        let sample = meter.stop(bench.messages);
        broker.disconnect().await.expect("the connection ends");
        let stored = stream.get_info().await.expect("the stream exists").state.messages;
        assert_eq!(stored, bench.messages, "a batch may have gaps, and this one has none");
        sample
    })
}

/// Publishes with a queue of acknowledgements, which costs less than a set of futures.
fn async_nats(bench: &Bench, window: usize, ids: bool) -> Sample {
    let messages = messages(bench, window);
    bench.block_on(async {
        bench.empty_stream(STREAM).await;
        let meter = bench.meter();
        let jetstream = bench.jetstream().await;
        let mut acks = VecDeque::with_capacity(window);
        let run = &bench.durable;
        for id in 0..messages {
            let mut message = PublishMessage::build().payload(Order::new(id).json());
            if ids {
                message = message.message_id(format!("{run}-{id}"));
            }
            acks.push_back(jetstream.send_publish(SUBJECT, message).await.expect("the server is running"));
            if acks.len() == window {
                acks.pop_front().expect("it is full").await.expect("the stream stores it");
            }
        }
        for ack in acks {
            ack.await.expect("the stream stores it");
        }
        meter.stop(messages)
    })
}

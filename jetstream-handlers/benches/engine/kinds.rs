//! Handlers of other kinds: of batches, with a key, behind layers of tower.

use std::hint::black_box;
use std::time::Duration;

use futures::StreamExt as _;
use jetstream_handlers::prelude::*;
use jetstream_handlers::{Batch, Subscribe};
use tower::limit::ConcurrencyLimitLayer;
use tower::timeout::TimeoutLayer;

use crate::consume::{SUBJECT, Seen, Stored, fill, from_str, handled, ours, returning, rival, store};
use crate::measure::{Figure, Sample};
use crate::order::Order;
use crate::table::Claim;
use crate::table::Target::AtLeast;
use crate::{Bench, Group, Variant};

const BATCH: usize = 100;
const KEYS: u64 = 1000;
const KEYED: &str = "KEYED.orders";

/// The concurrent calls of the handlers with a key and behind layers.
const CALLS: usize = 16;

pub(crate) fn groups() -> Vec<Group> {
    vec![batches(), keys(), layers()]
}

fn batches() -> Group {
    let (ours, tuned) = ("ours, batches of 100", "async-nats, chunks of 100");
    Group {
        name: "batches",
        prepare: fill,
        variants: vec![Variant::new(ours, batch), Variant::new(tuned, chunks)],
        claims: vec![Claim::ratio(Figure::Rate, ours, tuned, AtLeast(1.0))],
    }
}

fn batch(bench: &Bench) -> Sample {
    handled(bench, Stored::of_most_groups(bench.messages), |broker, durable| {
        let handler = |orders: Batch<Order>, State(seen): State<Seen>| async move {
            for order in &orders {
                black_box(order);
                seen.one_more();
            }
        };
        broker.subscribe(SUBJECT, durable, handler).batch(BATCH)
    })
}

/// Hand-written code that takes what has arrived.
fn chunks(bench: &Bench) -> Sample {
    rival(bench, async |consumer| {
        let messages = consumer.stream().max_messages_per_batch(1000).messages();
        let messages = messages.await.expect("messages can be requested").take(bench.messages as usize);
        let mut chunks = messages.ready_chunks(BATCH);
        while let Some(chunk) = chunks.next().await {
            let chunk: Vec<_> = chunk.into_iter().map(|message| message.expect("the server is running")).collect();
            black_box(chunk.iter().map(|message| from_str(&message.payload)).collect::<Vec<_>>());
            for message in chunk {
                message.ack().await.expect("the server is running");
            }
        }
    })
}

fn keys() -> Group {
    let variant = |name, adjust: fn(Subscribe<'_>) -> Subscribe<'_>| {
        Variant::new(name, move |bench| returning(bench, keyed(bench), |handler| adjust(handler.concurrency(CALLS))))
    };
    Group {
        name: "keys",
        prepare: |bench| {
            store(bench, keyed(bench), |id| Order { customer: format!("customer {}", id % KEYS), ..Order::new(id) });
        },
        variants: vec![variant("1000 keys", |handler| handler.key("customer")), variant("no key", |handler| handler)],
        claims: Vec::new(),
    }
}

fn keyed(bench: &Bench) -> Stored {
    Stored { stream: "KEYED", subject: KEYED, messages: bench.messages }
}

fn layers() -> Group {
    let timeout = || TimeoutLayer::new(Duration::from_secs(30));
    let limit = || ConcurrencyLimitLayer::new(CALLS);
    let (none, both) = ("no layer", "a timeout and a limit");
    Group {
        name: "layers",
        prepare: fill,
        variants: vec![
            Variant::new(none, |bench| ours(bench, bench.messages, |handler| handler.concurrency(CALLS))),
            Variant::new("a timeout", move |bench| {
                ours(bench, bench.messages, |handler| handler.concurrency(CALLS).layer(timeout()))
            }),
            Variant::new("a concurrency limit", move |bench| {
                ours(bench, bench.messages, |handler| handler.concurrency(CALLS).layer(limit()))
            }),
            Variant::new(both, move |bench| {
                ours(bench, bench.messages, |handler| handler.concurrency(CALLS).layer(timeout()).layer(limit()))
            }),
        ],
        claims: Vec::new(),
    }
}

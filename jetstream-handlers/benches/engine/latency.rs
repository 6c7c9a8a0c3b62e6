//! The latency from the publisher to the handler, at a rate far below the maximum.

use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use async_nats::jetstream::consumer::pull;
use futures::StreamExt as _;
use jetstream_handlers::prelude::*;

use crate::consume::Seen;
use crate::measure::{Figure, Sample};
use crate::order::Order;
use crate::table::Claim;
use crate::table::Target::AtMost;
use crate::{Bench, Group, Variant};

const STREAM: &str = "LATENCY";
const SUBJECT: &str = "LATENCY.orders";

/// One message per millisecond, for three seconds.
const PERIOD: Duration = Duration::from_millis(1);
const MESSAGES: u64 = 3000;

const OURS: &str = "ours";
const RIVAL: &str = "async-nats, defaults";

static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);

pub(crate) fn groups() -> Vec<Group> {
    vec![Group {
        name: "latency",
        prepare: |_| {},
        variants: vec![Variant::new(OURS, ours), Variant::new(RIVAL, async_nats)],
        claims: vec![Claim::ratio(Figure::MedianLatency, OURS, RIVAL, AtMost(1.05))],
    }]
}

/// The latency of each message, in nanoseconds.
#[derive(Clone)]
struct Arrivals(Arc<Mutex<Vec<u64>>>, Seen);

impl Arrivals {
    fn new() -> Self {
        Self(Arc::default(), Seen::until(MESSAGES))
    }

    fn add(&self, order: &Order) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(now() - order.placed);
        self.1.one_more();
    }

    fn sample(&self) -> Sample {
        let mut nanos = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        nanos.sort_unstable();
        let micros = |hundredths| nanos[nanos.len() * hundredths / 100] as f64 / 1000.0;
        Sample::from([(Figure::MedianLatency, micros(50)), (Figure::LateLatency, micros(99))])
    }
}

fn ours(bench: &Bench) -> Sample {
    bench.block_on(async {
        bench.empty_stream(STREAM).await;
        let arrivals = Arrivals::new();
        let broker = Broker::builder().servers([bench.url.clone()]).state(arrivals.clone()).connect().await;
        let broker = broker.expect("the server is running");
        let handler = async |order: Order, State(arrivals): State<Arrivals>| arrivals.add(&order);
        let subscription = broker.subscribe(SUBJECT, &bench.durable, handler).await.expect("the handler starts");
        let publisher = publisher(bench);
        arrivals.1.all().await;
        publisher.join().expect("the publisher ends");
        subscription.unsubscribe().await.expect("the handler stops");
        broker.disconnect().await.expect("the connection ends");
        arrivals.sample()
    })
}

fn async_nats(bench: &Bench) -> Sample {
    bench.block_on(async {
        let (_, stream) = bench.empty_stream(STREAM).await;
        let arrivals = Arrivals::new();
        let config = pull::Config { durable_name: Some(bench.durable.clone()), ..Default::default() };
        let consumer = stream.create_consumer(config).await.expect("the consumer can be created");
        let mut messages = consumer.messages().await.expect("messages can be requested").take(MESSAGES as usize);
        let publisher = publisher(bench);
        while let Some(message) = messages.next().await {
            let message = message.expect("the server is running");
            arrivals.add(&serde_json::from_slice(&message.payload).expect("it is an order"));
            message.ack().await.expect("the server is running");
        }
        publisher.join().expect("the publisher ends");
        arrivals.sample()
    })
}

/// Publishes from a separate thread, so that a busy handler does not delay it.
fn publisher(bench: &Bench) -> JoinHandle<()> {
    let url = bench.url.clone();
    thread::spawn(move || {
        crate::runtime().block_on(async {
            let client = async_nats::connect(url).await.expect("the server is running");
            let mut ticks = tokio::time::interval(PERIOD);
            for id in 0..MESSAGES {
                ticks.tick().await;
                let order = Order { placed: now(), ..Order::new(id) };
                client.publish(SUBJECT, order.json()).await.expect("the server is running");
            }
            client.flush().await.expect("the server is running");
        });
    })
}

fn now() -> u64 {
    u64::try_from(EPOCH.elapsed().as_nanos()).expect("the process runs for less than 500 years")
}

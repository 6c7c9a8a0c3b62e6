//! The same work in several processes: a consumer that they share, and partitions of which each process has some.
//!
//! Each message has one of 1000 keys. The processes start with the measurement, so that their starts count.

use std::hint::black_box;
use std::process::{Child, Command};

use async_nats::jetstream::consumer::pull;
use futures::{StreamExt as _, TryStreamExt as _};
use jetstream_handlers::partition;
use jetstream_handlers::prelude::*;

use crate::consume::{MAX_ACK_PENDING, Observer, from_str};
use crate::measure::{Figure, Sample};
use crate::order::Order;
use crate::table::Claim;
use crate::table::Target::{AtLeast, AtMost};
use crate::{Bench, Group, Variant};

/// The argument of a process that works until it is killed.
pub(crate) const WORK: &str = "--work";

const STREAM: &str = "PARTS";
const KEYS: u64 = 1000;

/// The partitions of the stored messages.
const PARTITIONS: u32 = 8;

/// The work of each process of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    /// Hand-written code on a consumer with explicit acks that all processes share.
    Rival,
    /// A handler of this crate on such a consumer, without order.
    Shared,
    /// A handler with partitions, each of which is handled in order, with an ack for many messages.
    Ordered,
    /// A handler with partitions and a key, with an ack for each message.
    Keyed,
}

impl Work {
    const ALL: [(&'static str, Self); 4] =
        [("rival", Self::Rival), ("shared", Self::Shared), ("ordered", Self::Ordered), ("keyed", Self::Keyed)];

    fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, work)| *work == self).map_or("", |(name, _)| name)
    }

    /// Returns the durable consumers of a run.
    fn consumers(self, durable: &str) -> Vec<String> {
        match self {
            Self::Rival | Self::Shared => vec![durable.to_owned()],
            Self::Ordered | Self::Keyed => (0..PARTITIONS).map(|number| format!("{durable}-{number}")).collect(),
        }
    }
}

pub(crate) fn groups() -> Vec<Group> {
    let variant = |name, work, processes| Variant::new(name, move |bench| run(bench, work, processes));
    const RIVAL: &str = "async-nats, 2 processes share";
    const SHARED: &str = "ours, 2 processes share";
    const TWO: &str = "ordered partitions, 2 processes";
    const KEYED: &str = "partitions with a key, 2 processes";
    let group = Group {
        name: "partitions",
        prepare: fill,
        variants: vec![
            variant(RIVAL, Work::Rival, 2),
            variant(SHARED, Work::Shared, 2),
            variant(KEYED, Work::Keyed, 2),
            variant("ordered partitions, 1 process", Work::Ordered, 1),
            variant(TWO, Work::Ordered, 2),
            variant("ordered partitions, 4 processes", Work::Ordered, 4),
            variant("ordered partitions, 8 processes", Work::Ordered, 8),
        ],
        claims: vec![
            Claim::ratio(Figure::Rate, TWO, RIVAL, AtLeast(1.9)),
            Claim::ratio(Figure::ServerCpu, TWO, RIVAL, AtMost(0.6)),
            Claim::ratio(Figure::Rate, KEYED, RIVAL, AtLeast(1.0)),
        ],
    };
    vec![group]
}

/// Stores the orders of many customers in their partitions.
fn fill(bench: &Bench) {
    bench.block_on(async {
        let (jetstream, mut stream) = bench.empty_stream(STREAM).await;
        let acks = futures::stream::iter(0..bench.messages).map(|id| {
            let order = Order { customer: format!("customer {}", id % KEYS), ..Order::new(id) };
            let subject = format!("{STREAM}.{}.orders", partition(&order.customer, PARTITIONS));
            let published = jetstream.publish(subject, order.json());
            async { published.await.expect("it can be sent").await }
        });
        acks.buffered(256).try_for_each(async |_| Ok(())).await.expect("the stream stores it");
        let messages = stream.info().await.expect("the stream exists").state.messages;
        assert_eq!(messages, bench.messages, "the stream has what the runs read");
    });
}

/// A process that is killed with the run.
struct Worker(Child);

impl Drop for Worker {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn run(bench: &Bench, work: Work, processes: usize) -> Sample {
    bench.block_on(async {
        let observer = Observer::of(bench, STREAM).await;
        if work == Work::Rival {
            consumer(bench).await;
        }
        let meter = bench.meter();
        let start = |_| {
            let program = std::env::current_exe().expect("the path of this program is known");
            let child = Command::new(program).args([WORK, work.name(), &bench.url, &bench.durable]).spawn();
            Worker(child.expect("it can be started"))
        };
        let workers: Vec<_> = (0..processes).map(start).collect();
        let consumers = work.consumers(&bench.durable);
        for consumer in &consumers {
            observer.exists(consumer).await;
        }
        for consumer in &consumers {
            observer.all_acked(consumer).await;
        }
        let mut sample = meter.stop(bench.messages);
        // They are those of the process that waits.
        sample.remove(&Figure::ClientCpu);
        sample.remove(&Figure::PeakMemory);
        drop(workers);
        for consumer in &consumers {
            observer.delete(consumer).await;
        }
        sample
    })
}

async fn consumer(bench: &Bench) -> pull::Stream {
    let stream = bench.jetstream().await.get_stream(STREAM).await.expect("the stream was filled");
    let config = pull::Config {
        durable_name: Some(bench.durable.clone()),
        max_ack_pending: MAX_ACK_PENDING,
        ..Default::default()
    };
    let consumer = stream.get_or_create_consumer(&bench.durable, config).await.expect("the consumer can be created");
    consumer.stream().max_messages_per_batch(1000).messages().await.expect("messages can be requested")
}

/// Does the work of one process until it is killed.
pub(crate) fn work(arguments: &[String]) {
    let [work, url, durable] = arguments else { panic!("only this program starts the process of a run") };
    let (_, work) = Work::ALL.into_iter().find(|(name, _)| name == work).expect("the work exists");
    let bench = Bench { url: url.clone(), server: 0, messages: 0, durable: durable.clone() };
    bench.block_on(async {
        if work == Work::Rival {
            let mut messages = consumer(&bench).await;
            while let Some(message) = messages.next().await {
                let message = message.expect("the server is running");
                black_box(from_str(&message.payload));
                message.ack().await.expect("the server is running");
            }
            return;
        }
        let broker = Broker::builder().servers([url.clone()]).connect().await.expect("the server is running");
        let handler = |order: Order| async move { _ = black_box(order) };
        let subscription = match work {
            Work::Ordered | Work::Keyed => {
                let subscribe = broker.subscribe(format!("{STREAM}.{{partition}}.orders"), durable, handler);
                let subscribe = if work == Work::Ordered { subscribe.ordered() } else { subscribe.key("customer") };
                subscribe.partitions(PARTITIONS).await
            }
            _ => broker.subscribe(format!("{STREAM}.>"), durable, handler).await,
        };
        let _subscription = subscription.expect("the handler starts");
        std::future::pending::<()>().await;
    });
}

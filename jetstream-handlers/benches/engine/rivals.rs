//! Frameworks that need a newer Rust than this crate, and the Go client.

use std::hint::black_box;
use std::time::Duration;

use ruststream_nats::prelude::*;
use tokio::sync::oneshot;

use crate::consume::{MAX_ACK_PENDING, NATS_GO, Observer, RUSTSTREAM, SHOVE, STREAM, SUBJECT, Seen};
use crate::measure::Sample;
use crate::order::Order;
use crate::{Bench, Variant, nats_go};

pub(crate) fn variants() -> Vec<Variant> {
    let mut variants = vec![Variant::new(RUSTSTREAM, ruststream), Variant::new(SHOVE, shove)];
    if nats_go::is_available() {
        variants.push(Variant::new(NATS_GO, nats_go::run));
    }
    variants
}

/// Handles one message after the other, which is its fastest mode.
struct Handler(Seen);

impl Handle<Order> for Handler {
    async fn handle(&self, order: &Order, _: &(), _: &mut Context<'_>) -> Result<(), HandlerOutcome> {
        black_box(order);
        self.0.one_more();
        Ok(())
    }
}

fn ruststream(bench: &Bench) -> Sample {
    bench.block_on(async {
        let (observer, durable) = (Observer::of(bench, STREAM).await, &*bench.durable);
        let meter = bench.meter();
        let seen = Seen::until(bench.messages);
        let source = JetStreamSubject::new(SUBJECT, STREAM)
            .durable(durable)
            .filter_subject(SUBJECT)
            .max_ack_pending(MAX_ACK_PENDING);
        let handler = Handler(seen.clone());
        let app = RustStream::new(AppInfo::new("engine", "0.0.0")).with_broker(
            NatsBroker::new(bench.url.clone()),
            |broker| {
                broker.include(subscriber(source, handler).build());
            },
        );
        let running = app.start().await.expect("the handler starts");
        seen.all().await;
        observer.acked(durable, bench.messages).await;
        let sample = meter.stop(bench.messages);
        running.shutdown().await.expect("the handler stops");
        observer.delete(durable).await;
        sample
    })
}

shove::define_topic!(Orders, Order, shove::TopologyBuilder::new(STREAM).external().build());

/// The durable consumer that shove derives from the name of the stream.
const SHOVE_DURABLE: &str = "CONSUME-consumer";

impl shove::MessageHandler<Orders> for Handler {
    type Context = ();

    async fn handle(&self, order: Order, _: shove::MessageMetadata, (): &()) -> shove::Outcome {
        black_box(order);
        self.0.one_more();
        shove::Outcome::Ack
    }
}

/// Handles up to 1000 messages at the same time; one after the other, it requests them one by one.
fn shove(bench: &Bench) -> Sample {
    bench.block_on(async {
        let observer = Observer::of(bench, STREAM).await;
        let meter = bench.meter();
        let seen = Seen::until(bench.messages);
        let broker = shove::Broker::<shove::Nats>::new(shove::nats::NatsConfig::new(&bench.url));
        let broker = broker.await.expect("the server is running");
        let config = shove::nats::NatsConsumerGroupConfig::new(1..=1)
            .with_prefetch_count(1000)
            .with_max_ack_pending(MAX_ACK_PENDING)
            .with_concurrent_processing(true);
        let (config, counter) = (shove::ConsumerGroupConfig::new(config), seen.clone());
        let mut group = broker.consumer_group();
        let registered = group.register::<Orders, _>(config, move || Handler(counter.clone())).await;
        registered.expect("the handler can be registered");
        let (stop, stopped) = oneshot::channel::<()>();
        let stopped = async { stopped.await.expect("the run stops it") };
        let measured = async {
            seen.all().await;
            observer.acked(SHOVE_DURABLE, bench.messages).await;
            let sample = meter.stop(bench.messages);
            stop.send(()).expect("the handler runs");
            sample
        };
        let (_, sample) = futures::join!(group.run_until_timeout(stopped, Duration::from_secs(10)), measured);
        observer.delete(SHOVE_DURABLE).await;
        sample
    })
}

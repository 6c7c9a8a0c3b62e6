//! Frameworks that need a newer Rust than this crate.

use std::hint::black_box;

use ruststream_nats::prelude::*;

use crate::Bench;
use crate::consume::{MAX_ACK_PENDING, Observer, STREAM, SUBJECT, Seen};
use crate::measure::Sample;
use crate::order::Order;

/// Handles one message after the other, which is its fastest mode.
struct Handler(Seen);

impl Handle<Order> for Handler {
    async fn handle(&self, order: &Order, _: &(), _: &mut Context<'_>) -> Result<(), HandlerOutcome> {
        black_box(order);
        self.0.one_more();
        Ok(())
    }
}

pub(crate) fn ruststream(bench: &Bench) -> Sample {
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

//! Before the first message, handlers are validated, and streams and consumers are compared or created.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

use std::collections::BTreeSet;

use futures::TryStreamExt as _;
use jetstream_handlers::async_nats::jetstream::{Context as JetStream, consumer};
use jetstream_handlers::prelude::*;
use jetstream_handlers::{Error, Subscription, stream};
use jetstream_handlers_tests::{binary, stream_config};

mod concurrency;
mod consumers;
mod declared_streams;
mod handlers;
mod ordered;
mod stored_subjects;
mod streams;

/// Starts a handler that does nothing.
async fn start(broker: &Broker, subject: &str, queue: &str) -> Result<Subscription, Error> {
    broker.subscribe(subject, queue, async |_: Message| {}).await
}

/// Returns the configuration of a consumer as a handler with defaults creates it.
fn durable(name: &str, filter: &str) -> consumer::Config {
    consumer::Config {
        durable_name: Some(name.to_owned()),
        filter_subject: filter.to_owned(),
        ack_policy: consumer::AckPolicy::Explicit,
        ack_wait: secs(30),
        max_deliver: MAX_DELIVER,
        ..Default::default()
    }
}

/// The `max_deliver` of consumers, which is a backstop behind that of the handlers.
const MAX_DELIVER: i64 = 10_000;

/// Returns the names of all streams.
async fn names(jetstream: &JetStream) -> BTreeSet<String> {
    jetstream.stream_names().try_collect().await.unwrap()
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

async fn found_stream(jetstream: &JetStream, name: &str) -> stream::Config {
    jetstream.get_stream(name).await.unwrap().cached_info().config.clone()
}

async fn consumer_info(jetstream: &JetStream, stream: &str, name: &str) -> consumer::Info {
    jetstream.get_stream(stream).await.unwrap().consumer_info(name).await.unwrap()
}

/// Returns `true` if the server can pin one client of several.
fn pins() -> bool {
    binary::version() >= (2, 11, 0)
}

/// Creates the work queue `WORK`.
async fn work_queue(jetstream: &JetStream) -> async_nats::jetstream::stream::Stream {
    let config = stream::Config { retention: stream::RetentionPolicy::WorkQueue, ..stream_config("WORK", &["work.>"]) };
    jetstream.create_stream(config).await.unwrap()
}

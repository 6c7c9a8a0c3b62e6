//! Publishing: one message, many messages, atomic batches and fast ingest.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

use jetstream_handlers::async_nats::jetstream::Context as JetStream;
use jetstream_handlers::stream;
use jetstream_handlers_tests::{Server, stream_config};

mod atomic;
mod cluster;
mod domain;
mod ingest;
mod lost_server;
mod permissions;
mod publish;
mod publish_all;
mod slow_link;

fn shop() -> stream::Config {
    stream_config("SHOP", &["orders.>"])
}

async fn count(jetstream: &JetStream, stream: &str) -> u64 {
    jetstream.get_stream(stream).await.unwrap().cached_info().state.messages
}

/// Returns the payloads of a stream in order.
async fn stored(server: &Server, stream: &str) -> Vec<u64> {
    let stream = server.jetstream().await.get_stream(stream).await.unwrap();
    let mut payloads = Vec::new();
    for sequence in 1..=stream.cached_info().state.last_sequence {
        let message = stream.get_raw_message(sequence).await.unwrap();
        payloads.push(serde_json::from_slice(&message.payload).unwrap());
    }
    payloads
}

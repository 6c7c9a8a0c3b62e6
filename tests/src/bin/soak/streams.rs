//! The streams, with three replicas each.

use std::time::Duration;

use jetstream_handlers::stream::StorageType;
use jetstream_handlers::{Builder, stream};
use jetstream_handlers_tests::stream_config;

pub(crate) fn work(storage: StorageType) -> stream::Config {
    stream::Config { num_replicas: 3, storage, ..stream_config("WORK", &["work.>"]) }
}

fn letters() -> stream::Config {
    stream::Config { num_replicas: 3, ..stream_config("DLQ", &["dlq.>"]) }
}

/// Adds the streams, and what the workers and the publisher have in common.
pub(crate) fn declared(builder: Builder, storage: StorageType) -> Builder {
    builder
        .stream(work(storage))
        .stream(letters())
        .fetch_wait(Duration::from_secs(2))
        .publish_timeout(Duration::from_secs(60))
        .wait_for_server(Duration::from_secs(30))
}

/// Returns where the stream of a seed is stored: with the seeds, both are tried.
pub(crate) fn storage(seed: u64) -> StorageType {
    if seed.is_multiple_of(2) { StorageType::Memory } else { StorageType::File }
}

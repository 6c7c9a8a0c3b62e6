//! The streams, with three replicas each.

use std::time::Duration;

use jetstream_handlers::{Builder, stream};
use jetstream_handlers_tests::stream_config;

pub(crate) fn work() -> stream::Config {
    stream::Config { num_replicas: 3, ..stream_config("WORK", &["work.>"]) }
}

fn letters() -> stream::Config {
    stream::Config { num_replicas: 3, ..stream_config("DLQ", &["dlq.>"]) }
}

/// Adds the streams, and what the workers and the publisher have in common.
pub(crate) fn declared(builder: Builder) -> Builder {
    builder
        .stream(work())
        .stream(letters())
        .fetch_wait(Duration::from_secs(2))
        .publish_timeout(Duration::from_secs(60))
        .wait_for_server(Duration::from_secs(30))
}

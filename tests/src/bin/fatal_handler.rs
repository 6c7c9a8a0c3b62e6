//! A worker whose handler kills the process, for the test that finds its message among the dead letters.

use jetstream_handlers::prelude::*;

#[subscriber(subject = "work.fatal", queue = "fatal", max_deliver = 2, ack_wait = "300ms")]
async fn fatal(id: u64) {
    eprintln!("message {id} kills the process");
    std::process::abort();
}

#[tokio::main]
async fn main() -> Result<(), jetstream_handlers::Error> {
    jetstream_handlers_tests::trace();
    Broker::from_env().connect().await?.run_all().await
}

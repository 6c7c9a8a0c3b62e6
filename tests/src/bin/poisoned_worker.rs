//! A service whose handler aborts the process at message 1.

use jetstream_handlers::prelude::*;

#[subscriber(subject = "work.poisoned", queue = "poisoned", max_deliver = 2, ack_wait = "300ms")]
async fn poisoned(id: u64) {
    if id == 1 {
        eprintln!("message {id} aborts the process");
        std::process::abort();
    }
    println!("handled {id}");
}

#[tokio::main]
async fn main() -> Result<(), jetstream_handlers::Error> {
    jetstream_handlers_tests::trace();
    Broker::from_env().connect().await?.run_all().await
}

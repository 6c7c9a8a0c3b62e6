//! A worker one of whose messages kills the process, for the test that finds the others handled.

use jetstream_handlers::prelude::*;

#[subscriber(subject = "work.mixed", queue = "mixed", max_deliver = 2, ack_wait = "300ms")]
async fn mixed(id: u64) {
    if id == 1 {
        eprintln!("message {id} kills the process");
        std::process::abort();
    }
    println!("handled {id}");
}

#[tokio::main]
async fn main() -> Result<(), jetstream_handlers::Error> {
    jetstream_handlers_tests::trace();
    Broker::from_env().connect().await?.run_all().await
}

//! A chain of two handlers that publish what they return: `work.in` to two subjects `work.mid.*`, and these to
//! `work.out`.

use jetstream_handlers::prelude::*;
use jetstream_handlers::{Error, Output};

#[tokio::main]
async fn main() -> Result<(), Error> {
    jetstream_handlers_tests::trace();
    let broker = Broker::from_env().connect_options(|options| options.ignore_discovered_servers()).connect().await?;
    let running = broker.start_all().await?;
    println!("started");
    std::future::pending::<()>().await;
    running.shutdown().await
}

#[subscriber(
    subject = "in.number",
    queue = "divide",
    ack = "confirmed",
    ack_wait = "1s",
    concurrency = 4,
    max_deliver = 1000,
    backoff = ["100ms"]
)]
async fn divide(number: u64) -> HandlerResult<(Output, Output)> {
    Ok((Output::to("mid.first", &number), Output::to("mid.second", &number)))
}

#[subscriber(
    subject = "mid.*",
    queue = "unite",
    publish = "out.number",
    ack = "confirmed",
    ack_wait = "1s",
    concurrency = 4,
    max_deliver = 1000,
    backoff = ["100ms"]
)]
async fn unite(number: u64, subject: Subject) -> HandlerResult<(u64, String)> {
    Ok((number, subject.to_string()))
}

//! A minimal program: `cargo run --example quickstart`, with a server at `localhost:4222`.
//!
//! It runs until Ctrl-C.

use jetstream_handlers::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize)]
struct OrderCreated {
    id: u64,
    customer: String,
}

#[subscriber(subject = "orders.created", queue = "order-processor")]
async fn process_order(order: OrderCreated) -> HandlerResult {
    println!("processing order {} for {}", order.id, order.customer);
    Ok(()) // Ok acks; Err is retried with backoff, then dead-lettered
}

#[tokio::main]
async fn main() -> Result<(), jetstream_handlers::Error> {
    let broker = Broker::connect("nats://localhost:4222").await?;
    broker.publish("orders.created", &OrderCreated { id: 123, customer: "Ada".into() }).await?; // returns after the stream stored it
    broker.run_all().await // until SIGINT or SIGTERM, then a graceful stop
}

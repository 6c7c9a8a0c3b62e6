use jetstream_handlers::prelude::*;

#[subscriber(subject = "orders.created", queue = "billing", key = "customer", partitions = 12)]
async fn bill(_order: serde_json::Value) {}

fn main() {}

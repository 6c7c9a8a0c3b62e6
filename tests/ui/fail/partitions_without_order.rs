use jetstream_handlers::prelude::*;

#[subscriber(subject = "orders.{partition}.created", queue = "billing", partitions = 12)]
async fn bill(_order: serde_json::Value) {}

fn main() {}

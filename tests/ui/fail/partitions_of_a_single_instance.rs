use jetstream_handlers::prelude::*;

#[subscriber(subject = "orders.{partition}.created", queue = "billing", ordered, partitions = 12, single_instance)]
async fn bill(_order: serde_json::Value) {}

fn main() {}

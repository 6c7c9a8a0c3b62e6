use jetstream_handlers::prelude::*;

#[subscriber(subject = "orders.created", queue = "order-processor", manage = "terraform")]
async fn process_order(_order: u64) {}

fn main() {}

use jetstream_handlers::prelude::*;

#[subscriber(subject = "orders.created", queue = "order-processor")]
async fn process_order(order: &[u8]) {
    println!("{order:?}");
}

fn main() {}

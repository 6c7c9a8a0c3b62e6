use jetstream_handlers::prelude::*;

#[subscriber(subject = "orders.created", queue = "order-processor")]
async fn process_order(order: String) -> Vec<u8> {
    order.into_bytes()
}

fn main() {}

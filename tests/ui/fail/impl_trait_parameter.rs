use jetstream_handlers::prelude::*;

#[subscriber(subject = "orders.created", queue = "order-processor")]
async fn process_order(order: impl Clone) {
    drop(order);
}

fn main() {}

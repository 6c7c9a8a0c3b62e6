use jetstream_handlers::prelude::*;

#[subscriber(subject = "orders.created", queue = "order-processor")]
#[subscriber(subject = "orders.changed", queue = "order-processor")]
async fn process_order(order: String) {
    drop(order);
}

fn main() {}

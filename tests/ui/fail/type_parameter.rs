use jetstream_handlers::prelude::*;

#[subscriber(subject = "orders.created", queue = "order-processor")]
async fn process_order<T>(order: T) {
    drop(order);
}

fn main() {}

use jetstream_handlers::prelude::*;

#[subscriber(subject = "orders.created", queue = "order-processor")]
async fn process_order(#[cfg(all())] order: String) {
    drop(order);
}

fn main() {}

use jetstream_handlers::prelude::*;

#[subscriber(subject = "orders.created", queue = "order-processor")]
async fn process_order<'a>(order: &'a str) {
    drop(order);
}

fn main() {}

use jetstream_handlers::prelude::*;

#[subscriber(subject = "orders.created", queue = "order-processor")]
async extern "C" fn process_order(order: String) {
    drop(order);
}

fn main() {}

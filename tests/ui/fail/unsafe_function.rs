use jetstream_handlers::prelude::*;

#[subscriber(subject = "orders.created", queue = "order-processor")]
async unsafe fn process_order(order: String) {
    drop(order);
}

fn main() {}

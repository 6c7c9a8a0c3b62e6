use jetstream_handlers::prelude::*;

#[subscriber(
    subject = "orders..created",
    durable = "order-processor",
    concurrency = 0,
    ack_wait = 30,
)]
fn process_order<T>(order: T) {
    drop(order);
}

fn main() {}

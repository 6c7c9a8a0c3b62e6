use jetstream_handlers::prelude::*;

#[subscriber(subject = "orders.created", queue = "order-processor")]
async fn process_order<const N: usize>(order: [u8; N]) {
    drop(order);
}

fn main() {}

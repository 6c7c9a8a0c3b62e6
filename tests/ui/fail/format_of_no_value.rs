use jetstream_handlers::MessagePack;
use jetstream_handlers::prelude::*;

struct Order {
    id: u64,
}

#[subscriber(subject = "orders.created", queue = "order-processor")]
async fn process_order(order: MessagePack<Order>) {
    println!("{}", order.id);
}

fn main() {}

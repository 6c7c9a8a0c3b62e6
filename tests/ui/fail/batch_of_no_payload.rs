use jetstream_handlers::prelude::*;

struct Order;

#[subscriber(subject = "orders.created", queue = "order-processor", batch = 100)]
async fn process_orders(orders: Batch<Order>) {
    println!("{}", orders.len());
}

fn main() {}

use jetstream_handlers::prelude::*;

#[subscriber(subject = "orders.created", queue = "order-processor")]
async fn process_order(order: &'static str) {
    println!("{order}");
}

fn main() {}

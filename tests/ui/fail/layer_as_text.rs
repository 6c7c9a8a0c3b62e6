use jetstream_handlers::prelude::*;

#[subscriber(subject = "orders.created", queue = "order-processor", layer = "limit")]
async fn process_order(order: String) {
    println!("{order}");
}

fn main() {}

use jetstream_handlers::prelude::*;

#[subscriber(event = String, queue = "order-processor")]
async fn process_order(order: String) {
    println!("{order}");
}

fn main() {}

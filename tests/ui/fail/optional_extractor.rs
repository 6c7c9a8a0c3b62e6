use jetstream_handlers::prelude::*;

#[subscriber(subject = "orders.created", queue = "order-processor")]
async fn process_order(order: String, limit: Option<State<u64>>) {
    println!("{order} {limit:?}");
}

fn main() {}

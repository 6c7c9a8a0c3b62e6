use jetstream_handlers::prelude::*;

#[subscriber(subject = "orders.created", queue = "order-processor")]
async fn process_order(order: Option<String>) -> Option<()> {
    println!("{}", order?);
    Some(())
}

fn main() {}

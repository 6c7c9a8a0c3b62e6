use jetstream_handlers::prelude::*;

#[subscriber(subject = "orders.created", queue = "order-processor", key = "")]
async fn process_order(order: String) -> HandlerResult {
    println!("{order}");
    Ok(())
}

fn main() {}

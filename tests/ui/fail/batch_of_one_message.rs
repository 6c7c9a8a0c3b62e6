use jetstream_handlers::prelude::*;

#[subscriber(subject = "orders.created", queue = "order-processor", batch = 100)]
async fn process_order(order: String) -> HandlerResult {
    println!("{order}");
    Ok(())
}

fn main() {}

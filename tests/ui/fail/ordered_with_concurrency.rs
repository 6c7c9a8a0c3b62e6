use jetstream_handlers::prelude::*;

#[subscriber(subject = "orders.created", queue = "order-processor", ordered, concurrency = 4)]
async fn process_order(order: String) -> HandlerResult {
    println!("{order}");
    Ok(())
}

fn main() {}

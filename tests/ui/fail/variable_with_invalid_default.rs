use jetstream_handlers::prelude::*;

#[subscriber(subject = "orders.created", queue = "order-processor", concurrency = env("WORKERS", 0))]
async fn process_order(order: String) -> HandlerResult {
    println!("{order}");
    Ok(())
}

fn main() {}

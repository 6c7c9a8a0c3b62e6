use jetstream_handlers::prelude::*;

#[subscriber(subject = "orders.created", queue = "order-processor", replicas = 1)]
async fn process_order(order: String) -> HandlerResult {
    println!("{order}");
    Ok(())
}

fn main() {}

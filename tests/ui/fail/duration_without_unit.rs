use jetstream_handlers::prelude::*;

#[subscriber(subject = "orders.created", queue = "order-processor", ack_wait = "30")]
async fn process_order(order: String) -> HandlerResult {
    println!("{order}");
    Ok(())
}

fn main() {}

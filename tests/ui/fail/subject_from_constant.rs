use jetstream_handlers::prelude::*;

const SUBJECT: &str = "orders.created";

#[subscriber(subject = SUBJECT, queue = "order-processor")]
async fn process_order(order: String) -> HandlerResult {
    println!("{SUBJECT} {order}");
    Ok(())
}

fn main() {}

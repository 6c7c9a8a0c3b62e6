use jetstream_handlers::prelude::*;

#[subscriber(subject = "orders.{region}.{region}", queue = "order-processor")]
async fn process_order(order: String) -> HandlerResult {
    println!("{order}");
    Ok(())
}

fn main() {}

use jetstream_handlers::prelude::*;

#[subscriber(subject = ["orders.{region}.created", "orders.{area}.paid"], queue = "order-processor", key = "{region}")]
async fn process_order(order: String) -> HandlerResult {
    println!("{order}");
    Ok(())
}

fn main() {}

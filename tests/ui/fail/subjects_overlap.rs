use jetstream_handlers::prelude::*;

#[subscriber(subject = ["orders.{region}.paid", "orders.eu.*"], queue = "order-processor")]
async fn process_order(order: String) -> HandlerResult {
    println!("{order}");
    Ok(())
}

fn main() {}

use jetstream_handlers::prelude::*;

#[subscriber(subject = "orders.created", queue = "order-processor")]
async fn process_orders(orders: Batch<String>) -> HandlerResult {
    println!("{orders:?}");
    Ok(())
}

fn main() {}

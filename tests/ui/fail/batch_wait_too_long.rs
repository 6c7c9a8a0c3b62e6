use jetstream_handlers::prelude::*;

#[subscriber(subject = "orders.created", queue = "order-processor", batch = 100, batch_wait = "1s", ack_wait = "2s")]
async fn process_orders(orders: Batch<String>) -> HandlerResult {
    println!("{orders:?}");
    Ok(())
}

fn main() {}

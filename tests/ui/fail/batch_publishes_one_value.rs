use jetstream_handlers::prelude::*;

#[subscriber(subject = "orders.created", queue = "order-processor", batch = 100, publish = "orders.counted")]
async fn process_orders(orders: Batch<u64>) -> HandlerResult<usize> {
    Ok(orders.len())
}

fn main() {}

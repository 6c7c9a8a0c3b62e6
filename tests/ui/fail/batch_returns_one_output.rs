use jetstream_handlers::Output;
use jetstream_handlers::prelude::*;

#[subscriber(subject = "orders.created", queue = "order-processor", batch = 100)]
async fn process_orders(orders: Batch<u64>) -> HandlerResult<Output> {
    Ok(Output::to("orders.counted", &orders.len()))
}

fn main() {}

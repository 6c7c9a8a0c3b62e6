use jetstream_handlers::prelude::*;

#[subscriber(subject = "orders.*", queue = "order-processor", batch = 100)]
async fn process_orders(orders: Batch<String>, subject: Subject) -> HandlerResult {
    println!("{subject}: {orders:?}");
    Ok(())
}

fn main() {}

use jetstream_handlers::prelude::*;

#[subscriber(subject = "orders.created", queue = "order-processor", batch = 100)]
async fn process_orders(orders: Batch<String>, order: String) -> HandlerResult {
    println!("{order}: {orders:?}");
    Ok(())
}

fn main() {}

use jetstream_handlers::prelude::*;

#[subscriber(subject = "orders.created", queue = "order-processor", blocking, concurrency = 1000)]
fn process_order(order: String) -> HandlerResult {
    println!("{order}");
    Ok(())
}

fn main() {}

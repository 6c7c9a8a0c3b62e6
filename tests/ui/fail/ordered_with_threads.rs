use jetstream_handlers::prelude::*;

#[subscriber(subject = "orders.created", queue = "order-processor", ordered, threads = 4)]
fn process_order(order: String) -> HandlerResult {
    println!("{order}");
    Ok(())
}

fn main() {}

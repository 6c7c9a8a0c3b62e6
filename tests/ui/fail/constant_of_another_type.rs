use jetstream_handlers::prelude::*;

const QUEUE: u64 = 7;

#[subscriber(subject = "orders.created", queue = QUEUE)]
async fn process_order(order: String) -> HandlerResult {
    println!("{order}");
    Ok(())
}

fn main() {}

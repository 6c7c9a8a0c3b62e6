use jetstream_handlers::prelude::*;

#[subscriber(subject = "orders.created")]
async fn process_order(order: String) -> HandlerResult {
    println!("{order}");
    Ok(())
}

fn main() {}

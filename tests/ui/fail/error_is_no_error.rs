use jetstream_handlers::prelude::*;

struct OutOfStock;

#[subscriber(subject = "orders.created", queue = "order-processor")]
async fn process_order(order: String) -> Result<(), OutOfStock> {
    println!("{order}");
    Ok(())
}

fn main() {}

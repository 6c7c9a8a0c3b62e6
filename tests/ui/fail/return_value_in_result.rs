use jetstream_handlers::prelude::*;

#[subscriber(subject = "orders.created", queue = "order-processor")]
async fn process_order(order: String) -> Result<u32, std::io::Error> {
    println!("{order}");
    Ok(1)
}

fn main() {}

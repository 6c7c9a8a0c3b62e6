use jetstream_handlers::prelude::*;
use jetstream_handlers::{MessagePack, Raw};

#[subscriber(subject = "orders.created", queue = "order-processor")]
async fn process_order(order: Option<MessagePack<u64>>, text: Raw<String>) {
    println!("{order:?} {text:?}");
}

fn main() {}

use jetstream_handlers::prelude::*;

#[subscriber(subject = "orders.created", queue = "confirmer", publish = "orders.*")]
async fn confirm(order: u64) -> u64 {
    order
}

fn main() {}

use jetstream_handlers::prelude::*;

#[subscriber(subject = "orders.created", queue = "confirmer", publish = "orders.confirmed")]
async fn confirm(order: u64) {
    println!("{order}");
}

fn main() {}

use jetstream_handlers::prelude::*;
use serde::Deserialize;

#[derive(Deserialize)]
struct Order {
    id: u64,
}

#[derive(Deserialize)]
struct Customer {
    name: String,
}

#[subscriber(subject = "orders.created", queue = "order-processor")]
async fn process_order(order: Order, subject: Subject, customer: Customer) {
    println!("{subject} {} {}", order.id, customer.name);
}

fn main() {}

use jetstream_handlers::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[event(subject = "orders.created")]
struct OrderCreated {
    id: u64,
}

#[subscriber(event = OrderCreated, subject = "orders.created", queue = "order-processor")]
async fn process_order(order: OrderCreated) {
    println!("{}", order.id);
}

fn main() {}

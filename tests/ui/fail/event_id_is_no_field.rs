use jetstream_handlers::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Payment {
    order: u64,
}

#[derive(Event)]
enum OrderEvent {
    #[event(subject = "orders.paid", id = "order.id")]
    Paid(Payment),
    #[event(subject = "orders.{order}.refunded", id = "")]
    Refunded(Payment),
}

fn main() {}

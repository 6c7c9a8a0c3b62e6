use jetstream_handlers::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[event(subject = "orders.paid")]
struct Paid {
    order: u64,
}

#[derive(Event, Serialize, Deserialize)]
#[event(subject = "orders.refunded")]
struct Refunded {
    order: u64,
}

#[derive(Event)]
enum Payment {
    Paid(Paid),
    Refunded(Refunded),
}

#[derive(Event)]
enum OrderEvent {
    Payment(Payment),
}

fn main() {}

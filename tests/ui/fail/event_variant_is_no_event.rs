use jetstream_handlers::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Payment {
    order: u64,
}

#[derive(Event)]
enum OrderEvent {
    Paid(Payment),
}

fn main() {}

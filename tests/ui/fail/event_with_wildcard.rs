use jetstream_handlers::prelude::*;
use serde::Serialize;

#[derive(Event, Serialize)]
#[event(subject = "orders.*.created", colour = "red")]
struct OrderCreated {
    id: u64,
}

fn main() {}

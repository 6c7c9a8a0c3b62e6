use jetstream_handlers::prelude::*;
use serde::Serialize;

#[derive(Event, Serialize)]
#[event(subject = "orders.created", codec = u32)]
struct OrderCreated {
    id: u64,
}

fn main() {}

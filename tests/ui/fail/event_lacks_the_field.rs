use jetstream_handlers::prelude::*;
use serde::Serialize;

#[derive(Event, Serialize)]
#[event(subject = "orders.{region}.created", id = "number")]
struct OrderCreated {
    id: u64,
    area: String,
}

fn main() {}

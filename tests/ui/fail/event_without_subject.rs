use jetstream_handlers::prelude::*;
use serde::Serialize;

#[derive(Event, Serialize)]
#[event(id = "id")]
struct OrderCreated {
    id: u64,
}

fn main() {}

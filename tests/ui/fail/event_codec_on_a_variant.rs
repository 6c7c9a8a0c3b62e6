use jetstream_handlers::JsonCodec;
use jetstream_handlers::prelude::*;
use serde::Serialize;

#[derive(Event, Serialize)]
#[event(subject = "orders.created")]
struct OrderCreated {
    id: u64,
}

#[derive(Event)]
enum OrderEvent {
    #[event(codec = JsonCodec)]
    Created(OrderCreated),
}

fn main() {}

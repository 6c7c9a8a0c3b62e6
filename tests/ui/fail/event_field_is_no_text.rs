use jetstream_handlers::prelude::*;
use serde::Serialize;

#[derive(Event, Serialize)]
#[event(subject = "orders.{lines}.created")]
struct OrderCreated {
    lines: Vec<String>,
}

fn main() {}

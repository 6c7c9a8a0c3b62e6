use jetstream_handlers::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[event(subject = "orders.created", codec = jetstream_handlers::MessagePackCodec)]
struct OrderCreated {
    id: u64,
}

fn main() {}

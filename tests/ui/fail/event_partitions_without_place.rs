use jetstream_handlers::prelude::*;
use serde::Serialize;

#[derive(Event, Serialize)]
#[event(subject = "orders.created", key = "customer", partitions = 12)]
struct Created {
    customer: String,
}

#[derive(Event, Serialize)]
#[event(subject = "orders.{partition}.paid", partitions = 12)]
struct Paid {
    customer: String,
}

#[derive(Event, Serialize)]
#[event(subject = "orders.{partition}.shipped", key = "customer")]
struct Shipped {
    customer: String,
}

#[derive(Event, Serialize)]
#[event(subject = "orders.{partition}.returned", key = "customre", partitions = 0)]
struct Returned {
    customer: String,
}

fn main() {}

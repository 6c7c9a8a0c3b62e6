use jetstream_handlers::prelude::*;

mod names {
    pub const CREATED: &str = "orders.created";
    pub const SUBJECTS: [&str; 2] = [CREATED, "orders.paid"];
    pub const QUEUE: &str = "order-processor";
}

#[subscriber(subject = names::CREATED, queue = names::QUEUE, stream = concat!("OR", "DERS"))]
async fn constants(_: String) {}

#[subscriber(subject = names::SUBJECTS, queue = env!("CARGO_PKG_NAME"))]
async fn list_in_a_constant(_: String) {}

#[subscriber(subject = [names::CREATED, "orders.{region}.{id}", concat!("orders", ".paid")], queue = "list")]
async fn list(_: Path<Vec<String>>) {}

#[subscriber(
    subject = env("SUBJECT"),
    queue = env("QUEUE", "order-processor"),
    stream = env("STREAM", "ORDERS"),
    concurrency = env("WORKERS", 4),
    ack_wait = env("ACK_WAIT", "1m30s"),
    backoff = env("BACKOFF", ["1s", "5s"]),
    dead_letter = names::CREATED,
)]
async fn variables(_: String) {}

fn main() {}

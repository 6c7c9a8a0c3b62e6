use jetstream_handlers::prelude::*;

mod names {
    pub const CREATED: &str = "orders.created";
    pub const SUBJECTS: [&str; 2] = [CREATED, "orders.paid"];
    pub const QUEUE: &str = "order-processor";
    pub const CUSTOMER: &str = "order.customer.id";
    pub const TENANT: &str = "Tenant";
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

#[subscriber(subject = "orders.created", queue = "keyed", key = "customer", concurrency = 8, ack = "confirmed")]
async fn keyed(_: String) {}

#[subscriber(subject = "orders.{region}.created", queue = "regions", key = "{region}", threads = 4, single_instance)]
fn keyed_by_region(_: String) {}

#[subscriber(subject = ["a.{rest..}", "b.{rest..}"], queue = "rests", key = "{rest..}", batch = 100, publish = "c")]
async fn keyed_batch(orders: Batch<String>) -> Vec<String> {
    orders.to_vec()
}

#[subscriber(subject = "orders.created", queue = "tenants", key = header("Tenant"))]
async fn keyed_by_tenant(_: String) {}

#[subscriber(subject = names::CREATED, queue = "constant", key = names::CUSTOMER, single_instance)]
async fn keyed_by_constant(_: String) {}

#[subscriber(subject = "orders.created", queue = "concatenated", key = concat!("order.", "id"), blocking)]
fn keyed_by_concatenation(_: String) {}

#[subscriber(subject = "orders.created", queue = "constant-header", key = header(names::TENANT))]
async fn keyed_by_constant_header(_: String) {}

fn main() {}

//! A service with all kinds of handlers that is operated by its own command line.

use std::process::ExitCode;

use jetstream_handlers::prelude::*;
use jetstream_handlers::stream;
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize)]
struct Order {
    id: u64,
    customer: String,
}

/// Bills an order.
#[subscriber(
    subject = "shop.orders.created",
    queue = "billing",
    concurrency = 4,
    max_deliver = 2,
    backoff = ["100ms"],
    ack_wait = env("OPERATED_ACK_WAIT", "30s"),
    group = "money"
)]
async fn bill(order: Order) -> HandlerResult {
    if order.customer == "Mallory" {
        return Err(format!("order {} cannot be billed", order.id).into());
    }
    println!("billed {}", order.id);
    Ok(())
}

#[subscriber(subject = "shop.orders.{id}.paid", queue = "shipping", ordered, publish = "shop.shipped")]
async fn ship(id: Path<u64>) -> HandlerResult<u64> {
    Ok(*id)
}

#[subscriber(subject = "shop.>", queue = "audit", dead_letter = false, batch = 10)]
async fn audit(messages: Batch<serde_json::Value>) {
    println!("audited {}", messages.len());
}

#[subscriber(subject = "elsewhere.>", queue = "elsewhere", broker = "other")]
async fn elsewhere(value: serde_json::Value) {
    println!("{value}");
}

#[tokio::main]
async fn main() -> ExitCode {
    jetstream_handlers_tests::trace();
    let subjects = vec!["shop.>".to_owned()];
    let shop = stream::Config { name: "SHOP".to_owned(), subjects, ..stream::Config::default() };
    Broker::from_env()
        .connect_options(|options| options.ignore_discovered_servers())
        .version("1.2.3")
        .stream(shop)
        .run_cli()
        .await
}

//! A service that is operated with nothing but its own program: `cargo run --example cli -- help`.
//!
//! Without arguments it runs its handlers, on the server of the environment: `NATS_URL`, `NATS_CONTEXT` or
//! `nats://localhost:4222`.
//! `cargo run --example cli -- handlers` needs no server, and `-- check`, `-- plan`, `-- status` and `-- dlq list` ask it.

use std::process::ExitCode;

use jetstream_handlers::prelude::*;
use jetstream_handlers::stream;
use serde::{Deserialize, Serialize};

/// An order was paid.
#[derive(Debug, Serialize, Deserialize)]
struct Paid {
    order: u64,
    cents: u64,
}

/// Sends the invoice of a paid order.
#[subscriber(subject = "shop.paid", queue = "invoices", concurrency = 4, max_deliver = 2, backoff = ["1s"])]
async fn send_invoice(paid: Paid) -> HandlerResult {
    if paid.cents == 0 {
        return Err(format!("order {} has no amount", paid.order).into());
    }
    println!("invoice of order {}: {} cents", paid.order, paid.cents);
    Ok(())
}

/// Counts everything that happens in the shop.
#[subscriber(subject = "shop.>", queue = "statistics", group = "reports")]
async fn count(subject: Subject) {
    println!("counted a message on {subject}");
}

#[tokio::main]
async fn main() -> ExitCode {
    // The log goes to the standard error, so that the output of a command can be parsed.
    let is_service = std::env::args().len() == 1;
    let level = if is_service { tracing::Level::INFO } else { tracing::Level::WARN };
    tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr).init();
    let shop = stream::Config {
        name: "SHOP".to_owned(),
        subjects: vec!["shop.>".to_owned()],
        max_age: std::time::Duration::from_secs(30 * 24 * 3600),
        ..stream::Config::default()
    };
    Broker::from_env().version(env!("CARGO_PKG_VERSION")).stream(shop).run_cli().await
}

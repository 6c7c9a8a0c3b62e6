//! A service that handles the orders on `work.keyed` by customer, and prints each success with its time on a line.

use std::time::{Duration, UNIX_EPOCH};

use jetstream_handlers::{Broker, Error, HandlerError, HandlerResult, Info};
use serde::Deserialize;

#[derive(Deserialize)]
struct Order {
    customer: u64,
    id: u64,
}

/// Fails one message in twenty at its first attempt.
async fn handle(order: Order, info: Info) -> HandlerResult {
    tokio::time::sleep(Duration::from_millis(order.id % 5)).await;
    if order.id.is_multiple_of(20) && info.delivered() == 1 {
        return Err(HandlerError::retry("the first attempt fails"));
    }
    let now = UNIX_EPOCH.elapsed().map_or(0, |elapsed| elapsed.as_nanos());
    println!("handled {now} {} {}", order.customer, order.id);
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let broker = Broker::from_env().connect().await?;
    let subscription = broker
        .subscribe("work.keyed", "keyed", handle)
        .key("customer")
        .concurrency(32)
        .backoff(&[Duration::from_millis(100)])
        .await?;
    println!("started");
    tokio::time::sleep(Duration::from_secs(600)).await;
    subscription.unsubscribe().await
}

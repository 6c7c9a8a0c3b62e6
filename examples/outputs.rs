//! A chain of two handlers that publish what they return: `cargo run --example outputs`.
//!
//! Each order is confirmed, or rejected if it is empty, and each confirmed order is packed into parcels.
//! With `NATS_URL` it uses that server, without it, it runs in memory; it exits when all parcels are packed.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use jetstream_handlers::prelude::*;
use jetstream_handlers::{Output, Outputs};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

#[derive(Debug, Serialize, Deserialize)]
struct Order {
    id: u64,
    items: u32,
}

#[derive(Debug, Serialize, Deserialize)]
struct Parcel {
    order: u64,
    number: u32,
}

/// Returns outputs with a subject each.
#[subscriber(subject = "orders.placed", queue = "sales", ack = "confirmed")]
async fn check(order: Order) -> HandlerResult<Outputs> {
    let mut outputs = Outputs::new();
    match order.items {
        0 => outputs.push(Output::to("refusals.orders", &order).header("Reason", "the order is empty")),
        _ => outputs.push(Output::to("confirmed.orders", &order)),
    }
    Ok(outputs)
}

/// Returns the values that are published to the subject of `publish`.
#[subscriber(subject = "confirmed.orders", queue = "warehouse", publish = "parcels.packed", ack = "confirmed")]
async fn pack(order: Order, info: Info) -> HandlerResult<Vec<Parcel>> {
    if order.id == 2 && info.delivered() == 1 {
        println!("  warehouse order 2: the shelf is empty, so it is retried, and publishes nothing yet");
        return Err(HandlerError::retry_after(Duration::from_millis(300), "the shelf is empty"));
    }
    let parcels = order.items.div_ceil(2);
    Ok((1..=parcels).map(|number| Parcel { order: order.id, number }).collect())
}

#[subscriber(subject = "parcels.packed", queue = "post")]
async fn send(parcel: Parcel, State(sent): State<Arc<Semaphore>>) {
    println!("  post      parcel {} of order {}", parcel.number, parcel.order);
    sent.add_permits(1);
}

#[subscriber(subject = "refusals.orders", queue = "letters")]
async fn write_letter(order: Order, headers: Headers, State(sent): State<Arc<Semaphore>>) {
    println!("  letters   order {}: {}", order.id, headers.get("Reason").unwrap_or_default());
    sent.add_permits(1);
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let sent = Arc::new(Semaphore::new(0));
    let broker = jetstream_handlers_examples::broker(|settings| settings.state(sent.clone())).await?;
    let running = broker.start_all().await?;
    for (id, items) in [(1, 3), (2, 4), (3, 0)] {
        broker.publish("orders.placed", &Order { id, items }).await?;
    }
    // Two parcels each for the orders 1 and 2, and one letter.
    let all = tokio::time::timeout(Duration::from_secs(20), sent.acquire_many(5));
    all.await.context("not everything was sent")??.forget();
    println!("All parcels are sent.");
    running.shutdown().await?;
    broker.disconnect().await?;
    Ok(())
}

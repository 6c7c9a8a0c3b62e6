//! Events that know their subject, and handlers that take parts of it: `cargo run --example events`.
//!
//! All subjects and streams have the prefix `demo`, as those of an environment.
//! With `NATS_URL` it uses that server, without it, it runs in memory; it exits when every message is handled.

use std::time::Duration;

use anyhow::Context as _;
use jetstream_handlers::prelude::*;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

#[derive(Debug, Event, Serialize, Deserialize)]
#[event(subject = "orders.{region}.created", id = "id")]
struct OrderCreated {
    id: u64,
    region: String,
    customer: String,
}

#[derive(Debug, Event, Serialize, Deserialize)]
#[event(subject = "orders.{region}.paid", id = "id", version = 2)]
struct OrderPaid {
    id: u64,
    region: String,
    amount: u64,
}

/// Everything that happens to an order; the subject tells the variants apart.
#[derive(Debug, Event)]
enum OrderEvent {
    Created(OrderCreated),
    Paid(OrderPaid),
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Region {
    Eu,
    Us,
}

/// The lines that the handlers print.
type Lines = mpsc::UnboundedSender<String>;

#[subscriber(event = OrderCreated, queue = "shipping", concurrency = env("SHIPPING_WORKERS", 4))]
async fn ship(order: OrderCreated, Path(region): Path<Region>, State(lines): State<Lines>) -> HandlerResult {
    let speed = match region {
        Region::Eu => "tomorrow",
        Region::Us => "in two days",
    };
    lines.send(format!("shipping  order {} of {} in {} is shipped {speed}", order.id, order.customer, order.region))?;
    Ok(())
}

#[subscriber(event = OrderEvent, queue = "report")]
async fn report(event: OrderEvent, State(lines): State<Lines>) -> HandlerResult {
    lines.send(match event {
        OrderEvent::Created(order) => format!("report    {}: order {} is created", order.region, order.id),
        OrderEvent::Paid(order) => {
            format!("report    {}: order {} is paid with {}", order.region, order.id, order.amount)
        }
    })?;
    Ok(())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let (lines, mut printed) = mpsc::unbounded_channel::<String>();
    let broker = jetstream_handlers_examples::broker(|settings| settings.subject_prefix("demo").state(lines)).await?;
    let running = broker.start_all().await?;

    for (id, region, customer) in [(1, "eu", "Ada"), (2, "us", "Grace"), (3, "mars", "Valentina")] {
        let order = OrderCreated { id, region: region.into(), customer: customer.into() };
        let ack = broker.send(&order).await?;
        println!("  shop      {}: stored in {} as message {}", order.subject()?, ack.stream, ack.sequence);
        let again = broker.send(&order).await?;
        println!("  shop      {} again: a duplicate: {}", order.subject()?, again.duplicate);
    }
    broker.send(&OrderEvent::Paid(OrderPaid { id: 2, region: "us".into(), amount: 95 })).await?;

    // Two orders are shipped, and four events are reported.
    for _ in 0..6 {
        let line = tokio::time::timeout(Duration::from_secs(30), printed.recv()).await;
        println!("  {}", line.context("not everything was handled within 30 s")?.unwrap_or_default());
    }
    running.shutdown().await?;
    for letter in broker.dead_letters().list(10).await? {
        println!("  letter    {}", letter.error);
    }
    broker.disconnect().await?;
    Ok(())
}

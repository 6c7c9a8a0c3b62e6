//! A handler that stores readings in batches: `cargo run --example batches`.
//!
//! It publishes 250 readings, one of which the database refuses.
//! The batch with it is divided until it is alone, so that it becomes the only dead letter.
//! With `NATS_URL` it uses that server, without it, it runs in memory; it exits when all other readings are stored.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context as _;
use jetstream_handlers::prelude::*;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Reading {
    meter: u64,
    watts: i64,
}

#[subscriber(
    subject = "meters.read",
    queue = "meters",
    batch = 100,
    batch_wait = "500ms",
    max_deliver = 1,
    on_batch_error = "split"
)]
async fn store(readings: Batch<Reading>, State(table): State<Table>) -> HandlerResult {
    match table.insert(&readings) {
        Ok(()) => println!("  stored {:>3} readings", readings.len()),
        Err(error) => {
            println!("  refused {:>2} readings: {error}", readings.len());
            return Err(error.into());
        }
    }
    Ok(())
}

/// A table that stores several rows in one transaction, or none of them.
#[derive(Clone, Default)]
struct Table {
    rows: Arc<Mutex<Vec<Reading>>>,
    changed: Arc<Notify>,
}

impl Table {
    fn insert(&self, readings: &[Reading]) -> Result<(), String> {
        if let Some(wrong) = readings.iter().find(|reading| reading.watts < 0) {
            return Err(format!("meter {} has a negative reading", wrong.meter));
        }
        self.rows.lock().expect("no holder of the lock panics").extend_from_slice(readings);
        self.changed.notify_one();
        Ok(())
    }

    fn len(&self) -> usize {
        self.rows.lock().expect("no holder of the lock panics").len()
    }

    async fn until(&self, rows: usize) {
        while self.len() < rows {
            self.changed.notified().await;
        }
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let table = Table::default();
    let broker = jetstream_handlers_examples::broker(|settings| settings.state(table.clone())).await?;
    for meter in 0..250 {
        let watts = if meter == 123 { -1 } else { 400 };
        broker.publish("meters.read", &Reading { meter, watts }).await?;
    }

    let running = broker.start_all().await?;
    let stored = tokio::time::timeout(Duration::from_secs(30), table.until(249)).await;
    stored.context("not every reading was stored within 30 s")?;
    running.shutdown().await?;

    let letters = broker.dead_letters().list(10).await?;
    let refused: Vec<_> = letters.iter().map(|letter| letter.error.as_str()).collect();
    println!("\nStored {} readings; refused: {}.", table.len(), refused.join(", "));
    broker.disconnect().await?;
    Ok(())
}

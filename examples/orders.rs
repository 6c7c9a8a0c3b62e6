//! A service with two handlers: `cargo run --example orders`.
//!
//! It publishes four orders, bills them and keeps a ledger of all messages on `orders.>`.
//! The first attempt to bill Grace fails, and is retried.
//! With `NATS_URL` it uses that server, without it, it runs in memory; it exits when all orders are paid.
//! With arguments, it is the command line of the service: `cargo run --example orders -- handlers`.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use jetstream_handlers::prelude::*;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

#[derive(Debug, Serialize, Deserialize)]
struct OrderCreated {
    id: u64,
    customer: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct OrderPaid {
    id: u64,
    attempts: u64,
}

#[subscriber(subject = "orders.created", queue = "billing", backoff = ["400ms", "2s"])]
async fn bill(order: OrderCreated, info: Info, publisher: Publisher, State(shop): State<Shop>) -> HandlerResult {
    let OrderCreated { id, customer } = order;
    if customer == "Grace" && info.delivered() == 1 {
        println!("  billing   order {id} of {customer}: the bank does not answer, so it is retried");
        return Err("the bank does not answer".into());
    }
    let attempts = info.delivered();
    let ack = publisher.publish("orders.paid", &OrderPaid { id, attempts }).await?;
    println!("  billing   order {id} of {customer}: paid in attempt {attempts}");
    shop.books().paid.insert(info.stream_sequence(), ack.sequence);
    shop.changed.notify_one();
    Ok(())
}

#[subscriber(subject = "orders.>", queue = "ledger")]
async fn ledger(message: Message, State(shop): State<Shop>) {
    let (subject, sequence) = (message.subject(), message.info().stream_sequence());
    let text = String::from_utf8_lossy(message.payload());
    println!("  ledger    message {sequence}, {subject}: {text}");
    shop.books().ledger.insert(sequence);
    shop.changed.notify_one();
}

/// The state of both handlers.
#[derive(Clone, Default)]
struct Shop {
    books: Arc<Mutex<Books>>,
    changed: Arc<Notify>,
}

#[derive(Default)]
struct Books {
    /// The sequence of each paid order, with the sequence of its payment.
    paid: BTreeMap<u64, u64>,
    ledger: BTreeSet<u64>,
}

impl Shop {
    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().expect("no holder of the lock panics")
    }

    /// Waits until these orders are paid, and orders and payments are in the ledger.
    async fn done(&self, orders: &[u64]) {
        let is_done = |Books { paid, ledger }: &Books, order| {
            ledger.contains(order) && paid.get(order).is_some_and(|payment| ledger.contains(payment))
        };
        while !orders.iter().all(|order| is_done(&self.books(), order)) {
            self.changed.notified().await;
        }
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let shop = Shop::default();
    if std::env::args().len() > 1 {
        return Ok(Broker::from_env().state(shop).run_cli().await);
    }
    let broker = jetstream_handlers_examples::broker(|settings| settings.state(shop.clone())).await?;
    let running = broker.start_all().await?;

    let start = Instant::now();
    let mut orders = Vec::new();
    for (id, customer) in (1..).zip(["Ada", "Grace", "Barbara", "Katherine"]) {
        let ack = broker.publish("orders.created", &OrderCreated { id, customer: customer.into() }).await?;
        println!("  shop      order {id} of {customer}: stored in {} as message {}", ack.stream, ack.sequence);
        orders.push(ack.sequence);
    }

    let done = tokio::time::timeout(Duration::from_secs(30), shop.done(&orders)).await;
    done.context("not every order was paid within 30 s")?;
    println!("\nAll {} orders are paid, {:.1?} after the first was published.", orders.len(), start.elapsed());

    running.shutdown().await?;
    broker.disconnect().await?;
    Ok(ExitCode::SUCCESS)
}

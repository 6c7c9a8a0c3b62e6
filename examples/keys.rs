//! Payments of several accounts, each in order: `cargo run --example keys`.
//!
//! Payments of one account are booked one after the other, and those of others at the same time.
//! The first payment of account 2 fails twice: the later ones of that account wait for it, and the others do not.
//! With `NATS_URL` it uses that server, without it, it runs in memory; it exits when all payments are booked.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context as _;
use jetstream_handlers::prelude::*;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Payment {
    account: u64,
    number: u64,
}

#[subscriber(subject = "payments.made", queue = "ledger", key = "account", concurrency = 8, backoff = ["200ms"])]
async fn book(payment: Payment, info: Info, State(ledger): State<Ledger>) -> HandlerResult {
    tokio::time::sleep(Duration::from_millis(10)).await;
    if (payment.account, payment.number) == (2, 1) && info.delivered() < 3 {
        println!("  account 2: payment 1 fails");
        return Err("the account is locked".into());
    }
    println!("  account {}: payment {}", payment.account, payment.number);
    ledger.book(payment);
    Ok(())
}

/// The payments that were booked, in order.
#[derive(Clone, Default)]
struct Ledger {
    payments: Arc<Mutex<Vec<Payment>>>,
    changed: Arc<Notify>,
}

impl Ledger {
    fn book(&self, payment: Payment) {
        self.payments.lock().expect("no holder of the lock panics").push(payment);
        self.changed.notify_one();
    }

    fn payments(&self) -> Vec<Payment> {
        self.payments.lock().expect("no holder of the lock panics").clone()
    }

    async fn until(&self, payments: usize) {
        while self.payments().len() < payments {
            self.changed.notified().await;
        }
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let ledger = Ledger::default();
    let broker = jetstream_handlers_examples::broker(|settings| settings.state(ledger.clone())).await?;
    for number in 1..=4 {
        for account in 1..=3 {
            broker.publish("payments.made", &Payment { account, number }).await?;
        }
    }

    let running = broker.start_all().await?;
    let booked = tokio::time::timeout(Duration::from_secs(30), ledger.until(12)).await;
    booked.context("not every payment was booked within 30 s")?;
    running.shutdown().await?;

    println!();
    for account in 1..=3 {
        let payments = ledger.payments().into_iter().filter(|payment| payment.account == account);
        let numbers: Vec<_> = payments.map(|payment| payment.number.to_string()).collect();
        println!("Account {account}: {}", numbers.join(", "));
    }
    broker.disconnect().await?;
    Ok(())
}

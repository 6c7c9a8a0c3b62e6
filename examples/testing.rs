//! A service and its tests: `cargo test --example testing`, or `cargo run --example testing` for the service.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use jetstream_handlers::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Order {
    id: u64,
    cents: u64,
}

/// The amount of each charged order.
type Charges = Arc<Mutex<BTreeMap<u64, u64>>>;

#[subscriber(subject = "orders.created", queue = "charge", backoff = ["10s", "1m"], max_deliver = 3)]
async fn charge(order: Order, publisher: Publisher, State(charges): State<Charges>) -> HandlerResult {
    if order.cents == 0 {
        return Err(HandlerError::terminate("an order without an amount"));
    }
    // An insert is idempotent, an addition would not be: the same order may be delivered twice.
    charges.lock().expect("no holder of the lock panics").insert(order.id, order.cents);
    publisher.publish("orders.charged", &order).await?;
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), jetstream_handlers::Error> {
    let charges = Charges::default();
    let broker = jetstream_handlers_examples::broker(|settings| settings.state(charges.clone())).await?;
    let running = broker.start_all().await?;
    broker.publish("orders.created", &Order { id: 1, cents: 1250 }).await?;
    while charges.lock().expect("no holder of the lock panics").is_empty() {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    println!("Charged: {charges:?}. Run its tests with: cargo test --example testing");
    running.shutdown().await?;
    broker.disconnect().await
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use jetstream_handlers::testing::{TestBroker, assert_idempotent};

    use super::*;

    fn order(id: u64, cents: u64) -> Order {
        Order { id, cents }
    }

    #[jetstream_handlers::test(state = Charges::default())]
    async fn charges_order_and_publishes_it(broker: TestBroker) {
        broker.publish("orders.created", &order(1, 1250)).await;
        broker.handled::<charge>().once().with(&order(1, 1250)).settled(Settle::Ack);
        assert_eq!(broker.published::<Order>("orders.charged").await, [order(1, 1250)]);
    }

    #[jetstream_handlers::test(state = Charges::default())]
    async fn retries_when_publish_fails(broker: TestBroker) {
        broker.fail_next_publish("orders.charged");
        broker.publish("orders.created", &order(1, 1250)).await;
        broker.handled::<charge>().once().settled(Settle::Retry);
        broker.advance(Duration::from_secs(15)).await;
        broker.handled::<charge>().once().retried(1).settled(Settle::Ack);
    }

    #[jetstream_handlers::test(state = Charges::default())]
    async fn dead_letters_order_without_amount(broker: TestBroker) {
        broker.publish("orders.created", &order(1, 0)).await;
        broker.handled::<charge>().once().retried(0).settled(Settle::Terminate);
        let letters = broker.dead_letters().await;
        assert_eq!(letters.len(), 1);
        assert_eq!(letters[0].error, "an order without an amount");
    }

    #[tokio::test(start_paused = true)]
    async fn charging_is_idempotent() {
        assert_idempotent(async |start| {
            let charges = Charges::default();
            let broker = start(TestBroker::builder().state(charges.clone())).await;
            broker.publish("orders.created", &order(1, 1250)).await;
            charges.lock().expect("no holder of the lock panics").clone()
        })
        .await;
    }
}

//! A handler behind a circuit breaker and a rate limit, both layers of tower: `cargo run --example layers`.
//!
//! The payment provider fails at first. The breaker then stops the calls, so that the other orders lose no attempts, and
//! tries one order after its cooldown.
//! With `NATS_URL` it uses that server, without it, it runs in memory; it exits when all orders are charged.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use jetstream_handlers::layer::CircuitBreaker;
use jetstream_handlers::prelude::*;
use tokio::sync::mpsc;
use tower::limit::RateLimitLayer;

/// The payment provider, which fails a number of times.
#[derive(Clone)]
struct Provider {
    failures: Arc<AtomicU32>,
    charged: mpsc::UnboundedSender<(u64, u64)>,
}

/// The provider permits ten calls in a quarter of a second.
fn ten_at_once() -> RateLimitLayer {
    RateLimitLayer::new(10, Duration::from_millis(250))
}

#[subscriber(subject = "layers.orders", queue = "charging", backoff = ["100ms"], layer = ten_at_once)]
async fn charge(order: u64, info: Info, State(provider): State<Provider>) -> HandlerResult {
    let is_down = provider.failures.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
    if is_down.is_ok() {
        println!("  order {order}: the provider does not answer");
        return Err("the provider does not answer".into());
    }
    provider.charged.send((order, info.delivered()))?;
    Ok(())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let (charged, mut orders) = mpsc::unbounded_channel();
    let provider = Provider { failures: Arc::new(AtomicU32::new(4)), charged };
    let breaker = CircuitBreaker::new(3, Duration::from_millis(500));
    let broker = jetstream_handlers_examples::broker(|settings| settings.layer(breaker).state(provider)).await?;
    let running = broker.start_all().await?;
    for order in 1..=20 {
        broker.publish("layers.orders", &order).await?;
    }
    for _ in 1..=20 {
        let (order, attempts) = tokio::time::timeout(Duration::from_secs(30), orders.recv())
            .await
            .context("not every order was charged within 30 s")?
            .context("the handler has ended")?;
        println!("  order {order} is charged in attempt {attempts}");
    }
    println!("All orders are charged.");
    running.shutdown().await?;
    broker.disconnect().await?;
    Ok(())
}

//! A service that runs the handlers of one group: `worker GROUP`.
//!
//! The handlers print each step on a line.

use std::time::Duration;

use jetstream_handlers::prelude::*;
use jetstream_handlers::{Broker, Error};

#[tokio::main]
async fn main() -> Result<(), Error> {
    jetstream_handlers_tests::trace();
    let group = std::env::args().nth(1).unwrap_or_default();
    let broker = Broker::from_env().connect().await?;
    broker.run_groups([group.as_str()]).await
}

/// Works for 200 ms after the shutdown signal.
#[subscriber(subject = "work.long", queue = "finishing", group = "finishing")]
async fn finishing(id: u64, shutdown: Shutdown) {
    println!("started {id}");
    shutdown.requested().await;
    println!("stopping {id}");
    tokio::time::sleep(Duration::from_millis(200)).await;
    println!("finished {id}");
}

/// Never returns.
#[subscriber(subject = "work.long", queue = "stuck", group = "stuck")]
async fn stuck(id: u64, shutdown: Shutdown) {
    println!("started {id}");
    shutdown.requested().await;
    println!("stopping {id}");
    std::future::pending::<()>().await;
}

#[subscriber(subject = "work.shared", queue = "shared", concurrency = 2, group = "shared")]
async fn shared(id: u64) {
    tokio::time::sleep(Duration::from_millis(1)).await;
    println!("handled {id}");
}

#[subscriber(subject = "work.shared", queue = "audit", group = "audit")]
async fn audit(id: u64) {
    println!("handled {id}");
}

#[subscriber(
    subject = "work.failing",
    queue = "failing",
    ordered,
    single_instance,
    backoff = ["300ms"],
    max_deliver = 3,
    group = "failing"
)]
async fn fails_at_once(id: u64) -> HandlerResult {
    println!("tried {id}");
    Err("it never succeeds".into())
}

#[subscriber(subject = "work.blocked", queue = "blocking", group = "blocking")]
async fn blocks_the_runtime(id: u64) {
    std::thread::sleep(Duration::from_millis(200));
    println!("blocked {id}");
}

#[subscriber(subject = "work.frozen", queue = "frozen", ack_wait = "2s", batch_size = 500, group = "frozen")]
async fn frozen(id: u64) {
    tokio::time::sleep(Duration::from_millis(1)).await;
    println!("handled {id}");
}

/// Computes for a short time before each await, so that a stop of the process is likely to begin in a poll.
#[subscriber(subject = "work.awaited", queue = "awaiting", concurrency = 4, group = "awaiting")]
async fn awaits(id: u64) {
    for _ in 0..10 {
        compute(Duration::from_millis(3));
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    println!("awaited {id}");
}

#[subscriber(subject = "work.computed", queue = "computing", group = "computing")]
async fn computes(id: u64) {
    // Long enough for 100 ms of it on a CPU that many share.
    compute(Duration::from_secs(2));
    println!("computed {id}");
}

fn compute(time: Duration) {
    let begun = std::time::Instant::now();
    while begun.elapsed() < time {
        std::hint::spin_loop();
    }
}

//! A service that handles the messages on `work.*.keyed` by key in 8 or 12 partitions, and prints each success with its
//! time, and the partitions that it receives, on a line each.
//!
//! The argument is the number of partitions, or `apply` to change the number on the server to 12; after `ordered`, each
//! partition is handled in order, and after `derived`, the server copies the messages to compute the number.

use std::time::{Duration, UNIX_EPOCH};

use jetstream_handlers::{Broker, Error, HandlerError, HandlerResult, Message, subscriber};
use serde::Deserialize;

#[derive(Deserialize)]
struct Work {
    customer: u64,
    id: u64,
}

#[subscriber(subject = "work.{partition}.keyed", queue = "keyed", key = "customer", partitions = 8, concurrency = 16, backoff = ["100ms"])]
async fn in_eight(work: Work, message: Message) -> HandlerResult {
    handle(work, message).await
}

#[subscriber(subject = "work.{partition}.keyed", queue = "keyed", key = "customer", partitions = 12, concurrency = 16, backoff = ["100ms"])]
async fn in_twelve(work: Work, message: Message) -> HandlerResult {
    handle(work, message).await
}

#[subscriber(subject = "work.{partition}.keyed", queue = "keyed", ordered, partitions = 8, backoff = ["20ms"])]
async fn in_eight_ordered(work: Work, message: Message) -> HandlerResult {
    handle(work, message).await
}

#[subscriber(subject = "work.{partition}.keyed", queue = "keyed", ordered, partitions = 12, backoff = ["20ms"])]
async fn in_twelve_ordered(work: Work, message: Message) -> HandlerResult {
    handle(work, message).await
}

#[subscriber(subject = "work.{customer}.keyed", queue = "keyed", key = "{customer}", partitions = 8, concurrency = 16, backoff = ["100ms"])]
async fn in_eight_derived(work: Work, message: Message) -> HandlerResult {
    handle(work, message).await
}

#[subscriber(subject = "work.{customer}.keyed", queue = "keyed", key = "{customer}", partitions = 12, concurrency = 16, backoff = ["100ms"])]
async fn in_twelve_derived(work: Work, message: Message) -> HandlerResult {
    handle(work, message).await
}

/// Fails one message in fifty at its first attempt.
async fn handle(Work { customer, id }: Work, message: Message) -> HandlerResult {
    if id.is_multiple_of(7) {
        tokio::time::sleep(Duration::from_millis(id % 5)).await;
    }
    if id.is_multiple_of(50) && message.info().delivered() == 1 {
        return Err(HandlerError::retry("the first attempt fails"));
    }
    let now = UNIX_EPOCH.elapsed().map_or(0, |elapsed| elapsed.as_nanos());
    println!("handled {now} {customer} {id} {}", message.origin_sequence());
    Ok(())
}

/// Prints the partitions that this process receives whenever they change.
async fn print_active(broker: Broker) {
    let mut before = None;
    loop {
        let health = broker.health();
        let active = health.handlers.iter().filter(|handler| handler.active == Some(true));
        let active: Vec<_> = active.filter_map(|handler| Some(handler.partition?.to_string())).collect();
        if before.as_ref() != Some(&active) {
            println!("active {}", active.join(" "));
        }
        before = Some(active);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    if std::env::var("JSH_TRACE").is_ok() {
        tracing_subscriber::fmt().with_max_level(tracing_subscriber::filter::LevelFilter::DEBUG).init();
    }
    let broker = Broker::from_env().connect().await?;
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["8"] => broker.include::<in_eight>(),
        ["ordered", "8"] => broker.include::<in_eight_ordered>(),
        ["derived", "8"] => broker.include::<in_eight_derived>(),
        ["derived", ..] => broker.include::<in_twelve_derived>(),
        ["ordered", ..] => broker.include::<in_twelve_ordered>(),
        _ => broker.include::<in_twelve>(),
    };
    if arguments.last().is_some_and(|last| last == "apply") {
        let plan = broker.plan().await?;
        broker.apply(&plan).await?;
        println!("applied");
        return Ok(());
    }
    tokio::spawn(print_active(broker.clone()));
    println!("started");
    broker.run_all().await?;
    println!("stopped");
    Ok(())
}

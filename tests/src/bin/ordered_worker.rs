//! A service with an ordered handler on `work.ordered`, which prints each step on a line.

use std::time::Duration;

use jetstream_handlers::{Broker, Error};

#[tokio::main]
async fn main() -> Result<(), Error> {
    let broker = Broker::from_env().connect().await?;
    let subscription = broker
        .subscribe("work.ordered", "ordered", |id: u64| async move {
            println!("started {id}");
            tokio::time::sleep(Duration::from_millis(2)).await;
            println!("handled {id}");
        })
        .ordered()
        .await?;
    println!("started");
    tokio::time::sleep(Duration::from_secs(600)).await;
    subscription.unsubscribe().await
}

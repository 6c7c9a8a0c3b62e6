//! Connects with the settings of the environment, and prints the result.
//!
//! It publishes a message, prints where it was stored, and stays connected until it is killed.

use std::time::Duration;

use jetstream_handlers::{Broker, Error};

#[tokio::main]
async fn main() {
    match publish().await {
        Ok((_broker, stored)) => {
            println!("stored {stored}");
            std::future::pending::<()>().await;
        }
        // On one line, with all causes.
        Err(error) => println!("failed {}", format!("{error:?}").replace('\n', " ")),
    }
}

async fn publish() -> Result<(Broker, String), Error> {
    let broker = Broker::from_env().publish_timeout(Duration::from_secs(3)).connect().await?;
    let ack = broker.publish("environment.read", "hello").await?;
    Ok((broker, format!("{} {} {}", ack.stream, ack.sequence, ack.domain)))
}

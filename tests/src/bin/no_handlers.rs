//! A service without handlers.

use jetstream_handlers::{Broker, Error};

#[tokio::main]
async fn main() -> Result<(), Error> {
    let broker = Broker::from_env().connect().await?;
    if let Err(error) = broker.start_all().await {
        println!("start_all: {:?}: {error}", error.kind());
    }
    broker.run_all().await
}

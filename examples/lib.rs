//! The broker of the examples.

use jetstream_handlers::{Broker, Builder, Error};

/// Connects to the server at `NATS_URL` if the variable is set, else creates an in-memory broker; prints which.
pub async fn broker(settings: impl FnOnce(Builder) -> Builder) -> Result<Broker, Error> {
    match server() {
        Some(url) => {
            println!("Using the server at {url}.\n");
            settings(Broker::from_env()).connect().await
        }
        None => {
            println!(
                "Running in memory, where nothing is persisted; set NATS_URL=nats://localhost:4222 to use a server.\n"
            );
            Ok(settings(Broker::builder()).connect_in_memory())
        }
    }
}

/// Returns the value of `NATS_URL`, if the variable is set.
pub fn server() -> Option<String> {
    std::env::var("NATS_URL").ok().filter(|url| !url.is_empty())
}

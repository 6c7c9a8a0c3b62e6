//! What the examples share: a server to talk to.

use jetstream_handlers::{Broker, Builder};
use jetstream_handlers_tests::Server;

/// A `nats-server`: the one at `NATS_URL`, or one of our own that ends with this value.
#[derive(Debug)]
pub struct Nats(Option<Server>);

/// Takes the server at `NATS_URL`, or starts one, and says which.
pub async fn nats() -> Nats {
    match std::env::var("NATS_URL") {
        Ok(url) if !url.is_empty() => {
            println!("Using the server at {url}.\n");
            Nats(None)
        }
        _ => {
            let server = Server::start().await;
            println!("Started a nats-server at {}; set NATS_URL to use yours.\n", server.url());
            Nats(Some(server))
        }
    }
}

impl Nats {
    /// Whether the server was started by the example, and has nothing of anybody else.
    pub fn is_own(&self) -> bool {
        self.0.is_some()
    }

    /// Begins a broker that connects to this server.
    pub fn broker(&self) -> Builder {
        match &self.0 {
            Some(server) => Broker::builder().servers([server.url()]),
            None => Broker::from_env(),
        }
    }
}

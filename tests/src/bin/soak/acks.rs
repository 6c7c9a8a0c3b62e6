//! The acknowledgements of the workers, which show who has ended a message that was not handled.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use futures::StreamExt as _;
use jetstream_handlers::async_nats::Client;
use tokio::task::JoinHandle;

use crate::ledger::nanos;

/// All acknowledgements that were published, as lines of a log.
#[derive(Debug)]
pub(crate) struct Acks {
    lines: Arc<Mutex<Vec<String>>>,
    reading: JoinHandle<()>,
}

impl Acks {
    pub(crate) async fn start(client: Client) -> Self {
        let mut acks = client.subscribe("$JS.ACK.WORK.>").await.expect("the client is connected");
        let lines = Arc::<Mutex<Vec<String>>>::default();
        let written = lines.clone();
        let reading = tokio::spawn(async move {
            // The subscription ends with its client.
            let _client = client;
            while let Some(ack) = acks.next().await {
                let now = nanos(SystemTime::now());
                let line = format!("{now} {} {}\n", ack.subject, String::from_utf8_lossy(&ack.payload));
                written.lock().unwrap_or_else(PoisonError::into_inner).push(line);
            }
        });
        Self { lines, reading }
    }

    pub(crate) fn log(&self) -> String {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).concat()
    }
}

impl Drop for Acks {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

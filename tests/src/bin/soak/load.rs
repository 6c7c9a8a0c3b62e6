//! The steady load, and which publishes returned `Ok`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jetstream_handlers::{Broker, Error};

use crate::message::{Id, Kind, Order};

/// The number of messages per second.
const RATE: u64 = 64;

/// A publish that returned `Ok`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Publish {
    pub(crate) called: Instant,
    pub(crate) returned: Instant,
    /// The sequence in the stream of that time.
    pub(crate) sequence: u64,
}

/// The messages whose publish returned `Ok`; clones share one record.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stored(Arc<Mutex<BTreeMap<Id, Publish>>>);

impl Stored {
    pub(crate) fn all(&self) -> BTreeMap<Id, Publish> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Publishes a message, and records it if it was stored.
    pub(crate) async fn publish(&self, broker: &Broker, id: Id, filler: usize) -> Result<(), Error> {
        let called = Instant::now();
        let ack = if id.kind == Kind::Undecodable {
            broker.publisher().publish_bytes(&id.subject(), "no JSON").await?
        } else {
            let order = Order { number: id.number, filler: "x".repeat(filler) };
            broker.publish(&id.subject(), &order).await?
        };
        let publish = Publish { called, returned: Instant::now(), sequence: ack.sequence };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(id, publish);
        Ok(())
    }
}

/// Publishes this many messages at a constant rate.
pub(crate) async fn publish(broker: Broker, messages: u64, stored: Stored) {
    let mut tick = tokio::time::interval(Duration::from_micros(1_000_000 / RATE));
    let mut publishes = tokio::task::JoinSet::new();
    for number in 0..messages {
        tick.tick().await;
        let (broker, stored) = (broker.clone(), stored.clone());
        let id = Id { number, kind: Kind::of_load(number) };
        publishes.spawn(async move {
            if let Err(error) = stored.publish(&broker, id, 0).await {
                println!("message {number} was not published: {error:?}");
            }
        });
        while publishes.try_join_next().is_some() {}
    }
    while publishes.join_next().await.is_some() {}
}

//! The main job on a real server: annotate, run, publish typed structs.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall say where")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use jetstream_handlers::async_nats;
use jetstream_handlers::prelude::*;
use jetstream_handlers_tests::{Server, eventually};
use serde::{Deserialize, Serialize};

const SOON: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct OrderCreated {
    id: u64,
    customer: String,
}

fn order(id: u64) -> OrderCreated {
    OrderCreated { id, customer: "Ada".into() }
}

/// What handlers saw, by handler.
#[derive(Debug, Clone, Default)]
struct Seen(Arc<Mutex<Vec<(&'static str, u64)>>>);

impl Seen {
    fn add(&self, handler: &'static str, id: u64) {
        self.0.lock().unwrap().push((handler, id));
    }

    fn of(&self, handler: &str) -> Vec<u64> {
        self.0.lock().unwrap().iter().filter(|(name, _)| *name == handler).map(|(_, id)| *id).collect()
    }

    async fn until(&self, handler: &str, ids: &[u64]) {
        eventually(&format!("{handler} saw {ids:?}"), SOON, async || {
            let mut seen = self.of(handler);
            seen.sort_unstable();
            (seen == ids).then_some(())
        })
        .await;
    }
}

#[subscriber(subject = "orders.created", queue = "order-processor", group = "two")]
async fn process_order(order: OrderCreated, State(seen): State<Seen>) -> HandlerResult {
    seen.add("process_order", order.id);
    Ok(())
}

#[subscriber(subject = "orders.*", queue = "audit", group = "two")]
async fn audit(subject: Subject, info: Info, State(seen): State<Seen>, order: OrderCreated) {
    assert_eq!((&*subject, info.stream(), info.consumer()), ("orders.created", "ORDERS", "audit"));
    seen.add("audit", order.id);
}

async fn broker(server: &Server, seen: &Seen) -> Broker {
    Broker::builder().servers([server.url()]).state(seen.clone()).connect().await.unwrap()
}

#[tokio::test]
async fn two_queues_on_one_subject_each_get_every_message() {
    let server = Server::start().await;
    let seen = Seen::default();
    let broker = broker(&server, &seen).await;
    let running = broker.start_groups(["two"]).await.unwrap();
    for id in 1..=20 {
        let ack = broker.publish("orders.created", &order(id)).await.unwrap();
        assert_eq!((ack.stream.as_str(), ack.sequence), ("ORDERS", id));
    }
    let ids: Vec<_> = (1..=20).collect();
    seen.until("process_order", &ids).await;
    seen.until("audit", &ids).await;
    running.shutdown().await.unwrap();
    let mut stream = server.jetstream().await.get_stream("ORDERS").await.unwrap();
    for consumer in ["order-processor", "audit"] {
        let info = stream.consumer_info(consumer).await.unwrap();
        assert_eq!((info.num_ack_pending, info.num_pending), (0, 0), "{consumer}");
    }
    assert_eq!(stream.info().await.unwrap().state.messages, 20);
    broker.disconnect().await.unwrap();
}

#[tokio::test]
async fn a_message_of_a_plain_client_is_handled() {
    let server = Server::start().await;
    let seen = Seen::default();
    let broker = broker(&server, &seen).await;
    let running = broker.include::<process_order>().start_all().await.unwrap();
    let jetstream = async_nats::jetstream::new(server.client().await);
    jetstream.publish("orders.created", r#"{"id":7,"customer":"Grace"}"#.into()).await.unwrap().await.unwrap();
    seen.until("process_order", &[7]).await;
    assert!(seen.of("audit").is_empty(), "it was not included");
    running.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_closure_handles_until_it_is_unsubscribed() {
    let server = Server::start().await;
    let broker = Broker::connect(server.url()).await.unwrap();
    let seen = Seen::default();
    let subscribe = |seen: Seen| {
        broker.subscribe("orders.created", "closure", move |order: OrderCreated, _: Info| {
            let seen = seen.clone();
            async move {
                seen.add("closure", order.id);
                Ok(())
            }
        })
    };
    let subscription = subscribe(seen.clone()).await.unwrap();
    broker.publish("orders.created", &order(1)).await.unwrap();
    seen.until("closure", &[1]).await;
    subscription.unsubscribe().await.unwrap();
    broker.publish("orders.created", &order(2)).await.unwrap();
    // The durable remembers: what came meanwhile is handled by the next one.
    let subscription = subscribe(seen.clone()).await.unwrap();
    seen.until("closure", &[1, 2]).await;
    subscription.unsubscribe().await.unwrap();
}

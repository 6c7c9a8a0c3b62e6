//! The contract of both transports: each test runs in memory and on a real nats-server, which is the reference.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

/// Runs the functions of a module as tests, in memory and on a server.
macro_rules! contract {
    ($($name:ident,)*) => {
        mod in_memory {
            $(#[tokio::test(start_paused = true)]
            async fn $name() {
                super::$name(&crate::Transport::Memory).await;
            })*
        }

        mod on_a_server {
            $(#[tokio::test]
            async fn $name() {
                super::$name(&crate::Transport::Live(Box::new(crate::Server::start().await))).await;
            })*
        }
    };
}

mod batches;
mod brokers;
mod calls;
mod codecs;
mod consumers;
mod dead_letter_handler;
mod dead_letters;
mod derived;
mod events;
mod handlers;
mod headers;
mod health;
mod hooks;
mod keys;
mod limits;
mod many_letters;
mod markers;
mod operate;
mod ordered;
mod outputs;
mod partitions;
mod payloads;
mod pcgroups;
mod plans;
mod publishes;
mod queues;
mod scripts;
mod stop;
mod streams;
mod subjects;
mod tower_layers;
mod transforms;

use jetstream_handlers::prelude::*;
use jetstream_handlers::testing::{Builder, TestBroker};
use jetstream_handlers::{Subscription, stream};
use jetstream_handlers_tests::{Recorder, Server, stream_config};
use serde::{Deserialize, Serialize};

/// The transport of a test.
enum Transport {
    Memory,
    Live(Box<Server>),
}

impl Transport {
    async fn start(&self, builder: Builder) -> TestBroker {
        match self {
            Self::Memory => builder.start().await,
            Self::Live(server) => builder.start_live(&server.url()).await,
        }
    }

    async fn delete_consumer(&self, broker: &TestBroker, stream: &str, consumer: &str) {
        match self {
            Self::Memory => assert!(broker.delete_consumer(stream, consumer)),
            Self::Live(server) => {
                let stream = server.jetstream().await.get_stream(stream).await.unwrap();
                stream.delete_consumer(consumer).await.unwrap();
            }
        }
    }

    async fn delete_message(&self, broker: &TestBroker, stream: &str, sequence: u64) {
        match self {
            Self::Memory => {
                broker.delete_message(stream, sequence);
            }
            Self::Live(server) => {
                let stream = server.jetstream().await.get_stream(stream).await.unwrap();
                // The message may have been removed already.
                stream.delete_message(sequence).await.map(drop).unwrap_or_default();
            }
        }
    }

    async fn purge(&self, broker: &TestBroker, stream: &str) {
        match self {
            Self::Memory => {
                broker.purge(stream);
            }
            Self::Live(server) => {
                server.jetstream().await.get_stream(stream).await.unwrap().purge().await.map(drop).unwrap();
            }
        }
    }

    async fn delete_stream(&self, broker: &TestBroker, stream: &str) {
        match self {
            Self::Memory => assert!(broker.delete_stream(stream)),
            Self::Live(server) => server.jetstream().await.delete_stream(stream).await.map(drop).unwrap(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Order {
    id: u64,
}

fn order(id: u64) -> Order {
    Order { id }
}

#[subscriber(subject = "orders.created", queue = "accept")]
async fn accept(_order: Order) {}

#[subscriber(subject = "orders.>", queue = "all")]
async fn all(_subject: Subject) {}

#[subscriber(subject = "orders.created", queue = "fail", max_deliver = 3, backoff = ["100ms", "200ms"])]
async fn fail(_order: Order) -> HandlerResult {
    Err("fails".into())
}

#[subscriber(subject = "orders.created", queue = "refuse")]
async fn refuse(_order: Order) -> Settle {
    Settle::Terminate
}

/// Starts a handler that records the messages.
async fn record(broker: &TestBroker, queue: &str, subject: &str) -> (Subscription, Recorder) {
    record_on(broker.broker(), queue, subject).await
}

async fn record_on(broker: &Broker, queue: &str, subject: &str) -> (Subscription, Recorder) {
    let calls = Recorder::new();
    (broker.subscribe(subject, queue, recording(&calls)).await.unwrap(), calls)
}

fn recording(calls: &Recorder) -> impl Fn(Order) -> std::future::Ready<()> + Send + Sync + 'static {
    let recorder = calls.clone();
    move |order: Order| {
        recorder.add(order.id);
        std::future::ready(())
    }
}

async fn publish(broker: &TestBroker, ids: impl IntoIterator<Item = u64>) {
    for id in ids {
        broker.broker().publish("orders.created", &order(id)).await.unwrap();
    }
}

fn orders() -> stream::Config {
    stream_config("ORDERS", &["orders.>"])
}

fn work_queue() -> stream::Config {
    stream::Config { retention: stream::RetentionPolicy::WorkQueue, ..orders() }
}

#[subscriber(subject = "other.>", queue = "other")]
async fn other(_subject: Subject) {}

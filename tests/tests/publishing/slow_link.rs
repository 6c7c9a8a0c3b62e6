//! A slow connection: a large message is sent once, however long that takes within the publish timeout.

use futures::StreamExt as _;
use jetstream_handlers::async_nats::Subscriber;
use jetstream_handlers::prelude::*;
use jetstream_handlers_tests::{Proxy, Server, connect};

use crate::shop;

/// The rate of the connection, at which a large message takes longer than the answer of a server ever does.
const RATE: u64 = 250_000;

struct SlowLink {
    broker: Broker,
    /// What the server receives.
    received: Subscriber,
    _observer: Broker,
    _proxy: Proxy,
    _server: Server,
}

async fn start() -> SlowLink {
    let server = Server::start().await;
    server.jetstream().await.create_stream(shop()).await.unwrap();
    let observer = connect(&server).await;
    let client = observer.client().unwrap();
    let received = client.subscribe("orders.>").await.unwrap();
    client.flush().await.unwrap();
    let proxy = Proxy::start(server.address()).await;
    proxy.limit_rate(RATE);
    let broker = connect(&proxy).await;
    SlowLink { broker, received, _observer: observer, _proxy: proxy, _server: server }
}

impl SlowLink {
    /// Returns the number of messages that the server has received up to another one.
    async fn received(mut self) -> usize {
        self.broker.publish("orders.end", &0).await.unwrap();
        self.received.by_ref().take_while(|message| std::future::ready(&*message.subject != "orders.end")).count().await
    }
}

#[tokio::test]
async fn large_message_is_sent_once() {
    let link = start().await;
    link.broker.publisher().publish_bytes("orders.1", vec![1; 1_000_000]).await.unwrap();
    assert_eq!(link.received().await, 1);
}

#[tokio::test]
async fn large_messages_of_many_are_sent_once() {
    let link = start().await;
    let publisher = link.broker.publisher();
    let messages = (0..3).map(|id| publisher.publish_bytes("orders.1", vec![id; 900_000]));
    let results: Vec<_> = publisher.publish_all(messages).collect().await;
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    assert_eq!(link.received().await, 3);
}

#[tokio::test]
async fn messages_at_the_same_time_are_sent_once() {
    let link = start().await;
    let publisher = link.broker.publisher();
    let (large, small) = tokio::join!(async { publisher.publish_bytes("orders.1", vec![1; 1_000_000]).await }, async {
        publisher.publish_bytes("orders.2", vec![2; 10]).await
    },);
    assert!(large.is_ok() && small.is_ok(), "{large:?} {small:?}");
    assert_eq!(link.received().await, 2);
}

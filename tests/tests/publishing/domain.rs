//! With a domain, only the ack of its stream counts, although a stream of a leaf node stores the message too.

use futures::StreamExt as _;
use jetstream_handlers::{Builder, ErrorKind, stream};
use jetstream_handlers_tests::{SOON, Server, assert_error, binary, builder, eventually, free_port, ms, stream_config};

use crate::count;

/// A hub and a leaf node, each with a domain of its own and a stream on `orders.>`.
struct Domains {
    hub: Server,
    leaf: Server,
}

impl Domains {
    async fn start(in_hub: stream::Config) -> Self {
        let port = free_port();
        let hub =
            format!("server_name: hub\njetstream {{ domain: hub }}\nleafnodes {{ listen: \"127.0.0.1:{port}\" }}");
        let hub = Server::builder().config(&hub).start().await;
        let leaf = format!(
            "server_name: leaf\njetstream {{ domain: leaf }}
            leafnodes {{ remotes: [{{ url: \"nats-leaf://127.0.0.1:{port}\" }}], reconnect: \"100ms\" }}"
        );
        let leaf = Server::builder().config(&leaf).start().await;
        hub.jetstream().await.create_stream(in_hub).await.unwrap();
        leaf.jetstream().await.create_stream(stream("ON_LEAF")).await.unwrap();
        let domains = Self { hub, leaf };
        // The leaf node passes messages on as soon as it knows of the stream of the hub.
        let broker = domains.broker().connect().await.unwrap();
        let client = broker.client().unwrap();
        eventually("the hub is reached", SOON, async || {
            client.request("$JS.hub.API.STREAM.INFO.IN_HUB", "".into()).await.ok()
        })
        .await;
        domains
    }

    fn broker(&self) -> Builder {
        builder(&self.leaf).domain("hub").auto_create(false)
    }

    async fn counts(&self) -> (u64, u64) {
        (count(&self.hub.jetstream().await, "IN_HUB").await, count(&self.leaf.jetstream().await, "ON_LEAF").await)
    }
}

fn stream(name: &str) -> stream::Config {
    stream::Config {
        allow_atomic_publish: binary::version() >= (2, 12, 1),
        allow_batch_publish: binary::version() >= (2, 14, 0),
        ..stream_config(name, &["orders.>"])
    }
}

#[tokio::test]
async fn ack_of_the_configured_domain_is_returned() {
    let domains = Domains::start(stream("IN_HUB")).await;
    let broker = domains.broker().connect().await.unwrap();
    for sequence in 1..=20 {
        let ack = broker.publish("orders.created", &sequence).await.unwrap();
        assert_eq!((&*ack.domain, &*ack.stream, ack.sequence), ("hub", "IN_HUB", sequence));
    }
    let messages = (21..=40_u64).map(|id| broker.publish_message("orders.created", &id));
    let acks: Vec<_> = broker.publisher().publish_all(messages).collect().await;
    for (ack, sequence) in acks.into_iter().zip(21..) {
        let ack = ack.unwrap();
        assert_eq!((&*ack.domain, ack.sequence, ack.duplicate), ("hub", sequence, false));
    }
    let mut stored = 40;
    if binary::version() >= (2, 12, 1) {
        let messages = [1, 2, 3].map(|id| broker.publish_message("orders.created", &id));
        let ack = broker.publisher().publish_atomic(messages).await.unwrap();
        assert_eq!((&*ack.domain, ack.sequence, ack.batch_size), ("hub", 43, Some(3)));
        stored += 3;
    }
    if binary::version() >= (2, 14, 0) {
        let messages = (1..=700).map(|id| broker.publish_message("orders.created", &id));
        let ack = broker.publisher().ingest(messages).await.unwrap();
        assert_eq!((&*ack.domain, ack.sequence, ack.batch_size), ("hub", 743, Some(700)));
        stored += 700;
    }
    assert_eq!(domains.counts().await.0, stored);
    // Without a domain, the first ack counts, as before.
    let broker = builder(&domains.leaf).connect().await.unwrap();
    broker.publish("orders.created", &1).await.unwrap();
}

#[tokio::test]
async fn ack_of_another_domain_is_no_success() {
    let full = stream::Config { max_messages: 1, discard: stream::DiscardPolicy::New, ..stream("IN_HUB") };
    let mut domains = Domains::start(full).await;
    let broker = domains.broker().publish_timeout(ms(3000)).connect().await.unwrap();
    assert_eq!(broker.publish("orders.created", &1).await.unwrap().domain, "hub");
    let publish = async || broker.publish("orders.created", &2).await;
    let publish_all = async || {
        let messages = [broker.publish_message("orders.created", &3)];
        broker.publisher().publish_all(messages).next().await.unwrap()
    };
    // The stream of the hub is full.
    for result in [publish().await, publish_all().await] {
        assert_error(result, ErrorKind::Publish, &["`orders.created`", "the stream is full"]);
    }
    assert_eq!(domains.counts().await.0, 1);
    domains.hub.kill();
    let parts = ["domain `hub`", "domain `leaf`", "`ON_LEAF`"];
    assert_error(publish().await, ErrorKind::Timeout, &parts);
    assert_error(publish_all().await, ErrorKind::Timeout, &parts);
    if binary::version() >= (2, 12, 1) {
        let batch = [4, 5].map(|id| broker.publish_message("orders.created", &id));
        assert_error(broker.publisher().publish_atomic(batch).await, ErrorKind::Timeout, &parts);
    }
    if binary::version() >= (2, 14, 0) {
        let batch = [6, 7].map(|id| broker.publish_message("orders.created", &id));
        let failed = broker.publisher().ingest(batch).await.unwrap_err();
        assert_eq!(failed.stored(), 0);
        assert_error(&failed, ErrorKind::Timeout, &parts);
    }
}

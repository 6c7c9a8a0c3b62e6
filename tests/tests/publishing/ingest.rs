//! Fast ingest: one batch at the rate at which the stream accepts it.

use futures::StreamExt as _;
use futures::future::join_all;
use jetstream_handlers::async_nats::jetstream::consumer;
use jetstream_handlers::prelude::*;
use jetstream_handlers::{ErrorKind, IngestError, PublishAck, stream};
use jetstream_handlers_tests::{Proxy, SOON, Server, assert_error, binary, connect, eventually, ms, stream_config};
use tokio::task::JoinHandle;

use crate::{shop, stored};

fn batched() -> stream::Config {
    stream::Config { allow_batch_publish: true, ..shop() }
}

/// Returns `true` if the server is too old for fast ingest, and checks the error.
async fn refuses_ingest(server: &Server) -> bool {
    if binary::version() >= (2, 14, 0) {
        return false;
    }
    let broker = connect(server).await;
    let result = broker.publisher().ingest([broker.publish_message("orders.created", &1)]).await;
    assert_error(result, ErrorKind::Config, &["does not support fast-ingest batches", "2.14.0", "publish_all"]);
    true
}

/// Publishes the numbers as one batch, in a task.
fn ingesting(broker: &Broker, numbers: std::ops::RangeInclusive<u64>) -> JoinHandle<Result<PublishAck, IngestError>> {
    let publisher = broker.publisher().clone();
    let pause = |id: &u64| {
        // Slow enough for a test to interfere.
        if id.is_multiple_of(100) {
            std::thread::sleep(ms(5));
        }
    };
    tokio::spawn(async move {
        publisher.ingest(numbers.inspect(pause).map(|id| publisher.publish_message("orders.created", &id))).await
    })
}

#[tokio::test]
async fn fifty_thousand_messages_are_stored_in_order() {
    let server = Server::start().await;
    if refuses_ingest(&server).await {
        return;
    }
    // The batch creates the declared stream.
    let broker = Broker::builder().servers([server.url()]).stream(batched()).connect().await.unwrap();
    let ack = broker
        .publisher()
        .ingest((1..=50_000_u64).map(|id| broker.publish_message("orders.created", &id)))
        .await
        .unwrap();
    assert_eq!((ack.stream.as_str(), ack.sequence, ack.batch_size), ("SHOP", 50_000, Some(50_000)));
    let jetstream = server.jetstream().await;
    let consumer = consumer::pull::OrderedConfig::default();
    let consumer = jetstream.get_stream("SHOP").await.unwrap().create_consumer(consumer).await.unwrap();
    let mut messages = consumer.messages().await.unwrap().take(50_000).enumerate();
    while let Some((index, message)) = messages.next().await {
        assert_eq!(serde_json::from_slice::<u64>(&message.unwrap().payload).unwrap(), index as u64 + 1);
    }
    let ack = broker.publisher().ingest([broker.publish_message("orders.created", &1)]).await.unwrap();
    assert_eq!((ack.sequence, ack.batch_size), (50_001, Some(1)));
    assert_error(broker.publisher().ingest([]).await, ErrorKind::Config, &["no message"]);
}

#[tokio::test]
async fn concurrent_batches_share_a_stream() {
    let server = Server::start().await;
    if refuses_ingest(&server).await {
        return;
    }
    server.jetstream().await.create_stream(batched()).await.unwrap();
    let broker = connect(&server).await;
    let batches = (0..5_u64).map(|batch| {
        let broker = &broker;
        async move {
            let messages = (1..=2000).map(|id| broker.publish_message("orders.created", &(batch * 2000 + id)));
            assert_eq!(broker.publisher().ingest(messages).await.unwrap().batch_size, Some(2000));
        }
    });
    join_all(batches).await;
    let payloads = stored(&server, "SHOP").await;
    for batch in 0..5 {
        let own: Vec<_> = payloads.iter().copied().filter(|id| (id - 1) / 2000 == batch).collect();
        assert_eq!(own, (batch * 2000 + 1..=batch * 2000 + 2000).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn stream_without_fast_ingest_is_refused() {
    let server = Server::start().await;
    if refuses_ingest(&server).await {
        return;
    }
    let broker = connect(&server).await;
    let batch = || broker.publisher().ingest((1..=3_u64).map(|id| broker.publish_message("orders.created", &id)));
    let parts = ["`orders.created`", "Builder::stream", "allow_batch_publish: true"];
    assert_error(batch().await, ErrorKind::StreamNotFound, &parts);
    broker.publish("orders.created", &0).await.unwrap();
    let error = batch().await.unwrap_err();
    assert_eq!(error.stored(), 0);
    let parts = [
        "nothing of the batch on `orders.created` is stored",
        "`allow_batched`",
        "`allow_batch_publish`",
        "publish_all",
    ];
    assert_error(&error, ErrorKind::StreamMismatch, &parts);
    assert_eq!(stored(&server, "ORDERS").await, [0]);
}

#[tokio::test]
async fn batch_ends_at_the_first_refused_message() {
    let server = Server::start().await;
    if refuses_ingest(&server).await {
        return;
    }
    let jetstream = server.jetstream().await;
    let config = stream::Config { max_message_size: 200, ..batched() };
    jetstream.create_stream(config).await.unwrap();
    let bills = stream::Config { allow_batch_publish: true, ..stream_config("BILLS", &["bills.>"]) };
    jetstream.create_stream(bills).await.unwrap();
    let broker = connect(&server).await;
    let publish = |subject, id: u64| broker.publish_message(subject, &id);
    let large = "a".repeat(200);
    let mut last = 0;
    for (seventh, kind, parts) in [
        (publish("orders.*", 7), ErrorKind::Config, "wildcard"),
        (publish("orders.a", 7).expect_last_sequence(1), ErrorKind::WrongLastSequence, "message 7"),
        (broker.publish_message("orders.a", &large), ErrorKind::PayloadTooLarge, "max_msg_size"),
        (publish("bills.a", 7), ErrorKind::Publish, "another stream"),
        (publish("cars.a", 7), ErrorKind::Publish, "no stream"),
        (publish("orders.a", 7).header("Nats-Batch-Id", "mine"), ErrorKind::Config, "Nats-Batch-Id"),
    ] {
        let before = (1..=6).map(|id| publish("orders.a", id));
        let after = (8..=3000).map(|id| publish("orders.a", id));
        let error = broker.publisher().ingest(before.chain([seventh]).chain(after)).await.unwrap_err();
        assert_eq!(error.stored(), 6, "{error:?}");
        assert_error(&error, kind, &["the first 6 are stored and no other", parts]);
        let payloads = stored(&server, "SHOP").await;
        assert_eq!(payloads[last..], [1, 2, 3, 4, 5, 6]);
        last = payloads.len();
    }
    let error = broker.publisher().ingest([publish("orders.*", 1)]).await.unwrap_err();
    assert_eq!((error.kind(), error.stored()), (ErrorKind::Config, 0));
    let error = broker
        .publisher()
        .ingest([publish("orders.a", 1).expect_last_sequence(1), publish("orders.a", 2)])
        .await
        .unwrap_err();
    assert_eq!((error.kind(), error.stored()), (ErrorKind::WrongLastSequence, 0), "{error:?}");
    assert_eq!(error.into_error().found_sequence(), Some(last as u64));
    assert_eq!(stored(&server, "BILLS").await, [0; 0]);
    assert_eq!(stored(&server, "SHOP").await.len(), last);
}

#[tokio::test]
async fn batch_with_message_ids_can_be_repeated() {
    let server = Server::start().await;
    if refuses_ingest(&server).await {
        return;
    }
    server.jetstream().await.create_stream(batched()).await.unwrap();
    let broker = connect(&server).await;
    let batch = |ids: std::ops::RangeInclusive<u64>| {
        let publish = |id: u64| broker.publish_message("orders.created", &id).message_id(&id.to_string());
        broker.publisher().ingest(ids.map(publish))
    };
    assert_eq!(batch(1..=700).await.unwrap().batch_size, Some(700));
    assert_eq!(batch(1..=2000).await.unwrap().batch_size, Some(2000));
    assert_eq!(batch(1..=2000).await.unwrap().batch_size, Some(2000));
    assert_eq!(stored(&server, "SHOP").await, (1..=2000).collect::<Vec<_>>());
}

#[tokio::test]
async fn killed_server_reports_a_lower_bound() {
    let mut server = Server::start().await;
    if refuses_ingest(&server).await {
        return;
    }
    server.jetstream().await.create_stream(batched()).await.unwrap();
    let broker = connect(&server).await;
    let ingesting = ingesting(&broker, 1..=200_000);
    eventually("some are stored", SOON, async || {
        (server.jetstream().await.get_stream("SHOP").await.unwrap().cached_info().state.messages > 3000).then_some(())
    })
    .await;
    server.kill();
    server.restart().await;
    let error = ingesting.await.unwrap().unwrap_err();
    let known = error.stored();
    assert!(known >= 2000, "{error}");
    let parts = ["`orders.created`", &format!("the first {known} messages are stored")];
    assert_error(&error, ErrorKind::Publish, &parts);
    let payloads = stored(&server, "SHOP").await;
    assert_eq!(payloads, (1..=payloads.len() as u64).collect::<Vec<_>>(), "a prefix without gaps");
    assert!(payloads.len() as u64 >= known && payloads.len() as u64 <= known + 1000, "{known} of {}", payloads.len());
}

#[tokio::test]
async fn cut_connection_reports_the_exact_count() {
    let server = Server::start().await;
    if refuses_ingest(&server).await {
        return;
    }
    server.jetstream().await.create_stream(batched()).await.unwrap();
    let proxy = Proxy::start(server.address()).await;
    let options = |options: jetstream_handlers::async_nats::ConnectOptions| options.ignore_discovered_servers();
    let broker = Broker::builder().servers([proxy.url()]).connect_options(options).connect().await.unwrap();
    let ingesting = ingesting(&broker, 1..=15_000);
    eventually("some are stored", SOON, async || {
        (server.jetstream().await.get_stream("SHOP").await.unwrap().cached_info().state.messages > 3000).then_some(())
    })
    .await;
    proxy.pause();
    tokio::time::sleep(ms(100)).await;
    proxy.cut();
    proxy.resume();
    let known = match ingesting.await.unwrap() {
        // Only acks were lost, and the stream was read instead.
        Ok(ack) => ack.batch_size.unwrap(),
        Err(error) => {
            let known = error.stored();
            let parts = [&*format!("the first {known} are stored and no other"), "did not arrive"];
            assert_error(&error, ErrorKind::Publish, &parts);
            known
        }
    };
    assert_eq!(stored(&server, "SHOP").await, (1..=known).collect::<Vec<_>>());
}

#[tokio::test]
async fn disconnect_reports_a_lower_bound() {
    let server = Server::start().await;
    if refuses_ingest(&server).await {
        return;
    }
    server.jetstream().await.create_stream(batched()).await.unwrap();
    let broker = connect(&server).await;
    let ingesting = ingesting(&broker, 1..=200_000);
    eventually("some are stored", SOON, async || {
        (server.jetstream().await.get_stream("SHOP").await.unwrap().cached_info().state.messages > 3000).then_some(())
    })
    .await;
    broker.disconnect().await.unwrap();
    let error = ingesting.await.unwrap().unwrap_err();
    let known = error.stored();
    assert_error(&error, ErrorKind::Closed, &["disconnected"]);
    let payloads = stored(&server, "SHOP").await;
    assert_eq!(payloads, (1..=payloads.len() as u64).collect::<Vec<_>>());
    assert!(payloads.len() as u64 >= known, "{known} of {}", payloads.len());
}

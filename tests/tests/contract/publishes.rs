//! Publishes: single ones, many at once, and batches.

use jetstream_handlers::testing::TestBroker;
use jetstream_handlers::{ErrorKind, stream};
use jetstream_handlers_tests::binary;

use crate::{Order, Transport, accept, all, order, orders};

contract![
    stream_without_acks_is_named,
    duplicate_is_not_stored,
    wrong_last_sequence_is_refused,
    too_large_message_is_refused,
    disconnected_broker_refuses_publishes,
    publish_all_returns_each_result,
    atomic_batch_is_all_or_nothing,
    ingest_ends_at_the_first_refused_message,
];

async fn stream_without_acks_is_named(transport: &Transport) {
    let is_new = matches!(transport, Transport::Memory) || binary::version() >= (2, 14, 0);
    let config = stream::Config { no_ack: true, allow_batch_publish: is_new, ..orders() };
    let broker = transport.start(TestBroker::builder().stream(config).include::<all>()).await;
    let error = broker.broker().publish("orders.created", &order(1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StreamMismatch, "{error}");
    assert!(error.to_string().contains("`no_ack: true`"), "{error}");
    broker.idle().await;
    broker.handled::<all>().once();
    if !is_new {
        return;
    }
    let message = broker.broker().publish_message("orders.created", &order(2));
    let error = broker.broker().publisher().ingest([message]).await.unwrap_err().into_error();
    assert_eq!(error.kind(), ErrorKind::StreamMismatch, "{error}");
    assert!(error.to_string().contains("`no_ack: true`"), "{error}");
}

async fn duplicate_is_not_stored(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<accept>()).await;
    let send = async || broker.broker().publish_message("orders.created", &order(1)).message_id("one").await.unwrap();
    let (first, second) = (send().await, send().await);
    assert_eq!((first.duplicate, second.duplicate, first.sequence == second.sequence), (false, true, true));
    broker.idle().await;
    broker.handled::<accept>().once();
}

async fn wrong_last_sequence_is_refused(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<accept>()).await;
    let publish =
        |sequence| broker.broker().publish_message("orders.created", &order(1)).expect_last_subject_sequence(sequence);
    assert_eq!(publish(0).await.unwrap().sequence, 1);
    assert_eq!(publish(1).await.unwrap().sequence, 2);
    assert_eq!(publish(1).await.unwrap_err().kind(), ErrorKind::WrongLastSequence);
    let publish = |sequence| broker.broker().publish_message("orders.paid", &order(1)).expect_last_sequence(sequence);
    assert_eq!(publish(9).await.unwrap_err().kind(), ErrorKind::WrongLastSequence);
    assert_eq!(publish(2).await.unwrap().sequence, 3);
}

async fn too_large_message_is_refused(transport: &Transport) {
    let config = stream::Config { max_message_size: 200, ..orders() };
    let broker = transport.start(TestBroker::builder().stream(config).include::<all>()).await;
    let error = broker.broker().publish("orders.created", &"x".repeat(300)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PayloadTooLarge);
    let error = broker.broker().publish("orders.created", &"x".repeat(2_000_000)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PayloadTooLarge, "the limit of the server");
}

async fn publish_all_returns_each_result(transport: &Transport) {
    let config = stream::Config { max_messages: 3, discard: stream::DiscardPolicy::New, ..orders() };
    let broker = transport.start(TestBroker::builder().stream(config).include::<accept>()).await;
    let publish = |id| broker.broker().publish_message("orders.created", &order(id));
    let messages = [
        publish(1).message_id("one"),
        broker.broker().publish_message("orders.*", &order(2)),
        publish(3).expect_last_sequence(7),
        publish(4).message_id("one"),
        publish(5),
        publish(6).message_id("six").header("Tenant", "eu"),
        publish(7),
    ];
    let results = futures::StreamExt::collect::<Vec<_>>(broker.broker().publisher().publish_all(messages)).await;
    let parts = |result: &Result<_, jetstream_handlers::Error>| {
        result.as_ref().map_or_else(|error| Some(error.kind()), |_| None)
    };
    let expected =
        [None, Some(ErrorKind::Config), Some(ErrorKind::WrongLastSequence), None, None, None, Some(ErrorKind::Publish)];
    assert_eq!(results.iter().map(parts).collect::<Vec<_>>(), expected);
    assert!(results[3].as_ref().is_ok_and(|ack| ack.duplicate && ack.sequence == 1));
    assert_eq!(results[5].as_ref().map(|ack| ack.sequence).unwrap(), 3);
    assert_eq!(broker.published::<Order>("orders.>").await, [order(1), order(5), order(6)]);
}

async fn atomic_batch_is_all_or_nothing(transport: &Transport) {
    if matches!(transport, Transport::Live(_)) && binary::version() < (2, 12, 1) {
        return;
    }
    let config = stream::Config { allow_atomic_publish: true, ..orders() };
    let broker = transport.start(TestBroker::builder().stream(config).include::<accept>()).await;
    let publish = |id| broker.broker().publish_message("orders.created", &order(id));
    let ack = broker
        .broker()
        .publisher()
        .publish_atomic([publish(1).message_id("one"), publish(2), publish(3)])
        .await
        .unwrap();
    assert_eq!((ack.stream.as_str(), ack.sequence, ack.batch_size), ("ORDERS", 3, Some(3)));
    let paid = |id| broker.broker().publish_message("orders.paid", &order(id));
    for (last, kind) in [
        (paid(9).expect_last_subject_sequence(7), ErrorKind::WrongLastSequence),
        (paid(9).message_id("one"), ErrorKind::Duplicate),
        (paid(9).expect_stream("SHOP"), ErrorKind::StreamMismatch),
        (broker.broker().publish_message("orders.*", &order(9)), ErrorKind::Config),
    ] {
        let error = broker.broker().publisher().publish_atomic([publish(4), publish(5), last]).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error:?}");
    }
    assert_eq!(broker.published::<Order>("orders.>").await, [order(1), order(2), order(3)]);
    let lone = |subject| [broker.broker().publish_message(subject, &order(1))];
    let error = broker.broker().publisher().publish_atomic(lone("bills.paid")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StreamNotFound, "{error:?}");
    broker.publish("bills.paid", &order(1)).await;
    let error = broker.broker().publisher().publish_atomic(lone("bills.paid")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StreamMismatch, "{error:?}");
}

async fn ingest_ends_at_the_first_refused_message(transport: &Transport) {
    if matches!(transport, Transport::Live(_)) && binary::version() < (2, 14, 0) {
        return;
    }
    let config = stream::Config { allow_batch_publish: true, ..orders() };
    let broker = transport.start(TestBroker::builder().stream(config).include::<accept>()).await;
    broker.publish("bills.paid", &order(1)).await;
    let publish = |id| broker.broker().publish_message("orders.created", &order(id));
    let ack = broker.broker().publisher().ingest((1..=3).map(publish)).await.unwrap();
    assert_eq!((ack.stream.as_str(), ack.sequence, ack.batch_size), ("ORDERS", 3, Some(3)));
    for (third, kind) in [
        (publish(9).expect_last_sequence(1), ErrorKind::WrongLastSequence),
        (publish(9).expect_stream("SHOP"), ErrorKind::StreamMismatch),
        (broker.broker().publish_message("orders.*", &order(9)), ErrorKind::Config),
        (broker.broker().publish_message("cars.new", &order(9)), ErrorKind::Publish),
    ] {
        let error = broker.broker().publisher().ingest([publish(4), publish(5), third, publish(6)]).await.unwrap_err();
        assert_eq!((error.kind(), error.stored()), (kind, 2), "{error:?}");
    }
    assert_eq!(broker.published::<Order>("orders.>").await.len(), 3 + 4 * 2);
    let lone = |subject| [broker.broker().publish_message(subject, &order(1))];
    for (subject, kind) in [("cars.new", ErrorKind::StreamNotFound), ("bills.paid", ErrorKind::StreamMismatch)] {
        let error = broker.broker().publisher().ingest(lone(subject)).await.unwrap_err();
        assert_eq!((error.kind(), error.stored()), (kind, 0), "{error:?}");
    }
}

async fn disconnected_broker_refuses_publishes(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<accept>()).await;
    broker.broker().disconnect().await.unwrap();
    assert!(broker.broker().publish("orders.created", &order(1)).await.is_err());
    assert!(!broker.broker().health().is_healthy());
    let error = broker.broker().start_all().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed);
}

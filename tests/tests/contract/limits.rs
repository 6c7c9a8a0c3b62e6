//! Limits of a stream and of a consumer.

use jetstream_handlers::prelude::*;
use jetstream_handlers::testing::TestBroker;
use jetstream_handlers::{ErrorKind, stream};
use jetstream_handlers_tests::{Recorder, ms};

use crate::{Order, Transport, accept, all, order, orders, publish};

contract![
    limit_of_a_subject_is_named,
    full_stream_refuses_messages,
    full_stream_discards_old_messages,
    max_messages_per_subject_keeps_the_latest,
    max_ack_pending_stops_delivery,
];

async fn limit_of_a_subject_is_named(transport: &Transport) {
    let config = stream::Config {
        max_messages_per_subject: 1,
        discard: stream::DiscardPolicy::New,
        discard_new_per_subject: true,
        ..orders()
    };
    let broker = transport.start(TestBroker::builder().stream(config).include::<all>()).await;
    broker.publish("orders.created", &order(1)).await;
    broker.publish("orders.paid", &order(1)).await;
    let error = broker.broker().publish("orders.created", &order(2)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Publish, "{error}");
    assert!(error.to_string().contains("`discard_new_per_subject`"), "{error}");
}

async fn full_stream_refuses_messages(transport: &Transport) {
    let config = stream::Config { max_messages: 2, discard: stream::DiscardPolicy::New, ..orders() };
    let broker = transport.start(TestBroker::builder().stream(config).include::<accept>()).await;
    publish(&broker, 0..2).await;
    let error = broker.broker().publish("orders.created", &order(3)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Publish);
    assert!(error.to_string().contains("full"), "{error}");
    broker.idle().await;
    broker.handled::<accept>().times(2);
    assert!(broker.broker().health().is_healthy(), "a full stream still delivers");
    transport.purge(&broker, "ORDERS").await;
    publish(&broker, 3..4).await;
}

async fn full_stream_discards_old_messages(transport: &Transport) {
    let config = stream::Config { max_messages: 2, ..orders() };
    let broker = transport.start(TestBroker::builder().stream(config).include::<accept>()).await;
    publish(&broker, 0..5).await;
    assert_eq!(broker.published::<Order>("orders.>").await, [order(3), order(4)]);
}

async fn max_messages_per_subject_keeps_the_latest(transport: &Transport) {
    let config = stream::Config { max_messages_per_subject: 1, ..orders() };
    let broker = transport.start(TestBroker::builder().stream(config).include::<accept>()).await;
    publish(&broker, 0..3).await;
    broker.publish("orders.paid", &order(9)).await;
    assert_eq!(broker.published::<Order>("orders.>").await, [order(2), order(9)]);
}

#[subscriber(subject = "orders.created", queue = "many_in_flight", concurrency = 700)]
async fn many_in_flight(_order: Order) {}

async fn max_ack_pending_stops_delivery(transport: &Transport) {
    // With 700 parallel calls the worker requests 11,200; a delayed message counts for `max_ack_pending`.
    let broker = transport.start(TestBroker::builder().include::<many_in_flight>()).await;
    let attempts = Recorder::new();
    let recorder = attempts.clone();
    let later = move |order: Order| {
        recorder.add(order.id);
        std::future::ready(Settle::RetryAfter(secs(3600)))
    };
    let _subscription = broker.broker().subscribe("orders.created", "later", later).batch_size(1000).await.unwrap();
    let bound = 10_000;
    let publisher = broker.broker().publisher();
    let publishes = (0..bound + 50).map(|id| {
        let publisher = publisher.clone();
        async move { publisher.publish("orders.created", &order(id)).await.unwrap() }
    });
    futures::StreamExt::for_each(futures::StreamExt::buffer_unordered(futures::stream::iter(publishes), 256), |_| {
        std::future::ready(())
    })
    .await;
    let wanted = usize::try_from(bound).unwrap();
    attempts.until_len(wanted).await;
    tokio::time::sleep(ms(300)).await;
    assert_eq!(attempts.len(), wanted, "no delivery above `max_ack_pending`");
}

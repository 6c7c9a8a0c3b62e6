//! Dead letters: stored, found, and replayed.

use std::time::SystemTime;

use jetstream_handlers::prelude::*;
use jetstream_handlers::testing::TestBroker;
use jetstream_handlers::{ErrorKind, Status, stream};
use jetstream_handlers_tests::{Recorder, SOON, eventually, ms, stream_config};

use crate::{Order, Transport, accept, fail, order, orders, publish, refuse, work_queue};

contract![
    exhausted_message_becomes_a_dead_letter,
    undecodable_payload_becomes_a_dead_letter,
    unstored_dead_letters_do_not_delay_other_messages,
    dead_letters_of_a_closure_are_found_by_name_and_queue,
    replay_calls_the_failed_queue_again,
    another_message_with_the_id_of_a_replay_does_not_replace_it,
    large_dead_letter_is_stored_in_parts,
    dead_letter_is_kept_if_its_stream_denies_deletes,
];

async fn exhausted_message_becomes_a_dead_letter(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<fail>()).await;
    broker.publish("orders.created", &order(1)).await;
    broker.advance(ms(500)).await;
    broker.handled::<fail>().once().retried(2);
    let letters = broker.dead_letters().await;
    assert_eq!(letters.len(), 1);
    assert_eq!((letters[0].reason.as_str(), letters[0].error.as_str(), letters[0].delivered), ("error", "fails", 3));
    assert_eq!((letters[0].stream.as_str(), letters[0].stream_sequence), ("ORDERS", 1));
    broker.advance(ms(500)).await;
    broker.handled::<fail>().retried(2);
}

async fn undecodable_payload_becomes_a_dead_letter(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<accept>()).await;
    broker.publish_bytes("orders.created", "{ oops").await;
    let letters = broker.dead_letters().await;
    assert_eq!(
        (letters.len(), letters[0].reason.as_str(), &letters[0].payload[..]),
        (1, "undecodable", &b"{ oops"[..])
    );
}

async fn unstored_dead_letters_do_not_delay_other_messages(transport: &Transport) {
    let config =
        stream::Config { max_messages: 1, discard: stream::DiscardPolicy::New, ..stream_config("DLQ", &["dlq.>"]) };
    let broker = transport.start(TestBroker::builder().stream(config).include::<accept>()).await;
    let calls = Recorder::new();
    let recorder = calls.clone();
    let handler = move |order: Order| {
        recorder.add(order.id);
        std::future::ready(if order.id <= 20 { HandlerResult::Err("fails".into()) } else { Ok(()) })
    };
    let subscribe = broker.broker().subscribe("orders.created", "failing", handler).max_deliver(2).backoff(&[ms(20)]);
    let subscription = subscribe.await.unwrap();
    publish(&broker, 1..=20).await;
    for id in 1..=20 {
        calls.until_times(id, 2).await;
    }
    publish(&broker, 21..=30).await;
    for id in 21..=30 {
        calls.until(id).await;
    }
    assert_eq!(broker.dead_letters().await.len(), 1);
    // Long enough for the next delivery of each message.
    broker.advance(ms(2500)).await;
    let status = broker.broker().health().handlers[1].status.clone();
    assert!(matches!(status, Status::Degraded { .. }), "{status:?}");
    assert_eq!(calls.counts(), (1..=30).map(|id| (id, if id <= 20 { 2 } else { 1 })).collect());
    transport.purge(&broker, "DLQ").await;
    eventually("another dead letter is stored", SOON, async || {
        broker.advance(ms(500)).await;
        (broker.dead_letters().await.len() == 1).then_some(())
    })
    .await;
    subscription.unsubscribe().await.unwrap();
}

async fn dead_letters_of_a_closure_are_found_by_name_and_queue(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<accept>()).await;
    let fails = |_: Order| std::future::ready(Settle::Terminate);
    let _first = broker.broker().subscribe("orders.created", "first", fails).await.unwrap();
    let _second = broker.broker().subscribe("orders.created", "second", fails).name("biller").await.unwrap();
    publish(&broker, 1..2).await;
    let count = async |handler: &str| broker.broker().dead_letters().for_handler(handler).list(10).await.unwrap().len();
    eventually("two dead letters", SOON, async || (broker.dead_letters().await.len() == 2).then_some(())).await;
    for (handler, letters) in
        [("first", 1), ("closure on orders.created", 1), ("second", 1), ("biller", 1), ("bill", 0), ("accept", 0)]
    {
        assert_eq!(count(handler).await, letters, "{handler}");
    }
}

async fn replay_calls_the_failed_queue_again(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<accept>().include::<refuse>()).await;
    publish(&broker, [1]).await;
    broker.idle().await;
    let letters = broker.broker().dead_letters();
    let report = letters.replay_all().await.unwrap();
    assert_eq!((report.replayed, report.kept), (1, 0), "{report}");
    broker.idle().await;
    broker.handled::<accept>().times(1);
    broker.handled::<refuse>().times(2);
    let letter = letters.list(10).await.unwrap().remove(0);
    let report = letters.to_every_queue().replay_all().await.unwrap();
    assert_eq!((report.replayed, report.kept), (1, 0), "{report}");
    broker.idle().await;
    broker.handled::<accept>().times(2);
    broker.handled::<refuse>().times(3);
    let again = broker.broker().dead_letters().list(10).await.unwrap().remove(0);
    assert_eq!(again.idempotency_key(), letter.idempotency_key());
    assert_ne!(again.header("Nats-Msg-Id"), letter.header("Nats-Msg-Id"));
}

async fn another_message_with_the_id_of_a_replay_does_not_replace_it(transport: &Transport) {
    for stream in [orders(), work_queue()] {
        let retention = stream.retention;
        let broker = transport.start(TestBroker::builder().stream(stream).include::<refuse>()).await;
        publish(&broker, [1]).await;
        broker.idle().await;
        let letters = broker.broker().dead_letters();
        let letter = letters.list(10).await.unwrap().remove(0);
        let stored_at = letter.stored_at.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos();
        let guessed = format!("replay/DLQ/{}/{stored_at}/ORDERS.refuse", letter.sequence);
        broker.broker().publish_message("orders.created", &order(666)).message_id(&guessed).await.unwrap();
        broker.idle().await;
        let result = letters.replay(letter.sequence).await;
        if retention == stream::RetentionPolicy::Limits {
            result.unwrap();
            broker.idle().await;
            broker.handled::<refuse>().times(3);
        } else {
            // It was handled and removed, so it may as well have been the replay.
            let error = result.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Duplicate, "{error}");
            assert!(letters.get(letter.sequence).await.unwrap().is_some());
        }
        letters.purge().await.unwrap();
        transport.delete_stream(&broker, "ORDERS").await;
    }
}

async fn large_dead_letter_is_stored_in_parts(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<refuse>()).await;
    let filler = "f".repeat(65_400);
    let publish = broker.broker().publish_message("orders.created", &order(1)).header("Filler", &filler);
    publish.message_id("large").await.unwrap();
    broker.publish_bytes("orders.created", "x".repeat(1024 * 1024 - 100)).await;
    broker.idle().await;
    let letters = broker.broker().dead_letters().list(10).await.unwrap();
    assert_eq!(letters.iter().map(|letter| letter.payload.len()).collect::<Vec<_>>(), [8, 1024 * 1024 - 100]);
    assert_eq!((letters[0].header("Filler"), letters[0].header("Nats-Msg-Id")), (Some(&*filler), Some("large")));
    let report = broker.broker().dead_letters().replay_all().await.unwrap();
    assert_eq!(report.replayed, 1, "the other leaves no space for the headers of a replay: {report}");
    let error = broker.broker().publish_message("orders.created", &order(2)).header("Filler", &filler.repeat(2));
    let error = error.await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PayloadTooLarge, "{error}");
}

async fn dead_letter_is_kept_if_its_stream_denies_deletes(transport: &Transport) {
    let config = stream::Config { deny_delete: true, ..stream_config("DLQ", &["dlq.>"]) };
    let broker = transport.start(TestBroker::builder().stream(config).include::<refuse>()).await;
    publish(&broker, [1]).await;
    broker.idle().await;
    let letters = broker.broker().dead_letters();
    let report = letters.replay_all().await.unwrap();
    assert_eq!((report.replayed, report.kept), (0, 1), "{report}");
    letters.replay(1).await.unwrap();
    broker.idle().await;
    broker.handled::<refuse>().times(2);
    assert_eq!(letters.list(10).await.unwrap().len(), 2);
}

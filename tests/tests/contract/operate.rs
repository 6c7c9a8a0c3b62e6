//! A handler is paused, resumed and reset.

use std::time::{Duration, SystemTime};

use jetstream_handlers::prelude::*;
use jetstream_handlers::testing::TestBroker;
use jetstream_handlers::{Deliver, ErrorKind, Position, Status};
use jetstream_handlers_tests::{Recorder, SOON, assert_error, binary, eventually, ms};

use crate::{Order, Transport, accept, all, publish, record, record_on, recording, refuse};

contract![
    paused_handler_receives_nothing_until_it_is_resumed,
    pause_ends_at_its_time,
    reset_handler_receives_everything_from_the_position_again,
    reset_ordered_handler_receives_everything_again,
    reset_handler_with_a_key_receives_everything_again,
    reset_that_the_deliver_policy_excludes_is_refused,
    handler_is_chosen_by_text,
    times_that_cannot_be_are_refused,
];

/// Returns `true` if the server is older than this version, and checks the error that names it.
async fn is_refused_before(version: (u32, u32, u32), transport: &Transport, test: &TestBroker) -> bool {
    let is_older = matches!(transport, Transport::Live(_)) && binary::version() < version;
    if is_older {
        let broker = test.broker();
        let result = if version == (2, 11, 0) {
            broker.pause("accept", secs(60)).await
        } else {
            broker.reset("accept", Position::Start).await
        };
        let (major, minor, patch) = binary::version();
        let parts = [&format!("the server {major}.{minor}.{patch}"), "does not support the"];
        assert_error(result, ErrorKind::Config, &[parts[0], parts[1]]);
    }
    is_older
}

async fn until_paused(broker: &Broker, paused: bool) {
    eventually("the health shows the pause", Duration::from_secs(30), async || {
        let health = broker.health();
        let is_shown = health.handlers.iter().any(|handler| handler.paused) == paused;
        let is_degraded = matches!(health.handlers[1].status, Status::Degraded { .. }) == paused;
        (is_shown && is_degraded).then_some(())
    })
    .await;
}

async fn paused_handler_receives_nothing_until_it_is_resumed(transport: &Transport) {
    let test = transport.start(TestBroker::builder().include::<accept>()).await;
    if is_refused_before((2, 11, 0), transport, &test).await {
        return;
    }
    let (_subscription, calls) = record(&test, "worker", "orders.created").await;
    publish(&test, 1..=2).await;
    calls.until_len(2).await;
    let broker = test.broker();
    let before = SystemTime::now();
    let paused = broker.pause("worker", secs(3600)).await.unwrap();
    assert_eq!((&*paused.handler, &*paused.stream, &*paused.queue), ("closure on orders.created", "ORDERS", "worker"));
    assert!(paused.paused_until.unwrap() >= before + secs(3600));
    let text = paused.to_string();
    let (_, until) = text.split_once("paused until 20").unwrap();
    assert_eq!(until.len(), "26-11-28T02:40:30Z".len(), "to the second: {paused}");
    publish(&test, 3..=4).await;
    until_paused(broker, true).await;
    test.advance(secs(1)).await;
    assert_eq!(calls.items(), [1, 2]);
    // Another instance is paused too.
    let second = test.second_instance().await;
    let (_second, others) = record_on(&second, "worker", "orders.created").await;
    test.advance(secs(1)).await;
    assert_eq!((calls.len(), others.len()), (2, 0));
    let resumed = broker.resume("worker").await.unwrap();
    assert_eq!((resumed.paused_until, resumed.changed), (None, true));
    assert!(resumed.to_string().ends_with(": resumed"), "{resumed}");
    eventually("both are handled", SOON, async || (calls.len() + others.len() == 4).then_some(())).await;
    until_paused(broker, false).await;
    let resumed = broker.resume("worker").await.unwrap();
    assert!(!resumed.changed && resumed.to_string().contains("not paused, so nothing was changed"), "{resumed}");
}

async fn pause_ends_at_its_time(transport: &Transport) {
    let test = transport.start(TestBroker::builder().include::<accept>()).await;
    if is_refused_before((2, 11, 0), transport, &test).await {
        return;
    }
    let calls = Recorder::<SystemTime>::default();
    let recorder = calls.clone();
    let handler = move |_: Order| {
        recorder.add(SystemTime::now());
        std::future::ready(())
    };
    let _subscription = test.broker().subscribe("orders.created", "worker", handler).await.unwrap();
    let until = SystemTime::now() + secs(2);
    test.broker().pause_until("worker", until).await.unwrap();
    publish(&test, [1]).await;
    if let Transport::Memory = transport {
        // The clock is paused.
        test.advance(ms(1900)).await;
        assert!(calls.is_empty());
        test.advance(ms(200)).await;
        assert_eq!(calls.len(), 1);
        return;
    }
    calls.until_len(1).await;
    let handled = calls.items()[0];
    assert!(handled >= until, "handled {:?} before the end of the pause", until.duration_since(handled));
}

async fn reset_handler_receives_everything_from_the_position_again(transport: &Transport) {
    let test = transport.start(TestBroker::builder().include::<accept>()).await;
    if is_refused_before((2, 14, 0), transport, &test).await {
        return;
    }
    let (_subscription, calls) = record(&test, "worker", "orders.created").await;
    let broker = test.broker();
    publish(&test, 1..=3).await;
    test.advance(ms(20)).await;
    let middle = SystemTime::now();
    test.advance(ms(20)).await;
    publish(&test, 4..7).await;
    calls.until_len(6).await;
    test.idle().await;
    let mut expected = vec![1, 2, 3, 4, 5, 6];
    let floor = (Position::AckFloor, 7, 7..7);
    let mut positions = vec![(Position::Sequence(5), 5, 5..7), (Position::Start, 1, 1..7), floor];
    if let Transport::Live(_) = transport {
        // In memory, the time does not pass while the test waits.
        positions.push((Position::Time(middle), 4, 4..7));
    }
    positions.push((Position::Time(SystemTime::now() + secs(60)), 7, 7..7));
    positions.push((Position::Sequence(7), 7, 7..7));
    positions.push((Position::Sequence(2), 2, 2..7));
    for (position, next, again) in positions {
        let reset = broker.reset("worker", position).await.unwrap();
        assert_eq!(reset.next_sequence, Some(next), "{position:?}");
        expected.extend(again);
        calls.until_len(expected.len()).await;
        test.idle().await;
        let mut items = calls.items();
        let (mut wanted, reached) = (expected.clone(), items.len());
        items.sort_unstable();
        wanted.sort_unstable();
        assert_eq!(items, wanted, "{position:?} after {reached}");
    }
    for sequence in [8, 1000, u64::MAX] {
        let parts = [&format!("to sequence {sequence}: the last of stream `ORDERS` is 6; expected at most 7")];
        assert_error(broker.reset("worker", Position::Sequence(sequence)).await, ErrorKind::Config, &[parts[0]]);
    }
    publish(&test, [7]).await;
    calls.until(7).await;
}

async fn reset_ordered_handler_receives_everything_again(transport: &Transport) {
    let test = transport.start(TestBroker::builder().include::<accept>()).await;
    if is_refused_before((2, 14, 0), transport, &test).await {
        return;
    }
    let calls = Recorder::new();
    let subscribe = test.broker().subscribe("orders.created", "ordered", recording(&calls)).ordered();
    let _subscription = subscribe.await.unwrap();
    publish(&test, 1..=4).await;
    calls.until_len(4).await;
    test.broker().reset("ordered", Position::Sequence(2)).await.unwrap();
    calls.until_len(7).await;
    publish(&test, [5]).await;
    calls.until(5).await;
    assert_eq!(calls.items(), [1, 2, 3, 4, 2, 3, 4, 5]);
}

async fn reset_handler_with_a_key_receives_everything_again(transport: &Transport) {
    let test = transport.start(TestBroker::builder().include::<accept>()).await;
    if is_refused_before((2, 14, 0), transport, &test).await {
        return;
    }
    let calls = Recorder::new();
    let subscribe = test.broker().subscribe("orders.created", "keyed", recording(&calls)).key("id").concurrency(4);
    let _subscription = subscribe.await.unwrap();
    publish(&test, 1..=4).await;
    calls.until_len(4).await;
    test.idle().await;
    test.broker().reset("keyed", Position::Sequence(2)).await.unwrap();
    calls.until_len(7).await;
    publish(&test, [5]).await;
    calls.until(5).await;
    let mut items = calls.items();
    items.sort_unstable();
    assert_eq!(items, [1, 2, 2, 3, 3, 4, 4, 5]);
}

async fn reset_that_the_deliver_policy_excludes_is_refused(transport: &Transport) {
    let test = transport.start(TestBroker::builder().include::<accept>()).await;
    if is_refused_before((2, 14, 0), transport, &test).await {
        return;
    }
    publish(&test, 1..=3).await;
    let broker = test.broker();
    let calls = Recorder::new();
    let new = broker.subscribe("orders.created", "new", recording(&calls)).deliver(Deliver::New).await.unwrap();
    let third = broker.subscribe("orders.created", "third", recording(&calls)).deliver(Deliver::FromSequence(3));
    let third = third.await.unwrap();
    for (queue, position) in [("new", Position::Start), ("new", Position::Sequence(4)), ("third", Position::Start)] {
        let parts = [&format!("resetting consumer `{queue}` of stream `ORDERS`"), "it cannot be moved there"];
        assert_error(broker.reset(queue, position).await, ErrorKind::ConsumerMismatch, &[parts[0], parts[1]]);
    }
    broker.reset("third", Position::Sequence(3)).await.unwrap();
    calls.until_times(3, 2).await;
    broker.reset("new", Position::AckFloor).await.unwrap();
    new.unsubscribe().await.unwrap();
    third.unsubscribe().await.unwrap();
}

async fn handler_is_chosen_by_text(transport: &Transport) {
    let test = transport.start(TestBroker::builder().include::<accept>()).await;
    if is_refused_before((2, 14, 0), transport, &test).await {
        return;
    }
    let broker = test.second_instance().await;
    for text in ["accept", "contract::accept"] {
        let paused = broker.pause(text, secs(60)).await.unwrap();
        assert_eq!((&*paused.handler, &*paused.stream), ("contract::accept", "ORDERS"), "{text}");
    }
    for text in ["nobody", "", "ccept"] {
        let parts =
            [&format!("no handler is named `{text}`; the handlers are "), "`contract::accept` (queue `accept`)"];
        assert_error(broker.pause(text, secs(60)).await, ErrorKind::NoHandlers, &[parts[0], parts[1]]);
    }
    let (_one, _) = record_on(&broker, "one", "orders.created").await;
    let (_two, _) = record_on(&broker, "two", "orders.created").await;
    let parts = ["names several handlers", "(queue `one`)", "(queue `two`)", "or the queue"];
    assert_error(broker.resume("closure on orders.created").await, ErrorKind::NoHandlers, &parts);
    // A handler of this program that has never been started.
    let parts = ["there is no such consumer; start its handler first"];
    assert_error(broker.pause("refuse", secs(60)).await, ErrorKind::ConsumerMismatch, &parts);
    assert_error(broker.reset("refuse", Position::Start).await, ErrorKind::ConsumerMismatch, &parts);
    broker.include::<refuse>().include::<all>();
    transport.delete_stream(&test, "ORDERS").await;
    assert_error(broker.pause("all", secs(60)).await, ErrorKind::StreamNotFound, &["`ORDERS`"]);
}

async fn times_that_cannot_be_are_refused(transport: &Transport) {
    let test = transport.start(TestBroker::builder().include::<accept>()).await;
    let broker = test.broker();
    for (until, part) in [
        (SystemTime::now() - secs(1), "in the past"),
        (SystemTime::UNIX_EPOCH, "in the past"),
        (SystemTime::now() + secs(2 * 365 * 24 * 3600), "more than a year away"),
    ] {
        assert_error(broker.pause_until("accept", until).await, ErrorKind::Config, &["cannot pause `accept`", part]);
    }
    assert_error(broker.pause("accept", Duration::ZERO).await, ErrorKind::Config, &["in the past"]);
    assert_error(broker.pause("accept", Duration::MAX).await, ErrorKind::Config, &["more than a year away"]);
    assert_error(broker.reset("accept", Position::Sequence(0)).await, ErrorKind::Config, &["sequence 0"]);
    assert!(!broker.health().handlers[0].paused);
}

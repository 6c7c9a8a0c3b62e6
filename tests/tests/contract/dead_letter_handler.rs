//! Code that is called for each dead letter.

use jetstream_handlers::prelude::*;
use jetstream_handlers::testing::TestBroker;
use jetstream_handlers::{DeadLetter, ErrorKind, dead_letter_handler};
use jetstream_handlers_tests::{Recorder, SOON, assert_error, eventually};

use crate::{Transport, accept, order, orders, refuse};

contract![
    handler_hears_of_each_new_dead_letter,
    parts_of_a_large_dead_letter_are_not_delivered,
    handler_of_dead_letters_that_fails_has_none,
    dead_letters_of_one_stream_are_chosen_by_subject,
    closure_takes_dead_letters,
    prefix_of_an_environment_applies,
];

/// The subject, the sequence, the error and the completeness of a letter.
type Heard = (String, u64, String, bool);

fn heard(letter: &DeadLetter) -> Heard {
    (letter.subject.clone(), letter.sequence, letter.error.clone(), letter.is_complete())
}

#[dead_letter_handler(queue = "alerts")]
async fn alert(letter: DeadLetter, State(calls): State<Recorder<Heard>>) -> HandlerResult {
    calls.add(heard(&letter));
    Ok(())
}

#[dead_letter_handler(queue = "others", subject = "dlq.OTHER.>", deliver = "all", concurrency = 2)]
async fn others(letter: DeadLetter, State(calls): State<Recorder<Heard>>) {
    calls.add(heard(&letter));
}

#[dead_letter_handler(queue = "failing-alerts", max_deliver = 2, backoff = ["1ms"])]
async fn failing_alert(letter: DeadLetter, State(calls): State<Recorder<Heard>>) -> HandlerResult {
    calls.add(heard(&letter));
    Err("the pager is down".into())
}

async fn handler_hears_of_each_new_dead_letter(transport: &Transport) {
    let calls = Recorder::<Heard>::default();
    let test = transport.start(TestBroker::builder().stream(orders()).include::<refuse>()).await;
    test.publish("orders.created", &order(1)).await;
    eventually("the first dead letter", SOON, async || (test.dead_letters().await.len() == 1).then_some(())).await;
    let second = test.second_instance().await;
    let closure_calls = calls.clone();
    let handler = move |letter: DeadLetter| {
        closure_calls.add(heard(&letter));
        std::future::ready(())
    };
    let subscribe = second.subscribe("dlq.>", "alerts", handler).dead_letter(None);
    let _subscription = subscribe.deliver(jetstream_handlers::Deliver::New).await.unwrap();
    test.publish("orders.created", &order(2)).await;
    calls.until_len(1).await;
    let (subject, sequence, ..) = calls.items().remove(0);
    assert_eq!((&*subject, sequence), ("orders.created", 2));
}

async fn parts_of_a_large_dead_letter_are_not_delivered(transport: &Transport) {
    let calls = Recorder::<Heard>::default();
    let builder = TestBroker::builder().state(calls.clone()).include::<refuse>().include::<alert>();
    let test = transport.start(builder).await;
    test.publish_bytes("orders.created", "x".repeat(1024 * 1024 - 100)).await;
    test.publish("orders.created", &order(1)).await;
    calls.until_len(2).await;
    test.idle().await;
    let items = calls.items();
    assert_eq!(items.iter().map(|(.., is_complete)| *is_complete).collect::<Vec<_>>(), [false, true]);
    let letter = test.broker().dead_letters().get(items[0].1).await.unwrap().unwrap();
    assert!(letter.is_complete());
    assert_eq!(letter.payload.len(), 1024 * 1024 - 100);
}

async fn handler_of_dead_letters_that_fails_has_none(transport: &Transport) {
    let calls = Recorder::<Heard>::default();
    let builder = TestBroker::builder().state(calls.clone()).include::<refuse>().include::<failing_alert>();
    let test = transport.start(builder).await;
    test.publish("orders.created", &order(1)).await;
    calls.until_len(2).await;
    // What is no dead letter is not one for the handler either.
    test.publish("dlq.foreign", &7).await;
    test.idle().await;
    assert_eq!(calls.len(), 2);
    assert_eq!(test.dead_letters().await.len(), 1);
}

async fn dead_letters_of_one_stream_are_chosen_by_subject(transport: &Transport) {
    let calls = Recorder::<Heard>::default();
    let builder = TestBroker::builder().state(calls.clone()).include::<refuse>().include::<others>();
    let test = transport.start(builder).await;
    let fails = |_: u64| std::future::ready(Settle::Terminate);
    let _subscription = test.broker().subscribe("other.created", "other", fails).await.unwrap();
    test.publish("orders.created", &order(1)).await;
    test.publish("other.created", &7).await;
    calls.until_len(1).await;
    test.idle().await;
    assert_eq!(calls.items().into_iter().map(|(subject, ..)| subject).collect::<Vec<_>>(), ["other.created"]);
}

async fn closure_takes_dead_letters(transport: &Transport) {
    let test = transport.start(TestBroker::builder().include::<accept>()).await;
    let broker = test.broker();
    // Its own dead letters would be dead letters again.
    let looping = broker.subscribe("dlq.>", "looping", |_: DeadLetter| async {}).await;
    assert_error(looping, ErrorKind::Config, &["set `dead_letter` to another subject or to `false`"]);
}

async fn prefix_of_an_environment_applies(transport: &Transport) {
    let calls = Recorder::<Heard>::default();
    let builder = TestBroker::builder().state(calls.clone()).subject_prefix("staging");
    let test = transport.start(builder.include::<refuse>().include::<alert>()).await;
    test.publish("orders.created", &order(1)).await;
    calls.until_len(1).await;
    assert_eq!(calls.items()[0].0, "staging.orders.created");
    let letters = test.broker().dead_letters();
    assert_eq!(letters.clone().subject("orders.*").count().await.unwrap(), 1);
    assert_eq!(letters.subject("staging.orders.*").count().await.unwrap(), 0);
}

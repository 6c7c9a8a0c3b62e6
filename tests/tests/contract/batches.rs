//! Batches: how they are filled, and how their messages are settled.

use std::sync::Arc;

use jetstream_handlers::prelude::*;
use jetstream_handlers::testing::TestBroker;
use jetstream_handlers::{Context, DeadLetter, ErrorKind, Output, Reason};
use jetstream_handlers_tests::{Recorder, SOON, assert_error, eventually, ms};
use tokio::time::Instant;

use crate::{Order, Transport, order};

contract![
    waiting_messages_fill_batches,
    trickle_is_one_batch,
    batch_ends_after_its_wait,
    bytes_end_a_batch,
    undecodable_message_is_a_dead_letter_alone,
    failed_element_is_retried_alone,
    each_element_has_its_result,
    error_fails_every_element,
    other_number_of_results_fails_every_element,
    panic_and_timeout_fail_every_element,
    split_finds_the_element_that_fails,
    error_with_a_delay_is_not_split,
    rejected_parameter_fails_its_message_alone,
    each_element_publishes_its_output,
    message_that_is_delivered_twice_publishes_once,
    several_batches_run_at_the_same_time,
    blocking_handler_takes_batches,
    markers_are_not_in_a_batch,
    confirmed_batch_ends,
    stop_hands_back_what_waits,
    closure_takes_batches,
    start_refuses_contradictions,
];

type Calls = Recorder<Vec<u64>>;

/// A state that a start does not require, because tests of other files start every handler.
struct Lent<T>(T);

impl<T: Clone + Send + Sync + 'static> FromMessage for Lent<T> {
    fn from_message(_: &Message, context: &Context) -> Result<Self, Rejection> {
        context.state().cloned().map(Lent).ok_or(Rejection::new("the state is missing"))
    }
}

async fn publish(broker: &TestBroker, ids: impl IntoIterator<Item = u64>) {
    for id in ids {
        broker.broker().publish("batches.created", &order(id)).await.unwrap();
    }
}

/// Records the elements of a batch.
fn record(calls: &Calls, orders: &[Order]) {
    calls.add(orders.iter().map(|order| order.id).collect());
}

/// Waits until the calls had this many elements, and all messages have ended.
async fn until_called_with(broker: &TestBroker, calls: &Calls, elements: usize) {
    eventually("the calls", SOON, async || (calls.items().concat().len() >= elements).then_some(())).await;
    broker.idle().await;
}

/// Waits for this many dead letters.
async fn dead_letters(broker: &TestBroker, count: usize) -> Vec<DeadLetter> {
    let mut letters = eventually("the dead letters", SOON, async || {
        Some(broker.dead_letters().await).filter(|letters| letters.len() >= count)
    })
    .await;
    letters.sort_by_key(|letter| letter.stream_sequence);
    letters
}

#[subscriber(subject = "batches.created", queue = "tens", batch = 10)]
async fn tens(orders: Batch<Order>, Lent(calls): Lent<Calls>) {
    record(&calls, &orders);
}

async fn waiting_messages_fill_batches(transport: &Transport) {
    let calls = Calls::default();
    let first = transport.start(TestBroker::builder().include::<crate::accept>()).await;
    publish(&first, 0..100).await;
    let begun = Instant::now();
    let tens_handler = first.broker();
    let calls_of = calls.clone();
    let subscription = tens_handler
        .subscribe("batches.created", "tens", move |orders: Batch<Order>| {
            record(&calls_of, &orders);
            async {}
        })
        .batch(10)
        .batch_wait(secs(5))
        .await
        .unwrap();
    eventually("all are handled", SOON, async || (calls.len() == 10).then_some(())).await;
    let expected: Vec<Vec<u64>> = (0..10).map(|tens| (tens * 10..tens * 10 + 10).collect()).collect();
    assert_eq!(calls.items(), expected);
    assert!(begun.elapsed() < secs(5), "no batch waits for its time");
    subscription.unsubscribe().await.unwrap();
}

#[subscriber(subject = "batches.created", queue = "trickle", batch = 100, batch_wait = "1s")]
async fn trickle(orders: Batch<Order>, Lent(calls): Lent<Calls>) {
    record(&calls, &orders);
}

async fn trickle_is_one_batch(transport: &Transport) {
    let calls = Calls::default();
    let broker = transport.start(TestBroker::builder().include::<trickle>().state(calls.clone())).await;
    for id in 0..10 {
        publish(&broker, [id]).await;
        tokio::time::sleep(ms(20)).await;
    }
    broker.idle().await;
    assert_eq!(calls.items(), [(0..10).collect::<Vec<u64>>()]);
    broker.handled::<trickle>().times(10).settled(Settle::Ack).retried(0);
}

#[subscriber(subject = "batches.created", queue = "patient", batch = 100, batch_wait = "300ms")]
async fn patient(orders: Batch<Order>, Lent(calls): Lent<Calls>) {
    record(&calls, &orders);
}

async fn batch_ends_after_its_wait(transport: &Transport) {
    let calls = Calls::default();
    let broker = transport.start(TestBroker::builder().include::<patient>().state(calls.clone())).await;
    for id in 0..3 {
        let begun = Instant::now();
        publish(&broker, [id]).await;
        eventually("the batch is handled", SOON, async || (calls.len() as u64 > id).then_some(())).await;
        assert!(begun.elapsed() >= ms(290), "{:?}", begun.elapsed());
    }
    assert_eq!(calls.items(), [[0], [1], [2]]);
}

#[subscriber(subject = "batches.texts", queue = "bytes", batch = 100, batch_wait = "200ms", batch_bytes = 10)]
async fn bytes(texts: Batch<String>, Lent(calls): Lent<Recorder<Vec<String>>>) {
    calls.add(texts.to_vec());
}

async fn bytes_end_a_batch(transport: &Transport) {
    let calls = Recorder::<Vec<String>>::default();
    let broker = transport.start(TestBroker::builder().include::<bytes>().state(calls.clone())).await;
    // Each is two bytes longer as JSON.
    for text in ["aa", "bb", "cc", "dd", "longer than ten", "ee", "six..."] {
        broker.broker().publish("batches.texts", text).await.unwrap();
    }
    broker.idle().await;
    let expected = vec![vec!["aa", "bb"], vec!["cc", "dd"], vec!["longer than ten"], vec!["ee"], vec!["six..."]];
    assert_eq!(calls.items(), expected);
}

async fn undecodable_message_is_a_dead_letter_alone(transport: &Transport) {
    let calls = Calls::default();
    let broker = transport.start(TestBroker::builder().include::<tens>().state(calls.clone())).await;
    publish(&broker, [1]).await;
    broker.publish_bytes("batches.created", "no JSON").await;
    publish(&broker, [3]).await;
    broker.idle().await;
    assert_eq!(calls.items().concat(), [1, 3]);
    let letters = broker.dead_letters().await;
    assert_eq!(letters.len(), 1, "{letters:?}");
    assert_eq!((letters[0].reason, letters[0].delivered), (Reason::Undecodable, 1));
    // A batch of which no message can be decoded is not a call.
    broker.publish_bytes("batches.created", "no JSON").await;
    broker.publish_bytes("batches.created", "").await;
    broker.idle().await;
    assert_eq!(calls.items().concat(), [1, 3]);
    assert_eq!(broker.dead_letters().await.len(), 3);
}

#[subscriber(
    subject = "batches.created", queue = "marking", batch = 10, batch_wait = "200ms", max_deliver = 3, backoff = ["100ms"]
)]
async fn marking(orders: Batch<Order>, Lent(calls): Lent<Calls>) -> HandlerResult {
    record(&calls, &orders);
    for (index, order) in orders.iter().enumerate() {
        assert_eq!(orders.messages()[index].subject(), "batches.created");
        match order.id {
            2 => orders.fail(index, "fails always"),
            4 => orders.fail(index, HandlerError::terminate("is wrong")),
            _ => {}
        }
    }
    Ok(())
}

async fn failed_element_is_retried_alone(transport: &Transport) {
    let calls = Calls::default();
    let broker = transport.start(TestBroker::builder().include::<marking>().state(calls.clone())).await;
    publish(&broker, 1..=5).await;
    until_called_with(&broker, &calls, 7).await;
    assert_eq!(calls.items(), [vec![1, 2, 3, 4, 5], vec![2], vec![2]]);
    let letters = dead_letters(&broker, 2).await;
    let found: Vec<_> = letters.iter().map(|letter| (letter.payload.clone(), letter.error.clone())).collect();
    assert_eq!(
        found,
        [(r#"{"id":2}"#.into(), "fails always".to_owned()), (r#"{"id":4}"#.into(), "is wrong".to_owned())]
    );
    assert_eq!(letters.iter().map(|letter| letter.delivered).collect::<Vec<_>>(), [3, 1]);
}

#[subscriber(subject = "batches.created", queue = "each", batch = 10, batch_wait = "200ms", backoff = ["100ms"])]
async fn each(orders: Batch<Order>, Lent(calls): Lent<Calls>) -> Vec<Settle> {
    let first = calls.is_empty();
    record(&calls, &orders);
    orders.iter().map(|order| if first && order.id % 2 == 0 { Settle::Retry } else { Settle::Ack }).collect()
}

async fn each_element_has_its_result(transport: &Transport) {
    let calls = Calls::default();
    let broker = transport.start(TestBroker::builder().include::<each>().state(calls.clone())).await;
    publish(&broker, 1..=5).await;
    until_called_with(&broker, &calls, 7).await;
    let mut calls = calls.items();
    assert_eq!(calls.remove(0), [1, 2, 3, 4, 5]);
    // Their delays have jitter.
    let mut again = calls.concat();
    again.sort_unstable();
    assert_eq!(again, [2, 4]);
    broker.handled::<each>().times(5).settled(Settle::Ack);
    assert!(broker.dead_letters().await.is_empty());
}

#[subscriber(
    subject = "batches.created", queue = "failing", batch = 10, batch_wait = "200ms", max_deliver = 2, backoff = ["100ms"]
)]
async fn failing(orders: Batch<Order>, Lent(calls): Lent<Calls>) -> HandlerResult {
    record(&calls, &orders);
    Err("the database is down".into())
}

async fn error_fails_every_element(transport: &Transport) {
    let calls = Calls::default();
    let broker = transport.start(TestBroker::builder().include::<failing>().state(calls.clone())).await;
    publish(&broker, 1..=3).await;
    broker.publish_bytes("batches.created", "no JSON").await;
    let letters = dead_letters(&broker, 4).await;
    assert_eq!(calls.items().concat().len(), 6);
    broker.handled::<failing>().times(4);
    let reasons = letters.iter().map(|letter| (letter.delivered, letter.reason)).collect::<Vec<_>>();
    let failed = reasons.iter().filter(|reason| **reason == (2, Reason::Error)).count();
    assert_eq!((failed, reasons.len()), (3, 4), "{reasons:?}");
    assert!(reasons.contains(&(1, Reason::Undecodable)), "{reasons:?}");
}

#[subscriber(subject = "batches.created", queue = "short", batch = 10, batch_wait = "200ms", max_deliver = 1)]
async fn short(_orders: Batch<Order>) -> HandlerResult<Vec<Settle>> {
    Ok(vec![Settle::Ack])
}

async fn other_number_of_results_fails_every_element(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<short>()).await;
    publish(&broker, 1..=2).await;
    broker.idle().await;
    let letters = broker.dead_letters().await;
    assert_eq!(letters.len(), 2);
    for letter in letters {
        let expected = "the handler returned 1 results for a batch of 2; it must return one for each element";
        assert!(letter.error.starts_with(expected), "{}", letter.error);
    }
}

#[subscriber(
    subject = "batches.created", queue = "broken", batch = 10, batch_wait = "200ms", max_deliver = 2, timeout = "100ms", backoff = ["100ms"]
)]
async fn broken(orders: Batch<Order>, Lent(calls): Lent<Calls>) {
    let calls_before = calls.len();
    record(&calls, &orders);
    assert!(calls_before > 0, "breaks in the first call");
    std::future::pending::<()>().await;
}

async fn panic_and_timeout_fail_every_element(transport: &Transport) {
    let calls = Calls::default();
    let broker = transport.start(TestBroker::builder().include::<broken>().state(calls.clone())).await;
    broker.publish_bytes("batches.created", "no JSON").await;
    publish(&broker, 1..=3).await;
    let letters = dead_letters(&broker, 4).await;
    let letters: Vec<_> = letters.iter().map(|letter| (letter.delivered, letter.reason)).collect();
    let timeout = (2, Reason::Timeout);
    assert_eq!(letters, [(1, Reason::Undecodable), timeout, timeout, timeout]);
}

#[subscriber(
    subject = "batches.created",
    queue = "splitting",
    batch = 16,
    batch_wait = "200ms",
    max_deliver = 2,
    backoff = ["100ms"],
    on_batch_error = "split"
)]
async fn splitting(orders: Batch<Order>, Lent(calls): Lent<Calls>) -> HandlerResult {
    record(&calls, &orders);
    assert!(orders.iter().all(|order| order.id != 13), "13 is not an order");
    match orders.iter().find(|order| order.id == 6) {
        Some(_) => Err("6 cannot be stored".into()),
        None => Ok(()),
    }
}

async fn split_finds_the_element_that_fails(transport: &Transport) {
    let calls = Calls::default();
    let broker = transport.start(TestBroker::builder().include::<splitting>().state(calls.clone())).await;
    publish(&broker, 0..16).await;
    let letters = dead_letters(&broker, 2).await;
    let found: Vec<_> = letters.iter().map(|letter| (letter.payload.clone(), letter.reason)).collect();
    assert_eq!(found, [(r#"{"id":6}"#.into(), Reason::Error), (r#"{"id":13}"#.into(), Reason::Panic)]);
    let calls = calls.items();
    // All, and then the halves of the first half before those of the second one.
    let expected: [&[u64]; 7] = [
        &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
        &[0, 1, 2, 3, 4, 5, 6, 7],
        &[0, 1, 2, 3],
        &[4, 5, 6, 7],
        &[4, 5],
        &[6, 7],
        &[6],
    ];
    assert_eq!(calls[..7], expected);
    let alone = calls.iter().filter(|call| ***call == [6] || ***call == [13]).count();
    assert!(alone >= 2, "{calls:?}");
    broker.handled::<splitting>().times(16);
}

#[subscriber(
    subject = "batches.created",
    queue = "delayed",
    batch = 16,
    batch_wait = "200ms",
    max_deliver = 2,
    on_batch_error = "split"
)]
async fn delayed(orders: Batch<Order>, Lent(calls): Lent<Calls>) -> HandlerResult {
    record(&calls, &orders);
    if calls.len() > 1 {
        return Ok(());
    }
    Err(HandlerError::retry_after(ms(100), "the database is down"))
}

async fn error_with_a_delay_is_not_split(transport: &Transport) {
    let calls = Calls::default();
    let broker = transport.start(TestBroker::builder().include::<delayed>().state(calls.clone())).await;
    publish(&broker, 0..4).await;
    until_called_with(&broker, &calls, 8).await;
    let calls = calls.items();
    assert_eq!((calls.len(), calls[0].len(), calls[1].len()), (2, 4, 4), "{calls:?}");
}

/// A parameter that the first message of a batch decides on.
struct Tenant;

impl FromMessage for Tenant {
    fn from_message(message: &Message, _: &Context) -> Result<Self, Rejection> {
        match message.header("Tenant") {
            Some(_) => Ok(Tenant),
            None => Err(Rejection::new("header `Tenant` is missing")),
        }
    }
}

#[subscriber(subject = "batches.created", queue = "tenants", batch = 10, batch_wait = "200ms")]
async fn tenants(orders: Batch<Order>, _tenant: Tenant, Lent(calls): Lent<Calls>) {
    record(&calls, &orders);
}

async fn rejected_parameter_fails_its_message_alone(transport: &Transport) {
    let calls = Calls::default();
    let broker = transport.start(TestBroker::builder().include::<tenants>().state(calls.clone())).await;
    publish(&broker, [1]).await;
    for id in 2..=4 {
        let message = broker.broker().publish_message("batches.created", &order(id)).header("Tenant", "eu");
        broker.publish_message(message).await;
    }
    broker.idle().await;
    let mut handled = calls.items().concat();
    handled.sort_unstable();
    assert_eq!(handled, [2, 3, 4]);
    let letters = broker.dead_letters().await;
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].error, "header `Tenant` is missing");
}

#[subscriber(
    subject = "batches.created", queue = "outputs", batch = 10, batch_wait = "200ms", backoff = ["100ms"], publish = "confirmed.batches"
)]
async fn outputs(orders: Batch<Order>, Lent(calls): Lent<Calls>) -> HandlerResult<Vec<Option<u64>>> {
    record(&calls, &orders);
    Ok(orders.iter().map(|order| (order.id != 2).then_some(order.id * 10)).collect())
}

async fn each_element_publishes_its_output(transport: &Transport) {
    let calls = Calls::default();
    let broker = transport.start(TestBroker::builder().include::<outputs>().state(calls.clone())).await;
    publish(&broker, 1..=4).await;
    broker.idle().await;
    assert_eq!(broker.published::<u64>("confirmed.batches").await, [10, 30, 40]);
    let outputs = broker.published_messages("confirmed.batches").await;
    let ids: Vec<_> = outputs.iter().filter_map(|output| output.header("Nats-Msg-Id")).collect();
    let inputs = broker.published_messages("batches.created").await;
    for (id, sequence) in ids.iter().zip([1, 3, 4]) {
        let stored_at =
            inputs[sequence - 1].info().stored_at().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
        assert_eq!(*id, format!("out:BATCHES:outputs:{sequence}:{stored_at}:1"));
    }
    assert_eq!(ids.len(), 3);
    broker.handled::<self::outputs>().times(4).settled(Settle::Ack);
}

/// After a redelivery, a message is in another batch, and its output has the same id.
async fn message_that_is_delivered_twice_publishes_once(transport: &Transport) {
    let calls = Calls::default();
    let broker = transport.start(TestBroker::builder().include::<again>().state(calls.clone())).await;
    publish(&broker, 1..=3).await;
    until_called_with(&broker, &calls, 5).await;
    assert_eq!(calls.items()[0], [1, 2, 3]);
    let mut published = broker.published::<u64>("confirmed.again").await;
    published.sort_unstable();
    assert_eq!(published, [1, 2, 3]);
}

/// Publishes outputs, and then fails, except for the first element.
#[subscriber(
    subject = "batches.created", queue = "again", batch = 10, batch_wait = "200ms", backoff = ["100ms"], publish = "confirmed.again"
)]
async fn again(orders: Batch<Order>, publisher: Publisher, Lent(calls): Lent<Calls>) -> Vec<HandlerResult<u64>> {
    let is_first = calls.is_empty();
    record(&calls, &orders);
    let mut results = Vec::new();
    for (order, message) in orders.iter().zip(orders.messages()) {
        if is_first && order.id > 1 {
            // As if the process had ended between the output and the ack.
            let info = message.info();
            let stored_at = info.stored_at().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
            let id = format!("out:BATCHES:again:{}:{stored_at}:1", info.stream_sequence());
            publisher.publish_message("confirmed.again", &order.id).message_id(&id).await.unwrap();
            results.push(Err("the ack was lost".into()));
        } else {
            results.push(Ok(order.id));
        }
    }
    results
}

#[subscriber(subject = "batches.created", queue = "parallel", batch = 5, batch_wait = "5s", concurrency = 3)]
async fn parallel(orders: Batch<Order>, Lent(calls): Lent<Calls>, Lent(together): Lent<Arc<tokio::sync::Barrier>>) {
    record(&calls, &orders);
    together.wait().await;
}

async fn several_batches_run_at_the_same_time(transport: &Transport) {
    let calls = Calls::default();
    let together = Arc::new(tokio::sync::Barrier::new(3));
    let builder = TestBroker::builder().include::<parallel>().state(calls.clone()).state(together);
    let broker = transport.start(builder).await;
    publish(&broker, 0..30).await;
    broker.idle().await;
    assert_eq!(calls.len(), 6, "{:?}", calls.items());
    assert_eq!(calls.distinct().into_iter().flatten().count(), 30);
}

#[subscriber(subject = "batches.created", queue = "blocking", batch = 5, batch_wait = "200ms", threads = 2)]
#[allow(clippy::needless_pass_by_value, reason = "a handler owns its parameters")]
fn blocking(orders: Batch<Order>, Lent(calls): Lent<Calls>) {
    record(&calls, &orders);
    if let Some(index) = orders.iter().position(|order| order.id == 3) {
        orders.fail(index, HandlerError::terminate("3 is wrong"));
    }
}

async fn blocking_handler_takes_batches(transport: &Transport) {
    let calls = Calls::default();
    let broker = transport.start(TestBroker::builder().include::<blocking>().state(calls.clone())).await;
    publish(&broker, 0..10).await;
    broker.publish_bytes("batches.created", "no JSON").await;
    broker.idle().await;
    let handled: std::collections::BTreeSet<u64> = calls.items().concat().into_iter().collect();
    assert_eq!(handled, (0..10).collect());
    assert_eq!(broker.dead_letters().await.len(), 2);
}

async fn markers_are_not_in_a_batch(transport: &Transport) {
    let calls = Calls::default();
    let broker = transport.start(TestBroker::builder().include::<tens>().state(calls.clone())).await;
    publish(&broker, [1]).await;
    let marker = broker.broker().publisher().publish_bytes("batches.created", "").header("KV-Operation", "DEL");
    broker.publish_message(marker).await;
    publish(&broker, [3]).await;
    broker.idle().await;
    assert_eq!(calls.items().concat(), [1, 3]);
    assert!(broker.dead_letters().await.is_empty());
}

#[subscriber(subject = "batches.created", queue = "confirmed", batch = 10, batch_wait = "200ms", ack = "confirmed")]
async fn confirmed(orders: Batch<Order>, Lent(calls): Lent<Calls>) {
    record(&calls, &orders);
}

async fn confirmed_batch_ends(transport: &Transport) {
    let calls = Calls::default();
    let broker = transport.start(TestBroker::builder().include::<confirmed>().state(calls.clone())).await;
    publish(&broker, 0..25).await;
    broker.idle().await;
    assert_eq!(calls.items().concat(), (0..25).collect::<Vec<u64>>());
    broker.handled::<confirmed>().times(25).settled(Settle::Ack).retried(0);
}

async fn stop_hands_back_what_waits(transport: &Transport) {
    let calls = Calls::default();
    let broker = transport.start(TestBroker::builder().include::<crate::accept>()).await;
    let subscribe = |queue: &'static str, wait| {
        let calls = calls.clone();
        let handler = move |orders: Batch<Order>| {
            let delivered: Vec<_> = orders.messages().iter().map(|message| message.info().delivered()).collect();
            calls.add(delivered);
            async {}
        };
        broker.broker().subscribe("batches.created", queue, handler).batch(100).batch_wait(wait)
    };
    let waiting = subscribe("waiting", secs(8)).await.unwrap();
    publish(&broker, 0..3).await;
    tokio::time::sleep(ms(100)).await;
    let begun = Instant::now();
    waiting.unsubscribe().await.unwrap();
    assert!(calls.is_empty());
    let again = subscribe("waiting", ms(300)).await.unwrap();
    eventually("the messages are handled", SOON, async || (!calls.is_empty()).then_some(())).await;
    assert!(begun.elapsed() < secs(8), "they are handed back at once: {:?}", begun.elapsed());
    assert_eq!(calls.items(), [[2, 2, 2]]);
    again.unsubscribe().await.unwrap();
}

async fn closure_takes_batches(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<crate::accept>()).await;
    let confirming = broker
        .broker()
        .subscribe("batches.created", "closure", |orders: Batch<Order>| async move {
            orders.iter().map(|order| Ok(Output::new(&order.id))).collect::<Vec<HandlerResult<Output>>>()
        })
        .batch(10)
        .batch_wait(ms(200))
        .publish("confirmed.closure")
        .await
        .unwrap();
    publish(&broker, 1..=3).await;
    eventually("the outputs are published", SOON, async || {
        (broker.published::<u64>("confirmed.closure").await == [1, 2, 3]).then_some(())
    })
    .await;
    confirming.unsubscribe().await.unwrap();
}

async fn start_refuses_contradictions(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<crate::accept>()).await;
    let broker = broker.broker();
    let of_batch = || broker.subscribe("batches.created", "refused", |_: Batch<Order>| async {});
    let of_one = || broker.subscribe("batches.created", "refused", |_: Order| async {});
    let with_subject = broker.subscribe("batches.created", "refused", |_: Batch<Order>, _: Subject| async {}).batch(10);
    let outputs =
        broker.subscribe("batches.created", "refused", |_: Batch<Order>| async { Ok(Output::to("a", &1)) }).batch(10);
    let results = broker.subscribe("batches.created", "refused", |_: Order| async { vec![Settle::Ack] });
    for (subscribe, text) in [
        (of_batch(), "batch: is not set, but the handler takes a `Batch`"),
        (of_one().batch(10), "batch: is set, but the handler takes no `Batch`"),
        (of_batch().batch(10).ordered(), "batch: excludes `ordered`"),
        (of_batch().batch(0), "batch: is 0; expected 1 to 10000"),
        (
            of_batch().batch(200).concurrency(100),
            "batch: is 200, which is 20000 messages at the same time in 100 calls",
        ),
        (of_batch().batch(10).batch_wait(secs(11)), "batch_wait: is 11s, but its messages would be redelivered"),
        (of_batch().batch(10).ack_wait(secs(1)).batch_wait(ms(400)), "batch_wait: is 400ms, but its messages"),
        (of_one().batch_bytes(10), "batch_bytes: requires a handler of batches"),
        (of_one().split_on_batch_error(), "on_batch_error: requires a handler of batches"),
        (with_subject, "batch: is set, but the handler takes a `jetstream_handlers::extract::subject::Subject`"),
        (outputs, "batch: is set, but the closure returns outputs of the whole batch"),
        (results, "batch: is not set, but the closure returns a `Vec` of results"),
    ] {
        let error = subscribe.await.unwrap_err();
        assert_error(&error, ErrorKind::Config, &[text]);
    }
}

//! Handlers with `partitions` whose subject has no place for their number: the server copies the messages to add it.

use std::collections::BTreeMap;

use jetstream_handlers::prelude::*;
use jetstream_handlers::testing::TestBroker;
use jetstream_handlers::{ChangeAction, Deliver, ErrorKind, Key, stream};
use jetstream_handlers_tests::{Recorder, assert_error, ms};
use tokio::time::sleep;

use crate::Transport;

contract![
    messages_of_a_key_are_handled_in_order_over_replicas,
    origin_of_a_copy_is_that_of_the_message,
    dead_letter_is_replayed_for_the_failed_queue,
    copies_begin_where_the_handler_does,
    number_of_partitions_is_changed_after_a_drain,
    interrupted_change_of_the_number_is_continued,
    stream_that_cannot_be_copied_is_refused,
    stream_of_someone_else_is_not_taken_over,
    repeated_message_id_is_copied,
    another_process_pauses_the_copies,
];

#[subscriber(
    subject = "orders.{customer}.created",
    queue = "billing",
    key = "{customer}",
    partitions = 12,
    concurrency = 4
)]
async fn bill(id: u64, Path(customer): Path<String>, State(calls): State<Recorder<(String, u64)>>) {
    sleep(ms(id % 3)).await;
    calls.add((customer, id));
}

async fn publish(broker: &TestBroker, ids: std::ops::Range<u64>) {
    for id in ids {
        broker.broker().publish(&format!("orders.c{}.created", id % 30), &id).await.unwrap();
    }
}

/// Asserts that the messages of each key were handled once and in order.
fn assert_in_order(calls: &Recorder<(String, u64)>, ids: std::ops::Range<u64>) {
    let mut handled = BTreeMap::<String, Vec<u64>>::new();
    for (customer, id) in calls.items() {
        let of_customer = handled.entry(customer).or_default();
        if !of_customer.contains(&id) {
            of_customer.push(id);
        }
    }
    let mut expected = BTreeMap::<String, Vec<u64>>::new();
    ids.for_each(|id| expected.entry(format!("c{}", id % 30)).or_default().push(id));
    assert_eq!(handled, expected);
}

async fn messages_of_a_key_are_handled_in_order_over_replicas(transport: &Transport) {
    let calls = Recorder::default();
    let builder = TestBroker::builder().include::<bill>().state(calls.clone()).replicas(3);
    let mut broker = transport.start(builder).await;
    for (round, ids) in [0..200, 200..400, 400..600].into_iter().enumerate() {
        publish(&broker, ids).await;
        if round == 1 {
            broker.remove_replica().await;
        } else {
            broker.add_replica().await;
        }
    }
    calls.until_len(600).await;
    broker.idle().await;
    assert_in_order(&calls, 0..600);
    // No copy is kept longer than needed.
    assert!(broker.published::<u64>("orders.>").await.len() >= 600);
    assert_eq!(broker.published::<u64>("partition.*").await.len(), 0);
}

async fn origin_of_a_copy_is_that_of_the_message(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<crate::accept>()).await;
    let seen = Recorder::default();
    let handler = {
        let seen = seen.clone();
        move |message: Message, subject: Subject| {
            let key = message.idempotency_key().into_owned();
            let origin = (message.origin_stream().to_owned(), message.origin_sequence());
            seen.add((subject.to_string(), message.subject().to_owned(), key, origin));
            std::future::ready(())
        }
    };
    // The second token of a subject with a wildcard before it.
    let subscribe = broker.broker().subscribe("parcels.*.{customer}.sent", "shipping", handler);
    let subscription = subscribe.key(Key::placeholder("customer")).partitions(3).await.unwrap();
    let ack = broker.broker().publish("parcels.eu.acme.sent", &7_u64).await.unwrap();
    seen.until_len(1).await;
    let (subject, of_message, key, origin) = seen.items().remove(0);
    assert_eq!((&*subject, &*of_message), ("parcels.eu.acme.sent", "parcels.eu.acme.sent"));
    assert_eq!(origin, ("PARCELS".to_owned(), ack.sequence));
    assert!(!key.is_empty());
    let health = broker.broker().health();
    let streams: Vec<_> = health.handlers.iter().map(|handler| handler.stream.as_str()).collect();
    assert_eq!(streams[1..], ["PARCELS-shipping"; 3]);
    subscription.unsubscribe().await.unwrap();
}

#[subscriber(subject = "bills.{customer}.due", queue = "first", key = "{customer}", partitions = 2, max_deliver = 1)]
async fn first(id: u64, subject: Subject, State(calls): State<Recorder<(String, u64)>>) -> HandlerResult {
    calls.add((format!("first {}", &*subject), id));
    let is_first = calls.items().iter().filter(|(call, _)| call.starts_with("first")).count() == 1;
    if is_first { Err(HandlerError::retry("no")) } else { Ok(()) }
}

#[subscriber(subject = "bills.{customer}.due", queue = "second", key = "{customer}", partitions = 3)]
async fn second(id: u64, subject: Subject, State(calls): State<Recorder<(String, u64)>>) {
    calls.add((format!("second {}", &*subject), id));
}

async fn dead_letter_is_replayed_for_the_failed_queue(transport: &Transport) {
    let calls = Recorder::<(String, u64)>::default();
    let builder = TestBroker::builder().include::<first>().include::<second>().state(calls.clone());
    let broker = transport.start(builder).await;
    broker.broker().publish("bills.acme.due", &7_u64).await.unwrap();
    calls.until_len(2).await;
    broker.idle().await;
    let letters = broker.dead_letters().await;
    let [letter] = &*letters else { panic!("{letters:?}") };
    let of = (letter.stream.as_str(), letter.stream_sequence, letter.subject.as_str());
    assert_eq!(of, ("BILLS", 1, "bills.acme.due"));
    assert_eq!(broker.published::<u64>("dlq.BILLS.first").await, [7]);
    broker.broker().dead_letters().replay(letter.sequence).await.unwrap();
    calls.until_len(3).await;
    // The other queue does not handle the replay, which its stream has as well.
    broker.broker().publish("bills.acme.due", &8_u64).await.unwrap();
    calls.until_len(5).await;
    let mut all = calls.items();
    all.sort();
    let call = |queue: &str, id| (format!("{queue} bills.acme.due"), id);
    assert_eq!(all, [call("first", 7), call("first", 7), call("first", 8), call("second", 7), call("second", 8)]);
}

async fn copies_begin_where_the_handler_does(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<crate::accept>()).await;
    broker.broker().publish("visits.acme.begun", &0_u64).await.unwrap();
    broker.broker().publish("visits.acme.begun", &1_u64).await.unwrap();
    let calls = Recorder::<u64>::default();
    let subscribe = async |queue: &str, deliver: Deliver| {
        let calls = calls.clone();
        let handler = move |id: u64| {
            calls.add(id);
            std::future::ready(())
        };
        let subscribe = broker.broker().subscribe("visits.{customer}.begun", queue, handler).key("{customer}");
        subscribe.partitions(2).deliver(deliver).await
    };
    let from_second = subscribe("second", Deliver::FromSequence(2)).await.unwrap();
    calls.until_len(1).await;
    assert_eq!(calls.items(), [1]);
    from_second.unsubscribe().await.unwrap();
    let parts = ["closure on visits.{customer}.begun", "deliver", "last message", "`all` or `new`"];
    assert_error(subscribe("last", Deliver::Last).await, ErrorKind::Config, &parts);
    let new = subscribe("new", Deliver::New).await.unwrap();
    broker.broker().publish("visits.acme.begun", &2_u64).await.unwrap();
    calls.until_len(2).await;
    assert_eq!(calls.items(), [1, 2]);
    new.unsubscribe().await.unwrap();
}

#[subscriber(subject = "work.{key}.done", queue = "scaled", key = "{key}", partitions = 4)]
async fn four_copies(id: u64, Path(key): Path<String>, State(calls): State<Recorder<(String, u64)>>) {
    sleep(ms(20)).await;
    calls.add((key, id));
}

#[subscriber(subject = "work.{key}.done", queue = "scaled", key = "{key}", partitions = 6)]
async fn six_copies(id: u64, Path(key): Path<String>, State(calls): State<Recorder<(String, u64)>>) {
    calls.add((key, id));
}

async fn work(broker: &TestBroker, ids: std::ops::Range<u64>) {
    for id in ids {
        broker.broker().publish(&format!("work.c{}.done", id % 30), &id).await.unwrap();
    }
}

/// Starts the handler with 4 partitions, and returns the broker of the version with 6.
async fn start_four(transport: &Transport) -> (TestBroker, Broker, Recorder<(String, u64)>) {
    let calls = Recorder::default();
    let broker = transport.start(TestBroker::builder().include::<four_copies>().state(calls.clone())).await;
    let next = broker.second_instance().await;
    next.include::<six_copies>();
    (broker, next, calls)
}

async fn number_of_partitions_is_changed_after_a_drain(transport: &Transport) {
    let (broker, next, calls) = start_four(transport).await;
    work(&broker, 0..100).await;
    let error = next.start_all().await.unwrap_err();
    assert_eq!(error.problems().len(), 1, "{error}");
    let parts = ["six_copies", "partitions", "`WORK-scaled` copies `work.*.done` in 6", "in 4 partitions", "`apply`"];
    assert_error(Err::<(), _>(error), ErrorKind::Config, &parts);
    let plan = next.plan().await.unwrap();
    let of_stream = plan.changes.iter().find(|it| it.stream.as_deref() == Some("WORK-scaled") && it.consumer.is_none());
    assert_eq!(of_stream.map(|it| it.action), Some(ChangeAction::Update), "{plan}");
    // Publishers need not stop.
    let publishing = async {
        for round in 0..10 {
            work(&broker, 100 + round * 10..110 + round * 10).await;
            sleep(ms(100)).await;
        }
    };
    let (applied, ()) = tokio::join!(next.apply(&plan), publishing);
    applied.unwrap();
    assert!(next.plan().await.unwrap().is_empty());
    let running = next.start_all().await.unwrap();
    work(&broker, 200..300).await;
    calls.until_len(300).await;
    assert_in_order(&calls, 0..300);
    assert_eq!(calls.items().len(), 300, "no message was copied twice");
    running.shutdown().await.unwrap();
}

async fn interrupted_change_of_the_number_is_continued(transport: &Transport) {
    let (broker, next, calls) = start_four(transport).await;
    work(&broker, 0..50).await;
    let mut plan = next.plan().await.unwrap();
    // As if the process had ended after the stream was changed.
    plan.changes.retain(|change| change.consumer.is_none());
    next.apply(&plan).await.unwrap_err();
    work(&broker, 50..100).await;
    assert!(next.start_all().await.is_err(), "the consumers have the former number");
    let rest = next.plan().await.unwrap();
    assert_eq!(rest.pending().count(), 6, "{rest}");
    next.apply(&rest).await.unwrap();
    let running = next.start_all().await.unwrap();
    work(&broker, 100..150).await;
    calls.until_len(150).await;
    assert_in_order(&calls, 0..150);
    running.shutdown().await.unwrap();
}

async fn stream_that_cannot_be_copied_is_refused(transport: &Transport) {
    let queue = stream::Config {
        name: "JOBS".to_owned(),
        subjects: vec!["jobs.>".to_owned()],
        retention: stream::RetentionPolicy::WorkQueue,
        ..Default::default()
    };
    let broker = transport.start(TestBroker::builder().include::<crate::accept>().stream(queue)).await;
    let handler = |id: u64| async move { println!("{id}") };
    let subscribe = |subject: &'static str, key: &str| {
        broker.broker().subscribe(subject, "copying", handler).key(key).partitions(4)
    };
    let parts = ["closure on jobs.{kind}", "partitions", "stream `JOBS`", "`retention` limits", "`{partition}`"];
    assert_error(subscribe("jobs.{kind}", "{kind}").await, ErrorKind::Config, &parts);
    let parts = ["`orders.created` has no place", "what publishes", "`key = \"{customer}\"`"];
    assert_error(subscribe("orders.created", "customer").await, ErrorKind::Config, &parts);
    let parts = ["more than one token of the subject `parcels.{path..}`"];
    assert_error(subscribe("parcels.{path..}", "{path}").await, ErrorKind::Config, &parts);
}

async fn stream_of_someone_else_is_not_taken_over(transport: &Transport) {
    let theirs = stream::Config {
        name: "WORK-scaled".to_owned(),
        subjects: vec!["jobs.>".to_owned()],
        retention: stream::RetentionPolicy::WorkQueue,
        ..Default::default()
    };
    let calls = Recorder::<(String, u64)>::default();
    let builder = TestBroker::builder().include::<crate::accept>().stream(theirs.clone()).state(calls);
    let broker = transport.start(builder).await;
    let next = broker.second_instance().await;
    next.include::<four_copies>();
    let parts =
        ["four_copies", "partitions", "needs the stream `WORK-scaled`", "has something else", "another `queue`"];
    assert_error(next.start_all().await, ErrorKind::Config, &parts);
    let plan = next.plan().await.unwrap();
    let blocked = plan.changes.iter().filter(|change| change.action == ChangeAction::Blocked).count();
    assert_eq!(blocked, 1, "{plan}");
}

async fn repeated_message_id_is_copied(transport: &Transport) {
    let config = stream::Config {
        name: "WORK".to_owned(),
        subjects: vec!["work.>".to_owned()],
        duplicate_window: ms(200),
        ..Default::default()
    };
    let broker = transport.start(TestBroker::builder().include::<crate::accept>().stream(config)).await;
    let calls = Recorder::<u64>::default();
    let handler = calls.handler();
    let subscribe = broker.broker().subscribe("work.{key}.done", "late", handler).key("{key}");
    let subscription = subscribe.partitions(2).await.unwrap();
    for id in 1..4_u64 {
        broker.broker().publish_message("work.acme.done", &id).message_id("same").await.unwrap();
        calls.until_len(id as usize).await;
        sleep(ms(400)).await;
    }
    assert_eq!(calls.items(), [1, 2, 3]);
    subscription.unsubscribe().await.unwrap();
}

async fn another_process_pauses_the_copies(transport: &Transport) {
    let (broker, _, calls) = start_four(transport).await;
    work(&broker, 0..10).await;
    calls.until_len(10).await;
    let other = broker.second_instance().await;
    let paused = other.include::<four_copies>().pause("four_copies", secs(600)).await.unwrap();
    assert_eq!((&*paused.stream, &*paused.queue, paused.changed), ("WORK-scaled", "scaled", true));
    work(&broker, 10..20).await;
    assert!(other.resume("four_copies").await.unwrap().changed);
    calls.until_len(20).await;
}

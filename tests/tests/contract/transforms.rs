//! Handlers with `partitions` whose number a subject transform of the stream adds.

use jetstream_handlers::prelude::*;
use jetstream_handlers::testing::TestBroker;
use jetstream_handlers::{ChangeAction, ErrorKind, Manage, partition, stream};
use jetstream_handlers_tests::{Recorder, assert_error};

use crate::Transport;

contract![
    stream_is_created_with_the_transform,
    transform_is_a_change_of_a_declared_stream,
    stream_that_is_not_declared_is_not_changed,
    other_transform_of_a_declared_stream_is_refused,
];

type Calls = Recorder<(String, u64)>;

#[subscriber(subject = "{partition}.trips.{rider}.begun", queue = "fares", key = "{rider}", partitions = 4)]
async fn fare(id: u64, subject: Subject, State(calls): State<Calls>) {
    calls.add((subject.to_string(), id));
}

#[subscriber(subject = "{partition}.trips.{rider}.begun", queue = "fares", key = "{rider}", partitions = 6)]
async fn fare_in_six(_id: u64) {}

fn trips(transform: Option<(&str, &str)>) -> stream::Config {
    let transform = transform.map(|(source, destination)| stream::SubjectTransform {
        source: source.to_owned(),
        destination: destination.to_owned(),
    });
    stream::Config {
        name: "TRIPS".to_owned(),
        subjects: vec!["trips.>".to_owned()],
        subject_transform: transform,
        ..Default::default()
    }
}

async fn publish(broker: &TestBroker, ids: std::ops::Range<u64>) {
    for id in ids {
        broker.broker().publish(&format!("trips.r{}.begun", id % 10), &id).await.unwrap();
    }
}

async fn assert_handled(calls: &Calls, ids: std::ops::Range<u64>) {
    calls.until_len(ids.end as usize - ids.start as usize).await;
    for rider in 0..10 {
        let subject = format!("{}.trips.r{rider}.begun", partition(format!("r{rider}"), 4));
        let of_rider = calls.items().into_iter().filter(|(on, _)| *on == subject).map(|(_, id)| id);
        let expected: Vec<_> = ids.clone().filter(|id| id % 10 == rider).collect();
        assert_eq!(of_rider.collect::<Vec<_>>(), expected, "{subject}");
    }
}

async fn stream_is_created_with_the_transform(transport: &Transport) {
    let calls = Calls::default();
    let broker = transport.start(TestBroker::builder().include::<fare>().state(calls.clone())).await;
    publish(&broker, 0..50).await;
    assert_handled(&calls, 0..50).await;
    let next = broker.second_instance().await;
    next.include::<fare_in_six>();
    let parts = ["fare_in_six", "partitions", "is 6", "transform of stream `TRIPS` has 4"];
    assert_error(next.start_all().await, ErrorKind::Config, &parts);
}

async fn transform_is_a_change_of_a_declared_stream(transport: &Transport) {
    let calls = Calls::default();
    let builder = TestBroker::builder().include::<crate::accept>().stream(trips(None)).state(calls.clone());
    let broker = transport.start(builder).await;
    let next = broker.second_instance().await;
    next.include::<fare>();
    let parts = ["stream `TRIPS`", "subject_transform", "{{partition(4,1)}}.trips.{{wildcard(1)}}.begun", "`apply`"];
    assert_error(next.start_all().await, ErrorKind::StreamMismatch, &parts);
    let plan = next.plan().await.unwrap();
    let of_stream = plan.changes.iter().find(|it| it.stream.as_deref() == Some("TRIPS") && it.consumer.is_none());
    assert_eq!(of_stream.map(|change| change.action), Some(ChangeAction::Update), "{plan}");
    next.apply(&plan).await.unwrap();
    assert!(next.plan().await.unwrap().is_empty());
    let running = next.start_all().await.unwrap();
    publish(&broker, 0..50).await;
    assert_handled(&calls, 0..50).await;
    // A start without this handler leaves the transform as it is.
    let counting = broker.broker().subscribe("*.trips.*.begun", "counting", |id: u64| async move { println!("{id}") });
    let counting = counting.stream("TRIPS").manage(Manage::Update).await.unwrap();
    publish(&broker, 50..100).await;
    assert_handled(&calls, 0..100).await;
    counting.unsubscribe().await.unwrap();
    running.shutdown().await.unwrap();
}

async fn stream_that_is_not_declared_is_not_changed(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<crate::accept>()).await;
    broker.broker().publish("trips.r1.begun", &1_u64).await.unwrap();
    let handler = |id: u64| async move { println!("{id}") };
    let subscribe = broker.broker().subscribe("{partition}.trips.{rider}.begun", "fares", handler);
    let parts = ["partitions", "needs that stream `TRIPS` stores `trips.*.begun`", "`Builder::stream`", "copies"];
    assert_error(subscribe.key("{rider}").partitions(4).manage(Manage::Update).await, ErrorKind::Config, &parts);
}

async fn other_transform_of_a_declared_stream_is_refused(transport: &Transport) {
    let config = trips(Some(("trips.*.ended", "ended.{{wildcard(1)}}")));
    let broker = transport.start(TestBroker::builder().include::<crate::accept>().stream(config)).await;
    let next = broker.second_instance().await;
    next.include::<fare>();
    let error = next.start_all().await.unwrap_err();
    let problem = error.problems().iter().map(ToString::to_string).find(|it| it.contains("partitions")).unwrap();
    for part in ["fare", "declared with another transform, of `trips.*.ended`", "remove `{partition}`"] {
        assert!(problem.contains(part), "{problem}");
    }
}

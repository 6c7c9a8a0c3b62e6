//! Members of elastic groups, in the format that other languages share.

use std::collections::BTreeMap;

use jetstream_handlers::pcgroups::{Group, Membership};
use jetstream_handlers::prelude::*;
use jetstream_handlers::testing::TestBroker;
use jetstream_handlers::{ErrorKind, HandlerState};
use jetstream_handlers_tests::{Recorder, SOON, assert_error, eventually, ms};
use tokio::time::sleep;

use crate::Transport;

contract![
    members_share_the_messages_in_order,
    member_follows_the_document,
    second_process_of_a_member_takes_over,
    dead_letter_of_a_member_names_the_original,
    settings_that_a_member_cannot_have_are_refused,
];

type Calls = Recorder<(&'static str, String, u64)>;

/// Starts a broker with a group of 12 partitions on the stream `ORDERS`, which has these members.
async fn start(transport: &Transport, members: &[&str]) -> (TestBroker, Group) {
    let broker = transport.start(TestBroker::builder().include::<crate::accept>()).await;
    let group = broker.broker().pcgroup("ORDERS", "billing");
    group.create(12, "orders.*.paid", &[1]).await.unwrap();
    group.create(12, "orders.*.paid", &[1]).await.unwrap();
    group.add_members(members).await.unwrap();
    (broker, group)
}

async fn join(broker: &Broker, member: &'static str, calls: &Calls) -> Membership {
    let calls = calls.clone();
    let handler = move |id: u64, Path(customer): Path<String>| {
        let calls = calls.clone();
        async move {
            sleep(ms(id % 3)).await;
            calls.add((member, customer, id));
        }
    };
    let subscribe = broker.subscribe("orders.{customer}.paid", "billing", handler).stream("ORDERS").key("{customer}");
    subscribe.name(member).concurrency(4).join(member).await.unwrap()
}

async fn publish(broker: &TestBroker, ids: std::ops::Range<u64>) {
    for id in ids {
        broker.broker().publish(&format!("orders.c{}.paid", id % 30), &id).await.unwrap();
    }
}

async fn until_partitions(membership: &Membership, count: usize) {
    eventually("the member has its partitions", SOON, async || (membership.partitions().len() == count).then_some(()))
        .await;
}

fn assert_in_order(calls: &Calls, ids: std::ops::Range<u64>) {
    let mut handled = BTreeMap::<String, Vec<u64>>::new();
    for (_, customer, id) in calls.items() {
        handled.entry(customer).or_default().push(id);
    }
    let mut expected = BTreeMap::<String, Vec<u64>>::new();
    ids.for_each(|id| expected.entry(format!("c{}", id % 30)).or_default().push(id));
    assert_eq!(handled, expected);
}

async fn members_share_the_messages_in_order(transport: &Transport) {
    let (broker, group) = start(transport, &["m1", "m2"]).await;
    let other = broker.second_instance().await;
    let calls = Calls::default();
    let (first, second) = (join(broker.broker(), "m1", &calls).await, join(&other, "m2", &calls).await);
    assert_eq!(first.partitions(), (0..6).collect::<Vec<_>>());
    assert_eq!(second.partitions(), (6..12).collect::<Vec<_>>());
    publish(&broker, 0..300).await;
    calls.until_len(300).await;
    let by_member = |member: &str| calls.items().iter().filter(|(by, ..)| *by == member).count();
    assert!(by_member("m1") > 50 && by_member("m2") > 50);
    // The partitions move while messages are published.
    group.remove_members(&["m2", "nobody"]).await.unwrap();
    publish(&broker, 300..600).await;
    until_partitions(&first, 12).await;
    assert!(second.partitions().is_empty());
    calls.until_len(600).await;
    group.add_members(&["m2", "m3"]).await.unwrap();
    publish(&broker, 600..900).await;
    let third = join(&other, "m3", &calls).await;
    for member in [&first, &second, &third] {
        until_partitions(member, 4).await;
    }
    calls.until_len(900).await;
    assert_in_order(&calls, 0..900);
    for member in [first, second, third] {
        member.leave().await.unwrap();
    }
}

async fn member_follows_the_document(transport: &Transport) {
    let (broker, group) = start(transport, &[]).await;
    let calls = Calls::default();
    let member = join(broker.broker(), "m1", &calls).await;
    assert!(member.partitions().is_empty());
    group.map_members(&[("m1", &[1, 3]), ("m2", &[0])]).await.unwrap();
    until_partitions(&member, 2).await;
    assert_eq!(member.partitions(), [1, 3]);
    assert_error(group.add_members(&["m4"]).await, ErrorKind::Config, &["`billing` on stream `ORDERS`", "map_members"]);
    let twice = group.map_members(&[("m1", &[1, 3]), ("m2", &[3])]).await;
    assert_error(twice, ErrorKind::Config, &["partition 3 twice"]);
    if let Transport::Live(server) = transport {
        // What is no document changes nothing.
        let client = server.client().await;
        client.request("$KV.elastic-consumer-groups.ORDERS.billing", r#"{"max_members":0}"#.into()).await.unwrap();
        sleep(ms(1500)).await;
        assert_eq!(member.partitions(), [1, 3]);
        let filters = r#""partitioning_filters":[{"filter":"orders.*.paid","partitioning_wildcards":[1]}]"#;
        let document = format!(r#"{{"max_members":12,{filters},"members":["m1"]}}"#);
        client.request("$KV.elastic-consumer-groups.ORDERS.billing", document.into()).await.unwrap();
    } else {
        group.map_members(&[]).await.unwrap();
        group.add_members(&["m1"]).await.unwrap();
    }
    until_partitions(&member, 12).await;
    publish(&broker, 0..30).await;
    calls.until_len(30).await;
    member.leave().await.unwrap();
}

async fn second_process_of_a_member_takes_over(transport: &Transport) {
    let (broker, _) = start(transport, &["m1"]).await;
    let other = broker.second_instance().await;
    let calls = Calls::default();
    let (first, second) = (join(broker.broker(), "m1", &calls).await, join(&other, "m1", &calls).await);
    publish(&broker, 0..100).await;
    calls.until_len(100).await;
    first.leave().await.unwrap();
    publish(&broker, 100..200).await;
    calls.until_len(200).await;
    assert_in_order(&calls, 0..200);
    other.disconnect().await.unwrap();
    second.leave().await.unwrap();
}

async fn dead_letter_of_a_member_names_the_original(transport: &Transport) {
    let (broker, _) = start(transport, &["m1"]).await;
    let handler = |_: u64| std::future::ready(Err::<(), _>(HandlerError::retry("no")));
    let subscribe = broker.broker().subscribe("orders.{customer}.paid", "billing", handler).stream("ORDERS");
    let member = subscribe.key("{customer}").max_deliver(1).join("m1").await.unwrap();
    let health = broker.broker().health();
    let states: Vec<_> = health.handlers.iter().map(|it| (it.stream.as_str(), &*it.queue)).collect();
    assert!(states.contains(&("ORDERS-billing", "m1")), "{states:?}");
    assert!(broker.broker().handlers().iter().all(|it| it.state != HandlerState::Failed));
    let ack = broker.broker().publish("orders.acme.paid", &7_u64).await.unwrap();
    let letter = eventually("the message is dead-lettered", SOON, async || broker.dead_letters().await.pop()).await;
    let of = (letter.stream.as_str(), letter.stream_sequence, letter.subject.as_str());
    assert_eq!(of, ("ORDERS", ack.sequence, "orders.acme.paid"));
    assert_eq!(broker.published::<u64>("dlq.ORDERS.billing").await, [7]);
    member.leave().await.unwrap();
}

async fn settings_that_a_member_cannot_have_are_refused(transport: &Transport) {
    let (broker, group) = start(transport, &["m1"]).await;
    let broker = broker.broker();
    let subscribe = || broker.subscribe("orders.{customer}.paid", "billing", |id: u64| async move { println!("{id}") });
    let parts = ["closure on orders.{customer}.paid", "stream", "is not set"];
    assert_error(subscribe().key("{customer}").join("m1").await, ErrorKind::Config, &parts);
    assert_error(subscribe().stream("ORDERS").join("m1").await, ErrorKind::Config, &["key", "is not set"]);
    let subscribe = || subscribe().stream("ORDERS").key("{customer}");
    assert_error(subscribe().partitions(12).join("m1").await, ErrorKind::Config, &["partitions", "of the group"]);
    assert_error(subscribe().join("m.1").await, ErrorKind::Config, &["member `m.1`"]);
    let parts = ["`other` on stream `ORDERS` does not exist", "Group::create"];
    let of_other = broker.subscribe("orders.{customer}.paid", "other", |id: u64| async move { println!("{id}") });
    assert_error(of_other.stream("ORDERS").key("{customer}").join("m1").await, ErrorKind::Config, &parts);
    assert_error(subscribe().concurrency(0).join("m1").await, ErrorKind::Config, &["concurrency"]);
    let parts = ["`billing` on stream `ORDERS`", "other settings"];
    assert_error(group.create(6, "orders.*.paid", &[1]).await, ErrorKind::StreamMismatch, &parts);
    let parts = ["wildcard 2", "has 1"];
    assert_error(group.create(12, "orders.*.paid", &[2]).await, ErrorKind::Config, &parts);
    let nowhere = broker.pcgroup("NOWHERE", "billing");
    assert_error(nowhere.create(1, ">", &[]).await, ErrorKind::StreamNotFound, &["`NOWHERE` does not exist"]);
    assert_error(nowhere.add_members(&["a b"]).await, ErrorKind::Config, &["member `a b`"]);
}

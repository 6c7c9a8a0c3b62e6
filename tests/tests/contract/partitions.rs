//! Handlers with `partitions`.

use std::collections::BTreeMap;

use jetstream_handlers::prelude::*;
use jetstream_handlers::testing::TestBroker;
use jetstream_handlers::{ChangeAction, ErrorKind, Health, Position, partition};
use jetstream_handlers_tests::{Recorder, SOON, assert_error, eventually, ms};
use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use crate::Transport;

contract![
    replicas_share_the_partitions,
    messages_of_a_key_are_handled_in_order_over_replicas,
    retry_delays_only_its_key,
    partition_whose_calls_do_not_end_is_kept,
    number_of_partitions_is_changed_after_a_drain,
    interrupted_change_of_the_number_is_continued,
    every_partition_is_paused_and_reset,
    event_with_another_number_is_refused,
];

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Event)]
#[event(subject = "orders.{partition}.created", key = "customer", partitions = 12)]
struct Order {
    customer: String,
    id: u64,
}

#[subscriber(event = Order, queue = "billing", key = "customer", partitions = 12, concurrency = 4)]
async fn bill(order: Order, State(calls): State<Recorder<Order>>) {
    sleep(ms(order.id % 3)).await;
    calls.add(order);
}

async fn start(transport: &Transport, replicas: usize) -> (TestBroker, Recorder<Order>) {
    let calls = Recorder::default();
    let builder = TestBroker::builder().include::<bill>().state(calls.clone()).replicas(replicas);
    (transport.start(builder).await, calls)
}

fn orders(ids: std::ops::Range<u64>) -> impl Iterator<Item = Order> {
    ids.map(|id| Order { customer: format!("c{}", id % 30), id })
}

/// Returns the partitions that each replica receives.
fn active(replicas: &[Health]) -> Vec<Vec<u32>> {
    let of = |health: &Health| {
        let active = health.handlers.iter().filter(|handler| handler.active == Some(true));
        active.filter_map(|handler| handler.partition).collect()
    };
    replicas.iter().map(of).collect()
}

/// Waits until all partitions are shared evenly, while messages arrive for all of them.
async fn until_even(broker: &TestBroker, replicas: usize) {
    eventually("the partitions are shared evenly", SOON, async || {
        // So many customers are in all partitions.
        for customer in 0..100 {
            broker.broker().send(&Order { customer: format!("c{customer}"), id: 0 }).await.unwrap();
        }
        broker.idle().await;
        let active = active(&broker.replicas());
        let mut all: Vec<u32> = active.concat();
        all.sort_unstable();
        let sizes: Vec<_> = active.iter().map(Vec::len).collect();
        let is_even = sizes.iter().max().unwrap() - sizes.iter().min().unwrap() <= 1;
        (active.len() == replicas && is_even && all == (0..12).collect::<Vec<_>>()).then_some(())
    })
    .await;
}

async fn replicas_share_the_partitions(transport: &Transport) {
    let (mut broker, _) = start(transport, 3).await;
    until_even(&broker, 3).await;
    broker.add_replica().await;
    broker.add_replica().await;
    until_even(&broker, 5).await;
    for left in [4, 3, 2, 1] {
        assert!(broker.remove_replica().await);
        until_even(&broker, left).await;
    }
    assert!(!broker.remove_replica().await);
}

async fn messages_of_a_key_are_handled_in_order_over_replicas(transport: &Transport) {
    let (mut broker, calls) = start(transport, 3).await;
    let mut expected = BTreeMap::<String, Vec<u64>>::new();
    for (round, ids) in [0..200, 200..400, 400..600, 600..800].into_iter().enumerate() {
        for order in orders(ids) {
            expected.entry(order.customer.clone()).or_default().push(order.id);
            broker.broker().send(&order).await.unwrap();
        }
        if round == 1 {
            broker.remove_replica().await;
        } else {
            broker.add_replica().await;
        }
    }
    broker.idle().await;
    let mut handled = BTreeMap::<String, Vec<u64>>::new();
    for order in calls.items() {
        let of_customer = handled.entry(order.customer).or_default();
        if !of_customer.contains(&order.id) {
            of_customer.push(order.id);
        }
    }
    assert_eq!(handled, expected);
}

/// The first customer of each of so many partitions.
fn customers(partitions: u32) -> Vec<String> {
    let of = |number| (0..).map(|n| format!("c{n}")).find(|customer| partition(customer, partitions) == number);
    (0..partitions).filter_map(of).collect()
}

async fn retry_delays_only_its_key(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<crate::accept>()).await;
    let calls = Recorder::<u64>::default();
    let handler = {
        let calls = calls.clone();
        move |order: Order, info: Info| {
            let fails = order.id == 1 && info.delivered() == 1;
            if !fails {
                calls.add(order.id);
            }
            std::future::ready(if fails { Err(HandlerError::retry("once")) } else { Ok(()) })
        }
    };
    let subscribe = broker.broker().subscribe("orders.{partition}.created", "shipping", handler);
    let _subscription = subscribe.key("customer").partitions(12).backoff(&[ms(300)]).await.unwrap();
    let same =
        (0..).map(|n| format!("c{n}")).filter(|customer| partition(customer, 12) == 0).take(2).collect::<Vec<_>>();
    for (customer, id) in [(&same[0], 1), (&same[0], 2), (&same[1], 3), (&customers(12)[1], 4)] {
        broker.broker().send(&Order { customer: customer.clone(), id }).await.unwrap();
    }
    calls.until_len(4).await;
    let mut at_once = calls.items()[..2].to_vec();
    at_once.sort_unstable();
    assert_eq!((at_once, &calls.items()[2..]), (vec![3, 4], &[1, 2][..]));
}

async fn partition_whose_calls_do_not_end_is_kept(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<crate::accept>()).await;
    let (begun, ended) = (Recorder::<u64>::default(), Recorder::<(u64, u64)>::default());
    let start = async |broker: &Broker| {
        let (begun, ended) = (begun.clone(), ended.clone());
        let handler = move |order: Order, info: Info| {
            let (begun, ended) = (begun.clone(), ended.clone());
            async move {
                begun.add(order.id);
                sleep(if order.id == 1 { ms(8000) } else { ms(1) }).await;
                ended.add((order.id, info.delivered()));
            }
        };
        let subscribe = broker.subscribe("slow.{partition}.done", "slow", handler).key("customer").partitions(2);
        subscribe.concurrency(4).await.unwrap()
    };
    let first = start(broker.broker()).await;
    let customers = customers(2);
    let send = async |customer: &str, id: u64| {
        let subject = format!("slow.{}.done", partition(customer, 2));
        broker.broker().publish(&subject, &Order { customer: customer.to_owned(), id }).await.unwrap();
    };
    // Each of two partitions has a call that takes longer than a hand-over waits.
    for customer in &customers {
        send(customer, 1).await;
    }
    begun.until_len(2).await;
    let second = broker.second_instance().await;
    let _second = start(&second).await;
    for customer in &customers {
        send(customer, 2).await;
    }
    ended.until_len(4).await;
    // No call was repeated, and the second message of each key waited for the first.
    let mut all = ended.items();
    assert!(all.iter().all(|(id, delivered)| *id == 2 || *delivered == 1), "{all:?}");
    all.truncate(2);
    assert!(all.iter().filter(|(id, _)| *id == 1).count() >= 1, "{all:?}");
    first.unsubscribe().await.unwrap();
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Work {
    key: String,
    id: u64,
}

#[subscriber(subject = "work.{partition}.done", queue = "scaled", key = "key", partitions = 4)]
async fn in_four(work: Work, State(calls): State<Recorder<Work>>) {
    sleep(ms(20)).await;
    calls.add(work);
}

#[subscriber(subject = "work.{partition}.done", queue = "scaled", key = "key", partitions = 6)]
async fn in_six(work: Work, State(calls): State<Recorder<Work>>) {
    calls.add(work);
}

async fn work(broker: &TestBroker, ids: std::ops::Range<u64>, partitions: u32) {
    for id in ids {
        let key = format!("k{}", id % 10);
        let subject = format!("work.{}.done", partition(&key, partitions));
        broker.broker().publish(&subject, &Work { key, id }).await.unwrap();
    }
}

/// Starts the handler with 4 partitions, and returns the broker of the version with 6.
async fn start_four(transport: &Transport) -> (TestBroker, Broker, Recorder<Work>) {
    let calls = Recorder::default();
    let broker = transport.start(TestBroker::builder().include::<in_four>().state(calls.clone())).await;
    let next = broker.second_instance().await;
    next.include::<in_six>();
    (broker, next, calls)
}

async fn number_of_partitions_is_changed_after_a_drain(transport: &Transport) {
    let (broker, next, calls) = start_four(transport).await;
    work(&broker, 0..100, 4).await;
    let parts = ["in_six", "consumer `scaled-0`", "partitions", "4", "6", "`plan` and `apply`"];
    let error = next.start_all().await.unwrap_err();
    assert_eq!(error.problems().len(), 1, "{error}");
    assert_error(Err::<(), _>(error), ErrorKind::ConsumerMismatch, &parts);

    let plan = next.plan().await.unwrap();
    let count = |action| plan.changes.iter().filter(|change| change.action == action).count();
    assert_eq!((count(ChangeAction::Update), count(ChangeAction::Create)), (4, 2), "{plan}");
    assert!(plan.to_string().contains("partitions: 4 -> 6 (careful: a key may be in another partition"), "{plan}");
    assert!(calls.items().len() < 100);
    next.apply(&plan).await.unwrap();
    assert_eq!(calls.items().len(), 100, "all of them were worked off before");

    let running = next.start_all().await.unwrap();
    work(&broker, 100..200, 6).await;
    calls.until_len(200).await;
    for key in 0..10 {
        let ids: Vec<_> = calls.items().into_iter().filter(|work| work.key == format!("k{key}")).collect();
        assert!(ids.is_sorted_by_key(|work| work.id), "{ids:?}");
    }
    running.shutdown().await.unwrap();
}

async fn interrupted_change_of_the_number_is_continued(transport: &Transport) {
    let (broker, next, calls) = start_four(transport).await;
    work(&broker, 0..20, 4).await;
    let mut plan = next.plan().await.unwrap();
    let keep = |change: &jetstream_handlers::Change| change.consumer.as_deref().is_some_and(|it| it <= "scaled-1");
    plan.changes.retain(keep);
    // As if the process had ended in the middle.
    let error = next.apply(&plan).await.unwrap_err();
    assert!(error.to_string().contains("this program needs others"), "{error}");
    assert!(next.start_all().await.is_err(), "some partitions have the former number");
    let rest = next.plan().await.unwrap();
    assert_eq!(rest.pending().count(), 4, "{rest}");
    next.apply(&rest).await.unwrap();
    let running = next.start_all().await.unwrap();
    work(&broker, 20..40, 6).await;
    calls.until_len(40).await;
    running.shutdown().await.unwrap();

    // Fewer ones: those that are left are deleted only by `prune`.
    let former = broker.second_instance().await;
    former.include::<in_four>();
    let plan = former.plan().await.unwrap();
    let orphans = plan.changes.iter().filter(|change| change.action == ChangeAction::Orphan);
    let orphans: Vec<_> = orphans.filter_map(|change| change.consumer.as_deref()).collect();
    assert_eq!(orphans, ["scaled-4", "scaled-5"], "{plan}");
    former.apply(&plan.prune()).await.unwrap();
    assert!(former.plan().await.unwrap().is_empty());
}

async fn every_partition_is_paused_and_reset(transport: &Transport) {
    let (broker, _, calls) = start_four(transport).await;
    work(&broker, 0..20, 4).await;
    calls.until_len(20).await;
    broker.idle().await;
    let paused = broker.broker().pause("in_four", secs(600)).await.unwrap();
    assert_eq!((&*paused.queue, paused.changed), ("scaled", true));
    let statuses = broker.broker().include::<in_four>().status().await.unwrap();
    assert_eq!(statuses.len(), 4);
    assert!(statuses.iter().all(|status| status.paused_until.is_some()), "{statuses:?}");
    assert!(broker.broker().resume("in_four").await.unwrap().changed);
    assert!(!broker.broker().resume("in_four").await.unwrap().changed);
    let reset = broker.broker().reset("in_four", Position::Start).await.unwrap();
    assert_eq!(reset.next_sequence, Some(1));
    calls.until_len(40).await;
    let handlers = broker.broker().handlers();
    let listed: Vec<_> = handlers.iter().filter(|it| it.name.ends_with("in_four")).collect();
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert_eq!((&*listed[0].subjects[0], listed[0].partitions), ("work.{partition}.done", Some(4)));
}

async fn event_with_another_number_is_refused(transport: &Transport) {
    let broker = transport.start(TestBroker::builder().include::<crate::accept>()).await;
    let handler = |order: Order| async move { println!("{order:?}") };
    let subscribe = broker.broker().subscribe("orders.{partition}.created", "eight", handler).key("customer");
    let parts = ["closure on orders.{partition}.created", "partitions", "is 8", "partitions::Order", "12"];
    assert_error(subscribe.partitions(8).await, ErrorKind::Config, &parts);
}

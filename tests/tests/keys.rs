//! The order of the messages of a key, through lost connections, killed instances, and replaced consumers.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use jetstream_handlers::prelude::*;
use jetstream_handlers::{Info, Reason, Subscription};
use jetstream_handlers_tests::{
    Program, Proxy, RawClient, Recorder, SOON, Server, connect, dead_letters, eventually, ms, publish, stream_config,
};
use serde::{Deserialize, Serialize};
use tokio::time::sleep;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Order {
    customer: u64,
    id: u64,
}

fn orders(ids: std::ops::Range<u64>, customers: u64) -> impl Iterator<Item = Order> {
    ids.map(move |id| Order { customer: id % customers, id })
}

/// Checks that the first successes of each customer's messages are in the order of the stream, and that none is missing.
fn check_order(handled: &[Order], expected: impl IntoIterator<Item = u64>) {
    let expected: BTreeSet<u64> = expected.into_iter().collect();
    let ids: BTreeSet<u64> = handled.iter().map(|order| order.id).collect();
    let missing: Vec<_> = expected.difference(&ids).collect();
    assert!(missing.is_empty(), "not handled: {missing:?}");
    let mut last = BTreeMap::<u64, u64>::new();
    let mut known = BTreeSet::new();
    for (position, order) in handled.iter().enumerate() {
        if known.insert(order.id)
            && let Some(before) = last.insert(order.customer, order.id)
        {
            let of_customer: Vec<_> =
                handled[..=position].iter().filter(|other| other.customer == order.customer).collect();
            assert!(before < order.id, "customer {} was handled as {of_customer:?}", order.customer);
        }
    }
}

/// Returns the times at which a process has handled orders.
fn handled_by(program: &Program) -> Vec<(u128, Order)> {
    let handled = |line: String| {
        let numbers: Vec<u128> = line.split(' ').map(|number| number.parse().unwrap()).collect();
        (numbers[0], Order { customer: numbers[1] as u64, id: numbers[2] as u64 })
    };
    program.lines("handled ").into_iter().map(handled).collect()
}

/// Waits until so many orders were handled, as long as others are handled.
async fn until_handled(programs: &[Program], killed: &[Program], count: usize) {
    let (mut before, mut since) = (0, Instant::now());
    loop {
        let handled = programs.iter().chain(killed).flat_map(handled_by);
        let ids: BTreeSet<u64> = handled.map(|(_, order)| order.id).collect();
        if ids.len() >= count {
            return;
        }
        if ids.len() > before {
            (before, since) = (ids.len(), Instant::now());
        }
        if since.elapsed() > SOON {
            let missing: Vec<_> = (0..10_000).filter(|id| !ids.contains(id)).take(10).collect();
            panic!(
                "{} of {count} were handled, no other one for {SOON:?}; the first others are {missing:?}",
                ids.len()
            );
        }
        sleep(ms(20)).await;
    }
}

async fn subscribe(broker: &Broker, handled: &Recorder<Order>, each: Duration) -> Subscription {
    let handled = handled.clone();
    let handler = move |order: Order, info: Info| {
        let handled = handled.clone();
        async move {
            sleep(each).await;
            // One message in twenty fails at its first attempt.
            if order.id.is_multiple_of(20) && info.delivered() == 1 {
                return Err(HandlerError::retry("the first attempt fails"));
            }
            handled.add(order);
            Ok(())
        }
    };
    let subscribe = broker.subscribe("work.keyed", "keyed", handler).name("keyed").key("customer");
    subscribe.concurrency(16).backoff(&[ms(50)]).await.unwrap()
}

async fn all_acked(server: &Server) {
    server.all_acked("WORK", "keyed").await;
}

#[tokio::test]
async fn kills_of_the_active_process_keep_the_order_of_every_key() {
    const LAST: u64 = 10_000;
    let server = Server::start().await;
    let url = server.url();
    let start = || Program::start(env!("CARGO_BIN_EXE_keyed_worker"), &[], &[("NATS_URL", &url)]);
    let broker = connect(&server).await;
    server.jetstream().await.create_stream(stream_config("WORK", &["work.>"])).await.unwrap();
    let mut programs = vec![start(), start()];
    for program in &mut programs {
        program.until("started").await;
    }
    publish(&broker, "work.keyed", orders(0..LAST, 100)).await;
    let mut killed = Vec::new();
    for kill_at in [1500, 4000, 7000] {
        until_handled(&programs, &killed, kill_at).await;
        // The one that has handled the last message is active, and the other takes over.
        let last = |program: &Program| handled_by(program).last().map(|(at, _)| *at);
        let active = (0..programs.len()).max_by_key(|index| last(&programs[*index])).unwrap();
        let mut program = programs.remove(active);
        program.signal("KILL");
        program.ended().await;
        killed.push(program);
        programs.push(start());
    }
    until_handled(&programs, &killed, LAST as usize).await;
    let mut handled: Vec<_> = programs.iter().chain(&killed).flat_map(handled_by).collect();
    handled.sort_unstable();
    let handled: Vec<_> = handled.into_iter().map(|(_, order)| order).collect();
    println!("{} handled again", handled.len() as u64 - LAST);
    check_order(&handled, 0..LAST);
    assert!(handled.len() as u64 <= LAST + 3 * 64, "only what was in flight is handled again: {}", handled.len());
    all_acked(&server).await;
}

#[tokio::test]
async fn lost_connections_keep_the_order_of_every_key() {
    const LAST: u64 = 4000;
    let server = Server::start().await;
    let proxy = Proxy::start(server.address()).await;
    let (publisher, broker) = (connect(&server).await, connect(&proxy).await);
    let handled = Recorder::<Order>::default();
    let _subscription = subscribe(&broker, &handled, ms(2)).await;
    let publishing = publish(&publisher, "work.keyed", orders(0..LAST, 50));
    let cutting = async {
        for _ in 0..8 {
            sleep(ms(150)).await;
            proxy.cut();
        }
    };
    futures::join!(publishing, cutting);
    handled.until_distinct(LAST as usize).await;
    check_order(&handled.items(), 0..LAST);
    all_acked(&server).await;
}

#[tokio::test]
async fn restarted_server_keeps_the_order_of_every_key() {
    const LAST: u64 = 1500;
    let mut server = Server::start().await;
    let broker = connect(&server).await;
    let handled = Recorder::<Order>::default();
    let _subscription = subscribe(&broker, &handled, ms(5)).await;
    publish(&broker, "work.keyed", orders(0..LAST, 30)).await;
    handled.until_len(200).await;
    server.restart().await;
    handled.until_distinct(LAST as usize).await;
    check_order(&handled.items(), 0..LAST);
    all_acked(&server).await;
}

#[tokio::test]
async fn frozen_process_that_wakes_handles_nothing_out_of_order() {
    const LAST: u64 = 3000;
    let server = Server::start().await;
    let broker = connect(&server).await;
    server.jetstream().await.create_stream(stream_config("WORK", &["work.>"])).await.unwrap();
    let mut active = Program::start(env!("CARGO_BIN_EXE_keyed_worker"), &[], &[("NATS_URL", &server.url())]);
    active.until("started").await;
    publish(&broker, "work.keyed", orders(0..LAST, 20)).await;
    active.until("handled ").await;
    let handled = Recorder::<Order>::default();
    let _standby = subscribe(&broker, &handled, ms(1)).await;
    active.signal("STOP");
    eventually("the standby is active", SOON, async || (!handled.is_empty()).then_some(())).await;
    active.signal("CONT");
    let by_active = || handled_by(&active).into_iter().map(|(_, order)| order).collect::<Vec<_>>();
    eventually("all are handled", SOON * 2, async || {
        let ids: BTreeSet<u64> = by_active().iter().chain(&handled.items()).map(|order| order.id).collect();
        (ids.len() as u64 == LAST).then_some(())
    })
    .await;
    check_order(&handled.items(), handled.items().iter().map(|order| order.id));
    check_order(&by_active(), by_active().iter().map(|order| order.id));
    all_acked(&server).await;
}

#[tokio::test]
async fn replaced_consumer_begins_again_in_order() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    let handled = Recorder::<Order>::default();
    let _subscription = subscribe(&broker, &handled, ms(3)).await;
    publish(&broker, "work.keyed", orders(0..600, 10)).await;
    handled.until_len(100).await;
    let stream = server.jetstream().await.get_stream("WORK").await.unwrap();
    stream.delete_consumer("keyed").await.unwrap();
    handled.until_distinct(600).await;
    check_order(&handled.items(), 0..600);
    // What a stream of the same name stores later is not taken for what has ended.
    let before = handled.len();
    server.jetstream().await.delete_stream("WORK").await.unwrap();
    server.jetstream().await.create_stream(stream_config("WORK", &["work.>"])).await.unwrap();
    publish(&broker, "work.keyed", orders(1000..1100, 10)).await;
    eventually("the new ones are handled", SOON, async || {
        (handled.items()[before..].iter().filter(|order| order.id >= 1000).count() == 100).then_some(())
    })
    .await;
    check_order(&handled.items()[before..], 1000..1100);
    all_acked(&server).await;
}

#[tokio::test]
async fn unreadable_message_delays_no_key() {
    let server = Server::start().await;
    let jetstream = server.jetstream().await;
    jetstream.create_stream(stream_config("WORK", &["work.>"])).await.unwrap();
    jetstream.create_stream(stream_config("DLQ", &["dlq.>"])).await.unwrap();
    let broker = connect(&server).await;
    let mut raw = RawClient::connect(server.address()).await;
    publish(&broker, "work.keyed", orders(1..100, 5)).await;
    raw.publish("work.keyed", b"Customer: Zo\xeb", r#"{"customer": 1, "id": 100}"#).await;
    raw.flush().await;
    publish(&broker, "work.keyed", orders(101..200, 5)).await;
    let handled = Recorder::<Order>::default();
    let begin = Instant::now();
    let _subscription = subscribe(&broker, &handled, ms(1)).await;
    handled.until_distinct(198).await;
    let letters = dead_letters(&broker, 1).await;
    assert!(begin.elapsed() < secs(15), "{:?}", begin.elapsed());
    assert_eq!((letters[0].reason, letters[0].stream_sequence), (Reason::Undecodable, 100));
    check_order(&handled.items(), (1..100).chain(101..200));
    all_acked(&server).await;
}

#[tokio::test]
async fn standby_requests_everything_that_a_lost_instance_had() {
    let server = Server::start().await;
    let proxy = Proxy::start(server.address()).await;
    let (lost, standby) = (connect(&proxy).await, connect(&server).await);
    // It receives everything, because it looks for messages of another key, and ends nothing.
    let stuck = |_: Order| std::future::pending::<()>();
    let stuck = lost.subscribe("work.keyed", "keyed", stuck).key("customer").concurrency(4);
    let _lost = stuck.ack_wait(secs(60)).await.unwrap();
    publish(&standby, "work.keyed", orders(1..601, 3)).await;
    server.ack_pending("WORK", "keyed", 600).await;
    let handled = Recorder::<Order>::default();
    let recorder = handled.clone();
    let handler = move |order: Order| {
        recorder.add(order);
        std::future::ready(())
    };
    let subscribe = standby.subscribe("work.keyed", "keyed", handler).key("customer").ack_wait(secs(60));
    let _standby = subscribe.await.unwrap();
    proxy.refuse();
    proxy.cut();
    let begin = Instant::now();
    handled.until_distinct(600).await;
    assert!(begin.elapsed() < secs(25), "it took {:?}", begin.elapsed());
    check_order(&handled.items(), 1..601);
    all_acked(&server).await;
}

#[tokio::test]
async fn keys_continue_once_dead_letters_can_be_stored() {
    let server = Server::start().await;
    let limit = async |max_bytes| {
        let discard = jetstream_handlers::async_nats::jetstream::stream::DiscardPolicy::New;
        let config = jetstream_handlers::stream::Config { discard, max_bytes, ..stream_config("DLQ", &["dlq.>"]) };
        server.jetstream().await.create_or_update_stream(config).await.unwrap();
    };
    limit(1).await;
    let broker = connect(&server).await;
    let handled = Recorder::<Order>::default();
    let handler = {
        let handled = handled.clone();
        move |order: Order| {
            if order.id >= 8 {
                handled.add(order);
            }
            std::future::ready(if order.id < 8 { HandlerResult::Err("fails".into()) } else { Ok(()) })
        }
    };
    let subscribe = broker.subscribe("work.keyed", "keyed", handler).key("customer").concurrency(4);
    let _subscription = subscribe.max_deliver(1).await.unwrap();
    publish(&broker, "work.keyed", orders(0..32, 16)).await;
    // The first eight customers wait for their dead letters.
    handled.until_distinct(16).await;
    assert!(handled.items().iter().all(|order| order.customer >= 8), "{handled:?}");
    jetstream_handlers_tests::until_health(&broker, "dead letters fail", |health| !health.is_healthy()).await;
    limit(-1).await;
    handled.until_distinct(24).await;
    check_order(&handled.items(), 8..32);
    dead_letters(&broker, 8).await;
    all_acked(&server).await;
}

#[tokio::test]
async fn raised_max_ack_pending_does_not_stop_a_handler_that_lost_its_connection() {
    let server = Server::start().await;
    let proxy = Proxy::start(server.address()).await;
    let (publisher, broker) = (connect(&server).await, connect(&proxy).await);
    let handled = Recorder::<Order>::default();
    let gate = std::sync::Arc::new(tokio::sync::Semaphore::new(0));
    let jetstream = server.jetstream().await;
    jetstream.create_stream(stream_config("WORK", &["work.>"])).await.unwrap();
    let handler = {
        let (handled, gate) = (handled.clone(), gate.clone());
        move |order: Order| {
            let (handled, gate) = (handled.clone(), gate.clone());
            async move {
                if order.customer == 0 {
                    gate.acquire().await.unwrap().forget();
                }
                handled.add(order);
            }
        }
    };
    let subscribe = || broker.subscribe("work.keyed", "keyed", handler.clone()).key("customer").concurrency(4);
    subscribe().await.unwrap().unsubscribe().await.unwrap();
    server.change_consumer("WORK", "keyed", |config| config.max_ack_pending = 50).await;
    let _subscription = subscribe().await.unwrap();
    server.change_consumer("WORK", "keyed", |config| config.max_ack_pending = 500).await;
    publish(&publisher, "work.keyed", orders(0..200, 1)).await;
    server.ack_pending("WORK", "keyed", 200).await;
    for round in 0..4 {
        proxy.pause();
        publish(&publisher, "work.keyed", (200 + round * 10..210 + round * 10).map(|id| Order { customer: 0, id }))
            .await;
        sleep(ms(300)).await;
        proxy.cut();
        proxy.resume();
        sleep(ms(300)).await;
    }
    gate.add_permits(1000);
    handled.until_distinct(240).await;
    check_order(&handled.items(), 0..240);
    all_acked(&server).await;
}

/// The calls of a handler, of which no two with the same key may run at the same time.
#[derive(Clone, Default)]
struct Running {
    /// The message of each customer whose call runs.
    calls: std::sync::Arc<std::sync::Mutex<BTreeMap<u64, u64>>>,
    /// The pairs of messages with the same key whose calls ran at the same time.
    together: Recorder<(u64, u64)>,
}

impl Running {
    fn begin(&self, order: Order) {
        if let Some(other) = self.calls.lock().unwrap().insert(order.customer, order.id) {
            self.together.add((other, order.id));
        }
    }

    fn end(&self, order: Order) {
        let mut calls = self.calls.lock().unwrap();
        if calls.get(&order.customer) == Some(&order.id) {
            calls.remove(&order.customer);
        }
    }

    fn together(&self) -> Vec<(u64, u64)> {
        self.together.items()
    }
}

#[tokio::test]
async fn call_that_exceeds_its_timeout_ends_before_the_next_one_of_its_key() {
    for max_deliver in [1, 2] {
        let server = Server::start().await;
        let broker = connect(&server).await;
        let (handled, running) = (Recorder::<Order>::default(), Running::default());
        let handler = {
            let (handled, running) = (handled.clone(), running.clone());
            move |order: Order| {
                let (handled, running) = (handled.clone(), running.clone());
                async move {
                    running.begin(order);
                    if order.id == 0 {
                        std::thread::sleep(ms(1000));
                    }
                    running.end(order);
                    handled.add(order);
                }
            }
        };
        let subscribe = broker.subscribe("work.keyed", "keyed", handler).key("customer").blocking().concurrency(4);
        let _subscription = subscribe.timeout(ms(200)).max_deliver(max_deliver).backoff(&[ms(50)]).await.unwrap();
        publish(&broker, "work.keyed", orders(0..6, 2)).await;
        handled.until(Order { customer: 0, id: 4 }).await;
        assert_eq!(running.together(), [], "max_deliver {max_deliver}");
        all_acked(&server).await;
        assert_eq!(handled.count(Order { customer: 0, id: 0 }), max_deliver as usize);
    }
}

#[tokio::test]
async fn replaced_consumer_does_not_repeat_a_message_beside_its_call() {
    let server = Server::start().await;
    let broker = connect(&server).await;
    let (handled, running) = (Recorder::<Order>::default(), Running::default());
    let begun = Recorder::<u64>::default();
    let handler = {
        let (handled, running, begun) = (handled.clone(), running.clone(), begun.clone());
        move |order: Order| {
            let (handled, running, begun) = (handled.clone(), running.clone(), begun.clone());
            async move {
                begun.add(order.id);
                running.begin(order);
                let is_slow = order.id == 20 && begun.count(20) == 1;
                sleep(ms(if is_slow { 3000 } else { 5 })).await;
                running.end(order);
                handled.add(order);
            }
        }
    };
    let subscribe = broker.subscribe("work.keyed", "keyed", handler).key("customer").concurrency(8);
    let _subscription = subscribe.await.unwrap();
    publish(&broker, "work.keyed", orders(0..40, 4)).await;
    begun.until(20).await;
    handled.until(Order { customer: 3, id: 39 }).await;
    let stream = server.jetstream().await.get_stream("WORK").await.unwrap();
    stream.delete_consumer("keyed").await.unwrap();
    handled.until_distinct(40).await;
    assert_eq!(running.together(), [], "begun: {begun:?}");
    check_order(&handled.items(), 0..40);
    all_acked(&server).await;
}

#[tokio::test]
async fn kills_and_stops_keep_the_order_of_keys_with_many_messages() {
    const LAST: u64 = 6000;
    let server = Server::start().await;
    let url = server.url();
    let start = || Program::start(env!("CARGO_BIN_EXE_keyed_worker"), &[], &[("NATS_URL", &url)]);
    let broker = connect(&server).await;
    server.jetstream().await.create_stream(stream_config("WORK", &["work.>"])).await.unwrap();
    publish(&broker, "work.keyed", orders(0..LAST, 3)).await;
    let mut programs = vec![start()];
    programs[0].until("started").await;
    programs.push(start());
    let mut killed = Vec::new();
    for kill_at in [500, 1500, 3000] {
        until_handled(&programs, &killed, kill_at).await;
        let last = |program: &Program| handled_by(program).last().map(|(at, _)| *at);
        let active = (0..programs.len()).max_by_key(|index| last(&programs[*index])).unwrap();
        let mut program = programs.remove(active);
        program.signal("KILL");
        program.ended().await;
        killed.push(program);
        programs.push(start());
    }
    until_handled(&programs, &killed, LAST as usize).await;
    let mut handled: Vec<_> = programs.iter().chain(&killed).flat_map(handled_by).collect();
    handled.sort_unstable();
    let handled: Vec<_> = handled.into_iter().map(|(_, order)| order).collect();
    check_order(&handled, 0..LAST);
    assert!(handled.len() as u64 <= LAST + 100, "only what was in flight is handled again: {}", handled.len());
    all_acked(&server).await;
}

#[tokio::test]
async fn stops_and_lost_connections_keep_the_order_of_keys_with_many_messages() {
    const LAST: u64 = 4000;
    let server = Server::start().await;
    let proxy = Proxy::start(server.address()).await;
    let (publisher, broker) = (connect(&server).await, connect(&proxy).await);
    let handled = Recorder::<Order>::default();
    let mut subscription = subscribe(&broker, &handled, ms(1)).await;
    publish(&publisher, "work.keyed", orders(0..LAST, 3)).await;
    for at in [300, 900, 1500, 2400] {
        handled.until_distinct(at).await;
        proxy.cut();
        handled.until_distinct(at + 100).await;
        subscription.unsubscribe().await.unwrap();
        subscription = subscribe(&broker, &handled, ms(1)).await;
        proxy.cut();
    }
    handled.until_distinct(LAST as usize).await;
    check_order(&handled.items(), 0..LAST);
    println!("{} handled again", handled.len() as u64 - LAST);
    all_acked(&server).await;
}
